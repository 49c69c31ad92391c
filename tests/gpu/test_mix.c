/* tests/gpu/test_mix.c -- mixtures, and what DIN's unit is fed with: the CPU's bits. */
#include "tests/gpu/lists.h"

#define EXACT 0, 0

static const struct {
    uint32_t n;
    struct shape shape;
    bool twice;
} mixes[] = {
    {2, {37, 64, 0, 0}, false}, {4, {300, 16, 0, 0}, true},  {3, {37, 17, 3, 1}, true},
    {40, {37, 1, 0, 0}, false}, {128, {1, 8, 0, 0}, true},   {129, {5, 20, 12, 0}, false},
    {300, {7, 4, 0, 0}, true},  {5, {37, 130, 2, 0}, false}, {1, {1, 1, 1, 0}, false},
};

static void mix_one(struct bed *bed, uint32_t n, struct shape shape, bool twice)
{
    static struct list list;
    struct shape out = {shape.samples, shape.width, 4, 0},
                 each = {shape.samples, n, 1, shape.offset};
    struct matrix y = matrix_out(bed, out, false), dy = matrix_random(bed, out);
    struct matrix weight = matrix_random(bed, each), dweight = matrix_out(bed, each, false);
    matrix_zeros(bed, weight);
    list_make(bed, n, shape, twice, &list);
    for (int gpu = 0; gpu < 2; gpu++) {
        list_take(&list, gpu);
        struct tr_mix op = {.samples = shape.samples, .n = n, .dim = shape.width};
        op.weight = AT(weight, gpu);
        op.x = list.at;
        op.x_stride = list.stride;
        op.weight_stride = weight.stride;
        op.y_stride = y.stride;
        op.y = AT(y, gpu);
        struct tr_mix_grad grad = {.of = op, .dy = AT(dy, gpu), .dy_stride = dy.stride};
        grad.dx = list.dx_at;
        grad.add = list.add;
        grad.dweight = AT(dweight, gpu);
        bed_ok(bed, BACKEND(bed, gpu)->loops->mix_forward(BACKEND(bed, gpu), &op));
        bed_ok(bed, BACKEND(bed, gpu)->loops->mix_backward(BACKEND(bed, gpu), &grad));
    }
    matrix_compare(bed, "y", shape, y, EXACT);
    matrix_compare(bed, "dweight", shape, dweight, EXACT);
    matrix_compare(bed, "dx", shape, list.dx, EXACT);
}

static void test_mix(struct bed *bed)
{
    for (size_t i = 0; i < sizeof mixes / sizeof mixes[0]; i++)
        mix_one(bed, mixes[i].n, mixes[i].shape, mixes[i].twice);
}

static const struct {
    uint32_t rows, dim;
} dins[] = {{1, 16}, {20, 16}, {50, 8}, {3, 130}, {7, 1}, {13, 33}, {4, 64}};
#define N_DINS (sizeof dins / sizeof dins[0])

static void din_one(struct bed *bed, size_t row, struct shape place, uint32_t with)
{
    uint32_t rows = dins[row].rows, dim = dins[row].dim;
    struct shape thin = shape_with(place, dim), wide = shape_with(place, rows * dim);
    struct shape fed = {place.samples, 4 * rows * dim, 0, place.offset};
    struct matrix q = matrix_random(bed, thin), k = matrix_random(bed, wide);
    struct matrix y = matrix_out(bed, fed, false), dy = matrix_random(bed, fed);
    struct matrix dq = matrix_out(bed, thin, with & 1), dk = matrix_out(bed, wide, with & 2);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_din op = {.samples = place.samples, .rows = rows, .dim = dim};
        op.q = AT(q, gpu);
        op.k = AT(k, gpu);
        op.q_stride = q.stride;
        op.k_stride = k.stride;
        op.y = AT(y, gpu);
        struct tr_din_grad grad = {.of = op, .dy = AT(dy, gpu)};
        grad.dq = with % 5 == 4 ? NULL : AT(dq, gpu);
        grad.dk = with % 5 == 3 ? NULL : AT(dk, gpu);
        grad.add_dq = with & 1;
        grad.add_dk = with & 2;
        bed_ok(bed, BACKEND(bed, gpu)->loops->din_forward(BACKEND(bed, gpu), &op));
        bed_ok(bed, BACKEND(bed, gpu)->loops->din_backward(BACKEND(bed, gpu), &grad));
    }
    matrix_compare(bed, "y", wide, y, EXACT);
    matrix_compare(bed, "dq", wide, dq, EXACT);
    matrix_compare(bed, "dk", wide, dk, EXACT);
}

static void test_din(struct bed *bed)
{
    static const struct shape place[] = {{37, 0, 0, 0}, {19, 0, 3, 1}, {1, 0, 4, 0}};
    for (size_t i = 0; i < N_DINS; i++)
        for (size_t p = 0; p < 3; p++)
            for (uint32_t with = 0; with < 5; with++)
                din_one(bed, i, place[p], with);
}

int main(void)
{
    static const struct bed_test tests[] = {{"mix", test_mix}, {"din", test_din}};
    return bed_main("mix", tests, 2);
}
