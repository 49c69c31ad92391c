/* trainer/backend/backend.h -- the few tensor operations a model is made of, and who computes them.
 *
 * "reference" is plain C and the truth in tests; "onednn" is what trains on a CPU. All tensors are
 * tr_real, row-major; operations take plain pointers to the caller's memory and keep none. A stride is the
 * elements from one sample's to the next one's; they may lie inside the wider rows of another tensor.
 *
 * Three tables. `ops`: products, interactions, binary cross entropy; how fast they are decides a step. `loops`: one pass over
 * memory each, one source for all (cpu/loops.inc.h), compiled per instruction set. `losses`: the others', plain C, one for all.
 * A device's backend (cuda/) has the same tables, over memory of the device: its operations are queued and run later, in order; they are
 * recorded once and played again, so what changes from step to step is read from `now` when they run.
 * Return: 0 or RT_EBACKEND. Touch: the step thread. */
#ifndef TR_BACKEND_H
#define TR_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/real.h"

/* What follows a product, or stands alone. As torch.nn.functional: gelu with erf, prelu with a slope per column. Dice is an
 * operation of its own (tr_dice): it looks at all samples. */
enum tr_act_kind {
    TR_ACT_NONE,
    TR_ACT_RELU,
    TR_ACT_GELU,
    TR_ACT_SIGMOID,
    TR_ACT_TANH,
    TR_ACT_PRELU,
    TR_ACT_DICE,
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
    bool hidden;     /* y and dy are: struct tr_linear */
};

/* Whether backward needs what the activation was of, and not only what it made of it. */
static inline bool tr_act_keeps_x(enum tr_act_kind kind)
{
    return kind == TR_ACT_GELU || kind == TR_ACT_PRELU || kind == TR_ACT_DICE;
}

/* y = act(x w^T + b): x [samples][inputs], w [outputs][inputs], b [outputs] or NULL, y [samples][outputs].
 * Hidden: only products, and the gradient of the activation between two of them, read it, so a backend may keep it in a form of
 * its own, by the pointer that it is known by. */
struct tr_linear {
    uint32_t samples, inputs, outputs;
    const tr_real *x, *w, *b;
    size_t x_stride, y_stride, z_stride;
    enum tr_act_kind act;
    const tr_real *slope; /* [outputs] of prelu */
    tr_real *z;           /* x w^T + b is kept here; NULL: not kept */
    tr_real *y;
    bool x_hidden, y_hidden;
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
    bool x_hidden, dy_hidden, dx_hidden;
};

/* y[s][p] = x[i][s] . x[j][s] for the pairs i < j in row-major order (torch.triu_indices(n, n, 1)); with `self` those of
 * i == j too (torch.triu_indices(n, n, 0)). */
struct tr_dot {
    uint32_t samples, n, dim;
    bool self;
    const tr_real *const *x; /* [n] -> [samples][dim] */
    const size_t *x_stride;  /* [n] */
    tr_real *y;              /* [samples][tr_dot_columns(n, self)] */
    size_t y_stride;
    tr_real *
        scratch; /* [tr_dot_scratch(samples, n, dim)] floats, 64-byte aligned; backward finds x there */
};

/* dx[i][s] = sum over j != i, ascending, of dy[s][pair(i,j)] * x[j][s]; with `self`, j == i counts twice. The latest forward with this
 * scratch was that of the same x. */
struct tr_dot_grad {
    uint32_t samples, n, dim;
    bool self;
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
    double *
        sum_at; /* a device's memory, where that goes instead; of all losses. Their `scale` is without 1 / global samples there: now */
};
struct tr_bce_grad {
    uint32_t samples;
    const tr_real *score, *label, *weight;
    double scale;    /* 1 / global samples */
    tr_real *dlogit; /* weight * (score - label) * scale */
    bool add;
};

/* ---- other losses ---- */

