/* tests/gpu/test_norms.c -- softmax, layernorm, batchnorm, dice and moments beside plain C. Sums are float32 in orders of their own here, and
 * float64 there where they go over samples. */
#include <math.h>
#include <string.h>

#include "tests/gpu/bed.h"

#define TOLERANCE 2e-5, 2e-5
#define SUMS      1e-4, 1e-3 /* of up to 1,500 values up to 9 */

static const struct {
    uint32_t samples, rows, columns, gap;
    bool add;
} row[] = {
    {1, 1, 1, 0, false},   {37, 1, 17, 3, true},  {300, 1, 16, 0, false}, {37, 3, 8, 4, true},
    {300, 5, 7, 1, false}, {2, 1, 1030, 2, true}, {37, 2, 130, 0, true},
};
#define ROWS (sizeof row / sizeof row[0])

/* An operand, or what is made, at the place of `gpu`. */
static float *at(struct bed_tensor tensor, int gpu)
{
    return gpu ? tensor.device : tensor.host;
}

static struct bed_tensor out(struct bed *bed, size_t n, bool add)
{
    return add ? bed_random(bed, n, -1, 1) : bed_poison(bed, n);
}

static struct tr_backend *backend_of(struct bed *bed, int gpu)
{
    return gpu ? &bed->gpu : &bed->truth;
}

static void test_softmax(struct bed *bed)
{
    for (size_t r = 0; r < 3 * ROWS; r++) {
        size_t i = r / 3, width = (size_t)row[i].rows * row[i].columns, stride = width + row[i].gap;
        size_t n = row[i].samples * stride;
        struct bed_tensor x = bed_random(bed, n, -9, 9), mask = bed_fill(bed, n, 0);
        struct bed_tensor y = bed_poison(bed, n), dy = bed_random(bed, n, -1, 1);
        struct bed_tensor dx = out(bed, n, row[i].add);
        for (size_t k = n / 3; k < n; k++) /* a third: nothing */
            mask.host[k] = bed_below(bed, 2);
        bed_upload(bed, mask);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_backend *backend = backend_of(bed, gpu);
            struct tr_softmax op = {row[i].samples, row[i].rows, row[i].columns, at(x, gpu), NULL,
                                    r % 3 == 2,     stride,      stride,         stride,     NULL};
            op.mask = r % 3 ? at(mask, gpu) : NULL;
            op.y = at(y, gpu);
            struct tr_softmax_grad grad = {op.samples,  op.rows,   op.columns, op.y,
                                           at(dy, gpu), stride,    stride,     stride,
                                           at(dx, gpu), row[i].add};
            bed_ok(bed, backend->loops->softmax_forward(backend, &op));
            bed_ok(bed, backend->loops->softmax_backward(backend, &grad));
        }
        bed_compare(bed, "y", y, TOLERANCE);
        bed_compare(bed, "dx", dx, TOLERANCE);
    }
}

static void test_layernorm(struct bed *bed)
{
    for (size_t i = 0; i < ROWS; i++) {
        uint32_t columns = row[i].columns;
        size_t stride = (size_t)row[i].rows * columns + row[i].gap, n = row[i].samples * stride;
        struct bed_tensor x = bed_random(bed, n, -2, 5), w = bed_random(bed, columns, -1, 1);
        struct bed_tensor b = bed_random(bed, columns, -1, 1), dy = bed_random(bed, n, -1, 1);
        struct bed_tensor y = bed_poison(bed, n), dx = out(bed, n, row[i].add);
        struct bed_tensor stat = bed_poison(bed, 2 * (size_t)row[i].samples * row[i].rows);
        struct bed_tensor dw = out(bed, columns, row[i].add), db = out(bed, columns, row[i].add);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_backend *backend = backend_of(bed, gpu);
            struct tr_layernorm op = {row[i].samples, row[i].rows, columns,      1e-5,
                                      at(x, gpu),     at(w, gpu),  at(b, gpu),   stride,
                                      stride,         at(y, gpu),  at(stat, gpu)};
            struct tr_layernorm_grad grad = {op.samples, op.rows,     columns,     op.x,
                                             op.w,       at(dy, gpu), op.stat,     stride,
                                             stride,     stride,      at(dw, gpu), at(db, gpu),
                                             row[i].add, at(dx, gpu), row[i].add};
            bed_ok(bed, backend->loops->layernorm_forward(backend, &op));
            bed_ok(bed, backend->loops->layernorm_backward(backend, &grad));
        }
        bed_compare(bed, "y", y, TOLERANCE);
        bed_compare(bed, "stat", stat, TOLERANCE);
        bed_compare(bed, "dx", dx, 1e-4, 1e-4);
        bed_compare(bed, "dw", dw, SUMS);
        bed_compare(bed, "db", db, SUMS);
    }
}

