/* tests/sim/test_group.c -- several ranks as one group, with the whole job around them, in one thread. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/sim/group_jobs.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "trainer/state.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* Ranks that begin with other weights, or as old as others are not, are told before a step is made. */
static void test_starts_differ(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    gj_make(job);
    for (unsigned i = 0; i < 2 * GJ_MODES; i++) {
        struct job_world w;
        struct jw_conf conf = {.seed = i + 1, .ranks = 3, .job = job[i % GJ_MODES]};
        jw_start(&w, &conf);
        struct tr_trainer *other = w.rank[1 + i % 2].trainer;
        char want[80];
        if (i / GJ_MODES == 0)
            tr_model_params(other->model)[5] += 0.25f;
        else
            other->steps_before = 7;
        other->group->begins_with = tr_form_digest(other);
        assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * 1000000000ull));
        snprintf(want, sizeof want, "trainer/%u begins with other dense weights or optimizer state",
                 1 + i % 2);
        if (w.failed != RT_EUSAGE || !strstr(w.failed_text, want))
            fail_msg("%u: %d \"%s\"", i, w.failed, w.failed_text);
        for (unsigned r = 0; r < 3; r++)
            assert_int_equal(w.rank[r].trainer->step, 0);
        jw_stop(&w);
    }
    gj_destroy(job);
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
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(18); seed++) {
        const char *set[] = {GJ_EPOCHS, "data.test=[]", gj_mode[seed % GJ_MODES],
                             "global.sync_every=3", "model.schedule={type: linear, steps: 300}"};
        struct job_world w;
        struct jw_conf conf = {
            .seed = seed, .ranks = 2 + (unsigned)seed % 2, .set = set, .n_set = ARRAY_LEN(set)};
        jw_start(&w, &conf);
        set_ages(&w, 200);
        assert_true(sim_run_until(w.sim, has_stepped, &w, 60 * RT_S));
        assert_false(jw_is_over(&w));
        jw_restart_rank(&w, (unsigned)(seed / GJ_MODES) % w.conf.ranks);
        jw_run(&w);
        for (unsigned r = 0; r < w.conf.ranks; r++)
            assert_int_equal(w.rank[r].trainer->steps_before, 200);
        gj_check_weights(&w);
        jw_stop(&w);
    }
}

/* Before the first step nothing is fetched: whoever comes back as old as the others goes on, and else the job fails. */
static void test_ages_differ(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    gj_make(job);
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
            gj_check_accounts(&w, 2);
        } else {
            assert_true(sim_run_until(w.sim, jw_is_over, &w, 60 * RT_S));
            if (w.failed != RT_EUSAGE ||
                !strstr(w.failed_text, " begins with weights that have made "))
                fail_msg("%u: %d \"%s\"", i, w.failed, w.failed_text);
        }
        jw_stop(&w);
    }
    gj_destroy(job);
}

static void test_modes(void **state)
{
    (void)state;
    struct rt_job *job[GJ_MODES];
    gj_make(job);
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(60); seed++) {
        struct job_world w;
        struct jw_conf conf = {.seed = seed,
                               .ranks = 2 + (unsigned)(seed / 3) % 3,
                               .composers = 1 + (unsigned)(seed / 9) % 2,
                               .middlewares = 1 + (unsigned)(seed / 27) % 2,
                               .job = job[seed % GJ_MODES]};
        jw_start(&w, &conf);
        jw_break_links(&w, seed % 2 ? 0 : 20, true);
        jw_run(&w);
        gj_check_accounts(&w, 2);
        jw_stop(&w);
    }
    gj_destroy(job);
}

/* Running averages are part of what the ranks have in common, in every mode, and of what a rank that died fetches. */
static void test_batchnorm(void **state)
{
    (void)state;
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(12); seed++) {
        static const char layers[] =
            "model.layers=[{name: all, type: concat, inputs: [features, dense]}, "
            "{name: norm, type: batchnorm, inputs: [all]}, "
            "{name: top, type: mlp, inputs: [norm], sizes: [8, 1], activation: dice}, "
            "{name: loss, type: bce, inputs: [top]}]";
        const char *set[] = {GJ_EPOCHS, "data.test=[]", gj_mode[seed % GJ_MODES],
                             "global.sync_every=3", layers};
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
    const char *set[] = {GJ_EPOCHS, "data.test=[]", "global.mode=full", "global.exact=true"};
    struct rt_job *job = job_fixture(set, ARRAY_LEN(set));
    for (unsigned ranks = 2; ranks <= 4; ranks++) {
        uint64_t want = 0;
        double loss = 0;
        for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(40); seed++) {
            struct job_world w;
            struct jw_conf conf = {.seed = seed, .ranks = ranks, .job = job};
            jw_start(&w, &conf);
            jw_break_links(&w, seed == seeds_first() ? 0 : (unsigned)seed, true);
            jw_run(&w);
            gj_check_accounts(&w, 2);
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
    gj_check_accounts(&w, 10);
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

/* ---- a rank that tells of batches that are not its own ---- */

/* Its header is refused, and nobody's ledger takes the word; when it says so no more, all goes on. */
static void test_lying_rank(void **state)
{
    (void)state;
    const char *set[] = {GJ_EPOCHS, "data.test=[]"};
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
        gj_check_accounts(&w, 2);
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
    const char *set[] = {GJ_EPOCHS, "data.test=[]", "global.mode=async", "global.sync_every=20",
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
        gj_check_accounts(&u.w, 2);
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
        const char *set[] = {"data.test=[]", gj_mode[m],
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
    for (uint64_t seed = seeds_first(); seed < seeds_first() + gj_runs(12); seed++) {
        static const char linear[] = "model.schedule={type: linear, warmup: 2, warmup_start: 0.5, "
                                     "steps: 40, final: 0.125}";
        const char *set[] = {GJ_EPOCHS, "data.test=[]", gj_mode[seed % GJ_MODES], linear,
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
        cmocka_unit_test(test_batchnorm),
        cmocka_unit_test(test_exact),
        cmocka_unit_test(test_two_are_one_twice_as_large),
        cmocka_unit_test(test_sums_overflow),
        cmocka_unit_test(test_lying_rank),
        cmocka_unit_test(test_news_do_not_pile_up),
        cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
