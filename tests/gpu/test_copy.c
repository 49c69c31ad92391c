/* tests/gpu/test_copy.c -- copies, zeros, products, sums over rows and columns: the CPU's bits. */
#include "tests/gpu/matrix.h"

#define EXACT 0, 0

static void test_copy(struct bed *bed)
{
    for (size_t i = 0; i < 2 * N_SHAPES; i++) {
        struct shape shape = shapes[i / 2], packed = {shape.samples, shape.width, 0, 0};
        struct matrix x = matrix_random(bed, i % 4 < 2 ? shape : packed);
        struct matrix y = matrix_out(bed, i % 4 < 2 ? packed : shape, i % 2);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_copy op = {
                .samples = shape.samples,
                .width = shape.width,
                .x = AT(x, gpu),
                .x_stride = x.stride,
                .y_stride = y.stride,
                .y = AT(y, gpu),
                .add = i % 2,
            };
            bed_ok(bed, BACKEND(bed, gpu)->loops->copy(BACKEND(bed, gpu), &op));
        }
        matrix_compare(bed, i % 2 ? "y += x" : "y = x", shape, y, EXACT);
    }
}

/* 26 features side by side: each begins where the one before it ends. */
static void test_concat(struct bed *bed)
{
    struct shape whole = {300, 0, 1, 0}, part = {300, 16, 0, 0};
    uint32_t width[26], at = 13;
    for (uint32_t i = 0; i < 26; i++)
        width[i] = 1 + bed_below(bed, 30), whole.width += width[i];
    whole.width += at;
    struct matrix y = matrix_out(bed, whole, false);
    for (uint32_t i = 0; i < 26; at += width[i], i++) {
        part.width = width[i];
        struct matrix x = matrix_random(bed, part);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_copy op = {.samples = 300, .width = width[i]};
            op.x = AT(x, gpu);
            op.x_stride = x.stride;
            op.y = AT(y, gpu) + at;
            op.y_stride = y.stride;
            bed_ok(bed, BACKEND(bed, gpu)->loops->copy(BACKEND(bed, gpu), &op));
        }
    }
    matrix_compare(bed, "concat", whole, y, EXACT);
}

static void test_clear(struct bed *bed)
{
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct matrix y = matrix_out(bed, shapes[i], i % 2);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_clear op = {.samples = shapes[i].samples, .width = shapes[i].width};
            op.y_stride = y.stride;
            op.y = AT(y, gpu);
            bed_ok(bed, BACKEND(bed, gpu)->loops->clear(BACKEND(bed, gpu), &op));
        }
        matrix_compare(bed, "clear", shapes[i], y, EXACT);
    }
}

static void test_nothing(struct bed *bed)
{
    struct matrix y = matrix_out(bed, (struct shape){4, 4, 0, 0}, false);
    struct tr_copy copy = {.samples = 0, .width = 4, .x = y.device, .y = y.device};
    struct tr_clear clear = {.samples = 4, .width = 0, .y = y.device};
    struct tr_reduce reduce = {.samples = 0, .rows = 1, .columns = 4, .x = y.device, .y = y.device};
    bed_ok(bed, bed->gpu.loops->copy(&bed->gpu, &copy));
    bed_ok(bed, bed->gpu.loops->clear(&bed->gpu, &clear));
    bed_ok(bed, bed->gpu.loops->reduce_forward(&bed->gpu, &reduce));
    bed_compare(bed, "nothing", y.all, EXACT);
}

/* ---- products ---- */

#define FACTORS_MAX 64u

static const struct {
    uint32_t rows, columns, n;
    int spread; /* 0: none; 1: every second; 2: the first */
} products[] = {
    {1, 16, 2, 0}, {1, 367, 3, 0}, {5, 16, 2, 2},  {7, 13, 3, 1},
    {1, 1, 2, 0},  {3, 70, 40, 1}, {1, 33, 64, 0}, {50, 4, 2, 2},
};
#define N_PRODUCTS (sizeof products / sizeof products[0])

