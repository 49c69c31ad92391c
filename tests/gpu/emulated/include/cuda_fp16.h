/* tests/gpu/emulated/include/cuda_fp16.h -- float16 as storage, and its conversions, rounded to the nearest even. */
#ifndef EMULATED_CUDA_FP16_H
#define EMULATED_CUDA_FP16_H

#include "cuda_runtime.h"

typedef struct __half {
    unsigned short bits;
} __half;
typedef struct __attribute__((aligned(4))) __half2 {
    __half x, y;
} __half2;

#ifdef __cplusplus
/* By float64: a float16 is a multiple of a power of two there, which rint() finds. */
static inline __half __float2half_rn(float value)
{
    unsigned short sign = (unsigned short)(__float_as_uint(value) >> 16 & 0x8000u);
    double size = fabs((double)value);
    int exponent;
    if (value != value)
        return {0x7fff};
    if (size >= 65520)
        return {(unsigned short)(sign | 0x7c00u)};
    if (size < 0x1p-14) /* subnormal, or becomes the smallest normal one: its bits follow */
        return {(unsigned short)(sign | (unsigned)rint(size * 0x1p24))};
    (void)frexp(size, &exponent); /* size = 0.5..1 times 2^exponent */
    unsigned mantissa = (unsigned)rint(ldexp(size, 11 - exponent)); /* 1024..2048 */
    return {(unsigned short)(sign | ((unsigned)(exponent + 13) * 1024u + mantissa))};
}
static inline __half __float2half(float value)
{
    return __float2half_rn(value);
}
static inline float __half2float(__half value)
{
    unsigned exponent = value.bits >> 10 & 31u, mantissa = value.bits & 1023u;
    float size = exponent == 31 ? (mantissa ? __builtin_nanf("") : __builtin_inff())
                 : exponent     ? ldexpf((float)(1024u + mantissa), (int)exponent - 25)
                                : ldexpf((float)mantissa, -24);
    return value.bits & 0x8000u ? -size : size;
}
static inline __half2 __floats2half2_rn(float x, float y)
{
    return {__float2half_rn(x), __float2half_rn(y)};
}
static inline __half2 __float22half2_rn(float2 value)
{
    return __floats2half2_rn(value.x, value.y);
}
static inline float2 __half22float2(__half2 value)
{
    return {__half2float(value.x), __half2float(value.y)};
}
static inline unsigned short __half_as_ushort(__half value)
{
    return value.bits;
}
static inline __half __ushort_as_half(unsigned short bits)
{
    return {bits};
}
#endif

#endif
