/* tests/sim/test_agree.c -- a bit of one rank's dense weights changes: the job ends with an error that names it, at the next
 * comparison or before the next checkpoint, whichever comes first; and where none changes, nothing is ever said. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/sim/owner_stub.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"

#include <inttypes.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { EVERY = 4, STUBS = 2 };

static unsigned runs(unsigned wanted)
{
    return seeds_wanted("TEST_AGREE_RUNS", wanted);
}

struct reach {
    const struct job_world *world;
    uint64_t step;
};

static bool has_reached(void *arg)
{
    const struct reach *reach = arg;
    return jw_is_over((void *)(uintptr_t)reach->world) ||
           reach->world->rank[0].trainer->step >= reach->step;
}

/* A bit that no rounding of the next update can take back: of the upper half of the mantissa, in a weight that is not tiny. */
static void flip(struct tr_trainer *trainer, uint64_t key)
{
    size_t n = tr_model_count(trainer->model), i = rt_below(rt_draw(key, 1), n);
    float *weight = tr_model_params(trainer->model);
    uint32_t bits;
    while (fabsf(weight[i]) < 1e-2f)
        i = (i + 1) % n;
    memcpy(&bits, &weight[i], sizeof bits);
    bits ^= 1u << (12 + rt_below(rt_draw(key, 2), 11));
    memcpy(&weight[i], &bits, sizeof bits);
}

static void check_text(const struct job_world *w, unsigned odd)
{
    const char *text = w->rank[0].trainer->agree.text;
    char want[48];
    unsigned ranks = w->conf.ranks;
    if (ranks == 2) /* who is right is not known: the other than rank 0 is named */
        snprintf(want, sizeof want, "trainer/1 has digest ");
    else
        snprintf(want, sizeof want, "trainer/%u has digest ", odd);
    if (w->failed != RT_EDATA || !strstr(text, want) ||
        !strstr(text, ranks == 2 ? "no digest is that of most" : "trainers have "))
        fail_msg("seed %llu: %d, \"%s\"", (unsigned long long)w->conf.seed, w->failed, text);
}

/* All end, and rank 0 waits for nobody who knows. Their text is the same, and what the process says. */
static void check_ends(struct job_world *w)
{
    char begins[120];
    sim_run_until(w->sim, NULL, NULL, TR_AGREE_LEAVE_NS / 2);
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        const struct tr_agree *agree = &w->rank[r].trainer->agree;
        assert_true(agree->differs);
        assert_int_equal(w->rank[r].failed, RT_EDATA);
        assert_string_equal(agree->text, w->rank[0].trainer->agree.text);
    }
    snprintf(begins, sizeof begins, "%.119s", w->rank[0].trainer->agree.text);
    assert_non_null(strstr(w->failed_text, begins));
}

static void flip_one(uint64_t seed, struct rt_job *job)
{
    struct job_world w;
    struct jw_conf conf = {.seed = seed,
                           .ranks = 2 + (unsigned)seed % 3,
                           .composers = 1 + (unsigned)(seed / 3) % 2,
                           .job = job};
    uint64_t key = rt_draw_key(seed, "flip", NULL);
    struct reach reach = {&w, 1 + rt_below(rt_draw(key, 3), 12)};
    unsigned odd = (unsigned)rt_below(rt_draw(key, 4), conf.ranks);
    jw_start(&w, &conf);
    assert_true(sim_run_until(w.sim, has_reached, &reach, 60 * RT_S));
    sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 5), 5 * RT_MS));
    assert_false(jw_is_over(&w));
    uint64_t step = w.rank[odd].trainer->step;
    flip(w.rank[odd].trainer, key);
    jw_break_links(&w, seed % 2 ? 0 : 5, true);
    assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * RT_S));
    check_text(&w, odd);
    if (w.rank[0].trainer->step > step + EVERY + 2)
        fail_msg("seed %llu: flipped at step %" PRIu64 ", found at %" PRIu64,
                 (unsigned long long)seed, step, w.rank[0].trainer->step);
    check_ends(&w);
    jw_stop(&w);
}

static void test_flip(void **state)
{
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full"};
    struct rt_job *job[2];
    (void)state;
    for (int m = 0; m < 2; m++) {
        const char *set[] = {"data.epochs=4", "data.test=[]", mode[m],
                             "global.guard.digest_every=4"};
        job[m] = job_fixture(set, ARRAY_LEN(set));
    }
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(60); seed++)
        flip_one(seed, job[seed / 2 % 2]);
    job_fixture_destroy(job[0]);
    job_fixture_destroy(job[1]);
}

