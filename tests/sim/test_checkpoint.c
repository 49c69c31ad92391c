/* tests/sim/test_checkpoint.c -- checkpoints of a whole job in one thread, led by trainer/0: what a manifest says is what the
 * owners had applied at its instant, whatever dies or breaks in whatever state. Going on from one: test_checkpoint_restore.c. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/lib/temp.h"
#include "tests/sim/checkpoint_jobs.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- training goes on ---- */

static void run_one(uint64_t seed, struct rt_job *job, unsigned breaks)
{
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = seed,
                           .ranks = 1 + (unsigned)(seed / 2) % 3,
                           .composers = 1 + (unsigned)(seed / 6) % 2,
                           .job = job};
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    jw_break_links(&w, breaks, seed % 2);
    jw_run(&w);
    cj_check_rows(&w);
    if (breaks == 0 && cj_leader(&w)->voided > 0)
        fail_msg("seed %llu: void: %s", (unsigned long long)seed, cj_leader(&w)->before[0].error);
    if (breaks == 0) {
        assert_true(cj_leader(&w)->published >= 1 && stubs.refused == 0);
        assert_true(stubs.increments > 0 || cj_leader(&w)->published < 2);
    }
    assert_true(stubs.cuts >= CJ_STUBS * cj_leader(&w)->published);
    cj_check_store(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
}

static void test_cuts(void **state)
{
    struct rt_job *job[2] = {cj_job(false), cj_job(true)};
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + cj_runs(60); seed++)
        run_one(seed, job[seed % 2], seed % 4 < 2 ? 0 : 20);
    job_fixture_destroy(job[0]);
    job_fixture_destroy(job[1]);
}

/* A pause of the group is none of its steps: the end has the same bits. */
static void test_exact(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.mode=full", "global.exact=true",
                                      "global.checkpoint.every_steps=4"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    uint64_t want = 0;
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + cj_runs(20); seed++) {
        struct job_world w;
        char dir[TEMP_PATH_MAX];
        struct jw_conf conf = {.seed = seed, .ranks = 2, .job = job};
        bool some = seed > seeds_first();
        temp_folder(dir);
        conf.checkpoint_dir = some ? dir : NULL;
        jw_start(&w, &conf);
        jw_break_links(&w, seed % 2 ? 0 : 10, true);
        jw_run(&w);
        cj_check_rows(&w);
        uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
        if (!some)
            want = digest;
        if (digest != want)
            fail_msg("seed %llu: other weights than without checkpoints", (unsigned long long)seed);
        assert_true(!some || cj_leader(&w)->published > 0);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- something dies ---- */

static const enum tr_checkpoint_state states[] = {TR_CHECKPOINT_OPENING,    TR_CHECKPOINT_HOLDING,
                                                  TR_CHECKPOINT_CUTTING,    TR_CHECKPOINT_WRITING,
                                                  TR_CHECKPOINT_PUBLISHING, TR_CHECKPOINT_ENDING};

enum trouble { RANK_0, RANK_1, OWNERS, LINK, MUTE, DISK, TROUBLES };

static void make_trouble(struct stubs *stubs, enum trouble trouble)
{
    struct job_world *w = stubs->world;
    if (trouble == RANK_0)
        jw_restart_rank(w, 0);
    else if (trouble == RANK_1)
        jw_restart_rank(w, 1);
    else if (trouble == OWNERS)
        stubs_restart(stubs);
    else if (trouble == LINK)
        sim_break(w->sim, jw_node_rank(w, 0), jw_node_spare(w));
    else if (trouble == MUTE)
        stubs->mute = true;
    else
        stubs->fails = true;
    sim_run_until(w->sim, jw_is_over, w, (trouble == MUTE ? 100 : 20) * RT_MS);
    stubs->mute = stubs->fails = false;
}

/* In each state; afterwards there are others, and training has not noticed. */
static void trouble_in(uint64_t seed, struct rt_job *job, enum tr_checkpoint_state state,
                       enum trouble trouble)
{
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = seed, .ranks = 2, .job = job, .restore = true};
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    for (unsigned i = 0; i < 2; i++) {
        struct cj_moment moment = {&w, state};
        sim_run_until(w.sim, cj_is_there, &moment, 60 * RT_S);
        if (!jw_is_over(&w))
            make_trouble(&stubs, trouble);
    }
    jw_run(&w);
    if (trouble >= OWNERS)
        cj_check_rows(&w);
    cj_check_store(&stubs);
    if (trouble == MUTE && state == TR_CHECKPOINT_HOLDING)
        assert_true(cj_leader(&w)->voided >= 1);
    stubs_stop(&stubs);
    jw_stop(&w);
}

static void test_troubles(void **state)
{
    struct rt_job *job = cj_job(false);
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + cj_runs(3); seed++)
        for (size_t s = 0; s < ARRAY_LEN(states); s++)
            for (int t = 0; t < TROUBLES; t++)
                trouble_in(seed, job, states[s], (enum trouble)t);
    job_fixture_destroy(job);
}

