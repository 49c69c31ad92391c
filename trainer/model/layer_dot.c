/* trainer/model/layer_dot.c -- `dot_interaction`: the dot product of every pair of its inputs, all of
 * one width. n inputs give n(n-1)/2 columns, pairs i < j in row-major order (DLRM). */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"

#define DOT_INPUTS_MAX 1024u /* 523,776 pairs */

struct dot_state {
    const tr_real **x; /* [n_in], filled in each pass: features bring their own memory */
    size_t *x_stride;
    tr_real **dx;
    bool *add;
};

static int dot_check(struct tr_build *build, const struct tr_layer *layer)
{
    if (layer->n_in < 2 || layer->n_in > DOT_INPUTS_MAX)
        return tr_build_fail(build, "expected 2..%u tensors as inputs, got %u", DOT_INPUTS_MAX,
                             layer->n_in);
    for (uint32_t i = 1; i < layer->n_in; i++)
        if (layer->in[i]->width != layer->in[0]->width)
            return tr_build_fail(build, "input '%s': expected %s as '%s' has, got %s",
                                 layer->in[i]->name, tr_shape(layer->in[0]).text,
                                 layer->in[0]->name, tr_shape(layer->in[i]).text);
    return 0;
}

static int dot_build(struct tr_build *build, struct tr_layer *layer)
{
    int err = dot_check(build, layer);
    if (err)
        return err;
    struct dot_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (state) {
        layer->state = state;
        state->x = tr_build_alloc(build, layer->n_in, sizeof *state->x);
        state->x_stride = tr_build_alloc(build, layer->n_in, sizeof *state->x_stride);
        state->dx = tr_build_alloc(build, layer->n_in, sizeof *state->dx);
        state->add = tr_build_alloc(build, layer->n_in, sizeof *state->add);
    }
    if (!state || !state->x || !state->x_stride || !state->dx || !state->add)
        return RT_FAIL(RT_ENOMEM, "layer '%s': %u inputs", layer->name, layer->n_in);
    err = tr_build_scratch(
        build, tr_dot_scratch(tr_build_samples(build), layer->n_in, layer->in[0]->width));
    return err ? err : tr_build_output(build, layer, tr_dot_pairs(layer->n_in));
}

static int dot_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct dot_state *state = layer->state;
    for (uint32_t i = 0; i < layer->n_in; i++) {
        state->x[i] = layer->in[i]->data;
        state->x_stride[i] = layer->in[i]->stride;
    }
    struct tr_dot op = {
        .samples = pass->samples,
        .n = layer->n_in,
        .dim = layer->in[0]->width,
        .x = state->x,
        .x_stride = state->x_stride,
        .y = layer->out.data,
        .y_stride = layer->out.stride,
        .scratch = layer->buffer[0],
    };
    return pass->backend->ops->dot_forward(pass->backend, &op);
}

static int dot_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct dot_state *state = layer->state;
    for (uint32_t i = 0; i < layer->n_in; i++) {
        state->dx[i] = layer->in[i]->grad;
        state->add[i] = state->dx[i] && tr_value_add(layer->in[i]);
    }
    struct tr_dot_grad op = {
        .samples = pass->samples,
        .n = layer->n_in,
        .dim = layer->in[0]->width,
        .x = state->x,
        .dy = layer->out.grad,
        .dy_stride = layer->out.stride,
        .dx = state->dx,
        .x_stride = state->x_stride,
        .add = state->add,
        .scratch = layer->buffer[0],
    };
    return pass->backend->ops->dot_backward(pass->backend, &op);
}

static const char *const options[] = {NULL};

const struct tr_layer_type tr_layer_dot_interaction = {
    .name = "dot_interaction",
    .options = options,
    .build = dot_build,
    .forward = dot_forward,
    .backward = dot_backward,
};
