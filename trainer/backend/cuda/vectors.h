/* trainer/backend/cuda/vectors.h -- vectors of floats in kernels, four elements at a time where they stand at a multiple of 16 bytes, else one by one. */
#ifndef TR_CUDA_VECTORS_H
#define TR_CUDA_VECTORS_H

#include "trainer/backend/cuda/kernel.h"

#define TR_FLOAT_INFINITE 0x7f800000u /* bits of infinity; more are NaN's */

/* Elements first..end of a vector that are in its four number `four`: at + n. */
struct tr_four {
    uint64_t at;
    uint32_t n; /* 4: all of it */
};

static __device__ inline struct tr_four tr_four_of(uint64_t four, uint64_t first, uint64_t end)
{
    uint64_t from = four * 4, to = from + 4;
    from = from > first ? from : first;
    to = to < end ? to : end;
    return {from, (uint32_t)(to - from)};
}

static __device__ inline float4 tr_load(const float *vector, struct tr_four four)
{
    const float *from = vector + four.at;
    if (four.n == 4)
        return *(const float4 *)from;
    return make_float4(from[0], four.n > 1 ? from[1] : 0, four.n > 2 ? from[2] : 0, 0);
}

static __device__ inline void tr_store(float *vector, struct tr_four four, float4 value)
{
    float *to = vector + four.at;
    if (four.n == 4) {
        *(float4 *)to = value;
        return;
    }
    to[0] = value.x;
    if (four.n > 1)
        to[1] = value.y;
    if (four.n > 2)
        to[2] = value.z;
}

static __device__ inline uint32_t tr_magnitude(float value)
{
    return __float_as_uint(value) & 0x7fffffffu;
}

/* The largest, as bits, of which NaN's are the most. */
static __device__ inline uint32_t tr_magnitude4(float4 value)
{
    return max(max(tr_magnitude(value.x), tr_magnitude(value.y)),
               max(tr_magnitude(value.z), tr_magnitude(value.w)));
}

/* Of a block of whole warps; in every thread. May be called again at once. */
static __device__ inline uint32_t tr_block_max(uint32_t value)
{
    __shared__ uint32_t part[TR_WARP];
    uint32_t lane = threadIdx.x % TR_WARP, warp = threadIdx.x / TR_WARP;
    value = tr_warp_max(value);
    __syncthreads(); /* who came before has read it */
    if (lane == 0)
        part[warp] = value;
    __syncthreads();
    return tr_warp_max(lane < blockDim.x / TR_WARP ? part[lane] : 0);
}

#endif
