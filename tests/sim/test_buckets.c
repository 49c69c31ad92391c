/* tests/sim/test_buckets.c -- gradients that are summed over the ranks while those of earlier layers are still computed. Whatever the
 * buckets, links that break, ranks that die with some of them out and others not, and batches that turn out not to be finite
 * when others' gradients have long been given away: `exact` ends with the bits of one bucket in an undisturbed run. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"
#include "tests/sim/job_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "trainer/state.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define EPOCHS  "data.epochs=2"
#define ONE     "global.trainer.bucket_bytes=4194304" /* more than the network has */
#define SMALL   "global.trainer.bucket_bytes=4096"    /* six of them */
#define BETWEEN "global.trainer.bucket_bytes=8400" /* 2,100 elements: no whole number of grains */

#define TOP "{name: top, type: mlp, inputs: [all], sizes: [32, 64, 48, 1]}, "
static const char plain[] =
    "model.layers=[{name: all, type: concat, inputs: [features, dense]}, " TOP
    "{name: loss, type: bce, inputs: [top]}]";
/* Running averages travel in their gradients' places, and lie among them. */
static const char normed[] =
    "model.layers=[{name: both, type: concat, inputs: [features, dense]}, "
    "{name: first, type: linear, inputs: [both], size: 40}, "
    "{name: all, type: batchnorm, inputs: [first]}, " TOP "{name: loss, type: bce, inputs: [top]}]";

static unsigned runs(unsigned wanted)
{
    return seeds_wanted("TEST_BUCKETS_RUNS", wanted);
}

/* What a run is, and what is seen of it. */
struct run {
    const char *model, *sum, *rows; /* layers; dtype of the sum; samples of a batch, and splits */
    const char *bucket;
    unsigned ranks;
    uint64_t seed;
    unsigned breaks, deaths;
    bool poison;
    struct job_world w;
    unsigned died;
    unsigned
        summing[JW_MAX]; /* by rank: looks at it in which it computed and had given some away */
};

/* Batch 0.3, wherever and whenever it is looked up: its gradients will not be finite. */
static void poison(struct run *run)
{
    for (unsigned r = 0; r < run->ranks; r++) {
        struct tr_batch *batch =
            rt_map_get_ptr(&run->w.rank[r].trainer->batches, rt_batch_id(0, 3));
        float nan = NAN;
        if (batch && batch->embeddings)
            memcpy(batch->embeddings->data, &nan, sizeof nan);
    }
}

static bool gives(const struct run *run, unsigned r)
{
    const struct tr_trainer *trainer = run->w.rank[r].trainer;
    return trainer->computing && trainer->step_kind == TR_SHARED && trainer->reducing_ns != 0;
}

static bool watch(void *arg)
{
    struct run *run = arg;
    if (run->poison)
        poison(run);
    for (unsigned r = 0; r < run->ranks; r++)
        run->summing[r] += gives(run, r);
    return jw_is_over(&run->w);
}

/* The first moment after a time at which one rank has given some buckets away and computes the others. */
static bool watch_for_death(void *arg)
{
    struct run *run = arg;
    bool now = false;
    for (unsigned r = 0; r < run->ranks; r++)
        now = now || gives(run, r);
    return watch(arg) || now;
}

static void let_die(struct run *run)
{
    uint64_t key = rt_draw_key(run->seed, "deaths", NULL);
    for (unsigned i = 0; i < run->deaths; i++) {
        sim_run_until(run->w.sim, watch, run, rt_below(rt_draw(key, 3 * i), 20 * RT_MS));
        sim_run_until(run->w.sim, watch_for_death, run, 300 * RT_S);
        if (jw_is_over(&run->w))
            return;
        unsigned dies = (unsigned)rt_below(rt_draw(key, 3 * i + 1), run->ranks);
        if (i % 2 == 0) /* one that computes; else any, also one that waits for it */
            while (!gives(run, dies))
                dies = (dies + 1) % run->ranks;
        run->died++;
        jw_restart_rank(&run->w, dies);
    }
}

static void break_links(struct run *run)
{
    uint64_t key = rt_draw_key(run->seed, "breaks", NULL);
    for (unsigned i = 0; i < run->breaks && !jw_is_over(&run->w); i++) {
        unsigned a = (unsigned)rt_below(rt_draw(key, 2 * i), run->ranks);
        sim_run_until(run->w.sim, watch, run, rt_below(rt_draw(key, 2 * i + 1), 5 * RT_MS));
        sim_break(run->w.sim, jw_node_rank(&run->w, a),
                  jw_node_rank(&run->w, (a + 1) % run->ranks));
    }
}

static void start(struct run *run)
{
    char rows[64];
    snprintf(rows, sizeof rows, "data.batch_size=%s", run->rows);
    const char *set[] = {EPOCHS, "data.test=[]", "global.mode=full",
                         /* of which a death would send all back */
                         run->deaths ? "global.exact=false" : "global.exact=true", "data.splits=1",
                         "model.optimizer={type: adam, learning_rate: 0.01, clip_norm: 0.5}", rows,
                         run->model, run->sum, run->bucket};
    struct jw_conf conf = {
        .seed = run->seed, .ranks = run->ranks, .set = set, .n_set = ARRAY_LEN(set)};
    run->died = 0;
    memset(run->summing, 0, sizeof run->summing);
    jw_start(&run->w, &conf);
}

