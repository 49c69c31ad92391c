/* tests/gpu/test_act.c -- activations beside the CPU's. What is only multiplied and compared has the same bits; where exp, erf or
 * tanh are in it, CUDA's and the C library's differ by 3 units in the last place at most, of values up to 1 times x up to 3. A sum over
 * samples of prelu: 1e-5 of its largest terms. */
#include "tests/gpu/matrix.h"

#define EXACT 0, 0
#define CLOSE 2e-6, 2e-6

static const struct {
    const char *name;
    enum tr_act_kind kind;
    bool close, close_back;
} kinds[] = {
    {"none", TR_ACT_NONE, false, false}, {"relu", TR_ACT_RELU, false, false},
    {"gelu", TR_ACT_GELU, true, true},   {"sigmoid", TR_ACT_SIGMOID, true, false},
    {"tanh", TR_ACT_TANH, true, false},  {"prelu", TR_ACT_PRELU, false, false},
};
#define N_KINDS (sizeof kinds / sizeof kinds[0])

static void compare(struct bed *bed, const char *what, struct shape shape, struct matrix matrix,
                    bool close)
{
    if (close)
        matrix_compare(bed, what, shape, matrix, CLOSE);
    else
        matrix_compare(bed, what, shape, matrix, EXACT);
}

static void forward_one(struct bed *bed, size_t kind, struct shape shape, bool in_place)
{
    struct shape packed = {shape.samples, shape.width, 0, 0};
    struct matrix x = matrix_random(bed, shape);
    struct matrix slope = matrix_random(bed, (struct shape){1, shape.width, 0, shape.offset});
    matrix_zeros(bed, x);
    struct matrix y = in_place ? x : matrix_out(bed, packed, false);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_act op = {
            .samples = shape.samples,
            .columns = shape.width,
            .kind = kinds[kind].kind,
            .x = AT(x, gpu),
            .slope = kinds[kind].kind == TR_ACT_PRELU ? AT(slope, gpu) : NULL,
            .x_stride = x.stride,
            .y_stride = y.stride,
            .y = AT(y, gpu),
        };
        bed_ok(bed, BACKEND(bed, gpu)->loops->act_forward(BACKEND(bed, gpu), &op));
    }
    compare(bed, kinds[kind].name, shape, y, kinds[kind].close);
}

static void test_forward(struct bed *bed)
{
    for (size_t k = 0; k < N_KINDS; k++)
        for (size_t i = 0; i < N_SHAPES; i++)
            forward_one(bed, k, shapes[i], (k + i) % 2 == 0);
}

static void backward_one(struct bed *bed, size_t kind, struct shape shape, bool add)
{
    enum tr_act_kind act = kinds[kind].kind;
    struct shape packed = {shape.samples, shape.width, 0, 0}, row = {1, shape.width, 2, 1};
    struct matrix from = matrix_random(bed, shape), dy = matrix_random(bed, packed);
    struct matrix slope = matrix_random(bed, row), dslope = matrix_out(bed, row, add);
    matrix_zeros(bed, from);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_act_grad op = {
            .samples = shape.samples,
            .columns = shape.width,
            .kind = act,
            .x = tr_act_keeps_x(act) ? AT(from, gpu) : NULL,
            .y = tr_act_keeps_x(act) ? NULL : AT(from, gpu),
            .slope = act == TR_ACT_PRELU ? AT(slope, gpu) : NULL,
            .stride = from.stride,
            .dy_stride = dy.stride,
            .dy = AT(dy, gpu),
            .dslope = act == TR_ACT_PRELU ? AT(dslope, gpu) : NULL,
            .add_params = add,
        };
        bed_ok(bed, BACKEND(bed, gpu)->loops->act_backward(BACKEND(bed, gpu), &op));
    }
    compare(bed, kinds[kind].name, shape, dy, kinds[kind].close_back);
    matrix_compare(bed, "slope", shape, dslope, 1e-5, 1e-4);
}

static void test_backward(struct bed *bed)
{
    for (size_t k = 0; k < N_KINDS; k++)
        for (size_t i = 0; i < N_SHAPES; i++)
            backward_one(bed, k, shapes[i], i % 2 == 0);
}

static void test_not_finite(struct bed *bed)
{
    static const float odd[] = {1.0f / 0.0f, -1.0f / 0.0f, 0.0f / 0.0f, 1e-40f,
                                -1e38f,      88.8f,        -104,        5};
    struct shape shape = {1, sizeof odd / sizeof odd[0], 0, 0};
    for (size_t k = 0; k < N_KINDS; k++) {
        struct matrix x = matrix_random(bed, shape), y = matrix_out(bed, shape, false);
        struct matrix slope = matrix_random(bed, shape);
        for (uint32_t i = 0; i < shape.width; i++)
            x.host[i] = odd[i];
        bed_upload(bed, x.all);
        for (int gpu = 0; gpu < 2; gpu++) {
            struct tr_act op = {.samples = 1, .columns = shape.width, .kind = kinds[k].kind};
            op.x = AT(x, gpu);
            op.y = AT(y, gpu);
            op.slope = AT(slope, gpu);
            bed_ok(bed, BACKEND(bed, gpu)->loops->act_forward(BACKEND(bed, gpu), &op));
        }
        compare(bed, kinds[k].name, shape, y, kinds[k].close);
    }
}

int main(void)
{
    static const struct bed_test tests[] = {
        {"forward", test_forward},
        {"backward", test_backward},
        {"not_finite", test_not_finite},
    };
    return bed_main("act", tests, sizeof tests / sizeof tests[0]);
}
