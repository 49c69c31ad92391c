/* tests/sim/test_ends.c -- how a job ends, and its processes: the job is not done before every owner has said what it has lost; an embedding
 * server that is told to stop loses nothing; a last checkpoint that fails is tried again. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/owner_stub.h"

#include "embedding_server/lost.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { STUBS = 2, EPOCHS = 12 };

static unsigned runs(unsigned wanted)
{
    const char *text = getenv("TEST_ENDS_RUNS");
    return text ? (unsigned)strtoul(text, NULL, 10) : wanted;
}

static struct tr_checkpoint *leader(const struct job_world *w)
{
    return &w->rank[0].trainer->checkpoint;
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

/* ---- an embedding server that is told to stop ---- */

/* Is it there to leave: at its first owner, what its process waits for? */
static bool may_leave(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over(arg) || w->owner[0]->stats.cut_lasts > 0;
}

/* As its process does: it leaves when it may, or after five seconds. @return it was told to */
static bool leave(struct job_world *w)
{
    uint64_t began = sim_now(w->sim);
    tr_trainer_on_server_leaving(w->rank[0].trainer, 0, w->server_incarnation[0]);
    tr_trainer_on_server_leaving(w->rank[0].trainer, 0, w->server_incarnation[0]); /* said again */
    bool may = sim_run_until(w->sim, may_leave, w, 5 * RT_S);
    if (jw_is_over(w))
        return false;
    if (may && sim_now(w->sim) - began > 2 * RT_S)
        fail_msg("seed %llu: it could leave after %.3f s", (unsigned long long)w->conf.seed,
                 (double)(sim_now(w->sim) - began) * 1e-9);
    return may;
}

/* What it holds when it goes is what it begins with; steps are made when it is back, not before. @return it was told that it may */
static bool leave_one(struct job_world *w, uint64_t key, unsigned i)
{
    bool may = leave(w);
    if (jw_is_over(w))
        return false;
    if (!may && w->rank[0].trainer->step != leader(w)->last_step)
        fail_msg("seed %llu: there is something to be lost, and it was not told to leave",
                 (unsigned long long)w->conf.seed);
    uint64_t updates = ebs_get(&w->owner[0]->stats.updates), step = w->rank[0].trainer->step;
    sim_run_until(w->sim, NULL, NULL, rt_below(rt_draw(key, 4 * i + 2), 60 * RT_MS));
    if (may &&
        (ebs_get(&w->owner[0]->stats.updates) != updates || w->rank[0].trainer->step != step))
        fail_msg("seed %llu: steps are made while it goes", (unsigned long long)w->conf.seed);
    jw_kill_server(w, 0, rt_below(rt_draw(key, 4 * i + 3), 4) == 0);
    sim_run_until(w->sim, jw_is_over, w, 20 * RT_MS);
    jw_revive_server(w, 0);
    return may;
}

static void test_leaves(void **state)
{
    static const char *const kind[][2] = {{"global.mode=hybrid", "global.exact=false"},
                                          {"global.mode=full", "global.exact=false"},
                                          {"global.mode=full", "global.exact=true"}};
    unsigned increments = 0, told = 0, want = 0;
    (void)state;
    for (unsigned m = 0; m < ARRAY_LEN(kind); m++) {
        const char *set[] = {"data.epochs=12", "global.checkpoint.every_seconds=0", kind[m][0],
                             kind[m][1]};
        struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
        for (uint64_t seed = 1; seed <= runs(20); seed++) {
            struct job_world w;
            char dir[TEMP_PATH_MAX];
            uint64_t key = rt_draw_key(seed, "leaves", NULL);
            temp_folder(dir);
            struct jw_conf conf = {.seed = seed,
                                   .ranks = 1 + (unsigned)(seed % 3),
                                   .servers = 1 + (unsigned)(seed / 3 % 2),
                                   .owners = 2 * (1 + (unsigned)(seed / 3 % 2)),
                                   .job = job,
                                   .checkpoint_dir = dir,
                                   .restore = true};
            jw_start(&w, &conf);
            for (unsigned i = 0; i < 3 && !jw_is_over(&w); i++) {
                sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 4 * i), 120 * RT_MS));
                want += !jw_is_over(&w);
                told += !jw_is_over(&w) && leave_one(&w, key, i);
            }
            jw_run(&w);
            check_rows(&w);
            if (jw_report(&w).updates_lost > 0 || lost(&w) > 0)
                fail_msg("seed %llu, %s: %llu updates are lost", (unsigned long long)seed, set[2],
                         (unsigned long long)jw_report(&w).updates_lost);
            assert_int_equal(leader(&w)->voided, 0);
            for (uint32_t i = 0; i < leader(&w)->n_before; i++)
                increments += leader(&w)->before[i].base > 0;
            jw_stop(&w);
        }
        job_fixture_destroy(job);
    }
    assert_true(increments > 0 && told > want / 2); /* else there was nothing to be lost */
}

