/* trainer/backend/cuda/act.cu -- activations and their gradients.
 *
 * One pass (rows.h), the kind known to the compiler: forward moves 8 bytes an element, backward 12. PReLU's gradients are one pass too: a sum over
 * columns whose visit of a place also makes dx there (columns.h).
 * relu and prelu, and the gradients of sigmoid and tanh, have the CPU's bits; exp, erf and tanh are CUDA's, within 2 units in the last
 * place of the exact ones, and the C library's within 1. */
#include "trainer/backend/cuda/act.h"
#include "trainer/backend/cuda/columns.h"
#include "trainer/backend/cuda/products.h"
#include "trainer/backend/cuda/rows.h"

namespace
{
template <enum tr_act_kind KIND> struct act {
    const float *x, *slope;
    size_t x_stride, y_stride;
    float *y;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad x4 = places.load(x, x_stride, 0), slope4 = {{0, 0, 0, 0}};
        if (KIND == TR_ACT_PRELU)
            slope4 = places.load(slope, 0, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            x4.v[k] = tr_act_value<KIND>(x4.v[k], slope4.v[k]);
        places.store(y, y_stride, 0, x4);
    }
};

template <enum tr_act_kind KIND> struct act_grad {
    const float *from;
    size_t stride, dy_stride;
    float *dy;

    template <typename PLACES> __device__ void at(const PLACES &places) const
    {
        tr_quad from4 = places.load(from, stride, 0), dy4 = places.load(dy, dy_stride, 0);
        for (uint32_t k = 0; k < TR_QUAD; k++)
            dy4.v[k] = tr_act_gradient<KIND>(dy4.v[k], from4.v[k]);
        places.store(dy, dy_stride, 0, dy4);
    }
};

struct prelu_grad {
    const float *x, *slope;
    size_t stride, dy_stride;
    float *dy, *dslope;
    bool add;

    __device__ void at(uint32_t sample, uint32_t, uint32_t column, float *value) const
    {
        float x1 = x[sample * stride + column], *dy1 = dy + sample * dy_stride + column, was = *dy1;
        value[0] = x1 > 0 ? 0 : __fmul_rn(was, x1);
        *dy1 = x1 > 0 ? was : was * slope[column];
    }
    __device__ void put(uint32_t column, const double *total) const
    {
        tr_put_sum(dslope + column, total[0], add);
    }
};

template <enum tr_act_kind KIND>
static int forward(struct tr_backend *backend, const struct tr_act *op)
{
    struct act<KIND> of = {
        op->x, op->slope, op->x_stride, op->y_stride, op->y
    };
    bool aligned = tr_aligned(op->x, op->x_stride, 0) && tr_aligned(op->y, op->y_stride, 0) &&
                   tr_aligned(op->slope, 0, 0);
    return tr_each(backend, "activation", op->samples, 1, op->columns, aligned, of);
}

template <enum tr_act_kind KIND>
static int backward(struct tr_backend *backend, const struct tr_act_grad *op)
{
    const float *from = tr_act_keeps_x(KIND) ? op->x : op->y;
    struct act_grad<KIND> of = {
        from, op->stride, op->dy_stride, op->dy
    };
    bool aligned = tr_aligned(from, op->stride, 0) && tr_aligned(op->dy, op->dy_stride, 0);
    return tr_each(backend, "gradient of an activation", op->samples, 1, op->columns, aligned, of);
}
} // namespace

extern "C" int tr_cuda_act_forward(struct tr_backend *backend, const struct tr_act *op)
{
    switch (op->kind) {
    case TR_ACT_RELU:
        return forward<TR_ACT_RELU>(backend, op);
    case TR_ACT_GELU:
        return forward<TR_ACT_GELU>(backend, op);
    case TR_ACT_SIGMOID:
        return forward<TR_ACT_SIGMOID>(backend, op);
    case TR_ACT_TANH:
        return forward<TR_ACT_TANH>(backend, op);
    case TR_ACT_PRELU:
        return forward<TR_ACT_PRELU>(backend, op);
    default:
        return forward<TR_ACT_NONE>(backend, op);
    }
}

extern "C" int tr_cuda_act_backward(struct tr_backend *backend, const struct tr_act_grad *op)
{
    int hidden = tr_cuda_hidden_act_backward(backend, op);
    if (hidden != TR_NOT_HIDDEN)
        return hidden;
    switch (op->kind) {
    case TR_ACT_RELU:
        return backward<TR_ACT_RELU>(backend, op);
    case TR_ACT_GELU:
        return backward<TR_ACT_GELU>(backend, op);
    case TR_ACT_SIGMOID:
        return backward<TR_ACT_SIGMOID>(backend, op);
    case TR_ACT_TANH:
        return backward<TR_ACT_TANH>(backend, op);
    case TR_ACT_PRELU: {
        struct prelu_grad of = {op->x,  op->slope,  op->stride,    op->dy_stride,
                                op->dy, op->dslope, op->add_params};
        return tr_column_sums<1>(backend, "gradient of prelu", op->samples, 1, op->columns, of);
    }
    default:
        return 0;
    }
}
