/* runtime/base/half.h -- arrays of float32 to and from float32, float16 or bfloat16, as they are stored and sent.
 *
 * Widening is exact. Narrowing goes to the nearest, ties to even, and makes no infinity of a finite value: what is
 * beyond the largest finite one (65,504 in float16, 3.3895e38 in bfloat16) becomes it. Infinity stays, NaN stays NaN.
 * float32 is a copy. Equal bits on every instruction set, wherever an array is cut in two. `in` and `out` do not
 * overlap; each is aligned as its elements are. Touch: any thread.
 *
 * Gradients are small and float16 has no exponents for them, so they are multiplied by a power of two before and
 * by its inverse after: rt_half_scale() says which. Loops that convert on their way include half.inc.h instead. */
#ifndef RT_HALF_H
#define RT_HALF_H

#include <stddef.h>
#include <stdint.h>

/* The numbers of enum wire_dtype (runtime/wire/method.c asserts it). */
enum rt_dtype { RT_DTYPE_F32, RT_DTYPE_F16, RT_DTYPE_BF16, RT_DTYPE_COUNT };

void rt_widen(uint32_t dtype, const void *in, float *out, size_t n);
void rt_narrow(uint32_t dtype, const float *in, void *out, size_t n);

/* Of in[i] * scale. The product is a float32: what overflows there is infinity before it is narrowed. */
void rt_narrow_scaled(uint32_t dtype, float scale, const float *in, void *out, size_t n);
/* Times `inverse`, which is 1 / scale. */
void rt_widen_scaled(uint32_t dtype, float inverse, const void *in, float *out, size_t n);

/* The power of two that brings the largest magnitude to 2^14 or over, below 2^15, so that float16 has it with room for
 * twice as much; at most 2^126, so that its inverse is a normal number. 1 where all are 0, or one is not finite. */
float rt_half_scale(const float *in, size_t n);

/* The same by instruction set, for tests; by enum rt_dtype. */
struct rt_half_loops {
    void (*widen[RT_DTYPE_COUNT])(const void *in, float *out, size_t n);
    void (*narrow[RT_DTYPE_COUNT])(const float *in, void *out, size_t n);
    void (*narrow_scaled[RT_DTYPE_COUNT])(float scale, const float *in, void *out, size_t n);
    void (*widen_scaled[RT_DTYPE_COUNT])(float inverse, const void *in, float *out, size_t n);
    uint32_t (*magnitude)(const float *in, size_t n); /* the largest, as bits without their sign */
};
extern const struct rt_half_loops rt_half_plain;
extern const struct rt_half_loops rt_half_avx2;
extern const struct rt_half_loops rt_half_avx512;

#endif
