/* tests/lib/half_value.c -- see the header. */
#include "tests/lib/half_value.h"
#include "runtime/base/half.h"

#include <math.h>

double half_value(uint32_t dtype, uint16_t half)
{
    int mantissa_bits = dtype == RT_DTYPE_F16 ? 10 : 7, bias = dtype == RT_DTYPE_F16 ? 15 : 127;
    int mantissa = half & ((1 << mantissa_bits) - 1), exponent = (half & 0x7fff) >> mantissa_bits;
    int special = (1 << (15 - mantissa_bits)) - 1;
    double sign = half & 0x8000 ? -1.0 : 1.0;

    if (exponent == special)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (exponent == 0)
        return sign * ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

uint16_t half_largest(uint32_t dtype)
{
    return dtype == RT_DTYPE_F16 ? 0x7bff : 0x7f7f;
}
