/* trainer/backend/cpu/kernels_avx512.c -- the kernels for avx512; called only where rt_cpu_isa() says so. */
#define LANES   16
#define KERNELS tr_kernels_avx512
#include "trainer/backend/cpu/kernels.inc.h"