/* Both norms, of x that is far from 0; without a mask. */
static void norm(struct bed *bed, size_t i)
{
    uint32_t columns = row[i].columns;
    size_t stride = (size_t)row[i].rows * columns + row[i].gap, n = row[i].samples * stride;
    struct bed_tensor x = bed_random(bed, n, 97, 103), dy = bed_random(bed, n, -1, 1);
    struct bed_tensor w = bed_random(bed, columns, -1, 1), b = bed_random(bed, columns, -1, 1);
    struct bed_tensor mean = bed_poison(bed, columns), variance = bed_poison(bed, columns);
    struct bed_tensor inverse = bed_poison(bed, columns), y = bed_poison(bed, n);
    struct bed_tensor z = bed_poison(bed, n), dx = out(bed, n, row[i].add);
    struct bed_tensor p = bed_poison(bed, (size_t)row[i].samples * row[i].rows * columns);
    struct bed_tensor dw = out(bed, columns, row[i].add), db = out(bed, columns, row[i].add);
    struct bed_tensor dalpha = out(bed, columns, row[i].add);
    for (int gpu = 0; gpu < 2; gpu++) {
        const struct tr_backend_loops *loops = backend_of(bed, gpu)->loops;
        struct tr_backend *backend = backend_of(bed, gpu);
        struct tr_moments op = {
            row[i].samples, row[i].rows,   columns,           at(x, gpu), stride,
            NULL,           at(mean, gpu), at(variance, gpu), NULL};
        bed_ok(bed, loops->moments(backend, &op));
        struct tr_norm_take take = {columns,         1e-5, NULL, NULL, at(mean, gpu), op.variance,
                                    at(inverse, gpu)};
        bed_ok(bed, loops->norm_take(backend, &take));
        struct tr_batchnorm forward = {op.samples, op.rows,      columns,    op.x,
                                       op.mean,    take.inverse, at(w, gpu), at(b, gpu),
                                       stride,     stride,       at(y, gpu)};
        bed_ok(bed, loops->batchnorm_forward(backend, &forward));
        struct tr_batchnorm_grad grad = {
            op.samples, op.rows,     columns,     op.x,       op.mean,     take.inverse,
            forward.w,  at(dy, gpu), NULL,        NULL,       stride,      stride,
            stride,     at(dw, gpu), at(db, gpu), row[i].add, at(dx, gpu), row[i].add};
        bed_ok(bed, loops->batchnorm_backward(backend, &grad));
        struct tr_dice dice = {op.samples, op.rows, columns, op.x,       op.mean,   take.inverse,
                               at(w, gpu), stride,  stride,  at(p, gpu), at(z, gpu)};
        bed_ok(bed, loops->dice_forward(backend, &dice));
        struct tr_dice_grad dice_grad = {
            op.samples, op.rows, columns, op.x,   op.mean,     take.inverse,    dice.alpha, dice.p,
            NULL,       NULL,    stride,  stride, at(dy, gpu), at(dalpha, gpu), row[i].add};
        bed_ok(bed, loops->dice_backward(backend, &dice_grad));
    }
    bed_compare(bed, "mean", mean, TOLERANCE);
    bed_compare(bed, "variance", variance, 1e-4, 1e-6);
    bed_compare(bed, "y", y, 1e-3, 1e-3);
    bed_compare(bed, "batchnorm dx", dx, 1e-3, 1e-3);
    bed_compare(bed, "dw", dw, 1e-3, 1e-2);
    bed_compare(bed, "db", db, SUMS);
    bed_compare(bed, "p", p, 1e-3, 1e-3);
    bed_compare(bed, "dice y", z, 1e-3, 1e-2);
    bed_compare(bed, "dice dx", dy, 1e-2, 1e-2);
    bed_compare(bed, "dalpha", dalpha, 1e-3, 1e-1);
}

static void test_norms(struct bed *bed)
{
    for (size_t i = 1; i < ROWS; i++)
        norm(bed, i);
}

enum { SAMPLES = 37, PLACES = 5, C = 20, ALL = SAMPLES * PLACES };

/* Of the test below: what both are given, and the rows that count, moved together. */
static struct {
    struct bed_tensor x, dy, dx, w, mask, p, mean, variance, inverse, counted, dw, db, dalpha;
    struct bed_tensor dmean, dvariance;
} m;
static float few_x[ALL * C], few_dy[ALL * C], few_p[ALL * C], few_dx[ALL * C];

static uint32_t masked_rows(struct bed *bed)
{
    m.x = bed_random(bed, ALL * C, -3, 3);
    m.dy = bed_random(bed, ALL * C, -1, 1);
    m.dx = bed_poison(bed, ALL * C);
    m.w = bed_random(bed, C, -1, 1);
    m.mask = bed_fill(bed, ALL, 0);
    m.p = bed_random(bed, ALL * C, 0, 1);
    m.mean = bed_poison(bed, C);
    m.variance = bed_poison(bed, C);
    m.inverse = bed_random(bed, C, 0.5, 1);
    m.counted = bed_poison(bed, 1);
    m.dw = bed_poison(bed, C);
    m.db = bed_poison(bed, C);
    m.dalpha = bed_poison(bed, C);
    m.dmean = bed_poison(bed, C);
    m.dvariance = bed_poison(bed, C);
    uint32_t n = 0;
    for (uint32_t k = 0; k < ALL; k++) {
        m.mask.host[k] = bed_below(bed, 2);
        if (m.mask.host[k] == 0) {
            m.x.host[k * C] = NAN;
            continue;
        }
        memcpy(few_x + n * C, m.x.host + k * C, C * sizeof(float));
        memcpy(few_dy + n * C, m.dy.host + k * C, C * sizeof(float));
        memcpy(few_p + n++ * C, m.p.host + k * C, C * sizeof(float));
    }
    m.counted.host[0] = (float)n;
    bed_upload(bed, m.mask);
    bed_upload(bed, m.x);
    bed_set_now(bed, 0.01);
    return n;
}

