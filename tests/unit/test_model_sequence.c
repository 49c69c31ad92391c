/* tests/unit/test_model_sequence.c -- features that are sequences: the step of a model that gets distinct rows and an index is,
 * bit for bit, that of one that gets the same written out, with its mask as dense columns; gradients are those summed
 * by row. And the layer masked_pool against loops that follow its definition. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

enum {
    SAMPLES = 300,
    LENGTH = 4,
    DIM = 3,
    WIDTH = LENGTH * DIM,
    ROWS = 50,
    PLACES = SAMPLES * LENGTH
};

struct bed {
    float label[SAMPLES], row[ROWS * DIM], other[SAMPLES * DIM];
    uint16_t half_row[ROWS * DIM], half_other[SAMPLES * DIM];
    uint32_t length[SAMPLES], index[PLACES];
    float out[SAMPLES * WIDTH], mask[SAMPLES * LENGTH]; /* written out */
    float sum[ROWS * DIM], wide_grad[SAMPLES * WIDTH], other_grad[2][SAMPLES * DIM];
    uint16_t half_sum[ROWS * DIM], half_other_grad[SAMPLES * DIM];
};

static void bed_init(struct bed *bed, uint32_t dtype)
{
    uint32_t at = 0;
    uint64_t draw = 0;
    memset(bed, 0, sizeof *bed);
    for (uint32_t i = 0; i < ROWS * DIM; i++)
        bed->row[i] = rt_normal_f32(rt_draw(5, draw++));
    for (uint32_t i = 0; i < SAMPLES * DIM; i++)
        bed->other[i] = rt_normal_f32(rt_draw(5, draw++));
    rt_narrow(dtype, bed->row, bed->half_row, dtype ? ROWS * DIM : 0);
    rt_widen(dtype, bed->half_row, bed->row, dtype ? ROWS * DIM : 0);
    rt_narrow(dtype, bed->other, bed->half_other, dtype ? SAMPLES * DIM : 0);
    rt_widen(dtype, bed->half_other, bed->other, dtype ? SAMPLES * DIM : 0);
    for (uint32_t s = 0; s < SAMPLES; s++) {
        bed->label[s] = (float)(rt_draw(6, s) & 1);
        bed->length[s] = (uint32_t)rt_below(rt_draw(7, s), LENGTH + 1);
        for (uint32_t i = 0; i < bed->length[s]; i++, at++) {
            bed->index[at] = (uint32_t)rt_below(rt_draw(8, at), ROWS);
            memcpy(bed->out + s * WIDTH + i * DIM, bed->row + bed->index[at] * DIM,
                   DIM * sizeof(float));
            bed->mask[s * LENGTH + i] = 1;
        }
    }
}

/* seq: as a sequence; else written out, with the mask as dense columns. */
static struct tr_model *model_of(bool seq, uint32_t dtype, uint32_t grad_dtype, int threads)
{
    static const char *const label[] = {"y"}, *const feature[] = {"h", "o"};
    static const char *const dense[] = {"m0", "m1", "m2", "m3"};
    const uint32_t dim[] = {seq ? DIM : WIDTH, DIM}, length[] = {LENGTH, 0};
    const char *mask = seq ? "h.mask" : "dense";
    struct tr_spec *spec = NULL;
    struct tr_model *model = NULL;
    struct tr_model_inputs inputs = {.feature = feature,
                                     .feature_dim = dim,
                                     .feature_length = seq ? length : NULL,
                                     .n_features = 2,
                                     .dense = dense,
                                     .n_dense = seq ? 0 : LENGTH,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 3,
                                 .samples_max = SAMPLES,
                                 .threads = threads,
                                 .feature_dtype = dtype,
                                 .feature_grad_dtype = grad_dtype};
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    assert_int_equal(tr_spec_layer(spec, "p", "masked_pool", (const char *[]){"h", mask}, 2, "1"),
                     0);
    assert_int_equal(
        tr_spec_layer(spec, "d", "dot_interaction", (const char *[]){"p", "o"}, 2, "2"), 0);
    assert_int_equal(
        tr_spec_layer(spec, "all", "concat", (const char *[]){"d", "h", mask, "o", "p"}, 5, "3"),
        0);
    assert_int_equal(tr_spec_layer(spec, "l", "mlp", (const char *[]){"all"}, 1, "4"), 0);
    assert_int_equal(tr_spec_option(spec, "sizes", (const char *[]){"7", "1"}, 2, "4"), 0);
    assert_int_equal(tr_spec_layer(spec, "loss", "bce", (const char *[]){"l"}, 1, "5"), 0);
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
    tr_spec_destroy(spec);
    return model;
}

