/* trainer/model/layer_dropout.c -- in training, a share of all elements becomes 0 and the others are divided by what is left;
 * else nothing happens. Option `rate`, the share.
 *
 * Which ones is drawn of the step and rank (pass->draw), the layer's name, the sample and the column, and drawn again in the
 * backward pass: there is no mask to keep, and slices and threads make no difference. */
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "trainer/model/layers.h"

struct dropout_state {
    double rate;
};

static int dropout_build(struct tr_build *build, struct tr_layer *layer)
{
    struct dropout_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    state->rate = -1;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_real(build, "rate", 0, 0.99, &state->rate);
    if (!err && state->rate < 0)
        err = tr_build_fail(build, "rate: expected the share of elements to drop, got nothing");
    return err ? err : tr_build_rows(build, layer, layer->in[0]->rows, layer->in[0]->columns);
}

uint64_t tr_dropout_key(const struct tr_layer *layer, uint64_t draw)
{
    return rt_draw_key(draw, "dropout", layer->name);
}

static struct tr_dropout operation(const struct tr_layer *layer, const struct tr_pass *pass)
{
    const struct dropout_state *state = layer->state;
    return (struct tr_dropout){
        .samples = pass->samples,
        .width = layer->out.width,
        .first = pass->first,
        .rate = pass->training ? state->rate : 0,
        .key = tr_dropout_key(layer, pass->draw),
        .key_at = pass->keys ? &pass->keys[layer->number] : NULL,
    };
}

static int dropout_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_dropout op = operation(layer, pass);
    op.x = layer->in[0]->data;
    op.x_stride = layer->in[0]->stride;
    op.y = layer->out.data;
    op.y_stride = layer->out.stride;
    return pass->backend->loops->dropout(pass->backend, &op);
}

static int dropout_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_value *in = layer->in[0];
    if (!in->grad)
        return 0;
    struct tr_dropout op = operation(layer, pass);
    op.x = layer->out.grad;
    op.x_stride = layer->out.stride;
    op.y = in->grad;
    op.y_stride = in->stride;
    op.add = tr_value_add(in);
    return pass->backend->loops->dropout(pass->backend, &op);
}

static const char *const options[] = {"rate", NULL};

const struct tr_layer_type tr_layer_dropout = {
    .name = "dropout",
    .options = options,
    .build = dropout_build,
    .forward = dropout_forward,
    .backward = dropout_backward,
};
