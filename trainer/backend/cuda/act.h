/* trainer/backend/cuda/act.h -- an activation's value, and what becomes of a gradient on its way through it. */
#ifndef TR_CUDA_ACT_H
#define TR_CUDA_ACT_H

#include "trainer/backend/cuda/kernel.h"

__device__ inline float tr_sigmoid(float x)
{
    float e = expf(-fabsf(x));
    return (x >= 0 ? 1 : e) / (1 + e);
}

__device__ inline float tr_normal_below(float x)
{
    return 0.5f * (1 + erff(x * 0.70710678118654752440f));
}

__device__ inline float tr_normal_at(float x)
{
    return expf(-0.5f * x * x) * 0.39894228040143267794f;
}

template <enum tr_act_kind KIND> __device__ inline float tr_act_value(float x, float slope)
{
    switch (KIND) {
    case TR_ACT_RELU:
        return x < 0 ? 0 : x; /* keeps NaN */
    case TR_ACT_GELU:
        return x * tr_normal_below(x);
    case TR_ACT_SIGMOID:
        return tr_sigmoid(x);
    case TR_ACT_TANH:
        return tanhf(x);
    case TR_ACT_PRELU:
        return x > 0 ? x : x * slope;
    default:
        return x;
    }
}

/* What dy becomes; `from` is x, or y (tr_act_keeps_x). */
template <enum tr_act_kind KIND> __device__ inline float tr_act_gradient(float dy, float from)
{
    switch (KIND) {
    case TR_ACT_RELU:
        return from == 0 ? 0 : dy;
    case TR_ACT_GELU:
        return dy * (tr_normal_below(from) + from * tr_normal_at(from));
    case TR_ACT_SIGMOID:
        return dy * (from * (1 - from));
    case TR_ACT_TANH:
        return dy * (1 - __fmul_rn(from, from));
    default:
        return dy;
    }
}

#endif
