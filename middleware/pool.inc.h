/* middleware/pool.inc.h -- the loops of pool.h, compiled once per instruction set (POOL_NAME).
 *
 * A bag is pooled in blocks of 16 columns: the block's sums stay in registers while the bag's rows pass,
 * and each output is written once. Rows are prefetched a few occurrences ahead: they lie in the owners'
 * replies, in no order that the hardware could guess. */
#include "middleware/pool.h"

#include <string.h>

#define AHEAD 8

/* One block of `width` columns of one bag; width is a constant where this is inlined. */
static inline __attribute__((always_inline)) void pool_block(
    float *restrict out, const float *const *row, const uint32_t *slot, const float *weight,
    uint32_t n, float scale, size_t column, size_t width)
{
    float sum[16] = {0};

    for (uint32_t k = 0; k < n; k++) {
        const float *from = row[slot[k]] + column;

        if (weight) {
            for (size_t j = 0; j < width; j++)
                sum[j] += weight[k] * from[j];
        } else {
            for (size_t j = 0; j < width; j++)
                sum[j] += from[j];
        }
    }
    for (size_t j = 0; j < width; j++)
        out[column + j] = sum[j] * scale;
}

static inline __attribute__((always_inline)) void pool_bag(float *restrict out,
                                                           const float *const *row,
                                                           const uint32_t *slot,
                                                           const float *weight, uint32_t n,
                                                           float scale, size_t dim)
{
    size_t column = 0;

    for (; column + 16 <= dim; column += 16)
        pool_block(out, row, slot, weight, n, scale, column, 16);
    if (column + 8 <= dim) {
        pool_block(out, row, slot, weight, n, scale, column, 8);
        column += 8;
    }
    if (column + 4 <= dim) {
        pool_block(out, row, slot, weight, n, scale, column, 4);
        column += 4;
    }
    for (; column < dim; column++)
        pool_block(out, row, slot, weight, n, scale, column, 1);
}

/* One id per sample, no weights: its row. Adding 0 keeps the bits those of pool_bag (-0 becomes 0). dim is a
 * constant where this is inlined for the one that most tables have. */
static inline __attribute__((always_inline)) void pool_one(const struct mw_bags *bags,
                                                           const float *const *row, float *out,
                                                           size_t dim)
{
    for (size_t s = 0; s < bags->samples; s++, out += dim) {
        if (s + AHEAD < bags->samples)
            __builtin_prefetch(row[bags->slot[s + AHEAD]]);
        pool_bag(out, row, bags->slot + s, NULL, 1, 1.0f, dim);
    }
}

void POOL_NAME(const struct mw_bags *bags, const float *const *row, float *out)
{
    size_t at = 0, total = 0;

    if (!bags->length && !bags->weight) {
        if (bags->dim == 16)
            pool_one(bags, row, out, 16);
        else
            pool_one(bags, row, out, bags->dim);
        return;
    }
    for (size_t s = 0; s < bags->samples; s++)
        total += bags->length ? bags->length[s] : 1;
    for (size_t s = 0; s < bags->samples; s++, out += bags->dim) {
        uint32_t n = bags->length ? bags->length[s] : 1;

        for (size_t k = at + AHEAD; k < at + AHEAD + n && k < total; k++)
            __builtin_prefetch(row[bags->slot[k]]);
        pool_bag(out, row, bags->slot + at, bags->weight ? bags->weight + at : NULL, n,
                 mw_bag_scale(bags->pooling, n), bags->dim);
        at += n;
    }
}