struct factors {
    struct matrix x[FACTORS_MAX], dx[FACTORS_MAX];
    bool spread[FACTORS_MAX], add[FACTORS_MAX];
    size_t stride[FACTORS_MAX];
    const float *at[FACTORS_MAX];
    float *dx_at[FACTORS_MAX];
};

static struct shape factors_make(struct bed *bed, size_t row, struct shape shape,
                                 struct factors *of)
{
    uint32_t rows = products[row].rows, columns = products[row].columns;
    shape.width = rows * columns;
    for (uint32_t i = 0; i < products[row].n; i++) {
        of->spread[i] =
            products[row].spread == 1 ? i % 2 == 0 : products[row].spread == 2 && i == 0;
        struct shape one = shape_with(shape, of->spread[i] ? rows : shape.width);
        of->add[i] = bed_below(bed, 2);
        of->x[i] = matrix_random(bed, one);
        of->dx[i] = matrix_out(bed, one, of->add[i]);
        of->stride[i] = of->x[i].stride;
        matrix_zeros(bed, of->x[i]);
    }
    return shape;
}

static struct tr_mul product_at(struct factors *of, size_t row, uint32_t samples, int gpu)
{
    for (uint32_t i = 0; i < products[row].n; i++) {
        of->at[i] = AT(of->x[i], gpu);
        of->dx_at[i] = i % 5 == 4 ? NULL : AT(of->dx[i], gpu);
    }
    return (struct tr_mul){
        .samples = samples,
        .rows = products[row].rows,
        .columns = products[row].columns,
        .n = products[row].n,
        .x = of->at,
        .x_stride = of->stride,
        .spread = of->spread,
    };
}

static void product_one(struct bed *bed, size_t row, struct shape shape)
{
    struct factors of;
    shape = factors_make(bed, row, shape, &of);
    struct matrix y = matrix_out(bed, shape, false), dy = matrix_random(bed, shape);
    struct matrix scratch = matrix_out(bed, (struct shape){1, shape.width, 0, 0}, true);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_mul op = product_at(&of, row, shape.samples, gpu);
        op.y = AT(y, gpu);
        op.y_stride = y.stride;
        struct tr_mul_grad grad = {.of = op, .dy = AT(dy, gpu), .dy_stride = dy.stride};
        grad.dx = of.dx_at;
        grad.add = of.add;
        grad.scratch = AT(scratch, gpu);
        bed_ok(bed, BACKEND(bed, gpu)->loops->mul_forward(BACKEND(bed, gpu), &op));
        bed_ok(bed, BACKEND(bed, gpu)->loops->mul_backward(BACKEND(bed, gpu), &grad));
    }
    matrix_compare(bed, "product", shape, y, EXACT);
    for (uint32_t i = 0; i < products[row].n; i++)
        matrix_compare(bed, of.spread[i] ? "spread dx" : "dx", shape, of.dx[i], EXACT);
}

static void test_mul(struct bed *bed)
{
    static const struct shape place[] = {{13, 0, 0, 0}, {9, 0, 3, 1}, {1, 0, 4, 0}};
    for (size_t i = 0; i < N_PRODUCTS; i++)
        for (size_t k = 0; k < 3; k++)
            product_one(bed, i, place[k]);
}

/* The same tensor twice: x x, whose gradient is added to. */
static void test_square(struct bed *bed)
{
    struct shape shape = {37, 20, 4, 0};
    struct matrix x = matrix_random(bed, shape), dy = matrix_random(bed, shape);
    struct matrix dx = matrix_out(bed, shape, false), scratch = matrix_random(bed, shape);
    static const bool spread[2], add[2] = {false, true};
    const size_t stride[2] = {x.stride, x.stride};
    for (int gpu = 0; gpu < 2; gpu++) {
        const float *at[2] = {AT(x, gpu), AT(x, gpu)};
        float *dx_at[2] = {AT(dx, gpu), AT(dx, gpu)};
        struct tr_mul of = {.samples = 37, .rows = 1, .columns = 20, .n = 2, .x = at};
        of.x_stride = stride;
        of.spread = spread;
        struct tr_mul_grad op = {.of = of, .dy = AT(dy, gpu), .dy_stride = dy.stride, .dx = dx_at};
        op.add = add;
        op.scratch = AT(scratch, gpu);
        bed_ok(bed, BACKEND(bed, gpu)->loops->mul_backward(BACKEND(bed, gpu), &op));
    }
    matrix_compare(bed, "dx", shape, dx, EXACT);
}