/* ---- who has not heard ---- */

static bool is_known(void *arg)
{
    const struct job_world *w = arg;
    return w->rank[0].trainer->agree.differs;
}

static bool somebody_ended(void *arg)
{
    const struct job_world *w = arg;
    bool ended = false;
    for (unsigned r = 0; r < w->conf.ranks; r++)
        ended = ended || w->rank[r].failed;
    return ended;
}

/* Whoever has ended is started again at once, as whoever keeps it up does. @return: is one of those left that were there first? */
static bool keep_up(struct job_world *w)
{
    bool old = false;
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        if (w->rank[r].failed) {
            assert_int_equal(w->rank[r].failed, RT_EDATA);
            jw_kill_rank(w, r, false);
            jw_revive_rank(w, r);
        }
        old = old || w->rank[r].restarts == 0;
    }
    w->failed = 0;
    return old;
}

/* The rank is there, and no other reaches it; what it was told just now is lost. */
static void cut_off(struct job_world *w, unsigned rank, bool cut)
{
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        if (r == rank)
            continue;
        if (cut)
            sim_break(w->sim, jw_node_rank(w, r), jw_node_rank(w, rank));
        sim_cut(w->sim, jw_node_rank(w, r), jw_node_rank(w, rank), cut);
    }
}

/* No rank that was started anew has weights that made a step while there are some that differ. */
static void check_anew(const struct job_world *w)
{
    for (unsigned r = 0; r < w->conf.ranks; r++)
        if (w->rank[r].restarts > 0 && w->rank[r].trainer->step > 0)
            fail_msg("seed %llu: rank %u, started anew, is at step %llu",
                     (unsigned long long)w->conf.seed, r,
                     (unsigned long long)w->rank[r].trainer->step);
}

/* A rank that was cut off when the others learnt that weights differ, for less or more than any limit, gives its own to nobody. */
static void cut_one_off(uint64_t seed, struct rt_job *job)
{
    struct job_world w;
    struct jw_conf conf = {.seed = seed, .ranks = 2 + (unsigned)seed % 3, .job = job};
    uint64_t key = rt_draw_key(seed, "cut", NULL);
    struct reach reach = {&w, 1 + rt_below(rt_draw(key, 1), 12)};
    unsigned away = 1 + (unsigned)rt_below(rt_draw(key, 2), conf.ranks - 1);
    jw_start(&w, &conf);
    assert_true(sim_run_until(w.sim, has_reached, &reach, 60 * RT_S));
    flip(w.rank[rt_below(rt_draw(key, 3), conf.ranks)].trainer, key);
    assert_true(sim_run_until(w.sim, is_known, &w, 60 * RT_S));
    cut_off(&w, away, true);
    uint64_t heals_ns = sim_now(w.sim) + rt_below(rt_draw(key, 4), 4 * TR_AGREE_LEAVE_NS);
    while (sim_now(w.sim) < heals_ns) {
        sim_run_until(w.sim, somebody_ended, &w, 50 * RT_MS);
        assert_int_equal(w.rank[0].failed, 0);
        assert_true(keep_up(&w));
        check_anew(&w);
    }
    cut_off(&w, away, false);
    do {
        if (!sim_run_until(w.sim, somebody_ended, &w, 60 * RT_S))
            fail_msg("seed %llu: not all have ended", (unsigned long long)seed);
        check_anew(&w);
    } while (keep_up(&w));
    jw_run(&w);
    jw_stop(&w);
}

static void test_cut_off(void **state)
{
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full"};
    (void)state;
    for (int m = 0; m < 2; m++) {
        const char *set[] = {"data.epochs=4", "data.test=[]", mode[m],
                             "global.guard.digest_every=4"};
        struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
        for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(30); seed++)
            cut_one_off(seed, job);
        job_fixture_destroy(job);
    }
}

/* ---- before a checkpoint ---- */

/* The newest checkpoint's step; 0: there is none. */
static uint64_t newest(const struct stubs *stubs)
{
    struct rt_store_list list;
    assert_int_equal(rt_store_list(stubs->dir, &list), 0);
    uint64_t step = list.n > 0 ? list.at[0].manifest->step : 0;
    rt_store_list_release(&list);
    return step;
}

