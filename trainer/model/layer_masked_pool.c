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

/* What each place of a sample counts for, besides the mask. */
static tr_real scale_of(const struct pool_state *state, const tr_real *mask, uint32_t length)
{
    tr_real sum = 0;
    if (state->kind == POOL_SUM)
        return 1;
    for (uint32_t i = 0; i < length; i++)
        sum += mask[i];
    return sum > 0 ? 1 / sum : 0;
}

static int masked_pool_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *x = layer->in[0], *mask = layer->in[1];
    uint32_t dim = layer->out.width, length = mask->width;
    for (uint32_t s = 0; s < pass->samples; s++) {
        const tr_real *m = mask->data + s * mask->stride, *row = x->data + s * x->stride;
        tr_real *out = layer->out.data + s * layer->out.stride;
        tr_real scale = scale_of(layer->state, m, length);
        memset(out, 0, dim * sizeof *out);
        for (uint32_t i = 0; i < length; i++, row += dim)
            for (uint32_t j = 0; m[i] != 0 && j < dim; j++)
                out[j] += m[i] * row[j];
        for (uint32_t j = 0; j < dim; j++)
            out[j] *= scale;
    }
    return 0;
}

static int masked_pool_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_value *x = layer->in[0];
    const struct tr_value *mask = layer->in[1];
    uint32_t dim = layer->out.width, length = mask->width;
    if (!x->grad)
        return 0;
    bool add = tr_value_add(x);
    for (uint32_t s = 0; s < pass->samples; s++) {
        const tr_real *m = mask->data + s * mask->stride;
        const tr_real *from = layer->out.grad + s * layer->out.stride;
        tr_real *to = x->grad + s * x->stride, scale = scale_of(layer->state, m, length);
        for (uint32_t i = 0; i < length; i++, to += dim)
            for (uint32_t j = 0; j < dim; j++)
                to[j] = (add ? to[j] : 0) + scale * m[i] * from[j];
    }
    return 0;
}

static const char *const options[] = {"pooling", NULL};

const struct tr_layer_type tr_layer_masked_pool = {
    .name = "masked_pool",
    .options = options,
    .build = masked_pool_build,
    .forward = masked_pool_forward,
    .backward = masked_pool_backward,
};
