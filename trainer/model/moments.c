/* trainer/model/moments.c -- see moments.h. */
#include "trainer/model/moments.h"

#include <math.h>
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
    return err ? err : tr_build_scratch(build, 3 * (size_t)norm->columns);
}

const tr_real *tr_norm_mean(const struct tr_layer *layer, const struct tr_norm *norm)
{
    return layer->buffer[norm->now];
}

const tr_real *tr_norm_inverse(const struct tr_layer *layer, const struct tr_norm *norm)
{
    return layer->buffer[norm->now] + norm->columns;
}

int tr_norm_take(const struct tr_layer *layer, const struct tr_pass *pass,
                 const struct tr_norm *norm, const tr_real *x, size_t stride)
{
    uint32_t n = norm->columns;
    tr_real *mean = layer->buffer[norm->now], *inverse = mean + n, *variance = inverse + n;
    struct tr_moments op = {
        .samples = pass->samples,
        .rows = norm->rows,
        .columns = n,
        .x = x,
        .x_stride = stride,
        .mean = mean,
        .variance = variance,
    };
    int err = pass->training ? pass->backend->loops->moments(pass->backend, &op) : 0;
    for (uint32_t c = 0; !pass->training && c < n; c++) {
        mean[c] = layer->param[norm->mean].value[c];
        variance[c] = layer->param[norm->variance].value[c];
    }
    for (uint32_t c = 0; c < n; c++)
        inverse[c] =
            (tr_real)(1 / sqrt(fmax((double)variance[c], 0) + norm->eps)); /* of a file: any */
    return err;
}

void tr_norm_bring(const struct tr_layer *layer, const struct tr_pass *pass,
                   const struct tr_norm *norm)
{
    uint32_t n = norm->columns;
    double rows = (double)pass->samples * norm->rows, share = pass->share;
    const struct tr_layer_param *mean = &layer->param[norm->mean];
    const struct tr_layer_param *variance = &layer->param[norm->variance];
    const tr_real *now = layer->buffer[norm->now], *spread = now + 2 * (size_t)n;
    for (uint32_t c = 0; c < n; c++) {
        double ahead = (double)now[c] - (double)mean->value[c];
        double wider = spread[c] * (rows / (rows - 1)) - (double)variance->value[c];
        mean->grad[c] = rows > 1 ? (tr_real)(share * ahead) : 0;
        variance->grad[c] = rows > 1 ? (tr_real)(share * wider) : 0;
    }
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
    int err = tr_norm_take(layer, pass, norm, x, x_stride);
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
        .x_stride = x_stride,
        .dy_stride = dy_stride,
        .dy = dy,
        .dalpha = layer->param[dice->alpha].grad,
        .add_params = pass->add_params,
    };
    tr_norm_bring(layer, pass, norm);
    return pass->backend->loops->dice_backward(pass->backend, &op);
}
