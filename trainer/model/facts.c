/* trainer/model/facts.c -- what is told of a model's layers. */
#include <stdio.h>

#include "runtime/base/assert.h"
#include "trainer/model/build.h"

uint32_t tr_model_layers(const struct tr_model *model)
{
    return model->n_layers;
}

/* Bytes of a slice of each thread that are this layer's own: an output that lies in a concat's rows is the concat's. */
static size_t slice_bytes(const struct tr_model *model, const struct tr_layer *layer)
{
    const struct tr_value *out = &layer->out;
    size_t floats = out->home ? 0 : out->stride * model->slice * (out->grad ? 2 : 1);
    for (uint32_t k = 0; k < layer->n_buffers; k++)
        floats += layer->buffer_floats[k];
    return model->n_lanes * floats * sizeof(tr_real);
}

void tr_model_layer(const struct tr_model *model, uint32_t i, struct tr_layer_facts *out)
{
    rt_assert(i < model->n_layers);
    const struct tr_layer *layer = &model->layer[i];
    *out = (struct tr_layer_facts){
        .name = layer->name,
        .type = layer->type->name,
        .n_inputs = layer->n_in,
        .flops = layer->flops,
    };
    out->bytes = slice_bytes(model, layer);
    for (uint32_t k = 0; k < layer->n_params; k++) {
        const struct tr_param *tensor = &model->tensor[layer->first_param + k];
        out->parameters += tensor->momentum > 0 ? 0 : tensor->count; /* running averages are none */
        out->bytes += (1 + (size_t)model->n_lanes) * tensor->count * sizeof(tr_real);
    }
    snprintf(out->shape, sizeof out->shape, "%s", tr_shape(&layer->out).text);
}

const char *tr_model_layer_input(const struct tr_model *model, uint32_t i, uint32_t k)
{
    rt_assert(i < model->n_layers && k < model->layer[i].n_in);
    return model->layer[i].in[k]->name;
}
