/* embedding_server/element_row.inc.h -- the elements of one row, in the compiler's own vectors.
 *
 * Included by what is compiled once per instruction set: the loops of element.h and of optimizer.h. Every
 * conversion is integer arithmetic on the bits, or float32 operations that are exact, so the bits are the
 * same everywhere. (As loops over single elements, gcc 12 leaves half of these unvectorized.) */
#include "embedding_server/element.h"
#include "embedding_server/vec.inc.h"

typedef uint16_t half_vec __attribute__((vector_size(WIDTH * 2), aligned(2), may_alias));

/* Between 16 and 32 bits: gcc 12 makes AVX-512's one instruction four. */
KERNEL ivec from_half(half_vec half)
{
#if defined(__AVX512F__)
    return (ivec)_mm512_cvtepu16_epi32((__m256i)half);
#else
    return (ivec) __builtin_convertvector(half, uvec);
#endif
}

KERNEL half_vec to_half(ivec wide)
{
#if defined(__AVX512F__)
    return (half_vec)_mm512_cvtepi32_epi16((__m512i)wide);
#else
    return __builtin_convertvector((uvec)wide, half_vec);
#endif
}

KERNEL half_vec with_sign(ivec half, ivec bits)
{
    return to_half(half | (bits >> 16 & 0x8000));
}

/* ---- to float32 ---- */

KERNEL vec bf16_wide(half_vec half)
{
    return (vec)(from_half(half) << 16);
}

KERNEL vec f16_wide(half_vec half)
{
#if defined(__AVX512F__)
    return (vec)_mm512_cvtph_ps((__m256i)half);
#elif defined(__F16C__)
    return (vec)_mm256_cvtph_ps((__m128i)half);
#else
    ivec all = (ivec) __builtin_convertvector(half, uvec), magnitude = all & 0x7fff;
    ivec normal = (magnitude << 13) + (112 << 23);
    ivec special = (normal + (112 << 23)) | ((magnitude > 0x7c00) & 0x00400000); /* quiet NaN */
    ivec subnormal = (ivec)(__builtin_convertvector(magnitude, vec) * 0x1p-24f);
    ivec large = pick(magnitude < 0x7c00, normal, special);

    return (vec)(pick(magnitude < 0x0400, subnormal, large) | (all & 0x8000) << 16);
#endif
}

/* The rest of a row, less than a register, goes through one. */
#define WIDEN(name, wide)                                                                          \
    KERNEL void name(const uint16_t *restrict in, float *restrict out, size_t dim)                 \
    {                                                                                              \
        size_t whole = dim / WIDTH * WIDTH, rest = dim - whole;                                    \
        half_vec half = {0};                                                                       \
        vec last;                                                                                  \
                                                                                                   \
        for (size_t j = 0; j < whole; j += WIDTH)                                                  \
            *(vec *)(out + j) = wide(*(const half_vec *)(in + j));                                 \
        if (rest == 0)                                                                             \
            return;                                                                                \
        memcpy(&half, in + whole, rest * sizeof(*in));                                             \
        last = wide(half);                                                                         \
        memcpy(out + whole, &last, rest * sizeof(*out));                                           \
    }
WIDEN(bf16_widen, bf16_wide)
WIDEN(f16_widen, f16_wide)

/* ---- to 16 bits: `up` is added below the last bit that is kept, then the bits below are cut off ---- */

#define F32_INFINITY 0x7f800000
#define F16_NORMAL   (113 << 23) /* the smallest normal float16, 2^-14, as float32 */

KERNEL half_vec bf16_cut(vec value, ivec up)
{
    ivec bits = (ivec)value, magnitude = magnitude_of(bits);
    ivec most = (magnitude < F32_INFINITY) + F32_INFINITY; /* the largest finite one, or infinity */
    ivec sum = (ivec)((uvec)magnitude + (uvec)up);         /* of a NaN it may wrap */
    ivec near = pick(magnitude < F32_INFINITY - up, sum, most);
    ivec cut = pick(magnitude > F32_INFINITY, near | 0x00400000, near);

    return with_sign(cut >> 16, bits);
}

/* @up: for normal ones, of 13 bits.     @subnormal: the magnitude where it is below 2^-14. */
KERNEL half_vec f16_cut(vec value, ivec up, ivec subnormal)
{
    ivec bits = (ivec)value, magnitude = magnitude_of(bits);
    ivec normal = ((ivec)((uvec)magnitude + (uvec)up) >> 13) - (112 << 10);
    ivec most = (magnitude < F32_INFINITY) + 0x7c00;
    ivec finite = pick(magnitude < F16_NORMAL, subnormal, normal);
    ivec near = pick(finite < most, finite, most);

    return with_sign(pick(magnitude > F32_INFINITY, (ivec){0} + 0x7e00, near), bits);
}

/* The magnitude, at most 2^-14. */
KERNEL vec f16_small(vec value)
{
    ivec magnitude = magnitude_of((ivec)value);

    return (vec)pick(magnitude < F16_NORMAL, magnitude, (ivec){0} + F16_NORMAL);
}

KERNEL half_vec bf16_near(vec value)
{
    return bf16_cut(value, ((ivec)value >> 16 & 1) + 0x7fff);
}

/* Adding 1.5 * 2^23 leaves no bits for what is below 1: to the nearest even. */
KERNEL half_vec f16_near(vec value)
{
    vec shifted = f16_small(value) * 0x1p24f + 0x1.8p23f;

    return f16_cut(value, ((ivec)value >> 13 & 1) + 0x0fff, (ivec)shifted - 0x4b400000);
}

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
