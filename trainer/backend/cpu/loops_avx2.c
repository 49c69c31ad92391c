/* trainer/backend/cpu/loops_avx2.c -- the loops for avx2; called only where rt_cpu_isa() says so. */
#define LOOPS tr_loops_avx2
#include "trainer/backend/cpu/loops.inc.h"