static void masked_moments(struct bed *bed, int gpu, uint32_t few)
{
    struct tr_backend *backend = backend_of(bed, gpu);
    struct tr_moments moments = {.samples = gpu ? SAMPLES : few, .rows = gpu ? PLACES : 1};
    moments.columns = C;
    moments.x = gpu ? m.x.device : few_x;
    moments.x_stride = moments.rows * C;
    moments.mask = gpu ? m.mask.device : NULL;
    moments.mean = at(m.mean, gpu);
    moments.variance = at(m.variance, gpu);
    moments.counted = gpu ? m.counted.device : NULL;
    struct tr_norm_bring bring = {.columns = C, .rows = few, .share = gpu ? 3 : 0.03};
    bring.counted = moments.counted;
    bring.mean = moments.mean;
    bring.variance = moments.variance;
    bring.running_mean = bring.running_variance = at(m.w, gpu);
    bring.dmean = at(m.dmean, gpu);
    bring.dvariance = at(m.dvariance, gpu);
    bed_ok(bed, backend->loops->moments(backend, &moments));
    bed_ok(bed, backend->loops->norm_bring(backend, &bring));
}

static void masked_grads(struct bed *bed, int gpu, uint32_t few)
{
    struct tr_backend *backend = backend_of(bed, gpu);
    size_t grad_stride = gpu ? PLACES * C : C;
    struct tr_batchnorm_grad grad = {.samples = gpu ? SAMPLES : few, .rows = gpu ? PLACES : 1};
    grad.columns = C;
    grad.x = gpu ? m.x.device : few_x;
    grad.mean = at(m.mean, gpu);
    grad.inverse = at(m.inverse, gpu);
    grad.w = at(m.w, gpu);
    grad.dy = gpu ? m.dy.device : few_dy;
    grad.mask = gpu ? m.mask.device : NULL;
    grad.counted = gpu ? m.counted.device : NULL;
    grad.x_stride = grad.dy_stride = grad.dx_stride = grad_stride;
    grad.dw = at(m.dw, gpu);
    grad.db = at(m.db, gpu);
    grad.dx = gpu ? m.dx.device : few_dx;
    struct tr_dice_grad dice = {.samples = gpu ? SAMPLES : few, .rows = gpu ? PLACES : 1};
    dice.columns = C;
    dice.x = gpu ? m.x.device : few_x;
    dice.mean = at(m.mean, gpu);
    dice.inverse = at(m.inverse, gpu);
    dice.alpha = at(m.w, gpu);
    dice.p = gpu ? m.p.device : few_p;
    dice.mask = gpu ? m.mask.device : NULL;
    dice.counted = gpu ? m.counted.device : NULL;
    dice.x_stride = dice.dy_stride = grad_stride;
    dice.dy = gpu ? m.dy.device : few_dy;
    dice.dalpha = at(m.dalpha, gpu);
    bed_ok(bed, backend->loops->batchnorm_backward(backend, &grad));
    bed_ok(bed, backend->loops->dice_backward(backend, &dice));
}

/* What the masked rows hold must not matter. */
static void test_masked(struct bed *bed)
{
    uint32_t few = masked_rows(bed);
    for (int gpu = 0; gpu < 2; gpu++) {
        masked_moments(bed, gpu, few);
        masked_grads(bed, gpu, few);
    }
    for (uint32_t k = 0, from = 0; k < ALL; k++) {
        bool in = m.mask.host[k] != 0;
        for (uint32_t c = 0; c < C; c++) {
            m.dx.host[k * C + c] = in ? few_dx[from * C + c] : 0;
            m.dy.host[k * C + c] = in ? few_dy[from * C + c] : 0;
        }
        from += in;
    }
    bed_compare(bed, "counted", m.counted, 0, 0);
    bed_compare(bed, "mean", m.mean, TOLERANCE);
    bed_compare(bed, "variance", m.variance, TOLERANCE);
    bed_compare(bed, "dmean", m.dmean, TOLERANCE);
    bed_compare(bed, "dvariance", m.dvariance, TOLERANCE);
    bed_compare(bed, "batchnorm dx", m.dx, 1e-4, 1e-4);
    bed_compare(bed, "dw", m.dw, SUMS);
    bed_compare(bed, "db", m.db, SUMS);
    bed_compare(bed, "dice dx", m.dy, 1e-4, 1e-4);
    bed_compare(bed, "dalpha", m.dalpha, SUMS);
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"softmax", test_softmax},
        {"layernorm", test_layernorm},
        {"norms", test_norms},
        {"masked", test_masked},
    };
    return bed_main("norms", tests, sizeof tests / sizeof tests[0]);
}
