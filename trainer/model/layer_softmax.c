/* trainer/model/layer_softmax.c -- softmax over the columns of each row. A second input is a mask of 0 and 1, one row for all or
 * as many as there are: where it is 0 nothing is given, and nothing at all where it is 0 everywhere. */
#include "trainer/model/layers.h"

static int softmax_build(struct tr_build *build, struct tr_layer *layer)
{
    const struct tr_value *x = layer->in[0], *mask = layer->n_in == 2 ? layer->in[1] : NULL;
    if (layer->n_in > 2)
        return tr_build_fail(build, "expected one tensor and perhaps its mask as inputs, got %u",
                             layer->n_in);
    if (mask && mask->trainable)
        return tr_build_fail(build, "input '%s': expected a mask, NAME.mask of a sequence",
                             mask->name);
    if (mask && (mask->columns != x->columns || (mask->rows != 1 && mask->rows != x->rows)))
        return tr_build_fail(build, "input '%s': expected the %u columns that '%s' has, got %s",
                             mask->name, x->columns, x->name, tr_shape(mask).text);
    return tr_build_rows(build, layer, x->rows, x->columns);
}

static int softmax_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *x = layer->in[0], *mask = layer->n_in == 2 ? layer->in[1] : NULL;
    struct tr_softmax op = {
        .samples = pass->samples,
        .rows = x->rows,
        .columns = x->columns,
        .x = x->data,
        .mask = mask ? mask->data : NULL,
        .mask_rows = mask && mask->rows > 1,
        .x_stride = x->stride,
        .mask_stride = mask ? mask->stride : 0,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
    return pass->backend->loops->softmax_forward(pass->backend, &op);
}

static int softmax_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_value *x = layer->in[0];
    if (!x->grad)
        return 0;
    struct tr_softmax_grad op = {
        .samples = pass->samples,
        .rows = x->rows,
        .columns = x->columns,
        .y = layer->out.data,
        .dy = layer->out.grad,
        .y_stride = layer->out.stride,
        .dy_stride = layer->out.stride,
        .dx_stride = x->stride,
        .dx = x->grad,
        .add = tr_value_add(x),
    };
    return pass->backend->loops->softmax_backward(pass->backend, &op);
}

static const char *const options[] = {NULL};

const struct tr_layer_type tr_layer_softmax = {
    .name = "softmax",
    .options = options,
    .build = softmax_build,
    .forward = softmax_forward,
    .backward = softmax_backward,
};
