/* trainer/backend/cuda/rows.h -- one pass over tensors, element by element, and sums over the columns of a row.
 *
 * A tensor is [samples][rows][columns]: a sample's rows lie `pitch` floats apart, samples `stride`. A thread has four elements of it. Where
 * every pointer and distance is a multiple of 16 bytes they are four columns, and one instruction loads them; else they are columns
 * as many apart as there are threads on a row (at most a warp), or, where a row is no wider than those, four rows: so neighbouring threads
 * have neighbouring floats in any case, and four loads are under way before the first is used. Threads on a row are a power of
 * two: no division but one per thread, to tell samples from rows, where a sample has several.
 *
 * What is done is a struct with the operation's pointers and a method at(places), which loads, computes and stores (in an unnamed namespace, since two
 * files' structs of one name would have one set of kernels, of either): an element is visited once, and by one thread, so what is computed may go where it came from. An operation of N elements read or written moves 4 N bytes; nothing
 * is read twice from memory.
 *
 * A sum over columns is made by half a warp: thread k has columns k, k + 16, .., and the 16 are added as the CPU's fold() adds them: its
 * order, and with __fmul_rn() for products (the compiler would fuse them with the addition) its bits. */
#ifndef TR_CUDA_ROWS_H
#define TR_CUDA_ROWS_H

#include "runtime/base/err.h"
#include "trainer/backend/cuda/kernel.h"

#define TR_QUAD 4u
#define TR_HALF 16u /* threads that sum up a row */

struct alignas(16) tr_quad {
    float v[TR_QUAD];
};

/* Four columns side by side, all inside of the tensor, at a multiple of 16 bytes. */
struct tr_whole {
    uint32_t at_sample, at_row, at_column;

    __device__ uint32_t sample(uint32_t) const
    {
        return at_sample;
    }
    __device__ uint32_t column(uint32_t k) const
    {
        return at_column + k;
    }
    __device__ size_t offset(size_t stride, size_t pitch) const
    {
        return at_sample * stride + at_row * pitch + at_column;
    }
    __device__ tr_quad load(const float *x, size_t stride, size_t pitch) const
    {
        return *(const tr_quad *)(x + offset(stride, pitch));
    }
    __device__ void store(float *y, size_t stride, size_t pitch, const tr_quad &four) const
    {
        *(tr_quad *)(y + offset(stride, pitch)) = four;
    }
    /* One value per row (or per sample: pitch 0). */
    __device__ tr_quad load_row(const float *x, size_t stride, size_t pitch) const
    {
        float value = x[at_sample * stride + at_row * pitch];
        return {{value, value, value, value}};
    }
};

/* Four elements, each somewhere. Those outside of the tensor read as 0 and are not written; the first is inside. */
struct tr_scattered {
    uint32_t at_sample[TR_QUAD], at_row[TR_QUAD], at_column[TR_QUAD];
    bool inside[TR_QUAD];

    __device__ uint32_t sample(uint32_t k) const
    {
        return at_sample[k];
    }
    __device__ uint32_t column(uint32_t k) const
    {
        return at_column[k];
    }
    __device__ size_t offset(uint32_t k, size_t stride, size_t pitch) const
    {
        return at_sample[k] * stride + at_row[k] * pitch + at_column[k];
    }
    __device__ tr_quad load(const float *x, size_t stride, size_t pitch) const
    {
        tr_quad four;
        for (uint32_t k = 0; k < TR_QUAD; k++)
            four.v[k] = inside[k] ? x[offset(k, stride, pitch)] : 0;
        return four;
    }
    __device__ void store(float *y, size_t stride, size_t pitch, const tr_quad &four) const
    {
        for (uint32_t k = 0; k < TR_QUAD; k++)
            if (inside[k])
                y[offset(k, stride, pitch)] = four.v[k];
    }
    __device__ tr_quad load_row(const float *x, size_t stride, size_t pitch) const
    {
        tr_quad four;
        for (uint32_t k = 0; k < TR_QUAD; k++)
            four.v[k] = inside[k] ? x[at_sample[k] * stride + at_row[k] * pitch] : 0;
        return four;
    }
};

/* What is there, of an output that is added to; else 0. */
template <typename PLACES>
__device__ inline tr_quad tr_load_if(bool wanted, const PLACES &places, const float *x,
                                     size_t stride, size_t pitch)
{
    tr_quad none = {{0, 0, 0, 0}};
    return wanted ? places.load(x, stride, pitch) : none;
}

/* Of a matrix of `total` rows, samples x rows; 1 << shift threads stand on a row. */
struct tr_pass {
    uint32_t total, rows, columns, shift;
};

