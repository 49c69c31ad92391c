/* trainer/backend/cuda/features.cu -- features and their gradients, between what is sent and float32: trainer/model/train.c on the device.
 *
 * All features in one launch each way: blocks are [piece][feature], a piece being as many elements of each. A thread has four elements next to one
 * another, so a warp reads and writes without gaps, and FOURS of these, all read before one is written, so that enough is on its way.
 * The scale of float16 is that of the first 128 samples that have a gradient other than 0; finite.cu has left their magnitudes. Every block looks
 * for it by itself, which mostly is one read of 32 magnitudes; a sample before it has zeros, of which the scale says nothing.
 * Bytes moved per element: 6 each way in 16 bits, 8 in float32. */
#include "trainer/backend/cuda/step.h"

#include "runtime/base/err.h"
#include "trainer/backend/cuda/vectors.h"
#include "trainer/backend/cuda/half.h"

#define PIECE    4096u
#define FOURS    (PIECE / 4 / TR_BLOCK)
#define F16_ROOM 0x1p-12f /* of trainer/model/train.c */

/* Number k of a thread's fours in a piece from `first` on; n is 0 behind the end. */
static __device__ struct tr_four four_of(uint32_t k, uint64_t first, uint64_t end)
{
    uint64_t at = first + 4 * (k * TR_BLOCK + threadIdx.x);
    return {at, at >= end ? 0 : (uint32_t)min(end - at, (uint64_t)4)};
}

/* ---- in ---- */

template <uint32_t DTYPE>
static __global__ void widen(const struct tr_cuda_feature *table, uint32_t samples)
{
    struct tr_cuda_feature of = table[blockIdx.y];
    uint64_t first = (uint64_t)blockIdx.x * PIECE, all = (uint64_t)samples * of.width;
    uint64_t end = min(first + PIECE, all);
    if (!of.to || of.from == of.to)
        return;
    float4 v[FOURS];
    for (uint32_t k = 0; k < FOURS; k++)
        if (four_of(k, first, end).n > 0)
            v[k] = tr_wide_four<DTYPE>(of.from, four_of(k, first, end));
    for (uint32_t k = 0; k < FOURS; k++)
        if (four_of(k, first, end).n > 0)
            tr_store(of.to, four_of(k, first, end), v[k]);
}

static dim3 pieces_of(uint32_t n, uint32_t samples, uint32_t width_max)
{
    return dim3(tr_blocks((uint64_t)samples * width_max, PIECE), n);
}

int tr_cuda_widen(struct tr_backend *backend, uint32_t dtype, const struct tr_cuda_feature *of,
                  uint32_t n, uint32_t samples, uint32_t width_max)
{
    dim3 grid = pieces_of(n, samples, width_max);
    cudaStream_t stream = backend->cuda->compute;
    if (grid.x == 0 || n == 0)
        return 0;
    switch (dtype) {
    case RT_DTYPE_F32:
        TR_LAUNCH(widen<RT_DTYPE_F32>, grid, TR_BLOCK, stream, of, samples);
        break;
    case RT_DTYPE_F16:
        TR_LAUNCH(widen<RT_DTYPE_F16>, grid, TR_BLOCK, stream, of, samples);
        break;
    case RT_DTYPE_BF16:
        TR_LAUNCH(widen<RT_DTYPE_BF16>, grid, TR_BLOCK, stream, of, samples);
        break;
    }
    return tr_cuda_launched(backend, "widen");
}

/* ---- out ---- */

/* The first of magnitudes[n] other than 0, else 0; by a warp, in every lane. */
static __device__ uint32_t first_set(const uint32_t *magnitude, uint32_t n)
{
    uint32_t lane = threadIdx.x % TR_WARP;
    for (uint32_t i = 0; i < n; i += TR_WARP) {
        uint32_t mine = i + lane < n ? magnitude[i + lane] : 0;
        uint32_t set = __ballot_sync(0xffffffffu, mine != 0);
        if (set)
            return __shfl_sync(0xffffffffu, mine, __ffs((int)set) - 1);
    }
    return 0;
}

/* By a block. Zeros have the scale 1, and so have bfloat16 and float32. */
template <uint32_t DTYPE>
static __device__ float scale_of(const struct tr_cuda_gradients &op, uint32_t f, uint32_t chunks)
{
    __shared__ float scale;
    if (DTYPE != RT_DTYPE_F16)
        return 1;
    if (threadIdx.x < TR_WARP) {
        uint32_t magnitude = first_set(op.magnitude + (size_t)f * op.chunks, chunks);
        if (threadIdx.x == 0)
            scale = magnitude ? tr_half_scale(magnitude) * F16_ROOM : 1;
    }
    __syncthreads();
    return scale;
}

/* Elements first..end by a block. Large values are rare: a thread that has one tells at once. */
template <uint32_t DTYPE>
static __device__ void narrow_piece(const float *from, void *to, uint64_t first, uint64_t end,
                                    float scale, uint64_t *saturated)
{
    uint32_t over = 0;
    float4 v[FOURS];
    for (uint32_t k = 0; k < FOURS; k++) {
        v[k] = make_float4(0, 0, 0, 0);
        if (from && four_of(k, first, end).n > 0)
            v[k] = tr_load(from, four_of(k, first, end));
    }
    for (uint32_t k = 0; k < FOURS; k++)
        if (four_of(k, first, end).n > 0)
            tr_near_four<DTYPE>(to, four_of(k, first, end), v[k], scale, &over);
    if (over)
        atomicAdd((unsigned long long *)saturated, (unsigned long long)over);
}

template <uint32_t DTYPE>
static __global__ void narrow(struct tr_cuda_gradients op, uint32_t samples, uint32_t chunks)
{
    uint32_t f = blockIdx.y;
    struct tr_cuda_gradient of = op.of[f];
    uint64_t first = (uint64_t)blockIdx.x * PIECE, all = (uint64_t)samples * of.width;
    uint64_t end = min(first + PIECE, all);
    if (!of.out || of.out == of.grad || first >= all)
        return;
    float scale = scale_of<DTYPE>(op, f, chunks);
    narrow_piece<DTYPE>(of.grad, of.out, first, end, scale, &op.outcome->saturated);
    if (blockIdx.x == 0 && threadIdx.x == 0)
        op.scale[f] = scale;
}

int tr_cuda_narrow(struct tr_backend *backend, const struct tr_cuda_gradients *gradients,
                   uint32_t samples)
{
    dim3 grid = pieces_of(gradients->n, samples, gradients->width_max);
    uint32_t chunks = (samples + 127) / 128;
    cudaStream_t stream = backend->cuda->compute;
    if (grid.x == 0 || grid.y == 0)
        return 0;
    switch (gradients->dtype) {
    case RT_DTYPE_F32:
        TR_LAUNCH(narrow<RT_DTYPE_F32>, grid, TR_BLOCK, stream, *gradients, samples, chunks);
        break;
    case RT_DTYPE_F16:
        TR_LAUNCH(narrow<RT_DTYPE_F16>, grid, TR_BLOCK, stream, *gradients, samples, chunks);
        break;
    case RT_DTYPE_BF16:
        TR_LAUNCH(narrow<RT_DTYPE_BF16>, grid, TR_BLOCK, stream, *gradients, samples, chunks);
        break;
    }
    return tr_cuda_launched(backend, "narrow");
}
