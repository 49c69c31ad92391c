/* tests/unit/test_rounded.c -- products in bfloat16, each way in which they are made, against plain C; and the primitives that are
 * kept for them. A CPU without bfloat16 shows all of it but the element: the same values, widened, through the same code. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "trainer/backend/cpu/matmul.h"
#include "trainer/backend/cpu/rounded.h"
#include "trainer/model/build.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

static float *fill(size_t n, uint64_t seed)
{
    float *value = rt_xaligned(n * sizeof *value);
    for (size_t i = 0; i < n; i++)
        value[i] = rt_normal_f32(rt_draw(seed, i));
    return value;
}

static void assert_close(const char *what, const float *got, const float *want, size_t n,
                         double tolerance)
{
    for (size_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i]))))
            fail_msg("%s[%zu]: got %.9g, want %.9g", what, i, got[i], want[i]);
}

/* ---- rows without gaps ---- */

static void test_round_rows(void **state)
{
    (void)state;
    static const struct {
        uint32_t in, out;
    } row[] = {
        {0x3f808000, 0x3f80}, {0x3f818000, 0x3f82}, /* ties: to even */
        {0x3f808001, 0x3f81}, {0x3f80ffff, 0x3f81}, {0xbf818000, 0xbf82},
        {0x7f7fffff, 0x7f7f}, /* FLT_MAX: stays finite */
        {0x7f800000, 0x7f80}, {0xff800000, 0xff80}, {0x00008001, 0x0001},
        {0x00008000, 0x0000}, {0x80000000, 0x8000},
    };
    enum { ROWS = 3, COLUMNS = 700, STRIDE = 703 };
    float *from = fill((size_t)ROWS * STRIDE, 1), *wide = fill((size_t)ROWS * COLUMNS, 2);
    uint16_t *half = rt_xmalloc((size_t)ROWS * COLUMNS * sizeof *half);
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < ARRAY_LEN(row); i++)
            memcpy(&from[r * STRIDE + 505 + i], &row[i].in, sizeof *from);
    tr_round_rows(from, STRIDE, ROWS, COLUMNS, false, half);
    tr_round_rows(from, STRIDE, ROWS, COLUMNS, true, wide);
    for (size_t r = 0; r < ROWS; r++) {
        for (size_t c = 0; c < COLUMNS; c++) {
            uint32_t bits, at = (uint32_t)half[r * COLUMNS + c] << 16;
            float value = from[r * STRIDE + c], got;
            memcpy(&bits, &wide[r * COLUMNS + c], sizeof bits);
            memcpy(&got, &at, sizeof got);
            assert_int_equal(bits, at);
            bool special = c >= 505 && c < 505 + ARRAY_LEN(row);
            if (special)
                assert_int_equal(half[r * COLUMNS + c], row[c - 505].out);
            else
                assert_true(fabsf(got - value) <= 0x1p-8f * fabsf(value));
        }
    }
    rt_free(from);
    rt_free(wide);
    rt_free(half);
}

/* ---- a linear layer ---- */

enum { ROWS = 40, OTHERS = 5 }; /* samples at a time; parameters before w */

struct bed {
    uint32_t samples, inputs, outputs;
    size_t x_stride, y_stride;
    enum tr_act_kind act;
    bool add;
    size_t n_params;
    float *params, *x, *b, *y, *z, *dy, *dx, *dw, *db;
};

static void bed_init(struct bed *bed, const uint32_t *size, uint32_t variant)
{
    size_t gap = variant & 1 ? 3 : 0;
    *bed = (struct bed){.samples = size[0], .inputs = size[1], .outputs = size[2]};
    bed->x_stride = size[1] + gap;
    bed->y_stride = size[2] + 2 * gap;
    bed->add = variant & 2;
    bed->act = variant & 4 ? TR_ACT_GELU : variant & 2 ? TR_ACT_RELU : TR_ACT_NONE;
    bed->n_params = OTHERS + (size_t)size[1] * size[2];
    bed->params = fill(bed->n_params, 1);
    bed->x = fill(size[0] * bed->x_stride, 2);
    bed->b = fill(size[2], 3);
    bed->y = fill(size[0] * bed->y_stride, 4);
    bed->z = fill(size[0] * bed->y_stride, 5);
    bed->dy = fill(size[0] * bed->y_stride, 6);
    bed->dx = fill(size[0] * bed->x_stride, 7);
    bed->dw = fill(bed->n_params, 8);
    bed->db = fill(size[2], 9);
}

