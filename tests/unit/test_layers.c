/* tests/unit/test_layers.c -- the operations models are made of. The reference against central differences;
 * the kernels of every instruction set against the reference, bit for bit where they promise it; oneDNN
 * against the reference within a tolerance.
 *
 * Central differences are taken of the scalar sum(c * y), c fixed. Products and dots are linear in each
 * argument, so a large step makes no error and float32 rounding is all that is left (1e-4 of max(1, |want|)
 * here); the loss is smooth and computed in float64. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/unit/dense_golden.h"
#include "trainer/backend/backend.h"
#include "trainer/backend/cpu/kernels.h"
#include "trainer/model/model.h"

static struct tr_backend reference, onednn;
static enum rt_isa best;

static int set_up(void **state)
{
    (void)state;
    best = rt_cpu_isa();
    return tr_backend_init(&reference, "reference", 1) || tr_backend_init(&onednn, NULL, 1);
}

static float *fill(size_t n, uint64_t seed)
{
    float *value = rt_xaligned((n + 1) * sizeof *value);
    for (size_t i = 0; i < n; i++)
        value[i] = rt_normal_f32(rt_draw(seed, i));
    return value;
}

/* ---- dot interaction ---- */

#define VECTORS_MAX 30

struct dots {
    uint32_t samples, n, dim;
    float *x[VECTORS_MAX], *dx[VECTORS_MAX];
    bool add[VECTORS_MAX];
    size_t x_stride[VECTORS_MAX], stride; /* of y and dy */
    float *y, *dy, *scratch;
};

static void dots_init(struct dots *d, uint32_t samples, uint32_t n, uint32_t dim, uint64_t seed)
{
    *d = (struct dots){.samples = samples, .n = n, .dim = dim, .stride = tr_dot_pairs(n) + 3};
    for (uint32_t i = 0; i < n; i++) {
        d->x_stride[i] = dim + i % 2 * 5;
        d->x[i] = fill(samples * d->x_stride[i], seed + i);
        d->dx[i] = fill(samples * d->x_stride[i], seed + 100 + i);
        d->add[i] = i % 3 == 1;
    }
    d->y = fill(samples * d->stride, seed + 200);
    d->dy = fill(samples * d->stride, seed + 201);
    d->scratch = rt_xaligned(tr_dot_scratch(samples, n, dim) * sizeof(float));
}

static void dots_release(struct dots *d)
{
    for (uint32_t i = 0; i < d->n; i++) {
        rt_free(d->x[i]);
        rt_free(d->dx[i]);
    }
    rt_free(d->y);
    rt_free(d->dy);
    rt_free(d->scratch);
}

static struct tr_dot dots_forward(const struct dots *d)
{
    return (struct tr_dot){.samples = d->samples,
                           .n = d->n,
                           .dim = d->dim,
                           .x = (const float *const *)d->x,
                           .x_stride = d->x_stride,
                           .y = d->y,
                           .y_stride = d->stride,
                           .scratch = d->scratch};
}

static struct tr_dot_grad dots_backward(const struct dots *d)
{
    return (struct tr_dot_grad){.samples = d->samples,
                                .n = d->n,
                                .dim = d->dim,
                                .x = (const float *const *)d->x,
                                .dy = d->dy,
                                .dy_stride = d->stride,
                                .dx = d->dx,
                                .x_stride = d->x_stride,
                                .add = d->add,
                                .scratch = d->scratch};
}

static void dots_run(struct dots *d, struct tr_backend *backend)
{
    struct tr_dot op = dots_forward(d);
    struct tr_dot_grad grad = dots_backward(d);
    assert_int_equal(backend->ops->dot_forward(backend, &op), 0);
    assert_int_equal(backend->ops->dot_backward(backend, &grad), 0);
}

static const struct {
    uint32_t samples, n, dim;
} shape[] = {
    {1, 2, 1},   {3, 2, 4},   {16, 3, 16}, {17, 5, 16}, {33, 27, 16}, {16, 27, 8}, {31, 6, 20},
    {48, 9, 33}, {20, 17, 7}, {64, 4, 64}, {15, 3, 3},  {8, 6, 24},   {4, 7, 5},
};

