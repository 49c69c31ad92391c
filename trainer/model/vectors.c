/* trainer/model/vectors.c -- see vectors.h. */
#include "trainer/model/vectors.h"

#include "runtime/base/err.h"

static int check(struct tr_build *build, const struct tr_layer *layer, struct tr_vectors *out)
{
    const struct tr_value *first = layer->in[out->first];
    bool rows = out->inputs == 1;
    out->n = rows ? first->rows : out->inputs;
    out->dim = rows ? first->columns : first->width;
    if (out->n < 2 || out->n > TR_VECTORS_MAX)
        return tr_build_fail(build,
                             "expected 2..%u tensors as inputs, or one of so many rows, got %u",
                             TR_VECTORS_MAX, out->n);
    for (uint32_t i = out->first + 1; i < out->first + out->inputs; i++)
        if (layer->in[i]->width != first->width)
            return tr_build_fail(build, "input '%s': expected %s as '%s' has, got %s",
                                 layer->in[i]->name, tr_shape(first).text, first->name,
                                 tr_shape(layer->in[i]).text);
    return 0;
}

int tr_vectors_build(struct tr_build *build, const struct tr_layer *layer, uint32_t first,
                     uint32_t inputs, struct tr_vectors *out)
{
    out->first = first;
    out->inputs = inputs;
    int err = check(build, layer, out);
    if (err)
        return err;
    out->x = tr_build_alloc(build, out->n, sizeof *out->x);
    out->stride = tr_build_alloc(build, out->n, sizeof *out->stride);
    out->dx = tr_build_alloc(build, out->n, sizeof *out->dx);
    out->add = tr_build_alloc(build, out->n, sizeof *out->add);
    if (!out->x || !out->stride || !out->dx || !out->add)
        return RT_FAIL(RT_ENOMEM, "layer '%s': %u vectors", layer->name, out->n);
    return 0;
}

void tr_vectors_bind(const struct tr_layer *layer, struct tr_vectors *vectors)
{
    bool rows = vectors->inputs == 1;
    for (uint32_t i = 0; i < vectors->n; i++) {
        const struct tr_value *in = layer->in[vectors->first + (rows ? 0 : i)];
        vectors->x[i] = in->data + (rows ? (size_t)i * vectors->dim : 0);
        vectors->stride[i] = in->stride;
    }
}

void tr_vectors_bind_grad(const struct tr_layer *layer, struct tr_vectors *vectors)
{
    bool rows = vectors->inputs == 1, add = false;
    for (uint32_t i = 0; i < vectors->n; i++) {
        struct tr_value *in = layer->in[vectors->first + (rows ? 0 : i)];
        if (in->grad && (i == 0 || !rows))
            add = tr_value_add(in);
        vectors->dx[i] = in->grad ? in->grad + (rows ? (size_t)i * vectors->dim : 0) : NULL;
        vectors->add[i] = in->grad && add;
    }
}
