/* tests/sim/test_phases.c -- epochs and evaluations over several ranks and composers, with the whole job around
 * them in one thread: every row accounted for, no shape of a job that waits for ever, the same result
 * whatever the network does and however many ranks score it. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/lib/temp.h"
#include "tests/sim/job_world.h"
#include "trainer/describe.h"
#include "trainer/save.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned runs(unsigned wanted)
{
    return seeds_wanted("TEST_PHASES_RUNS", wanted);
}

/* What the composers say they have read; those that started anew, or whose trainer did, have read again. */
static void check_composers(struct job_world *w, uint64_t epochs)
{
    uint64_t read = 0;
    unsigned restarts = w->rank[0].restarts;
    for (unsigned c = 0; c < w->conf.composers; c++) {
        struct dc_status status;
        dc_composer_status(w->composer[c], &status);
        read += status.rows_read;
        restarts += w->composer_restarts[c];
    }
    if (restarts == 0)
        assert_int_equal(read, JW_TRAIN_ROWS * epochs);
}

static void check_accounts(struct job_world *w, uint64_t epochs)
{
    check_composers(w, epochs);
    struct tr_report r = jw_report(w);
    if (r.samples_trained != JW_TRAIN_ROWS * epochs || r.samples_read != JW_TRAIN_ROWS * epochs ||
        r.samples_dropped + r.samples_quarantined != 0)
        fail_msg("seed %llu: read %llu trained %llu dropped %llu, want %llu",
                 (unsigned long long)w->conf.seed, (unsigned long long)r.samples_read,
                 (unsigned long long)r.samples_trained, (unsigned long long)r.samples_dropped,
                 (unsigned long long)(JW_TRAIN_ROWS * epochs));
    assert_true(r.read_whole);
    assert_int_equal(r.test_samples, JW_TEST_ROWS);
    assert_int_equal(r.permits_used, 0);
    assert_true(r.staleness_max <= w->job->global.staleness);
    uint64_t digest = tr_trainer_digest(w->rank[0].trainer);
    for (unsigned i = 0; i < w->conf.ranks; i++) {
        struct tr_report own;
        tr_trainer_report(w->rank[i].trainer, &own);
        assert_true(own.done);
        assert_int_equal(own.rank, i);
        assert_int_equal(own.batches_open, 0);
        if (tr_trainer_digest(w->rank[i].trainer) != digest)
            fail_msg("seed %llu: rank %u has other weights", (unsigned long long)w->conf.seed, i);
    }
}

/* Every shape, every mode, with and without a quiet network. */
static void test_shapes(void **state)
{
    (void)state;
    static const struct {
        unsigned composers, middlewares, ranks;
    } shape[] = {{1, 1, 1}, {1, 1, 3}, {2, 1, 2}, {2, 2, 2},
                 {3, 1, 2}, {2, 2, 4}, {3, 2, 3}, {1, 2, 4}};
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};
    for (uint64_t seed = 1; seed <= runs(72); seed++) {
        size_t s = seed % ARRAY_LEN(shape);
        const char *set[] = {"data.epochs=2", mode[seed / ARRAY_LEN(shape) % 3],
                             "global.sync_every=3", "data.splits=6"};
        struct job_world w;
        jw_start(&w, &(struct jw_conf){.seed = seed,
                                       .composers = shape[s].composers,
                                       .middlewares = shape[s].middlewares,
                                       .ranks = shape[s].ranks,
                                       .set = set,
                                       .n_set = ARRAY_LEN(set)});
        jw_break_links(&w, seed % 2 ? 0 : 20, false);
        jw_run(&w);
        check_accounts(&w, 2);
        jw_stop(&w);
    }
}

/* With a window of one, no shuffling and a split for each few batches a composer has a row of batches for one rank
 * and stops reading, while another rank has none of it. Without NothingYet this hangs. */
