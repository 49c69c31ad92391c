/* trainer/model/convert.c -- see convert.h. */
#include "trainer/model/convert.h"

#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/half.h"
#include "trainer/backend/cpu/kernels.h"
#include "trainer/model/model.h"

size_t tr_element(uint32_t dtype)
{
    return dtype == RT_DTYPE_F32 ? sizeof(tr_real) : sizeof(uint16_t);
}

#ifdef TR_REAL_DOUBLE

void tr_widen(uint32_t dtype, const void *in, tr_real *out, size_t n)
{
    rt_assert(dtype == RT_DTYPE_F32);
    memcpy(out, in, n * sizeof *out);
}

void tr_narrow(uint32_t dtype, float scale, const tr_real *in, void *out, size_t n)
{
    rt_assert(dtype == RT_DTYPE_F32 && scale == 1);
    memcpy(out, in, n * sizeof *in);
}

float tr_narrow_scale(const tr_real *in, size_t n)
{
    (void)in;
    (void)n;
    return 1;
}

bool tr_within(const tr_real *value, size_t n, float max)
{
    for (size_t i = 0; i < n; i++)
        if (!(value[i] <= max && value[i] >= -max))
            return false;
    return true;
}

#else

void tr_widen(uint32_t dtype, const void *in, tr_real *out, size_t n)
{
    rt_widen(dtype, in, out, n);
}

void tr_narrow(uint32_t dtype, float scale, const tr_real *in, void *out, size_t n)
{
    rt_narrow_scaled(dtype, scale, in, out, n);
}

float tr_narrow_scale(const tr_real *in, size_t n)
{
    return rt_half_scale(in, n);
}

bool tr_within(const tr_real *value, size_t n, float max)
{
    return tr_kernels_get()->within(value, n, max);
}

#endif
