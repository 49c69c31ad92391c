/* trainer/backend/cpu/loops_avx512.c -- the loops for avx512; called only where rt_cpu_isa() says so. */
#define LOOPS tr_loops_avx512
#include "trainer/backend/cpu/loops.inc.h"
