/* middleware/element.inc.h -- elements of any dtype, a register at a time, for the loops that pool and scatter.
 *
 * Included by what is compiled once per instruction set. `dtype` and, but for the rest of a row, `n` are constants
 * where these are inlined, so of the branches none is left. */
#include "runtime/base/half.h"
#include "runtime/base/half.inc.h"

KERNEL size_t element_size(uint32_t dtype)
{
    return dtype == RT_DTYPE_F32 ? sizeof(float) : sizeof(uint16_t);
}

/* The first `n` from `at` on, or all of a register; 0 behind them. */
KERNEL half_vec load_half(const uint16_t *at, size_t n)
{
    half_vec out = {0};

    if (n >= WIDTH)
        return *(const half_vec *)at;
#if defined(__AVX512F__)
    out = (half_vec)_mm256_maskz_loadu_epi16((__mmask16)((1u << n) - 1), at);
#else
    memcpy(&out, at, n * sizeof(*at));
#endif
    return out;
}

KERNEL void store_half(uint16_t *at, size_t n, half_vec value)
{
    if (n >= WIDTH) {
        *(half_vec *)at = value;
        return;
    }
#if defined(__AVX512F__)
    _mm256_mask_storeu_epi16(at, (__mmask16)((1u << n) - 1), (__m256i)value);
#else
    memcpy(at, &value, n * sizeof(*at));
#endif
}

/* Elements `column` and on of a row. */
KERNEL vec load_as(uint32_t dtype, const void *row, size_t column, size_t n)
{
    if (dtype == RT_DTYPE_F32)
        return load((const float *)row + column, n, 0);
    if (dtype == RT_DTYPE_F16)
        return f16_wide(load_half((const uint16_t *)row + column, n));
    return bf16_wide(load_half((const uint16_t *)row + column, n));
}

KERNEL void store_as(uint32_t dtype, void *row, size_t column, size_t n, vec value)
{
    if (dtype == RT_DTYPE_F32)
        store((float *)row + column, n, value);
    else if (dtype == RT_DTYPE_F16)
        store_half((uint16_t *)row + column, n, f16_near(value));
    else
        store_half((uint16_t *)row + column, n, bf16_near(value));
}

/* What 0 + the element, narrowed again, is: itself, but 0 for -0, and the one NaN of its sign for any. */
KERNEL half_vec sum_of_one(uint32_t dtype, half_vec half)
{
    typedef int16_t signed_vec __attribute__((vector_size(WIDTH * 2)));
    signed_vec infinity = (signed_vec){0} + (int16_t)(dtype == RT_DTYPE_F16 ? 0x7c00 : 0x7f80);
    half_vec quiet = (half_vec){0} + (uint16_t)(dtype == RT_DTYPE_F16 ? 0x7e00 : 0x7fc0);
    half_vec nan = (half_vec)((signed_vec)(half & 0x7fff) > infinity);
    half_vec negative_zero = (half_vec)(half == 0x8000);

    return ((half & ~nan) | (((half & 0x8000) | quiet) & nan)) & ~negative_zero;
}

/* Do BLOCK(column, width) over the columns of a row: whole blocks of LANES, whose registers do not wait for each
 * other, then what is left, of constant widths where an instruction set has no masks. */
#define BY_BLOCKS(dim, BLOCK)                                                                      \
    do {                                                                                           \
        size_t column = 0;                                                                         \
                                                                                                   \
        for (; column + LANES <= (dim); column += LANES)                                           \
            BLOCK(column, LANES);                                                                  \
        if (WIDTH < LANES && column + LANES / 2 <= (dim)) {                                        \
            BLOCK(column, LANES / 2);                                                              \
            column += LANES / 2;                                                                   \
        }                                                                                          \
        if (WIDTH < LANES && column + LANES / 4 <= (dim)) {                                        \
            BLOCK(column, LANES / 4);                                                              \
            column += LANES / 4;                                                                   \
        }                                                                                          \
        if (column < (dim))                                                                        \
            BLOCK(column, (dim)-column);                                                           \
    } while (0)
