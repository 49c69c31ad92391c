/* embedding_server/element_row.inc.h -- the elements of one row, in plain C that the compiler makes vectors of.
 *
 * Included by what is compiled once per instruction set: the loops of element.h and of optimizer.h. Every
 * conversion is integer arithmetic on the bits, or float32 operations that are exact, so the bits are the
 * same everywhere. */
#include "embedding_server/element.h"
#include "runtime/base/rand.h"

#include <string.h>

#define F32_INFINITY 0x7f800000u

static inline uint32_t bits_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float float_of(uint32_t bits)
{
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* ---- to float32 ---- */

static inline float f16_wide(uint16_t half)
{
    uint32_t magnitude = half & 0x7fffu, sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t normal = (magnitude << 13) + (112u << 23);
    uint32_t special = normal + (112u << 23); /* infinity, NaN */
    uint32_t subnormal = bits_of((float)(int32_t)magnitude * 0x1p-24f);
    uint32_t bits = magnitude < 0x0400u ? subnormal : magnitude < 0x7c00u ? normal : special;

    return float_of(bits | sign);
}

static inline float bf16_wide(uint16_t half)
{
    return float_of((uint32_t)half << 16);
}

static inline void f16_widen(const uint16_t *restrict in, float *restrict out, size_t dim)
{
    for (size_t j = 0; j < dim; j++)
        out[j] = f16_wide(in[j]);
}

static inline void bf16_widen(const uint16_t *restrict in, float *restrict out, size_t dim)
{
    for (size_t j = 0; j < dim; j++)
        out[j] = bf16_wide(in[j]);
}

/* ---- to 16 bits: `up` is added below the last bit that is kept, then the bits below are cut off ---- */

static inline uint16_t bf16_cut(uint32_t bits, uint32_t up)
{
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t finite = magnitude + up < F32_INFINITY ? magnitude + up : F32_INFINITY - 1;
    uint32_t quiet = magnitude > F32_INFINITY ? 0x00400000u : 0; /* a NaN's low bits are cut off */

    return (uint16_t)((magnitude < F32_INFINITY ? finite : magnitude | quiet) >> 16 |
                      (bits >> 16 & 0x8000u));
}

/* @up: of 13 bits, for normal ones.     @subnormal: the magnitude where it is below 2^-14. */
static inline uint16_t f16_cut(uint32_t bits, uint32_t up, uint32_t subnormal)
{
    uint32_t magnitude = bits & 0x7fffffffu;
    uint32_t normal = ((magnitude + up) >> 13) - (112u << 10);
    uint32_t finite = normal < 0x7c00u ? normal : 0x7bffu;
    uint32_t special = magnitude > F32_INFINITY ? 0x7e00u : 0x7c00u;
    uint32_t half = magnitude < (113u << 23)   ? subnormal
                    : magnitude < (143u << 23) ? finite
                    : magnitude < F32_INFINITY ? 0x7bffu
                                               : special;

    return (uint16_t)(half | (bits >> 16 & 0x8000u));
}

/* Adding 1.5 * 2^23 leaves no bits for what is below 1: to the nearest even. */
static inline uint16_t f16_near(float value)
{
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    float small = magnitude < (113u << 23) ? float_of(magnitude) * 0x1p24f : 0.0f;
    uint32_t subnormal = bits_of(small + 0x1.8p23f) - bits_of(0x1.8p23f);

    return f16_cut(bits, 0x0fffu + (bits >> 13 & 1), subnormal);
}

static inline uint16_t f16_dithered(float value, uint16_t draw)
{
    uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffffu;
    float small = magnitude < (113u << 23) ? float_of(magnitude) * 0x1p24f : 0.0f;
    int32_t whole = (int32_t)small;
    float rest = (small - (float)whole) * 0x1p16f;
    uint32_t up = (float)((int32_t)draw + 1) <= rest ? 1u : 0u;

    return f16_cut(bits, (uint32_t)draw >> 3, (uint32_t)whole + up);
}

static inline void f16_round(const float *restrict in, uint16_t *restrict out, size_t dim)
{
    for (size_t j = 0; j < dim; j++)
        out[j] = f16_near(in[j]);
}

static inline void bf16_round(const float *restrict in, uint16_t *restrict out, size_t dim)
{
    for (size_t j = 0; j < dim; j++) {
        uint32_t bits = bits_of(in[j]);

        out[j] = bf16_cut(bits, 0x7fffu + (bits >> 16 & 1));
    }
}

/* Sixteen bits per element, four elements by a draw. */
#define DRAWS_MAX ((WIRE_DIM_MAX + 3) / 4)

static inline void draw_row(uint64_t key, uint64_t *restrict draw, size_t dim)
{
    for (size_t q = 0; q < (dim + 3) / 4; q++)
        draw[q] = rt_draw(key, q);
}

static inline void f16_dither(uint64_t key, const float *restrict in, uint16_t *restrict out,
                              size_t dim)
{
    uint64_t draw[DRAWS_MAX];
    const uint16_t *part = (const uint16_t *)draw;

    draw_row(key, draw, dim);
    for (size_t j = 0; j < dim; j++)
        out[j] = f16_dithered(in[j], part[j]);
}

static inline void bf16_dither(uint64_t key, const float *restrict in, uint16_t *restrict out,
                               size_t dim)
{
    uint64_t draw[DRAWS_MAX];
    const uint16_t *part = (const uint16_t *)draw;

    draw_row(key, draw, dim);
    for (size_t j = 0; j < dim; j++)
        out[j] = bf16_cut(bits_of(in[j]), part[j]);
}
