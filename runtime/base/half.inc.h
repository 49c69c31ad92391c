/* runtime/base/half.inc.h -- between 16 bits and float32, a register at a time, in the compiler's own vectors.
 *
 * Included by what is compiled once per instruction set: the loops of half.h, and every loop that reads or writes 16-bit
 * elements on its way (pooling, sums, optimizers). Every conversion is integer arithmetic on the bits, or float32
 * operations that are exact, so the bits are the same everywhere. (As loops over single elements, gcc 12 leaves
 * half of these unvectorized.)
 *
 *     half_vec             as many 16-bit elements as a register has floats, anywhere in memory
 *     bf16_wide f16_wide   half_vec -> vec, exact
 *     bf16_near f16_near   vec -> half_vec, to the nearest even; a finite value never becomes infinity
 *     bf16_block f16_block the same of an array, with a scale or without one */
#include "runtime/base/vec.inc.h"

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

/* What is left at the end, less than a register, goes through one. */
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

/* ---- arrays to 16 bits ---- */

#define BF16_MOST 0x7f7f8000 /* from here on, the nearest bfloat16 may be infinity */
#define F16_MOST  0x477fe000 /* 65,504 */

/* Negative where the magnitude is `most` or more. */
KERNEL ivec reaches(vec value, uint32_t most)
{
    return (ivec)((uvec)magnitude_of((ivec)value) + (0x80000000u - most));
}

KERNEL half_vec bf16_quick(vec value)
{
    uvec bits = (uvec)value;

    return to_half((ivec)((bits + ((bits >> 16 & 1) + 0x7fff)) >> 16));
}

KERNEL half_vec f16_quick(vec value)
{
#if defined(__AVX512F__)
    return (half_vec)_mm512_cvtps_ph((__m512)value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
    return (half_vec)_mm256_cvtps_ph((__m256)value, _MM_FROUND_TO_NEAREST_INT);
#else
    return f16_near(value);
#endif
}

/* Without the product where none is asked for. */
KERNEL vec times(vec value, float scale, int scaled)
{
    if (scaled)
        value *= scale;
    return value;
}

/* The few instructions that do for all but the largest values, and one look at all of it whether one was there: then it is done
 * again with care. */
#define NARROW(kind, most)                                                                         \
    KERNEL void kind##_block(const float *restrict in, uint16_t *restrict out, size_t n,           \
                             float scale, int scaled)                                              \
    {                                                                                              \
        size_t whole = n / WIDTH * WIDTH;                                                          \
        ivec large = {0};                                                                          \
        half_vec last;                                                                             \
                                                                                                   \
        for (size_t j = 0; j < whole; j += WIDTH) {                                                \
            vec value = times(*(const vec *)(in + j), scale, scaled);                              \
                                                                                                   \
            *(half_vec *)(out + j) = kind##_quick(value);                                          \
            large |= reaches(value, most);                                                         \
        }                                                                                          \
        for (size_t j = 0; any_negative(large) && j < whole; j += WIDTH) {                         \
            vec value = times(*(const vec *)(in + j), scale, scaled);                              \
                                                                                                   \
            *(half_vec *)(out + j) = kind##_near(value);                                           \
        }                                                                                          \
        if (whole < n) {                                                                           \
            vec value = load(in + whole, n - whole, 0);                                            \
                                                                                                   \
            last = kind##_near(times(value, scale, scaled));                                       \
            memcpy(out + whole, &last, (n - whole) * sizeof(*out));                                \
        }                                                                                          \
    }
NARROW(bf16, BF16_MOST)
NARROW(f16, F16_MOST)
