/* trainer/backend/cuda/columns.h -- sums of columns over all rows of a batch: gradients of biases, slopes, scales; a batch's moments.
 *
 * Two kernels. In the first a block has up to 32 columns and every n-th of their rows, 32 columns of a row being read by a warp at once: a
 * thread adds up its rows in order, four loads ahead, then the block's threads of a column are added by halves. In the second eight columns
 * are a block's, and what the first one made of each is added up in float64. The order follows from the shape alone, not from the device.
 *
 *     struct bias_grad {
 *         const float *dy; size_t stride; float *db; bool add;
 *         __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const { value[0] = dy[sample * stride + column]; }
 *         __device__ void put(uint32_t column, const double *total) const { tr_put_sum(db + column, total[0], add); }
 *     };
 *     return tr_column_sums<1>(backend, "bias gradient", samples, 1, columns, bias_grad{...});
 *
 * Such structs stand in an unnamed namespace: two files' of one name would have one set of kernels, of either.
 * at() gives N values to be summed up side by side, and may write what is of that place alone: each is visited once.
 * Error: a thread adds rows / (8 x slices) floats one after the other (at a batch of 65,536: under 64 from 32 columns up), all else
 * is by halves or float64; sums of as many values as the CPU adds one after the other are nearer to the truth than its. */
#ifndef TR_CUDA_COLUMNS_H
#define TR_CUDA_COLUMNS_H

#include "runtime/base/err.h"
#include "trainer/backend/cuda/kernel.h"

#define TR_SLICES_MAX    512u  /* parts of the rows */
#define TR_COLUMN_BLOCKS 1024u /* wanted of the first kernel */
#define TR_COLUMNS_LAST  8u    /* of a block of the second */

/* Thread t of a block has column t % lanes, lanes = 1 << shift, and rows t / lanes, and so on by `step` of them, counted in samples and rows. */
struct tr_columns {
    uint64_t total; /* samples x rows */
    uint32_t rows, columns, shift, step, step_samples, step_rows;
};

__device__ inline void tr_put_sum(float *to, double total, bool add)
{
    *to = add ? *to + (float)total : (float)total;
}

__device__ inline void tr_column_next(const struct tr_columns &shape, uint32_t *sample,
                                      uint32_t *row)
{
    *sample += shape.step_samples;
    *row += shape.step_rows;
    if (*row >= shape.rows) {
        *row -= shape.rows;
        ++*sample;
    }
}

/* The rows of one thread, from `at` on. */
template <uint32_t N, typename OF>
__device__ inline void tr_column_walk(const struct tr_columns &shape, const OF &of, uint64_t at,
                                      uint32_t column, float *sum)
{
    uint64_t left = at < shape.total ? (shape.total - at + shape.step - 1) / shape.step : 0;
    uint32_t sample = (uint32_t)(at / shape.rows),
             row = (uint32_t)(at - (uint64_t)sample * shape.rows);
    float value[4][N];
    for (; left >= 4; left -= 4) {
        for (uint32_t k = 0; k < 4; k++, tr_column_next(shape, &sample, &row))
            of.at(sample, row, column, value[k]);
        for (uint32_t k = 0; k < 4; k++)
            for (uint32_t i = 0; i < N; i++)
                sum[i] += value[k][i];
    }
    for (; left > 0; left--, tr_column_next(shape, &sample, &row)) {
        of.at(sample, row, column, value[0]);
        for (uint32_t i = 0; i < N; i++)
            sum[i] += value[0][i];
    }
}

