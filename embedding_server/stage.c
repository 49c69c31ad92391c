/* embedding_server/stage.c -- the loops that fit the CPU. */
#include "embedding_server/stage.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"

void ebs_stage_run(const struct ebs_finder *finder, const uint64_t *id, size_t n,
                   struct ebs_stretch *out)
{
    static const ebs_stage_fn run[] = {[RT_ISA_PLAIN] = ebs_stage_plain,
                                       [RT_ISA_AVX2] = ebs_stage_avx2,
                                       [RT_ISA_AVX512] = ebs_stage_avx512};

    rt_assert(n <= EBS_STRETCH);
    run[rt_cpu_isa()](finder, id, n, out);
}

size_t ebs_outside(const uint64_t *id, size_t n, uint32_t first, uint32_t width)
{
    static const ebs_outside_fn count[] = {[RT_ISA_PLAIN] = ebs_outside_plain,
                                           [RT_ISA_AVX2] = ebs_outside_avx2,
                                           [RT_ISA_AVX512] = ebs_outside_avx512};

    return count[rt_cpu_isa()](id, n, first, width);
}