/* Binary cross entropy of a product of probabilities, p = sigmoid(z[0]) sigmoid(z[1]) ..: of n logits, one each per sample.
 * Never from p: with L = sum of log(1 + exp(-z[i])), p is exp(-L), log p is -L, and log(1 - p) is log(-expm1(-L)), which is
 * exact where p is next to 1 too; where every z is over 30, L is as small as the sum of exp(-z[i]), and taken as a multiple
 * of its largest term. So loss and gradients are finite for all finite logits. */
struct tr_bce_product {
    uint32_t samples, n;
    const tr_real *const *logit; /* [n] -> [samples] */
    const tr_real *label, *weight;
    tr_real *score; /* p */
    double loss_sum;
    double *sum_at;
};
/* dlogit[i] = (or +=) weight scale sigmoid(-z[i]) ((1 - label) / expm1(L) - label). */
struct tr_bce_product_grad {
    uint32_t samples, n;
    const tr_real *const *logit;
    const tr_real *label, *weight;
    double scale;
    tr_real *const *dlogit; /* [n], an entry is NULL when nobody wants it */
    const bool *add;        /* [n] */
};

/* (x - label)^2, as torch.nn.MSELoss without its mean. */
struct tr_mse {
    uint32_t samples;
    const tr_real *x, *label, *weight;
    size_t x_stride;
    tr_real *y; /* [samples] x */
    double loss_sum;
    double *sum_at;
};
struct tr_mse_grad {
    uint32_t samples;
    const tr_real *x, *label, *weight;
    size_t x_stride; /* of dx too */
    double scale;
    tr_real *dx; /* 2 weight (x - label) scale */
    bool add;
};

/* -log y[label] of y = softmax(x) over `classes` columns, made before; a label is one of 0..classes-1. From the largest
 * x, m: (x[m] - x[label]) - log y[m], since y[m] is at least 1 / classes. */
struct tr_softmax_ce {
    uint32_t samples, classes;
    const tr_real *x, *y, *label, *weight;
    size_t x_stride, y_stride;
    double loss_sum;
    double *sum_at;
};
struct tr_softmax_ce_grad {
    uint32_t samples, classes;
    const tr_real *y, *label, *weight;
    size_t y_stride, dx_stride;
    double scale;
    tr_real *dx; /* weight (y - 1 at the label) scale */
    bool add;
};

/* ---- one pass over memory ---- */

/* y = x, or y += x; y[samples][width]. */
struct tr_copy {
    uint32_t samples, width;
    const tr_real *x;
    size_t x_stride, y_stride;
    tr_real *y;
    bool add;
};

/* y = x[0] x[1] ... element by element. Of an x that is `spread` there is one column, for all columns of a row. */
struct tr_mul {
    uint32_t samples, rows, columns, n;
    const tr_real *const *x; /* [n] */
    const size_t *x_stride;  /* [n], of x and dx */
    const bool *spread;      /* [n] */
    tr_real *y;
    size_t y_stride;
};
/* dx[i] = (or +=) dy times the others. */
struct tr_mul_grad {
    struct tr_mul of; /* y is not read */
    const tr_real *dy;
    size_t dy_stride;
    tr_real *const *dx; /* [n], an entry is NULL when nobody wants it */
    const bool *add;    /* [n] */
    tr_real *scratch;   /* [rows x columns] */
};

/* y[s][r] = scale * sum over c of x[s][r][c]; over_rows: y[s][c], over r. */
struct tr_reduce {
    uint32_t samples, rows, columns;
    bool over_rows;
    tr_real scale;
    const tr_real *x;
    size_t x_stride, y_stride;
    tr_real *y;
};
struct tr_reduce_grad {
    uint32_t samples, rows, columns;
    bool over_rows;
    tr_real scale;
    const tr_real *dy;
    size_t dy_stride, dx_stride;
    tr_real *dx;
    bool add;
};

/* Over the columns of each row. Where mask is 0, y is, and where all of a row is masked. */
struct tr_softmax {
    uint32_t samples, rows, columns;
    const tr_real *x;
    const tr_real
        *mask; /* [samples][columns], or [samples][rows][columns] when mask_rows; NULL: none */
    bool mask_rows;
    size_t x_stride, mask_stride, y_stride;
    tr_real *y;
};
struct tr_softmax_grad {
    uint32_t samples, rows, columns;
    const tr_real *y, *dy;
    size_t y_stride, dy_stride, dx_stride;
    tr_real *dx;
    bool add;
};

