/* runtime/base/half.c -- the loops of half.h that fit the CPU. */
#include "runtime/base/half.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"

#include <math.h>

#define INFINITE  0x7f800000u /* bits of infinity */
#define TOP       15          /* the largest magnitude comes below 2^TOP */
#define SCALE_MAX 126

static const struct rt_half_loops *select_loops(void)
{
    static const struct rt_half_loops *const loops[] = {[RT_ISA_PLAIN] = &rt_half_plain,
                                                        [RT_ISA_AVX2] = &rt_half_avx2,
                                                        [RT_ISA_AVX512] = &rt_half_avx512};

    return loops[rt_cpu_isa()];
}

void rt_widen(uint32_t dtype, const void *in, float *out, size_t n)
{
    rt_assert(dtype < RT_DTYPE_COUNT);
    select_loops()->widen[dtype](in, out, n);
}

void rt_narrow(uint32_t dtype, const float *in, void *out, size_t n)
{
    rt_assert(dtype < RT_DTYPE_COUNT);
    select_loops()->narrow[dtype](in, out, n);
}

void rt_narrow_scaled(uint32_t dtype, float scale, const float *in, void *out, size_t n)
{
    rt_assert(dtype < RT_DTYPE_COUNT);
    select_loops()->narrow_scaled[dtype](scale, in, out, n);
}

void rt_widen_scaled(uint32_t dtype, float inverse, const void *in, float *out, size_t n)
{
    rt_assert(dtype < RT_DTYPE_COUNT);
    select_loops()->widen_scaled[dtype](inverse, in, out, n);
}

float rt_half_scale(const float *in, size_t n)
{
    union {
        uint32_t bits;
        float value;
    } most = {select_loops()->magnitude(in, n)};
    int exponent;

    if (most.bits == 0 || most.bits >= INFINITE)
        return 1.0f;
    (void)frexpf(most.value, &exponent); /* below 2^exponent, and at least half of it */
    return ldexpf(1.0f, TOP - exponent < SCALE_MAX ? TOP - exponent : SCALE_MAX);
}