/* Every instruction set, every shape: the reference's bits. */
static void test_dots_exact(void **state)
{
    (void)state;
    for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (size_t r = 0; r < ARRAY_LEN(shape); r++) {
            struct dots want, got;
            dots_init(&want, shape[r].samples, shape[r].n, shape[r].dim, r);
            dots_init(&got, shape[r].samples, shape[r].n, shape[r].dim, r);
            dots_run(&want, &reference);
            dots_run(&got, &onednn);
            size_t y = want.samples * want.stride * sizeof(float);
            if (memcmp(want.y, got.y, y) != 0)
                fail_msg("%s, shape %zu: forward differs", rt_isa_name((enum rt_isa)isa), r);
            for (uint32_t i = 0; i < want.n; i++)
                if (memcmp(want.dx[i], got.dx[i],
                           want.samples * want.x_stride[i] * sizeof(float)) != 0)
                    fail_msg("%s, shape %zu: gradient of %u differs", rt_isa_name((enum rt_isa)isa),
                             r, i);
            dots_release(&want);
            dots_release(&got);
        }
    }
    rt_cpu_set_isa(best);
}

static double dots_value(struct dots *d)
{
    struct tr_dot op = dots_forward(d);
    reference.ops->dot_forward(&reference, &op);
    double sum = 0;
    for (uint32_t s = 0; s < d->samples; s++)
        for (uint32_t p = 0; p < tr_dot_pairs(d->n); p++)
            sum += (double)d->dy[s * d->stride + p] * d->y[s * d->stride + p];
    return sum;
}

static void test_dots_differences(void **state)
{
    (void)state;
    struct dots d;
    dots_init(&d, 3, 4, 5, 77);
    memset(d.add, 0, sizeof d.add);
    struct tr_dot_grad grad = dots_backward(&d);
    reference.ops->dot_backward(&reference, &grad);
    for (uint32_t i = 0; i < 4; i++) {
        for (size_t at = 0; at < 15; at++) {
            size_t k = at / 5 * d.x_stride[i] + at % 5;
            float keep = d.x[i][k];
            d.x[i][k] = keep + 1;
            double up = dots_value(&d);
            d.x[i][k] = keep - 1;
            float want = (float)((up - dots_value(&d)) / 2);
            d.x[i][k] = keep;
            assert_close("dx", &d.dx[i][k], &want, 1, 1e-4);
        }
    }
    dots_release(&d);
}

/* ---- linear ---- */

struct linear {
    uint32_t samples, inputs, outputs;
    size_t in_stride, out_stride; /* of x and dx, of y and dy */
    float *x, *w, *b, *y, *dy, *dx, *dw, *db;
};

static void linear_init(struct linear *l, uint32_t samples, uint32_t inputs, uint32_t outputs,
                        size_t gap)
{
    size_t in = samples * (inputs + gap), out = samples * (outputs + 2 * gap);
    *l = (struct linear){.samples = samples,
                         .inputs = inputs,
                         .outputs = outputs,
                         .in_stride = inputs + gap,
                         .out_stride = outputs + 2 * gap};
    l->x = fill(in, 1);
    l->b = fill(outputs, 3);
    l->w = fill((size_t)inputs * outputs, 2);
    l->y = fill(out, 4);
    l->dy = fill(out, 5);
    l->dx = fill(in, 6);
    l->dw = fill((size_t)inputs * outputs, 7);
    l->db = fill(outputs, 8);
}

static void linear_release(struct linear *l)
{
    float *all[] = {l->x, l->w, l->b, l->y, l->dy, l->dx, l->dw, l->db};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        rt_free(all[i]);
}

static struct tr_linear linear_forward(const struct linear *l, bool relu)
{
    return (struct tr_linear){.samples = l->samples,
                              .inputs = l->inputs,
                              .outputs = l->outputs,
                              .x = l->x,
                              .w = l->w,
                              .b = l->b,
                              .x_stride = l->in_stride,
                              .y_stride = l->out_stride,
                              .act = relu ? TR_ACT_RELU : TR_ACT_NONE,
                              .y = l->y};
}

