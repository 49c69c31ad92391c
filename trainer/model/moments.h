/* trainer/model/moments.h -- mean and variance of columns over a batch, and their running averages: what `batchnorm` and `dice`
 * normalize with. Private to trainer/model/.
 *
 * In training a batch is normalized by its own mean and (biased) variance: that of this rank, as torch.nn.BatchNorm1d without
 * SyncBatchNorm, each row counting once whatever its weight. Scores are made with the running averages, running += momentum
 * (that of the batch - running), the variance there being the unbiased one. These are tensors beside the layer's parameters
 * ("running_mean", "running_var", struct tr_param's momentum): in the place of their gradients a rank brings how far the batch's
 * statistics are from them, times its share of the group's samples, so that the sum over the ranks is the group's average and the
 * optimizer moves all ranks' alike. (The difference and not the statistics: where the sum is rounded on its way, a mean far from 0
 * would be off by more than the columns are wide.) A batch of one row has no variance: torch refuses it, here nothing moves. */
#ifndef TR_MOMENTS_H
#define TR_MOMENTS_H

#include "trainer/model/layer.h"

struct tr_norm {
    uint32_t rows, columns; /* of a sample */
    double eps;
    uint32_t mean, variance; /* the running ones, in layer->param */
    uint32_t
        now; /* in layer->buffer: [3][columns], mean, 1 / sqrt(variance + eps), variance; then how many rows counted */
};

/* rows, columns and eps are set. The tensors are "<prefix>running_mean" and "<prefix>running_var". Makes the whole batch one slice. */
int tr_norm_build(struct tr_build *build, struct tr_layer *layer, struct tr_norm *norm,
                  const char *prefix, double momentum);

/* What x is normalized with in this pass; in training, its own statistics, of the rows that `mask` counts. NULL: of all. */
int tr_norm_take(const struct tr_layer *layer, const struct tr_pass *pass,
                 const struct tr_norm *norm, const tr_real *x, size_t stride, const tr_real *mask);
const tr_real *tr_norm_mean(const struct tr_layer *layer, const struct tr_norm *norm);
const tr_real *tr_norm_inverse(const struct tr_layer *layer, const struct tr_norm *norm);

/* Backward: what the running averages will be moved by. */
int tr_norm_bring(const struct tr_layer *layer, const struct tr_pass *pass,
                  const struct tr_norm *norm, const tr_real *mask);

/* ---- dice ---- */

/* The activation: y = (p + (1 - p) alpha) x, p = sigmoid of x normalized. Zhou et al. 2018, "Deep Interest Network for
 * Click-Through Rate Prediction", equation 3, with its eps of 1e-8; alpha is one for each column, at the start 0 as in the authors'
 * code and DeepCTR. */
struct tr_dice_part {
    struct tr_norm norm;
    uint32_t alpha; /* in layer->param: "<prefix>alpha" */
    uint32_t p;     /* in layer->buffer */
};

/* norm.rows and norm.columns are set. Room for so many rows of a sample, where each is a sample of the passes to come. */
int tr_dice_build(struct tr_build *build, struct tr_layer *layer, struct tr_dice_part *dice,
                  const char *prefix, uint32_t rows);
int tr_dice_forward(const struct tr_layer *layer, struct tr_pass *pass,
                    const struct tr_dice_part *dice, const tr_real *x, size_t x_stride, tr_real *y,
                    size_t y_stride);
/* dy becomes dx. */
int tr_dice_backward(const struct tr_layer *layer, struct tr_pass *pass,
                     const struct tr_dice_part *dice, const tr_real *x, size_t x_stride,
                     tr_real *dy, size_t dy_stride);

#endif