static void test_nothing_yet(void **state)
{
    (void)state;
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full"};
    for (uint64_t seed = 1; seed <= runs(48); seed++) {
        const char *set[] = {"data.epochs=2",      mode[seed % 2],
                             "data.window=1",      seed % 4 < 2 ? "data.splits=2" : "data.splits=7",
                             "data.batch_size=8",  "data.block_rows=8",
                             "data.shuffle_rows=8"};
        struct job_world w;
        jw_start(&w, &(struct jw_conf){.seed = seed,
                                       .composers = 1 + (unsigned)(seed / 2 % 2),
                                       .ranks = 2 + (unsigned)(seed / 4 % 3),
                                       .set = set,
                                       .n_set = ARRAY_LEN(set)});
        jw_break_links(&w, seed % 3 ? 0 : 20, false);
        jw_run(&w);
        check_accounts(&w, 2);
        jw_stop(&w);
    }
}

/* `exact` with several ranks, evaluations and windows that fill: whatever links break, the same bits. Eight splits and
 * blocks of one batch make long rows of batches for one rank; whether another joins meanwhile without a batch
 * must not hang on the network. */
static void test_exact(void **state)
{
    (void)state;
    static const char *const window[] = {"data.window=1", "data.window=2", "data.window=4"};
    for (unsigned job = 0; job < 6; job++) {
        unsigned ranks = 2 + job % 3;
        uint64_t want = 0;
        struct tr_report first = {0};
        for (uint64_t seed = 1; seed <= runs(20); seed++) {
            const char *set[] = {"data.epochs=2",
                                 "global.mode=full",
                                 "global.exact=true",
                                 window[(job + job / 3) % 3],
                                 job < 3 ? "data.splits=5" : "data.splits=8",
                                 "data.batch_size=8",
                                 job < 3 ? "data.block_rows=16" : "data.block_rows=8",
                                 job < 3 ? "data.shuffle_rows=16" : "data.shuffle_rows=8",
                                 "global.evaluate_every=4"};
            struct job_world w;
            jw_start(&w, &(struct jw_conf){.seed = seed,
                                           .ranks = ranks,
                                           .middlewares = 1 + (unsigned)(seed % 2),
                                           .set = set,
                                           .n_set = ARRAY_LEN(set)});
            jw_break_links(&w, seed == 1 ? 0 : (unsigned)seed, false);
            jw_run(&w);
            check_accounts(&w, 2);
            uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
            struct tr_report r = jw_report(&w);
            if (seed == 1) {
                want = digest;
                first = r;
            } else if (digest != want || r.test_auc != first.test_auc || r.step != first.step ||
                       r.test_logloss != first.test_logloss || r.train_loss != first.train_loss ||
                       r.evaluations != first.evaluations) {
                fail_msg("job %u, seed %llu: not the bits of the unbroken run", job,
                         (unsigned long long)seed);
            }
            jw_stop(&w);
        }
    }
}

/* Nothing is learned, so every rank scores the same whoever has the batch: one rank and three must tell the
 * same bits of AUC and log loss. */
static void test_result_of_any_ranks(void **state)
{
    (void)state;
    struct tr_report first = {0};
    for (unsigned ranks = 1; ranks <= 4; ranks++) {
        const char *set[] = {"data.epochs=1", "data.splits=6", "data.batch_size=7",
                             "model.optimizer.learning_rate=0",
                             "embedding.defaults.optimizer.learning_rate=0"};
        struct job_world w;
        jw_start(&w, &(struct jw_conf){.seed = 100 + ranks,
                                       .ranks = ranks,
                                       .composers = 1 + ranks % 2,
                                       .set = set,
                                       .n_set = ARRAY_LEN(set)});
        jw_run(&w);
        check_accounts(&w, 1);
        struct tr_report r = jw_report(&w);
        if (ranks == 1)
            first = r;
        assert_true(r.test_auc == first.test_auc && r.test_logloss == first.test_logloss);
        assert_true(r.test_auc > 0 && r.test_auc < 1);
        jw_stop(&w);
    }
}