/* Batches that were dropped, by the features that are why: of the poisoned one only one feature is. */
static uint64_t counted(const struct run *run)
{
    uint64_t sum = 0;
    for (unsigned r = 0; r < run->ranks; r++)
        for (uint32_t f = 0; f < run->w.job->n_features; f++)
            sum += run->w.rank[r].trainer->metric.nonfinite[f];
    return sum;
}

/* Return: digest of the weights, which all ranks have. */
static uint64_t train(struct run *run)
{
    start(run);
    let_die(run);
    break_links(run);
    sim_run_until(run->w.sim, watch, run, 300 * RT_S);
    jw_run(&run->w);
    uint64_t digest = tr_trainer_digest(run->w.rank[0].trainer);
    for (unsigned r = 1; r < run->ranks; r++)
        if (tr_trainer_digest(run->w.rank[r].trainer) != digest)
            fail_msg("seed %llu: rank %u has other weights", (unsigned long long)run->seed, r);
    struct tr_report report = jw_report(&run->w);
    if (!run->deaths) {
        assert_int_equal(report.samples_dropped, run->poison ? 10 : 0);
        assert_int_equal(counted(run), run->poison);
        assert_int_equal(report.samples_trained + report.samples_dropped, 2 * JW_TRAIN_ROWS);
    }
    jw_stop(&run->w);
    return digest;
}

static const char *const model[] = {plain, normed};
static const char *const sum[] = {"global.wire.all_reduce=float32",
                                  "global.wire.all_reduce=bfloat16"};
/* 150 and 50 samples: batches of two slices and of one, of which only the last gives gradients away. */
static const char *const rows[] = {"10", "150"};

/* Every shape of a run; the same seed is the same one. */
static struct run shape(uint64_t seed)
{
    return (struct run){.model = model[seed % 2],
                        .sum = sum[seed / 2 % 2],
                        .rows = rows[seed / 4 % 2],
                        .bucket = ONE,
                        .ranks = 2 + (unsigned)(seed % 3),
                        .seed = seed};
}

static void test_same_bits(void **state)
{
    (void)state;
    static const char *const bucket[] = {SMALL, BETWEEN};
    for (uint64_t seed = 1; seed <= runs(24); seed++) {
        struct run run = shape(seed);
        uint64_t want = train(&run);
        for (unsigned r = 0; r < run.ranks; r++)
            assert_int_equal(run.summing[r], 0); /* one bucket: nothing is given before the end */
        for (size_t i = 0; i < ARRAY_LEN(bucket); i++) {
            run.bucket = bucket[i];
            run.breaks = (unsigned)(seed % 4) * 5;
            if (train(&run) != want)
                fail_msg("seed %llu, %u ranks, %s: other bits", (unsigned long long)seed, run.ranks,
                         run.bucket);
            assert_true(run.summing[0] > 0);
        }
    }
}

static void test_not_finite(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= runs(12); seed++) {
        struct run run = shape(seed);
        run.rows = rows[0]; /* 10 of them are dropped, in the first epoch */
        run.poison = true;
        uint64_t want = train(&run);
        run.bucket = SMALL;
        run.breaks = (unsigned)(seed % 3) * 5;
        if (train(&run) != want)
            fail_msg("seed %llu: other bits", (unsigned long long)seed);
    }
}

/* The rank that has found its batch's gradients not finite, and has no answer of the others; `ranks`: none. */
static unsigned finder(const struct run *run)
{
    unsigned r = 0;
    for (; r < run->ranks; r++) {
        const struct tr_trainer *trainer = run->w.rank[r].trainer;
        if (trainer->stepping && !trainer->computing && !trainer->step_finite)
            break;
    }
    return r;
}

static bool watch_for_finder(void *arg)
{
    return watch(arg) || finder(arg) < ((struct run *)arg)->ranks;
}

/* Another rank dies just then: the step is undone, and made again with the batch that is not finite. */
static void test_counted_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= runs(12); seed++) {
        struct run run = shape(seed);
        run.rows = rows[0];
        run.bucket = SMALL;
        run.poison = true;
        run.deaths = 1;
        start(&run);
        sim_run_until(run.w.sim, watch_for_finder, &run, 300 * RT_S);
        unsigned found = finder(&run);
        assert_true(found < run.ranks);
        jw_restart_rank(&run.w, (found + 1) % run.ranks);
        sim_run_until(run.w.sim, watch, &run, 300 * RT_S);
        jw_run(&run.w);
        if (counted(&run) != 1)
            fail_msg("seed %llu: counted %llu times", (unsigned long long)seed,
                     (unsigned long long)counted(&run));
        jw_stop(&run.w);
    }
}

static void test_deaths(void **state)
{
    (void)state;
    unsigned died = 0;
    for (uint64_t seed = 1; seed <= runs(36); seed++) {
        struct run run = shape(seed);
        uint64_t want = train(&run);
        run.bucket = seed % 5 ? SMALL : BETWEEN;
        run.deaths = 1 + (unsigned)(seed % 3);
        if (train(&run) != want)
            fail_msg("seed %llu, %u ranks, %u deaths: other bits", (unsigned long long)seed,
                     run.ranks, run.died);
        died += run.died;
    }
    assert_true(died >= runs(36));
}

int main(void)
{
    rt_log_set_level(getenv("TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_counted_once),
        cmocka_unit_test(test_deaths),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
