/* tests/gpu/bench/copy.cu -- the plainest kernel there is, which others are measured beside: 16 bytes a thread at a time, strided by the grid. */
#include "trainer/backend/cuda/kernel.h"

static __global__ void copy16(float4 *to, const float4 *from, size_t n)
{
    size_t stride = (size_t)gridDim.x * blockDim.x;
    for (size_t i = (size_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += stride)
        to[i] = from[i];
}

extern "C" int bench_copy(struct tr_backend *backend, void *to, const void *from, size_t bytes)
{
    size_t n = bytes / sizeof(float4);
    TR_LAUNCH(copy16, tr_filling(backend, n, TR_BLOCK), TR_BLOCK, backend->cuda->compute,
              (float4 *)to, (const float4 *)from, n);
    return tr_cuda_launched(backend, "copy");
}