/* Weights are compared before a cut, though no step is due for it: none is made of what has changed. */
static void test_no_checkpoint_of_it(void **state)
{
    static const char *const set[] = {"data.epochs=4", "global.checkpoint.every_steps=5",
                                      "global.guard.digest_every=1000000"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(30); seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 2 + (unsigned)seed % 2, .job = job};
        struct reach reach = {&w, 7 + seed % 5};
        unsigned odd = (unsigned)seed % conf.ranks;
        stubs_start(&stubs, &w, &conf, STUBS);
        assert_true(sim_run_until(w.sim, has_reached, &reach, 60 * RT_S));
        assert_false(jw_is_over(&w));
        uint64_t step = w.rank[odd].trainer->step;
        flip(w.rank[odd].trainer, rt_draw_key(seed, "flip", NULL));
        assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * RT_S));
        check_text(&w, odd);
        check_ends(&w);
        if (newest(&stubs) > step)
            fail_msg("seed %llu: flipped at step %" PRIu64 ", a checkpoint of step %" PRIu64,
                     (unsigned long long)seed, step, newest(&stubs));
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

struct rest {
    struct job_world *w;
    bool beside[JW_MAX]; /* by rank: the step thread was seen to read the weights */
    bool made[JW_MAX];   /* their digest is known */
};

static bool watch_rest(void *arg)
{
    struct rest *rest = arg;
    bool all = true;
    for (unsigned r = 0; r < rest->w->conf.ranks; r++) {
        const struct tr_trainer *trainer = rest->w->rank[r].trainer;
        bool makes = trainer->step_open && trainer->step_kind == TR_READ;
        rest->beside[r] = rest->beside[r] || makes;
        rest->made[r] = trainer->agree.digested == trainer->step + 1;
        all = all && rest->made[r];
    }
    return all || jw_is_over(rest->w);
}

/* The digest of all weights takes long: it is made by the step thread, and what the loop says next has it. */
static void test_made_beside(void **state)
{
    static const char *const set[] = {"data.epochs=4", "global.checkpoint.every_steps=5",
                                      "global.guard.digest_every=1000000"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(10); seed++) {
        struct job_world w;
        struct stubs stubs;
        struct rest rest = {.w = &w};
        struct jw_conf conf = {.seed = seed, .ranks = 2 + (unsigned)seed % 2, .job = job};
        stubs_start(&stubs, &w, &conf, STUBS);
        assert_true(sim_run_until(w.sim, watch_rest, &rest, 60 * RT_S));
        for (unsigned r = 0; r < conf.ranks; r++)
            assert_true(rest.made[r] && rest.beside[r]);
        jw_run(&w);
        assert_true(w.rank[0].trainer->checkpoint.published > 0);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- nothing has changed ---- */

/* Whatever dies and breaks, nobody differs; and every checkpoint was made of weights that were compared. */
static void test_no_flip(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_steps=5",
                                      "global.guard.digest_every=2"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(40); seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 2 + (unsigned)seed % 2, .job = job};
        stubs_start(&stubs, &w, &conf, STUBS);
        jw_break_links(&w, seed % 2 ? 0 : 20, true);
        if (seed % 3 == 0 && !jw_is_over(&w))
            jw_restart_rank(&w, 1);
        jw_run(&w);
        for (unsigned r = 0; r < conf.ranks; r++)
            assert_true(!w.rank[r].trainer->agree.differs && w.rank[r].trainer->agree.agreed > 0);
        assert_true(w.rank[0].trainer->checkpoint.published > 0);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* In mode `async` weights differ between averages, and nobody looks. */
static void test_async(void **state)
{
    static const char *const set[] = {"data.epochs=2", "data.test=[]", "global.mode=async",
                                      "global.sync_every=3", "global.guard.digest_every=2"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct jw_conf conf = {.seed = 5, .ranks = 3, .job = job};
    (void)state;
    jw_start(&w, &conf);
    jw_run(&w);
    for (unsigned r = 0; r < 3; r++)
        assert_int_equal(w.rank[r].trainer->agree.digested, 0);
    jw_stop(&w);
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flip),
        cmocka_unit_test(test_cut_off),
        cmocka_unit_test(test_no_checkpoint_of_it),
        cmocka_unit_test(test_made_beside),
        cmocka_unit_test(test_no_flip),
        cmocka_unit_test(test_async),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