/* Evaluations in the midst of epochs: each at its step, no row lost, no step made meanwhile. */
static void test_evaluate_every(void **state)
{
    (void)state;
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full"};
    for (uint64_t seed = 1; seed <= runs(36); seed++) {
        const char *set[] = {"data.epochs=2", "global.evaluate_every=3", mode[seed % 2],
                             seed % 3 ? "data.window=4" : "data.window=1"};
        struct job_world w;
        jw_start(&w, &(struct jw_conf){.seed = seed,
                                       .ranks = 1 + (unsigned)(seed % 3),
                                       .composers = 1 + (unsigned)(seed / 3 % 2),
                                       .set = set,
                                       .n_set = ARRAY_LEN(set)});
        jw_break_links(&w, seed % 4 ? 0 : 15, false);
        jw_run(&w);
        check_accounts(&w, 2);
        struct tr_report r = jw_report(&w);
        assert_true(r.evaluations >= r.step / 3);
        assert_int_equal(r.n_evaluation, r.evaluations);
        for (uint32_t i = 0; i < r.n_evaluation; i++) {
            assert_int_equal(r.evaluation[i].samples, JW_TEST_ROWS);
            assert_true(i == 0 || r.evaluation[i].step > r.evaluation[i - 1].step);
            if (i < r.step / 3 && r.evaluation[i].epoch == 0)
                assert_true(r.evaluation[i].step <= 3 * (i + 1));
        }
        assert_int_equal(r.evaluation[r.n_evaluation - 1].step, r.step);
        jw_stop(&w);
    }
}

static void test_max_steps(void **state)
{
    (void)state;
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};
    for (uint64_t seed = 1; seed <= runs(36); seed++) {
        const char *set[] = {"data.epochs=3", "global.max_steps=5", mode[seed % 3],
                             "global.sync_every=2",
                             seed % 4 ? "global.evaluate_every=0" : "data.test=[]"};
        struct job_world w;
        jw_start(&w, &(struct jw_conf){.seed = seed,
                                       .ranks = 1 + (unsigned)(seed % 4),
                                       .composers = 1 + (unsigned)(seed / 4 % 2),
                                       .set = set,
                                       .n_set = ARRAY_LEN(set)});
        jw_break_links(&w, seed % 2 ? 0 : 10, false);
        jw_run(&w);
        struct tr_report r = jw_report(&w);
        bool async = seed % 3 == 2;
        if (async ? r.step < 5 || r.step > 7 : r.step != 5)
            fail_msg("seed %llu: %llu steps", (unsigned long long)seed, (unsigned long long)r.step);
        assert_true(r.samples_trained > 0 && r.samples_trained <= 7 * 16 * w.conf.ranks);
        assert_int_equal(r.samples_dropped, 0);
        if (seed % 4)
            assert_int_equal(r.test_samples, JW_TEST_ROWS);
        uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
        for (unsigned i = 1; i < w.conf.ranks; i++)
            assert_true(tr_trainer_digest(w.rank[i].trainer) == digest);
        jw_stop(&w);
    }
}

static bool all_know_the_end(void *world)
{
    struct job_world *w = world;
    bool done = jw_is_over(w);
    for (unsigned c = 0; c < w->conf.composers; c++) {
        struct dc_status status;
        dc_composer_status(w->composer[c], &status);
        done = done && strcmp(status.stage, "done") == 0;
    }
    return done;
}

/* ---- the file of scores ---- */

