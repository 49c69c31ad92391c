/* tests/gpu/test_cross.c -- cross layers and masked pools: the CPU's bits; the bias' gradient, a sum over samples, within 1e-5 of
 * its largest terms. */
#include "tests/gpu/matrix.h"

#define EXACT 0, 0

static void forward_one(struct bed *bed, struct shape shape, bool one, bool bias)
{
    struct shape packed = {shape.samples, shape.width, 0, 0};
    struct matrix x0 = matrix_random(bed, shape), x = matrix_random(bed, packed);
    struct matrix z = matrix_random(bed, shape_with(shape, one ? 1 : shape.width));
    struct matrix b = matrix_random(bed, (struct shape){1, shape.width, 0, shape.offset});
    struct matrix y = matrix_out(bed, shape, false);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_cross op = {
            .samples = shape.samples,
            .width = shape.width,
            .one = one,
            .x0 = AT(x0, gpu),
            .x = AT(x, gpu),
            .z = AT(z, gpu),
            .b = bias ? AT(b, gpu) : NULL,
            .x0_stride = x0.stride,
            .x_stride = x.stride,
            .z_stride = z.stride,
            .y_stride = y.stride,
            .y = AT(y, gpu),
        };
        bed_ok(bed, BACKEND(bed, gpu)->loops->cross_forward(BACKEND(bed, gpu), &op));
    }
    matrix_compare(bed, one ? "y of one z" : "y", shape, y, EXACT);
}

static void test_forward(struct bed *bed)
{
    for (size_t i = 0; i < 4 * N_SHAPES; i++)
        forward_one(bed, shapes[i / 4], i % 2, i % 4 < 2);
}

static void backward_one(struct bed *bed, struct shape shape, bool one, uint32_t with)
{
    bool want = with % 2 == 0, add = with % 3 == 0, bias = with % 4 < 2;
    struct shape zs = shape_with(shape, one ? 1 : shape.width), row = {1, shape.width, 1, 1};
    struct matrix x0 = matrix_random(bed, shape), z = matrix_random(bed, zs);
    struct matrix dy = matrix_random(bed, (struct shape){shape.samples, shape.width, 4, 0});
    struct matrix dz = matrix_out(bed, zs, false), dx0 = matrix_out(bed, shape, add);
    struct matrix db = matrix_out(bed, row, add);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_cross_grad op = {
            .samples = shape.samples,
            .width = shape.width,
            .one = one,
            .x0 = AT(x0, gpu),
            .z = AT(z, gpu),
            .dy = AT(dy, gpu),
            .x0_stride = x0.stride,
            .z_stride = z.stride,
            .dy_stride = dy.stride,
            .dz = AT(dz, gpu),
            .dx0 = want ? AT(dx0, gpu) : NULL,
            .add = add,
            .db = bias ? AT(db, gpu) : NULL,
            .add_params = add,
        };
        bed_ok(bed, BACKEND(bed, gpu)->loops->cross_backward(BACKEND(bed, gpu), &op));
    }
    matrix_compare(bed, one ? "dz of one" : "dz", shape, dz, EXACT);
    matrix_compare(bed, one ? "dx0 of one z" : "dx0", shape, dx0, EXACT);
    matrix_compare(bed, "db", shape, db, 1e-5, 1e-4);
}

static void test_backward(struct bed *bed)
{
    for (size_t i = 0; i < 2 * N_SHAPES; i++)
        backward_one(bed, shapes[i / 2], i % 2, (uint32_t)(i / 2));
}

/* ---- pools ---- */

static const struct {
    uint32_t rows, dim;
} pools[] = {{1, 16}, {5, 16}, {50, 8}, {3, 367}, {7, 1}, {13, 33}, {4, 64}};
#define N_POOLS (sizeof pools / sizeof pools[0])

/* Zeros and ones, a sample of zeros alone, and now and then another factor. */
static struct matrix mask_make(struct bed *bed, struct shape shape)
{
    struct matrix mask = matrix_random(bed, shape);
    for (uint32_t s = 0; s < shape.samples; s++)
        for (uint32_t r = 0; r < shape.width; r++)
            mask.host[s * mask.stride + r] = s % 5 == 4   ? 0
                                             : s % 7 == 6 ? 0.3f
                                                          : (float)bed_below(bed, 2);
    bed_upload(bed, mask.all);
    return mask;
}

static void pool_one(struct bed *bed, size_t row, struct shape place, bool mean, bool add)
{
    uint32_t rows = pools[row].rows, dim = pools[row].dim;
    struct shape wide = shape_with(place, rows * dim), thin = shape_with(place, dim);
    struct matrix mask = mask_make(bed, shape_with(place, rows)), x = matrix_random(bed, wide);
    struct matrix y = matrix_out(bed, thin, false), dy = matrix_random(bed, thin);
    struct matrix dx = matrix_out(bed, wide, add);
    for (uint32_t s = 0; s < place.samples; s++) /* what the mask hides may be anything */
        if (mask.host[s * mask.stride] == 0)
            x.host[s * x.stride] = 0.0f / 0.0f;
    bed_upload(bed, x.all);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_masked_pool op = {
            .samples = place.samples, .rows = rows, .dim = dim, .mean = mean};
        op.x = AT(x, gpu);
        op.mask = AT(mask, gpu);
        op.x_stride = x.stride;
        op.mask_stride = mask.stride;
        op.y_stride = y.stride;
        op.y = AT(y, gpu);
        struct tr_masked_pool_grad grad = {.samples = place.samples, .rows = rows, .dim = dim};
        grad.mean = mean;
        grad.mask = AT(mask, gpu);
        grad.dy = AT(dy, gpu);
        grad.mask_stride = mask.stride;
        grad.dy_stride = dy.stride;
        grad.dx_stride = dx.stride;
        grad.dx = AT(dx, gpu);
        grad.add = add;
        bed_ok(bed, BACKEND(bed, gpu)->loops->masked_pool_forward(BACKEND(bed, gpu), &op));
        bed_ok(bed, BACKEND(bed, gpu)->loops->masked_pool_backward(BACKEND(bed, gpu), &grad));
    }
    matrix_compare(bed, mean ? "mean" : "sum", wide, y, EXACT);
    matrix_compare(bed, mean ? "dx of a mean" : "dx of a sum", wide, dx, EXACT);
}

static void test_pool(struct bed *bed)
{
    static const struct shape place[] = {{37, 0, 0, 0}, {50, 0, 3, 1}, {1, 0, 4, 0}};
    for (size_t i = 0; i < 2 * N_POOLS; i++)
        for (size_t k = 0; k < 3; k++)
            pool_one(bed, i / 2, place[k], i % 2, (i + k) % 2);
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"forward", test_forward},
        {"backward", test_backward},
        {"pool", test_pool},
    };
    return bed_main("cross", tests, sizeof tests / sizeof tests[0]);
}
