/* tests/unit/test_model_half.c -- features that come in 16 bits, and gradients that leave in them: the step is that of
 * float32 on the widened values, bit for bit, and its gradients narrowed; scales of float16. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

enum { SAMPLES = 300, BLOCK = 128, FEATURES = 3, DIM = 5, FLOATS = SAMPLES * DIM };

/* The third feature is read by no layer. */
struct bed {
    float label[SAMPLES], weight[SAMPLES];
    float wide[FEATURES][FLOATS];
    uint16_t half[FEATURES][FLOATS];
    float grad[FEATURES][FLOATS]; /* of float32 */
    uint16_t half_grad[FEATURES][FLOATS];
    struct tr_feature_grad to[FEATURES];
    struct tr_forward_out out;
};

static struct tr_model *model_of(uint32_t feature_dtype, uint32_t grad_dtype, int threads)
{
    static const char *const label[] = {"y"}, *const feature[] = {"a", "b", "unread"};
    static const char *const in[] = {"a", "b"}, *const dots[] = {"a", "b"},
                             *const all[] = {"x", "d"};
    static const uint32_t dim[] = {DIM, DIM, DIM};
    static const char *const top[] = {"z"}, *const logit[] = {"l"};
    struct tr_spec *spec = NULL;
    struct tr_model *model = NULL;
    struct tr_model_inputs inputs = {.feature = feature,
                                     .feature_dim = dim,
                                     .n_features = FEATURES,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 3,
                                 .samples_max = SAMPLES,
                                 .threads = threads,
                                 .feature_dtype = feature_dtype,
                                 .feature_grad_dtype = grad_dtype};
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    assert_int_equal(tr_spec_layer(spec, "x", "concat", in, 2, "t.yml:1"), 0);
    assert_int_equal(tr_spec_layer(spec, "d", "dot_interaction", dots, 2, "t.yml:2"), 0);
    assert_int_equal(tr_spec_layer(spec, "z", "concat", all, 2, "t.yml:3"), 0);
    assert_int_equal(tr_spec_layer(spec, "l", "mlp", top, 1, "t.yml:4"), 0);
    assert_int_equal(tr_spec_option(spec, "sizes", (const char *[]){"7", "1"}, 2, "t.yml:4"), 0);
    assert_int_equal(tr_spec_layer(spec, "loss", "bce", logit, 1, "t.yml:5"), 0);
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
    tr_spec_destroy(spec);
    return model;
}

static void bed_init(struct bed *bed, uint32_t dtype)
{
    uint64_t draw = 0;
    memset(bed, 0, sizeof *bed);
    memset(bed->half_grad, 0x5a, sizeof bed->half_grad);
    for (uint32_t s = 0; s < SAMPLES; s++) {
        bed->label[s] = (float)(rt_draw(1, s) & 1);
        bed->weight[s] = 1;
    }
    for (uint32_t f = 0; f < FEATURES; f++) {
        for (uint32_t i = 0; i < FLOATS; i++)
            bed->wide[f][i] = rt_normal_f32(rt_draw(2, draw++));
        rt_narrow(dtype, bed->wide[f], bed->half[f], FLOATS);
        rt_widen(dtype, bed->half[f], bed->wide[f], FLOATS);
    }
}

static void train(struct bed *bed, struct tr_model *model, bool half, bool half_grad)
{
    const void *feature[FEATURES];
    for (uint32_t f = 0; f < FEATURES; f++) {
        feature[f] = half ? (const void *)bed->half[f] : bed->wide[f];
        bed->to[f].out = half_grad ? (void *)bed->half_grad[f] : bed->grad[f];
    }
    struct tr_batch_view view = {
        .samples = SAMPLES, .feature = feature, .labels = bed->label, .weight = bed->weight};
    assert_int_equal(tr_model_train(model, &view, SAMPLES, bed->to, &bed->out), 0);
}

