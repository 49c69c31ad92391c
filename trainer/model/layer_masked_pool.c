/* trainer/model/layer_masked_pool.c -- `masked_pool`: the places of a sequence that its mask counts, added up or averaged.
 *
 * Inputs: the sequence [samples][length x dim], the mask [samples][length]. Where the mask is all zeros, so is the output. */
#include <string.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"

enum { POOL_MEAN, POOL_SUM };

struct pool_state {
    uint32_t kind;
};

static int masked_pool_build(struct tr_build *build, struct tr_layer *layer)
{
    static const char *const kinds[] = {"mean", "sum"};
    struct pool_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    if (layer->n_in != 2)
        return tr_build_fail(build, "expected two inputs, a sequence and its mask, got %u",
                             layer->n_in);
    const struct tr_value *x = layer->in[0], *mask = layer->in[1];
    if (mask->trainable)
        return tr_build_fail(build, "input '%s': expected a mask, NAME.mask of a sequence",
                             mask->name);
    if (x->width % mask->width)
        return tr_build_fail(build,
                             "input '%s': expected a multiple of the %u places that '%s' has, "
                             "got %s",
                             x->name, mask->width, mask->name, tr_shape(x).text);
    tr_build_flops(build, x->width);
    int err = tr_build_choice(build, "pooling", kinds, 2, &state->kind);
    return err ? err : tr_build_output(build, layer, x->width / mask->width);
}

static int masked_pool_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct pool_state *state = layer->state;
    const struct tr_value *x = layer->in[0], *mask = layer->in[1];
    struct tr_masked_pool op = {
        .samples = pass->samples,
        .rows = mask->width,
        .dim = layer->out.width,
        .mean = state->kind == POOL_MEAN,
        .x = x->data,
        .mask = mask->data,
        .x_stride = x->stride,
        .mask_stride = mask->stride,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
    return pass->backend->loops->masked_pool_forward(pass->backend, &op);
}

static int masked_pool_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct pool_state *state = layer->state;
    struct tr_value *x = layer->in[0];
    const struct tr_value *mask = layer->in[1];
    if (!x->grad)
        return 0;
    struct tr_masked_pool_grad op = {
        .samples = pass->samples,
        .rows = mask->width,
        .dim = layer->out.width,
        .mean = state->kind == POOL_MEAN,
        .mask = mask->data,
        .dy = layer->out.grad,
        .mask_stride = mask->stride,
        .dy_stride = layer->out.stride,
        .dx_stride = x->stride,
        .dx = x->grad,
        .add = tr_value_add(x),
    };
    return pass->backend->loops->masked_pool_backward(pass->backend, &op);
}

static const char *const options[] = {"pooling", NULL};

const struct tr_layer_type tr_layer_masked_pool = {
    .name = "masked_pool",
    .options = options,
    .build = masked_pool_build,
    .forward = masked_pool_forward,
    .backward = masked_pool_backward,
};
