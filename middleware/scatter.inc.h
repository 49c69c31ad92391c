/* middleware/scatter.inc.h -- the loops of scatter.h, compiled once per instruction set (SCATTER_NAME). */
#include "middleware/element.inc.h"
#include "middleware/scatter.h"

#define AHEAD 8

KERNEL void add_block(uint32_t from, float *to, const void *gradient, float factor, size_t column,
                      size_t width)
{
    for (size_t at = 0; at < width; at += WIDTH) {
        size_t n = width - at;
        vec add = factor * load_as(from, gradient, column + at, n);

        store(to + column + at, n, load(to + column + at, n, 0) + add);
    }
}

KERNEL void add_row(uint32_t from, float *to, const void *gradient, float factor, size_t dim)
{
#define BLOCK(column, width) add_block(from, to, gradient, factor, column, width)
    BY_BLOCKS(dim, BLOCK);
#undef BLOCK
}

/* One id per sample, no weights. dim is a constant where this is inlined for the one that most tables have. */
KERNEL void scatter_one(const struct mw_bags *bags, uint32_t from, const void *gradient,
                        float factor, float *const *sum, size_t dim)
{
    size_t stride = dim * element_size(from);

    for (size_t s = 0; s < bags->samples; s++) {
        if (s + AHEAD < bags->samples)
            __builtin_prefetch(sum[bags->slot[s + AHEAD]], 1);
        add_row(from, sum[bags->slot[s]], (const char *)gradient + s * stride, factor, dim);
    }
}

KERNEL void scatter_lists(const struct mw_bags *bags, uint32_t from, const void *gradient,
                          float inverse, float *const *sum)
{
    size_t stride = bags->dim * element_size(from), at = 0, total = 0;

    for (size_t s = 0; s < bags->samples; s++)
        total += bags->length ? bags->length[s] : 1;
    for (size_t s = 0; s < bags->samples; s++) {
        uint32_t n = bags->length ? bags->length[s] : 1;
        float scale = mw_bag_scale(bags->pooling, n) * inverse;

        for (size_t end = at + n; at < end; at++) {
            float factor = bags->weight ? scale * bags->weight[at] : scale;

            if (at + AHEAD < total)
                __builtin_prefetch(sum[bags->slot[at + AHEAD]], 1);
            add_row(from, sum[bags->slot[at]], (const char *)gradient + s * stride, factor,
                    bags->dim);
        }
    }
}

#define SCATTER(from)                                                                              \
    static void scatter_##from(const struct mw_bags *bags, const void *gradient, float inverse,    \
                               float *const *sum)                                                  \
    {                                                                                              \
        if (bags->length || bags->weight)                                                          \
            scatter_lists(bags, from, gradient, inverse, sum);                                     \
        else if (bags->dim == 16)                                                                  \
            scatter_one(bags, from, gradient, inverse, sum, 16);                                   \
        else                                                                                       \
            scatter_one(bags, from, gradient, inverse, sum, bags->dim);                            \
    }
SCATTER(RT_DTYPE_F32)
SCATTER(RT_DTYPE_F16)
SCATTER(RT_DTYPE_BF16)

void SCATTER_NAME(const struct mw_bags *bags, const void *gradient, float inverse,
                  float *const *sum)
{
    static void (*const loop[RT_DTYPE_COUNT])(const struct mw_bags *, const void *, float,
                                              float *const *) = {
        [RT_DTYPE_F32] = scatter_RT_DTYPE_F32,
        [RT_DTYPE_F16] = scatter_RT_DTYPE_F16,
        [RT_DTYPE_BF16] = scatter_RT_DTYPE_BF16};

    loop[bags->sample_dtype](bags, gradient, inverse, sum);
}
