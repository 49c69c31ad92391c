/* trainer/model/layer_mul.c -- its inputs multiplied, element by element. All have one shape, [rows][columns], but those that
 * have one column, [rows][1]: it goes for all columns of its row. A gate is such a product, and so is a weight for each place
 * of a sequence. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"

#define MUL_INPUTS_MAX 64u

struct mul_state {
    uint32_t rows, columns;
    const tr_real *x[MUL_INPUTS_MAX];
    tr_real *dx[MUL_INPUTS_MAX];
    size_t stride[MUL_INPUTS_MAX];
    bool spread[MUL_INPUTS_MAX], add[MUL_INPUTS_MAX];
};

static int mul_check(struct tr_build *build, const struct tr_layer *layer, struct mul_state *state)
{
    const struct tr_value *widest = layer->in[0];
    if (layer->n_in < 2 || layer->n_in > MUL_INPUTS_MAX)
        return tr_build_fail(build, "expected 2..%u tensors as inputs, got %u", MUL_INPUTS_MAX,
                             layer->n_in);
    for (uint32_t i = 1; i < layer->n_in; i++)
        if (widest->columns < layer->in[i]->columns)
            widest = layer->in[i];
    state->rows = widest->rows;
    state->columns = widest->columns;
    for (uint32_t i = 0; i < layer->n_in; i++) {
        const struct tr_value *in = layer->in[i];
        state->spread[i] = in->columns == 1 && widest->columns > 1;
        if (in->rows != widest->rows || (in->columns != widest->columns && !state->spread[i]))
            return tr_build_fail(
                build,
                "input '%s': expected %s as '%s' has, or a column for each of its rows, got %s",
                in->name, tr_shape(widest).text, widest->name, tr_shape(in).text);
    }
    return 0;
}

static int mul_build(struct tr_build *build, struct tr_layer *layer)
{
    struct mul_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = mul_check(build, layer, state);
    if (!err)
        err = tr_build_rows(build, layer, state->rows, state->columns);
    return err ? err : tr_build_scratch(build, layer->out.width);
}

static struct tr_mul operation(struct tr_layer *layer, struct tr_pass *pass)
{
    struct mul_state *state = layer->state;
    for (uint32_t i = 0; i < layer->n_in; i++) {
        state->x[i] = layer->in[i]->data;
        state->stride[i] = layer->in[i]->stride;
    }
    return (struct tr_mul){
        .samples = pass->samples,
        .rows = state->rows,
        .columns = state->columns,
        .n = layer->n_in,
        .x = state->x,
        .x_stride = state->stride,
        .spread = state->spread,
        .y = layer->out.data,
        .y_stride = layer->out.stride,
    };
}

static int mul_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_mul op = operation(layer, pass);
    return pass->backend->loops->mul_forward(pass->backend, &op);
}

static int mul_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct mul_state *state = layer->state;
    for (uint32_t i = 0; i < layer->n_in; i++) {
        state->dx[i] = layer->in[i]->grad;
        state->add[i] = state->dx[i] && tr_value_add(layer->in[i]);
    }
    struct tr_mul_grad op = {
        .of = operation(layer, pass),
        .dy = layer->out.grad,
        .dy_stride = layer->out.stride,
        .dx = state->dx,
        .add = state->add,
        .scratch = layer->buffer[0],
    };
    return pass->backend->loops->mul_backward(pass->backend, &op);
}

static const char *const options[] = {NULL};

const struct tr_layer_type tr_layer_mul = {
    .name = "mul",
    .options = options,
    .build = mul_build,
    .forward = mul_forward,
    .backward = mul_backward,
};
