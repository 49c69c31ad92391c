/* runtime/base/half_avx2.c -- the loops of half.h compiled for AVX2. */
#define LOOPS_NAME rt_half_avx2
#include "runtime/base/half_loops.inc.h"
