/* tests/sim/test_group.c -- several ranks as one group, with the whole job around them, in one thread. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "trainer/save.h"
#include "trainer/state.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EPOCHS "data.epochs=2"

static void check_equal_weights(const struct job_world *w)
{
    uint64_t digest = tr_trainer_digest(w->rank[0].trainer);
    for (unsigned i = 1; i < w->conf.ranks; i++)
        if (tr_trainer_digest(w->rank[i].trainer) != digest)
            fail_msg("seed %llu: rank %u has other weights than rank 0",
                     (unsigned long long)w->conf.seed, i);
}

static void check_accounts(struct job_world *w, uint64_t epochs)
{
    struct tr_report r = jw_report(w);
    assert_int_equal(r.samples_trained, JW_TRAIN_ROWS * epochs);
    assert_int_equal(r.samples_dropped, 0);
    assert_int_equal(r.permits_used, 0);
    check_equal_weights(w);
}

static unsigned runs(unsigned wanted)
{
    const char *text = getenv("TEST_GROUP_RUNS");
    return text ? (unsigned)strtoul(text, NULL, 10) : wanted;
}

static uint64_t first_seed(void)
{
    const char *text = getenv("TEST_GROUP_SEED");
    return text ? strtoull(text, NULL, 10) : 1;
}

enum { MODES = 3 };
static const char *const mode[MODES] = {"global.mode=hybrid", "global.mode=full",
                                        "global.mode=async"};

/* Job files are written once for many worlds. */
static void make_jobs(struct rt_job *job[MODES])
{
    for (size_t m = 0; m < MODES; m++) {
        const char *set[] = {EPOCHS, "data.test=[]", mode[m], "global.sync_every=3"};
        job[m] = job_fixture(set, ARRAY_LEN(set));
    }
}

static void destroy_jobs(struct rt_job *job[MODES])
{
    for (size_t m = 0; m < MODES; m++)
        job_fixture_destroy(job[m]);
}

/* Ranks that begin with other weights, or as old as others are not, are told before a step is made. */
static void test_starts_differ(void **state)
{
    (void)state;
    struct rt_job *job[MODES];
    make_jobs(job);
    for (unsigned i = 0; i < 2 * MODES; i++) {
        struct job_world w;
        struct jw_conf conf = {.seed = i + 1, .ranks = 3, .job = job[i % MODES]};
        jw_start(&w, &conf);
        struct tr_trainer *other = w.rank[1 + i % 2].trainer;
        char want[80];
        if (i / MODES == 0)
            tr_model_params(other->model)[5] += 0.25f;
        else
            other->steps_before = 7;
        assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * 1000000000ull));
        snprintf(want, sizeof want, "trainer/%u begins with other dense weights or optimizer state",
                 1 + i % 2);
        if (w.failed != RT_EUSAGE || !strstr(w.failed_text, want))
            fail_msg("%u: %d \"%s\"", i, w.failed, w.failed_text);
        for (unsigned r = 0; r < 3; r++)
            assert_int_equal(w.rank[r].trainer->step, 0);
        jw_stop(&w);
    }
    destroy_jobs(job);
}

/* Weights that have made steps before the job. */
static void set_ages(struct job_world *w, uint64_t steps)
{
    for (unsigned r = 0; r < w->conf.ranks; r++)
        w->rank[r].trainer->steps_before = steps;
}

/* A step is counted when it begins: the second tells that the first was made. */
static bool has_stepped(void *arg)
{
    const struct job_world *w = arg;
    for (unsigned r = 0; r < w->conf.ranks; r++)
        if (w->rank[r].trainer->step < 2)
            return false;
    return true;
}

static bool has_formed(void *arg)
{
    const struct job_world *w = arg;
    for (unsigned r = 0; r < w->conf.ranks; r++)
        if (!w->rank[r].trainer->group->was_formed)
            return false;
    return true;
}

