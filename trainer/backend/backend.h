/* trainer/backend/backend.h -- the few tensor operations a model is made of, and who computes them.
 *
 * "reference" is plain C and the truth in tests; "onednn" is what trains on a CPU. All tensors are
 * float32, row-major; operations take plain pointers to the caller's memory and keep none. A stride is the
 * floats from one row to the next; rows may lie inside the wider rows of another tensor.
 * Return: 0 or RT_EBACKEND. Touch: the step thread. */
#ifndef TR_BACKEND_H
#define TR_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* y = act(x w^T + b): x [samples][inputs], w [outputs][inputs], b [outputs], y [samples][outputs]. */
struct tr_linear {
    uint32_t samples, inputs, outputs;
    const float *x, *w, *b;
    size_t x_stride, y_stride;
    bool relu;
    float *y;
};

/* With dy the gradient at x w^T + b: dw = dy^T x, db = column sums of dy, dx = dy w. */
struct tr_linear_grad {
    uint32_t samples, inputs, outputs;
    const float *x, *w, *dy;
    size_t x_stride, dy_stride, dx_stride;
    float *dw, *db;
    bool add_params; /* dw, db += instead of = */
    float *dx;       /* NULL when nobody wants it */
    bool add_dx;     /* dx += instead of dx = */
};

/* dy[s][c] = 0 where y[s][c] == 0, y being the output of a relu. */
struct tr_relu_grad {
    uint32_t samples, columns;
    const float *y;
    size_t y_stride, dy_stride;
    float *dy;
};

/* y[s][p] = x[i][s] . x[j][s] for the pairs i < j in row-major order (torch.triu_indices(n, n, 1)). */
struct tr_dot {
    uint32_t samples, n, dim;
    const float *const *x;  /* [n] -> [samples][dim] */
    const size_t *x_stride; /* [n] */
    float *y;               /* [samples][n(n-1)/2] */
    size_t y_stride;
    float *
        scratch; /* [tr_dot_scratch(samples, n, dim)] floats, 64-byte aligned; backward finds x there */
};

/* dx[i][s] = sum over j != i, ascending, of dy[s][pair(i,j)] * x[j][s]. The latest forward with this
 * scratch was that of the same x. */
struct tr_dot_grad {
    uint32_t samples, n, dim;
    const float *const *x;
    const float *dy;
    size_t dy_stride;
    float *const *dx;       /* [n], an entry is NULL when nobody wants it */
    const size_t *x_stride; /* [n] of x and dx */
    const bool *add;        /* [n] dx[i] += instead of dx[i] =; done in ascending i */
    float *scratch;
};

/* Binary cross entropy on logits, one per sample. weight NULL: all 1. */
struct tr_bce {
    uint32_t samples;
    const float *logit, *label, *weight;
    float *score;    /* forward: sigmoid(logit) */
    double loss_sum; /* forward: sum of weight * (max(z,0) - z*y + log(1 + exp(-|z|))) */
};
struct tr_bce_grad {
    uint32_t samples;
    const float *score, *label, *weight;
    double scale;  /* 1 / global samples */
    float *dlogit; /* weight * (score - label) * scale */
    bool add;
};

struct tr_backend;
struct tr_backend_ops {
    const char *name;
    int (*linear_forward)(struct tr_backend *backend, const struct tr_linear *op);
    int (*linear_backward)(struct tr_backend *backend, const struct tr_linear_grad *op);
    int (*relu_backward)(struct tr_backend *backend, const struct tr_relu_grad *op);
    int (*dot_forward)(struct tr_backend *backend, const struct tr_dot *op);
    int (*dot_backward)(struct tr_backend *backend, const struct tr_dot_grad *op);
    int (*bce_forward)(struct tr_backend *backend, struct tr_bce *op);
    int (*bce_backward)(struct tr_backend *backend, const struct tr_bce_grad *op);
};

struct tr_backend {
    const struct tr_backend_ops *ops;
    int threads; /* of the matrix products */
};

extern const struct tr_backend_ops tr_backend_reference; /* backend/cpu/reference.c */
extern const struct tr_backend_ops tr_backend_onednn;    /* backend/cpu/onednn.c */

/* name: NULL or "onednn", or "reference". RT_EUSAGE for another. threads below 1 means 1. */
int tr_backend_init(struct tr_backend *backend, const char *name, int threads);

static inline uint32_t tr_dot_pairs(uint32_t n)
{
    return n * (n - 1) / 2; /* n is at most 1024: see layer_dot.c */
}
/* Floats of scratch: x of all samples transposed, in groups of 16; y and one dx of a group. */
static inline size_t tr_dot_scratch(uint32_t samples, uint32_t n, uint32_t dim)
{
    return ((size_t)samples + 15) / 16 * 16 * n * dim + 16 * ((size_t)dim + tr_dot_pairs(n));
}

#endif
