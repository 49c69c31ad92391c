/* tests/gpu/test_dropout.c -- dropout: the CPU's bits, whether the key comes with the operation or lies in the device's memory. */
#include "tests/gpu/matrix.h"

static void dropout_one(struct bed *bed, struct shape shape, double rate, bool add, bool key_at)
{
    uint64_t key = 0x123456789abcdef0ULL + bed_below(bed, 1u << 30);
    void *key_device = NULL;
    struct matrix x = matrix_random(bed, shape);
    struct matrix y = matrix_out(bed, (struct shape){shape.samples, shape.width, 4, 0}, add);
    bed_bytes(bed, &key, sizeof key, &key_device);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_dropout op = {
            .samples = shape.samples,
            .width = shape.width,
            .first = 4000000000u,
            .rate = rate,
            .key = gpu && key_at ? 1 : key,
            .key_at = gpu && key_at ? key_device : NULL,
            .x = AT(x, gpu),
            .x_stride = x.stride,
            .y_stride = y.stride,
            .y = AT(y, gpu),
            .add = add,
        };
        bed_ok(bed, BACKEND(bed, gpu)->loops->dropout(BACKEND(bed, gpu), &op));
    }
    matrix_compare(bed, key_at ? "key in memory" : "key", shape, y, 0, 0);
}

static void test_dropout(struct bed *bed)
{
    static const double rate[] = {0.5, 0.1, 0.9, 0};
    for (size_t i = 0; i < N_SHAPES; i++)
        dropout_one(bed, shapes[i], rate[i % 4], i % 3 == 0, i % 2);
}

int main(void)
{
    static const struct bed_test tests[] = {{"dropout", test_dropout}};
    return bed_main("dropout", tests, 1);
}