/* No owner answers: the group stands still for cut_timeout_ms, no longer, and the next one is full. */
static void test_timeout(void **state)
{
    struct rt_job *job = cj_job(false);
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 3, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    stubs.mute = true;
    struct cj_moment moment = {&w, TR_CHECKPOINT_ENDING};
    assert_true(sim_run_until(w.sim, cj_is_there, &moment, 60 * RT_S));
    const struct tr_checkpoint *checkpoint = cj_leader(&w);
    assert_int_equal(checkpoint->now.state, TR_CHECKPOINT_FAILED);
    assert_non_null(strstr(checkpoint->now.error, "checkpoint.cut_timeout_ms"));
    assert_true(checkpoint->now.held_seconds >= 1 && checkpoint->now.held_seconds < 1.1);
    stubs.mute = false;
    jw_run(&w);
    cj_check_rows(&w);
    assert_true(cj_leader(&w)->voided >= 1 && cj_leader(&w)->published >= 1);
    cj_check_store(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

static bool has_ended(void *arg)
{
    return cj_leader(arg)->n_before > 0;
}

/* Owners that write for longer than trainer/0 waits for a disk that stands still: theirs do not, or they would say so. */
static void test_slow_disks(void **state)
{
    struct rt_job *job = cj_job(false);
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 3, .job = job};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    stubs.slow_ns = TR_CHECKPOINT_STILL_NS + 100 * RT_S;
    assert_true(sim_run_until(w.sim, has_ended, &w, 2 * stubs.slow_ns));
    assert_int_equal(cj_leader(&w)->before[0].state, TR_CHECKPOINT_DONE);
    assert_true(cj_leader(&w)->before[0].seconds > 1e-9 * (double)TR_CHECKPOINT_STILL_NS);
    stubs.slow_ns = 0;
    jw_run(&w);
    cj_check_rows(&w);
    cj_check_store(&stubs);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

/* ---- the operator ---- */

static void test_asked(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 4, .ranks = 2, .job = job};
    struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = "before-the-change", .number = 7};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    struct tr_trainer *trainer = w.rank[0].trainer;
    assert_int_equal(tr_trainer_checkpoint(w.rank[1].trainer, &request), RT_EUSAGE);
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0);
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0); /* asked again: the same one */
    request.number = 8;
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), RT_EFULL);
    request.text = "../up";
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), RT_EUSAGE);
    struct cj_moment moment = {&w, TR_CHECKPOINT_ENDING};
    assert_true(sim_run_until(w.sim, cj_is_there, &moment, 60 * RT_S));
    jw_run(&w);
    cj_check_rows(&w);
    assert_int_equal(cj_leader(&w)->published, 1);
    assert_int_equal(cj_leader(&w)->n_before, 1);
    assert_int_equal(cj_leader(&w)->before[0].state, TR_CHECKPOINT_DONE);
    assert_int_equal(cj_leader(&w)->before[0].number, 7);
    assert_string_equal(cj_leader(&w)->before[0].name, "before-the-change");
    assert_int_equal(cj_check_store(&stubs), 1);
    request.text = "late";
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), RT_EUSAGE); /* the job is done */
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

/* An owner is away, and stays so: it says what it waits for, and gives up in time; and no last one is waited for. */
static void test_waits(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 8, .job = job};
    struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = "release", .number = 9};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    struct tr_trainer *trainer = w.rank[0].trainer;
    sim_run_until(w.sim, jw_is_over, &w, 40 * RT_MS);
    assert_true(trainer->step > 0 && trainer->kind == WIRE_PHASE_TRAIN);
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_spare(&w), true);
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_composer(&w, 0), true);
    sim_run_until(w.sim, NULL, NULL, 10 * RT_S);
    assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0);
    sim_run_until(w.sim, NULL, NULL, 50 * RT_S);
    assert_int_equal(cj_leader(&w)->state, TR_CHECKPOINT_IDLE);
    assert_int_equal(cj_leader(&w)->asked, 9);
    assert_non_null(strstr(cj_leader(&w)->waits, "a connection to embedding_server/0"));
    assert_false(tr_trainer_drain(trainer));
    sim_run_until(w.sim, NULL, NULL, 11 * RT_S);
    assert_int_equal(cj_leader(&w)->asked, 0);
    assert_int_equal(cj_leader(&w)->before[0].state, TR_CHECKPOINT_FAILED);
    assert_int_equal(cj_leader(&w)->before[0].number, 9);
    assert_non_null(strstr(cj_leader(&w)->before[0].error,
                           "it could not begin within 60 s: it waits for a connection"));
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_spare(&w), false);
    sim_cut(w.sim, jw_node_rank(&w, 0), jw_node_composer(&w, 0), false);
    jw_run(&w);
    cj_check_rows(&w);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

static bool is_evaluating(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over((void *)(uintptr_t)w) || w->rank[0].trainer->kind == WIRE_PHASE_EVALUATE;
}

static bool has_one(void *arg)
{
    return cj_leader(arg)->published > 0 && cj_leader(arg)->state == TR_CHECKPOINT_IDLE;
}

