/* tests/sim/test_beside.c -- ranks that compute on a GPU, the emulated one: inputs of the next batch and gradients of the last one are copied while
 * a batch is computed. Whatever breaks or dies meanwhile, each row is trained once, with what it brought and what came of it: the
 * job learns what it learns on the CPU. TEST_BESIDE_RUNS=N asks for so many seeds of each. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/sim/group_jobs.h"
#include "tests/sim/job_world.h"

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "trainer/state.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

static unsigned runs(unsigned wanted)
{
    return seeds_wanted("TEST_BESIDE_RUNS", wanted);
}

/* A run, and how often it was seen at what. */
struct run {
    struct job_world w;
    unsigned staged, landing;
};

static bool watch(void *arg)
{
    struct run *run = arg;
    for (unsigned r = 0; r < run->w.conf.ranks; r++) {
        const struct tr_trainer *trainer = run->w.rank[r].trainer;
        const struct tr_batch *batch = trainer ? trainer->stepping : NULL;
        if (!trainer)
            continue;
        run->staged += trainer->computing && batch->view.staged != 0;
        run->landing += trainer->beside.gradients != NULL;
    }
    return jw_is_over(&run->w);
}

static void start(struct run *run, struct rt_job *job, uint64_t seed, unsigned ranks, bool gpu)
{
    struct jw_conf conf = {.seed = seed, .ranks = ranks, .job = job, .gpu = gpu};
    conf.no_nccl = seed % 2 ? ~0u : 0; /* the ring then */
    run->staged = run->landing = 0;
    jw_start(&run->w, &conf);
}

static void finish(struct run *run)
{
    if (!sim_run_until(run->w.sim, watch, run, 600 * RT_S))
        fail_msg("seed %llu: the job does not end", (unsigned long long)run->w.conf.seed);
    if (run->w.failed)
        fail_msg("seed %llu: %s", (unsigned long long)run->w.conf.seed, run->w.failed_text);
}

/* One rank, undisturbed, with evaluations: the loss and the AUC are the CPU's, but for the order in which what arrives. */
static void test_learns(void **state)
{
    const char *set[] = {GJ_EPOCHS, "global.mode=hybrid", "global.staleness=4",
                         "data.batch_size=8"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    static struct run run;
    unsigned staged = 0, landing = 0;
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(10); seed++) {
        struct tr_report r[2];
        for (unsigned gpu = 0; gpu < 2; gpu++) {
            start(&run, job, seed, 1, gpu);
            finish(&run);
            tr_trainer_report(run.w.rank[0].trainer, &r[gpu]);
            assert_int_equal(r[gpu].samples_trained, 2 * JW_TRAIN_ROWS);
            if (gpu) {
                staged += run.staged;
                landing += run.landing;
            } else {
                assert_int_equal(run.staged + run.landing, 0);
            }
            jw_stop(&run.w);
        }
        if (fabs(r[0].train_loss - r[1].train_loss) > 2e-3 ||
            fabs(r[0].test_logloss - r[1].test_logloss) > 4e-3)
            fail_msg("seed %llu: loss %.6f, %.6f, on the CPU %.6f, %.6f", (unsigned long long)seed,
                     r[1].train_loss, r[1].test_logloss, r[0].train_loss, r[0].test_logloss);
    }
    job_fixture_destroy(job);
    assert_true(staged > 0 && landing > 0);
}

/* All that a trainer hears of and waits for may end in any moment. */
static void disturb(struct run *run)
{
    uint64_t key = rt_draw_key(run->w.conf.seed, "disturb", NULL);
    for (unsigned i = 0; i < 6 && !jw_is_over(&run->w); i++) {
        unsigned rank = (unsigned)rt_below(rt_draw(key, 3 * i), run->w.conf.ranks);
        sim_run_until(run->w.sim, watch, run, rt_below(rt_draw(key, 3 * i + 1), 4 * RT_MS));
        if (jw_is_over(&run->w))
            return;
        switch (rt_below(rt_draw(key, 3 * i + 2), 4)) {
        case 0:
            jw_restart_middleware(&run->w, 0);
            break;
        case 1:
            jw_restart_rank(&run->w, rank);
            break;
        case 2:
            jw_restart_composer(&run->w, 0);
            break;
        default:
            sim_break(run->w.sim, jw_node_rank(&run->w, rank), jw_node_middleware(&run->w, 0));
        }
    }
}

/* What dies with a rank is what it counted: where none died, every row was trained once in each epoch. */
static void check_end(const struct run *run)
{
    struct tr_report r = jw_report(&run->w);
    bool died = false;
    for (unsigned i = 0; i < run->w.conf.ranks; i++)
        died = died || run->w.rank[i].restarts > 0;
    if (!died)
        gj_check_accounts(&run->w, 2);
    gj_check_weights(&run->w);
    assert_int_equal(r.samples_dropped, 0);
    assert_int_equal(r.permits_used, 0);
}

/* Of two ranks one that lives has the weights: with one alone its death would end the job. */
static void test_disturbed(void **state)
{
    struct rt_job *job[GJ_MODES];
    static struct run run;
    unsigned staged = 0, landing = 0;
    (void)state;
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(30); seed++) {
        start(&run, job[seed % GJ_MODES], seed, 2, true);
        disturb(&run);
        finish(&run);
        check_end(&run);
        staged += run.staged;
        landing += run.landing;
        jw_stop(&run.w);
    }
    gj_destroy(job);
    assert_true(staged > 0 && landing > 0);
}

static bool is_landing(void *arg)
{
    struct run *run = arg;
    return run->w.rank[0].trainer->beside.gradients != NULL || jw_is_over(&run->w);
}

/* The other rank dies and does not come again for long: what is on its way comes all the same. */
static void test_alone(void **state)
{
    struct rt_job *job[GJ_MODES];
    static struct run run;
    unsigned held = 0;
    (void)state;
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(30); seed++) {
        uint64_t key = rt_draw_key(seed, "alone", NULL);
        start(&run, job[seed % GJ_MODES], seed, 2, true);
        sim_run_until(run.w.sim, watch, &run, rt_below(rt_draw(key, 0), 20 * RT_MS));
        sim_run_until(run.w.sim, is_landing, &run, RT_S);
        if (!jw_is_over(&run.w)) {
            const struct tr_trainer *left = run.w.rank[0].trainer;
            held += left->beside.gradients != NULL;
            jw_kill_rank(&run.w, 1, rt_draw(key, 1) & 1);
            sim_run_until(run.w.sim, watch, &run, 40 * RT_S);
            assert_null(left->beside.gradients);
            jw_revive_rank(&run.w, 1);
        }
        finish(&run);
        check_end(&run);
        jw_stop(&run.w);
    }
    gj_destroy(job);
    assert_true(held > 0);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_disturbed),
        cmocka_unit_test(test_alone),
    };
    return cmocka_run_group_tests_name("beside", tests, NULL, NULL);
}
