/* trainer/model/moments.c -- see moments.h. */
#include "trainer/model/moments.h"

#include <stdio.h>

#define DICE_EPS      1e-8
#define DICE_MOMENTUM 0.1

int tr_norm_build(struct tr_build *build, struct tr_layer *layer, struct tr_norm *norm,
                  const char *prefix, double momentum)
{
    char mean[32], variance[32];
    snprintf(mean, sizeof mean, "%srunning_mean", prefix);
    snprintf(variance, sizeof variance, "%srunning_var", prefix);
    norm->mean = layer->n_params;
    int err = tr_build_running(build, mean, norm->columns, 0, momentum);
    norm->variance = layer->n_params;
    if (!err)
        err = tr_build_running(build, variance, norm->columns, 1, momentum);
    norm->now = layer->n_buffers;
    return err ? err : tr_build_scratch(build, 3 * (size_t)norm->columns + 1);
}

const tr_real *tr_norm_mean(const struct tr_layer *layer, const struct tr_norm *norm)
{
    return layer->buffer[norm->now];
}

const tr_real *tr_norm_inverse(const struct tr_layer *layer, const struct tr_norm *norm)
{
    return layer->buffer[norm->now] + norm->columns;
}

/* How many rows counted, where not all did. */
static tr_real *counted_of(const struct tr_layer *layer, const struct tr_norm *norm)
{
    return layer->buffer[norm->now] + 3 * (size_t)norm->columns;
}

int tr_norm_take(const struct tr_layer *layer, const struct tr_pass *pass,
                 const struct tr_norm *norm, const tr_real *x, size_t stride, const tr_real *mask)
{
    uint32_t n = norm->columns;
    tr_real *mean = layer->buffer[norm->now], *inverse = mean + n, *variance = inverse + n;
    struct tr_moments moments = {
        .samples = pass->samples,
        .rows = norm->rows,
        .columns = n,
        .x = x,
        .x_stride = stride,
        .mask = mask,
        .mean = mean,
        .variance = variance,
        .counted = mask ? counted_of(layer, norm) : NULL,
    };
    struct tr_norm_take op = {
        .columns = n,
        .eps = norm->eps,
        .running_mean = pass->training ? NULL : layer->param[norm->mean].value,
        .running_variance = pass->training ? NULL : layer->param[norm->variance].value,
        .mean = mean,
        .variance = variance,
        .inverse = inverse,
    };
    int err = pass->training ? pass->backend->loops->moments(pass->backend, &moments) : 0;
    return err ? err : pass->backend->loops->norm_take(pass->backend, &op);
}

int tr_norm_bring(const struct tr_layer *layer, const struct tr_pass *pass,
                  const struct tr_norm *norm, const tr_real *mask)
{
    uint32_t n = norm->columns;
    const tr_real *now = layer->buffer[norm->now];
    struct tr_norm_bring op = {
        .columns = n,
        .rows = (double)pass->samples * norm->rows,
        .counted = mask ? counted_of(layer, norm) : NULL,
        .share = pass->share,
        .mean = now,
        .variance = now + 2 * (size_t)n,
        .running_mean = layer->param[norm->mean].value,
        .running_variance = layer->param[norm->variance].value,
        .dmean = layer->param[norm->mean].grad,
        .dvariance = layer->param[norm->variance].grad,
    };
    return pass->backend->loops->norm_bring(pass->backend, &op);
}

/* ---- dice ---- */

int tr_dice_build(struct tr_build *build, struct tr_layer *layer, struct tr_dice_part *dice,
                  const char *prefix, uint32_t rows)
{
    char alpha[32];
    snprintf(alpha, sizeof alpha, "%salpha", prefix);
    dice->norm.eps = DICE_EPS;
    dice->alpha = layer->n_params;
    int err = tr_build_constant(build, alpha, dice->norm.columns, 0);
    if (!err)
        err = tr_norm_build(build, layer, &dice->norm, prefix, DICE_MOMENTUM);
    dice->p = layer->n_buffers;
    return err ? err : tr_build_buffer(build, (size_t)rows * dice->norm.rows * dice->norm.columns);
}

int tr_dice_forward(const struct tr_layer *layer, struct tr_pass *pass,
                    const struct tr_dice_part *dice, const tr_real *x, size_t x_stride, tr_real *y,
                    size_t y_stride)
{
    const struct tr_norm *norm = &dice->norm;
    struct tr_dice op = {
        .samples = pass->samples,
        .rows = norm->rows,
        .columns = norm->columns,
        .x = x,
        .mean = tr_norm_mean(layer, norm),
        .inverse = tr_norm_inverse(layer, norm),
        .alpha = layer->param[dice->alpha].value,
        .x_stride = x_stride,
        .y_stride = y_stride,
        .p = layer->buffer[dice->p],
        .y = y,
    };
    int err = tr_norm_take(layer, pass, norm, x, x_stride, pass->places);
    return err ? err : pass->backend->loops->dice_forward(pass->backend, &op);
}

int tr_dice_backward(const struct tr_layer *layer, struct tr_pass *pass,
                     const struct tr_dice_part *dice, const tr_real *x, size_t x_stride,
                     tr_real *dy, size_t dy_stride)
{
    const struct tr_norm *norm = &dice->norm;
    struct tr_dice_grad op = {
        .samples = pass->samples,
        .rows = norm->rows,
        .columns = norm->columns,
        .x = x,
        .mean = tr_norm_mean(layer, norm),
        .inverse = tr_norm_inverse(layer, norm),
        .alpha = layer->param[dice->alpha].value,
        .p = layer->buffer[dice->p],
        .mask = pass->places,
        .counted = pass->places ? counted_of(layer, norm) : NULL,
        .x_stride = x_stride,
        .dy_stride = dy_stride,
        .dy = dy,
        .dalpha = layer->param[dice->alpha].grad,
        .add_params = pass->add_params,
    };
    int err = tr_norm_bring(layer, pass, norm, pass->places);
    return err ? err : pass->backend->loops->dice_backward(pass->backend, &op);
}