/* A rank that comes back without the saved model fetches its weights, and how old they are: all go on at one rate. */
static void test_age_is_fetched(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(18); seed++) {
        const char *set[] = {EPOCHS, "data.test=[]", mode[seed % MODES], "global.sync_every=3",
                             "model.schedule={type: linear, steps: 300}"};
        struct job_world w;
        struct jw_conf conf = {
            .seed = seed, .ranks = 2 + (unsigned)seed % 2, .set = set, .n_set = ARRAY_LEN(set)};
        jw_start(&w, &conf);
        set_ages(&w, 200);
        assert_true(sim_run_until(w.sim, has_stepped, &w, 60 * RT_S));
        assert_false(jw_is_over(&w));
        jw_restart_rank(&w, (unsigned)(seed / MODES) % w.conf.ranks);
        jw_run(&w);
        for (unsigned r = 0; r < w.conf.ranks; r++)
            assert_int_equal(w.rank[r].trainer->steps_before, 200);
        check_equal_weights(&w);
        jw_stop(&w);
    }
}

/* Before the first step nothing is fetched: whoever comes back as old as the others goes on, and else the job fails. */
static void test_ages_differ(void **state)
{
    (void)state;
    struct rt_job *job[MODES];
    make_jobs(job);
    for (unsigned i = 0; i < 8; i++) {
        struct job_world w;
        struct jw_conf conf = {.seed = i + 1, .ranks = 3, .job = job[i % 2]};
        bool same = i >= 6;
        jw_start(&w, &conf);
        set_ages(&w, 200);
        assert_true(sim_run_until(w.sim, has_formed, &w, 60 * RT_S));
        jw_restart_rank(&w, i % 3);
        for (unsigned r = 0; r < 3; r++)
            assert_int_equal(w.rank[r].trainer->step, 0);
        if (same) {
            set_ages(&w, 200);
            jw_run(&w);
            check_accounts(&w, 2);
        } else {
            assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * RT_S));
            if (w.failed != RT_EUSAGE ||
                !strstr(w.failed_text, " begins with weights that have made "))
                fail_msg("%u: %d \"%s\"", i, w.failed, w.failed_text);
        }
        jw_stop(&w);
    }
    destroy_jobs(job);
}

/* ---- a model is imported while they train ---- */

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
    struct rt_job *job[MODES];
    char dir[TEMP_PATH_MAX];
    make_jobs(job);
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(40); seed++) {
        struct job_world w;
        struct jw_conf conf = {.seed = seed,
                               .ranks = 1 + (unsigned)(seed / 2) % 3,
                               .composers = 1 + (unsigned)(seed / 9) % 2,
                               .middlewares = 1 + (unsigned)(seed / 27) % 2,
                               .job = job[seed % 2]}; /* not `async` */
        jw_start(&w, &conf);
        save_other(conf.job, w.rank[0].trainer, dir);
        struct importer importer = {
            .world = &w,
            .timer = {.fire = import_on, .arg = &importer},
            .request = {
                .command = WIRE_CTL_IMPORT, .text = dir, .number = 5, .stage = WIRE_IMPORT_CHECK}};
        rt_timer_start(w.rank[0].trainer->io, &importer.timer, seed % 5 * 4000000);
        jw_break_links(&w, seed % 4 < 2 ? 0 : 20, true);
        jw_run(&w);
        check_accounts(&w, 2);
        for (unsigned r = 0; r < conf.ranks; r++) {
            struct tr_trainer *trainer = w.rank[r].trainer;
            assert_int_equal(trainer->imports, 1);
            assert_int_equal(trainer->steps_before, w.rank[0].trainer->steps_before);
            assert_true(tr_age(trainer, trainer->step) >= 1000);
        }
        jw_stop(&w);
    }
    destroy_jobs(job);
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
    struct rt_job *job[MODES];
    char dir[TEMP_PATH_MAX];
    make_jobs(job);
    for (unsigned ranks = 1; ranks <= 3; ranks++) {
        struct job_world w;
        struct jw_conf conf = {.seed = ranks, .ranks = ranks, .job = job[ranks % 2]};
        jw_start(&w, &conf);
        save_other(conf.job, w.rank[0].trainer, dir);
        struct importer importer = {
            .world = &w,
            .stop = true,
            .timer = {.fire = import_on, .arg = &importer},
            .request = {
                .command = WIRE_CTL_IMPORT, .text = dir, .number = 5, .stage = WIRE_IMPORT_CHECK}};
        rt_timer_start(w.rank[0].trainer->io, &importer.timer, 0);
        jw_run(&w);
        check_accounts(&w, 2);
        const struct tr_import *import = tr_trainer_imported(w.rank[0].trainer);
        assert_int_equal(import->stage, WIRE_IMPORT_HOLD);
        assert_true(import->failed);
        assert_string_equal(import->error, "nobody has asked for it any more");
        assert_int_equal(w.rank[0].trainer->imports, 0);
        jw_stop(&w);
    }
    destroy_jobs(job);
}

