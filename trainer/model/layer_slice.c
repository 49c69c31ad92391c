/* trainer/model/layer_slice.c -- some of the columns of each row, or some of the rows, that follow each other.
 *
 * Options: `first` (0), the first of them, counted from 0; `count`; `over`: `columns` (default) or `rows`. */
#include <string.h>

#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/model.h"

struct slice_state {
    uint32_t first, count, over_rows;
};

static int slice_build(struct tr_build *build, struct tr_layer *layer)
{
    static const char *const over[] = {"columns", "rows"};
    struct slice_state *state = tr_build_alloc(build, 1, sizeof *state);
    if (!state)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = state;
    int err = tr_build_one_input(build, layer);
    if (!err)
        err = tr_build_choice(build, "over", over, 2, &state->over_rows);
    if (!err)
        err = tr_build_integer(build, "first", 0, TR_WIDTH_MAX, &state->first);
    if (!err)
        err = tr_build_integer(build, "count", 1, TR_WIDTH_MAX, &state->count);
    if (err)
        return err;
    const struct tr_value *in = layer->in[0];
    uint32_t there = state->over_rows ? in->rows : in->columns;
    if (!state->count)
        return tr_build_fail(build, "count: expected how many %s to take", over[state->over_rows]);
    if ((uint64_t)state->first + state->count > there)
        return tr_build_fail(build, "input '%s': expected at least %u %s, got %s", in->name,
                             state->first + state->count, over[state->over_rows],
                             tr_shape(in).text);
    return state->over_rows ? tr_build_rows(build, layer, state->count, in->columns)
                            : tr_build_rows(build, layer, in->rows, state->count);
}

/* Elements before what is taken of a row; rows that are taken one by one, and their widths here and there. */
struct cut {
    size_t first;
    uint32_t rows, width, in_width;
};

static struct cut cut_of(const struct tr_layer *layer)
{
    const struct slice_state *state = layer->state;
    const struct tr_value *in = layer->in[0];
    if (state->over_rows)
        return (struct cut){(size_t)state->first * in->columns, 1, layer->out.width, in->width};
    return (struct cut){state->first, in->rows, state->count, in->columns};
}

static int slice_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    const struct tr_value *in = layer->in[0];
    struct cut cut = cut_of(layer);
    int err = 0;
    for (uint32_t r = 0; !err && r < cut.rows; r++) {
        struct tr_copy op = {
            .samples = pass->samples,
            .width = cut.width,
            .x = in->data + (size_t)r * cut.in_width + cut.first,
            .x_stride = in->stride,
            .y = layer->out.data + (size_t)r * cut.width,
            .y_stride = layer->out.stride,
        };
        err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static int slice_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_value *in = layer->in[0];
    struct cut cut = cut_of(layer);
    int err = 0;
    if (!in->grad)
        return 0;
    struct tr_clear rest = {
        .samples = pass->samples,
        .width = in->width,
        .y_stride = in->stride,
        .y = in->grad,
    };
    if (!tr_value_add(in)) /* what is not taken */
        err = pass->backend->loops->clear(pass->backend, &rest);
    for (uint32_t r = 0; !err && r < cut.rows; r++) {
        struct tr_copy op = {
            .samples = pass->samples,
            .width = cut.width,
            .x = layer->out.grad + (size_t)r * cut.width,
            .x_stride = layer->out.stride,
            .y = in->grad + (size_t)r * cut.in_width + cut.first,
            .y_stride = in->stride,
            .add = true,
        };
        err = pass->backend->loops->copy(pass->backend, &op);
    }
    return err;
}

static const char *const options[] = {"over", "first", "count", NULL};

const struct tr_layer_type tr_layer_slice = {
    .name = "slice",
    .options = options,
    .build = slice_build,
    .forward = slice_forward,
    .backward = slice_backward,
};
