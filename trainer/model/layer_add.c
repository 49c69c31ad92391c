/* trainer/model/layer_add.c -- its inputs, all of one shape, added up. */
#include "trainer/model/layers.h"

static int add_build(struct tr_build *build, struct tr_layer *layer)
{
    int err = tr_build_same_shape(build, layer);
    return err ? err : tr_build_rows(build, layer, layer->in[0]->rows, layer->in[0]->columns);
}

static int add_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    int err = 0;
    for (uint32_t i = 0; !err && i < layer->n_in; i++) {
        struct tr_copy op = {
            .samples = pass->samples,
            .width = layer->out.width,
            .x = layer->in[i]->data,
            .x_stride = layer->in[i]->stride,
            .y = layer->out.data,
            .y_stride = layer->out.stride,
            .add = i > 0,
        };
        err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static int add_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    int err = 0;
    for (uint32_t i = 0; !err && i < layer->n_in; i++) {
        struct tr_value *in = layer->in[i];
        if (!in->grad)
            continue;
        struct tr_copy op = {
            .samples = pass->samples,
            .width = layer->out.width,
            .x = layer->out.grad,
            .x_stride = layer->out.stride,
            .y = in->grad,
            .y_stride = in->stride,
            .add = tr_value_add(in),
        };
        err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static const char *const options[] = {NULL};

const struct tr_layer_type tr_layer_add = {
    .name = "add",
    .options = options,
    .build = add_build,
    .forward = add_forward,
    .backward = add_backward,
};
