/* trainer/model/layer_bce.c -- the loss: binary cross entropy on logits, weighted by sample.
 * Input: the logit, width 1. Output: the score. Option `label`: which label; may be left out when
 * there is only one. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"

struct bce_state {
    struct tr_value *label;
};

static int bce_build(struct tr_build *build, struct tr_layer *layer)
{
    if (layer->n_in != 1)
        return tr_build_fail(build, "expected one input, the logit, got %u tensors", layer->n_in);
    if (layer->in[0]->width != 1)
        return tr_build_fail(build, "input '%s': expected [samples][1], got %s", layer->in[0]->name,
                             tr_shape(layer->in[0]).text);
    layer->in[0]->packed = true;
    struct bce_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = tr_build_label(build, "label", &state->label);
    return err ? err : tr_build_output(build, layer, 1);
}

static int bce_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct bce_state *state = layer->state;
    struct tr_bce op = {
        .samples = pass->samples,
        .logit = layer->in[0]->data,
        .label = state->label->data,
        .weight = pass->weight,
        .score = layer->out.data,
    };
    int err = pass->backend->ops->bce_forward(pass->backend, &op);
    pass->loss_sum = op.loss_sum;
    return err;
}

static int bce_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct bce_state *state = layer->state;
    if (!layer->in[0]->grad)
        return 0;
    struct tr_bce_grad op = {
        .samples = pass->samples,
        .score = layer->out.data,
        .label = state->label->data,
        .weight = pass->weight,
        .scale = pass->scale,
        .dlogit = layer->in[0]->grad,
        .add = tr_value_add(layer->in[0]),
    };
    return pass->backend->ops->bce_backward(pass->backend, &op);
}

static const char *const options[] = {"label", NULL};

const struct tr_layer_type tr_layer_bce = {
    .name = "bce",
    .options = options,
    .loss = true,
    .build = bce_build,
    .forward = bce_forward,
    .backward = bce_backward,
};