/* Of an evaluation that cannot go on, at the end of an epoch or within one: all go on from there. */
static void test_in_evaluation(void **state)
{
    static const char *const set[2][3] = {
        {"data.epochs=3", "global.checkpoint.every_seconds=0", "global.evaluate_every=0"},
        {"data.epochs=3", "global.checkpoint.every_seconds=0", "global.evaluate_every=3"}};
    struct rt_job *job[2] = {job_fixture(set[0], 3), job_fixture(set[1], 3)};
    (void)state;
    for (uint64_t seed = 1; seed <= 24; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {
            .seed = seed, .ranks = 1 + seed % 3, .job = job[seed / 3 % 2], .restore = true};
        struct wire_control_request request = {
            .command = WIRE_CTL_CHECKPOINT, .text = "meanwhile", .number = 3};
        stubs_start(&stubs, &w, &conf, CJ_STUBS);
        sim_run_until(w.sim, is_evaluating, &w, 60 * RT_S);
        struct tr_trainer *trainer = w.rank[0].trainer;
        assert_int_equal(trainer->kind, WIRE_PHASE_EVALUATE);
        for (unsigned r = 0; r < conf.ranks; r++)
            sim_cut(w.sim, jw_node_rank(&w, r), jw_node_composer(&w, 0), true);
        assert_int_equal(tr_trainer_checkpoint(trainer, &request), 0);
        if (!sim_run_until(w.sim, has_one, &w, 3 * RT_S))
            fail_msg("seed %llu: none in an evaluation: state %d, waits for '%s'",
                     (unsigned long long)seed, (int)cj_leader(&w)->state, cj_leader(&w)->waits);
        assert_int_equal(trainer->kind, WIRE_PHASE_EVALUATE);
        uint64_t step = trainer->step, epoch = trainer->epoch;
        assert_int_equal(cj_check_store(&stubs), 1);
        for (unsigned r = 0; r < conf.ranks; r++)
            sim_cut(w.sim, jw_node_rank(&w, r), jw_node_composer(&w, 0), false);
        jw_restart_ranks(&w, 0, conf.ranks);
        trainer = w.rank[0].trainer;
        assert_true(trainer->step == step && trainer->epoch == epoch);
        jw_run(&w);
        cj_check_rows(&w);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job[0]);
    job_fixture_destroy(job[1]);
}

/* ---- the end of a process ---- */

static void on_drained(void *ctx)
{
    *(bool *)ctx = true;
}

/* Its instant is the last step: the job goes on from there. */
static void test_drain(void **state)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_seconds=0"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = seed, .ranks = 1 + seed % 3, .job = job, .restore = true};
        uint64_t key = rt_draw_key(seed, "drain", NULL);
        stubs_start(&stubs, &w, &conf, CJ_STUBS);
        struct tr_trainer *trainer = w.rank[0].trainer;
        bool drained = false;
        sim_run_until(w.sim, jw_is_over, &w, 30 * RT_MS + rt_below(rt_draw(key, 0), 60 * RT_MS));
        trainer->conf.drained = on_drained;
        void *ctx = trainer->conf.ctx;
        bool goes_on = trainer->kind != WIRE_PHASE_DONE && trainer->step > 0;
        trainer->conf.ctx = goes_on ? &drained : ctx;
        assert_int_equal(tr_trainer_drain(trainer), goes_on);
        if (goes_on) {
            sim_run_until(w.sim, NULL, NULL, 500 * RT_MS);
            assert_true(drained);
            trainer->conf.ctx = ctx;
            uint64_t step = trainer->step;
            assert_int_equal(cj_check_store(&stubs), 1);
            jw_restart_ranks(&w, 0, conf.ranks);
            assert_int_equal(w.rank[0].trainer->step, step);
        }
        jw_run(&w);
        cj_check_rows(&w);
        stubs_stop(&stubs);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

static void test_async(void **state)
{
    static const char *const set[] = {"global.mode=async"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct job_world w;
    struct stubs stubs;
    struct jw_conf conf = {.seed = 6, .ranks = 2, .job = job};
    struct wire_control_request request = {
        .command = WIRE_CTL_CHECKPOINT, .text = "one", .number = 7};
    (void)state;
    stubs_start(&stubs, &w, &conf, CJ_STUBS);
    assert_int_equal(tr_trainer_checkpoint(w.rank[0].trainer, &request), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "async"));
    jw_run(&w);
    assert_int_equal(cj_check_store(&stubs), 0);
    stubs_stop(&stubs);
    jw_stop(&w);
    job_fixture_destroy(job);
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_cuts),       cmocka_unit_test(test_exact),
        cmocka_unit_test(test_troubles),   cmocka_unit_test(test_timeout),
        cmocka_unit_test(test_slow_disks), cmocka_unit_test(test_asked),
        cmocka_unit_test(test_waits),      cmocka_unit_test(test_in_evaluation),
        cmocka_unit_test(test_drain),      cmocka_unit_test(test_async),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
