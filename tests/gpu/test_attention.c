/* tests/gpu/test_attention.c -- attention beside plain C. Sums are float32 at both, in orders of their own: what they differ by grows with rows and dim. */
#include "tests/gpu/bed.h"

#define TOLERANCE 2e-5, 2e-5

static const struct {
    uint32_t samples, rows, heads, dim;
    bool mask;
} row[] = {
    {37, 1, 1, 1, false}, {5, 10, 2, 8, true},   {3, 32, 1, 33, false}, {4, 39, 2, 16, true},
    {2, 50, 3, 7, true},  {1, 64, 1, 70, false}, {2, 65, 2, 4, true},   {1, 200, 1, 12, true},
};

/* Random places that count; of the first sample none does. */
static struct bed_tensor mask_of(struct bed *bed, uint32_t samples, uint32_t rows)
{
    struct bed_tensor mask = bed_fill(bed, (size_t)samples * (rows + 3), 0);
    for (size_t k = samples > 1 ? rows + 3 : 0; k < mask.n; k++)
        mask.host[k] = bed_below(bed, 3) > 0;
    bed_upload(bed, mask);
    return mask;
}

static void one(struct bed *bed, uint32_t samples, uint32_t rows, uint32_t heads, uint32_t dim,
                bool masked)
{
    size_t n = (size_t)samples * rows * heads * dim, square = (size_t)samples * heads * rows * rows;
    struct bed_tensor q = bed_random(bed, n, -1, 1), k = bed_random(bed, n, -1, 1);
    struct bed_tensor v = bed_random(bed, n, -1, 1), dy = bed_random(bed, n, -1, 1);
    struct bed_tensor share = bed_poison(bed, square), y = bed_poison(bed, n);
    struct bed_tensor dq = bed_poison(bed, n), dk = bed_poison(bed, n), dv = bed_poison(bed, n);
    struct bed_tensor scratch = bed_poison(bed, (size_t)rows * (dim + 1));
    struct bed_tensor mask = mask_of(bed, samples, rows);
    for (int gpu = 0; gpu < 2; gpu++) {
        struct tr_backend *backend = gpu ? &bed->gpu : &bed->truth;
        struct tr_attention op = {.samples = samples, .rows = rows, .heads = heads, .dim = dim};
        op.scale = 0.7f;
        op.q = gpu ? q.device : q.host;
        op.k = gpu ? k.device : k.host;
        op.v = gpu ? v.device : v.host;
        op.mask = !masked ? NULL : gpu ? mask.device : mask.host;
        op.mask_stride = rows + 3;
        op.share = gpu ? share.device : share.host;
        op.y = gpu ? y.device : y.host;
        op.scratch = gpu ? scratch.device : scratch.host;
        struct tr_attention_grad grad = {.of = op};
        grad.dy = gpu ? dy.device : dy.host;
        grad.dq = gpu ? dq.device : dq.host;
        grad.dk = gpu ? dk.device : dk.host;
        grad.dv = gpu ? dv.device : dv.host;
        bed_ok(bed, backend->loops->attention_forward(backend, &op));
        bed_ok(bed, backend->loops->attention_backward(backend, &grad));
    }
    bed_compare(bed, "share", share, TOLERANCE);
    bed_compare(bed, "y", y, TOLERANCE);
    bed_compare(bed, "dq", dq, TOLERANCE);
    bed_compare(bed, "dk", dk, TOLERANCE);
    bed_compare(bed, "dv", dv, TOLERANCE);
}

static void test_attention(struct bed *bed)
{
    for (size_t r = 0; r < sizeof row / sizeof row[0]; r++)
        one(bed, row[r].samples, row[r].rows, row[r].heads, row[r].dim, row[r].mask);
}

int main(void)
{
    static const struct bed_test tests[] = {{"attention", test_attention}};
    return bed_main("attention", tests, 1);
}
