/* runtime/base/vec.inc.h -- registers of floats, as wide as the instruction set has them, in the compiler's own vectors.
 *
 * Included by what is compiled once per instruction set. Each operation is an IEEE operation or integer arithmetic on the
 * bits, in an order that is the same whatever the width, and so are the bits that come out. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <immintrin.h>

/* Into each loop over rows, where the dim is known. */
#define KERNEL static inline __attribute__((always_inline))

/* Floats that a register has; and elements that all of them work on without a rest. */
#if defined(__AVX512F__)
#define WIDTH 16
#define COUNTED                                                                                    \
    {                                                                                              \
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15                                       \
    }
#elif defined(__AVX2__)
#define WIDTH 8
#define COUNTED                                                                                    \
    {                                                                                              \
        0, 1, 2, 3, 4, 5, 6, 7                                                                     \
    }
#else
#define WIDTH 4
#define COUNTED                                                                                    \
    {                                                                                              \
        0, 1, 2, 3                                                                                 \
    }
#endif
#define LANES 16

/* Anywhere in memory: rows are 4-byte aligned. */
typedef float vec __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef int32_t ivec __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

/* Not 0 + x, which makes 0 of -0. */
KERNEL vec splat(float x)
{
    return x - (vec){0};
}

/* The same, kept in a register: gcc 12 makes constants anew wherever one is used. */
KERNEL vec hold(float x)
{
    vec out = splat(x);

#if defined(__AVX512F__)
    __asm__("" : "+v"(out));
#else
    __asm__("" : "+x"(out));
#endif
    return out;
}

/* A comparison is all ones or 0 in each lane. Magnitudes are compared as signed, for not all instruction
 * sets compare unsigned integers. */
KERNEL ivec pick(ivec mask, ivec yes, ivec no)
{
    return (yes & mask) | (no & ~mask);
}

KERNEL ivec magnitude_of(ivec bits)
{
    return bits & 0x7fffffff;
}

KERNEL int any_negative(ivec lanes)
{
#if defined(__AVX512F__)
    return _mm512_movepi32_mask((__m512i)lanes) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)lanes) != 0;
#else
    return _mm_movemask_ps((__m128)lanes) != 0;
#endif
}

/* The first `n` of a row's elements from `at` on, or all of a register; lanes behind them are `rest`. */
KERNEL vec load(const float *at, size_t n, float rest)
{
    vec out = splat(rest);

    if (n >= WIDTH)
        return *(const vec *)at;
#if defined(__AVX512F__)
    return (vec)_mm512_mask_loadu_ps((__m512)out, (__mmask16)((1u << n) - 1), at);
#else
    memcpy(&out, at, n * sizeof(float));
    return out;
#endif
}

KERNEL void store(float *at, size_t n, vec value)
{
    if (n >= WIDTH) {
        *(vec *)at = value;
        return;
    }
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(at, (__mmask16)((1u << n) - 1), (__m512)value);
#else
    memcpy(at, &value, n * sizeof(float));
#endif
}

/* ---- square roots, rounded as IEEE 754 has it ---- */

/* What it takes, held in registers. */
struct root {
    vec from, span, half;
};

KERNEL struct root root_prepare(void)
{
    return (struct root){
        .from = hold(0x1p-100f), /* below it, what is left of x could be too small to be exact */
        .span = hold(0x1p101f),  /* as bits, from there to infinity */
        .half = hold(0.5f),
    };
}

#if defined(__AVX512F__)
/* Markstein's ("IA-64 and Elementary Functions", 2000): from an estimate of 1 / sqrt(x) a root that is off by less than
 * one unit in the last place, then what is left of x, exactly, corrects it. It takes the multipliers 3 ns where
 * AVX-512's own root keeps the divider, which the formulas need too, busy for 5 (Sapphire Rapids, 2.4 GHz): Adagrad runs
 * at 1.4 times the speed. The tests compare it with the real one for every mantissa. */
KERNEL vec root_of(const struct root *with, vec x)
{
    __m512i above = (__m512i)((uvec)x - (uvec)with->from);
    __m512 in = (__m512)x, half = (__m512)with->half, root, inverse, miss, left;

    if (__builtin_expect(_mm512_cmpge_epu32_mask(above, (__m512i)with->span) != 0, 0))
        return (vec)_mm512_sqrt_ps(in);
    inverse = _mm512_rsqrt14_ps(in);
    root = _mm512_mul_ps(in, inverse);
    inverse = _mm512_mul_ps(inverse, half); /* 1 / 2 sqrt(x) from here on */
    miss = _mm512_fnmadd_ps(root, inverse, half);
    root = _mm512_fmadd_ps(root, miss, root);
    inverse = _mm512_fmadd_ps(inverse, miss, inverse);
    left = _mm512_fnmadd_ps(root, root, in);
    return (vec)_mm512_fmadd_ps(left, inverse, root);
}
#else
KERNEL vec root_of(const struct root *with, vec x)
{
    (void)with;
#if defined(__AVX2__)
    return (vec)_mm256_sqrt_ps((__m256)x);
#else
    return (vec)_mm_sqrt_ps((__m128)x);
#endif
}
#endif

/* ---- sums over a row, in one order: lane k takes elements k, k + 16, ...; then the lanes by halves ---- */

/* From LANES partial sums to as many as a register has. */
KERNEL vec sum_parts(vec *part)
{
    for (size_t n = LANES / WIDTH / 2; n > 0; n /= 2)
        for (size_t p = 0; p < n; p++)
            part[p] += part[p + n];
    return part[0];
}

/* Lane i of what comes out: lane which[i] of a and then b. (clang, which only reads this, knows no shuffle by lanes that are
 * not constant before loops are unrolled.) */
KERNEL vec shuffle(vec a, vec b, ivec which)
{
#if defined(__clang__)
    vec out = a;

    for (int i = 0; i < WIDTH; i++)
        out[i] = which[i] < WIDTH ? a[which[i]] : b[which[i] - WIDTH];
    return out;
#else
    return __builtin_shuffle(a, b, which);
#endif
}

/* Of groups of 2 half lanes the sum of their halves: those of a, then those of b. */
KERNEL vec sum_halves(vec a, vec b, int32_t half)
{
    const ivec counted = COUNTED;
    ivec low = 2 * counted - (counted & (half - 1));

    return shuffle(a, b, low) + shuffle(a, b, low + half);
}

/* Lane i of what comes out: the sum of row[i]'s lanes. Many rows at once, for one alone is a chain of additions, each of
 * which waits for the one before. */
KERNEL vec sum_lanes(vec row[WIDTH])
{
#pragma GCC unroll 4
    for (size_t half = WIDTH / 2; half > 0; half /= 2)
#pragma GCC unroll 8
        for (size_t i = 0; i < half; i++)
            row[i] = sum_halves(row[2 * i], row[2 * i + 1], (int32_t)half);
    return row[0];
}