/* Column `a` of the fixture's test rows is the key: 0.00, 0.10, ... 0.90, each of six rows. */
static void check_predictions(struct job_world *w)
{
    unsigned seen[10] = {0}, rows = 0;
    for (unsigned r = 0; r < w->conf.ranks; r++) {
        char *path = w->conf.ranks > 1 ? rt_xasprintf("%s.%u", w->conf.predict, r)
                                       : rt_xstrdup(w->conf.predict);
        char *text = NULL, *line, *rest;
        size_t size;
        assert_int_equal(rt_file_read(path, 1 << 20, &text, &size), 0);
        line = strtok_r(text, "\n", &rest);
        assert_string_equal(line, "key\tloss");
        while ((line = strtok_r(NULL, "\n", &rest)) != NULL) {
            double key, score;
            int end = 0;
            if (sscanf(line, "%lf\t%lf%n", &key, &score, &end) != 2 || line[end] || score < 0 ||
                score > 1)
                fail_msg("seed %llu: '%s'", (unsigned long long)w->conf.seed, line);
            seen[(unsigned)(key * 10 + 0.5) % 10]++;
            rows++;
        }
        unlink(path);
        rt_free(text);
        rt_free(path);
    }
    for (unsigned k = 0; k < 10; k++)
        if (seen[k] != JW_TEST_ROWS / 10)
            fail_msg("seed %llu: key %u in %u rows of %u", (unsigned long long)w->conf.seed, k,
                     seen[k], rows);
}

static void predict(uint64_t seed, const char *folder, bool trains)
{
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};
    const char *set[] = {trains ? "data.epochs=2" : "data.epochs=0",
                         mode[seed % 3],
                         "global.sync_every=2",
                         "data.columns.a=key",
                         "data.columns.b={kind: dense, standardize: true}",
                         "data.batch_size=7",
                         seed % 2 ? "global.evaluate_every=3" : "global.evaluate_every=0",
                         "data.splits=6",
                         "data.train=[nowhere.tsv]"};
    char *file = rt_path_join(folder, "scores");
    struct job_world w;
    jw_start(&w, &(struct jw_conf){.seed = seed,
                                   .ranks = 1 + (unsigned)(seed % 4),
                                   .composers = 1 + (unsigned)(seed / 4 % 3),
                                   .init_from = trains ? NULL : folder,
                                   .predict = file,
                                   .set = set,
                                   .n_set = ARRAY_LEN(set) - trains});
    jw_break_links(&w, seed % 3 ? 30 : 0, false);
    if (seed % 5 == 0)
        jw_restart_composer(&w, 0);
    jw_run(&w);
    struct tr_report r = jw_report(&w);
    assert_null(r.predict_error);
    assert_int_equal(r.test_samples, JW_TEST_ROWS);
    if (trains)
        check_accounts(&w, 2);
    else
        assert_true(r.step == 0 && r.samples_read == 0 && r.evaluations == 1);
    check_predictions(&w);
    if (!trains && seed % 2) { /* whoever is started anew hears that all is done */
        assert_true(sim_run_until(w.sim, all_know_the_end, &w, 10 * RT_S));
        jw_restart_ranks(&w, 0, w.conf.ranks);
        if (!sim_run_until(w.sim, all_know_the_end, &w, 60 * RT_S) || w.failed)
            fail_msg("seed %llu: not done again: %s", (unsigned long long)seed, w.failed_text);
    }
    jw_stop(&w);
    rt_free(file);
}

/* Each test row once, whoever scores it and whatever the network does. */
static void test_predictions(void **state)
{
    (void)state;
    char folder[TEMP_PATH_MAX];
    temp_folder(folder);
    for (uint64_t seed = 1; seed <= runs(48); seed++)
        predict(seed, folder, true);
    rmdir(folder);
}

/* A saved model alone is evaluated, with the statistics that stand in it: there is no training file. */
static void test_no_epochs(void **state)
{
    static const char *const set[] = {"data.columns.a=key"};
    const struct wire_statistics b = {"b", 0.4, 0.25, 100};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    struct tr_model *model;
    char folder[TEMP_PATH_MAX];
    (void)state;
    temp_folder(folder);
    struct rt_save save = {.dir = folder};
    assert_int_equal(tr_job_model(job, 16, 1, NULL, &model), 0);
    struct tr_saved saved = tr_saved_now(job, model, NULL, 0);
    saved.statistics = &b;
    saved.n_statistics = 1;
    assert_int_equal(tr_save_dense(&saved, &save), 0);
    for (uint64_t seed = 1; seed <= runs(48); seed++)
        predict(seed, folder, false);
    tr_model_destroy(model);
    job_fixture_destroy(job);
}

