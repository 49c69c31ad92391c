/* trainer/model/layer_concat.c -- its inputs side by side, in the order written. Those that live in its rows
 * (struct tr_value, home) are there already, and so are their gradients. */
#include "trainer/model/layers.h"

static int concat_build(struct tr_build *build, struct tr_layer *layer)
{
    uint64_t width = 0;
    for (uint32_t i = 0; i < layer->n_in; i++)
        width += layer->in[i]->width;
    return tr_build_output(build, layer, width);
}

/* The same value may stand in several places of one concat: it lives in the first. */
static bool lives_here(const struct tr_layer *layer, const struct tr_value *in, size_t at)
{
    return in->home == &layer->out && in->home_at == at;
}

static int concat_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    size_t at = 0;
    int err = 0;
    for (uint32_t i = 0; !err && i < layer->n_in; at += layer->in[i]->width, i++) {
        const struct tr_value *in = layer->in[i];
        struct tr_copy op = {
            .samples = pass->samples,
            .width = in->width,
            .x = in->data,
            .x_stride = in->stride,
            .y = layer->out.data + at,
            .y_stride = layer->out.stride,
        };
        if (!lives_here(layer, in, at))
            err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static int concat_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    size_t at = 0;
    int err = 0;
    for (uint32_t i = 0; !err && i < layer->n_in; at += layer->in[i]->width, i++) {
        struct tr_value *in = layer->in[i];
        if (!in->grad)
            continue;
        struct tr_copy op = {
            .samples = pass->samples,
            .width = in->width,
            .x = layer->out.grad + at,
            .x_stride = layer->out.stride,
            .y = in->grad,
            .y_stride = in->stride,
            .add = tr_value_add(in),
        };
        if (!lives_here(layer, in, at))
            err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static const char *const options[] = {NULL};

const struct tr_layer_type tr_layer_concat = {
    .name = "concat",
    .options = options,
    .side_by_side = true,
    .build = concat_build,
    .forward = concat_forward,
    .backward = concat_backward,
};
