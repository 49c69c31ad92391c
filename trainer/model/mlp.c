/* trainer/model/mlp.c -- see mlp.h.
 *
 * Buffers: for every linear layer but the last its output and that output's gradient; the last one writes the layer's own
 * output. Where backward needs what an activation was of (gelu, prelu, dice), one more for that. Dice is no part of the product's operation: it
 * follows when all of z is there. */
#include "trainer/model/mlp.h"

#include <math.h>
#include <stdio.h>

_Static_assert(5 * TR_MLP_MAX <= TR_LAYER_PARAMS_MAX, "weight, bias, and dice's three of each");
_Static_assert(5 * TR_MLP_MAX <= TR_LAYER_BUFFERS_MAX, "output, gradient, z, dice's two of each");

static int add_params(struct tr_build *build, struct tr_layer *layer, struct tr_mlp_linear *linear,
                      const char *prefix)
{
    double bound = 1 / sqrt(linear->inputs);
    char weight[24], bias[24], slope[24];
    snprintf(weight, sizeof weight, "%sweight", prefix);
    snprintf(bias, sizeof bias, "%sbias", prefix);
    snprintf(slope, sizeof slope, "%sslope", prefix);
    linear->w = layer->n_params;
    int err = tr_build_weight(build, weight, linear->outputs, linear->inputs, bound);
    if (!err && linear->b != TR_MLP_NONE) {
        linear->b = layer->n_params;
        err = tr_build_bias(build, bias, linear->outputs, bound);
    }
    linear->slope = TR_MLP_NONE;
    if (!err && linear->act == TR_ACT_PRELU) {
        linear->slope = layer->n_params;
        err = tr_build_constant(build, slope, linear->outputs, 0.25);
    }
    return err;
}

int tr_mlp_add(struct tr_build *build, struct tr_layer *layer, struct tr_mlp *mlp,
               struct tr_mlp_linear linear, const char *prefix, bool last)
{
    size_t floats = tr_stride(linear.outputs) * (mlp->rows ? mlp->rows : 1);
    int err = add_params(build, layer, &linear, prefix);
    linear.y = linear.dy = linear.z = TR_MLP_NONE;
    linear.dice.norm = (struct tr_norm){.rows = 1, .columns = linear.outputs};
    tr_build_flops(build, (uint64_t)linear.inputs * linear.outputs * (mlp->rows ? mlp->rows : 1));
    if (!err && !last) {
        linear.y = layer->n_buffers;
        err = tr_build_buffer(build, floats);
    }
    if (!err && !last) {
        linear.dy = layer->n_buffers;
        err = tr_build_buffer(build, floats);
    }
    if (!err && tr_act_keeps_x(linear.act)) {
        linear.z = layer->n_buffers;
        err = tr_build_buffer(build, floats);
    }
    if (!err && linear.act == TR_ACT_DICE)
        err = tr_dice_build(build, layer, &linear.dice, prefix, mlp->rows ? mlp->rows : 1);
    mlp->linear[mlp->n++] = linear;
    return err;
}

static tr_real *value_at(const struct tr_layer *layer, uint32_t k)
{
    return k == TR_MLP_NONE ? NULL : layer->param[k].value;
}

static tr_real *grad_at(const struct tr_layer *layer, uint32_t k)
{
    return k == TR_MLP_NONE ? NULL : layer->param[k].grad;
}

/* Output of a linear layer, and its gradient; elements between rows of both. */
static tr_real *y_of(const struct tr_layer *layer, const struct tr_mlp_linear *linear)
{
    return linear->y == TR_MLP_NONE ? layer->out.data : layer->buffer[linear->y];
}

static tr_real *dy_of(const struct tr_layer *layer, const struct tr_mlp_linear *linear)
{
    return linear->dy == TR_MLP_NONE ? layer->out.grad : layer->buffer[linear->dy];
}

static tr_real *z_of(const struct tr_layer *layer, const struct tr_mlp_linear *linear)
{
    return linear->z == TR_MLP_NONE ? NULL : layer->buffer[linear->z];
}

static size_t stride_of(const struct tr_layer *layer, const struct tr_mlp_linear *linear)
{
    return linear->y == TR_MLP_NONE ? layer->out.stride : tr_stride(linear->outputs);
}

/* Does nothing but its neighbours read its output? (backend.h: hidden) */
static bool is_hidden(const struct tr_mlp_linear *linear)
{
    return linear->y != TR_MLP_NONE && linear->z == TR_MLP_NONE;
}

