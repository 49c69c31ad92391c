/* trainer/model/layer_cross.c -- `cross`, the layers of DCN-v2 (Wang et al., 2021): x' = x0 * (W x + b) + x, * element by element and
 * x0 the input of the first; with a rank, W = U V (low-rank).
 *
 * Options: `layers` (1); `rank`: of W, without it W is whole. Parameters of layer l: "<l>.weight" [width][width], or "<l>.v"
 * [rank][width] and "<l>.u" [width][rank]; "<l>.bias". At the start weights are Xavier-uniform, biases 0.
 * Backward: out.grad becomes, layer by layer, the gradient of x; what x0 gets on the way goes to the input at once. */
#include <math.h>
#include <stdio.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/model.h"

#define CROSS_LAYERS_MAX 16u

struct cross_state {
    uint32_t n, rank, width;
    size_t stride, rank_stride; /* of buffers */
    struct {
        uint32_t w, v, b;     /* parameters; w is U where there is a V */
        uint32_t z, inner, y; /* buffers: W x + b, V x, x'; y of the last is the layer's output */
    } at[CROSS_LAYERS_MAX];
    uint32_t dz, dinner; /* buffers */
};

_Static_assert(3 * CROSS_LAYERS_MAX <= TR_LAYER_PARAMS_MAX, "u, v and bias of each");
_Static_assert(3 * CROSS_LAYERS_MAX + 2 <= TR_LAYER_BUFFERS_MAX, "z, inner and y of each");

static int add_weight(struct tr_build *build, struct tr_layer *layer, uint32_t l, const char *role,
                      uint32_t outputs, uint32_t inputs, uint32_t *at)
{
    char name[24];
    snprintf(name, sizeof name, "%u.%s", l, role);
    *at = layer->n_params;
    return tr_build_weight(build, name, outputs, inputs, sqrt(6.0 / ((double)inputs + outputs)));
}

static int add_buffer(struct tr_build *build, struct tr_layer *layer, size_t stride, uint32_t *at)
{
    *at = layer->n_buffers;
    return tr_build_buffer(build, stride);
}

static int add_layer(struct tr_build *build, struct tr_layer *layer, struct cross_state *state,
                     uint32_t l)
{
    uint32_t width = state->width, rank = state->rank;
    tr_build_flops(build, rank ? 2 * (uint64_t)width * rank : (uint64_t)width * width);
    tr_build_flops(build, width); /* x0 * z + x */
    char bias[24];
    snprintf(bias, sizeof bias, "%u.bias", l);
    int err = rank ? add_weight(build, layer, l, "v", rank, width, &state->at[l].v) : 0;
    if (!err)
        err = add_weight(build, layer, l, rank ? "u" : "weight", width, rank ? rank : width,
                         &state->at[l].w);
    state->at[l].b = layer->n_params;
    if (!err)
        err = tr_build_constant(build, bias, width, 0);
    if (!err)
        err = add_buffer(build, layer, state->stride, &state->at[l].z);
    if (!err && rank)
        err = add_buffer(build, layer, state->rank_stride, &state->at[l].inner);
    if (!err && l + 1 < state->n)
        err = add_buffer(build, layer, state->stride, &state->at[l].y);
    return err;
}

static int cross_build(struct tr_build *build, struct tr_layer *layer)
{
    struct cross_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    state->n = 1;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_integer(build, "layers", 1, CROSS_LAYERS_MAX, &state->n);
    if (!err)
        err = tr_build_integer(build, "rank", 1, TR_WIDTH_MAX, &state->rank);
    state->width = layer->in[0]->width;
    state->stride = tr_stride(state->width);
    state->rank_stride = tr_stride(state->rank);
    for (uint32_t l = 0; !err && l < state->n; l++)
        err = add_layer(build, layer, state, l);
    if (!err)
        err = add_buffer(build, layer, state->stride, &state->dz);
    if (!err && state->rank)
        err = add_buffer(build, layer, state->rank_stride, &state->dinner);
    return err ? err : tr_build_output(build, layer, state->width);
}

/* The input of layer l, and its stride. */
static const tr_real *x_of(const struct tr_layer *layer, uint32_t l, size_t *stride)
{
    const struct cross_state *state = layer->state;
    *stride = l ? state->stride : layer->in[0]->stride;
    return l ? layer->buffer[state->at[l - 1].y] : layer->in[0]->data;
}