/* ---- ranks that die in an evaluation ---- */

/* Of some rank: not all need have heard of it, nor that it is over. */
static bool evaluating(void *world)
{
    const struct job_world *w = world;
    bool any = jw_is_over(world);
    for (unsigned r = 0; r < w->conf.ranks; r++)
        any = any || w->rank[r].trainer->kind == WIRE_PHASE_EVALUATE;
    return any;
}

/* Each evaluation is of all test rows, and of weights that nothing has changed: as many and the same results as in a run to which nothing
 * happens. Those of a rank 0 that died are not told again by the next. */
static void check_evaluations(struct job_world *w, const struct tr_report *want, bool lost_leader)
{
    struct tr_report r = jw_report(w);
    for (uint32_t i = 0; i < r.n_evaluation; i++)
        if (r.evaluation[i].samples != JW_TEST_ROWS ||
            r.evaluation[i].auc != want->evaluation[0].auc ||
            r.evaluation[i].logloss != want->evaluation[0].logloss)
            fail_msg("seed %llu: evaluation %u: %llu samples, auc %.17g, expected %d, %.17g",
                     (unsigned long long)w->conf.seed, i,
                     (unsigned long long)r.evaluation[i].samples, r.evaluation[i].auc, JW_TEST_ROWS,
                     want->evaluation[0].auc);
    if (r.n_evaluation < 1 || (!lost_leader && r.n_evaluation != want->n_evaluation))
        fail_msg("seed %llu: %u evaluations, expected %u", (unsigned long long)w->conf.seed,
                 r.n_evaluation, want->n_evaluation);
    assert_int_equal(r.samples_read, 2 * JW_TRAIN_ROWS);
}

/* Two of them, at any moments, of two evaluations or of one; neighbours together at times. Then rank 0 has nothing, or the job began anew. */
static bool lose_ranks(struct job_world *w)
{
    uint64_t key = rt_draw_key(w->conf.seed, "lost ranks", NULL);
    bool leader = false;
    for (unsigned i = 0; i < 2 && !jw_is_over(w); i++) {
        sim_run_until(w->sim, evaluating, w, 60 * RT_S);
        sim_run_until(w->sim, jw_is_over, w, rt_below(rt_draw(key, 4 * i), 12 * RT_MS));
        unsigned n = w->conf.ranks > 2 && rt_below(rt_draw(key, 4 * i + 1), 3) == 0 ? 2 : 1;
        unsigned first = (unsigned)rt_below(rt_draw(key, 4 * i + 2), w->conf.ranks);
        if (jw_is_over(w))
            break;
        jw_restart_ranks(w, first, n);
        leader = leader || first == 0 || first + n > w->conf.ranks;
        if (rt_below(rt_draw(key, 4 * i + 3),
                     2)) /* else it is hit again before it has begun again */
            sim_run_until(w->sim, jw_is_over, w, 30 * RT_MS);
    }
    return leader;
}

static struct rt_job *evaluated_job(unsigned kind)
{
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};
    const char *set[] = {"data.epochs=2",
                         "data.splits=6",
                         "data.batch_size=4",
                         "global.sync_every=2",
                         "model.optimizer.learning_rate=0",
                         "embedding.defaults.optimizer.learning_rate=0",
                         mode[kind % 3],
                         kind < 3 ? "global.evaluate_every=0" : "global.evaluate_every=4"};
    return job_fixture(set, ARRAY_LEN(set));
}

