/* trainer/backend/backend.h -- the few tensor operations a model is made of, and who computes them.
 *
 * "reference" is plain C and the truth in tests; "onednn" is what trains on a CPU. All tensors are
 * tr_real, row-major; operations take plain pointers to the caller's memory and keep none. A stride is the
 * elements from one sample's to the next one's; they may lie inside the wider rows of another tensor.
 *
 * Two tables. `ops`: products, interactions, losses; how fast they are decides a step. `loops`: one pass over memory each,
 * one source for all (cpu/loops.inc.h), compiled per instruction set.
 * Return: 0 or RT_EBACKEND. Touch: the step thread. */
#ifndef TR_BACKEND_H
#define TR_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/real.h"

/* What follows a product, or stands alone. As torch.nn.functional: gelu with erf, prelu with a slope per column. */
enum tr_act_kind {
    TR_ACT_NONE,
    TR_ACT_RELU,
    TR_ACT_GELU,
    TR_ACT_SIGMOID,
    TR_ACT_TANH,
    TR_ACT_PRELU,
    TR_ACT_COUNT
};

/* y[s][c] = act(x[s][c]); y may be x. */
struct tr_act {
    uint32_t samples, columns;
    enum tr_act_kind kind;
    const tr_real *x, *slope; /* slope [columns]: prelu's, else NULL */
    size_t x_stride, y_stride;
    tr_real *y;
};

/* dx = dy act'(x), in place. Which of x and y it needs: tr_act_keeps_x(). */
struct tr_act_grad {
    uint32_t samples, columns;
    enum tr_act_kind kind;
    const tr_real *x, *y, *slope;
    size_t stride, dy_stride; /* stride: of x or y, whichever is read */
    tr_real *dy;
    tr_real *dslope; /* [columns] of prelu */
    bool add_params; /* dslope += instead of = */
};

/* Whether backward needs what the activation was of, and not only what it made of it. */
static inline bool tr_act_keeps_x(enum tr_act_kind kind)
{
    return kind == TR_ACT_GELU || kind == TR_ACT_PRELU;
}

/* y = act(x w^T + b): x [samples][inputs], w [outputs][inputs], b [outputs] or NULL, y [samples][outputs]. */
struct tr_linear {
    uint32_t samples, inputs, outputs;
    const tr_real *x, *w, *b;
    size_t x_stride, y_stride, z_stride;
    enum tr_act_kind act;
    const tr_real *slope; /* [outputs] of prelu */
    tr_real *z;           /* x w^T + b is kept here; NULL: not kept */
    tr_real *y;
};

/* With dy the gradient at x w^T + b: dw = dy^T x, db = column sums of dy, dx = dy w. */
struct tr_linear_grad {
    uint32_t samples, inputs, outputs;
    const tr_real *x, *w, *dy;
    size_t x_stride, dy_stride, dx_stride;
    tr_real *dw, *db; /* db NULL: there is no b */
    bool add_params;  /* dw, db += instead of = */
    tr_real *dx;      /* NULL when nobody wants it */
    bool add_dx;      /* dx += instead of dx = */
};

/* y[s][p] = x[i][s] . x[j][s] for the pairs i < j in row-major order (torch.triu_indices(n, n, 1)). */
struct tr_dot {
    uint32_t samples, n, dim;
    const tr_real *const *x; /* [n] -> [samples][dim] */
    const size_t *x_stride;  /* [n] */
    tr_real *y;              /* [samples][n(n-1)/2] */
    size_t y_stride;
    tr_real *
        scratch; /* [tr_dot_scratch(samples, n, dim)] floats, 64-byte aligned; backward finds x there */
};

/* dx[i][s] = sum over j != i, ascending, of dy[s][pair(i,j)] * x[j][s]. The latest forward with this
 * scratch was that of the same x. */
struct tr_dot_grad {
    uint32_t samples, n, dim;
    const tr_real *const *x;
    const tr_real *dy;
    size_t dy_stride;
    tr_real *const *dx;     /* [n], an entry is NULL when nobody wants it */
    const size_t *x_stride; /* [n] of x and dx */
    const bool *add;        /* [n] dx[i] += instead of dx[i] =; done in ascending i */
    tr_real *scratch;
};

/* Binary cross entropy on logits, one per sample. weight NULL: all 1. */
struct tr_bce {
    uint32_t samples;
    const tr_real *logit, *label, *weight;
    tr_real *score;  /* forward: sigmoid(logit) */
    double loss_sum; /* forward: sum of weight * (max(z,0) - z*y + log(1 + exp(-|z|))) */
};
struct tr_bce_grad {
    uint32_t samples;
    const tr_real *score, *label, *weight;
    double scale;    /* 1 / global samples */
    tr_real *dlogit; /* weight * (score - label) * scale */
    bool add;
};

struct tr_backend;
struct tr_backend_ops {
    const char *name;
    int (*linear_forward)(struct tr_backend *backend, const struct tr_linear *op);
    int (*linear_backward)(struct tr_backend *backend, const struct tr_linear_grad *op);
    int (*dot_forward)(struct tr_backend *backend, const struct tr_dot *op);
    int (*dot_backward)(struct tr_backend *backend, const struct tr_dot_grad *op);
    int (*bce_forward)(struct tr_backend *backend, struct tr_bce *op);
    int (*bce_backward)(struct tr_backend *backend, const struct tr_bce_grad *op);
};

struct tr_backend_loops {
    int (*act_forward)(struct tr_backend *backend, const struct tr_act *op);
    int (*act_backward)(struct tr_backend *backend, const struct tr_act_grad *op);
};

struct tr_backend {
    const struct tr_backend_ops *ops;
    const struct tr_backend_loops *loops;
    int threads; /* of the matrix products */
};

extern const struct tr_backend_ops tr_backend_reference; /* backend/cpu/reference.c */
extern const struct tr_backend_ops tr_backend_onednn;    /* backend/cpu/onednn.c */

/* By instruction set; tr_backend_init() takes the plain ones for "reference". Where no sum runs over columns, all have the same bits. */
extern const struct tr_backend_loops tr_loops_plain, tr_loops_avx2, tr_loops_avx512;

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
