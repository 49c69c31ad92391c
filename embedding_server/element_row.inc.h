/* embedding_server/element_row.inc.h -- the elements of one row, in the compiler's own vectors.
 *
 * Included by what is compiled once per instruction set: the loops of element.h and of optimizer.h. To and from 16 bits
 * as runtime/base/half.inc.h has it, and here what only stored weights need: rounding by a draw. The bits are the
 * same everywhere. */
#include "embedding_server/element.h"
#include "runtime/base/half.inc.h"

KERNEL half_vec f16_dithered(vec value, ivec draw)
{
    ivec fixed = __builtin_convertvector(f16_small(value) * 0x1p40f, ivec); /* 16 bits too many */

    return f16_cut(value, draw >> 3, (fixed + draw) >> 16);
}

/* Sixteen bits per element, four elements by a draw; a whole register of draws at a time. */
#define DRAW_LANES (WIDTH / 2)
typedef uint64_t draw_vec __attribute__((vector_size(DRAW_LANES * sizeof(uint64_t))));

/* rt_draw(key, 0), rt_draw(key, 1), ... */
KERNEL void draw_row(uint64_t key, draw_vec *draw, size_t dim)
{
    const uint64_t gamma = 0x9e3779b97f4a7c15ULL;
    draw_vec at;

    for (size_t k = 0; k < DRAW_LANES; k++)
        at[k] = key + (k + 1) * gamma;
    for (size_t v = 0; v * DRAW_LANES * 4 < dim; v++) {
        draw_vec z = at;

        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
        draw[v] = z ^ (z >> 31);
        at += DRAW_LANES * gamma;
    }
}

/* @dim: a multiple of LANES. */
#define ROUND(kind)                                                                                \
    KERNEL void kind##_round(const float *restrict in, uint16_t *restrict out, size_t dim)         \
    {                                                                                              \
        for (size_t j = 0; j < dim; j += WIDTH)                                                    \
            *(half_vec *)(out + j) = kind##_near(*(const vec *)(in + j));                          \
    }
ROUND(bf16)
ROUND(f16)

KERNEL void f16_dither(uint64_t key, const float *restrict in, uint16_t *restrict out, size_t dim)
{
    draw_vec draw[WIRE_DIM_MAX / 4 / DRAW_LANES];
    const uint16_t *part = (const uint16_t *)draw;

    draw_row(key, draw, dim);
    for (size_t j = 0; j < dim; j += WIDTH)
        *(half_vec *)(out + j) =
            f16_dithered(*(const vec *)(in + j), from_half(*(const half_vec *)(part + j)));
}

/* Where no sum can carry into infinity's exponent, nothing needs care, the sign included. That is asked of a row as a
 * whole: a third of the instructions of bf16_cut() for each element. */
KERNEL void bf16_dither(uint64_t key, const float *restrict in, uint16_t *restrict out, size_t dim)
{
    draw_vec draw[WIRE_DIM_MAX / 4 / DRAW_LANES];
    const uint16_t *part = (const uint16_t *)draw;
    uvec large = {0};

    draw_row(key, draw, dim);
    for (size_t j = 0; j < dim; j += WIDTH) {
        uvec bits = *(const uvec *)(in + j), up = (uvec)from_half(*(const half_vec *)(part + j));

        *(half_vec *)(out + j) = to_half((ivec)((bits + up) >> 16));
        large |= (bits & 0x7fffffffu) + (0x80000000u - F32_INFINITY + 0xffffu);
    }
    if (__builtin_expect(!any_negative((ivec)large), 1))
        return;
    for (size_t j = 0; j < dim; j += WIDTH)
        *(half_vec *)(out + j) =
            bf16_cut(*(const vec *)(in + j), from_half(*(const half_vec *)(part + j)));
}