static void linear_run(struct linear *l, struct tr_backend *backend, bool relu, bool add)
{
    struct tr_linear op = linear_forward(l, relu);
    struct tr_linear_grad grad = {.samples = l->samples,
                                  .inputs = l->inputs,
                                  .outputs = l->outputs,
                                  .x = l->x,
                                  .w = l->w,
                                  .dy = l->dy,
                                  .x_stride = l->in_stride,
                                  .dy_stride = l->out_stride,
                                  .dx_stride = l->in_stride,
                                  .dw = l->dw,
                                  .db = l->db,
                                  .add_params = add,
                                  .dx = l->dx,
                                  .add_dx = add};
    assert_int_equal(backend->ops->linear_forward(backend, &op), 0);
    assert_int_equal(backend->ops->linear_backward(backend, &grad), 0);
}

/* Sums of up to 300 products of normals, in float32 here and float64 there: 2e-5. */
static void test_linear_agrees(void **state)
{
    (void)state;
    static const uint32_t size[][3] = {{1, 1, 1},    {1, 7, 5},     {5, 13, 64}, {16, 64, 16},
                                       {70, 300, 9}, {130, 33, 17}, {64, 9, 1}};
    for (size_t r = 0; r < ARRAY_LEN(size) * 8; r++) {
        const uint32_t *s = size[r / 8];
        struct linear want, got;
        linear_init(&want, s[0], s[1], s[2], r / 4 % 2);
        linear_init(&got, s[0], s[1], s[2], r / 4 % 2);
        linear_run(&want, &reference, r & 1, r & 2);
        linear_run(&got, &onednn, r & 1, r & 2);
        assert_close("y", got.y, want.y, s[0] * got.out_stride, 2e-5);
        assert_close("dx", got.dx, want.dx, s[0] * got.in_stride, 2e-5);
        assert_close("dw", got.dw, want.dw, (size_t)s[1] * s[2], 2e-5);
        assert_close("db", got.db, want.db, s[2], 2e-5);
        linear_release(&want);
        linear_release(&got);
    }
}

static double linear_value(struct linear *l)
{
    struct tr_linear op = linear_forward(l, false);
    reference.ops->linear_forward(&reference, &op);
    double sum = 0;
    for (size_t i = 0; i < (size_t)l->samples * l->outputs; i++)
        sum += (double)l->dy[i] * l->y[i];
    return sum;
}

static void test_linear_differences(void **state)
{
    (void)state;
    struct linear l;
    linear_init(&l, 4, 5, 3, 0);
    linear_run(&l, &reference, false, false);
    const struct {
        const char *name;
        float *value, *grad;
        size_t n;
    } part[] = {{"x", l.x, l.dx, 20}, {"w", l.w, l.dw, 15}, {"b", l.b, l.db, 3}};
    for (size_t p = 0; p < ARRAY_LEN(part); p++) {
        for (size_t k = 0; k < part[p].n; k++) {
            float keep = part[p].value[k];
            part[p].value[k] = keep + 1;
            double up = linear_value(&l);
            part[p].value[k] = keep - 1;
            float want = (float)((up - linear_value(&l)) / 2);
            part[p].value[k] = keep;
            assert_close(part[p].name, &part[p].grad[k], &want, 1, 1e-4);
        }
    }
    linear_release(&l);
}

/* ---- loss ---- */

