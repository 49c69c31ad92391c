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

int main(void)
{
    static const struct bed_test tests[] = {
        {"softmax", test_softmax},
        {"layernorm", test_layernorm},
        {"norms", test_norms},
    };
    return bed_main("norms", tests, sizeof tests / sizeof tests[0]);
}
