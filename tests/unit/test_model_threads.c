/* tests/unit/test_model_threads.c -- threads that have a part of the batch each: what one thread computes, but for the order of
 * sums over samples; the same bits again and again; batches with fewer samples than threads; the threads themselves. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/half.h"
#include "runtime/base/rand.h"
#include "trainer/model/lanes.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

enum { SAMPLES = 700, FEATURES = 2, DIM = 5, DENSE = 3 };

/* What a batch brings and what comes of it. */
struct bed {
    struct tr_model *model;
    float dense[SAMPLES * DENSE], label[SAMPLES], weight[SAMPLES];
    float feature[FEATURES][SAMPLES * DIM], grad[FEATURES][SAMPLES * DIM];
    float logit[SAMPLES], score[SAMPLES];
    struct tr_feature_grad to[FEATURES];
    struct tr_forward_out out;
    size_t settled; /* calls; the last one's */
    size_t from;
};

static void layer(struct tr_spec *spec, const char *name, const char *type, const char *const *in,
                  uint32_t n)
{
    assert_int_equal(tr_spec_layer(spec, name, type, in, n, "t.yml:1"), 0);
}

/* Cross layers, dropout, and a deep network beside them. */
static struct tr_model *model_of(int threads)
{
    static const char *const label[] = {"y"}, *const feature[] = {"a", "b"},
                             *const dense[] = {"p", "q", "r"}, *const in[] = {"features", "dense"};
    static const char *const all[] = {"all"}, *const kept[] = {"kept"}, *const logit[] = {"logit"};
    static const char *const both[] = {"crosses", "deep"}, *const sum[] = {"both"};
    static const uint32_t dim[] = {DIM, DIM};
    struct tr_spec *spec = NULL;
    struct tr_model *model = NULL;
    struct tr_model_inputs inputs = {.dense = dense,
                                     .n_dense = DENSE,
                                     .feature = feature,
                                     .feature_dim = dim,
                                     .n_features = FEATURES,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 3, .samples_max = SAMPLES, .threads = threads};
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    layer(spec, "all", "concat", in, 2);
    layer(spec, "crosses", "cross", all, 1);
    assert_int_equal(tr_spec_option(spec, "layers", (const char *[]){"2"}, 1, "t.yml:1"), 0);
    layer(spec, "kept", "dropout", all, 1);
    assert_int_equal(tr_spec_option(spec, "rate", (const char *[]){"0.25"}, 1, "t.yml:1"), 0);
    layer(spec, "deep", "mlp", kept, 1);
    assert_int_equal(tr_spec_option(spec, "sizes", (const char *[]){"9", "4"}, 2, "t.yml:1"), 0);
    layer(spec, "both", "concat", both, 2);
    layer(spec, "logit", "linear", sum, 1);
    assert_int_equal(tr_spec_option(spec, "size", (const char *[]){"1"}, 1, "t.yml:1"), 0);
    layer(spec, "loss", "bce", logit, 1);
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
    tr_spec_destroy(spec);
    return model;
}

static void on_settled(void *arg, size_t from)
{
    struct bed *bed = arg;
    assert_true(bed->settled == 0 || from < bed->from);
    bed->settled++;
    bed->from = from;
}

static struct bed *bed_of(int threads)
{
    struct bed *bed = calloc(1, sizeof *bed);
    uint64_t key = rt_draw_key(7, "bed", NULL);
    assert_non_null(bed);
    bed->model = model_of(threads);
    for (uint32_t s = 0; s < SAMPLES; s++) {
        bed->label[s] = (float)(rt_draw(key, s) & 1);
        bed->weight[s] = 0.5f + rt_unit_f32(rt_draw(key, 1000 + s));
        for (uint32_t d = 0; d < DENSE; d++)
            bed->dense[s * DENSE + d] = rt_unit_f32(rt_draw(key, 10000 + s * DENSE + d));
        for (uint32_t f = 0; f < FEATURES; f++)
            for (uint32_t d = 0; d < DIM; d++)
                bed->feature[f][s * DIM + d] =
                    rt_unit_f32(rt_draw(key, 20000 + (f * SAMPLES + s) * DIM + d)) - 0.5f;
    }
    for (uint32_t f = 0; f < FEATURES; f++)
        bed->to[f].out = bed->grad[f];
    return bed;
}

static void bed_free(struct bed *bed)
{
    tr_model_destroy(bed->model);
    free(bed);
}