/* z = W x + b, in one product or in two. */
static int linear_forward(struct tr_layer *layer, struct tr_pass *pass, uint32_t l)
{
    const struct cross_state *state = layer->state;
    struct tr_linear inner = {
        .samples = pass->samples,
        .inputs = state->width,
        .outputs = state->rank,
        .y_stride = state->rank_stride,
        .y_hidden = true,
    };
    struct tr_linear op = {
        .samples = pass->samples,
        .inputs = state->width,
        .outputs = state->width,
        .w = layer->param[state->at[l].w].value,
        .b = layer->param[state->at[l].b].value,
        .y_stride = state->stride,
        .y = layer->buffer[state->at[l].z],
    };
    op.x = x_of(layer, l, &op.x_stride);
    if (!state->rank)
        return pass->backend->ops->linear_forward(pass->backend, &op);
    inner.x = op.x;
    inner.x_stride = op.x_stride;
    inner.w = layer->param[state->at[l].v].value;
    inner.y = layer->buffer[state->at[l].inner];
    op.inputs = state->rank;
    op.x = inner.y;
    op.x_stride = state->rank_stride;
    op.x_hidden = true;
    int err = pass->backend->ops->linear_forward(pass->backend, &inner);
    return err ? err : pass->backend->ops->linear_forward(pass->backend, &op);
}

static int cross_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct cross_state *state = layer->state;
    const struct tr_value *in = layer->in[0];
    int err = 0;
    for (uint32_t l = 0; !err && l < state->n; l++) {
        bool last = l + 1 == state->n;
        struct tr_cross op = {
            .samples = pass->samples,
            .width = state->width,
            .x0 = in->data,
            .z = layer->buffer[state->at[l].z],
            .x0_stride = in->stride,
            .z_stride = state->stride,
            .y_stride = last ? layer->out.stride : state->stride,
            .y = last ? layer->out.data : layer->buffer[state->at[l].y],
        };
        op.x = x_of(layer, l, &op.x_stride);
        err = linear_forward(layer, pass, l);
        if (!err)
            err = pass->backend->loops->cross_forward(pass->backend, &op);
    }
    return err;
}

/* dz -> gradients of W and b; out.grad += W^T dz unless nobody wants it. */
static int linear_backward(struct tr_layer *layer, struct tr_pass *pass, uint32_t l, bool want_dx)
{
    const struct cross_state *state = layer->state;
    struct tr_linear_grad op = {
        .samples = pass->samples,
        .inputs = state->width,
        .outputs = state->width,
        .w = layer->param[state->at[l].w].value,
        .dy = layer->buffer[state->dz],
        .dy_stride = state->stride,
        .dw = layer->param[state->at[l].w].grad,
        .db = layer->param[state->at[l].b].grad,
        .add_params = pass->add_params,
        .dx = want_dx ? layer->out.grad : NULL,
        .dx_stride = layer->out.stride,
        .add_dx = true,
    };
    op.x = x_of(layer, l, &op.x_stride);
    if (!state->rank)
        return pass->backend->ops->linear_backward(pass->backend, &op);
    struct tr_linear_grad inner = op;
    inner.outputs = state->rank;
    inner.w = layer->param[state->at[l].v].value;
    inner.dy = layer->buffer[state->dinner];
    inner.dy_stride = state->rank_stride;
    inner.dw = layer->param[state->at[l].v].grad;
    inner.db = NULL;
    inner.dy_hidden = op.x_hidden = op.dx_hidden = true;
    op.inputs = state->rank;
    op.x = layer->buffer[state->at[l].inner];
    op.x_stride = state->rank_stride;
    op.dx = layer->buffer[state->dinner];
    op.dx_stride = state->rank_stride;
    op.add_dx = false;
    int err = pass->backend->ops->linear_backward(pass->backend, &op);
    return err ? err : pass->backend->ops->linear_backward(pass->backend, &inner);
}

static int cross_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct cross_state *state = layer->state;
    struct tr_value *in = layer->in[0];
    int err = 0;
    for (uint32_t l = state->n; !err && l-- > 0;) {
        struct tr_cross_grad op = {
            .samples = pass->samples,
            .width = state->width,
            .x0 = in->data,
            .z = layer->buffer[state->at[l].z],
            .dy = layer->out.grad,
            .x0_stride = in->stride,
            .z_stride = state->stride,
            .dy_stride = layer->out.stride,
            .dz = layer->buffer[state->dz],
            .dx0 = in->grad,
            .add = in->grad && tr_value_add(in),
        };
        err = pass->backend->loops->cross_backward(pass->backend, &op);
        if (!err)
            err = linear_backward(layer, pass, l, l > 0 || in->grad);
    }
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

static const char *const options[] = {"layers", "rank", NULL};

const struct tr_layer_type tr_layer_cross = {
    .name = "cross",
    .options = options,
    .build = cross_build,
    .forward = cross_forward,
    .backward = cross_backward,
};
