/* trainer/model/layer_reshape.c -- the same numbers in other rows. Option `columns` or `rows`, one of them; the other follows from
 * the input's width. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/model.h"

static int reshape_build(struct tr_build *build, struct tr_layer *layer)
{
    uint32_t rows = 0, columns = 0;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_integer(build, "rows", 1, TR_WIDTH_MAX, &rows);
    if (!err)
        err = tr_build_integer(build, "columns", 1, TR_WIDTH_MAX, &columns);
    if (err)
        return err;
    if (!rows == !columns)
        return tr_build_fail(build, "expected rows or columns, one of them");
    const struct tr_value *in = layer->in[0];
    uint32_t part = rows ? rows : columns;
    if (in->width % part)
        return tr_build_fail(build, "input '%s': expected a width that is a multiple of %u, got %s",
                             in->name, part, tr_shape(in).text);
    return tr_build_rows(build, layer, rows ? rows : in->width / columns,
                         rows ? in->width / rows : columns);
}

static int reshape_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_copy op = {
        .samples = pass->samples,
        .width = layer->out.width,
        .x = layer->in[0]->data,
        .x_stride = layer->in[0]->stride,
        .y = layer->out.data,
        .y_stride = layer->out.stride,
    };
    return pass->backend->loops->copy(pass->backend, &op);
}

static int reshape_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_value *in = layer->in[0];
    if (!in->grad)
        return 0;
    struct tr_copy op = {
        .samples = pass->samples,
        .width = in->width,
        .x = layer->out.grad,
        .x_stride = layer->out.stride,
        .y = in->grad,
        .y_stride = in->stride,
        .add = tr_value_add(in),
    };
    return pass->backend->loops->copy(pass->backend, &op);
}

static const char *const options[] = {"rows", "columns", NULL};

const struct tr_layer_type tr_layer_reshape = {
    .name = "reshape",
    .options = options,
    .build = reshape_build,
    .forward = reshape_forward,
    .backward = reshape_backward,
};
