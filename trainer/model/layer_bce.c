/* trainer/model/layer_bce.c -- a loss: binary cross entropy on logits, weighted by sample. Inputs: the logit, width 1; or
 * several, and then the probability is the product of theirs (ESMM, arXiv:1804.07931: pCTCVR = pCTR x pCVR). That one is
 * computed from the logits: of the product alone, the logarithms of what is next to 0 or 1 could not be told. Output: the
 * probability. Options: tr_build_head(). */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"

#define LOGITS_MAX 16u

struct bce_state {
    struct tr_value *label;
    const tr_real *logit[LOGITS_MAX];
    tr_real *dlogit[LOGITS_MAX];
    bool add[LOGITS_MAX];
};

static int bce_build(struct tr_build *build, struct tr_layer *layer)
{
    if (layer->n_in > LOGITS_MAX)
        return tr_build_fail(build, "expected 1..%u logits as inputs, got %u tensors", LOGITS_MAX,
                             layer->n_in);
    for (uint32_t i = 0; i < layer->n_in; i++) {
        if (layer->in[i]->width != 1)
            return tr_build_fail(build, "input '%s': expected [samples][1], got %s",
                                 layer->in[i]->name, tr_shape(layer->in[i]).text);
        layer->in[i]->packed = true;
    }
    struct bce_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = tr_build_head(build, layer, TR_HEAD_BCE, 2, &state->label);
    return err ? err : tr_build_output(build, layer, 1);
}

static int product_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct bce_state *state = layer->state;
    for (uint32_t i = 0; i < layer->n_in; i++)
        state->logit[i] = layer->in[i]->data;
    struct tr_bce_product op = {
        .samples = pass->samples,
        .n = layer->n_in,
        .logit = state->logit,
        .label = state->label->data,
        .weight = pass->weight,
        .sum_at = pass->sum_at,
        .score = layer->out.data,
    };
    int err = pass->backend->losses->bce_product_forward(pass->backend, &op);
    pass->loss_sum = op.loss_sum;
    return err;
}

static int bce_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct bce_state *state = layer->state;
    if (layer->n_in > 1)
        return product_forward(layer, pass);
    struct tr_bce op = {
        .samples = pass->samples,
        .logit = layer->in[0]->data,
        .label = state->label->data,
        .weight = pass->weight,
        .sum_at = pass->sum_at,
        .score = layer->out.data,
    };
    int err = pass->backend->ops->bce_forward(pass->backend, &op);
    pass->loss_sum = op.loss_sum;
    return err;
}

static int product_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct bce_state *state = layer->state;
    for (uint32_t i = 0; i < layer->n_in; i++) {
        state->dlogit[i] = layer->in[i]->grad;
        state->add[i] = state->dlogit[i] && tr_value_add(layer->in[i]);
    }
    struct tr_bce_product_grad op = {
        .samples = pass->samples,
        .n = layer->n_in,
        .logit = state->logit,
        .label = state->label->data,
        .weight = pass->weight,
        .scale = pass->scale,
        .dlogit = state->dlogit,
        .add = state->add,
    };
    return pass->backend->losses->bce_product_backward(pass->backend, &op);
}

static int bce_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct bce_state *state = layer->state;
    if (layer->n_in > 1)
        return product_backward(layer, pass);
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

static const char *const options[] = {"label", "weight", NULL};

const struct tr_layer_type tr_layer_bce = {
    .name = "bce",
    .options = options,
    .loss = true,
    .build = bce_build,
    .forward = bce_forward,
    .backward = bce_backward,
};
