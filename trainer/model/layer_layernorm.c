/* trainer/model/layer_layernorm.c -- the columns of each row brought to mean 0 and variance 1, times a weight, plus a bias: as
 * torch.nn.LayerNorm over the last dimension. Option `eps` (1e-5). Parameters "weight", at the start 1, "bias", 0. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"

struct layernorm_state {
    double eps;
};

static int layernorm_build(struct tr_build *build, struct tr_layer *layer)
{
    struct layernorm_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    state->eps = 1e-5;
    const struct tr_value *in = layer->in[0];
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_real(build, "eps", 1e-12, 1, &state->eps);
    if (!err)
        err = tr_build_constant(build, "weight", in->columns, 1);
    if (!err)
        err = tr_build_constant(build, "bias", in->columns, 0);
    if (!err)
        err = tr_build_buffer(build, 2 * (size_t)in->rows);
    return err ? err : tr_build_rows(build, layer, in->rows, in->columns);
}

static int layernorm_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct layernorm_state *state = layer->state;
    const struct tr_value *in = layer->in[0];
    struct tr_layernorm op = {
        .samples = pass->samples,
        .rows = in->rows,
        .columns = in->columns,
        .eps = state->eps,
        .x = in->data,
        .w = layer->param[0].value,
        .b = layer->param[1].value,
        .x_stride = in->stride,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
        .stat = layer->buffer[0],
    };
    return pass->backend->loops->layernorm_forward(pass->backend, &op);
}

static int layernorm_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_value *in = layer->in[0];
    struct tr_layernorm_grad op = {
        .samples = pass->samples,
        .rows = in->rows,
        .columns = in->columns,
        .x = in->data,
        .w = layer->param[0].value,
        .dy = layer->out.grad,
        .stat = layer->buffer[0],
        .x_stride = in->stride,
        .dy_stride = layer->out.stride,
        .dx_stride = in->stride,
        .dw = layer->param[0].grad,
        .db = layer->param[1].grad,
        .add_params = pass->add_params,
        .dx = in->grad,
        .add = in->grad && tr_value_add(in),
    };
    return pass->backend->loops->layernorm_backward(pass->backend, &op);
}

static const char *const options[] = {"eps", NULL};

const struct tr_layer_type tr_layer_layernorm = {
    .name = "layernorm",
    .options = options,
    .build = layernorm_build,
    .forward = layernorm_forward,
    .backward = layernorm_backward,
};
