/* tests/gpu/test_fm.c -- factorization machines: the CPU's bits. */
#include "tests/gpu/lists.h"

#define EXACT 0, 0

static const struct {
    uint32_t n;
    struct shape shape;
    bool twice;
} fms[] = {
    {4, {37, 16, 0, 0}, true},    {2, {37, 16, 0, 0}, false}, {26, {300, 16, 0, 0}, false},
    {26, {37, 17, 3, 1}, true},   {40, {37, 1, 0, 0}, false}, {128, {1, 8, 0, 0}, true},
    {129, {5, 20, 12, 0}, false}, {300, {7, 4, 0, 0}, true},  {5, {37, 130, 2, 0}, true},
    {3, {1, 1, 1, 0}, false},
};

static void fm_one(struct bed *bed, uint32_t n, struct shape shape, bool twice, bool whole)
{
    static struct list list;
    struct shape packed = {shape.samples, shape.width, 0, 0};
    struct shape out = {shape.samples, whole ? 1 : shape.width, shape.gap, shape.offset};
    struct matrix sum = matrix_out(bed, packed, false), square = matrix_out(bed, packed, false);
    struct matrix y = matrix_out(bed, out, false), dy = matrix_random(bed, out);
    list_make(bed, n, shape, twice, &list);
    for (int gpu = 0; gpu < 2; gpu++) {
        list_take(&list, gpu);
        struct tr_fm op = {.samples = shape.samples, .n = n, .dim = shape.width, .whole = whole};
        op.x = list.at;
        op.x_stride = list.stride;
        op.y = AT(y, gpu);
        op.y_stride = y.stride;
        op.sum = AT(sum, gpu);
        op.square = AT(square, gpu);
        struct tr_fm_grad grad = {
            .samples = shape.samples, .n = n, .dim = shape.width, .whole = whole};
        grad.x = list.at;
        grad.x_stride = list.stride;
        grad.dy = AT(dy, gpu);
        grad.sum = AT(sum, gpu);
        grad.dy_stride = dy.stride;
        grad.dx = list.dx_at;
        grad.add = list.add;
        bed_ok(bed, BACKEND(bed, gpu)->loops->fm_forward(BACKEND(bed, gpu), &op));
        bed_ok(bed, BACKEND(bed, gpu)->loops->fm_backward(BACKEND(bed, gpu), &grad));
    }
    matrix_compare(bed, whole ? "y, whole" : "y", shape, y, EXACT);
    matrix_compare(bed, "sum", shape, sum, EXACT);
    matrix_compare(bed, "dx", shape, list.dx, EXACT);
}

static void test_fm(struct bed *bed)
{
    for (size_t i = 0; i < sizeof fms / sizeof fms[0]; i++) {
        fm_one(bed, fms[i].n, fms[i].shape, fms[i].twice, true);
        fm_one(bed, fms[i].n, fms[i].shape, fms[i].twice, false);
    }
}

int main(void)
{
    static const struct bed_test tests[] = {{"fm", test_fm}};
    return bed_main("fm", tests, 1);
}
