/* trainer/backend/cuda/softmax.cu -- softmax over the columns of each row.
 *
 * A row is a few threads' of one warp, four columns each and more where a warp has not enough for that; narrow rows share a warp. A row is
 * gone over three times, for its largest value, the sum, the result: what comes from memory is the first time only, since the rows
 * of all threads of a processor fit into its first cache (at 1,024 columns, 4 KB x 64 warps, just about). The alternative, to keep a row in
 * registers, needs a kernel for each length.
 * Memory moved: x, the mask and y once; backward y, dy, dx once. Sums of a row are float32: each thread its columns, then along a tree. */
#include "trainer/backend/cuda/fours.h"

static __device__ __forceinline__ float lanes_max(float value, uint32_t lanes)
{
    for (uint32_t other = lanes / 2; other > 0; other /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, other));
    return value;
}

/* exp(x - max) of four columns, 0 where they are masked or past the end. */
template <bool WIDE>
static __device__ __forceinline__ tr_quad powers(const float *x, const float *mask, uint32_t c,
                                                 uint32_t n, float max)
{
    tr_quad power = tr_four_at<WIDE>(x, c, n), counts = {{1, 1, 1, 1}};
    if (mask)
        counts = tr_four_at<WIDE>(mask, c, n);
    for (uint32_t k = 0; k < 4; k++)
        power.v[k] = c + k < n && counts.v[k] != 0 ? expf(power.v[k] - max) : 0;
    return power;
}

template <bool WIDE>
static __device__ __forceinline__ float largest(const float *x, const float *mask, uint32_t c,
                                                uint32_t n, float max)
{
    tr_quad value = tr_four_at<WIDE>(x, c, n), counts = {{1, 1, 1, 1}};
    if (mask)
        counts = tr_four_at<WIDE>(mask, c, n);
    for (uint32_t k = 0; k < 4; k++)
        if (c + k < n && counts.v[k] != 0)
            max = fmaxf(max, value.v[k]);
    return max;
}

template <bool WIDE> static __global__ void softmax_kernel(struct tr_softmax op, uint32_t lanes)
{
    uint64_t k = (uint64_t)blockIdx.x * (TR_BLOCK / lanes) + threadIdx.x / lanes;
    size_t s = k / op.rows, at = k % op.rows * op.columns;
    uint32_t first = threadIdx.x % lanes * 4, n = s < op.samples ? op.columns : 0;
    const float *x = op.x + s * op.x_stride + at, *mask = NULL;
    if (op.mask)
        mask = op.mask + s * op.mask_stride + (op.mask_rows ? at : 0);
    float max = -INFINITY, sum = 0;
    for (uint32_t c = first; c < n; c += 4 * lanes)
        max = largest<WIDE>(x, mask, c, n, max);
    max = lanes_max(max, lanes);
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad power = powers<WIDE>(x, mask, c, n, max);
        sum += (power.v[0] + power.v[1]) + (power.v[2] + power.v[3]);
    }
    sum = tr_lanes_sum(sum, lanes);
    float *y = op.y + s * op.y_stride + at;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad share = powers<WIDE>(x, mask, c, n, max);
        for (uint32_t i = 0; i < 4; i++)
            share.v[i] = sum != 0 ? share.v[i] / sum : 0; /* 0: all of the row is masked */
        tr_four_put<WIDE>(y, c, n, share, false);
    }
}

template <bool WIDE>
static __global__ void softmax_grad_kernel(struct tr_softmax_grad op, uint32_t lanes)
{
    uint64_t k = (uint64_t)blockIdx.x * (TR_BLOCK / lanes) + threadIdx.x / lanes;
    size_t s = k / op.rows, at = k % op.rows * op.columns;
    uint32_t first = threadIdx.x % lanes * 4, n = s < op.samples ? op.columns : 0;
    const float *y = op.y + s * op.y_stride + at, *dy = op.dy + s * op.dy_stride + at;
    float mean = 0;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad share = tr_four_at<WIDE>(y, c, n), d = tr_four_at<WIDE>(dy, c, n);
        for (uint32_t i = 0; i < 4; i++)
            mean += share.v[i] * d.v[i];
    }
    mean = tr_lanes_sum(mean, lanes);
    float *dx = op.dx + s * op.dx_stride + at;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad share = tr_four_at<WIDE>(y, c, n), d = tr_four_at<WIDE>(dy, c, n);
        for (uint32_t i = 0; i < 4; i++)
            d.v[i] = share.v[i] * (d.v[i] - mean);
        tr_four_put<WIDE>(dx, c, n, d, op.add);
    }
}

/* ---- operations ---- */

extern "C" int tr_cuda_softmax_forward(struct tr_backend *backend, const struct tr_softmax *op)
{
    uint32_t lanes = tr_four_lanes(op->columns);
    uint32_t blocks = tr_blocks((uint64_t)op->samples * op->rows, TR_BLOCK / lanes);
    bool wide = tr_wide_rows(op->x, op->x_stride, op->rows, op->columns) &&
                tr_wide_rows(op->y, op->y_stride, op->rows, op->columns) &&
                tr_wide_rows(op->mask, op->mask_stride, op->mask_rows ? op->rows : 1, op->columns);
    if (blocks == 0 || op->columns == 0)
        return 0;
    if (wide)
        TR_LAUNCH(softmax_kernel<true>, blocks, TR_BLOCK, backend->cuda->compute, *op, lanes);
    else
        TR_LAUNCH(softmax_kernel<false>, blocks, TR_BLOCK, backend->cuda->compute, *op, lanes);
    return tr_cuda_launched(backend, "softmax_forward");
}

extern "C" int tr_cuda_softmax_backward(struct tr_backend *backend,
                                        const struct tr_softmax_grad *op)
{
    uint32_t lanes = tr_four_lanes(op->columns);
    uint32_t blocks = tr_blocks((uint64_t)op->samples * op->rows, TR_BLOCK / lanes);
    bool wide = tr_wide_rows(op->y, op->y_stride, op->rows, op->columns) &&
                tr_wide_rows(op->dy, op->dy_stride, op->rows, op->columns) &&
                tr_wide_rows(op->dx, op->dx_stride, op->rows, op->columns);
    if (blocks == 0 || op->columns == 0)
        return 0;
    if (wide)
        TR_LAUNCH(softmax_grad_kernel<true>, blocks, TR_BLOCK, backend->cuda->compute, *op, lanes);
    else
        TR_LAUNCH(softmax_grad_kernel<false>, blocks, TR_BLOCK, backend->cuda->compute, *op, lanes);
    return tr_cuda_launched(backend, "softmax_backward");
}