static void bed_release(struct bed *bed)
{
    float *all[] = {bed->params, bed->x,  bed->b,  bed->y, bed->z,
                    bed->dy,     bed->dx, bed->dw, bed->db};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        rt_free(all[i]);
}

static void run(struct bed *bed, struct tr_backend *backend)
{
    struct tr_linear op = {.samples = bed->samples,
                           .inputs = bed->inputs,
                           .outputs = bed->outputs,
                           .x = bed->x,
                           .w = bed->params + OTHERS,
                           .b = bed->add ? bed->b : NULL,
                           .x_stride = bed->x_stride,
                           .y_stride = bed->y_stride,
                           .z_stride = bed->y_stride,
                           .act = bed->act,
                           .z = bed->act == TR_ACT_GELU ? bed->z : NULL,
                           .y = bed->y};
    struct tr_linear_grad grad = {.samples = bed->samples,
                                  .inputs = bed->inputs,
                                  .outputs = bed->outputs,
                                  .x = bed->x,
                                  .w = bed->params + OTHERS,
                                  .dy = bed->dy,
                                  .x_stride = bed->x_stride,
                                  .dy_stride = bed->y_stride,
                                  .dx_stride = bed->x_stride,
                                  .dw = bed->dw,
                                  .db = bed->db,
                                  .add_params = bed->add,
                                  .dx = bed->dx,
                                  .add_dx = bed->add};
    assert_int_equal(backend->ops->linear_forward(backend, &op), 0);
    assert_int_equal(backend->ops->linear_backward(backend, &grad), 0);
}

static struct tr_space space_of(const struct bed *bed)
{
    uint32_t columns = bed->inputs > bed->outputs ? bed->inputs : bed->outputs;
    return (struct tr_space){.precision = RT_DTYPE_BF16,
                             .params = bed->params,
                             .n_params = bed->n_params,
                             .rows = ROWS,
                             .columns = columns};
}

static void backend_init(struct tr_backend *backend, const struct bed *bed,
                         enum tr_rounded_kind kind)
{
    struct tr_space space = space_of(bed);
    assert_int_equal(tr_backend_init(backend, NULL, 1), 0);
    assert_int_equal(tr_rounded_create(&space, kind, &backend->rounded), 0);
    backend->precision = RT_DTYPE_BF16;
    tr_backend_begin(backend);
}

static void reference_init(struct tr_backend *backend, uint32_t precision)
{
    struct tr_space space = {.precision = precision};
    assert_int_equal(tr_backend_init(backend, "reference", 1), 0);
    assert_int_equal(tr_backend_prepare(backend, &space), 0);
}

static bool can(enum tr_rounded_kind kind)
{
    struct tr_matmul *matmul = NULL;
    assert_int_equal(tr_matmul_create(&matmul), 0);
    bool can = kind != TR_ROUNDED_NATIVE || tr_matmul_has_bf16(matmul);
    tr_matmul_destroy(matmul);
    return can;
}

static void compare(const struct bed *got, const struct bed *want)
{
    assert_close("y", got->y, want->y, got->samples * got->y_stride, 3e-5);
    if (got->act == TR_ACT_GELU)
        assert_close("z", got->z, want->z, got->samples * got->y_stride, 3e-5);
    assert_close("dx", got->dx, want->dx, got->samples * got->x_stride, 3e-5);
    assert_close("dw", got->dw, want->dw, got->n_params, 3e-5);
    assert_close("db", got->db, want->db, got->outputs, 3e-5);
}

/* More samples than are rounded at a time come in parts. Sums of up to 300 products of normals in float32, where plain C has
 * float64: 3e-5; the rounding of the operands would be 100 times as much. */
static void agrees(enum tr_rounded_kind kind)
{
    static const uint32_t size[][3] = {{1, 1, 1},    {1, 7, 5},    {5, 13, 64},
                                       {40, 64, 16}, {41, 300, 9}, {130, 33, 17},
                                       {64, 9, 1},   {40, 1, 33},  {100, 64, 128}};
    if (!can(kind)) {
        print_message("skipped: this CPU has no products of bfloat16\n");
        skip();
    }
    for (uint32_t r = 0; r < ARRAY_LEN(size) * 8; r++) {
        struct bed want, got;
        struct tr_backend reference, backend;
        bed_init(&want, size[r / 8], r % 8);
        bed_init(&got, size[r / 8], r % 8);
        reference_init(&reference, RT_DTYPE_BF16);
        backend_init(&backend, &got, kind);
        run(&want, &reference);
        run(&got, &backend);
        compare(&got, &want);
        tr_backend_release(&backend);
        bed_release(&want);
        bed_release(&got);
    }
}

