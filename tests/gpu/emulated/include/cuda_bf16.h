/* tests/gpu/emulated/include/cuda_bf16.h -- bfloat16 as storage, and its conversions, rounded to the nearest even. */
#ifndef EMULATED_CUDA_BF16_H
#define EMULATED_CUDA_BF16_H

#include "cuda_runtime.h"

typedef struct __nv_bfloat16 {
    unsigned short bits;
} __nv_bfloat16;
typedef struct __attribute__((aligned(4))) __nv_bfloat162 {
    __nv_bfloat16 x, y;
} __nv_bfloat162;

#ifdef __cplusplus
static inline __nv_bfloat16 __float2bfloat16_rn(float value)
{
    unsigned bits = __float_as_uint(value);
    if (value != value)
        return {0x7fff};
    return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
static inline __nv_bfloat16 __float2bfloat16(float value)
{
    return __float2bfloat16_rn(value);
}
static inline float __bfloat162float(__nv_bfloat16 value)
{
    return __uint_as_float((unsigned)value.bits << 16);
}
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y)
{
    return {__float2bfloat16_rn(x), __float2bfloat16_rn(y)};
}
static inline __nv_bfloat162 __float22bfloat162_rn(float2 value)
{
    return __floats2bfloat162_rn(value.x, value.y);
}
static inline float2 __bfloat1622float2(__nv_bfloat162 value)
{
    return {__bfloat162float(value.x), __bfloat162float(value.y)};
}
static inline unsigned short __bfloat16_as_ushort(__nv_bfloat16 value)
{
    return value.bits;
}
static inline __nv_bfloat16 __ushort_as_bfloat16(unsigned short bits)
{
    return {bits};
}
#endif

#endif