static void train(struct bed *bed, uint32_t samples)
{
    const void *feature[FEATURES] = {bed->feature[0], bed->feature[1]};
    const struct tr_settled settled = {on_settled, bed};
    struct tr_batch_view view = {.samples = samples,
                                 .dense = bed->dense,
                                 .feature = feature,
                                 .labels = bed->label,
                                 .draw = 99,
                                 .weight = bed->weight,
                                 .settled = &settled};
    bed->settled = 0;
    bed->out = (struct tr_forward_out){.logit = bed->logit, .score = bed->score};
    assert_int_equal(tr_model_train(bed->model, &view, samples, bed->to, &bed->out), 0);
    assert_true(bed->out.finite);
    assert_true(bed->settled > 0 && bed->from == 0);
}

static void assert_near(const char *what, uint32_t samples, const float *a, const float *b,
                        size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabsf(a[i] - b[i]) <= 2e-6f * fmaxf(1, fabsf(b[i]))))
            fail_msg("%u samples: %s[%zu]: %.9g, expected %.9g", samples, what, i, (double)a[i],
                     (double)b[i]);
}

/* Of 700 samples each thread has several slices or parts of them, of 2 some have none. */
static void test_as_one_thread(void **state)
{
    static const uint32_t samples[] = {SAMPLES, 129, 2, 1, SAMPLES};
    static const int threads[] = {2, 3, 8};
    (void)state;
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        struct bed *one = bed_of(1), *many = bed_of(threads[t]);
        size_t n = tr_model_count(one->model);
        assert_int_equal(tr_model_count(many->model), n);
        for (size_t i = 0; i < sizeof samples / sizeof *samples; i++) {
            train(one, samples[i]);
            train(many, samples[i]);
            assert_near("logit", samples[i], many->logit, one->logit, samples[i]);
            assert_near("score", samples[i], many->score, one->score, samples[i]);
            for (uint32_t f = 0; f < FEATURES; f++)
                assert_near("feature", samples[i], many->grad[f], one->grad[f],
                            (size_t)samples[i] * DIM);
            assert_near("gradient", samples[i], tr_model_grads(many->model),
                        tr_model_grads(one->model), n);
            assert_true(fabs(many->out.loss_sum - one->out.loss_sum) <= 1e-6 * one->out.loss_sum);
        }
        bed_free(one);
        bed_free(many);
    }
}

/* A second model, and the same one again; after an update through the caller's pointer all threads see it. */
static void test_same_bits(void **state)
{
    struct bed *a = bed_of(3), *b = bed_of(3);
    size_t n = tr_model_count(a->model) * sizeof(float);
    (void)state;
    for (int turn = 0; turn < 20; turn++) {
        train(a, SAMPLES);
        train(b, SAMPLES);
        assert_memory_equal(tr_model_grads(a->model), tr_model_grads(b->model), n);
        assert_memory_equal(a->grad, b->grad, sizeof a->grad);
        assert_true(a->out.loss_sum == b->out.loss_sum);
        for (size_t i = 0; i < tr_model_count(a->model); i++) {
            tr_model_params(a->model)[i] -= 0.1f * tr_model_grads(a->model)[i];
            tr_model_params(b->model)[i] -= 0.1f * tr_model_grads(b->model)[i];
        }
    }
    bed_free(a);
    bed_free(b);
}

/* What is not finite is seen whichever thread has it. */
static void test_not_finite(void **state)
{
    static const uint32_t at[] = {0, 350, SAMPLES - 1};
    (void)state;
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        struct bed *bed = bed_of(3);
        const void *feature[FEATURES] = {bed->feature[0], bed->feature[1]};
        struct tr_batch_view view = {
            .samples = SAMPLES, .dense = bed->dense, .feature = feature, .labels = bed->label};
        bed->feature[1][at[i] * DIM] = NAN;
        assert_int_equal(tr_model_train(bed->model, &view, SAMPLES, bed->to, &bed->out), 0);
        assert_false(bed->out.finite);
        assert_true(tr_model_feature_is_unfit(bed->model, 1));
        bed_free(bed);
    }
}

/* ---- the threads alone ---- */

static void count(void *arg, uint32_t lane)
{
    ((unsigned *)arg)[lane]++;
}

static void test_lanes(void **state)
{
    static const uint32_t n[] = {1, 2, 7};
    (void)state;
    for (size_t i = 0; i < sizeof n / sizeof *n; i++) {
        unsigned done[8] = {0};
        struct tr_lanes *lanes = NULL;
        assert_int_equal(tr_lanes_create(n[i], &lanes), 0);
        for (unsigned run = 1; run <= 2000; run++) {
            tr_lanes_run(lanes, count, done);
            for (uint32_t k = 0; k < 8; k++)
                assert_int_equal(done[k], k < n[i] ? run : 0);
        }
        tr_lanes_destroy(lanes);
    }
    tr_lanes_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lanes),
        cmocka_unit_test(test_as_one_thread),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests_name("model_threads", tests, NULL, NULL);
}