static void test_bce(void **state)
{
    (void)state;
    static const float logit[] = {0, 1, -1, 30, -30, 100, -100, 0.1f, 3e38f};
    static const float label[] = {1, 0, 1, 1, 0, 0, 1, 0.5f, 1};
    static const float weight[] = {1, 2, 0, 1, 0.5f, 1, 1, 3, 1};
    enum { N = ARRAY_LEN(logit) };
    float score[N], dlogit[N], one[N];
    for (size_t w = 0; w < 2; w++) {
        struct tr_bce op = {N, logit, label, w ? weight : NULL, score, 0, NULL};
        struct tr_bce_grad grad = {N, score, label, w ? weight : NULL, 0.25, dlogit, false};
        assert_int_equal(onednn.ops->bce_forward(&onednn, &op), 0);
        assert_int_equal(onednn.ops->bce_backward(&onednn, &grad), 0);
        double sum = 0;
        for (size_t i = 0; i < N; i++) {
            double z = logit[i], k = w ? weight[i] : 1;
            double loss = z > 40 ? z * (1 - label[i]) : log1p(exp(z)) - z * label[i];
            sum += k * loss;
            assert_true(fabs(score[i] - 1 / (1 + exp(-z))) < 1e-7);
            float want = (float)(k * 0.25 * (1 / (1 + exp(-z)) - label[i]));
            assert_close("dlogit", &dlogit[i], &want, 1, 1e-7);
            one[i] = dlogit[i] + 1;
        }
        assert_true(isfinite(op.loss_sum) && fabs(op.loss_sum - sum) < 1e-5);
        for (size_t i = 0; i < N; i++)
            dlogit[i] = 1;
        grad.add = true;
        onednn.ops->bce_backward(&onednn, &grad);
        assert_close("added", dlogit, one, N, 1e-6);
    }
}

/* Two logits: loss and gradients where a product of float probabilities would be 0 or 1, and about where the formula changes. */
static const struct {
    double z[2], label, loss, grad[2];
} product[] = {
    {{0, 0}, 0, 0.28768207245178085, {1.0 / 6, 1.0 / 6}},
    {{0, 0}, 1, 1.3862943611198906, {-0.5, -0.5}},
    {{50, 60}, 0, 49.999954601100779, {0.99995460213129757, 4.5397868702434395e-05}},
    {{29.75, 40}, 0, 29.749964643124333, {0.9999646437491381, 3.5356250741744315e-05}},
    {{30.25, 40}, 0, 30.24994170703541, {0.999941708734266, 5.8291265661138644e-05}},
    {{50, 60}, 1, 1.9288374130715447e-22, {-1.9287498479639178e-22, 0}},
    {{-1000, 5}, 1, 1000.0067153484891, {-1, -0.0066928509242848554}},
    {{-1000, 5}, 0, 0, {0, 0}},
    {{1e30, 1e30}, 0, 1e30, {0.5, 0.5}},
    {{-1e30, 1e30}, 1, 1e30, {-1, 0}},
    {{1e30, 1e30}, 1, 0, {0, 0}},
};

static void test_bce_product(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(product); i++) {
        float z[2] = {(float)product[i].z[0], (float)product[i].z[1]}, d[2] = {1, 1}, score;
        float label = (float)product[i].label;
        const float *logit[] = {&z[0], &z[1]};
        float *dlogit[] = {&d[0], &d[1]};
        const bool add[] = {false, true};
        struct tr_bce_product op = {1, 2, logit, &label, NULL, &score, 0, NULL};
        struct tr_bce_product_grad grad = {1, 2, logit, &label, NULL, 1, dlogit, add};
        assert_int_equal(onednn.losses->bce_product_forward(&onednn, &op), 0);
        assert_int_equal(onednn.losses->bce_product_backward(&onednn, &grad), 0);
        double off = fabs(op.loss_sum - product[i].loss), g0 = product[i].grad[0];
        if (!(off <= 1e-7 * fabs(product[i].loss)))
            fail_msg("row %zu: loss %.17g", i, op.loss_sum);
        if (!(fabs(d[0] - g0) <= 1e-6 * fabs(g0) && fabs(d[1] - 1 - product[i].grad[1]) <= 2e-7))
            fail_msg("row %zu: gradients %.9g %.9g", i, (double)d[0], (double)d[1] - 1);
    }
}

/* ---- the small kernels, every instruction set ---- */

