/* trainer/model/layer_dot.c -- `dot_interaction`: the dot product of every pair of vectors, which are its inputs, all of one width,
 * or the rows of its only one. n vectors give n(n-1)/2 columns, pairs i < j in row-major order (DLRM).
 *
 * Options: `self`, pairs of a vector and itself too: n(n+1)/2 columns; `pass`, the vectors themselves stand before the products. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/vectors.h"

struct dot_state {
    struct tr_vectors vectors;
    bool self, pass;
    size_t at; /* of the first product in the output */
};

static int dot_build(struct tr_build *build, struct tr_layer *layer)
{
    struct dot_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    struct tr_vectors *vectors = &state->vectors;
    int err = tr_vectors_build(build, layer, 0, layer->n_in, vectors);
    if (!err)
        err = tr_build_flag(build, "self", &state->self);
    if (!err)
        err = tr_build_flag(build, "pass", &state->pass);
    if (!err)
        err = tr_build_scratch(build,
                               tr_dot_scratch(tr_build_samples(build), vectors->n, vectors->dim));
    if (err)
        return err;
    tr_build_flops(build, tr_dot_columns(vectors->n, state->self) * (uint64_t)vectors->dim);
    state->at = state->pass ? (size_t)vectors->n * vectors->dim : 0;
    return tr_build_output(build, layer, state->at + tr_dot_columns(vectors->n, state->self));
}

/* The vectors into the output, or their part of its gradient back. */
static int pass_on(struct tr_layer *layer, struct tr_pass *pass, bool back)
{
    struct dot_state *state = layer->state;
    struct tr_vectors *vectors = &state->vectors;
    int err = 0;
    for (uint32_t i = 0; !err && i < vectors->n; i++) {
        size_t at = (size_t)i * vectors->dim;
        struct tr_copy op = {
            .samples = pass->samples,
            .width = vectors->dim,
            .x = back ? layer->out.grad + at : vectors->x[i],
            .x_stride = back ? layer->out.stride : vectors->stride[i],
            .y = back ? vectors->dx[i] : layer->out.data + at,
            .y_stride = back ? vectors->stride[i] : layer->out.stride,
            .add = back,
        };
        if (op.y)
            err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static int dot_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct dot_state *state = layer->state;
    struct tr_vectors *vectors = &state->vectors;
    tr_vectors_bind(layer, vectors);
    struct tr_dot op = {
        .samples = pass->samples,
        .n = vectors->n,
        .dim = vectors->dim,
        .self = state->self,
        .x = vectors->x,
        .x_stride = vectors->stride,
        .y = layer->out.data + state->at,
        .y_stride = layer->out.stride,
        .scratch = layer->buffer[0],
    };
    int err = pass->backend->ops->dot_forward(pass->backend, &op);
    return err || !state->pass ? err : pass_on(layer, pass, false);
}

static int dot_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct dot_state *state = layer->state;
    struct tr_vectors *vectors = &state->vectors;
    tr_vectors_bind_grad(layer, vectors);
    struct tr_dot_grad op = {
        .samples = pass->samples,
        .n = vectors->n,
        .dim = vectors->dim,
        .self = state->self,
        .x = vectors->x,
        .dy = layer->out.grad + state->at,
        .dy_stride = layer->out.stride,
        .dx = vectors->dx,
        .x_stride = vectors->stride,
        .add = vectors->add,
        .scratch = layer->buffer[0],
    };
    int err = pass->backend->ops->dot_backward(pass->backend, &op);
    return err || !state->pass ? err : pass_on(layer, pass, true);
}

static const char *const options[] = {"self", "pass", NULL};

const struct tr_layer_type tr_layer_dot_interaction = {
    .name = "dot_interaction",
    .options = options,
    .build = dot_build,
    .forward = dot_forward,
    .backward = dot_backward,
};
