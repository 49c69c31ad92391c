/* trainer/backend/cuda/half.h -- between 16 bits and float32 in kernels: the bits of runtime/base/half.h, of NaNs too.
 *
 * Widening is a shift, and for float16 a product with 2^112 besides, which moves the exponent and is exact, of subnormal ones too. Narrowing
 * is the device's own rounding to the nearest even, but for what is beyond the largest finite value. */
#ifndef TR_CUDA_HALF_H
#define TR_CUDA_HALF_H

#include <cuda_fp16.h>

#include "runtime/base/half.h"
#include "trainer/backend/cuda/vectors.h"

#define TR_F16_MOST  0x477fe000u /* 65,504 */
#define TR_BF16_MOST 0x7f7f0000u

template <uint32_t DTYPE> static __device__ inline float tr_wide(uint32_t half)
{
    if (DTYPE == RT_DTYPE_BF16)
        return __uint_as_float(half << 16);
    uint32_t magnitude = half & 0x7fffu;
    uint32_t bits = __float_as_uint(__uint_as_float(magnitude << 13) * 0x1p112f);
    if (magnitude >= 0x7c00u)
        bits |= TR_FLOAT_INFINITE | (magnitude > 0x7c00u ? 0x00400000u : 0u); /* a quiet NaN */
    return __uint_as_float(bits | (half & 0x8000u) << 16);
}

/* Of value times scale. over: += 1 for what is larger than the largest finite one, and no NaN. */
template <uint32_t DTYPE>
static __device__ inline uint32_t tr_near(float value, float scale, uint32_t *over)
{
    uint32_t sign = __float_as_uint(value) >> 16 & 0x8000u; /* products of NaNs lose theirs */
    value *= scale;
    const bool f16 = DTYPE == RT_DTYPE_F16;
    const uint32_t most = f16 ? TR_F16_MOST : TR_BF16_MOST, largest = f16 ? 0x7bffu : 0x7f7fu;
    uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    if (magnitude <= most)
        return f16 ? __half_as_ushort(__float2half_rn(value))
                   : (bits + ((bits >> 16 & 1) + 0x7fffu)) >> 16;
    *over += magnitude <= TR_FLOAT_INFINITE;
    uint32_t infinite = largest + 1, nan = f16 ? 0x7e00u : 0x7fc0u;
    uint32_t near = magnitude < TR_FLOAT_INFINITE    ? largest
                    : magnitude == TR_FLOAT_INFINITE ? infinite
                                                     : nan;
    return near | sign;
}

/* Element `at` of an array of any dtype. */
template <uint32_t DTYPE> static __device__ inline float tr_wide_at(const void *from, uint64_t at)
{
    if (DTYPE == RT_DTYPE_F32)
        return ((const float *)from)[at];
    return tr_wide<DTYPE>(((const uint16_t *)from)[at]);
}

/* Four of them, or fewer. The array is aligned to four elements. */
template <uint32_t DTYPE>
static __device__ inline float4 tr_wide_four(const void *from, struct tr_four four)
{
    if (DTYPE == RT_DTYPE_F32)
        return tr_load((const float *)from, four);
    if (four.n == 4) {
        uint2 two = *(const uint2 *)((const uint16_t *)from + four.at);
        return make_float4(tr_wide<DTYPE>(two.x & 0xffffu), tr_wide<DTYPE>(two.x >> 16),
                           tr_wide<DTYPE>(two.y & 0xffffu), tr_wide<DTYPE>(two.y >> 16));
    }
    return make_float4(tr_wide_at<DTYPE>(from, four.at),
                       four.n > 1 ? tr_wide_at<DTYPE>(from, four.at + 1) : 0,
                       four.n > 2 ? tr_wide_at<DTYPE>(from, four.at + 2) : 0, 0);
}

/* The other way, times scale. */
template <uint32_t DTYPE>
static __device__ inline void tr_near_four(void *array, struct tr_four four, float4 v, float scale,
                                           uint32_t *over)
{
    if (DTYPE == RT_DTYPE_F32) {
        tr_store((float *)array, four, v);
        return;
    }
    uint16_t *to = (uint16_t *)array + four.at;
    uint32_t x = tr_near<DTYPE>(v.x, scale, over), y = tr_near<DTYPE>(v.y, scale, over);
    uint32_t z = tr_near<DTYPE>(v.z, scale, over), w = tr_near<DTYPE>(v.w, scale, over);
    if (four.n == 4) {
        *(uint2 *)to = make_uint2(x | y << 16, z | w << 16);
        return;
    }
    to[0] = (uint16_t)x;
    if (four.n > 1)
        to[1] = (uint16_t)y;
    if (four.n > 2)
        to[2] = (uint16_t)z;
}

/* rt_half_scale() of the largest magnitude, as bits: at most 2^126; of 0 and of what is not finite, 1. */
static __device__ inline float tr_half_scale(uint32_t magnitude)
{
    if (magnitude == 0 || magnitude >= TR_FLOAT_INFINITE)
        return 1;
    int exponent = min(141 - (int)(magnitude >> 23), 126); /* 2^15 is above it, times 2^that */
    return __uint_as_float((uint32_t)(exponent + 127) << 23);
}

#endif
