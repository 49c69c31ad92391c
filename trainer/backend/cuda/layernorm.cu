/* trainer/backend/cuda/layernorm.cu -- rows brought to mean 0 and variance 1, times w, plus b: torch.nn.LayerNorm.
 *
 * Rows as in softmax.cu: a few threads of a warp each, gone over more than once, from memory the first time. The variance is that of what
 * is left when the mean is taken away, as the CPU's, so a mean far from 0 does no harm. Backward: dx by rows; dw and db are sums of
 * columns (columns.h), made before, since dx may be where dy is; so x and dy are read twice. All rows at once in one kernel would read
 * them once, but hold the sums of all columns in every block.
 * Memory moved: forward x, y; backward 2 x, 2 dy, dx. Sums of a row are float32: each thread its columns, then along a tree. */
#include "trainer/backend/cuda/columns.h"
#include "trainer/backend/cuda/fours.h"

/* w and b need not lie as the rows do. */
template <bool WIDE>
static __device__ __forceinline__ void put_normalized(const struct tr_layernorm &op, float *y,
                                                      uint32_t c, tr_quad x, float mean,
                                                      float inverse)
{
    tr_quad w = tr_four_at<WIDE>(op.w, c, op.columns), b = tr_four_at<WIDE>(op.b, c, op.columns);
    for (uint32_t i = 0; i < 4; i++)
        x.v[i] = (x.v[i] - mean) * inverse * w.v[i] + b.v[i];
    tr_four_put<WIDE>(y, c, op.columns, x, false);
}

template <bool WIDE> static __global__ void layernorm_kernel(struct tr_layernorm op, uint32_t lanes)
{
    uint64_t k = (uint64_t)blockIdx.x * (TR_BLOCK / lanes) + threadIdx.x / lanes;
    size_t s = k / op.rows, at = k % op.rows * op.columns;
    uint32_t first = threadIdx.x % lanes * 4, n = s < op.samples ? op.columns : 0;
    const float *x = op.x + s * op.x_stride + at;
    float sum = 0, square = 0;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad four = tr_four_at<WIDE>(x, c, n);
        sum += (four.v[0] + four.v[1]) + (four.v[2] + four.v[3]);
    }
    float mean = tr_lanes_sum(sum, lanes) / (float)op.columns;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad four = tr_four_at<WIDE>(x, c, n);
        for (uint32_t i = 0; i < 4; i++) {
            float off = c + i < n ? four.v[i] - mean : 0;
            square += off * off;
        }
    }
    float variance = tr_lanes_sum(square, lanes) / (float)op.columns;
    float inverse = 1 / sqrtf(variance + (float)op.eps);
    for (uint32_t c = first; c < n; c += 4 * lanes)
        put_normalized<WIDE>(op, op.y + s * op.y_stride + at, c, tr_four_at<WIDE>(x, c, n), mean,
                             inverse);
    if (n > 0 && first == 0) {
        op.stat[2 * k] = mean;
        op.stat[2 * k + 1] = inverse;
    }
}

