/* trainer/backend/cuda/kernel.h -- what kernels have in common: how they are launched, sums over warps and blocks, lists of tensors.
 *
 * A kernel file has its kernels and, at its end, the operations that launch them: extern "C", of backend.h's types. Sums have one order, which
 * the shape alone decides: no atomic additions, so the same input gives the same bits.
 * Everything is written in what a CPU can run as well: tests/gpu/emulated/ compiles these files with a C++ compiler and runs the threads of
 * a block one after the other, so that the logic is tested, under sanitizers too, where no GPU is. Hence TR_LAUNCH instead of <<<>>>, no
 * inline assembly without a plain form beside it, and every thread of a block comes to each __syncthreads(). */
#ifndef TR_CUDA_KERNEL_H
#define TR_CUDA_KERNEL_H

#include "trainer/backend/cuda/device.h"

#ifndef TR_LAUNCH /* (kernel) grid and block: dim3 or integers; kernel in parentheses where its template arguments have commas */
#define TR_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif

/* Before a loop: n turns at once, so that their loads are all under way. (A C++ compiler does not know the pragma.) */
#ifdef __CUDACC__
#define TR_PRAGMA(text) _Pragma(#text)
#define TR_UNROLL(n)    TR_PRAGMA(unroll n)
#else
#define TR_UNROLL(n)
#endif

#define TR_WARP       32u
#define TR_BLOCK      256u /* threads, where nothing says otherwise */
#define TR_BLOCKS_MAX 65535u

static inline uint32_t tr_blocks(uint64_t threads, uint32_t block)
{
    return (uint32_t)((threads + block - 1) / block);
}

/* Blocks for loops with a stride of the whole grid: enough to fill the device, no more than there is work. */
static inline uint32_t tr_filling(const struct tr_backend *backend, uint64_t threads,
                                  uint32_t block)
{
    uint64_t wanted = (threads + block - 1) / block,
             most = (uint64_t)backend->cuda->processors * (2048 / block);
    return (uint32_t)(wanted < most ? (wanted ? wanted : 1) : most);
}

template <typename T> __device__ inline T tr_warp_sum(T value)
{
    for (uint32_t other = TR_WARP / 2; other > 0; other /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, other);
    return value; /* in every lane */
}

template <typename T> __device__ inline T tr_warp_max(T value)
{
    for (uint32_t other = TR_WARP / 2; other > 0; other /= 2) {
        T theirs = __shfl_xor_sync(0xffffffffu, value, other);
        value = theirs > value ? theirs : value;
    }
    return value;
}

/* Of a block of whole warps; every thread comes here, and has the sum. May be called again at once. */
template <typename T> __device__ inline T tr_block_sum(T value)
{
    __shared__ T part[TR_WARP];
    uint32_t lane = threadIdx.x % TR_WARP, warp = threadIdx.x / TR_WARP,
             warps = blockDim.x / TR_WARP;
    value = tr_warp_sum(value);
    __syncthreads(); /* who came before has read it */
    if (lane == 0)
        part[warp] = value;
    __syncthreads();
    value = lane < warps ? part[lane] : T(0);
    return tr_warp_sum(value);
}

/* Up to N tensors, in the parameters of a kernel: recorded with it, and no table of theirs to look after. (4 KB hold 128; 1024 need CUDA
 * 12.1 and sm_70.). */
template <uint32_t N> struct tr_list {
    const float *x[N];
    float *dx[N]; /* NULL: nobody wants it */
    uint32_t stride[N];
    uint8_t add[N];
};

/* Copies what an operation names; dx, add may be NULL. false: more than N, or a stride over 32 bits. */
template <uint32_t N>
static bool tr_fill(struct tr_list<N> *list, uint32_t n, const float *const *x,
                    const size_t *stride, float *const *dx, const bool *add)
{
    if (n > N)
        return false;
    for (uint32_t i = 0; i < n; i++) {
        if (stride[i] > UINT32_MAX)
            return false;
        list->x[i] = x[i];
        list->stride[i] = (uint32_t)stride[i];
        list->dx[i] = dx ? dx[i] : NULL;
        list->add[i] = add && add[i];
    }
    return true;
}

/* How many of the first N can be worked on at once: until a gradient comes again, which is added to in the order of the list. */
template <uint32_t N> static uint32_t tr_apart(uint32_t n, float *const *dx)
{
    for (uint32_t i = 0; i < n && i < N; i++)
        for (uint32_t j = 0; dx[i] && j < i; j++)
            if (dx[j] == dx[i])
                return i;
    return n < N ? n : N;
}

#endif
