/* ctl/diff_dense.c -- see diff_dense.h. */
#include "ctl/diff_dense.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <string.h>

#define PIECE_BYTES ((size_t)1 << 20)

static bool same_shape(const struct rt_tensor *a, const struct rt_tensor *b)
{
    bool same = a->type == b->type && a->rank == b->rank;

    for (uint32_t d = 0; same && d < a->rank; d++)
        same = a->shape[d] == b->shape[d];
    return same;
}

static void compare(const struct rt_tensor *tensor, const uint8_t *a, const uint8_t *b,
                    size_t bytes, struct ctl_tensor_diff *out)
{
    size_t size = rt_tensor_type_size(tensor->type);

    for (size_t at = 0; at < bytes; at += size) {
        float x, y;

        if (memcmp(a + at, b + at, size) == 0)
            continue;
        out->different++;
        if (tensor->type != RT_TENSOR_F32 || isnan(out->largest))
            continue;
        memcpy(&x, a + at, sizeof(x));
        memcpy(&y, b + at, sizeof(y));
        double apart = fabs((double)x - (double)y);

        if (isnan(apart) || apart > out->largest)
            out->largest = apart;
    }
}

static int compare_all(const struct rt_safetensors *a, const struct rt_tensor *of_a,
                       const struct rt_safetensors *b, const struct rt_tensor *of_b, uint8_t *piece,
                       struct ctl_tensor_diff *out)
{
    int err = 0;

    for (uint64_t at = 0; at < of_a->bytes && !err; at += PIECE_BYTES) {
        size_t bytes = of_a->bytes - at < PIECE_BYTES ? (size_t)(of_a->bytes - at) : PIECE_BYTES;

        err = rt_safetensors_read(a, of_a, at, piece, bytes);
        if (!err)
            err = rt_safetensors_read(b, of_b, at, piece + PIECE_BYTES, bytes);
        if (!err)
            compare(of_a, piece, piece + PIECE_BYTES, bytes, out);
    }
    return err;
}

int64_t ctl_diff_tensors(const struct rt_safetensors *a, const struct rt_safetensors *b,
                         ctl_tensor_diff_fn tell, void *ctx)
{
    uint8_t *piece = rt_try_malloc(2 * PIECE_BYTES);
    int64_t n = 0;
    int err = piece ? 0 : RT_FAIL(RT_ENOMEM, "no memory to compare tensors in");

    for (size_t i = 0; i < rt_safetensors_count(a) && !err; i++) {
        const struct rt_tensor *of_a = rt_safetensors_at(a, i);
        const struct rt_tensor *of_b = rt_safetensors_find(b, of_a->name);
        struct ctl_tensor_diff diff = {.name = of_a->name,
                                       .only_a = !of_b,
                                       .other_shape = of_b && !same_shape(of_a, of_b),
                                       .values = rt_tensor_count(of_a)};

        if (of_b && !diff.other_shape)
            err = compare_all(a, of_a, b, of_b, piece, &diff);
        n += diff.only_a || diff.other_shape || diff.different > 0;
        tell(ctx, &diff);
    }
    for (size_t i = 0; i < rt_safetensors_count(b) && !err; i++) {
        const struct rt_tensor *of_b = rt_safetensors_at(b, i);
        struct ctl_tensor_diff diff = {
            .name = of_b->name, .only_b = true, .values = rt_tensor_count(of_b)};

        if (rt_safetensors_find(a, of_b->name))
            continue;
        n++;
        tell(ctx, &diff);
    }
    rt_free(piece);
    return err ? err : n;
}
