/* tests/sim/test_gpus.c -- trainers with a GPU each, whose gradients NCCL sums: jobs of several ranks over the emulated GPU and its NCCL.
 *
 * What the ring does for trainers on CPUs NCCL does for these: the same losses but for rounding, the same weights at all ranks, in every mode, and
 * whatever links and ranks do. What NCCL does not do is mend itself: a group that lost a rank gets new communicators. TEST_GPUS_RUNS=N asks for
 * so many seeds of each. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/sim/group_jobs.h"
#include "tests/sim/job_world.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "trainer/state.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { RANKS = 3 };

static unsigned runs(unsigned wanted)
{
    return seeds_wanted("TEST_GPUS_RUNS", wanted);
}

static void start(struct job_world *w, struct rt_job *job, uint64_t seed, bool gpu)
{
    jw_start(w, &(struct jw_conf){.seed = seed, .ranks = RANKS, .job = job, .gpu = gpu});
}

static void check_name(const struct job_world *w, const char *name)
{
    for (unsigned r = 0; r < w->conf.ranks; r++)
        assert_string_equal(w->rank[r].trainer->collective->ops->name, name);
}

static void finish(struct job_world *w)
{
    if (!sim_run_until(w->sim, jw_is_over, w, 900 * RT_S))
        fail_msg("seed %llu: the job does not end", (unsigned long long)w->conf.seed);
    if (w->failed)
        fail_msg("seed %llu: %s", (unsigned long long)w->conf.seed, w->failed_text);
}

static void test_learns(void **state)
{
    struct rt_job *job[GJ_MODES];
    static struct job_world w;
    (void)state;
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(6); seed++) {
        struct tr_report r[2];
        for (unsigned gpu = 0; gpu < 2; gpu++) {
            start(&w, job[seed % GJ_MODES], seed, gpu);
            check_name(&w, gpu ? "nccl" : "ring");
            finish(&w);
            r[gpu] = jw_report(&w);
            gj_check_weights(&w);
            gj_check_accounts(&w, 2);
            jw_stop(&w);
        }
        if (fabs(r[0].train_loss - r[1].train_loss) > 5e-3 ||
            fabs(r[0].test_logloss - r[1].test_logloss) > 1e-2)
            fail_msg("seed %llu, %s: loss %.6f, %.6f, on CPUs %.6f, %.6f", (unsigned long long)seed,
                     gj_mode[seed % GJ_MODES], r[1].train_loss, r[1].test_logloss, r[0].train_loss,
                     r[0].test_logloss);
    }
    gj_destroy(job);
}

/* Links break and ranks die, loudly and not, one at a time; the job goes on, and all ranks have the same weights. */
static void test_deaths(void **state)
{
    struct rt_job *job[GJ_MODES];
    static struct job_world w;
    (void)state;
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + runs(20); seed++) {
        uint64_t key = rt_draw_key(seed, "deaths", NULL);
        start(&w, job[seed % GJ_MODES], seed, true);
        for (unsigned i = 0; i < 3 && !jw_is_over(&w); i++) {
            unsigned rank = (unsigned)rt_below(rt_draw(key, 4 * i), RANKS);
            sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 4 * i + 1), 8 * RT_MS));
            if (jw_is_over(&w))
                break;
            if (rt_draw(key, 4 * i + 2) % 4 == 0) {
                sim_break(w.sim, jw_node_rank(&w, rank), jw_node_rank(&w, (rank + 1) % RANKS));
                continue;
            }
            jw_kill_rank(&w, rank, rt_draw(key, 4 * i + 3) & 1);
            sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 4 * i + 3), 10 * RT_S));
            jw_revive_rank(&w, rank);
            sim_run_until(w.sim, jw_is_over, &w, 20 * RT_S);
        }
        finish(&w);
        check_name(&w, "nccl");
        gj_check_weights(&w);
        jw_stop(&w);
    }
    gj_destroy(job);
}

/* One of them has no NCCL: whichever it is, all end, and somebody says why. */
static void test_mixed(void **state)
{
    struct rt_job *job[GJ_MODES];
    static struct job_world w;
    (void)state;
    gj_make(job);
    for (unsigned other = 0; other < RANKS; other++) {
        jw_start(
            &w, &(struct jw_conf){
                    .seed = 1, .ranks = RANKS, .job = job[0], .gpu = true, .no_nccl = 1u << other});
        sim_run_until(w.sim, jw_is_over, &w, 20 * RT_S);
        assert_int_equal(w.failed, RT_EUSAGE);
        if (!strstr(w.failed_text, "expected a GPU for all trainers, or "
                                   "global.trainer.collective=ring"))
            fail_msg("rank %u has none: %s", other, w.failed_text);
        jw_stop(&w);
    }
    gj_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_learns),
        cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_mixed),
    };
    return cmocka_run_group_tests_name("gpus", tests, NULL, NULL);
}
