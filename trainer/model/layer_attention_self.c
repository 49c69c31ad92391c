/* trainer/model/layer_attention_self.c -- the rows of a sample look at each other, in several heads:
 *
 *     q, k, v = x Wq^T, x Wk^T, x Wv^T, each [rows][size], size / heads columns of which are a head's
 *     y[i] = sum over j of softmax over j (q[i] . k[j] / sqrt(size / heads)) v[j], the heads side by side
 *     y = y Wo^T with `project`, y = y + x Wr^T with `residual`
 *
 * Vaswani et al. 2017, "Attention Is All You Need", section 3.2: `project: true`, torch.nn.MultiheadAttention's order of things.
 * Song et al. 2019, "AutoInt", equations 5 to 8: rows are features; `bias: false, scale: false, residual: true`, then relu.
 * Inputs: x, a sequence or what `reshape` makes rows of; perhaps a mask of its rows. No share is given to a row that is masked,
 * though it has an output of its own; where all are, the heads' output is zero.
 * Options: `heads` (1), `size` (x's columns), `bias` (true; not of Wr), `scale` (true: by the root), `project`, `residual` (false).
 * Parameters: "query.weight", "query.bias", so "key", "value", "output"; "residual.weight".
 *
 * Products are over the rows of all samples at once: x and the output have no gaps between samples. */
#include <math.h>
#include <stdio.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/model.h"

#define ROWS_MAX  1024u
#define HEADS_MAX 64u

/* Linear layers, and their places in the table below. */
enum part { QUERY, KEY, VALUE, OUTPUT, RESIDUAL, PARTS };

struct self_state {
    uint32_t rows, columns, heads, size;
    bool bias, scale, project, residual;
    uint32_t weight[PARTS], bias_at[PARTS]; /* in layer->param */
    uint32_t y[PARTS], dy[PARTS];           /* in layer->buffer; of the output: the heads' */
    uint32_t share, scratch;
};

static bool has(const struct self_state *state, enum part part)
{
    return part == OUTPUT ? state->project : part != RESIDUAL || state->residual;
}

static int read_options(struct tr_build *build, const struct tr_layer *layer,
                        struct self_state *state)
{
    const struct tr_value *x = layer->in[0];
    state->rows = x->rows;
    state->columns = state->size = x->columns;
    state->heads = 1;
    state->bias = state->scale = true;
    int err = tr_build_integer(build, "heads", 1, HEADS_MAX, &state->heads);
    if (!err)
        err = tr_build_integer(build, "size", 1, TR_WIDTH_MAX, &state->size);
    if (!err && state->size % state->heads)
        err = tr_build_fail(build, "size: expected a multiple of %u heads, got %u", state->heads,
                            state->size);
    if (!err)
        err = tr_build_flag(build, "bias", &state->bias);
    if (!err)
        err = tr_build_flag(build, "scale", &state->scale);
    if (!err)
        err = tr_build_flag(build, "project", &state->project);
    return err ? err : tr_build_flag(build, "residual", &state->residual);
}

static int check_inputs(struct tr_build *build, const struct tr_layer *layer)
{
    const struct tr_value *x = layer->in[0];
    if (layer->n_in > 2)
        return tr_build_fail(build, "expected one tensor and perhaps its mask as inputs, got %u",
                             layer->n_in);
    if (x->rows < 2 || x->rows > ROWS_MAX)
        return tr_build_fail(build,
                             "input '%s': expected 2..%u rows, got %s: put a reshape before it",
                             x->name, ROWS_MAX, tr_shape(x).text);
    return layer->n_in == 2 ? tr_build_mask(build, x, layer->in[1]) : 0;
}