/* A server refuses the model while trainer/0 reads it still: the next import is begun when that has ended. */
static void test_import_given_up(void **state)
{
    (void)state;
    struct rt_job *job[MODES];
    char dir[TEMP_PATH_MAX];
    make_jobs(job);
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
        struct importer importer = {
            .world = &w,
            .timer = {.fire = import_on, .arg = &importer},
            .request = {
                .command = WIRE_CTL_IMPORT, .text = dir, .number = 6, .stage = WIRE_IMPORT_CHECK}};
        assert_int_equal(tr_trainer_import(trainer, &importer.request), RT_EFULL);
        import_on(&importer);
        jw_run(&w);
        check_accounts(&w, 2);
        for (unsigned r = 0; r < ranks; r++)
            assert_int_equal(w.rank[r].trainer->imports, 1);
        jw_stop(&w);
    }
    destroy_jobs(job);
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
    struct importer importer = {
        .world = &w,
        .timer = {.fire = import_on, .arg = &importer},
        .request = {
            .command = WIRE_CTL_IMPORT, .text = dir, .number = 5, .stage = WIRE_IMPORT_CHECK}};
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
    struct rt_job *job[MODES];
    unsigned outcome[3] = {0};
    make_jobs(job);
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(96); seed++)
        kill_in_import(job[seed % 2], seed, outcome);
    print_message("without it %u, with it %u, ended %u\n", outcome[0], outcome[1], outcome[2]);
    if (runs(96) == 96) /* all of them were met */
        assert_true(outcome[0] > 0 && outcome[1] > 0 && outcome[2] > 0);
    destroy_jobs(job);
}

static void test_modes(void **state)
{
    (void)state;
    struct rt_job *job[MODES];
    make_jobs(job);
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(60); seed++) {
        struct job_world w;
        struct jw_conf conf = {.seed = seed,
                               .ranks = 2 + (unsigned)(seed / 3) % 3,
                               .composers = 1 + (unsigned)(seed / 9) % 2,
                               .middlewares = 1 + (unsigned)(seed / 27) % 2,
                               .job = job[seed % MODES]};
        jw_start(&w, &conf);
        jw_break_links(&w, seed % 2 ? 0 : 20, true);
        jw_run(&w);
        check_accounts(&w, 2);
        jw_stop(&w);
    }
    destroy_jobs(job);
}

/* Running averages are part of what the ranks have in common, in every mode, and of what a rank that died fetches. */
static void test_batchnorm(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(12); seed++) {
        static const char layers[] =
            "model.layers=[{name: all, type: concat, inputs: [features, dense]}, "
            "{name: norm, type: batchnorm, inputs: [all]}, "
            "{name: top, type: mlp, inputs: [norm], sizes: [8, 1], activation: dice}, "
            "{name: loss, type: bce, inputs: [top]}]";
        const char *set[] = {EPOCHS, "data.test=[]", mode[seed % MODES], "global.sync_every=3",
                             layers};
        struct jw_conf conf = {
            .seed = seed, .ranks = 2 + (unsigned)seed % 2, .set = set, .n_set = ARRAY_LEN(set)};
        struct job_world w;
        jw_start(&w, &conf);
        jw_break_links(&w, seed % 2 ? 0 : 20, true);
        if (seed % 4 == 3) {
            sim_run_until(w.sim, jw_is_over, &w, 5 * RT_MS);
            assert_false(jw_is_over(&w));
            jw_restart_rank(&w, 1);
        }
        jw_run(&w);
        size_t n = 0;
        struct tr_model *model = w.rank[0].trainer->model;
        const struct tr_param *tensor = tr_model_tensors(model, &n);
        for (size_t t = 0; t < n; t++)
            if (strcmp(tensor[t].name, "norm.running_var") == 0)
                assert_true(tr_model_params(model)[tensor[t].offset] != 1);
        for (unsigned r = 1; r < w.conf.ranks; r++)
            assert_true(tr_trainer_digest(w.rank[r].trainer) ==
                        tr_trainer_digest(w.rank[0].trainer));
        jw_stop(&w);
    }
}