/* y = w (x - mean) / sqrt(variance + eps) + b over the columns of each row, the variance being biased: torch.nn.LayerNorm. */
struct tr_layernorm {
    uint32_t samples, rows, columns;
    double eps;
    const tr_real *x, *w, *b; /* w, b [columns] */
    size_t x_stride, y_stride;
    tr_real *y;
    tr_real *stat; /* [samples][rows][2]: mean, 1 / sqrt(variance + eps); backward reads them */
};
struct tr_layernorm_grad {
    uint32_t samples, rows, columns;
    const tr_real *x, *w, *dy, *stat;
    size_t x_stride, dy_stride, dx_stride;
    tr_real *dw, *db;
    bool add_params;
    tr_real *dx; /* NULL when nobody wants it */
    bool add;
};

/* Of each column, over the rows of all samples: the mean, and the variance (biased). Sums are float64. */
struct tr_moments {
    uint32_t samples, rows, columns;
    const tr_real *x;
    size_t x_stride;
    const tr_real *
        mask; /* [samples][rows] without gaps: of rows where it is 0 nothing counts; NULL: all do. Devices' only */
    tr_real *mean, *variance; /* [columns] */
    tr_real *counted;         /* how many rows count; NULL: not wanted */
};

/* What a norm is made with: inverse = 1 / sqrt(max(variance, 0) + eps), after mean and variance were set to the running averages, where those
 * are given. */
struct tr_norm_take {
    uint32_t columns;
    double eps;
    const tr_real *running_mean,
        *running_variance; /* NULL: mean and variance are the batch's, made before */
    tr_real *mean, *variance, *inverse;
};
/* How far the batch's moments are from the running averages, the variance being the unbiased one: times `share`; 0 where one row
 * counts. A device's backend takes `share` without 1 / global samples: now. */
struct tr_norm_bring {
    uint32_t columns;
    double rows; /* that count; of `counted`, where that is not NULL */
    const tr_real *counted;
    double share;
    const tr_real *mean, *variance, *running_mean, *running_variance;
    tr_real *dmean, *dvariance;
};

/* y = w (x - mean) inverse + b, columns each with their own; inverse is 1 / sqrt(variance + eps): torch.nn.BatchNorm1d. */
struct tr_batchnorm {
    uint32_t samples, rows, columns;
    const tr_real *x, *mean, *inverse, *w, *b;
    size_t x_stride, y_stride;
    tr_real *y;
};
/* Where mean and inverse are those of x itself. With `mask` rows where it is 0 count in no sum, and their dx is 0 (with `add`, as it
 * was); `counted` is what tr_moments made. Devices' only, as there; NULL: all count. */
struct tr_batchnorm_grad {
    uint32_t samples, rows, columns;
    const tr_real *x, *mean, *inverse, *w, *dy;
    const tr_real *mask, *counted;
    size_t x_stride, dy_stride, dx_stride;
    tr_real *dw, *db;
    bool add_params;
    tr_real *dx; /* NULL when nobody wants it */
    bool add;
};

/* p = sigmoid((x - mean) inverse), y = (p + (1 - p) alpha) x, columns each with their own. */
struct tr_dice {
    uint32_t samples, rows, columns;
    const tr_real *x, *mean, *inverse, *alpha;
    size_t x_stride, y_stride;
    tr_real *p; /* [samples][rows][columns]; backward reads it */
    tr_real *y;
};
/* dx = dy y'(x), in place, where mean and inverse are those of x itself. mask, counted: tr_batchnorm_grad. */
struct tr_dice_grad {
    uint32_t samples, rows, columns;
    const tr_real *x, *mean, *inverse, *alpha, *p;
    const tr_real *mask, *counted;
    size_t x_stride, dy_stride;
    tr_real *dy;
    tr_real *dalpha;
    bool add_params;
};