static int add_params(struct tr_build *build, struct tr_layer *layer, struct self_state *state)
{
    static const char *const names[] = {"query", "key", "value", "output", "residual"};
    int err = 0;
    for (uint32_t p = 0; !err && p < PARTS; p++) {
        uint32_t inputs = p == OUTPUT ? state->size : state->columns;
        char weight[24], bias[24];
        if (!has(state, p))
            continue;
        snprintf(weight, sizeof weight, "%s.weight", names[p]);
        snprintf(bias, sizeof bias, "%s.bias", names[p]);
        tr_build_flops(build, (uint64_t)state->rows * inputs * state->size);
        state->weight[p] = layer->n_params;
        err = tr_build_weight(build, weight, state->size, inputs, 1 / sqrt(inputs));
        state->bias_at[p] = layer->n_params;
        if (!err && state->bias && p != RESIDUAL)
            err = tr_build_bias(build, bias, state->size, 1 / sqrt(inputs));
    }
    return err;
}

static int add_buffers(struct tr_build *build, struct tr_layer *layer, struct self_state *state)
{
    size_t width = (size_t)state->rows * state->size;
    int err = 0;
    tr_build_flops(build, 2 * (uint64_t)state->rows * width); /* scores, and what they weigh */
    for (uint32_t p = 0; !err && p < PARTS; p++) {
        if (!has(state, p))
            continue;
        state->y[p] = layer->n_buffers;
        err = tr_build_buffer(build, width);
        state->dy[p] = layer->n_buffers;
        if (!err && p != RESIDUAL)
            err = tr_build_buffer(build, width);
    }
    state->share = layer->n_buffers;
    if (!err)
        err = tr_build_buffer(build, (size_t)state->heads * state->rows * state->rows);
    state->scratch = layer->n_buffers;
    return err ? err
               : tr_build_scratch(build, state->rows * ((size_t)state->size / state->heads + 1));
}

static int self_build(struct tr_build *build, struct tr_layer *layer)
{
    struct self_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = check_inputs(build, layer);
    if (!err)
        err = read_options(build, layer, state);
    if (!err)
        err = add_params(build, layer, state);
    if (!err)
        err = tr_build_rows(build, layer, state->rows, state->size);
    layer->in[0]->packed = layer->out.packed = true;
    return err ? err : add_buffers(build, layer, state);
}

/* y of a part, of the rows of all samples: x its input. */
static int linear_forward(const struct tr_layer *layer, struct tr_pass *pass, enum part p,
                          const tr_real *x, tr_real *y)
{
    const struct self_state *state = layer->state;
    uint32_t inputs = p == OUTPUT ? state->size : state->columns;
    struct tr_linear op = {
        .samples = pass->samples * state->rows,
        .inputs = inputs,
        .outputs = state->size,
        .x = x,
        .w = layer->param[state->weight[p]].value,
        .b = state->bias && p != RESIDUAL ? layer->param[state->bias_at[p]].value : NULL,
        .x_stride = inputs,
        .y_stride = state->size,
        .act = TR_ACT_NONE,
        .y = y,
    };
    return pass->backend->ops->linear_forward(pass->backend, &op);
}

static int linear_backward(const struct tr_layer *layer, struct tr_pass *pass, enum part p,
                           const tr_real *x, const tr_real *dy, tr_real *dx, bool add_dx)
{
    const struct self_state *state = layer->state;
    uint32_t inputs = p == OUTPUT ? state->size : state->columns;
    struct tr_linear_grad op = {
        .samples = pass->samples * state->rows,
        .inputs = inputs,
        .outputs = state->size,
        .x = x,
        .w = layer->param[state->weight[p]].value,
        .dy = dy,
        .x_stride = inputs,
        .dy_stride = state->size,
        .dx_stride = inputs,
        .dw = layer->param[state->weight[p]].grad,
        .db = state->bias && p != RESIDUAL ? layer->param[state->bias_at[p]].grad : NULL,
        .add_params = pass->add_params,
        .dx = dx,
        .add_dx = add_dx,
    };
    return pass->backend->ops->linear_backward(pass->backend, &op);
}

