/* trainer/backend/cpu/kernels.h -- the loops that oneDNN has no good primitive for, once per
 * instruction set, with the same bits in all of them: lanes are samples, columns or parameters, and
 * nothing is fused or summed across lanes. */
#ifndef TR_KERNELS_H
#define TR_KERNELS_H

#include "trainer/backend/backend.h"

/* One optimizer step over n parameters: formulas in trainer/optimizer.h. */
struct tr_update {
    size_t n;
    const float *grad;
    float *param;
    float *state[2];  /* sgd: momentum or NULL; adagrad: sum; the others: first and second moment */
    float grad_scale; /* of clipping; 1: none */
    float lr;         /* adam: lr / (1 - beta1^t); lamb: times the trust ratio */
    float eps, weight_decay, momentum;
    float beta1, rest1, beta2, rest2; /* rest = 1 - beta, rounded from float64 */
    float correction;                 /* adam, lamb: sqrt(1 - beta2^t) */
    float keep;    /* adam: what a parameter is multiplied by; adamw: 1 - lr * decay */
    float unbias1; /* lamb: 1 / (1 - beta1^t) */
};

/* y[s][c] = x[s][c] + b[c], then max(0, .) with relu; y may be x. */
struct tr_bias_act {
    uint32_t samples, columns;
    bool relu;
    const float *x, *b;
    size_t x_stride, y_stride;
    float *y;
};

struct tr_kernels {
    void (*dot_forward)(const struct tr_dot *op);
    void (*dot_backward)(const struct tr_dot_grad *op);
    void (*bias_act)(const struct tr_bias_act *op);
    /* No element's magnitude is over max (finite, >= 0); NaN is over any. */
    bool (*within)(const float *value, size_t n, float max);
    void (*sgd)(const struct tr_update *op);
    void (*adagrad)(const struct tr_update *op);
    void (*adam)(const struct tr_update *op);
    /* LAMB's moments, and the sums of squares of parameters and of updates; lamb then subtracts lr * update. */
    void (*lamb_moments)(const struct tr_update *op, double *param_squares, double *update_squares);
    void (*lamb)(const struct tr_update *op);
    double (*sum_squares)(const float *value, size_t n); /* in float64 */
    /* db = (or +=) column sums of dy, in blocks of 64 rows */
    void (*bias_grad)(const struct tr_linear_grad *op);
};

extern const struct tr_kernels tr_kernels_plain, tr_kernels_avx2, tr_kernels_avx512;

const struct tr_kernels *tr_kernels_get(void); /* for rt_cpu_isa() */

#endif