static void train(struct bed *bed, struct tr_model *model, bool seq, bool half, bool half_grad,
                  struct tr_feature_grad *to, struct tr_forward_out *out)
{
    const struct tr_sequence_view sequence[2] = {
        {.index = bed->index, .length = bed->length, .rows = ROWS}};
    const void *feature[] = {seq ? half ? (void *)bed->half_row : bed->row : bed->out,
                             half ? (void *)bed->half_other : bed->other};
    struct tr_batch_view view = {.samples = SAMPLES,
                                 .dense = seq ? NULL : bed->mask,
                                 .feature = feature,
                                 .sequence = seq ? sequence : NULL,
                                 .labels = bed->label};
    to[0].out = seq ? half_grad ? (void *)bed->half_sum : bed->sum : bed->wide_grad;
    to[1].out = half_grad ? (void *)bed->half_other_grad : bed->other_grad[seq];
    assert_int_equal(tr_model_train(model, &view, SAMPLES, to, out), 0);
    assert_true(out->finite && out->saturated == 0);
}

/* Gradients of what was written out, added up place after place. */
static void add_up(const struct bed *bed, float *sum)
{
    uint32_t at = 0;
    memset(sum, 0, ROWS * DIM * sizeof *sum);
    for (uint32_t s = 0; s < SAMPLES; s++)
        for (uint32_t i = 0; i < bed->length[s]; i++, at++)
            for (uint32_t j = 0; j < DIM; j++)
                sum[bed->index[at] * DIM + j] += bed->wide_grad[s * WIDTH + i * DIM + j];
}

/* With several threads what is written out is shared out by samples, and sequences are not: sums over samples are made in
 * another order. */
static void assert_alike(const float *got, const float *want, size_t n, bool same_bits)
{
    if (same_bits)
        assert_memory_equal(got, want, n * sizeof(float));
    for (size_t i = 0; i < n; i++)
        assert_true(fabsf(got[i] - want[i]) <= 1e-6f * fmaxf(1, fabsf(want[i])));
}

static void test_as_written_out(void **state)
{
    static const struct {
        uint32_t dtype, grad_dtype;
        int threads;
    } row[] = {{RT_DTYPE_F32, RT_DTYPE_F32, 1},
               {RT_DTYPE_F32, RT_DTYPE_F32, 2},
               {RT_DTYPE_BF16, RT_DTYPE_F32, 1},
               {RT_DTYPE_F16, RT_DTYPE_F16, 1},
               {RT_DTYPE_BF16, RT_DTYPE_BF16, 1}};
    (void)state;
    static struct bed bed;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        uint32_t dtype = row[r].dtype, grad_dtype = row[r].grad_dtype;
        struct tr_model *wide = model_of(false, RT_DTYPE_F32, RT_DTYPE_F32, row[r].threads);
        struct tr_model *seq = model_of(true, dtype, grad_dtype, row[r].threads);
        struct tr_feature_grad to[2];
        struct tr_forward_out out[2] = {{0}};
        float want[ROWS * DIM];
        bed_init(&bed, dtype);
        train(&bed, wide, false, false, false, to, &out[0]);
        add_up(&bed, want);
        assert_int_equal(tr_model_count(wide), tr_model_count(seq));
        for (int again = 0; again < 2; again++) { /* what a batch leaves is not in the next */
            train(&bed, seq, true, dtype != RT_DTYPE_F32, grad_dtype != RT_DTYPE_F32, to, &out[1]);
            bool same = row[r].threads == 1;
            assert_true(fabs(out[0].loss_sum - out[1].loss_sum) <=
                        (same ? 0 : 1e-6 * out[0].loss_sum));
            assert_alike(tr_model_grads(seq), tr_model_grads(wide), tr_model_count(seq), same);
            if (grad_dtype == RT_DTYPE_F32) {
                assert_alike(bed.sum, want, ROWS * DIM, same);
                continue;
            }
            uint16_t narrow[ROWS * DIM];
            float scale = grad_dtype == RT_DTYPE_F16 ? rt_half_scale(want, ROWS * DIM) : 1;
            assert_true(to[0].scale == scale);
            rt_narrow_scaled(grad_dtype, scale, want, narrow, ROWS * DIM);
            assert_memory_equal(bed.half_sum, narrow, sizeof narrow);
        }
        tr_model_destroy(wide);
        tr_model_destroy(seq);
    }
}