/* With g = dy w and h the normalized x: dx = (g - mean of g - h * mean of g h) / sqrt(variance + eps). */
template <bool WIDE>
static __global__ void layernorm_grad_kernel(struct tr_layernorm_grad op, uint32_t lanes)
{
    uint64_t k = (uint64_t)blockIdx.x * (TR_BLOCK / lanes) + threadIdx.x / lanes;
    size_t s = k / op.rows, at = k % op.rows * op.columns;
    uint32_t first = threadIdx.x % lanes * 4, n = s < op.samples ? op.columns : 0;
    const float *x = op.x + s * op.x_stride + at, *dy = op.dy + s * op.dy_stride + at;
    float mean = n ? op.stat[2 * k] : 0, inverse = n ? op.stat[2 * k + 1] : 0;
    float level = 0, slope = 0;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad h = tr_four_at<WIDE>(x, c, n), g = tr_four_at<WIDE>(dy, c, n);
        tr_quad w = tr_four_at<WIDE>(op.w, c, n);
        for (uint32_t i = 0; i < 4; i++) { /* g is 0 past the end */
            level += g.v[i] * w.v[i];
            slope += g.v[i] * w.v[i] * ((h.v[i] - mean) * inverse);
        }
    }
    level = tr_lanes_sum(level, lanes) / (float)op.columns;
    slope = tr_lanes_sum(slope, lanes) / (float)op.columns;
    for (uint32_t c = first; c < n; c += 4 * lanes) {
        tr_quad h = tr_four_at<WIDE>(x, c, n), g = tr_four_at<WIDE>(dy, c, n);
        tr_quad w = tr_four_at<WIDE>(op.w, c, n);
        for (uint32_t i = 0; i < 4; i++)
            g.v[i] = (g.v[i] * w.v[i] - level - (h.v[i] - mean) * inverse * slope) * inverse;
        tr_four_put<WIDE>(op.dx + s * op.dx_stride + at, c, n, g, op.add);
    }
}

/* dw and db, of columns. */
struct weight_grad {
    struct tr_layernorm_grad op;

    __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const
    {
        size_t in = (size_t)row * op.columns + column;
        const float *stat = op.stat + 2 * ((size_t)sample * op.rows + row);
        float dy = op.dy[sample * op.dy_stride + in];
        value[0] = dy * ((op.x[sample * op.x_stride + in] - stat[0]) * stat[1]);
        value[1] = dy;
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        tr_put_sum(op.dw + column, total[0], op.add_params);
        tr_put_sum(op.db + column, total[1], op.add_params);
    }
};

/* ---- operations ---- */

extern "C" int tr_cuda_layernorm_forward(struct tr_backend *backend, const struct tr_layernorm *op)
{
    uint32_t lanes = tr_four_lanes(op->columns);
    uint32_t blocks = tr_blocks((uint64_t)op->samples * op->rows, TR_BLOCK / lanes);
    bool wide = tr_wide_rows(op->x, op->x_stride, op->rows, op->columns) &&
                tr_wide_rows(op->y, op->y_stride, op->rows, op->columns) && tr_wide(op->w, 0) &&
                tr_wide(op->b, 0);
    if (blocks == 0)
        return 0;
    if (wide)
        TR_LAUNCH(layernorm_kernel<true>, blocks, TR_BLOCK, backend->cuda->compute, *op, lanes);
    else
        TR_LAUNCH(layernorm_kernel<false>, blocks, TR_BLOCK, backend->cuda->compute, *op, lanes);
    return tr_cuda_launched(backend, "layernorm_forward");
}

extern "C" int tr_cuda_layernorm_backward(struct tr_backend *backend,
                                          const struct tr_layernorm_grad *op)
{
    uint32_t lanes = tr_four_lanes(op->columns);
    uint32_t blocks = tr_blocks((uint64_t)op->samples * op->rows, TR_BLOCK / lanes);
    bool wide = tr_wide_rows(op->x, op->x_stride, op->rows, op->columns) &&
                tr_wide_rows(op->dy, op->dy_stride, op->rows, op->columns) &&
                tr_wide_rows(op->dx, op->dx_stride, op->rows, op->columns) && tr_wide(op->w, 0);
    int err = tr_column_sums<2>(backend, "layernorm_backward", op->samples, op->rows, op->columns,
                                weight_grad{*op});
    if (err || !op->dx || blocks == 0)
        return err;
    if (wide)
        TR_LAUNCH(layernorm_grad_kernel<true>, blocks, TR_BLOCK, backend->cuda->compute, *op,
                  lanes);
    else
        TR_LAUNCH(layernorm_grad_kernel<false>, blocks, TR_BLOCK, backend->cuda->compute, *op,
                  lanes);
    return tr_cuda_launched(backend, "layernorm_backward");
}