/* `exact`: whatever links break, the same bits. */
static void test_exact(void **state)
{
    (void)state;
    const char *set[] = {EPOCHS, "data.test=[]", "global.mode=full", "global.exact=true"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    for (unsigned ranks = 2; ranks <= 4; ranks++) {
        uint64_t want = 0;
        double loss = 0;
        for (uint64_t seed = first_seed(); seed < first_seed() + runs(40); seed++) {
            struct job_world w;
            struct jw_conf conf = {.seed = seed, .ranks = ranks, .job = job};
            jw_start(&w, &conf);
            jw_break_links(&w, seed == first_seed() ? 0 : (unsigned)seed, true);
            jw_run(&w);
            check_accounts(&w, 2);
            uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
            struct tr_report r = jw_report(&w);
            if (want == 0) {
                want = digest;
                loss = r.train_loss;
            } else if (digest != want || r.train_loss != loss) {
                fail_msg("%u ranks, seed %llu: not the bits of the unbroken run", ranks,
                         (unsigned long long)seed);
            }
            jw_stop(&w);
        }
    }
    job_fixture_destroy(job);
}

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
            fail_msg("%s, seed %llu: rank %u has other weights than rank 0", mode[seed % MODES],
                     (unsigned long long)seed, r);
    }
    jw_stop(&w);
}

static void test_restart(void **state)
{
    (void)state;
    struct rt_job *job[MODES];
    make_jobs(job);
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(90); seed++)
        restart(job[seed % MODES], 2 + (unsigned)(seed / 3) % 3, seed);
    destroy_jobs(job);
}

/* Composers die and come back with nothing, all of them at once or one: every row is trained once. With evaluations in
 * between, and at moments when the ledger has only a part of what was stepped. */
static void test_restart_composers(void **state)
{
    (void)state;
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(60); seed++) {
        const char *set[] = {EPOCHS,
                             mode[seed % MODES],
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
        check_accounts(&w, 2);
        struct tr_report r = jw_report(&w);
        if (r.test_samples != JW_TEST_ROWS || r.samples_read != 2 * JW_TRAIN_ROWS)
            fail_msg("seed %llu: %llu rows read, %llu tested", (unsigned long long)seed,
                     (unsigned long long)r.samples_read, (unsigned long long)r.test_samples);
        jw_stop(&w);
    }
}

/* ---- `full`: two ranks are one rank with twice the batch ---- */

enum { STEPS = 100, STEP_ROWS = 20 };

struct goal {
    struct job_world *world;
    uint64_t samples; /* of each rank */
};

static struct tr_report rank_report(const struct job_world *w, unsigned r)
{
    struct tr_report report;
    tr_trainer_report(w->rank[r].trainer, &report);
    return report;
}

static bool all_have(void *arg)
{
    const struct goal *goal = arg;
    for (unsigned r = 0; r < goal->world->conf.ranks; r++) {
        struct tr_report report = rank_report(goal->world, r);
        if (report.samples_trained < goal->samples)
            return false;
    }
    return true;
}

