/* middleware/scatter.inc.h -- the loops of scatter.h, compiled once per instruction set (SCATTER_NAME). */
#include "middleware/scatter.h"

#define AHEAD 8

static inline __attribute__((always_inline)) void add_block(float *restrict to,
                                                            const float *restrict from,
                                                            float factor, size_t width)
{
    for (size_t j = 0; j < width; j++)
        to[j] += factor * from[j];
}

static inline __attribute__((always_inline)) void add_row(float *restrict to,
                                                          const float *restrict from, float factor,
                                                          size_t dim)
{
    size_t column = 0;

    for (; column + 16 <= dim; column += 16)
        add_block(to + column, from + column, factor, 16);
    if (column + 8 <= dim) {
        add_block(to + column, from + column, factor, 8);
        column += 8;
    }
    if (column + 4 <= dim) {
        add_block(to + column, from + column, factor, 4);
        column += 4;
    }
    for (; column < dim; column++)
        to[column] += factor * from[column];
}

/* One id per sample, no weights. dim is a constant where this is inlined for the one that most tables have. */
static inline __attribute__((always_inline)) void scatter_one(const struct mw_bags *bags,
                                                              const float *gradient,
                                                              float *const *row, size_t dim)
{
    for (size_t s = 0; s < bags->samples; s++, gradient += dim) {
        if (s + AHEAD < bags->samples)
            __builtin_prefetch(row[bags->slot[s + AHEAD]], 1);
        add_row(row[bags->slot[s]], gradient, 1.0f, dim);
    }
}

void SCATTER_NAME(const struct mw_bags *bags, const float *gradient, float *const *row)
{
    size_t at = 0, total = 0;

    if (!bags->length && !bags->weight) {
        if (bags->dim == 16)
            scatter_one(bags, gradient, row, 16);
        else
            scatter_one(bags, gradient, row, bags->dim);
        return;
    }
    for (size_t s = 0; s < bags->samples; s++)
        total += bags->length ? bags->length[s] : 1;
    for (size_t s = 0; s < bags->samples; s++, gradient += bags->dim) {
        uint32_t n = bags->length ? bags->length[s] : 1;
        float scale = mw_bag_scale(bags->pooling, n);

        for (size_t end = at + n; at < end; at++) {
            float factor = bags->weight ? scale * bags->weight[at] : scale;

            if (at + AHEAD < total)
                __builtin_prefetch(row[bags->slot[at + AHEAD]], 1);
            add_row(row[bags->slot[at]], gradient, factor, bags->dim);
        }
    }
}
