/* embedding_server/element.c -- the loops of element.h that fit the CPU. */
#include "embedding_server/element.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"

/* 16-bit rows are worked on in whole registers: half an AVX-512 register of 8 is slower than an AVX2 one. */
static const struct ebs_element_loops *select_loops(size_t dim)
{
    switch (rt_cpu_isa()) {
    case RT_ISA_AVX512:
        return dim > 8 ? &ebs_element_avx512 : &ebs_element_avx2;
    case RT_ISA_AVX2:
        return &ebs_element_avx2;
    case RT_ISA_PLAIN:
        break;
    }
    return &ebs_element_plain;
}

void ebs_element_widen(const struct ebs_weights *weights, float *out)
{
    ebs_element_read(weights, WIRE_F32, out);
}

void ebs_element_read(const struct ebs_weights *weights, uint32_t dtype, void *out)
{
    rt_assert(weights->dtype <= WIRE_BF16 && dtype <= WIRE_BF16);
    select_loops(weights->dim)->read[weights->dtype][dtype](weights, out);
}

void ebs_element_round(uint32_t dtype, const float *in, uint8_t *out, size_t dim)
{
    rt_assert(dtype <= WIRE_BF16 && dim <= WIRE_DIM_MAX);
    select_loops(dim)->round[dtype](in, out, dim);
}

void ebs_element_dither(uint32_t dtype, uint64_t key, const float *in, uint8_t *out, size_t dim)
{
    rt_assert(dtype <= WIRE_BF16 && dim <= WIRE_DIM_MAX);
    select_loops(dim)->dither[dtype](key, in, out, dim);
}
