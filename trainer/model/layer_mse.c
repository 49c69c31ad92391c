/* trainer/model/layer_mse.c -- a loss: the squared difference of a prediction and its label, weighted by sample. Input and
 * output: the prediction, width 1. The label may be any number (`real: true` in data.yml), or 0 and 1. Options:
 * tr_build_head(). */
#include "trainer/model/layers.h"

static int mse_build(struct tr_build *build, struct tr_layer *layer)
{
    int err = tr_build_one_input(build, layer);
    if (!err && layer->in[0]->width != 1)
        err = tr_build_fail(build, "input '%s': expected [samples][1], got %s", layer->in[0]->name,
                            tr_shape(layer->in[0]).text);
    struct tr_value *label = NULL;
    if (!err)
        err = tr_build_head(build, layer, TR_HEAD_MSE, 0, &label);
    layer->state = label;
    return err ? err : tr_build_output(build, layer, 1);
}

static int mse_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *label = layer->state;
    struct tr_mse op = {
        .samples = pass->samples,
        .x = layer->in[0]->data,
        .label = label->data,
        .weight = pass->weight,
        .sum_at = pass->sum_at,
        .x_stride = layer->in[0]->stride,
        .y = layer->out.data,
    };
    int err = pass->backend->losses->mse_forward(pass->backend, &op);
    pass->loss_sum = op.loss_sum;
    return err;
}

static int mse_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *label = layer->state;
    struct tr_value *in = layer->in[0];
    if (!in->grad)
        return 0;
    struct tr_mse_grad op = {
        .samples = pass->samples,
        .x = in->data,
        .label = label->data,
        .weight = pass->weight,
        .x_stride = in->stride,
        .scale = pass->scale,
        .dx = in->grad,
        .add = tr_value_add(in),
    };
    return pass->backend->losses->mse_backward(pass->backend, &op);
}

static const char *const options[] = {"label", "weight", NULL};

const struct tr_layer_type tr_layer_mse = {
    .name = "mse",
    .options = options,
    .loss = true,
    .build = mse_build,
    .forward = mse_forward,
    .backward = mse_backward,
};