/* Both ways, each alone and together, against float32: the same bits but for the last rounding. */
static void test_as_float32(void **state)
{
    (void)state;
    static struct bed bed;
    for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
        bed_init(&bed, dtype);
        struct tr_model *plain = model_of(RT_DTYPE_F32, RT_DTYPE_F32, 1);
        struct tr_model *in = model_of(dtype, RT_DTYPE_F32, 1), *both = model_of(dtype, dtype, 1);
        size_t bytes = tr_model_count(plain) * sizeof(float);
        train(&bed, plain, false, false);
        float want[FEATURES][FLOATS];
        double loss = bed.out.loss_sum;
        memcpy(want, bed.grad, sizeof want);
        for (uint32_t f = 0; f < FEATURES; f++)
            assert_true(bed.to[f].scale == 1);
        memset(bed.grad, 0x5a, sizeof bed.grad);
        train(&bed, in, true, false);
        assert_memory_equal(bed.grad, want, sizeof want);
        assert_true(bed.out.loss_sum == loss);
        train(&bed, both, true, true);
        assert_true(bed.out.loss_sum == loss && bed.out.finite && bed.out.saturated == 0);
        assert_memory_equal(tr_model_grads(both), tr_model_grads(plain), bytes);
        for (uint32_t f = 0; f < FEATURES; f++) {
            uint16_t narrow[FLOATS];
            float scale = bed.to[f].scale, back[FLOATS];
            bool scaled = dtype == RT_DTYPE_F16 && f < 2;
            assert_true(scale == (scaled ? rt_half_scale(want[f], BLOCK * DIM) * 0x1p-12f : 1));
            rt_narrow_scaled(dtype, scale, want[f], narrow, FLOATS);
            assert_memory_equal(bed.half_grad[f], narrow, sizeof narrow);
            rt_widen_scaled(dtype, 1 / scale, narrow, back, FLOATS);
            for (uint32_t i = 0; i < FLOATS; i++) /* half a unit of 11 bits, and of 8 */
                assert_true(fabsf(back[i] - want[f][i]) <=
                            fabsf(want[f][i]) * (scaled ? 0x1p-11f : 0x1p-8f) + 0x1p-26f / scale);
        }
        tr_model_destroy(plain);
        tr_model_destroy(in);
        tr_model_destroy(both);
    }
}

/* The first 128 samples are worth `first`: gradients of nothing say nothing of the scale, those that are 2^20 times
 * smaller leave too little room. Threads, which change the slices, change no scale. */
static void test_scales(void **state)
{
    (void)state;
    static const struct {
        float first;
        bool saturates;
        int threads;
    } row[] = {
        {1, false, 1}, {0, false, 1}, {0, false, 2}, {0x1p-20f, true, 1}, {0x1p-20f, true, 2}};
    static struct bed bed;
    for (size_t r = 0; r < sizeof row / sizeof row[0]; r++) {
        struct tr_model *plain = model_of(RT_DTYPE_F32, RT_DTYPE_F32, row[r].threads);
        struct tr_model *half = model_of(RT_DTYPE_F32, RT_DTYPE_F16, row[r].threads);
        bed_init(&bed, RT_DTYPE_F16);
        for (uint32_t s = 0; s < BLOCK; s++)
            bed.weight[s] = row[r].first;
        train(&bed, plain, false, false);
        train(&bed, half, false, true);
        uint64_t saturated = 0;
        for (uint32_t f = 0; f < 2; f++) {
            size_t at = row[r].first == 0 ? BLOCK * DIM : 0;
            float scale = rt_half_scale(bed.grad[f] + at, BLOCK * DIM) * 0x1p-12f;
            assert_true(bed.to[f].scale == scale);
            for (uint32_t i = 0; i < FLOATS; i++) {
                bool over = fabsf(bed.grad[f][i]) * scale > 65504;
                saturated += over;
                if (over)
                    assert_int_equal(bed.half_grad[f][i] & 0x7fff, 0x7bff);
            }
        }
        assert_true(bed.out.finite && (saturated > 0) == row[r].saturates);
        assert_int_equal(bed.out.saturated, saturated);
        tr_model_destroy(plain);
        tr_model_destroy(half);
    }
}

/* What is not finite is seen in float32, and nothing of it is written. */
static void test_not_finite(void **state)
{
    (void)state;
    static struct bed bed;
    for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
        struct tr_model *model = model_of(dtype, dtype, 1);
        bed_init(&bed, dtype);
        bed.half[1][200 * DIM] = dtype == RT_DTYPE_F16 ? 0x7e00 : 0x7fc0;
        train(&bed, model, true, true);
        assert_true(!bed.out.finite);
        for (uint32_t i = BLOCK * DIM; i < FLOATS; i++)
            assert_int_equal(bed.half_grad[1][i], 0x5a5a);
        tr_model_destroy(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_float32),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_not_finite),
    };
    return cmocka_run_group_tests_name("model_half", tests, NULL, NULL);
}
