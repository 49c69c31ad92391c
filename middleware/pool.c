/* middleware/pool.c -- pooling for any x86-64 CPU, and the choice. */
#define POOL_NAME mw_pool_plain
#include "middleware/pool.inc.h"

#include "runtime/base/cpu.h"

void mw_pool(const struct mw_bags *bags, const void *const *row, void *out)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        mw_pool_avx512(bags, row, out);
        break;
    case RT_ISA_AVX2:
        mw_pool_avx2(bags, row, out);
        break;
    case RT_ISA_PLAIN:
        mw_pool_plain(bags, row, out);
        break;
    }
}