/* part[slice][N][columns] */
template <uint32_t N, typename OF>
static __global__ void tr_column_parts(struct tr_columns shape, OF of, float *part)
{
    __shared__ float shared[N][TR_BLOCK];
    uint32_t lanes = 1u << shape.shift, column = blockIdx.x * lanes + (threadIdx.x & (lanes - 1));
    float sum[N];
    for (uint32_t i = 0; i < N; i++)
        sum[i] = 0;
    if (column < shape.columns)
        tr_column_walk<N>(shape, of,
                          (uint64_t)blockIdx.y * (TR_BLOCK >> shape.shift) +
                              (threadIdx.x >> shape.shift),
                          column, sum);
    for (uint32_t i = 0; i < N; i++)
        shared[i][threadIdx.x] = sum[i];
    for (uint32_t half = TR_BLOCK / 2; half >= lanes; half /= 2) {
        __syncthreads();
        for (uint32_t i = 0; i < N && threadIdx.x < half; i++)
            shared[i][threadIdx.x] += shared[i][threadIdx.x + half];
    }
    for (uint32_t i = 0; i < N && threadIdx.x < lanes && column < shape.columns; i++)
        part[((size_t)blockIdx.y * N + i) * shape.columns + column] = shared[i][threadIdx.x];
}

template <uint32_t N, typename OF>
static __global__ void tr_column_totals(uint32_t columns, uint32_t slices, const float *part, OF of)
{
    __shared__ double shared[N][TR_BLOCK];
    uint32_t column = blockIdx.x * TR_COLUMNS_LAST + threadIdx.x % TR_COLUMNS_LAST;
    for (uint32_t i = 0; i < N; i++) {
        double sum = 0;
        for (uint32_t k = threadIdx.x / TR_COLUMNS_LAST; column < columns && k < slices;
             k += TR_BLOCK / TR_COLUMNS_LAST)
            sum += part[((size_t)k * N + i) * columns + column];
        shared[i][threadIdx.x] = sum;
    }
    for (uint32_t half = TR_BLOCK / 2; half >= TR_COLUMNS_LAST; half /= 2) {
        __syncthreads();
        for (uint32_t i = 0; i < N && threadIdx.x < half; i++)
            shared[i][threadIdx.x] += shared[i][threadIdx.x + half];
    }
    double total[N];
    for (uint32_t i = 0; i < N; i++)
        total[i] = shared[i][threadIdx.x];
    if (threadIdx.x < TR_COLUMNS_LAST && column < columns)
        of.put(column, total);
}

/* Queues it. Without samples all totals are 0. */
template <uint32_t N, typename OF>
static int tr_column_sums(struct tr_backend *backend, const char *what, uint32_t samples,
                          uint32_t rows, uint32_t columns, const OF &of)
{
    struct tr_columns shape = {};
    shape.total = (uint64_t)samples * rows;
    shape.rows = rows;
    shape.columns = columns;
    while (shape.shift < 5 && 1u << shape.shift < columns)
        shape.shift++;
    uint32_t high = TR_BLOCK >> shape.shift; /* rows of a block */
    dim3 grid(tr_blocks(columns, 1u << shape.shift));
    uint64_t slices = TR_COLUMN_BLOCKS / grid.x, most = (shape.total + 4 * high - 1) / (4 * high);
    slices = slices < TR_SLICES_MAX ? slices : TR_SLICES_MAX;
    slices = slices < most ? slices : most;
    grid.y = slices ? (uint32_t)slices : 1;
    shape.step = grid.y * high;
    shape.step_samples = shape.step / rows;
    shape.step_rows = shape.step % rows;
    float *part =
        (float *)tr_cuda_scratch(backend->cuda, (size_t)grid.y * N * columns * sizeof *part);
    if (!part)
        return RT_EBACKEND;
    TR_LAUNCH((tr_column_parts<N, OF>), grid, TR_BLOCK, backend->cuda->compute, shape, of, part);
    int err = tr_cuda_launched(backend, what);
    if (err)
        return err;
    TR_LAUNCH((tr_column_totals<N, OF>), tr_blocks(columns, TR_COLUMNS_LAST), TR_BLOCK,
              backend->cuda->compute, columns, grid.y, (const float *)part, of);
    return tr_cuda_launched(backend, what);
}

/* Of a matrix that is there: out[c] = (or +=) the sum over all samples and rows of x[s][r][c]. */
struct tr_matrix_sums {
    const float *x;
    size_t stride, pitch;
    float *out;
    bool add;

    __device__ void at(uint32_t sample, uint32_t row, uint32_t column, float *value) const
    {
        value[0] = x[sample * stride + row * pitch + column];
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        tr_put_sum(out + column, total[0], add);
    }
};

#endif
