/* middleware/scatter.c -- scattering for any x86-64 CPU, and the choice. */
#define SCATTER_NAME mw_scatter_plain
#include "middleware/scatter.inc.h"

#include "runtime/base/cpu.h"

void mw_scatter(const struct mw_bags *bags, const void *gradient, float inverse, float *const *sum)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        mw_scatter_avx512(bags, gradient, inverse, sum);
        break;
    case RT_ISA_AVX2:
        mw_scatter_avx2(bags, gradient, inverse, sum);
        break;
    case RT_ISA_PLAIN:
        mw_scatter_plain(bags, gradient, inverse, sum);
        break;
    }
}
