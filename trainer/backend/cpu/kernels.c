/* trainer/backend/cpu/kernels.c -- the baseline build of the kernels, and the choice among all. */
#define LANES   4
#define KERNELS tr_kernels_plain
#include "trainer/backend/cpu/kernels.inc.h"

#include "runtime/base/cpu.h"

const struct tr_kernels *tr_kernels_get(void)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        return &tr_kernels_avx512;
    case RT_ISA_AVX2:
        return &tr_kernels_avx2;
    case RT_ISA_PLAIN:
        break;
    }
    return &tr_kernels_plain;
}
