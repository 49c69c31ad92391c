/* tests/sim/test_alarm.c -- a rank whose loss stands above what is usual: checkpoints that are made meanwhile say so, whichever rank it
 * is, and others do not; and no bit of the training depends on it. */
#include "tests/lib/job_fixture.h"
#include "tests/sim/owner_stub.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { STUBS = 2 };

static const char *const set[] = {"data.epochs=20",
                                  "data.test=[]",
                                  "global.checkpoint.every_steps=4",
                                  "global.checkpoint.keep=100",
                                  "global.guard.spike_warmup=4",
                                  "global.guard.spike_window=2",
                                  "global.guard.spike_history=1000"};

struct goal {
    const struct job_world *world;
    uint64_t published;
    unsigned rank;
};

static bool has_published(void *arg)
{
    const struct goal *goal = arg;
    return jw_is_over((void *)(uintptr_t)goal->world) ||
           goal->world->rank[0].trainer->checkpoint.published >= goal->published;
}

static bool stands(void *arg)
{
    const struct goal *goal = arg;
    return jw_is_over((void *)(uintptr_t)goal->world) ||
           tr_alarm_stands(&goal->world->rank[goal->rank].trainer->alarm);
}

static bool is_over(void *arg)
{
    const struct goal *goal = arg;
    return jw_is_over((void *)(uintptr_t)goal->world) ||
           !tr_alarm_stands(&goal->world->rank[goal->rank].trainer->alarm);
}

/* What was usual becomes so low that every loss is above it, or as it was. */
static void shift(struct tr_trainer *trainer, double by)
{
    trainer->alarm.loss.mean += by;
}

static bool newest_is_suspect(const struct stubs *stubs)
{
    struct rt_store_list list;
    assert_int_equal(rt_store_list(stubs->dir, &list), 0);
    assert_true(list.n > 0);
    bool suspect = list.at[0].manifest->suspect;
    rt_store_list_release(&list);
    return suspect;
}

static void publish_more(struct job_world *w, unsigned n)
{
    struct goal goal = {.world = w, .published = w->rank[0].trainer->checkpoint.published + n};
    assert_true(sim_run_until(w->sim, has_published, &goal, 60 * RT_S));
    assert_false(jw_is_over(w));
}

static void test_suspect(void **state)
{
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 1 + (unsigned)seed % 3, .job = job};
        unsigned rank = (unsigned)(seed / 3) % conf.ranks;
        struct goal goal = {.world = &w, .rank = rank};
        stubs_start(&stubs, &w, &conf, STUBS);
        publish_more(&w, 1);
        assert_false(newest_is_suspect(&stubs));
        struct tr_trainer *trainer = w.rank[rank].trainer;
        assert_int_equal(trainer->alarm.begun, 0);
        shift(trainer, -1000);
        assert_true(sim_run_until(w.sim, stands, &goal, 60 * RT_S));
        assert_int_equal(trainer->alarm.begun, 1);
        assert_int_equal(trainer->metric.loss_spike, 1);
        publish_more(&w, 2); /* one may have been cut before */
        assert_true(newest_is_suspect(&stubs));
        assert_true(w.rank[0].trainer->checkpoint.before[0].suspect ||
                    w.rank[0].trainer->checkpoint.now.suspect);
        shift(trainer, 1000);
        assert_true(sim_run_until(w.sim, is_over, &goal, 60 * RT_S));
        publish_more(&w, 2);
        assert_false(newest_is_suspect(&stubs));
        assert_int_equal(trainer->alarm.begun, 1);
        assert_int_equal(trainer->metric.loss_spikes, 1);
        assert_int_equal(trainer->metric.loss_spike, 0);
        jw_run(&w);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* The same bits with it and without. */
static void test_no_bit_depends_on_it(void **state)
{
    uint64_t digest[2];
    (void)state;
    for (int off = 0; off < 2; off++) {
        const char *exact[] = {"data.epochs=2",
                               "data.test=[]",
                               "global.mode=full",
                               "global.exact=true",
                               "global.guard.spike_warmup=0",
                               "global.guard.spike_window=1",
                               off ? "global.guard.spike_deviations=0"
                                   : "global.guard.spike_deviations=0.001",
                               off ? "global.guard.digest_every=0" : "global.guard.digest_every=2"};
        struct job_world w;
        struct jw_conf conf = {.seed = 3, .ranks = 2, .set = exact, .n_set = ARRAY_LEN(exact)};
        jw_start(&w, &conf);
        jw_run(&w);
        digest[off] = tr_trainer_digest(w.rank[0].trainer);
        jw_stop(&w);
    }
    assert_true(digest[0] == digest[1]);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_suspect),
        cmocka_unit_test(test_no_bit_depends_on_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
