/* trainer/model/layer_cross_v1.c -- the cross layers of the first DCN (Wang et al., 2017): x' = x0 (w . x) + b + x, x0 being the input
 * of the first.
 *
 * Option `layers` (1). Parameters of layer l: "<l>.weight" [1][width], Xavier-uniform at the start, "<l>.bias", 0.
 * Backward: out.grad becomes, layer by layer, the gradient of x; what x0 gets on the way goes to the input at once. */
#include <math.h>
#include <stdio.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/model.h"

#define CROSS_LAYERS_MAX 16u

/* Parameters 2l and 2l + 1. Buffers: dz, then of layer l w . x in 1 + 2l, and x' in 2 + 2l but of the last. */
struct cross_state {
    uint32_t n, width;
    size_t stride; /* of x' */
};

static int add_layer(struct tr_build *build, const struct cross_state *state, uint32_t l)
{
    char weight[24], bias[24];
    tr_build_flops(build, 2 * (uint64_t)state->width);
    snprintf(weight, sizeof weight, "%u.weight", l);
    snprintf(bias, sizeof bias, "%u.bias", l);
    int err = tr_build_weight(build, weight, 1, state->width, sqrt(6.0 / (state->width + 1.0)));
    if (!err)
        err = tr_build_constant(build, bias, state->width, 0);
    if (!err)
        err = tr_build_buffer(build, 1);
    if (!err && l + 1 < state->n)
        err = tr_build_buffer(build, state->stride);
    return err;
}

static int cross_build(struct tr_build *build, struct tr_layer *layer)
{
    struct cross_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    state->n = 1;
    state->width = layer->in[0]->width;
    state->stride = tr_stride(state->width);
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_integer(build, "layers", 1, CROSS_LAYERS_MAX, &state->n);
    if (!err)
        err = tr_build_buffer(build, 1);
    for (uint32_t l = 0; !err && l < state->n; l++)
        err = add_layer(build, state, l);
    return err ? err : tr_build_output(build, layer, state->width);
}

static const tr_real *x_of(const struct tr_layer *layer, uint32_t l, size_t *stride)
{
    const struct cross_state *state = layer->state;
    *stride = l ? state->stride : layer->in[0]->stride;
    return l ? layer->buffer[2 * l] : layer->in[0]->data;
}

static int cross_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct cross_state *state = layer->state;
    const struct tr_value *in = layer->in[0];
    int err = 0;
    for (uint32_t l = 0; !err && l < state->n; l++) {
        bool last = l + 1 == state->n;
        struct tr_linear product = {
            .samples = pass->samples,
            .inputs = state->width,
            .outputs = 1,
            .w = layer->param[2 * l].value,
            .y_stride = 1,
            .y = layer->buffer[1 + 2 * l],
        };
        product.x = x_of(layer, l, &product.x_stride);
        struct tr_cross op = {
            .samples = pass->samples,
            .width = state->width,
            .one = true,
            .x0 = in->data,
            .x = product.x,
            .z = product.y,
            .b = layer->param[2 * l + 1].value,
            .x0_stride = in->stride,
            .x_stride = product.x_stride,
            .z_stride = 1,
            .y_stride = last ? layer->out.stride : state->stride,
            .y = last ? layer->out.data : layer->buffer[2 + 2 * l],
        };
        err = pass->backend->ops->linear_forward(pass->backend, &product);
        if (!err)
            err = pass->backend->loops->cross_forward(pass->backend, &op);
    }
    return err;
}

static int backward_one(struct tr_layer *layer, struct tr_pass *pass, uint32_t l)
{
    const struct cross_state *state = layer->state;
    struct tr_value *in = layer->in[0];
    struct tr_cross_grad op = {
        .samples = pass->samples,
        .width = state->width,
        .one = true,
        .x0 = in->data,
        .z = layer->buffer[1 + 2 * l],
        .dy = layer->out.grad,
        .x0_stride = in->stride,
        .z_stride = 1,
        .dy_stride = layer->out.stride,
        .dz = layer->buffer[0],
        .dx0 = in->grad,
        .add = in->grad && tr_value_add(in),
        .db = layer->param[2 * l + 1].grad,
        .add_params = pass->add_params,
    };
    struct tr_linear_grad product = {
        .samples = pass->samples,
        .inputs = state->width,
        .outputs = 1,
        .w = layer->param[2 * l].value,
        .dy = layer->buffer[0],
        .dy_stride = 1,
        .dw = layer->param[2 * l].grad,
        .add_params = pass->add_params,
        .dx = l || in->grad ? layer->out.grad : NULL,
        .dx_stride = layer->out.stride,
        .add_dx = true,
    };
    product.x = x_of(layer, l, &product.x_stride);
    int err = pass->backend->loops->cross_backward(pass->backend, &op);
    return err ? err : pass->backend->ops->linear_backward(pass->backend, &product);
}

static int cross_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct cross_state *state = layer->state;
    struct tr_value *in = layer->in[0];
    int err = 0;
    for (uint32_t l = state->n; !err && l-- > 0;)
        err = backward_one(layer, pass, l);
    struct tr_copy down = {
        .samples = pass->samples,
        .width = state->width,
        .x = layer->out.grad,
        .x_stride = layer->out.stride,
        .y = in->grad,
        .y_stride = in->stride,
        .add = true,
    };
    return err || !in->grad ? err : pass->backend->loops->copy(pass->backend, &down);
}

static const char *const options[] = {"layers", NULL};

const struct tr_layer_type tr_layer_cross_v1 = {
    .name = "cross_v1",
    .options = options,
    .build = cross_build,
    .forward = cross_forward,
    .backward = cross_backward,
};
