/* trainer/backend/cpu/kernels_avx2.c -- the kernels for avx2; called only where rt_cpu_isa() says so. */
#define LANES   8
#define KERNELS tr_kernels_avx2
#include "trainer/backend/cpu/kernels.inc.h"
