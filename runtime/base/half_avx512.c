/* runtime/base/half_avx512.c -- the loops of half.h compiled for AVX-512. */
#define LOOPS_NAME rt_half_avx512
#include "runtime/base/half_loops.inc.h"