/* Mean loss of every step of the group. The sums that the ranks tell start anew with each epoch. */
static void losses(unsigned ranks, const char *optimizer, const char *rows, double *loss)
{
    struct job_world w;
    char batch[32];
    snprintf(batch, sizeof batch, "data.batch_size=%u", STEP_ROWS / ranks);
    const char *set[] = {"data.epochs=10",
                         "data.test=[]",
                         "global.mode=full",
                         "data.splits=1",
                         batch,
                         "data.shuffle=false",
                         optimizer,
                         rows};
    struct jw_conf conf = {.seed = 1, .ranks = ranks, .set = set, .n_set = ARRAY_LEN(set)};
    double before = 0;
    jw_start(&w, &conf);
    for (unsigned step = 0; step < STEPS; step++) {
        struct goal goal = {&w, (step + 1) * STEP_ROWS / ranks};
        double sum = 0;
        assert_true(sim_run_until(w.sim, all_have, &goal, 60 * RT_S));
        for (unsigned r = 0; r < ranks; r++) {
            struct tr_report report = rank_report(&w, r);
            assert_int_equal(report.step, step + 1);
            sum += report.train_loss * (double)report.train_loss_samples;
        }
        before = step % (JW_TRAIN_ROWS / STEP_ROWS) == 0 ? 0 : before;
        loss[step] = (sum - before) / STEP_ROWS;
        before = sum;
    }
    jw_run(&w);
    check_accounts(&w, 10);
    jw_stop(&w);
}

static void test_two_are_one_twice_as_large(void **state)
{
    (void)state;
    static const struct {
        const char *optimizer, *rows;
    } row[] = {{"model.optimizer={type: sgd, learning_rate: 0.1}",
                "embedding.defaults.optimizer={type: sgd, learning_rate: 1}"},
               {"model.optimizer={type: adam, learning_rate: 0.01}",
                "embedding.defaults.optimizer={type: adagrad, learning_rate: 0.05}"}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        double one[STEPS], other[STEPS];
        losses(1, row[i].optimizer, row[i].rows, one);
        assert_true(one[STEPS - 1] < 0.9 * one[0]); /* there was something to learn */
        for (unsigned ranks = 2; ranks <= 4; ranks += 2) {
            double largest = 0;
            losses(ranks, row[i].optimizer, row[i].rows, other);
            for (unsigned step = 0; step < STEPS; step++) {
                double difference = fabs(other[step] - one[step]) / one[step];
                largest = difference > largest ? difference : largest;
            }
            print_message("%u ranks at batch %u, 1 at %u, %s: largest relative difference of the "
                          "loss of %u steps: %.2e\n",
                          ranks, STEP_ROWS / ranks, STEP_ROWS, row[i].optimizer, STEPS, largest);
            assert_true(largest < 1e-5);
        }
    }
}

/* ---- an embedding server that comes back with nothing ---- */

/* In `full` its owners have seen no step: they are told how far all owners were, and a rank does not wait there for
 * a step of its own that all owners had. (One that others made without it is waited for in vain; and if all acks of a
 * step got through to some ranks and not to others, those wait for parts that nobody sends again.) */