/* The heads' output, and its gradient. */
static tr_real *heads_y(const struct tr_layer *layer)
{
    const struct self_state *state = layer->state;
    return state->project ? layer->buffer[state->y[OUTPUT]] : layer->out.data;
}

static tr_real *heads_dy(const struct tr_layer *layer)
{
    const struct self_state *state = layer->state;
    return state->project ? layer->buffer[state->dy[OUTPUT]] : layer->out.grad;
}

static struct tr_attention heads_of(const struct tr_layer *layer, const struct tr_pass *pass)
{
    const struct self_state *state = layer->state;
    const struct tr_value *mask = layer->n_in == 2 ? layer->in[1] : NULL;
    uint32_t dim = state->size / state->heads;
    return (struct tr_attention){
        .samples = pass->samples,
        .rows = state->rows,
        .heads = state->heads,
        .dim = dim,
        .scale = state->scale ? 1 / (tr_real)sqrt(dim) : 1,
        .q = layer->buffer[state->y[QUERY]],
        .k = layer->buffer[state->y[KEY]],
        .v = layer->buffer[state->y[VALUE]],
        .mask = mask ? mask->data : NULL,
        .mask_stride = mask ? mask->stride : 0,
        .share = layer->buffer[state->share],
        .y = heads_y(layer),
        .scratch = layer->buffer[state->scratch],
    };
}

static int add_residual(const struct tr_layer *layer, struct tr_pass *pass)
{
    const struct self_state *state = layer->state;
    struct tr_copy op = {
        .samples = pass->samples,
        .width = layer->out.width,
        .x = layer->buffer[state->y[RESIDUAL]],
        .x_stride = layer->out.width,
        .y = layer->out.data,
        .y_stride = layer->out.width,
        .add = true,
    };
    int err = linear_forward(layer, pass, RESIDUAL, layer->in[0]->data,
                             layer->buffer[state->y[RESIDUAL]]);
    return err ? err : pass->backend->loops->copy(pass->backend, &op);
}

static int self_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct self_state *state = layer->state;
    int err = 0;
    for (uint32_t p = QUERY; !err && p <= VALUE; p++)
        err = linear_forward(layer, pass, p, layer->in[0]->data, layer->buffer[state->y[p]]);
    struct tr_attention heads = heads_of(layer, pass);
    if (!err)
        err = pass->backend->loops->attention_forward(pass->backend, &heads);
    if (!err && state->project)
        err = linear_forward(layer, pass, OUTPUT, heads_y(layer), layer->out.data);
    return err || !state->residual ? err : add_residual(layer, pass);
}

static int self_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct self_state *state = layer->state;
    struct tr_value *x = layer->in[0];
    struct tr_attention_grad heads = {
        .of = heads_of(layer, pass),
        .dy = heads_dy(layer),
        .dq = layer->buffer[state->dy[QUERY]],
        .dk = layer->buffer[state->dy[KEY]],
        .dv = layer->buffer[state->dy[VALUE]],
    };
    int err = 0;
    if (state->residual)
        err = linear_backward(layer, pass, RESIDUAL, x->data, layer->out.grad, x->grad,
                              x->grad && tr_value_add(x));
    if (!err && state->project)
        err = linear_backward(layer, pass, OUTPUT, heads_y(layer), layer->out.grad, heads_dy(layer),
                              false);
    if (!err)
        err = pass->backend->loops->attention_backward(pass->backend, &heads);
    for (uint32_t p = QUERY; !err && p <= VALUE; p++)
        err = linear_backward(layer, pass, p, x->data, layer->buffer[state->dy[p]], x->grad,
                              x->grad && tr_value_add(x));
    return err;
}

static const char *const options[] = {"kind",  "heads",   "size",     "bias",
                                      "scale", "project", "residual", NULL};

const struct tr_layer_type tr_layer_attention_self = {
    .name = "attention self",
    .options = options,
    .build = self_build,
    .forward = self_forward,
    .backward = self_backward,
};
