/* runtime/base/half_loops.inc.h -- the loops of half.h; LOOPS_NAME is what they are called.
 *
 * Narrowing goes a block at a time, for one large value makes a block be done again. */
#include "runtime/base/half.h"
#include "runtime/base/half.inc.h"

#define BLOCK 512 /* elements */

#define NARROW_ALL(kind)                                                                           \
    static void kind##_narrow(const float *in, void *to, size_t n)                                 \
    {                                                                                              \
        uint16_t *out = to;                                                                        \
                                                                                                   \
        for (; n > BLOCK; n -= BLOCK, in += BLOCK, out += BLOCK)                                   \
            kind##_block(in, out, BLOCK, 1, 0);                                                    \
        kind##_block(in, out, n, 1, 0);                                                            \
    }                                                                                              \
    static void kind##_narrow_scaled(float scale, const float *in, void *to, size_t n)             \
    {                                                                                              \
        uint16_t *out = to;                                                                        \
                                                                                                   \
        for (; n > BLOCK; n -= BLOCK, in += BLOCK, out += BLOCK)                                   \
            kind##_block(in, out, BLOCK, scale, 1);                                                \
        kind##_block(in, out, n, scale, 1);                                                        \
    }
NARROW_ALL(bf16)
NARROW_ALL(f16)

#define WIDEN_ALL(kind)                                                                            \
    static void kind##_widen_all(const void *in, float *out, size_t n)                             \
    {                                                                                              \
        kind##_widen(in, out, n);                                                                  \
    }                                                                                              \
    static void kind##_widen_scaled(float inverse, const void *from, float *out, size_t n)         \
    {                                                                                              \
        const uint16_t *in = from;                                                                 \
        size_t whole = n / WIDTH * WIDTH;                                                          \
        half_vec last = {0};                                                                       \
                                                                                                   \
        for (size_t j = 0; j < whole; j += WIDTH)                                                  \
            *(vec *)(out + j) = kind##_wide(*(const half_vec *)(in + j)) * inverse;                \
        if (whole == n)                                                                            \
            return;                                                                                \
        memcpy(&last, in + whole, (n - whole) * sizeof(*in));                                      \
        store(out + whole, n - whole, kind##_wide(last) * inverse);                                \
    }
WIDEN_ALL(bf16)
WIDEN_ALL(f16)

static void f32_widen(const void *in, float *out, size_t n)
{
    if (n > 0)
        memcpy(out, in, n * sizeof(float));
}

static void f32_narrow(const float *in, void *out, size_t n)
{
    if (n > 0)
        memcpy(out, in, n * sizeof(float));
}

static void f32_scaled(float scale, const void *from, float *out, size_t n)
{
    const float *in = from;

    for (size_t j = 0; j < n; j += WIDTH)
        store(out + j, n - j, load(in + j, n - j, 0) * scale);
}

static void f32_narrow_scaled(float scale, const float *in, void *out, size_t n)
{
    f32_scaled(scale, in, out, n);
}

static uint32_t magnitude(const float *in, size_t n)
{
    uint32_t lane[WIDTH], most = 0;
    ivec all = {0};

    for (size_t j = 0; j < n; j += WIDTH) {
        ivec one = magnitude_of((ivec)load(in + j, n - j, 0));

        all = pick(one > all, one, all);
    }
    memcpy(lane, &all, sizeof(lane));
    for (size_t k = 0; k < WIDTH; k++)
        most = lane[k] > most ? lane[k] : most;
    return most;
}

#define BY_DTYPE(f32, f16, bf16)                                                                   \
    {                                                                                              \
        [RT_DTYPE_F32] = (f32), [RT_DTYPE_F16] = (f16), [RT_DTYPE_BF16] = (bf16)                   \
    }

const struct rt_half_loops LOOPS_NAME = {
    .widen = BY_DTYPE(f32_widen, f16_widen_all, bf16_widen_all),
    .narrow = BY_DTYPE(f32_narrow, f16_narrow, bf16_narrow),
    .narrow_scaled = BY_DTYPE(f32_narrow_scaled, f16_narrow_scaled, bf16_narrow_scaled),
    .widen_scaled = BY_DTYPE(f32_scaled, f16_widen_scaled, bf16_widen_scaled),
    .magnitude = magnitude,
};
