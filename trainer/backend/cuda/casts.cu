/* trainer/backend/cuda/casts.cu -- see casts.h.
 *
 * A thread has eight columns of a row: 16 bytes of halves, one load or store of them, and two of float32 where those are aligned
 * (else eight). A power of two of threads stands on a row, so no division is made. Bytes an element: a cast 6, an activation
 * 4, its gradient 6 (8 where it comes from float32). Column sums are columns.h's. */
#include <cuda_bf16.h>

#include "trainer/backend/cuda/act.h"
#include "trainer/backend/cuda/casts.h"
#include "trainer/backend/cuda/columns.h"

#define EIGHT 8u

struct alignas(16) eight {
    uint16_t v[EIGHT];
};
struct alignas(16) four_floats {
    float v[4];
};

__device__ inline float widen(uint16_t half)
{
    return __uint_as_float((uint32_t)half << 16);
}

__device__ inline uint16_t narrow(float x)
{
    const float largest = 3.38953139e38f;
    uint32_t bits = __float_as_uint(x);
    if (fabsf(x) > largest && (bits & 0x7fffffffu) < 0x7f800000u)
        x = copysignf(largest, x);
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

/* Eight columns from c on; those from `columns` on read as 0. */
__device__ inline void load_eight(const float *row, uint32_t c, uint32_t columns, bool aligned,
                                  float *out)
{
    if (aligned && c + EIGHT <= columns) {
        four_floats low = *(const four_floats *)(row + c),
                    high = *(const four_floats *)(row + c + 4);
        for (uint32_t k = 0; k < 4; k++)
            out[k] = low.v[k], out[k + 4] = high.v[k];
        return;
    }
    for (uint32_t k = 0; k < EIGHT; k++)
        out[k] = c + k < columns ? row[c + k] : 0;
}

__device__ inline void load_eight(const uint16_t *row, uint32_t c, float *out)
{
    eight half = *(const eight *)(row + c);
    for (uint32_t k = 0; k < EIGHT; k++)
        out[k] = widen(half.v[k]);
}

__device__ inline void store_eight(uint16_t *row, uint32_t c, uint32_t columns, const float *value)
{
    eight half;
    for (uint32_t k = 0; k < EIGHT; k++)
        half.v[k] = c + k < columns ? narrow(value[k]) : 0;
    *(eight *)(row + c) = half;
}

/* ---- every eight columns of every row ---- */

/* 1 << shift threads stand on a row. */
struct walk {
    uint32_t rows, columns, shift;
};

template <typename OF> __global__ void each_eight(struct walk walk, OF of)
{
    uint32_t lanes = 1u << walk.shift, high = TR_BLOCK >> walk.shift;
    uint32_t first = EIGHT * (blockIdx.y * lanes + (threadIdx.x & (lanes - 1))),
             step = EIGHT * lanes * gridDim.y;
    for (uint64_t r = (uint64_t)blockIdx.x * high + (threadIdx.x >> walk.shift); r < walk.rows;
         r += (uint64_t)gridDim.x * high)
        for (uint64_t c = first; c < walk.columns; c += step)
            of.at(r, (uint32_t)c, walk.columns);
}

template <typename OF>
static int run(struct tr_backend *backend, const char *what, uint32_t rows, uint32_t columns,
               const OF &of)
{
    if (rows == 0 || columns == 0)
        return 0;
    struct walk walk = {rows, columns, 0};
    uint32_t groups = tr_blocks(columns, EIGHT), filling = backend->cuda->processors * 16;
    while (walk.shift < 8 && 1u << walk.shift < groups)
        walk.shift++;
    uint32_t across = tr_blocks(groups, 1u << walk.shift),
             down = tr_blocks(rows, TR_BLOCK >> walk.shift);
    dim3 grid(1, across < filling ? across : filling);
    grid.x = down < filling / grid.y + 1 ? down : filling / grid.y + 1;
    TR_LAUNCH((each_eight<OF>), grid, TR_BLOCK, backend->cuda->compute, walk, of);
    return tr_cuda_launched(backend, what);
}

static bool is_aligned(const float *x, size_t stride)
{
    return ((uintptr_t)x | stride * sizeof *x) % 16 == 0;
}

/* ---- activations ---- */

template <enum tr_act_kind KIND> struct to_halves {
    const float *x, *slope;
    size_t x_stride, y_stride;
    uint16_t *y;
    bool aligned;

    __device__ void at(uint64_t row, uint32_t c, uint32_t columns) const
    {
        float value[EIGHT];
        load_eight(x + row * x_stride, c, columns, aligned, value);
        for (uint32_t k = 0; k < EIGHT; k++)
            value[k] = tr_act_value<KIND>(
                value[k], KIND == TR_ACT_PRELU && c + k < columns ? slope[c + k] : 0);
        store_eight(y + row * y_stride, c, columns, value);
    }
};

template <enum tr_act_kind KIND> struct in_halves {
    const float *slope;
    uint16_t *y;
    size_t stride;

    __device__ void at(uint64_t row, uint32_t c, uint32_t columns) const
    {
        float value[EIGHT];
        load_eight(y + row * stride, c, value);
        for (uint32_t k = 0; k < EIGHT; k++)
            value[k] = tr_act_value<KIND>(
                value[k], KIND == TR_ACT_PRELU && c + k < columns ? slope[c + k] : 0);
        store_eight(y + row * stride, c, columns, value);
    }
};

template <enum tr_act_kind KIND> struct grad_halves {
    const float *x;
    const uint16_t *y; /* read where x is NULL */
    size_t stride, dy_stride;
    uint16_t *dy;
    bool aligned;

    __device__ void at(uint64_t row, uint32_t c, uint32_t columns) const
    {
        float from[EIGHT], value[EIGHT];
        load_eight(dy + row * dy_stride, c, value);
        if (x)
            load_eight(x + row * stride, c, columns, aligned, from);
        else
            load_eight(y + row * stride, c, from);
        for (uint32_t k = 0; k < EIGHT; k++)
            value[k] = tr_act_gradient<KIND>(value[k], from[k]);
        store_eight(dy + row * dy_stride, c, columns, value);
    }
};

/* Each place is visited once, so dy is made where its part of the sum is. */
struct prelu_grad_halves {
    const float *x, *slope;
    size_t stride, dy_stride;
    uint16_t *dy;
    float *dslope;
    bool add;

    __device__ void at(uint32_t sample, uint32_t, uint32_t column, float *value) const
    {
        float x1 = x[sample * stride + column];
        uint16_t *at = dy + sample * dy_stride + column;
        float was = widen(*at);
        value[0] = x1 > 0 ? 0 : was * x1;
        *at = x1 > 0 ? *at : narrow(was * slope[column]);
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        tr_put_sum(dslope + column, total[0], add);
    }
};

template <enum tr_act_kind KIND>
static int act_to(struct tr_backend *backend, const struct tr_act *op, struct tr_halves y)
{
    struct to_halves<KIND> of = {
        op->x, op->slope, op->x_stride, y.stride, y.at, is_aligned(op->x, op->x_stride)
    };
    return run(backend, "cast to bfloat16", y.rows, y.columns, of);
}

template <enum tr_act_kind KIND>
static int act_in(struct tr_backend *backend, const float *slope, struct tr_halves y)
{
    struct in_halves<KIND> of = {
        slope, y.at, y.stride
    };
    return run(backend, "activation in bfloat16", y.rows, y.columns, of);
}

template <enum tr_act_kind KIND>
static int grad_in(struct tr_backend *backend, const struct tr_act_grad *op,
                   const struct tr_halves *y, struct tr_halves dy)
{
    struct grad_halves<KIND> of = {
        y ? NULL : op->x, y ? y->at : NULL, y ? y->stride : op->stride, dy.stride, dy.at,
            !y && is_aligned(op->x, op->stride)
    };
    return run(backend, "gradient of an activation in bfloat16", dy.rows, dy.columns, of);
}

extern "C" int tr_cuda_act_to_halves(struct tr_backend *backend, const struct tr_act *op,
                                     struct tr_halves y)
{
    switch (op->kind) {
    case TR_ACT_RELU:
        return act_to<TR_ACT_RELU>(backend, op, y);
    case TR_ACT_GELU:
        return act_to<TR_ACT_GELU>(backend, op, y);
    case TR_ACT_SIGMOID:
        return act_to<TR_ACT_SIGMOID>(backend, op, y);
    case TR_ACT_TANH:
        return act_to<TR_ACT_TANH>(backend, op, y);
    case TR_ACT_PRELU:
        return act_to<TR_ACT_PRELU>(backend, op, y);
    default:
        return act_to<TR_ACT_NONE>(backend, op, y);
    }
}

extern "C" int tr_cuda_act_halves(struct tr_backend *backend, enum tr_act_kind kind,
                                  const float *slope, struct tr_halves y)
{
    switch (kind) {
    case TR_ACT_RELU:
        return act_in<TR_ACT_RELU>(backend, slope, y);
    case TR_ACT_GELU:
        return act_in<TR_ACT_GELU>(backend, slope, y);
    case TR_ACT_SIGMOID:
        return act_in<TR_ACT_SIGMOID>(backend, slope, y);
    case TR_ACT_TANH:
        return act_in<TR_ACT_TANH>(backend, slope, y);
    case TR_ACT_PRELU:
        return act_in<TR_ACT_PRELU>(backend, slope, y);
    default:
        return 0;
    }
}

extern "C" int tr_cuda_act_grad_halves(struct tr_backend *backend, const struct tr_act_grad *op,
                                       const struct tr_halves *y, struct tr_halves dy)
{
    struct prelu_grad_halves prelu = {op->x, op->slope,  op->stride,    dy.stride,
                                      dy.at, op->dslope, op->add_params};
    switch (op->kind) {
    case TR_ACT_RELU:
        return grad_in<TR_ACT_RELU>(backend, op, y, dy);
    case TR_ACT_GELU:
        return grad_in<TR_ACT_GELU>(backend, op, y, dy);
    case TR_ACT_SIGMOID:
        return grad_in<TR_ACT_SIGMOID>(backend, op, y, dy);
    case TR_ACT_TANH:
        return grad_in<TR_ACT_TANH>(backend, op, y, dy);
    case TR_ACT_PRELU:
        return tr_column_sums<1>(backend, "gradient of prelu", dy.rows, 1, dy.columns, prelu);
    default:
        return 0;
    }
}

/* ---- biases ---- */

struct sum_halves {
    const uint16_t *x;
    size_t stride;
    float *sum;
    bool add;

    __device__ void at(uint32_t sample, uint32_t, uint32_t column, float *value) const
    {
        value[0] = widen(x[sample * stride + column]);
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        tr_put_sum(sum + column, total[0], add);
    }
};

struct spread_halves {
    const float *b;
    uint16_t *y;
    size_t stride;

    __device__ void at(uint64_t row, uint32_t c, uint32_t columns) const
    {
        float value[EIGHT];
        load_eight(b, c, columns, false, value);
        store_eight(y + row * stride, c, columns, value);
    }
};

struct spread_floats {
    const float *b;
    float *y;
    size_t stride;

    __device__ void at(uint64_t row, uint32_t c, uint32_t columns) const
    {
        for (uint32_t k = c; k < columns && k < c + EIGHT; k++)
            y[row * stride + k] = b[k];
    }
};

extern "C" int tr_cuda_sum_halves(struct tr_backend *backend, struct tr_halves x, float *sum,
                                  bool add)
{
    struct sum_halves of = {x.at, x.stride, sum, add};
    return tr_column_sums<1>(backend, "gradient of a bias", x.rows, 1, x.columns, of);
}

extern "C" int tr_cuda_sum_floats(struct tr_backend *backend, const float *x, size_t stride,
                                  uint32_t rows, uint32_t columns, float *sum, bool add)
{
    struct tr_matrix_sums of = {x, stride, 0, sum, add};
    return tr_column_sums<1>(backend, "gradient of a bias", rows, 1, columns, of);
}

extern "C" int tr_cuda_spread_halves(struct tr_backend *backend, const float *b, struct tr_halves y)
{
    struct spread_halves of = {b, y.at, y.stride};
    return run(backend, "bias", y.rows, y.columns, of);
}

extern "C" int tr_cuda_spread_floats(struct tr_backend *backend, const float *b, uint32_t rows,
                                     uint32_t columns, float *y, size_t stride)
{
    struct spread_floats of = {b, y, stride};
    return run(backend, "bias", rows, columns, of);
}
