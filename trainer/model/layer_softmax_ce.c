/* trainer/model/layer_softmax_ce.c -- a loss: cross entropy of the softmax of k logits, weighted by sample. Input: the logits,
 * width k; the label is one of 0..k-1 (`classes: k` in data.yml). Output: a probability for each class. Options:
 * tr_build_head(). */
#include "trainer/model/layers.h"

static int ce_build(struct tr_build *build, struct tr_layer *layer)
{
    uint32_t k = layer->in[0]->width;
    int err = tr_build_one_input(build, layer);
    if (!err && k < 2)
        err = tr_build_fail(build, "input '%s': expected a logit for each class, got %s",
                            layer->in[0]->name, tr_shape(layer->in[0]).text);
    struct tr_value *label = NULL;
    if (!err)
        err = tr_build_head(build, layer, TR_HEAD_SOFTMAX, k, &label);
    layer->state = label;
    return err ? err : tr_build_output(build, layer, k);
}

static int ce_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *in = layer->in[0], *label = layer->state;
    struct tr_softmax softmax = {
        .samples = pass->samples,
        .rows = 1,
        .columns = in->width,
        .x = in->data,
        .x_stride = in->stride,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
    struct tr_softmax_ce op = {
        .samples = pass->samples,
        .classes = in->width,
        .x = in->data,
        .y = layer->out.data,
        .label = label->data,
        .weight = pass->weight,
        .sum_at = pass->sum_at,
        .x_stride = in->stride,
        .y_stride = layer->out.stride,
    };
    int err = pass->backend->loops->softmax_forward(pass->backend, &softmax);
    if (!err)
        err = pass->backend->losses->softmax_ce_forward(pass->backend, &op);
    pass->loss_sum = op.loss_sum;
    return err;
}

static int ce_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *label = layer->state;
    struct tr_value *in = layer->in[0];
    if (!in->grad)
        return 0;
    struct tr_softmax_ce_grad op = {
        .samples = pass->samples,
        .classes = in->width,
        .y = layer->out.data,
        .label = label->data,
        .weight = pass->weight,
        .y_stride = layer->out.stride,
        .dx_stride = in->stride,
        .scale = pass->scale,
        .dx = in->grad,
        .add = tr_value_add(in),
    };
    return pass->backend->losses->softmax_ce_backward(pass->backend, &op);
}

static const char *const options[] = {"label", "weight", NULL};

const struct tr_layer_type tr_layer_softmax_ce = {
    .name = "softmax_ce",
    .options = options,
    .loss = true,
    .build = ce_build,
    .forward = ce_forward,
    .backward = ce_backward,
};
