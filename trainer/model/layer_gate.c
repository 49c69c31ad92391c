/* trainer/model/layer_gate.c -- a mixture of experts: y = sum over i of softmax(g)_i e_i.
 *
 * Inputs: the gate's logits g [samples][k], then the experts e, k tensors of one width or one of k rows. In MMoE (Ma et al. 2018,
 * "Modeling Task Relationships in Multi-task Learning with Multi-gate Mixture-of-Experts", equations 6 and 7) each task has such
 * a gate over the same experts, and g is a `linear` of the input without bias; in PLE (Tang et al. 2020, "Progressive Layered
 * Extraction") a gate takes its task's own experts and the shared ones. Experts are layers of their own. */
#include "runtime/base/err.h"
#include "trainer/model/layers.h"
#include "trainer/model/vectors.h"

enum { WEIGHT, DWEIGHT }; /* buffers: [samples][k] */

static int gate_build(struct tr_build *build, struct tr_layer *layer)
{
    struct tr_vectors *experts = tr_build_alloc(build, 1, sizeof *experts);
    if (!experts)
        return RT_FAIL(RT_ENOMEM, "layer '%s'", layer->name);
    layer->state = experts;
    const struct tr_value *logits = layer->in[0];
    if (layer->n_in < 2)
        return tr_build_fail(build, "expected a gate's logits and then experts as inputs, got %u",
                             layer->n_in);
    int err = tr_vectors_build(build, layer, 1, layer->n_in - 1, experts);
    if (!err && (logits->rows != 1 || logits->columns != experts->n))
        err = tr_build_fail(build,
                            "input '%s': expected [samples][%u], a logit for each expert, got %s",
                            logits->name, experts->n, tr_shape(logits).text);
    tr_build_flops(build, (uint64_t)experts->n * experts->dim);
    if (!err)
        err = tr_build_buffer(build, experts->n);
    if (!err)
        err = tr_build_buffer(build, experts->n);
    return err ? err : tr_build_output(build, layer, experts->dim);
}

static struct tr_mix mix_of(const struct tr_layer *layer, const struct tr_pass *pass)
{
    const struct tr_vectors *experts = layer->state;
    return (struct tr_mix){
        .samples = pass->samples,
        .n = experts->n,
        .dim = experts->dim,
        .weight = layer->buffer[WEIGHT],
        .x = experts->x,
        .x_stride = experts->stride,
        .weight_stride = experts->n,
        .y_stride = layer->out.stride,
        .y = layer->out.data,
    };
}

static int gate_forward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_vectors *experts = layer->state;
    struct tr_softmax softmax = {
        .samples = pass->samples,
        .rows = 1,
        .columns = experts->n,
        .x = layer->in[0]->data,
        .x_stride = layer->in[0]->stride,
        .y_stride = experts->n,
        .y = layer->buffer[WEIGHT],
    };
    int err = pass->backend->loops->softmax_forward(pass->backend, &softmax);
    tr_vectors_bind(layer, experts);
    struct tr_mix mix = mix_of(layer, pass);
    return err ? err : pass->backend->loops->mix_forward(pass->backend, &mix);
}

static int gate_backward(struct tr_layer *layer, struct tr_pass *pass)
{
    struct tr_vectors *experts = layer->state;
    struct tr_value *logits = layer->in[0];
    tr_vectors_bind_grad(layer, experts);
    struct tr_mix_grad mix = {
        .of = mix_of(layer, pass),
        .dy = layer->out.grad,
        .dy_stride = layer->out.stride,
        .dx = experts->dx,
        .add = experts->add,
        .dweight = layer->buffer[DWEIGHT],
    };
    int err = pass->backend->loops->mix_backward(pass->backend, &mix);
    if (err || !logits->grad)
        return err;
    struct tr_softmax_grad softmax = {
        .samples = pass->samples,
        .rows = 1,
        .columns = experts->n,
        .y = layer->buffer[WEIGHT],
        .dy = layer->buffer[DWEIGHT],
        .y_stride = experts->n,
        .dy_stride = experts->n,
        .dx_stride = logits->stride,
        .dx = logits->grad,
        .add = tr_value_add(logits),
    };
    return pass->backend->loops->softmax_backward(pass->backend, &softmax);
}

static const char *const options[] = {NULL};

const struct tr_layer_type tr_layer_gate = {
    .name = "gate",
    .options = options,
    .build = gate_build,
    .forward = gate_forward,
    .backward = gate_backward,
};
