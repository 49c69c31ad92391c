/* tests/lib/half_value.h -- what a pattern of 16 bits is worth, from the definition of the formats. */
#ifndef TESTS_HALF_VALUE_H
#define TESTS_HALF_VALUE_H

#include <stdint.h>

/* @dtype: RT_DTYPE_F16 or RT_DTYPE_BF16 (or as enum wire_dtype has it). */
double half_value(uint32_t dtype, uint16_t half);
uint16_t half_largest(uint32_t dtype); /* the pattern of the largest finite value */

#endif