/* of.at() is given the places of a thread, as one of the two. */
template <bool ALIGNED, typename OF>
static __global__ void tr_pass_kernel(struct tr_pass pass, OF of)
{
    uint32_t lanes = 1u << pass.shift, lane = threadIdx.x & (lanes - 1);
    uint32_t groups = TR_BLOCK >> pass.shift, group = threadIdx.x >> pass.shift;
    bool narrow = !ALIGNED && pass.columns <= lanes;
    uint32_t down = narrow ? groups : 0, across = ALIGNED ? 1 : narrow ? 0 : lanes;
    uint32_t first = blockIdx.x * groups * (narrow ? TR_QUAD : 1) + group;
    uint32_t step = TR_QUAD * lanes * gridDim.y;
    if (first >= pass.total)
        return;
    for (uint32_t c = blockIdx.y * lanes * TR_QUAD + (ALIGNED ? TR_QUAD * lane : lane);
         c < pass.columns; c += step) {
        tr_scattered at;
        for (uint32_t k = 0; k < TR_QUAD; k++) {
            uint32_t index = first + k * down;
            at.at_column[k] = c + k * across;
            at.inside[k] = index < pass.total && at.at_column[k] < pass.columns;
            at.at_sample[k] = pass.rows == 1 ? index : index / pass.rows;
            at.at_row[k] = pass.rows == 1 ? 0 : index - at.at_sample[k] * pass.rows;
        }
        if (ALIGNED && at.inside[TR_QUAD - 1])
            of.at(tr_whole{at.at_sample[0], at.at_row[0], c});
        else
            of.at(at);
    }
}

/* Whether the pointer, and what it is moved by, are multiples of 16 bytes. NULL is. */
static inline bool tr_aligned(const float *x, size_t stride, size_t pitch)
{
    return ((uintptr_t)x | (stride | pitch) * sizeof *x) % sizeof(struct tr_quad) == 0;
}

static inline uint32_t tr_lanes_shift(uint32_t wanted)
{
    uint32_t shift = 0;
    while (shift < 5 && 1u << shift < wanted)
        shift++;
    return shift;
}

/* Queues of.at() for all elements; `aligned`: all tensors are. */
template <typename OF>
static int tr_each(struct tr_backend *backend, const char *what, uint64_t samples, uint32_t rows,
                   uint64_t columns, bool aligned, const OF &of)
{
    if (samples == 0 || rows == 0 || columns == 0)
        return 0;
    if (samples * rows > INT32_MAX || columns > INT32_MAX)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "%s: over 2^31 rows, or columns", what);
    aligned = aligned && columns >= TR_QUAD;
    struct tr_pass pass = {.total = (uint32_t)(samples * rows),
                           .rows = rows,
                           .columns = (uint32_t)columns,
                           .shift = 0};
    pass.shift = tr_lanes_shift(aligned ? tr_blocks(columns, TR_QUAD) : pass.columns);
    uint32_t lanes = 1u << pass.shift, each = TR_BLOCK >> pass.shift;
    bool narrow = !aligned && columns <= lanes;
    dim3 grid(tr_blocks(pass.total, each * (narrow ? TR_QUAD : 1)));
    uint32_t parts = tr_blocks(columns, lanes * TR_QUAD),
             filling = backend->cuda->processors * 16 / grid.x + 1;
    grid.y = parts < filling ? parts : filling;
    if (aligned)
        TR_LAUNCH((tr_pass_kernel<true, OF>), grid, TR_BLOCK, backend->cuda->compute, pass, of);
    else
        TR_LAUNCH((tr_pass_kernel<false, OF>), grid, TR_BLOCK, backend->cuda->compute, pass, of);
    return tr_cuda_launched(backend, what);
}

/* ---- sums over the columns of a row ---- */

/* of.at(sample, row, column) gives what is summed up, and may write what is of that place alone; of.put(sample, row, sum). */
template <typename OF> static __global__ void tr_row_sums_kernel(struct tr_pass pass, OF of)
{
    uint32_t index = blockIdx.x * (TR_BLOCK / TR_HALF) + threadIdx.x / TR_HALF,
             lane = threadIdx.x % TR_HALF, c = lane;
    uint32_t sample = pass.rows == 1 ? index : index / pass.rows, row = index - sample * pass.rows;
    bool inside = index < pass.total;
    float sum = 0;
    for (; inside && c + 3 * TR_HALF < pass.columns; c += 4 * TR_HALF) {
        float value[4];
        for (uint32_t k = 0; k < 4; k++)
            value[k] = of.at(sample, row, c + k * TR_HALF);
        for (uint32_t k = 0; k < 4; k++)
            sum += value[k];
    }
    for (; inside && c < pass.columns; c += TR_HALF)
        sum += of.at(sample, row, c);
    for (uint32_t other = TR_HALF / 2; other > 0; other /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, other);
    if (inside && lane == 0)
        of.put(sample, row, sum);
}

template <typename OF>
static int tr_row_sums(struct tr_backend *backend, const char *what, uint64_t samples,
                       uint32_t rows, uint32_t columns, const OF &of)
{
    if (samples == 0 || rows == 0)
        return 0;
    if (samples * rows > INT32_MAX)
        return tr_cuda_fail(backend->cuda, RT_EBACKEND, "%s: over 2^31 rows", what);
    struct tr_pass pass = {
        .total = (uint32_t)(samples * rows), .rows = rows, .columns = columns, .shift = 0};
    TR_LAUNCH((tr_row_sums_kernel<OF>), tr_blocks(pass.total, TR_BLOCK / TR_HALF), TR_BLOCK,
              backend->cuda->compute, pass, of);
    return tr_cuda_launched(backend, what);
}

#endif