/* Two trainers, two servers; dir is made, and is the caller's as long as they are there. */
static void start_two(struct job_world *w, uint64_t seed, struct rt_job *job,
                      char dir[TEMP_PATH_MAX])
{
    temp_folder(dir);
    struct jw_conf conf = {.seed = seed,
                           .ranks = 2,
                           .servers = 2,
                           .owners = 4,
                           .job = job,
                           .checkpoint_dir = dir,
                           .restore = true};
    jw_start(w, &conf);
}

/* Two, one shortly after the other; and one that does not go, as if it had been told nothing. */
static void test_leave_two(void **state)
{
    static const char *const set[] = {"data.epochs=12", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = 1; seed <= runs(20); seed++) {
        struct job_world w;
        char dir[TEMP_PATH_MAX];
        start_two(&w, seed, job, dir);
        sim_run_until(w.sim, jw_is_over, &w, 60 * RT_MS);
        struct tr_trainer *trainer = w.rank[0].trainer;
        tr_trainer_on_server_leaving(trainer, 0, w.server_incarnation[0]);
        sim_run_until(w.sim, NULL, NULL, rt_below(rt_draw_key(seed, "two", NULL), 80 * RT_MS));
        tr_trainer_on_server_leaving(trainer, 1, w.server_incarnation[1]);
        sim_run_until(w.sim, NULL, NULL, 2 * RT_S);
        assert_false(jw_is_over(&w));
        for (unsigned k = 0; k < w.conf.owners; k++)
            if (ebs_get(&w.owner[k]->stats.cut_lasts) == 0)
                fail_msg("seed %llu: owner %u was not told that it may leave",
                         (unsigned long long)seed, k);
        uint64_t step = trainer->step;
        jw_kill_server(&w, 0, false);
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(trainer->step, step); /* the other is still there, and goes */
        if (seed % 2) {
            jw_kill_server(&w, 1, false);
            jw_revive_server(&w, 1);
        }
        jw_revive_server(&w, 0);
        jw_run(&w);
        check_rows(&w);
        assert_int_equal(jw_report(&w).updates_lost, 0);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* The second is told when the first has gone, which is back or not: steps go on then, and another checkpoint is made for it. */
static bool second_may_leave(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over(arg) ||
           (w->owner[2]->stats.cut_lasts > 0 && w->owner[3]->stats.cut_lasts > 0);
}

static void test_leave_in_turn(void **state)
{
    static const char *const set[] = {"data.epochs=12", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = 1; seed <= runs(40); seed++) {
        struct job_world w;
        char dir[TEMP_PATH_MAX];
        start_two(&w, seed, job, dir);
        sim_run_until(w.sim, jw_is_over, &w, 30 * RT_MS);
        struct tr_trainer *trainer = w.rank[0].trainer;
        tr_trainer_on_server_leaving(trainer, 0, w.server_incarnation[0]);
        assert_true(sim_run_until(w.sim, may_leave, &w, 5 * RT_S));
        jw_kill_server(&w, 0, seed % 2);
        sim_run_until(w.sim, NULL, NULL, rt_below(rt_draw_key(seed, "away", NULL), 300 * RT_MS));
        jw_revive_server(&w, 0);
        sim_run_until(w.sim, NULL, NULL, rt_below(rt_draw_key(seed, "turn", NULL), 30 * RT_MS));
        assert_false(jw_is_over(&w));
        tr_trainer_on_server_leaving(trainer, 1, w.server_incarnation[1]);
        if (!sim_run_until(w.sim, second_may_leave, &w, 2 * RT_S))
            fail_msg("seed %llu: the second was not told that it may leave",
                     (unsigned long long)seed);
        if (!jw_is_over(&w)) {
            jw_kill_server(&w, 1, false);
            jw_revive_server(&w, 1);
        }
        jw_run(&w);
        check_rows(&w);
        assert_int_equal(jw_report(&w).updates_lost, 0);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- the last checkpoint of the job's ---- */

static size_t count_checkpoints(const char *dir)
{
    struct rt_store_list list;
    size_t n = 0;
    assert_int_equal(rt_store_list(dir, &list), 0);
    for (size_t i = 0; i < list.n; i++)
        n += list.at[i].manifest != NULL;
    rt_store_list_release(&list);
    return n;
}

static bool has_failed(void *arg)
{
    return leader(arg)->voided > 0 || ((struct job_world *)arg)->rank[0].drained;
}

static bool is_drained(void *arg)
{
    return ((struct job_world *)arg)->rank[0].drained;
}

enum trouble { DISK, MUTE, OWNERS, FOR_EVER, TROUBLES };

static void make_trouble(struct stubs *stubs, enum trouble trouble)
{
    struct job_world *w = stubs->world;
    stubs->fails = trouble == DISK || trouble == FOR_EVER;
    stubs->mute = trouble == MUTE;
    stubs->slow_ns = trouble == OWNERS ? 50 * RT_MS : 5 * RT_MS; /* they are awaited by then */
    if (trouble == OWNERS) {
        sim_run_until(w->sim, NULL, NULL, 40 * RT_MS);
        stubs_restart(stubs);
    }
    assert_true(sim_run_until(w->sim, has_failed, w, 5 * RT_S));
    assert_false(w->rank[0].drained);
    if (trouble == FOR_EVER)
        return;
    stubs->fails = stubs->mute = false;
}

static void test_last_is_tried_again(void **state)
{
    static const char *const set[] = {"data.epochs=1000", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = 1; seed <= runs(4); seed++)
        for (int t = 0; t < TROUBLES; t++) {
            struct job_world w;
            struct stubs stubs;
            struct jw_conf conf = {.seed = seed, .ranks = 1 + seed % 3, .job = job};
            stubs_start(&stubs, &w, &conf, STUBS);
            sim_run_until(w.sim, jw_is_over, &w, 40 * RT_MS);
            assert_true(w.rank[0].trainer->step > 0 && !jw_is_over(&w));
            uint64_t began = sim_now(w.sim);
            assert_true(tr_trainer_drain(w.rank[0].trainer));
            make_trouble(&stubs, (enum trouble)t);
            assert_true(sim_run_until(w.sim, is_drained, &w, 30 * RT_S));
            double took = (double)(sim_now(w.sim) - began) * 1e-9;
            if (count_checkpoints(stubs.dir) != (t != FOR_EVER) || took > 20 ||
                (t == FOR_EVER ? took < 17 || leader(&w)->voided < 10 : took > 4))
                fail_msg("seed %llu, trouble %d: %zu checkpoints after %.1f s, %llu void, the "
                         "latest: %s",
                         (unsigned long long)seed, t, count_checkpoints(stubs.dir), took,
                         (unsigned long long)leader(&w)->voided, leader(&w)->before[0].error);
            if (t != FOR_EVER)
                assert_int_equal(leader(&w)->last_step, w.rank[0].trainer->step);
            for (unsigned r = 0; r < conf.ranks; r++) /* in the midst of training */
                jw_kill_rank(&w, r, false);
            stubs_stop(&stubs);
            jw_stop(&w);
        }
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_loss_is_told),  cmocka_unit_test(test_loss_is_not_told),
        cmocka_unit_test(test_leaves),        cmocka_unit_test(test_leave_two),
        cmocka_unit_test(test_leave_in_turn), cmocka_unit_test(test_last_is_tried_again),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