static void test_restart_server(void **state)
{
    (void)state;
    const char *set[] = {EPOCHS, "data.test=[]", "global.mode=full"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(40); seed++) {
        struct job_world w;
        struct jw_conf conf = {
            .seed = seed, .ranks = 1 + (unsigned)seed % 2, .middlewares = 2, .job = job};
        uint64_t key = rt_draw_key(seed, "server", NULL);
        jw_start(&w, &conf);
        sim_run_until(w.sim, jw_is_over, &w, RT_MS + rt_below(rt_draw(key, 0), 30 * RT_MS));
        if (!jw_is_over(&w))
            jw_restart_server(&w);
        jw_run(&w);
        check_accounts(&w, 2);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- a rank that tells of batches that are not its own ---- */

/* Its header is refused, and nobody's ledger takes the word; when it says so no more, all goes on. */
static void test_lying_rank(void **state)
{
    (void)state;
    const char *set[] = {EPOCHS, "data.test=[]"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    const uint64_t lie[] = {rt_batch_id(0, 6), rt_batch_id(1, 5), rt_batch_id(0, RT_SEQUENCE_MAX),
                            rt_batch_id(7, 0), rt_batch_id(RT_SPLIT_EVALUATE, 7)};
    for (size_t i = 0; i < ARRAY_LEN(lie); i++) {
        struct job_world w;
        struct jw_conf conf = {.seed = i + 1, .ranks = 3, .job = job};
        jw_start(&w, &conf);
        sim_run_until(w.sim, jw_is_over, &w, 5 * RT_MS);
        assert_false(jw_is_over(&w));
        struct tr_group *liar = w.rank[1].trainer->group;
        tr_group_news(liar, lie[i]);
        sim_run_until(w.sim, jw_is_over, &w, RT_S);
        assert_false(jw_is_over(&w));
        for (unsigned r = 0; r < 3; r++)
            assert_false(rt_ledger_is_finished(w.rank[r].trainer->ledger, lie[i]));
        assert_true(liar->news[0] == lie[i]);
        liar->n_news--;
        memmove(liar->news, liar->news + 1, liar->n_news * sizeof *liar->news);
        jw_run(&w);
        check_accounts(&w, 2);
        jw_stop(&w);
    }
    job_fixture_destroy(job);
}

/* ---- more news than a header takes ---- */

struct untold {
    struct job_world w;
    size_t most; /* batches of one rank that the others had not heard of */
};

static bool watch_news(void *arg)
{
    struct untold *u = arg;
    for (unsigned r = 0; r < u->w.conf.ranks; r++) {
        const struct tr_group *group = u->w.rank[r].trainer->group;
        u->most = group->n_news > u->most ? group->n_news : u->most;
    }
    return jw_is_over(&u->w);
}

/* In `async` a rank finishes several batches between rounds. Headers that take fewer of them, as those of a thousand
 * ranks, come more often then: what the others do not know yet stays a few batches. */
static void test_news_do_not_pile_up(void **state)
{
    (void)state;
    enum { TAKES = 3 };
    const char *set[] = {EPOCHS, "data.test=[]", "global.mode=async", "global.sync_every=20",
                         "data.batch_size=1"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    for (unsigned ranks = 2; ranks <= 3; ranks++) {
        struct untold u = {.most = 0};
        struct jw_conf conf = {.seed = ranks, .ranks = ranks, .job = job};
        jw_start(&u.w, &conf);
        for (unsigned r = 0; r < ranks; r++)
            u.w.rank[r].trainer->group->news_max = TAKES;
        sim_run_until(u.w.sim, watch_news, &u, 300 * RT_S);
        jw_run(&u.w);
        check_accounts(&u.w, 2);
        /* A header's, and those that were on their way when it was full. */
        assert_in_range(u.most, TAKES, TAKES + job->global.staleness);
        jw_stop(&u.w);
    }
    job_fixture_destroy(job);
}

/* ---- gradients that are finite, and whose sum would not be ---- */

/* The last layers make gradients of the size of `scale` while the scores stay as they are: of the first layer's
 * weights, or (`rows`) of embeddings, which are zero. */
static void make_steep(struct tr_model *model, float scale, bool rows)
{
    size_t n;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    for (size_t t = 0; t < n; t++) {
        float *value = tr_model_params(model) + tensor[t].offset;
        bool first = strcmp(tensor[t].name, "top.0.weight") == 0;
        for (size_t i = 0; i < tensor[t].count; i++)
            if (first)
                value[i] = rows && i % tensor[t].shape[1] < 8 ? 1 : 1 / scale;
            else if (strcmp(tensor[t].name, "top.1.weight") == 0)
                value[i] = scale;
            else
                value[i] = tensor[t].rank == 2 ? 1 : 0;
    }
}

/* Whatever their size: no rank fails, a batch is trained or dropped as a whole, all ranks alike, and owners find no
 * sum that they could not apply. Return: samples dropped. */
static uint64_t run_steep(struct rt_job *job, unsigned ranks, float scale, bool rows)
{
    struct job_world w;
    struct jw_conf conf = {.seed = 1, .ranks = ranks, .job = job};
    jw_start(&w, &conf);
    for (unsigned r = 0; r < ranks; r++)
        make_steep(w.rank[r].trainer->model, scale, rows);
    jw_run(&w);
    struct tr_report report = jw_report(&w);
    assert_int_equal(report.samples_trained + report.samples_dropped, JW_TRAIN_ROWS);
    for (unsigned r = 0; r < ranks; r++) {
        struct tr_model *model = w.rank[r].trainer->model;
        assert_true(tr_within(tr_model_params(model), tr_model_count(model), FLT_MAX));
        assert_true(tr_trainer_digest(w.rank[r].trainer) == tr_trainer_digest(w.rank[0].trainer));
    }
    for (unsigned k = 0; k < w.conf.owners; k++)
        if (ebs_owner_stats(w.owner[k])->rows_nonfinite != 0)
            fail_msg("%u ranks, %g: owner %u left rows out", ranks, (double)scale, k);
    jw_stop(&w);
    return report.samples_dropped;
}

static void test_sums_overflow(void **state)
{
    (void)state;
    static const float scale[] = {1,     1e8f,  1e10f, 1e13f,   1e14f, 1e15f,   1e16f, 1e20f,
                                  1e30f, 1e37f, 1e38f, 1.5e38f, 2e38f, 2.5e38f, 3e38f};
    for (size_t m = 0; m < 2; m++) {
        const char *set[] = {"data.test=[]", mode[m],
                             "model.layers=[{name: all, type: concat, inputs: [features, dense]}, "
                             "{name: top, type: mlp, inputs: [all], sizes: [8, 8, 1]}, "
                             "{name: loss, type: bce, inputs: [top]}]"};
        struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
        for (unsigned ranks = 1; ranks <= 3; ranks++)
            for (size_t i = 0; i < 2 * ARRAY_LEN(scale); i++) {
                uint64_t dropped = run_steep(job, ranks, scale[i / 2], i % 2);
                assert_true(scale[i / 2] > 1 || dropped == 0);
                assert_true(scale[i / 2] < 1e37f || dropped == JW_TRAIN_ROWS);
            }
        job_fixture_destroy(job);
    }
}

/* ---- schedules ---- */

/* The rate is that of the step in every mode, at every rank, and after a rank has died: it is told no step, it has it
 * from the others with the weights. */
static void test_schedule(void **state)
{
    (void)state;
    const struct tr_schedule schedule = {
        .kind = TR_SCHEDULE_LINEAR, .warmup = 2, .warmup_start = 0.5, .steps = 40, .final = 0.125};
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(12); seed++) {
        static const char linear[] = "model.schedule={type: linear, warmup: 2, warmup_start: 0.5, "
                                     "steps: 40, final: 0.125}";
        const char *set[] = {EPOCHS, "data.test=[]", mode[seed % MODES], linear,
                             "model.optimizer={type: lamb, clip_norm: 0.1}"};
        struct jw_conf conf = {.seed = seed, .ranks = 2, .set = set, .n_set = ARRAY_LEN(set)};
        struct job_world w;
        unsigned checked = 2 - seed % 2;
        jw_start(&w, &conf);
        sim_run_until(w.sim, jw_is_over, &w, 5 * RT_MS);
        assert_false(jw_is_over(&w));
        if (checked == 1)
            jw_restart_rank(&w, 1);
        jw_run(&w);
        for (unsigned r = 0; r < checked; r++) {
            struct tr_report report = rank_report(&w, r);
            double want = 0.001 * tr_schedule_factor(&schedule, report.step);
            if (report.learning_rate != want)
                fail_msg("seed %llu, rank %u, step %llu: rate %.17g, want %.17g",
                         (unsigned long long)seed, r, (unsigned long long)report.step,
                         report.learning_rate, want);
        }
        assert_true(tr_trainer_digest(w.rank[0].trainer) == tr_trainer_digest(w.rank[1].trainer));
        jw_stop(&w);
    }
}

int main(void)
{
    rt_log_set_level(getenv("TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_starts_differ),
        cmocka_unit_test(test_age_is_fetched),
        cmocka_unit_test(test_ages_differ),
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_import),
        cmocka_unit_test(test_import_that_is_left),
        cmocka_unit_test(test_import_given_up),
        cmocka_unit_test(test_kill_in_import),
        cmocka_unit_test(test_batchnorm),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_restart),
        cmocka_unit_test(test_restart_composers),
        cmocka_unit_test(test_two_are_one_twice_as_large),
        cmocka_unit_test(test_sums_overflow),
        cmocka_unit_test(test_restart_server),
        cmocka_unit_test(test_lying_rank),
        cmocka_unit_test(test_news_do_not_pile_up),
        cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
