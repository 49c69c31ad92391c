/* tests/sim/test_ends.c -- how a job ends: it is not done before every owner has said what it has lost. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_world.h"

#include "embedding_server/lost.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { EPOCHS = 12 };

static unsigned runs(unsigned wanted)
{
    const char *text = getenv("TEST_ENDS_RUNS");
    return text ? (unsigned)strtoul(text, NULL, 10) : wanted;
}

/* What the owners say they have lost. */
static uint64_t lost(const struct job_world *w)
{
    uint64_t sum = 0;
    for (unsigned k = 0; k < w->conf.owners; k++)
        sum += w->owner[k]->lost ? w->owner[k]->lost->batches : 0;
    return sum;
}

static void check_rows(const struct job_world *w)
{
    struct tr_report r = jw_report(w);
    if (r.samples_trained != JW_TRAIN_ROWS * EPOCHS || r.samples_read != JW_TRAIN_ROWS * EPOCHS)
        fail_msg("seed %llu: %llu rows trained, %llu read, expected %d of each",
                 (unsigned long long)w->conf.seed, (unsigned long long)r.samples_trained,
                 (unsigned long long)r.samples_read, JW_TRAIN_ROWS * EPOCHS);
}

/* ---- the last ledger ---- */

static bool is_acked(const struct tr_trainer *trainer)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&trainer->batches, &cursor, &id, &value))
        if (((const struct tr_batch *)(uintptr_t)value)->state != TR_TELLING)
            return false;
    return true;
}

/* Every owner has all batches, and rank 0 has not heard that of another rank; or it has. */
static bool is_last(void *arg)
{
    const struct job_world *w = arg;
    bool acked = jw_report(arg).samples_trained == JW_TRAIN_ROWS * EPOCHS;
    for (unsigned r = 0; r < w->conf.ranks; r++)
        acked = acked && is_acked(w->rank[r].trainer);
    return acked || jw_is_over(arg) || w->rank[0].trainer->kind == WIRE_PHASE_DONE;
}

/* The last batch is acked, and the server dies before trainer/0 knows that all are: no evaluation would need it. @return it was in time */
static bool start_without_server(struct job_world *w, uint64_t seed, struct rt_job *job,
                                 const char *dir)
{
    unsigned servers = 1 + (unsigned)(seed / 2 % 2);
    struct jw_conf conf = {.seed = seed,
                           .ranks = 2 + (unsigned)(seed % 2),
                           .servers = servers,
                           .owners = 2 * servers,
                           .job = job,
                           .checkpoint_dir = dir,
                           .restore = true};
    jw_start(w, &conf);
    assert_true(sim_run_until(w->sim, is_last, w, 60 * RT_S) && !jw_is_over(w));
    bool in_time = w->rank[0].trainer->kind == WIRE_PHASE_TRAIN;
    if (in_time)
        jw_kill_server(w, 0, false);
    return in_time;
}

static void come_back_to_tell(struct job_world *w)
{
    char waiting[128];
    sim_run_until(w->sim, jw_is_over, w, 3 * RT_S);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        if (w->rank[r].done)
            fail_msg("seed %llu: trainer/%u is done, and a server is away",
                     (unsigned long long)w->conf.seed, r);
    assert_int_equal(w->rank[0].trainer->kind, WIRE_PHASE_DONE);
    assert_false(tr_trainer_ready(w->rank[0].trainer, waiting, sizeof waiting));
    assert_non_null(strstr(waiting, "a connection to embedding_server/0"));
    jw_revive_server(w, 0);
    jw_run(w);
    assert_true(lost(w) > 0);
    assert_int_equal(jw_report(w).updates_lost, lost(w));
}

static void test_loss_is_told(void **state)
{
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full"};
    (void)state;
    for (unsigned m = 0; m < ARRAY_LEN(mode); m++) {
        const char *set[] = {"data.epochs=12", "data.test=[]", "global.checkpoint.every_seconds=0",
                             mode[m]};
        struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
        unsigned in_time = 0;
        for (uint64_t seed = 1; seed <= runs(16); seed++) {
            struct job_world w;
            char dir[TEMP_PATH_MAX];
            temp_folder(dir);
            bool waits = start_without_server(&w, seed, job, dir);
            in_time += waits;
            if (waits)
                come_back_to_tell(&w);
            else
                jw_run(&w);
            check_rows(&w);
            jw_stop(&w);
        }
        assert_true(in_time > 1);
        job_fixture_destroy(job);
    }
}

/* It does not come back: the job is done at last. */
static void test_loss_is_not_told(void **state)
{
    static const char *const set[] = {"data.epochs=12", "data.test=[]",
                                      "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    char dir[TEMP_PATH_MAX];
    uint64_t seed = 1;
    (void)state;
    temp_folder(dir);
    for (; !start_without_server(&w, seed, job, dir); seed++)
        jw_stop(&w);
    sim_run_until(w.sim, NULL, NULL, TR_OWNERS_LAST_NS - 2 * RT_S);
    for (unsigned r = 0; r < w.conf.ranks; r++)
        assert_false(w.rank[r].done);
    assert_true(sim_run_until(w.sim, jw_is_over, &w, 4 * RT_S));
    check_rows(&w);
    jw_stop(&w);
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_loss_is_told),
        cmocka_unit_test(test_loss_is_not_told),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
