/* trainer/backend/backend.h -- the few tensor operations a model is made of, and who computes them.
 *
 * "reference" is plain C and the truth in tests; "onednn" is what trains on a CPU. All tensors are
 * float32, row-major; operations take plain pointers to the caller's memory and keep none.
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
    bool relu;
    float *y;
};

/* With dy the gradient at x w^T + b: dw = dy^T x, db = column sums of dy, dx = dy w. */
struct tr_linear_grad {
    uint32_t samples, inputs, outputs;
    const float *x, *w, *dy;
    float *dw, *db; /* overwritten */
    float *dx;      /* NULL when nobody wants it */
    bool add_dx;    /* dx += instead of dx = */
};

/* y[s][p] = x[i][s] . x[j][s] for the pairs i < j in row-major order (torch.triu_indices(n, n, 1)). */
struct tr_dot {
    uint32_t samples, n, dim;
    const float *const *x; /* [n] -> [samples][dim] */
    float *y;              /* [samples][n(n-1)/2] */
    float *scratch;        /* [tr_dot_scratch(n, dim)] floats, 64-byte aligned */
};

/* dx[i][s] = sum over j != i, ascending, of dy[s][pair(i,j)] * x[j][s]. */
struct tr_dot_grad {
    uint32_t samples, n, dim;
    const float *const *x;
    const float *dy;
    float *const *dx; /* [n], an entry is NULL when nobody wants it */
    const bool *add;  /* [n] dx[i] += instead of dx[i] =; done in ascending i */
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
    /* dy[i] = 0 where y[i] == 0, y being the output of a relu */
    int (*relu_backward)(struct tr_backend *backend, size_t n, const float *y, float *dy);
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
/* Floats of scratch: x of a block of samples transposed, y and one dx of 16 samples transposed. */
#define TR_DOT_BLOCK 64u
static inline size_t tr_dot_scratch(uint32_t n, uint32_t dim)
{
    return (size_t)TR_DOT_BLOCK * n * dim + 16 * ((size_t)dim + tr_dot_pairs(n));
}

#endif