/* y = (or +=) x / (1 - rate), or 0 for a share `rate` of all elements, drawn by (key, first + sample, column). Forward and
 * backward are this one. */
struct tr_dropout {
    uint32_t samples, width, first;
    double rate;
    uint64_t key;
    const uint64_t *key_at; /* a device's memory, where the key is instead; NULL: it is `key` */
    const tr_real *x;
    size_t x_stride, y_stride;
    tr_real *y;
    bool add;
};

/* y[s] = scale * sum over r of mask[s][r] x[s][r]; scale is 1, or of the mean 1 / sum of mask[s], 0 where that is 0. */
struct tr_masked_pool {
    uint32_t samples, rows, dim;
    bool mean;
    const tr_real *x, *mask;
    size_t x_stride, mask_stride, y_stride;
    tr_real *y;
};
/* dx[s][r] = (or +=) scale mask[s][r] dy[s]. */
struct tr_masked_pool_grad {
    uint32_t samples, rows, dim;
    bool mean;
    const tr_real *mask, *dy;
    size_t mask_stride, dy_stride, dx_stride;
    tr_real *dx;
    bool add;
};

/* y[s][0..width) = 0. */
struct tr_clear {
    uint32_t samples, width;
    size_t y_stride;
    tr_real *y;
};

/* y = x0 z + b + x; z has one column for all where `one`. b NULL: none. */
struct tr_cross {
    uint32_t samples, width;
    bool one;
    const tr_real *x0, *x, *z, *b;
    size_t x0_stride, x_stride, z_stride, y_stride;
    tr_real *y;
};
/* dz = dy x0 (its sum, where `one`); dx0 = (or +=) dy z; db = (or +=) sums over samples of dy. */
struct tr_cross_grad {
    uint32_t samples, width;
    bool one;
    const tr_real *x0, *z, *dy;
    size_t x0_stride, z_stride, dy_stride; /* dx0 has x0's, dz has z's */
    tr_real *dz;
    tr_real *dx0; /* NULL when nobody wants it */
    bool add;
    tr_real *db; /* NULL: there is no b */
    bool add_params;
};

/* y[s][d] = ((sum of x)^2 - sum of x^2) / 2 over n vectors: the products of all pairs, added; `whole`: and over d, y[s][0]. */
struct tr_fm {
    uint32_t samples, n, dim;
    bool whole;
    const tr_real *const *x; /* [n] -> [samples][dim] */
    const size_t *x_stride;  /* [n] */
    tr_real *y;
    size_t y_stride;
    tr_real *sum, *square; /* [samples][dim] each; backward reads sum */
};
/* dx[i] = (or +=) dy (sum - x[i]). */
struct tr_fm_grad {
    uint32_t samples, n, dim;
    bool whole;
    const tr_real *const *x;
    const size_t *x_stride; /* [n] of x and dx */
    const tr_real *dy, *sum;
    size_t dy_stride;
    tr_real *const *dx; /* [n], an entry is NULL when nobody wants it */
    const bool *add;    /* [n], done in ascending i */
};

/* y[s][d] = sum over i of weight[s][i] x[i][s][d]: n vectors of a sample, mixed. */
struct tr_mix {
    uint32_t samples, n, dim;
    const tr_real *weight;   /* [samples][n] */
    const tr_real *const *x; /* [n] -> [samples][dim] */
    const size_t *x_stride;  /* [n] of x and dx */
    size_t weight_stride, y_stride;
    tr_real *y;
};
/* dx[i] = (or +=) weight dy; dweight[s][i] = dy . x[i]. */
struct tr_mix_grad {
    struct tr_mix of; /* y is not read */
    const tr_real *dy;
    size_t dy_stride;
    tr_real *const *dx; /* [n], an entry is NULL when nobody wants it */
    const bool *add;    /* [n], done in ascending i */
    tr_real *dweight;   /* [samples][n], weight's stride */
};

