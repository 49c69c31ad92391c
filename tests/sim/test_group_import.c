/* tests/sim/test_group_import.c -- a model is imported into a job of several ranks, in one thread, while links break and ranks die. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/lib/temp.h"
#include "tests/sim/group_jobs.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "trainer/save.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct importer {
    struct job_world *world;
    struct rt_timer timer;
    struct wire_control_request request;
    bool stop; /* after HOLD nobody asks any more */
};

static void import_on(void *arg)
{
    struct importer *importer = arg;
    struct tr_trainer *trainer = importer->world->rank[0].trainer;
    int err = tr_trainer_import(trainer, &importer->request);
    uint32_t stage = tr_trainer_imported(trainer)->stage;
    if (err && err != RT_ENOTREADY && err != RT_EFULL)
        fail_msg("stage %u: %s", importer->request.stage, rt_err_text());
    if (stage == WIRE_IMPORT_TAKE || (importer->stop && stage == WIRE_IMPORT_HOLD))
        return;
    if (!err && stage == importer->request.stage && tr_import_done(trainer))
        importer->request.stage++;
    rt_timer_start(trainer->io, &importer->timer, 5000000);
}

/* One that asks for the model in `dir`, from its first stage on, when import_on() is called or its timer fires. */
static void make_importer(struct importer *importer, struct job_world *w, const char *dir,
                          uint64_t number)
{
    *importer = (struct importer){
        .world = w,
        .timer = {.fire = import_on, .arg = importer},
        .request = {
            .command = WIRE_CTL_IMPORT, .text = dir, .number = number, .stage = WIRE_IMPORT_CHECK}};
}

/* The model of another seed. @return its folder, in `dir` */
static void save_other(const struct rt_job *job, struct tr_trainer *trainer, char *dir)
{
    struct rt_save save = {.dir = dir, .with_state = true};
    size_t n = tr_model_count(trainer->model);
    float *before = malloc(n * sizeof *before);
    struct tr_saved saved = tr_saved_now(job, trainer->model, trainer->optimizer, 1000);
    memcpy(before, tr_model_params(trainer->model), n * sizeof *before);
    for (size_t i = 0; i < n; i++)
        tr_model_params(trainer->model)[i] += 0.01f * (float)(i % 7);
    temp_folder(dir);
    if (tr_save_dense(&saved, &save) != 0)
        fail_msg("%s", rt_err_text());
    memcpy(tr_model_params(trainer->model), before, n * sizeof *before);
    free(before);
}

/* All ranks have it, whatever breaks meanwhile, no row is lost, and its age goes with it. */
static void test_import(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    char dir[TEMP_PATH_MAX];
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(40); seed++) {
        struct job_world w;
        struct jw_conf conf = {.seed = seed,
                               .ranks = 1 + (unsigned)(seed / 2) % 3,
                               .composers = 1 + (unsigned)(seed / 9) % 2,
                               .middlewares = 1 + (unsigned)(seed / 27) % 2,
                               .job = job[seed % 2]}; /* not `async` */
        jw_start(&w, &conf);
        save_other(conf.job, w.rank[0].trainer, dir);
        struct importer importer;
        make_importer(&importer, &w, dir, 5);
        rt_timer_start(w.rank[0].trainer->io, &importer.timer, seed % 5 * 4000000);
        jw_break_links(&w, seed % 4 < 2 ? 0 : 20, true);
        jw_run(&w);
        gj_check_accounts(&w, 2);
        for (unsigned r = 0; r < conf.ranks; r++) {
            struct tr_trainer *trainer = w.rank[r].trainer;
            assert_int_equal(trainer->imports, 1);
            assert_int_equal(trainer->steps_before, w.rank[0].trainer->steps_before);
            assert_true(tr_age(trainer, trainer->step) >= 1000);
        }
        jw_stop(&w);
    }
    gj_destroy(job);
}

static bool steps(void *arg)
{
    const struct tr_trainer *trainer = arg;
    return trainer->step > 0;
}

static bool is_read(void *arg)
{
    const struct tr_trainer *trainer = arg;
    return trainer->import.reading;
}

/* Nobody asks any more: the job goes on as it was. */
static void test_import_that_is_left(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    char dir[TEMP_PATH_MAX];
    gj_make(job);
    for (unsigned ranks = 1; ranks <= 3; ranks++) {
        struct job_world w;
        struct jw_conf conf = {.seed = ranks, .ranks = ranks, .job = job[ranks % 2]};
        jw_start(&w, &conf);
        save_other(conf.job, w.rank[0].trainer, dir);
        struct importer importer;
        make_importer(&importer, &w, dir, 5);
        importer.stop = true;
        rt_timer_start(w.rank[0].trainer->io, &importer.timer, 0);
        jw_run(&w);
        gj_check_accounts(&w, 2);
        const struct tr_import *import = tr_trainer_imported(w.rank[0].trainer);
        assert_int_equal(import->stage, WIRE_IMPORT_HOLD);
        assert_true(import->failed);
        assert_string_equal(import->error, "nobody has asked for it any more");
        assert_int_equal(w.rank[0].trainer->imports, 0);
        jw_stop(&w);
    }
    gj_destroy(job);
}