static void check_small(size_t n)
{
    const struct tr_kernels *k = tr_kernels_get();
    enum { ROWS = 70 };
    float *y = fill(ROWS * n, 5), *b = fill(n, 2), *dy = fill(ROWS * n, 3), *sum = fill(n, 4);
    float *start = fill(ROWS * n, 1), *grad = fill(ROWS * n, 3);
    uint32_t columns = (uint32_t)n;
    struct tr_bias_act act = {ROWS, columns, true, start, b, n, n, y};
    struct tr_act_grad relu = {.samples = ROWS,
                               .columns = columns,
                               .kind = TR_ACT_RELU,
                               .y = y,
                               .stride = n,
                               .dy_stride = n,
                               .dy = dy};
    struct tr_backend backend;
    assert_int_equal(tr_backend_init(&backend, NULL, 1), 0);
    struct tr_linear_grad bias = {
        .samples = ROWS, .outputs = columns, .dy = dy, .dy_stride = n, .db = sum};
    k->bias_act(&act);
    backend.loops->act_backward(&backend, &relu);
    k->bias_grad(&bias);
    for (size_t c = 0; c < n; c++) {
        double want = 0;
        for (size_t r = 0; r < ROWS; r++) {
            float v = start[r * n + c] + b[c];
            assert_true(y[r * n + c] == (v > 0 ? v : 0));
            assert_true(dy[r * n + c] == (v > 0 ? grad[r * n + c] : 0));
            want += dy[r * n + c];
        }
        assert_true(fabs(sum[c] - want) < 1e-4);
    }
    act.relu = false;
    act.y = start; /* in place */
    k->bias_act(&act);
    for (size_t i = 0; i < ROWS * n; i++)
        assert_true(fmaxf(start[i], 0) == y[i]);
    float *all[] = {y, b, dy, sum, start, grad};
    for (size_t i = 0; i < ARRAY_LEN(all); i++)
        rt_free(all[i]);
}

/* A bad value, or one over the limit, at every place of every length is found; a NaN passes through relu. */
static void check_within(void)
{
    static const struct {
        float max, good, bad;
    } row[] = {
        {FLT_MAX, 1e-45f, NAN},      {FLT_MAX, -FLT_MAX, INFINITY}, {FLT_MAX, FLT_MAX, -INFINITY},
        {1e15f, -1e15f, 1.0001e15f}, {1e15f, 0, -1.0001e15f},       {1e15f, 1e15f, -NAN},
        {0, -0.0f, 1e-45f}};
    float value[40];
    for (size_t n = 0; n <= ARRAY_LEN(value); n++) {
        for (size_t i = 0; i < n; i++) {
            const float max = row[i % ARRAY_LEN(row)].max;
            for (size_t k = 0; k < ARRAY_LEN(value); k++)
                value[k] = row[i % ARRAY_LEN(row)].good;
            assert_true(tr_within(value, n, max));
            value[i] = row[i % ARRAY_LEN(row)].bad;
            assert_false(tr_within(value, n, max));
        }
    }
    float zero[40] = {0};
    for (size_t i = 0; i < ARRAY_LEN(value); i++)
        value[i] = NAN;
    struct tr_bias_act act = {1, 40, true, value, zero, 40, 40, value};
    tr_kernels_get()->bias_act(&act);
    for (size_t i = 0; i < ARRAY_LEN(value); i++)
        assert_true(isnan(value[i]));
}

static void test_small_kernels(void **state)
{
    (void)state;
    for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (size_t n = 1; n < 40; n += 1 + n / 8)
            check_small(n);
        check_within();
    }
    rt_cpu_set_isa(best);
}

static void test_unknown_backend(void **state)
{
    (void)state;
    struct tr_backend backend;
    assert_true(tr_backend_init(&backend, "cuda", 1) < 0);
    assert_int_equal(tr_backend_init(&backend, "onednn", -3), 0);
    assert_int_equal(backend.threads, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dots_exact),    cmocka_unit_test(test_dots_differences),
        cmocka_unit_test(test_linear_agrees), cmocka_unit_test(test_linear_differences),
        cmocka_unit_test(test_bce),           cmocka_unit_test(test_bce_product),
        cmocka_unit_test(test_small_kernels), cmocka_unit_test(test_unknown_backend),
    };
    return cmocka_run_group_tests_name("layers", tests, set_up, NULL);
}
