/* tests/sim/test_group_restart.c -- ranks, data-composes and the embedding server of a job die and come back, in one thread. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/sim/group_jobs.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Ranks die and come back with nothing: the group forms again, the weights are the most advanced rank's, and
 * every row is trained once. What a rank counted dies with it, so the ledger is asked: rank 0's, or another's
 * where rank 0 is the one that died. */
static void restart(struct rt_job *job, unsigned ranks, uint64_t seed)
{
    struct job_world w;
    struct jw_conf conf = {
        .seed = seed, .ranks = ranks, .composers = 1 + (unsigned)(seed / 36) % 2, .job = job};
    uint64_t key = rt_draw_key(seed, "restart", NULL);
    jw_start(&w, &conf);
    for (unsigned i = 0; i < 1 + seed % 3 && !jw_is_over(&w); i++) {
        unsigned rank = (unsigned)rt_below(rt_draw(key, 2 * i), ranks);
        sim_run_until(w.sim, jw_is_over, &w, RT_MS + rt_below(rt_draw(key, 2 * i + 1), 60 * RT_MS));
        if (!jw_is_over(&w))
            jw_restart_rank(&w, rank);
    }
    jw_run(&w);
    uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
    for (unsigned r = 0; r < ranks; r++) {
        struct tr_report report;
        tr_trainer_report(w.rank[r].trainer, &report);
        assert_int_equal(report.permits_used, 0);
        if (tr_trainer_digest(w.rank[r].trainer) != digest)
            fail_msg("%s, seed %llu: rank %u has other weights than rank 0",
                     gj_mode[seed % GJ_MODES], (unsigned long long)seed, r);
    }
    jw_stop(&w);
}

static void test_restart(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(90); seed++)
        restart(job[seed % GJ_MODES], 2 + (unsigned)(seed / 3) % 3, seed);
    gj_destroy(job);
}

/* Composers die and come back with nothing, all of them at once or one: every row is trained once. With evaluations in
 * between, and at moments when the ledger has only a part of what was stepped. */
static void test_restart_composers(void **state)
{
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(60); seed++) {
        const char *set[] = {GJ_EPOCHS,
                             gj_mode[seed % GJ_MODES],
                             "global.sync_every=3",
                             seed % 2 ? "data.window=1" : "data.window=3",
                             seed % 5 ? "data.splits=3" : "data.splits=6",
                             seed / 3 % 2 ? "global.evaluate_every=0" : "global.evaluate_every=4"};
        struct job_world w;
        struct jw_conf conf = {.seed = seed,
                               .ranks = 1 + (unsigned)(seed / 3) % 4,
                               .composers = 1 + (unsigned)(seed / 7) % 3,
                               .set = set,
                               .n_set = ARRAY_LEN(set)};
        uint64_t key = rt_draw_key(seed, "composers", NULL);
        jw_start(&w, &conf);
        for (unsigned i = 0; i < 1 + seed % 4 && !jw_is_over(&w); i++) {
            unsigned one = (unsigned)rt_below(rt_draw(key, 2 * i), conf.composers);
            sim_run_until(w.sim, jw_is_over, &w,
                          RT_MS + rt_below(rt_draw(key, 2 * i + 1), 25 * RT_MS));
            for (unsigned c = 0; c < conf.composers && !jw_is_over(&w); c++)
                if (i % 2 || c == one)
                    jw_restart_composer(&w, c);
        }
        jw_run(&w);
        gj_check_accounts(&w, 2);
        struct tr_report r = jw_report(&w);
        if (r.test_samples != JW_TEST_ROWS || r.samples_read != 2 * JW_TRAIN_ROWS)
            fail_msg("seed %llu: %llu rows read, %llu tested", (unsigned long long)seed,
                     (unsigned long long)r.samples_read, (unsigned long long)r.test_samples);
        jw_stop(&w);
    }
}

static void restart_server(struct rt_job *job, uint64_t seed)
{
    struct job_world w;
    struct jw_conf conf = {
        .seed = seed, .ranks = 1 + (unsigned)seed % 2, .middlewares = 2, .job = job};
    uint64_t key = rt_draw_key(seed, "server", NULL);
    jw_start(&w, &conf);
    sim_run_until(w.sim, jw_is_over, &w, RT_MS + rt_below(rt_draw(key, 0), 30 * RT_MS));
    if (!jw_is_over(&w))
        jw_restart_server(&w);
    jw_run(&w);
    gj_check_accounts(&w, 2);
    jw_stop(&w);
}

/* In `full` its owners have seen no step: trainer/0 tells them what is finished, with a checkpoint folder or, as here, without. Seed
 * 1019: of the latest step one rank's gradients were with all owners, and the other's were not; those that came back waited for both. */
static void test_restart_server(void **state)
{
    (void)state;
    const char *set[] = {GJ_EPOCHS, "data.test=[]", "global.mode=full"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(40); seed++)
        restart_server(job, seed);
    restart_server(job, 1019);
    job_fixture_destroy(job);
}

/* ---- of a step, some acks have come and others not ---- */

enum { WORLD = 3, STEP = 2 };

static bool is_applied(void *arg)
{
    const struct job_world *w = arg;
    bool applied = true;
    for (unsigned k = 0; k < w->conf.owners; k++)
        applied = applied && ebs_owner_stats(w->owner[k])->step >= STEP;
    return applied || jw_is_over(arg);
}

static bool is_acked(void *arg)
{
    const struct jw_rank *rank = arg;
    return rank->trainer->acked_step >= STEP;
}

static void cut_others(struct job_world *w, unsigned one, bool cut)
{
    for (unsigned r = 0; r < WORLD; r++)
        if (r != one)
            sim_cut(w->sim, jw_node_rank(w, r), jw_node_middleware(w, 0), cut);
}

/* One rank has heard that its batch is with all owners; then all of those, and who would tell the others, are lost. Owners that come
 * back wait for that batch with theirs, and they cannot go on to a round in which it would be told that it is finished. */
static void lose_acks(struct rt_job *job, unsigned one, uint64_t seed)
{
    struct job_world w;
    struct jw_conf conf = {.seed = seed, .ranks = WORLD, .job = job};
    jw_start(&w, &conf);
    assert_true(sim_run_until(w.sim, is_applied, &w, RT_S));
    cut_others(&w, one, true);
    assert_true(sim_run_until(w.sim, is_acked, &w.rank[one], RT_S));
    for (unsigned r = 0; r < WORLD; r++)
        assert_int_equal(w.rank[r].trainer->acked_step, r == one ? STEP : STEP - 1);
    jw_restart_middleware(&w, 0);
    jw_restart_server(&w);
    cut_others(&w, one, false);
    jw_run(&w);
    gj_check_accounts(&w, 2);
    jw_stop(&w);
}

static void test_lost_acks(void **state)
{
    (void)state;
    const char *set[] = {GJ_EPOCHS, "data.test=[]", "global.mode=full"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(5); seed++)
        for (unsigned one = 0; one < WORLD; one++)
            lose_acks(job, one, seed);
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(getenv("TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_restart_composers),
        cmocka_unit_test(test_restart_server),
        cmocka_unit_test(test_lost_acks),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