/* A server refuses the model while trainer/0 reads it still: the next import is begun when that has ended. */
static void test_import_given_up(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    char dir[TEMP_PATH_MAX];
    gj_make(job);
    for (unsigned ranks = 1; ranks <= 3; ranks++) {
        struct job_world w;
        struct jw_conf conf = {.seed = ranks, .ranks = ranks, .job = job[ranks % 2]};
        jw_start(&w, &conf);
        struct tr_trainer *trainer = w.rank[0].trainer;
        save_other(conf.job, trainer, dir);
        struct wire_control_request other = {
            .command = WIRE_CTL_IMPORT, .text = dir, .number = 5, .stage = WIRE_IMPORT_CHECK};
        assert_true(sim_run_until(w.sim, steps, trainer, 60 * RT_S));
        assert_int_equal(tr_trainer_import(trainer, &other), 0);
        assert_true(sim_run_until(w.sim, is_read, trainer, 60 * RT_S));
        other.stage = WIRE_IMPORT_FAIL;
        other.text = "a server refuses";
        assert_int_equal(tr_trainer_import(trainer, &other), 0);
        assert_string_equal(trainer->import.error, "a server refuses");
        struct importer importer;
        make_importer(&importer, &w, dir, 6);
        assert_int_equal(tr_trainer_import(trainer, &importer.request), RT_EFULL);
        import_on(&importer);
        jw_run(&w);
        gj_check_accounts(&w, 2);
        for (unsigned r = 0; r < ranks; r++)
            assert_int_equal(w.rank[r].trainer->imports, 1);
        jw_stop(&w);
    }
    gj_destroy(job);
}

/* ---- a rank dies in an import ---- */

struct moment {
    struct job_world *world;
    uint32_t stage; /* of trainer/0's import: reached */
};

static bool is_there(void *arg)
{
    const struct moment *moment = arg;
    return jw_is_over(moment->world) ||
           tr_trainer_imported(moment->world->rank[0].trainer)->stage >= moment->stage;
}

/* Either all ranks have it or none; or the job says that it cannot go on, and only where rows may be others by then. */
static void check_killed(const struct job_world *w, unsigned rank, uint32_t stage,
                         unsigned outcome[3])
{
    uint64_t imports = w->rank[0].trainer->imports;
    unsigned long long seed = w->conf.seed;
    if (w->failed) {
        if (!strstr(w->failed_text, "an import was cut off when rows may have begun to change: "
                                    "trainer/0 was started again"))
            fail_msg("seed %llu: \"%s\"", seed, w->failed_text);
        if (rank != 0 || stage < WIRE_IMPORT_HOLD)
            fail_msg("seed %llu: nothing had changed in stage %u, rank %u", seed, stage, rank);
        outcome[2]++;
        return;
    }
    if (rank != 0 ? imports != 1 : stage >= WIRE_IMPORT_LOAD && imports != 1)
        fail_msg("seed %llu: rows are others and weights are not: stage %u", seed, stage);
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        assert_int_equal(w->rank[r].trainer->imports, imports);
        assert_true(tr_trainer_digest(w->rank[r].trainer) == tr_trainer_digest(w->rank[0].trainer));
    }
    outcome[imports]++;
}

static void kill_in_import(struct rt_job *job, uint64_t seed, unsigned outcome[3])
{
    struct job_world w;
    struct jw_conf conf = {.seed = seed, .ranks = 2 + (unsigned)seed / 2 % 3, .job = job};
    struct moment moment = {&w, WIRE_IMPORT_CHECK + (uint32_t)(seed / 6 % 4)};
    uint64_t key = rt_draw_key(seed, "import", NULL);
    unsigned rank = seed % 4 ? 0 : 1 + (unsigned)rt_below(rt_draw(key, 0), conf.ranks - 1);
    char dir[TEMP_PATH_MAX];
    jw_start(&w, &conf);
    save_other(conf.job, w.rank[0].trainer, dir);
    struct importer importer;
    make_importer(&importer, &w, dir, 5);
    rt_timer_start(w.rank[0].trainer->io, &importer.timer, 1000000);
    sim_run_until(w.sim, is_there, &moment, 60 * RT_S);
    sim_run_until(w.sim, jw_is_over, &w, rt_below(rt_draw(key, 1), 4 * RT_MS));
    assert_false(jw_is_over(&w));
    if (rank == 0) /* the new one is asked by nobody: the ranks find it out alone */
        rt_timer_stop(w.rank[0].trainer->io, &importer.timer);
    uint32_t stage = tr_trainer_imported(w.rank[0].trainer)->stage;
    jw_restart_rank(&w, rank);
    assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * RT_S));
    check_killed(&w, rank, stage, outcome);
    jw_stop(&w);
}

static void test_kill_in_import(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    unsigned outcome[3] = {0};
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(96); seed++)
        kill_in_import(job[seed % 2], seed, outcome);
    print_message("without it %u, with it %u, ended %u\n", outcome[0], outcome[1], outcome[2]);
    if (gj_runs(96) == 96) /* all of them were met */
        assert_true(outcome[0] > 0 && outcome[1] > 0 && outcome[2] > 0);
    gj_destroy(job);
}

int main(void)
{
    rt_log_set_level(getenv("TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_import_that_is_left),
        cmocka_unit_test(test_import_given_up),
        cmocka_unit_test(test_kill_in_import),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
