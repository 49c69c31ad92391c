/* trainer/model/layer_activation.c -- an activation by itself. Option `kind`; a prelu's parameter is "slope", one for each
 * column: where a sample has several rows, its rows are to the loops what samples are. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/moments.h"

struct activation_state {
    enum tr_act_kind kind;
    struct tr_dice_part dice;
};

static int activation_build(struct tr_build *build, struct tr_layer *layer)
{
    struct activation_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    uint32_t n = 0;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_acts(build, "kind", 1, &state->kind, &n);
    if (!err && !n)
        err = tr_build_fail(build, "kind: expected the name of an activation, got nothing");
    if (!err && state->kind == TR_ACT_PRELU)
        err = tr_build_constant(build, "slope", layer->in[0]->columns, 0.25);
    state->dice.norm.rows = layer->in[0]->rows;
    state->dice.norm.columns = layer->in[0]->columns;
    if (!err && state->kind == TR_ACT_DICE)
        err = tr_dice_build(build, layer, &state->dice, "", 1);
    return err ? err : tr_build_rows(build, layer, layer->in[0]->rows, layer->in[0]->columns);
}

static bool by_rows(const struct tr_layer *layer)
{
    const struct activation_state *state = layer->state;

    return state->kind == TR_ACT_PRELU && layer->out.rows > 1;
}

static int forward_rows(const struct tr_layer *layer, struct tr_pass *pass, struct tr_act op)
{
    int err = 0;

    op.samples = layer->out.rows;
    op.columns = layer->out.columns;
    op.x_stride = op.y_stride = layer->out.columns;
    for (uint32_t s = 0; !err && s < pass->samples; s++) {
        op.x = layer->in[0]->data + s * layer->in[0]->stride;
        op.y = layer->out.data + s * layer->out.stride;
        err = pass->backend->loops->act_forward(pass->backend, &op);
    }
    return err;
}

static int backward_rows(const struct tr_layer *layer, struct tr_pass *pass, struct tr_act_grad op)
{
    int err = 0;

    op.samples = layer->out.rows;
    op.columns = layer->out.columns;
    op.stride = op.dy_stride = layer->out.columns;
    for (uint32_t s = 0; !err && s < pass->samples; s++) {
        op.x = layer->in[0]->data + s * layer->in[0]->stride;
        op.y = layer->out.data + s * layer->out.stride;
        op.dy = layer->out.grad + s * layer->out.stride;
        err = pass->backend->loops->act_backward(pass->backend, &op);
        op.add_params = true; /* to what the first sample had */
    }
    return err;
}

static int activation_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct activation_state *state = layer->state;
    struct tr_act op = {
        .samples = pass->samples,
        .columns = layer->out.width,
        .kind = state->kind,
        .x = layer->in[0]->data,
        .slope = layer->n_params ? layer->param[0].value : NULL,
        .x_stride = layer->in[0]->stride,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
    if (state->kind == TR_ACT_DICE)
        return tr_dice_forward(layer, pass, &state->dice, op.x, op.x_stride, op.y, op.y_stride);
    if (by_rows(layer))
        return forward_rows(layer, pass, op);
    return pass->backend->loops->act_forward(pass->backend, &op);
}

static int activation_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct activation_state *state = layer->state;
    struct tr_value *in = layer->in[0];
    struct tr_act_grad op = {
        .samples = pass->samples,
        .columns = layer->out.width,
        .kind = state->kind,
        .x = in->data,
        .y = layer->out.data,
        .slope = layer->n_params ? layer->param[0].value : NULL,
        .stride = tr_act_keeps_x(state->kind) ? in->stride : layer->out.stride,
        .dy_stride = layer->out.stride,
        .dy = layer->out.grad,
        .dslope = layer->n_params ? layer->param[0].grad : NULL,
        .add_params = pass->add_params,
    };
    int err = 0;
    if (state->kind == TR_ACT_DICE)
        err = tr_dice_backward(layer, pass, &state->dice, op.x, op.stride, op.dy, op.dy_stride);
    else
        err = by_rows(layer) ? backward_rows(layer, pass, op)
                             : pass->backend->loops->act_backward(pass->backend, &op);
    if (err || !in->grad)
        return err;
    struct tr_copy down = {
        .samples = pass->samples,
        .width = in->width,
        .x = layer->out.grad,
        .x_stride = layer->out.stride,
        .y = in->grad,
        .y_stride = in->stride,
        .add = tr_value_add(in),
    };
    return pass->backend->loops->copy(pass->backend, &down);
}

static const char *const options[] = {"kind", NULL};

const struct tr_layer_type tr_layer_activation = {
    .name = "activation",
    .options = options,
    .build = activation_build,
    .forward = activation_forward,
    .backward = activation_backward,
};