static void test_sgemm(void **state)
{
    (void)state;
    agrees(TR_ROUNDED_SGEMM);
}

static void test_wide(void **state)
{
    (void)state;
    agrees(TR_ROUNDED_WIDE);
}

static void test_native(void **state)
{
    (void)state;
    agrees(TR_ROUNDED_NATIVE);
}

static void test_best(void **state)
{
    (void)state;
    agrees(TR_ROUNDED_BEST);
}

/* What is rounded is rounded: the reference in float32 is further away than that. */
static void test_differs(void **state)
{
    (void)state;
    static const uint32_t size[] = {8, 64, 16};
    struct bed whole, half;
    struct tr_backend in_float, in_half;
    double largest[2] = {0};
    bed_init(&whole, size, 0);
    bed_init(&half, size, 0);
    reference_init(&in_float, RT_DTYPE_F32);
    reference_init(&in_half, RT_DTYPE_BF16);
    run(&whole, &in_float);
    run(&half, &in_half);
    for (size_t i = 0; i < (size_t)8 * 16; i++)
        largest[0] = fmax(largest[0], fabs(whole.y[i] - half.y[i]));
    for (size_t i = OTHERS; i < half.n_params; i++)
        largest[1] = fmax(largest[1], fabs(whole.dw[i] - half.dw[i]));
    assert_true(largest[0] > 1e-2 && largest[0] < 0.3);
    assert_true(largest[1] > 1e-3 && largest[1] < 0.1);
    bed_release(&whole);
    bed_release(&half);
}

/* Parameters are those of the latest begin, in every layout that is kept of them; nothing is allocated when all has been seen. */
static void test_steps(void **state)
{
    (void)state;
    static const enum tr_rounded_kind kind[] = {TR_ROUNDED_SGEMM, TR_ROUNDED_WIDE};
    static const uint32_t size[] = {ROWS, 64, 48};
    for (size_t k = 0; k < ARRAY_LEN(kind); k++) {
        struct bed want, got;
        struct tr_backend reference, backend;
        uint64_t count = 0;
        bed_init(&want, size, 0);
        bed_init(&got, size, 0);
        reference_init(&reference, RT_DTYPE_BF16);
        backend_init(&backend, &got, kind[k]);
        for (uint32_t step = 0; step < 6; step++) {
            want.samples = got.samples = step % 2 ? ROWS : 7; /* a short slice between others */
            for (size_t i = 0; i < got.n_params; i++)
                want.params[i] = got.params[i] = rt_normal_f32(rt_draw(100 + step, i));
            count = step == 2 ? rt_mem_count() : count;
            tr_backend_begin(&backend);
            run(&want, &reference);
            run(&got, &backend);
            compare(&got, &want);
        }
        assert_int_equal(rt_mem_count(), count);
        tr_backend_release(&backend);
        bed_release(&want);
        bed_release(&got);
    }
}

/* ---- primitives ---- */

/* More shapes than are kept: all are forgotten, and made again. */
static void test_many_shapes(void **state)
{
    (void)state;
    enum { SHAPES = 1100, N = 16 };
    float *a = fill((size_t)SHAPES * N, 1), *b = fill((size_t)N * N, 2);
    float *c = fill((size_t)SHAPES * N, 3), *want = fill((size_t)SHAPES * N, 3);
    struct tr_matmul *matmul = NULL;
    assert_int_equal(tr_matmul_create(&matmul), 0);
    struct tr_product p = {
        .n = N, .k = N, .a = a, .b = b, .lda = N, .ldb = N, .ldc = N, .kept = true};
    for (uint32_t r = 0; r < 2 * SHAPES; r++) {
        p.m = 1 + r % SHAPES;
        p.c = c;
        assert_int_equal(tr_matmul_run(matmul, 1, &p), 0);
        if (r % 100 == 7) {
            p.c = want;
            assert_int_equal(tr_sgemm(1, &p), 0);
            assert_close("c", c, want, (size_t)p.m * N, 1e-5);
        }
    }
    tr_matmul_destroy(matmul);
    rt_free(a);
    rt_free(b);
    rt_free(c);
    rt_free(want);
}

/* ---- a model ---- */

enum { SAMPLES = 600, COLUMNS = 24 };

