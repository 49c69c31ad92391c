/* trainer/backend/cuda/reduce_casts.cu -- what travels between ranks in bfloat16: float32 to it and back.
 *
 * One pass, four elements a thread and turn: 16 bytes of the one, 8 of the other, where both lie on such boundaries (a bucket of the gradients does, when
 * it is a multiple of 4), else one by one. Bytes moved: 6 n each way. Integers only, so the bits are those of runtime/base/half.h: to the
 * nearest, ties to even, no finite value becomes infinity, a NaN stays one. The library's conversion does all of that but the third, and a sum of
 * gradients that became infinite on the way would be of a step that no rank had called so. */
#include "trainer/backend/cuda/kernel.h"
#include "trainer/backend/cuda/nccl.h"

static __device__ __forceinline__ uint32_t narrowed(float value)
{
    uint32_t bits = __float_as_uint(value), magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (bits >> 16 & 0x8000u) | 0x7fc0u;
    uint32_t near = (magnitude + 0x7fffu + (magnitude >> 16 & 1u)) >> 16;
    if (near > 0x7f7fu && magnitude < 0x7f800000u)
        near = 0x7f7fu;
    return near | (bits >> 16 & 0x8000u);
}

static __device__ __forceinline__ float widened(uint32_t half)
{
    return __uint_as_float(half << 16);
}

/* Of n elements the first 4 * quads are read and written four at a time. */
static __global__ void narrow_kernel(const float *from, uint16_t *to, size_t quads, size_t n)
{
    size_t stride = (size_t)gridDim.x * blockDim.x,
           at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (size_t i = at; i < quads; i += stride) {
        float4 four = ((const float4 *)from)[i];
        uint2 both;
        both.x = narrowed(four.x) | narrowed(four.y) << 16;
        both.y = narrowed(four.z) | narrowed(four.w) << 16;
        ((uint2 *)to)[i] = both;
    }
    for (size_t i = 4 * quads + at; i < n; i += stride)
        to[i] = (uint16_t)narrowed(from[i]);
}

static __global__ void widen_kernel(const uint16_t *from, float *to, size_t quads, size_t n)
{
    size_t stride = (size_t)gridDim.x * blockDim.x,
           at = (size_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (size_t i = at; i < quads; i += stride) {
        uint2 both = ((const uint2 *)from)[i];
        float4 four;
        four.x = widened(both.x & 0xffffu);
        four.y = widened(both.x >> 16);
        four.z = widened(both.y & 0xffffu);
        four.w = widened(both.y >> 16);
        ((float4 *)to)[i] = four;
    }
    for (size_t i = 4 * quads + at; i < n; i += stride)
        to[i] = widened(from[i]);
}

static size_t quads_of(const float *wide, const uint16_t *half, size_t n)
{
    bool fits = (uintptr_t)wide % sizeof(float4) == 0 && (uintptr_t)half % sizeof(uint2) == 0;
    return fits ? n / 4 : 0;
}

/* A copy fills the device with a quarter of its threads, and the rest is the backward pass's, beside which this runs. */
static uint32_t grid_of(const struct tr_cuda *cuda, size_t quads, size_t n)
{
    size_t wanted = tr_blocks(quads ? quads : n, TR_BLOCK), most = (size_t)cuda->processors * 2;
    return (uint32_t)(wanted < most ? wanted : most);
}

extern "C" int tr_cuda_reduce_narrow(struct tr_cuda *cuda, cudaStream_t stream, const float *from,
                                     uint16_t *to, size_t n)
{
    size_t quads = quads_of(from, to, n);
    if (n > 0)
        TR_LAUNCH(narrow_kernel, grid_of(cuda, quads, n), TR_BLOCK, stream, from, to, quads, n);
    return tr_cuda_check(cuda, cudaGetLastError(), "narrow");
}

extern "C" int tr_cuda_reduce_widen(struct tr_cuda *cuda, cudaStream_t stream, const uint16_t *from,
                                    float *to, size_t n)
{
    size_t quads = quads_of(to, from, n);
    if (n > 0)
        TR_LAUNCH(widen_kernel, grid_of(cuda, quads, n), TR_BLOCK, stream, from, to, quads, n);
    return tr_cuda_check(cuda, cudaGetLastError(), "widen");
}