/* Rows of a sample that look at each other, in `heads` heads of `dim` columns: with width = heads x dim and, of each head,
 * share[i][j] = softmax over j of scale q[i] . k[j],
 * y[i] = sum over j of share[i][j] v[j]. All [samples][rows][width] without gaps. Where mask is 0 no share is given, and none at all
 * where it is 0 everywhere. */
struct tr_attention {
    uint32_t samples, rows, heads, dim;
    tr_real scale;
    const tr_real *q, *k, *v;
    const tr_real *mask; /* [samples][rows]; NULL: none */
    size_t mask_stride;
    tr_real *share; /* [samples][heads][rows][rows]; backward reads it */
    tr_real *y;
    tr_real *scratch; /* [rows x (dim + 1)] */
};
struct tr_attention_grad {
    struct tr_attention of; /* y and mask are not read */
    const tr_real *dy;
    tr_real *dq, *dk, *dv;
};

/* What DIN's activation unit is fed with, for the rows k of a sample and its one q: y[r] = [q, k[r], q - k[r], q k[r]]. */
struct tr_din {
    uint32_t samples, rows, dim;
    const tr_real *q, *k;
    size_t q_stride, k_stride; /* of dq, dk too */
    tr_real *y;                /* [samples][rows][4 dim] */
};
struct tr_din_grad {
    struct tr_din of; /* y is not read */
    const tr_real *dy;
    tr_real *dq, *dk; /* NULL when nobody wants it */
    bool add_dq, add_dk;
};

/* What the products of a backend are made of, told once, before the first one. */
struct tr_space {
    uint32_t precision;    /* RT_DTYPE_F32, or RT_DTYPE_BF16: tr_backend_prepare() */
    const tr_real *params; /* [n_params] whatever may be a w; its memory stays */
    size_t n_params;
    uint32_t rows, columns; /* samples of a usual product; the most inputs or outputs */
};

struct tr_backend;
struct tr_backend_ops {
    const char *name;
    /* prepare's memory is let go of by release; begin: parameters may have changed. Each may be NULL. */
    int (*prepare)(struct tr_backend *backend, const struct tr_space *space);
    void (*begin)(struct tr_backend *backend);
    void (*release)(struct tr_backend *backend);
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
    int (*copy)(struct tr_backend *backend, const struct tr_copy *op);
    int (*mul_forward)(struct tr_backend *backend, const struct tr_mul *op);
    int (*mul_backward)(struct tr_backend *backend, const struct tr_mul_grad *op);
    int (*reduce_forward)(struct tr_backend *backend, const struct tr_reduce *op);
    int (*reduce_backward)(struct tr_backend *backend, const struct tr_reduce_grad *op);
    int (*softmax_forward)(struct tr_backend *backend, const struct tr_softmax *op);
    int (*softmax_backward)(struct tr_backend *backend, const struct tr_softmax_grad *op);
    int (*layernorm_forward)(struct tr_backend *backend, const struct tr_layernorm *op);
    int (*layernorm_backward)(struct tr_backend *backend, const struct tr_layernorm_grad *op);
    int (*moments)(struct tr_backend *backend, const struct tr_moments *op);
    int (*norm_take)(struct tr_backend *backend, const struct tr_norm_take *op);
    int (*norm_bring)(struct tr_backend *backend, const struct tr_norm_bring *op);
    int (*batchnorm_forward)(struct tr_backend *backend, const struct tr_batchnorm *op);
    int (*batchnorm_backward)(struct tr_backend *backend, const struct tr_batchnorm_grad *op);
    int (*dice_forward)(struct tr_backend *backend, const struct tr_dice *op);
    int (*dice_backward)(struct tr_backend *backend, const struct tr_dice_grad *op);
    int (*dropout)(struct tr_backend *backend, const struct tr_dropout *op);
    int (*masked_pool_forward)(struct tr_backend *backend, const struct tr_masked_pool *op);
    int (*masked_pool_backward)(struct tr_backend *backend, const struct tr_masked_pool_grad *op);
    int (*clear)(struct tr_backend *backend, const struct tr_clear *op);
    int (*cross_forward)(struct tr_backend *backend, const struct tr_cross *op);
    int (*cross_backward)(struct tr_backend *backend, const struct tr_cross_grad *op);
    int (*fm_forward)(struct tr_backend *backend, const struct tr_fm *op);
    int (*fm_backward)(struct tr_backend *backend, const struct tr_fm_grad *op);
    int (*mix_forward)(struct tr_backend *backend, const struct tr_mix *op);
    int (*mix_backward)(struct tr_backend *backend, const struct tr_mix_grad *op);
    int (*attention_forward)(struct tr_backend *backend, const struct tr_attention *op);
    int (*attention_backward)(struct tr_backend *backend, const struct tr_attention_grad *op);
    int (*din_forward)(struct tr_backend *backend, const struct tr_din *op);
    int (*din_backward)(struct tr_backend *backend, const struct tr_din_grad *op);
};

