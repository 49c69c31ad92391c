/* trainer/model/layer_mlp.c -- fully connected layers with relu between them.
 *
 * Options: `sizes`, the output size of each (the input size is known); `last: none|relu`, what
 * follows the last one. Parameters per linear layer l: "<l>.weight" [size][inputs], "<l>.bias", at
 * the start uniform in +-1/sqrt(inputs), as torch.nn.Linear.
 * Buffers: for every linear layer but the last its output and that output's gradient; the last one
 * writes the layer's own output. */
#include <math.h>
#include <stdio.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"

#define MLP_SIZES_MAX 32u /* two parameters and two buffers each */

struct mlp_state {
    uint32_t n;
    uint32_t size[MLP_SIZES_MAX + 1]; /* size[l] inputs, size[l + 1] outputs of linear layer l */
    bool relu[MLP_SIZES_MAX];
};

_Static_assert(2 * MLP_SIZES_MAX <= TR_LAYER_PARAMS_MAX, "weight and bias of each");
_Static_assert(2 * MLP_SIZES_MAX <= TR_LAYER_BUFFERS_MAX, "output and gradient of each");

static int mlp_linear(struct tr_build *build, const struct mlp_state *state, uint32_t l)
{
    uint32_t inputs = state->size[l], outputs = state->size[l + 1];
    double bound = 1 / sqrt(inputs);
    char weight[24], bias[24];
    snprintf(weight, sizeof weight, "%u.weight", l);
    snprintf(bias, sizeof bias, "%u.bias", l);
    int err = tr_build_weight(build, weight, outputs, inputs, bound);
    if (!err)
        err = tr_build_bias(build, bias, outputs, bound);
    if (!err && l + 1 < state->n)
        err = tr_build_buffer(build, tr_stride(outputs));
    if (!err && l + 1 < state->n)
        err = tr_build_buffer(build, tr_stride(outputs));
    return err;
}

static int mlp_build(struct tr_build *build, struct tr_layer *layer)
{
    static const char *const last[] = {"none", "relu"};
    if (layer->n_in != 1)
        return tr_build_fail(build, "expected one tensor as input, got %u: put a concat before it",
                             layer->n_in);
    struct mlp_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    state->size[0] = layer->in[0]->width;
    uint32_t last_relu = 0;
    int err = tr_build_sizes(build, "sizes", MLP_SIZES_MAX, state->size + 1, &state->n);
    if (!err)
        err = tr_build_choice(build, "last", last, 2, &last_relu);
    for (uint32_t l = 0; !err && l < state->n; l++) {
        state->relu[l] = l + 1 < state->n || last_relu;
        err = mlp_linear(build, state, l);
    }
    return err ? err : tr_build_output(build, layer, state->size[state->n]);
}

/* Output of linear layer l, and its gradient; floats between rows of both. */
static float *mlp_data(const struct tr_layer *layer, uint32_t n, uint32_t l)
{
    return l + 1 < n ? layer->buffer[2 * l] : layer->out.data;
}

static float *mlp_grad(const struct tr_layer *layer, uint32_t n, uint32_t l)
{
    return l + 1 < n ? layer->buffer[2 * l + 1] : layer->out.grad;
}

static size_t mlp_stride(const struct tr_layer *layer, const struct mlp_state *state, uint32_t l)
{
    return l + 1 < state->n ? tr_stride(state->size[l + 1]) : layer->out.stride;
}

static int mlp_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct mlp_state *state = layer->state;
    int err = 0;
    for (uint32_t l = 0; !err && l < state->n; l++) {
        struct tr_linear op = {
            .samples = pass->samples,
            .inputs = state->size[l],
            .outputs = state->size[l + 1],
            .x = l ? mlp_data(layer, state->n, l - 1) : layer->in[0]->data,
            .x_stride = l ? mlp_stride(layer, state, l - 1) : layer->in[0]->stride,
            .w = layer->param[2 * l].value,
            .b = layer->param[2 * l + 1].value,
            .y_stride = mlp_stride(layer, state, l),
            .relu = state->relu[l],
            .y = mlp_data(layer, state->n, l),
        };
        err = pass->backend->ops->linear_forward(pass->backend, &op);
    }
    return err;
}

static int mlp_backward_linear(struct tr_layer *layer, struct tr_pass *pass, uint32_t l)
{
    const struct mlp_state *state = layer->state;
    const struct tr_backend_ops *ops = pass->backend->ops;
    float *dy = mlp_grad(layer, state->n, l);
    int err = 0;
    struct tr_relu_grad relu = {
        .samples = pass->samples,
        .columns = state->size[l + 1],
        .y = mlp_data(layer, state->n, l),
        .y_stride = mlp_stride(layer, state, l),
        .dy_stride = mlp_stride(layer, state, l),
        .dy = dy,
    };
    if (state->relu[l])
        err = ops->relu_backward(pass->backend, &relu);
    struct tr_value *in = layer->in[0];
    struct tr_linear_grad op = {
        .samples = pass->samples,
        .inputs = state->size[l],
        .outputs = state->size[l + 1],
        .x = l ? mlp_data(layer, state->n, l - 1) : in->data,
        .x_stride = l ? mlp_stride(layer, state, l - 1) : in->stride,
        .w = layer->param[2 * l].value,
        .dy = dy,
        .dy_stride = mlp_stride(layer, state, l),
        .dw = layer->param[2 * l].grad,
        .db = layer->param[2 * l + 1].grad,
        .add_params = pass->add_params,
        .dx = l ? mlp_grad(layer, state->n, l - 1) : in->grad,
        .dx_stride = l ? mlp_stride(layer, state, l - 1) : in->stride,
        .add_dx = !l && in->grad && tr_value_add(in),
    };
    return err ? err : ops->linear_backward(pass->backend, &op);
}

static int mlp_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct mlp_state *state = layer->state;
    int err = 0;
    for (uint32_t l = state->n; !err && l-- > 0;)
        err = mlp_backward_linear(layer, pass, l);
    return err;
}

static const char *const options[] = {"sizes", "last", NULL};

const struct tr_layer_type tr_layer_mlp = {
    .name = "mlp",
    .options = options,
    .build = mlp_build,
    .forward = mlp_forward,
    .backward = mlp_backward,
};