static struct tr_model *model_of(const char *const *sizes, const char *backend, uint32_t precision)
{
    static const char *const label[] = {"y"}, *const feature[] = {"f"}, *const top[] = {"top"};
    static const uint32_t dim[] = {COLUMNS};
    struct tr_spec *spec = NULL;
    struct tr_model *model = NULL;
    struct tr_model_inputs inputs = {
        .feature = feature, .feature_dim = dim, .n_features = 1, .label = label, .n_labels = 1};
    struct tr_model_conf conf = {.seed = 3,
                                 .samples_max = SAMPLES,
                                 .threads = 1,
                                 .backend = backend,
                                 .precision = precision};
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    assert_int_equal(tr_spec_layer(spec, "top", "mlp", feature, 1, "t.yml:1"), 0);
    assert_int_equal(tr_spec_option(spec, "sizes", sizes, 3, "t.yml:1"), 0);
    assert_int_equal(tr_spec_layer(spec, "loss", "bce", top, 1, "t.yml:2"), 0);
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
    tr_spec_destroy(spec);
    return model;
}

/* Loss; gradients stay in the model, of the feature they go to `grad`. */
static double train(struct tr_model *model, float *grad)
{
    float *x = fill((size_t)SAMPLES * COLUMNS, 1), *label = fill(SAMPLES, 2);
    const void *feature[] = {x};
    struct tr_feature_grad to[] = {{.out = grad}};
    struct tr_forward_out out = {0};
    for (uint32_t s = 0; s < SAMPLES; s++)
        label[s] = label[s] > 0;
    struct tr_batch_view view = {.samples = SAMPLES, .feature = feature, .labels = label};
    assert_int_equal(tr_model_train(model, &view, SAMPLES, to, &out), 0);
    assert_true(out.finite);
    rt_free(x);
    rt_free(label);
    return out.loss_sum / SAMPLES;
}

static double distance(const float *a, const float *b, size_t n)
{
    double off = 0, all = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        all += (double)b[i] * b[i];
    }
    return sqrt(off / all);
}

/* In slices of 128 samples, or of 512 where there are many parameters; float32 next to plain C, bfloat16 next to plain C in
 * bfloat16 (an activation that differs in its last bit may be rounded to the other side), and further from float32: where 2 of 1,000
 * relus change sides, gradients differ by the root of that. */
static void test_model(void **state)
{
    (void)state;
    static const struct {
        const char *sizes[3];
        uint32_t slice;
    } row[] = {{{"64", "48", "1"}, 128}, {{"512", "520", "1"}, 512}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        static const char *const backend[] = {"reference", NULL};
        struct tr_model *model[2][2]; /* backend, precision */
        float *grad[2][2];
        double loss[2][2];
        for (int b = 0; b < 2; b++) {
            for (int p = 0; p < 2; p++) {
                model[b][p] = model_of(row[i].sizes, backend[b], p ? RT_DTYPE_BF16 : RT_DTYPE_F32);
                grad[b][p] = fill((size_t)SAMPLES * COLUMNS, 9);
                loss[b][p] = train(model[b][p], grad[b][p]);
            }
        }
        assert_int_equal(model[1][0]->slice, row[i].slice);
        for (int p = 0; p < 2; p++) {
            double near = p ? 1e-3 : 1e-5;
            assert_true(fabs(loss[0][p] - loss[1][p]) < near * 1e-1);
            assert_true(distance(tr_model_grads(model[1][p]), tr_model_grads(model[0][p]),
                                 tr_model_count(model[0][p])) < near);
            assert_true(distance(grad[1][p], grad[0][p], (size_t)SAMPLES * COLUMNS) < near);
        }
        double rounding = distance(grad[1][1], grad[1][0], (size_t)SAMPLES * COLUMNS);
        if (!(rounding > 2e-3 && rounding < 0.1))
            fail_msg("slices of %u: bfloat16 is %g from float32", row[i].slice, rounding);
        for (int b = 0; b < 4; b++) {
            tr_model_destroy(model[b / 2][b % 2]);
            rt_free(grad[b / 2][b % 2]);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_rows), cmocka_unit_test(test_sgemm),
        cmocka_unit_test(test_wide),       cmocka_unit_test(test_native),
        cmocka_unit_test(test_best),       cmocka_unit_test(test_differs),
        cmocka_unit_test(test_steps),      cmocka_unit_test(test_many_shapes),
        cmocka_unit_test(test_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
