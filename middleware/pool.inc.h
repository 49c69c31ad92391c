/* middleware/pool.inc.h -- the loops of pool.h, compiled once per instruction set (POOL_NAME).
 *
 * A bag is pooled in blocks of 16 columns: the block's sums stay in registers while the bag's rows pass,
 * and each output is written once, in its own dtype. Rows are prefetched a few occurrences ahead: they lie in the
 * owners' replies, in no order that the hardware could guess. */
#include "middleware/element.inc.h"
#include "middleware/pool.h"

#define AHEAD 8

/* What is the same for all bags of a call; all constants where it can be. */
struct pooling {
    uint32_t from, to; /* dtypes of rows and samples */
    const void *const *row;
    size_t dim;
};

/* One block of `width` columns of one bag. */
KERNEL void pool_block(const struct pooling *with, void *out, const uint32_t *slot,
                       const float *weight, uint32_t n, float scale, size_t column, size_t width)
{
    vec sum[LANES / WIDTH] = {{0}};

    for (uint32_t k = 0; k < n; k++)
        for (size_t at = 0; at < width; at += WIDTH) {
            vec value = load_as(with->from, with->row[slot[k]], column + at, width - at);

            if (weight)
                value *= weight[k];
            sum[at / WIDTH] += value;
        }
    for (size_t at = 0; at < width; at += WIDTH)
        store_as(with->to, out, column + at, width - at, sum[at / WIDTH] * scale);
}

KERNEL void pool_bag(const struct pooling *with, void *out, const uint32_t *slot,
                     const float *weight, uint32_t n, float scale)
{
#define BLOCK(column, width) pool_block(with, out, slot, weight, n, scale, column, width)
    BY_BLOCKS(with->dim, BLOCK);
#undef BLOCK
}

/* The row of one id, in the 16 bits that it came in: with the bits that widening, adding to 0 and narrowing would leave. */
KERNEL void copy_block(const struct pooling *with, void *out, const uint32_t *slot, size_t column,
                       size_t width)
{
    const uint16_t *row = (const uint16_t *)with->row[*slot] + column;

    for (size_t at = 0; at < width; at += WIDTH)
        store_half((uint16_t *)out + column + at, width - at,
                   sum_of_one(with->from, load_half(row + at, width - at)));
}

KERNEL void copy_bag(const struct pooling *with, void *out, const uint32_t *slot)
{
#define BLOCK(column, width) copy_block(with, out, slot, column, width)
    BY_BLOCKS(with->dim, BLOCK);
#undef BLOCK
}

/* One id per sample, no weights: its row. Adding 0 keeps the bits those of other bags (-0 becomes 0). dim is a
 * constant where this is inlined for the one that most tables have. */
KERNEL void pool_one(const struct mw_bags *bags, const struct pooling *with, void *out)
{
    size_t stride = with->dim * element_size(with->to);

    for (size_t s = 0; s < bags->samples; s++) {
        if (s + AHEAD < bags->samples)
            __builtin_prefetch(with->row[bags->slot[s + AHEAD]]);
        if (with->from == with->to && with->from != RT_DTYPE_F32)
            copy_bag(with, (char *)out + s * stride, bags->slot + s);
        else
            pool_bag(with, (char *)out + s * stride, bags->slot + s, NULL, 1, 1.0f);
    }
}

KERNEL void pool_lists(const struct mw_bags *bags, const struct pooling *with, void *out)
{
    size_t stride = with->dim * element_size(with->to), at = 0, total = 0;

    for (size_t s = 0; s < bags->samples; s++)
        total += bags->length ? bags->length[s] : 1;
    for (size_t s = 0; s < bags->samples; s++) {
        uint32_t n = bags->length ? bags->length[s] : 1;

        for (size_t k = at + AHEAD; k < at + AHEAD + n && k < total; k++)
            __builtin_prefetch(with->row[bags->slot[k]]);
        pool_bag(with, (char *)out + s * stride, bags->slot + at,
                 bags->weight ? bags->weight + at : NULL, n, mw_bag_scale(bags->pooling, n));
        at += n;
    }
}

/* One for each pair of dtypes. */
#define POOL(from, to)                                                                             \
    static void pool_##from##_##to(const struct mw_bags *bags, const void *const *row, void *out)  \
    {                                                                                              \
        if (bags->length || bags->weight)                                                          \
            pool_lists(bags, &(struct pooling){from, to, row, bags->dim}, out);                    \
        else if (bags->dim == 16)                                                                  \
            pool_one(bags, &(struct pooling){from, to, row, 16}, out);                             \
        else                                                                                       \
            pool_one(bags, &(struct pooling){from, to, row, bags->dim}, out);                      \
    }
#define POOL_FROM(from)                                                                            \
    POOL(from, RT_DTYPE_F32)                                                                       \
    POOL(from, RT_DTYPE_F16)                                                                       \
    POOL(from, RT_DTYPE_BF16)
POOL_FROM(RT_DTYPE_F32)
POOL_FROM(RT_DTYPE_F16)
POOL_FROM(RT_DTYPE_BF16)

void POOL_NAME(const struct mw_bags *bags, const void *const *row, void *out)
{
#define FROM(from)                                                                                 \
    [from] = {                                                                                     \
        [RT_DTYPE_F32] = pool_##from##_RT_DTYPE_F32,                                               \
        [RT_DTYPE_F16] = pool_##from##_RT_DTYPE_F16,                                               \
        [RT_DTYPE_BF16] = pool_##from##_RT_DTYPE_BF16                                              \
    }
    static void (*const loop[RT_DTYPE_COUNT][RT_DTYPE_COUNT])(const struct mw_bags *,
                                                              const void *const *, void *) = {
        FROM(RT_DTYPE_F32), FROM(RT_DTYPE_F16), FROM(RT_DTYPE_BF16)};
#undef FROM

    loop[bags->row_dtype][bags->sample_dtype](bags, row, out);
}
