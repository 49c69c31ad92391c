/* trainer/model/layer_reduce.c -- `sum` and `mean` of one tensor. Option `over`: `columns` (default), of each row, which
 * gives one column; or `rows`, which gives one row. Places of a sequence that are not there are zeros and count: masked_pool
 * knows better. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"

struct reduce_state {
    uint32_t over_rows;
    tr_real scale;
};

static int reduce_build(struct tr_build *build, struct tr_layer *layer, bool mean)
{
    static const char *const over[] = {"columns", "rows"};
    struct reduce_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_choice(build, "over", over, 2, &state->over_rows);
    if (err)
        return err;
    const struct tr_value *in = layer->in[0];
    uint32_t n = state->over_rows ? in->rows : in->columns;
    state->scale = mean ? 1 / (tr_real)n : 1;
    return state->over_rows ? tr_build_output(build, layer, in->columns)
                            : tr_build_rows(build, layer, in->rows, 1);
}

static int sum_build(struct tr_build *build, struct tr_layer *layer)
{
    return reduce_build(build, layer, false);
}

static int mean_build(struct tr_build *build, struct tr_layer *layer)
{
    return reduce_build(build, layer, true);
}

static int reduce_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct reduce_state *state = layer->state;
    struct tr_reduce op = {
        .samples = pass->samples,
        .rows = layer->in[0]->rows,
        .columns = layer->in[0]->columns,
        .over_rows = state->over_rows,
        .scale = state->scale,
        .x = layer->in[0]->data,
        .x_stride = layer->in[0]->stride,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
    return pass->backend->loops->reduce_forward(pass->backend, &op);
}

static int reduce_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct reduce_state *state = layer->state;
    struct tr_value *in = layer->in[0];
    if (!in->grad)
        return 0;
    struct tr_reduce_grad op = {
        .samples = pass->samples,
        .rows = in->rows,
        .columns = in->columns,
        .over_rows = state->over_rows,
        .scale = state->scale,
        .dy = layer->out.grad,
        .dy_stride = layer->out.stride,
        .dx_stride = in->stride,
        .dx = in->grad,
        .add = tr_value_add(in),
    };
    return pass->backend->loops->reduce_backward(pass->backend, &op);
}

static const char *const options[] = {"over", NULL};

const struct tr_layer_type tr_layer_sum = {
    .name = "sum",
    .options = options,
    .build = sum_build,
    .forward = reduce_forward,
    .backward = reduce_backward,
};

const struct tr_layer_type tr_layer_mean = {
    .name = "mean",
    .options = options,
    .build = mean_build,
    .forward = reduce_forward,
    .backward = reduce_backward,
};
