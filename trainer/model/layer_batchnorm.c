/* trainer/model/layer_batchnorm.c -- columns brought to mean 0 and variance 1 over the rows of the batch, times a weight, plus a bias:
 * torch.nn.BatchNorm1d; where a sample has several rows, all of them count and a column is a channel. moments.h says of which
 * batch, and what scores are made with. Options `eps` (1e-5), `momentum` (0.1). Parameters "weight", at the start 1, "bias", 0; beside
 * them "running_mean", 0, and "running_var", 1. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/moments.h"

static int batchnorm_build(struct tr_build *build, struct tr_layer *layer)
{
    struct tr_norm *norm = tr_build_alloc(build, 1, sizeof *norm);
    if (!norm)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = norm;
    const struct tr_value *in = layer->in[0];
    double momentum = 0.1;
    *norm = (struct tr_norm){.rows = in->rows, .columns = in->columns, .eps = 1e-5};
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_real(build, "eps", 1e-12, 1, &norm->eps);
    if (!err)
        err = tr_build_real(build, "momentum", 1e-6, 1, &momentum);
    if (!err)
        err = tr_build_constant(build, "weight", in->columns, 1);
    if (!err)
        err = tr_build_constant(build, "bias", in->columns, 0);
    if (!err)
        err = tr_norm_build(build, layer, norm, "", momentum);
    return err ? err : tr_build_rows(build, layer, in->rows, in->columns);
}

static int batchnorm_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_norm *norm = layer->state;
    const struct tr_value *in = layer->in[0];
    struct tr_batchnorm op = {
        .samples = pass->samples,
        .rows = norm->rows,
        .columns = norm->columns,
        .x = in->data,
        .mean = tr_norm_mean(layer, norm),
        .inverse = tr_norm_inverse(layer, norm),
        .w = layer->param[0].value,
        .b = layer->param[1].value,
        .x_stride = in->stride,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
    int err = tr_norm_take(layer, pass, norm, in->data, in->stride, NULL);
    return err ? err : pass->backend->loops->batchnorm_forward(pass->backend, &op);
}

static int batchnorm_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_norm *norm = layer->state;
    struct tr_value *in = layer->in[0];
    struct tr_batchnorm_grad op = {
        .samples = pass->samples,
        .rows = norm->rows,
        .columns = norm->columns,
        .x = in->data,
        .mean = tr_norm_mean(layer, norm),
        .inverse = tr_norm_inverse(layer, norm),
        .w = layer->param[0].value,
        .dy = layer->out.grad,
        .x_stride = in->stride,
        .dy_stride = layer->out.stride,
        .dx_stride = in->stride,
        .dw = layer->param[0].grad,
        .db = layer->param[1].grad,
        .add_params = pass->add_params,
        .dx = in->grad,
        .add = in->grad && tr_value_add(in),
    };
    int err = tr_norm_bring(layer, pass, norm, NULL);
    return err ? err : pass->backend->loops->batchnorm_backward(pass->backend, &op);
}

static const char *const options[] = {"eps", "momentum", NULL};

const struct tr_layer_type tr_layer_batchnorm = {
    .name = "batchnorm",
    .options = options,
    .build = batchnorm_build,
    .forward = batchnorm_forward,
    .backward = batchnorm_backward,
};
