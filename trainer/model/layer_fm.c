/* trainer/model/layer_fm.c -- `fm`: the second-order part of a factorization machine, the sum of the products of all pairs of
 * vectors (its inputs, all of one width, or the rows of its only one): ((sum of x)^2 - sum of x^2) / 2.
 *
 * Option `sum`: true (default), over the dimensions too, width 1 (DeepFM); false, a column for each (neural FM). */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/vectors.h"

struct fm_state {
    struct tr_vectors vectors;
    bool whole;
};

static int fm_build(struct tr_build *build, struct tr_layer *layer)
{
    struct fm_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    state->whole = true;
    int err = tr_vectors_build(build, layer, 0, layer->n_in, &state->vectors);
    if (!err)
        err = tr_build_flag(build, "sum", &state->whole);
    tr_build_flops(build, (uint64_t)state->vectors.n * state->vectors.dim); /* the squares */
    for (int k = 0; !err && k < 2; k++) /* sums, and sums of squares */
        err = tr_build_buffer(build, state->vectors.dim);
    return err ? err : tr_build_output(build, layer, state->whole ? 1 : state->vectors.dim);
}

static int fm_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct fm_state *state = layer->state;
    tr_vectors_bind(layer, &state->vectors);
    struct tr_fm op = {
        .samples = pass->samples,
        .n = state->vectors.n,
        .dim = state->vectors.dim,
        .whole = state->whole,
        .x = state->vectors.x,
        .x_stride = state->vectors.stride,
        .y = layer->out.data,
        .y_stride = layer->out.stride,
        .sum = layer->buffer[0],
        .square = layer->buffer[1],
    };
    return pass->backend->loops->fm_forward(pass->backend, &op);
}

static int fm_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct fm_state *state = layer->state;
    tr_vectors_bind_grad(layer, &state->vectors);
    struct tr_fm_grad op = {
        .samples = pass->samples,
        .n = state->vectors.n,
        .dim = state->vectors.dim,
        .whole = state->whole,
        .x = state->vectors.x,
        .x_stride = state->vectors.stride,
        .dy = layer->out.grad,
        .sum = layer->buffer[0],
        .dy_stride = layer->out.stride,
        .dx = state->vectors.dx,
        .add = state->vectors.add,
    };
    return pass->backend->loops->fm_backward(pass->backend, &op);
}

static const char *const options[] = {"sum", NULL};

const struct tr_layer_type tr_layer_fm = {
    .name = "fm",
    .options = options,
    .build = fm_build,
    .forward = fm_forward,
    .backward = fm_backward,
};