/* One layer, two samples, by hand: the second has no places. */
static void test_masked_pool(void **state)
{
    static const struct {
        const char *pooling;
        float weight; /* of each of two places */
    } row[] = {{NULL, 0.5f}, {"mean", 0.5f}, {"sum", 1}};
    static const char *const label[] = {"y"}, *const feature[] = {"h"};
    static const uint32_t dim[] = {1}, length[] = {3};
    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct tr_spec *spec = NULL;
        struct tr_model *model = NULL;
        struct tr_model_inputs inputs = {.feature = feature,
                                         .feature_dim = dim,
                                         .feature_length = length,
                                         .n_features = 1,
                                         .label = label,
                                         .n_labels = 1};
        struct tr_model_conf conf = {.seed = 1, .samples_max = 2, .backend = "reference"};
        assert_int_equal(tr_spec_create("t.yml", &spec), 0);
        assert_int_equal(
            tr_spec_layer(spec, "p", "masked_pool", (const char *[]){"h", "h.mask"}, 2, "1"), 0);
        if (row[r].pooling)
            assert_int_equal(tr_spec_option(spec, "pooling", &row[r].pooling, 1, "1"), 0);
        assert_int_equal(tr_spec_layer(spec, "loss", "bce", (const char *[]){"p"}, 1, "2"), 0);
        assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
        tr_spec_destroy(spec);
        float value[] = {3, -1}, labels[] = {1, 1}, logit[2], grad[2];
        const void *rows[] = {value};
        uint32_t index[] = {0, 1}, lengths[] = {2, 0};
        struct tr_sequence_view view = {.index = index, .length = lengths, .rows = 2};
        struct tr_batch_view batch = {
            .samples = 2, .feature = rows, .sequence = &view, .labels = labels};
        struct tr_feature_grad to = {.out = grad};
        struct tr_forward_out out = {.logit = logit};
        assert_int_equal(tr_model_train(model, &batch, 2, &to, &out), 0);
        float want = row[r].weight * 2;
        assert_true(logit[0] == want && logit[1] == 0);
        float slope = (float)((1 / (1 + exp(-(double)want)) - 1) / 2) * row[r].weight;
        assert_true(fabsf(grad[0] - slope) < 1e-6f && fabsf(grad[1] - slope) < 1e-6f);
        tr_model_destroy(model);
    }
}

static void test_refused(void **state)
{
    static const struct {
        const char *type, *in[3];
        uint32_t n, length;
        const char *want;
    } row[] = {
        {"masked_pool", {"h"}, 1, 3, "expected two inputs, a sequence and its mask, got 1"},
        {"masked_pool", {"h", "o"}, 2, 3, "input 'o': expected a mask, NAME.mask of a sequence"},
        {"masked_pool", {"o", "h.mask"}, 2, 3, "expected a multiple of the 3 places that 'h.mask'"},
        {"concat", {"h.mesk"}, 1, 3, "did you mean 'h.mask'"},
        {"concat", {"o.mask"}, 1, 3, "input 'o.mask': no earlier layer"},
        {"concat", {"h"}, 1, 1 << 20, "feature 'h': expected max_length x dim of at most 1048576"},
    };
    static const char *const label[] = {"y"}, *const feature[] = {"h", "o"};
    static const uint32_t dim[] = {4, 4};
    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        uint32_t length[] = {row[r].length, 0};
        struct tr_spec *spec = NULL;
        struct tr_model *model = NULL;
        struct tr_model_inputs inputs = {.feature = feature,
                                         .feature_dim = dim,
                                         .feature_length = length,
                                         .n_features = 2,
                                         .label = label,
                                         .n_labels = 1};
        struct tr_model_conf conf = {.seed = 1, .samples_max = 2};
        assert_int_equal(tr_spec_create("t.yml", &spec), 0);
        assert_int_equal(
            tr_spec_layer(spec, "p", row[r].type, (const char *const *)row[r].in, row[r].n, "1"),
            0);
        assert_int_equal(tr_spec_layer(spec, "loss", "bce", (const char *[]){"p"}, 1, "2"), 0);
        if (tr_model_create(spec, &inputs, &conf, &model) != RT_EUSAGE ||
            !strstr(rt_err_text(), row[r].want))
            fail_msg("row %zu: %s, expected %s", r, rt_err_text(), row[r].want);
        tr_spec_destroy(spec);
    }
}