static void test_too_many(struct bed *bed)
{
    const float *x[FACTORS_MAX + 1];
    size_t stride[FACTORS_MAX + 1];
    bool spread[FACTORS_MAX + 1] = {false};
    struct matrix y = matrix_out(bed, (struct shape){1, 1, 0, 0}, false);
    for (uint32_t i = 0; i <= FACTORS_MAX; i++)
        x[i] = y.device, stride[i] = 1;
    struct tr_mul op = {.samples = 1, .rows = 1, .columns = 1, .n = FACTORS_MAX + 1, .x = x};
    op.x_stride = stride;
    op.spread = spread;
    op.y = y.device;
    op.y_stride = 1;
    bed_check(bed, bed->gpu.loops->mul_forward(&bed->gpu, &op) != 0, "65 factors were accepted");
}

/* ---- sums ---- */

static const struct {
    uint32_t rows, columns;
} sums[] = {{1, 16}, {5, 16}, {1, 367}, {13, 7}, {1, 1}, {40, 12}, {9, 1}, {2, 150}};
#define N_SUMS (sizeof sums / sizeof sums[0])

static void sum_one(struct bed *bed, size_t row, struct shape place, bool over_rows, bool add)
{
    uint32_t rows = sums[row].rows, columns = sums[row].columns;
    struct shape wide = shape_with(place, rows * columns);
    struct shape thin = shape_with(place, over_rows ? columns : rows);
    struct matrix x = matrix_random(bed, wide), y = matrix_out(bed, thin, false);
    struct matrix dy = matrix_random(bed, thin), dx = matrix_out(bed, wide, add);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_reduce op = {
            .samples = place.samples,
            .rows = rows,
            .columns = columns,
            .over_rows = over_rows,
            .scale = 0.3f,
            .x = AT(x, gpu),
            .x_stride = x.stride,
            .y_stride = y.stride,
            .y = AT(y, gpu),
        };
        struct tr_reduce_grad grad = {
            .samples = place.samples,
            .rows = rows,
            .columns = columns,
            .over_rows = over_rows,
            .scale = 0.3f,
            .dy = AT(dy, gpu),
            .dy_stride = dy.stride,
            .dx_stride = dx.stride,
            .dx = AT(dx, gpu),
            .add = add,
        };
        bed_ok(bed, BACKEND(bed, gpu)->loops->reduce_forward(BACKEND(bed, gpu), &op));
        bed_ok(bed, BACKEND(bed, gpu)->loops->reduce_backward(BACKEND(bed, gpu), &grad));
    }
    matrix_compare(bed, over_rows ? "sum over rows" : "sum over columns", wide, y, EXACT);
    matrix_compare(bed, over_rows ? "dx over rows" : "dx over columns", wide, dx, EXACT);
}

static void test_reduce(struct bed *bed)
{
    static const struct shape place[] = {{37, 0, 0, 0}, {20, 0, 3, 1}, {1, 0, 4, 0}};
    for (size_t i = 0; i < 2 * N_SUMS; i++)
        for (size_t k = 0; k < 3; k++)
            sum_one(bed, i / 2, place[k], i % 2, (i + k) % 2);
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"copy", test_copy},         {"concat", test_concat}, {"clear", test_clear},
        {"nothing", test_nothing},   {"mul", test_mul},       {"square", test_square},
        {"too_many", test_too_many}, {"reduce", test_reduce},
    };
    return bed_main("copy", tests, sizeof tests / sizeof tests[0]);
}