/* The product by itself, and what it is put through. */
static int dice_forward(struct tr_layer *layer, struct tr_pass *pass,
                        const struct tr_mlp_linear *linear, struct tr_linear op)
{
    tr_real *y = op.y;
    size_t y_stride = op.y_stride;
    op.act = TR_ACT_NONE;
    op.y = op.z;
    op.y_stride = op.z_stride;
    op.z = NULL;
    int err = pass->backend->ops->linear_forward(pass->backend, &op);
    return err ? err : tr_dice_forward(layer, pass, &linear->dice, op.y, op.y_stride, y, y_stride);
}

int tr_mlp_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_mlp *mlp = layer->state;
    int err = 0;
    for (uint32_t l = 0; !err && l < mlp->n; l++) {
        const struct tr_mlp_linear *linear = &mlp->linear[l];
        struct tr_linear op = {
            .samples = pass->samples,
            .inputs = linear->inputs,
            .outputs = linear->outputs,
            .x = l ? y_of(layer, linear - 1) : layer->in[0]->data,
            .x_stride = l ? stride_of(layer, linear - 1) : layer->in[0]->stride,
            .w = value_at(layer, linear->w),
            .b = value_at(layer, linear->b),
            .y_stride = stride_of(layer, linear),
            .z_stride = tr_stride(linear->outputs),
            .act = linear->act,
            .slope = value_at(layer, linear->slope),
            .z = z_of(layer, linear),
            .y = y_of(layer, linear),
            .x_hidden = l && is_hidden(linear - 1),
            .y_hidden = is_hidden(linear),
        };
        if (linear->act == TR_ACT_DICE)
            err = dice_forward(layer, pass, linear, op);
        else
            err = pass->backend->ops->linear_forward(pass->backend, &op);
    }
    return err;
}

static int act_backward(struct tr_layer *layer, struct tr_pass *pass,
                        const struct tr_mlp_linear *linear)
{
    struct tr_act_grad op = {
        .samples = pass->samples,
        .columns = linear->outputs,
        .kind = linear->act,
        .x = z_of(layer, linear),
        .y = y_of(layer, linear),
        .slope = value_at(layer, linear->slope),
        .stride =
            tr_act_keeps_x(linear->act) ? tr_stride(linear->outputs) : stride_of(layer, linear),
        .dy_stride = stride_of(layer, linear),
        .dy = dy_of(layer, linear),
        .dslope = grad_at(layer, linear->slope),
        .add_params = pass->add_params,
        .hidden = is_hidden(linear),
    };
    if (linear->act == TR_ACT_NONE)
        return 0;
    if (linear->act == TR_ACT_DICE)
        return tr_dice_backward(layer, pass, &linear->dice, op.x, op.stride, op.dy, op.dy_stride);
    return pass->backend->loops->act_backward(pass->backend, &op);
}

static int linear_backward(struct tr_layer *layer, struct tr_pass *pass, uint32_t l)
{
    const struct tr_mlp *mlp = layer->state;
    const struct tr_mlp_linear *linear = &mlp->linear[l];
    struct tr_value *in = layer->in[0];
    struct tr_linear_grad op = {
        .samples = pass->samples,
        .inputs = linear->inputs,
        .outputs = linear->outputs,
        .x = l ? y_of(layer, linear - 1) : in->data,
        .x_stride = l ? stride_of(layer, linear - 1) : in->stride,
        .w = value_at(layer, linear->w),
        .dy = dy_of(layer, linear),
        .dy_stride = stride_of(layer, linear),
        .dw = grad_at(layer, linear->w),
        .db = grad_at(layer, linear->b),
        .add_params = pass->add_params,
        .dx = l ? dy_of(layer, linear - 1) : in->grad,
        .dx_stride = l ? stride_of(layer, linear - 1) : in->stride,
        .add_dx = !l && in->grad && tr_value_add(in),
        .x_hidden = l && is_hidden(linear - 1),
        .dy_hidden = is_hidden(linear),
        .dx_hidden = l && is_hidden(linear - 1),
    };
    return pass->backend->ops->linear_backward(pass->backend, &op);
}

int tr_mlp_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_mlp *mlp = layer->state;
    int err = 0;
    for (uint32_t l = mlp->n; !err && l-- > 0;) {
        err = act_backward(layer, pass, &mlp->linear[l]);
        if (!err)
            err = linear_backward(layer, pass, l);
        if (!err)
            tr_pass_settled(pass, layer, mlp->linear[l].w);
    }
    return err;
}