static void test_rank_lost_in_evaluation(void **state)
{
    enum { KINDS = 6 };
    (void)state;
    for (unsigned kind = 0; kind < KINDS; kind++) {
        struct rt_job *job = evaluated_job(kind);
        for (unsigned ranks = 2; ranks <= 3; ranks++) {
            struct job_world calm;
            jw_start(&calm, &(struct jw_conf){.seed = 1, .ranks = ranks, .job = job});
            jw_run(&calm);
            struct tr_report want = jw_report(&calm);
            for (uint64_t seed = 1; seed <= runs(20); seed++) {
                struct job_world w;
                jw_start(&w, &(struct jw_conf){.seed = seed,
                                               .ranks = ranks,
                                               .composers = 1 + (unsigned)(seed % 2),
                                               .middlewares = 1 + (unsigned)(seed / 2 % 2),
                                               .job = job});
                bool lost_leader = lose_ranks(&w);
                jw_run(&w);
                check_evaluations(&w, &want, lost_leader);
                jw_stop(&w);
            }
            jw_stop(&calm);
        }
        job_fixture_destroy(job);
    }
}

/* After the end whoever is started anew hears of it, and nothing is trained a second time: one rank from the others,
 * all ranks from the composers, also where one of those is as new as they are. */
static void test_started_after_done(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        unsigned ranks, composers, first_rank, end_rank, first_composer, end_composer;
    } row[] = {
        {"the only rank", 1, 1, 0, 1, 0, 0},
        {"the only composer", 1, 1, 0, 0, 0, 1},
        {"rank 0 of two", 2, 1, 0, 1, 0, 0},
        {"rank 1 of two", 2, 2, 1, 2, 0, 0},
        {"both ranks", 2, 1, 0, 2, 0, 0},
        {"three ranks", 3, 2, 0, 3, 0, 0},
        {"one composer, one rank", 1, 2, 0, 1, 0, 1},
        {"one composer, all ranks", 3, 2, 0, 3, 1, 2},
        {"all composers", 2, 3, 0, 0, 0, 3},
    };
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};
    for (unsigned i = 0; i < ARRAY_LEN(row) * ARRAY_LEN(mode); i++) {
        size_t k = i / ARRAY_LEN(mode);
        const char *set[] = {"data.epochs=2", mode[i % ARRAY_LEN(mode)], "data.splits=6"};
        struct job_world w;
        jw_start(&w, &(struct jw_conf){.seed = i + 1,
                                       .ranks = row[k].ranks,
                                       .composers = row[k].composers,
                                       .set = set,
                                       .n_set = ARRAY_LEN(set)});
        jw_run(&w);
        assert_true(sim_run_until(w.sim, all_know_the_end, &w, 10 * RT_S));
        for (unsigned c = row[k].first_composer; c < row[k].end_composer; c++)
            jw_restart_composer(&w, c);
        for (unsigned r = row[k].first_rank; r < row[k].end_rank; r++)
            jw_restart_rank(&w, r);
        if (!sim_run_until(w.sim, all_know_the_end, &w, 60 * RT_S) || w.failed)
            fail_msg("%s, %s: not done again: %s", row[k].name, set[1], w.failed_text);
        struct tr_report r;
        tr_trainer_report(w.rank[0].trainer, &r);
        bool is_new = row[k].first_rank == 0 && row[k].end_rank == row[k].ranks;
        if (is_new ? r.evaluations != 0 : r.step == 0)
            fail_msg("%s, %s: step %llu after %llu evaluations", row[k].name, set[1],
                     (unsigned long long)r.step, (unsigned long long)r.evaluations);
        jw_stop(&w);
    }
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_shapes),
        cmocka_unit_test(test_nothing_yet),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_result_of_any_ranks),
        cmocka_unit_test(test_evaluate_every),
        cmocka_unit_test(test_max_steps),
        cmocka_unit_test(test_predictions),
        cmocka_unit_test(test_no_epochs),
        cmocka_unit_test(test_rank_lost_in_evaluation),
        cmocka_unit_test(test_started_after_done),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