struct tr_backend_losses {
    int (*bce_product_forward)(struct tr_backend *backend, struct tr_bce_product *op);
    int (*bce_product_backward)(struct tr_backend *backend, const struct tr_bce_product_grad *op);
    int (*mse_forward)(struct tr_backend *backend, struct tr_mse *op);
    int (*mse_backward)(struct tr_backend *backend, const struct tr_mse_grad *op);
    int (*softmax_ce_forward)(struct tr_backend *backend, struct tr_softmax_ce *op);
    int (*softmax_ce_backward)(struct tr_backend *backend, const struct tr_softmax_ce_grad *op);
};

/* What changes from step to step, in a device's memory. */
struct tr_now {
    double per_sample; /* 1 / global samples */
};

struct tr_cuda;

struct tr_backend {
    const struct tr_backend_ops *ops;
    const struct tr_backend_loops *loops;
    const struct tr_backend_losses *losses;
    int threads;                /* of the matrix products */
    uint32_t precision;         /* of what they multiply */
    struct tr_rounded *rounded; /* onednn's, in bfloat16 */
    struct tr_cuda *cuda;     /* the device that operations are queued on; NULL: a CPU's backend */
    const struct tr_now *now; /* in its memory */
};

extern const struct tr_backend_ops tr_backend_reference; /* backend/cpu/reference.c */
extern const struct tr_backend_ops tr_backend_onednn;    /* backend/cpu/onednn.c */

extern const struct tr_backend_losses tr_losses; /* backend/cpu/reference_losses.c */

/* By instruction set; tr_backend_init() takes the plain ones for "reference". All have the same bits. */
extern const struct tr_backend_loops tr_loops_plain, tr_loops_avx2, tr_loops_avx512;

/* name: NULL or "onednn", or "reference". RT_EUSAGE for another. threads below 1 means 1. */
int tr_backend_init(struct tr_backend *backend, const char *name, int threads);

/* After init, once the parameters have their place; not needed for float32. RT_ENOMEM, RT_EBACKEND. Precision bfloat16: what linear_forward
 * and linear_backward multiply (x, w, dy) is rounded to it before, to the nearest even; all sums are float32, and so is all
 * else, activations, biases and their gradients, interactions, losses, weights. As torch.autocast, but that its outputs and
 * gradients are rounded as well. */
int tr_backend_prepare(struct tr_backend *backend, const struct tr_space *space);
void tr_backend_begin(struct tr_backend *backend); /* before each batch */
void tr_backend_release(struct tr_backend *backend);

static inline uint32_t tr_dot_pairs(uint32_t n)
{
    return n * (n - 1) / 2; /* n is at most 1024: see layer_dot.c */
}
static inline uint32_t tr_dot_columns(uint32_t n, bool self)
{
    return tr_dot_pairs(n) + (self ? n : 0);
}
/* Floats of scratch: x of all samples transposed, in groups of 16; y and one dx of a group. */
static inline size_t tr_dot_scratch(uint32_t samples, uint32_t n, uint32_t dim)
{
    return ((size_t)samples + 15) / 16 * 16 * n * dim +
           16 * ((size_t)dim + tr_dot_columns(n, true));
}

#endif