static struct tr_model *din_of(uint32_t length, const char *activation)
{
    static const char *const label[] = {"y"}, *const feature[] = {"h", "o"};
    const uint32_t dim[] = {DIM, DIM}, lengths[] = {length, 0};
    struct tr_spec *spec = NULL;
    struct tr_model *model = NULL;
    struct tr_model_inputs inputs = {.feature = feature,
                                     .feature_dim = dim,
                                     .feature_length = lengths,
                                     .n_features = 2,
                                     .label = label,
                                     .n_labels = 1};
    struct tr_model_conf conf = {.seed = 3, .samples_max = SAMPLES};
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    assert_int_equal(
        tr_spec_layer(spec, "a", "attention", (const char *[]){"o", "h", "h.mask"}, 3, "1"), 0);
    assert_int_equal(tr_spec_option(spec, "kind", (const char *[]){"din"}, 1, "1"), 0);
    assert_int_equal(tr_spec_option(spec, "sizes", (const char *[]){"6", "4"}, 2, "1"), 0);
    assert_int_equal(tr_spec_option(spec, "activation", &activation, 1, "1"), 0);
    assert_int_equal(tr_spec_layer(spec, "l", "mlp", (const char *[]){"a"}, 1, "2"), 0);
    assert_int_equal(tr_spec_option(spec, "sizes", (const char *[]){"1"}, 1, "2"), 0);
    assert_int_equal(tr_spec_layer(spec, "loss", "bce", (const char *[]){"l"}, 1, "3"), 0);
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
    tr_spec_destroy(spec);
    return model;
}

/* What fills a list up counts for nothing in target attention, not even in the mean and variance of a dice: with room for more
 * places the step has the same bits. Where all lists are empty the unit has no gradient. */
static void test_din_counts_places(void **state)
{
    static const char *const activation[] = {"sigmoid", "dice"};
    static struct bed bed;
    (void)state;
    for (size_t i = 0; i < 2 * ARRAY_LEN(activation); i++) {
        struct tr_model *model[] = {din_of(LENGTH, activation[i / 2]),
                                    din_of(LENGTH + 7, activation[i / 2])};
        struct tr_forward_out out[2] = {{0}};
        float sum[2][ROWS * DIM];
        size_t count = tr_model_count(model[0]);
        bed_init(&bed, RT_DTYPE_F32);
        if (i % 2)
            memset(bed.length, 0, sizeof bed.length);
        for (int k = 0; k < 2; k++) {
            struct tr_feature_grad to[2] = {{0}};
            for (size_t g = 0; g < count; g++)
                tr_model_grads(model[k])[g] = 99; /* overwritten, all of it */
            train(&bed, model[k], true, false, false, to, &out[k]);
            memcpy(sum[k], bed.sum, sizeof bed.sum);
        }
        assert_true(out[0].loss_sum == out[1].loss_sum);
        assert_int_equal(count, tr_model_count(model[1]));
        assert_memory_equal(tr_model_grads(model[0]), tr_model_grads(model[1]),
                            count * sizeof(float));
        assert_memory_equal(sum[0], sum[1], sizeof sum[0]);
        for (size_t g = 0; i % 2 && g < count - DIM - 1; g++) /* but the last layer's */
            assert_true(tr_model_grads(model[0])[g] == 0);
        assert_true(i % 2 || sum[0][0] != 0);
        tr_model_destroy(model[0]);
        tr_model_destroy(model[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_written_out),
        cmocka_unit_test(test_din_counts_places),
        cmocka_unit_test(test_masked_pool),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests_name("model_sequence", tests, NULL, NULL);
}
