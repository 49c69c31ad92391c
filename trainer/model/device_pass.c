/* trainer/model/device_pass.c -- a batch through a model on a device: forward, backward, and what goes back to the host.
 *
 * In a pass nothing is waited for: operations are queued, and the host waits at the end for what it wants of it. Of a shape of batch the first pass
 * in a slot runs as it is, the second one is recorded, and from then on it is played: one call instead of some hundred. */
#ifndef TR_REAL_DOUBLE /* device_none.c */

#include <math.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/trace.h"
#include "trainer/model/build.h"
#include "trainer/model/convert.h"
#include "trainer/model/device_impl.h"
#include "trainer/model/layers.h"

/* ---- inputs ---- */

static int bind_column(struct tr_model *model, tr_real *to, const tr_real *from, uint32_t stride,
                       uint32_t samples)
{
    struct tr_copy op = {
        .samples = samples, .width = 1, .x = from, .x_stride = stride, .y_stride = 1, .y = to};
    return model->backend.loops->copy(&model->backend, &op);
}

static int bind_columns(struct tr_model *model, const struct tr_slot *slot, uint32_t samples)
{
    int err = 0;
    model->dense.data = slot->dense;
    for (uint32_t i = 0; !err && i < model->n_dense; i++)
        if (model->dense_column[i].readers)
            err = bind_column(model, model->dense_column[i].data, slot->dense + i, model->n_dense,
                              samples);
    if (model->n_labels == 1)
        model->label[0].data = slot->labels;
    for (uint32_t i = 0; !err && model->n_labels > 1 && i < model->n_labels; i++)
        if (model->label[i].readers)
            err = bind_column(model, model->label[i].data, slot->labels + i, model->n_labels,
                              samples);
    return err;
}

static int bind_sequence(struct tr_device *device, const struct tr_slot *slot, uint32_t i,
                         uint32_t samples)
{
    struct tr_model *model = device->model;
    const struct tr_sequence *of = &model->sequence[i];
    const struct tr_slot_sequence *in = &slot->sequence[i];
    struct tr_cuda_sequence op = {
        .samples = samples,
        .length = of->length,
        .dim = of->dim,
        .dtype = model->feature_dtype,
        .row = in->row,
        .index = in->index,
        .begin = in->begin,
        .to = model->feature[i].readers ? model->feature[i].data : NULL,
        .mask = of->mask->readers ? of->mask->data : NULL,
    };
    return op.to || op.mask ? device->gpu->sequence_expand(&model->backend, &op) : 0;
}

static int bind_inputs(struct tr_device *device, const struct tr_slot *slot, uint32_t samples)
{
    struct tr_model *model = device->model;
    int err = bind_columns(model, slot, samples);
    if (!err && device->n_pooled > 0)
        err = device->gpu->widen(&model->backend, model->feature_dtype, slot->table,
                                 device->n_pooled, samples, device->width_max);
    for (uint32_t i = 0; !err && i < model->n_features; i++)
        if (model->sequence[i].length)
            err = bind_sequence(device, slot, i, samples);
    return err;
}

/* ---- layers ---- */

static struct tr_pass pass_of(struct tr_device *device, const struct tr_slot *slot,
                              const struct tr_shape *shape)
{
    return (struct tr_pass){
        .backend = &device->model->backend,
        .samples = shape->samples,
        .training = shape->trains,
        .weight = shape->weighted ? slot->weight : NULL,
        .share = shape->samples,
        .keys = (const uint64_t *)(slot->numbers + tr_numbers_keys()),
    };
}

static int forward(struct tr_device *device, const struct tr_slot *slot,
                   const struct tr_shape *shape)
{
    struct tr_model *model = device->model;
    struct tr_pass pass = pass_of(device, slot, shape);
    for (uint32_t i = 0; i < model->n_layers; i++) {
        struct tr_layer *layer = &model->layer[i];
        pass.sum_at = layer->head ? &device->loss_there[layer->head - model->head] : NULL;
        int err = layer->type->forward(layer, &pass);
        if (err)
            return rt_fail_prefix(err, "layer '%s', forward: ", layer->name);
    }
    return 0;
}

static int backward(struct tr_device *device, const struct tr_slot *slot,
                    const struct tr_shape *shape)
{
    struct tr_model *model = device->model;
    struct tr_pass pass = pass_of(device, slot, shape);
    for (uint32_t i = 0; i < model->n_features; i++) {
        model->feature[i].grad = model->feature[i].readers ? model->feature_space[i] : NULL;
        model->feature[i].written = false;
    }
    for (uint32_t i = 0; i < model->n_layers; i++)
        model->layer[i].out.written = false;
    for (uint32_t i = model->n_layers; i-- > 0;) {
        struct tr_layer *layer = &model->layer[i];
        if (!layer->type->loss && !layer->out.grad)
            continue; /* nothing trainable in it or before it */
        pass.scale = layer->head ? layer->head->weight : 0;
        int err = layer->type->backward(layer, &pass);
        if (err)
            return rt_fail_prefix(err, "layer '%s', backward: ", layer->name);
    }
    return 0;
}

/* ---- what comes of it ---- */

static int put_scores(struct tr_device *device, const struct tr_slot *slot,
                      const struct tr_shape *shape)
{
    struct tr_model *model = device->model;
    struct tr_cuda_head head[TR_HEADS_MAX];
    struct tr_cuda_scoring op = {
        .samples = shape->samples,
        .columns = model->score_columns,
        .head = head,
        .score = shape->scored ? device->score : NULL,
        .logit = shape->logits ? device->logit : NULL,
    };
    (void)slot;
    for (uint32_t i = 0; i < model->n_layers; i++) {
        const struct tr_layer *layer = &model->layer[i];
        if (!layer->head)
            continue;
        if (op.n_heads == 0) {
            op.in = layer->in[0]->data;
            op.in_stride = (uint32_t)layer->in[0]->stride;
        }
        head[op.n_heads++] = (struct tr_cuda_head){
            .head = layer->head,
            .y = layer->out.data,
            .label = model->label[layer->head->label].data,
            .y_stride = (uint32_t)layer->out.stride,
            .label_stride = 1,
        };
    }
    return shape->scored || shape->logits ? device->gpu->scores(&model->backend, &op) : 0;
}

static int put_sums(struct tr_device *device, const struct tr_slot *slot, uint32_t i)
{
    struct tr_model *model = device->model;
    const struct tr_sequence *of = &model->sequence[i];
    struct tr_cuda_sums op = {
        .dim = of->dim,
        .rows_max = model->samples_max * of->length,
        .dtype = model->feature_grad_dtype,
        .rows = slot->sequence[i].rows,
        .row_begin = slot->sequence[i].row_begin,
        .place = slot->sequence[i].place,
        .grad = model->feature[i].grad,
        .sum = device->sum[i] ? device->sum[i] : slot->grad_out[i],
        .out = slot->grad_out[i],
        .scale = &slot->gradients.scale[i],
        .saturated = &slot->gradients.outcome->saturated,
    };
    return device->gpu->sequence_sums(&model->backend, &op);
}

static int put_gradients(struct tr_device *device, const struct tr_slot *slot, uint32_t samples)
{
    struct tr_model *model = device->model;
    int err = device->gpu->finite(&model->backend, &slot->gradients, samples, &device->spans,
                                  model->grads, device->loss_there, model->n_heads);
    if (!err && device->n_pooled > 0)
        err = device->gpu->narrow(&model->backend, &slot->gradients, samples);
    for (uint32_t i = 0; !err && i < model->n_features; i++)
        if (model->sequence[i].length)
            err = put_sums(device, slot, i);
    return err;
}

/* ---- a pass ---- */

static int put_step(struct tr_device *device, const struct tr_slot *slot)
{
    struct tr_model *model = device->model;
    return device->rider->queue(device->rider->arg, &model->backend, model->grads, model->params,
                                &slot->gradients.outcome->finite);
}

static int queue(struct tr_device *device, const struct tr_slot *slot, const struct tr_shape *shape)
{
    device->model->backend.now = (const struct tr_now *)slot->numbers;
    tr_backend_begin(&device->model->backend);
    int err = bind_inputs(device, slot, shape->samples);
    if (!err)
        err = forward(device, slot, shape);
    if (!err)
        err = put_scores(device, slot, shape);
    if (!err && shape->trains)
        err = backward(device, slot, shape);
    if (!err && shape->trains)
        err = put_gradients(device, slot, shape->samples);
    return err || !shape->optimizer ? err : put_step(device, slot);
}

static bool is_same(const struct tr_shape *a, const struct tr_shape *b)
{
    return a->samples == b->samples && a->trains == b->trains && a->weighted == b->weighted &&
           a->scored == b->scored && a->logits == b->logits && a->optimizer == b->optimizer;
}

/* NULL: there are too many already. */
static struct tr_played *find_played(struct tr_slot *slot, const struct tr_shape *shape)
{
    for (uint32_t k = 0; k < slot->n_played; k++)
        if (is_same(&slot->played[k].shape, shape))
            return &slot->played[k];
    if (slot->n_played == TR_DEVICE_RECORDINGS)
        return NULL;
    struct tr_played *played = &slot->played[slot->n_played++];
    *played = (struct tr_played){.shape = *shape};
    return played;
}

static int record(struct tr_device *device, const struct tr_slot *slot, struct tr_played *played)
{
    const struct tr_gpu *gpu = device->gpu;
    int err = gpu->record(device->cuda);
    if (err)
        return err;
    err = queue(device, slot, &played->shape);
    return gpu->recorded(device->cuda, err ? NULL : &played->recording) || err ? RT_EBACKEND : 0;
}

static int run(struct tr_device *device, struct tr_slot *slot, const struct tr_shape *shape)
{
    struct tr_played *played = find_played(slot, shape);
    if (!played || !played->warm) {
        int err = queue(device, slot, shape);
        if (!err && played)
            played->warm = true;
        return err;
    }
    int err = played->recording ? 0 : record(device, slot, played);
    return err ? err : device->gpu->play(device->cuda, played->recording);
}

/* ---- to the device, and back ---- */

static int put_numbers(struct tr_device *device, struct tr_slot *slot,
                       const struct tr_batch_view *batch, uint64_t global_samples)
{
    const struct tr_model *model = device->model;
    struct tr_now *now = (struct tr_now *)slot->numbers_host;
    uint64_t *key = (uint64_t *)(slot->numbers_host + tr_numbers_keys());
    uint32_t *rows = (uint32_t *)(slot->numbers_host + tr_numbers_rows(device));
    now->per_sample = 1 / (double)global_samples;
    for (uint32_t i = 0; i < model->n_layers; i++)
        key[i] = model->layer[i].type == &tr_layer_dropout
                     ? tr_dropout_key(&model->layer[i], batch->draw)
                     : 0;
    for (uint32_t i = 0; i < model->n_features; i++)
        rows[i] = model->sequence[i].length ? batch->sequence[i].rows : 0;
    size_t bytes = tr_numbers_rows(device) + model->n_features * sizeof *rows;
    return device->gpu->upload(device->cuda, TR_GPU_COMPUTE, slot->numbers, slot->numbers_host,
                               bytes);
}

static int fetch(struct tr_device *device, void *to, const void *from, size_t bytes)
{
    return to && bytes ? device->gpu->download(device->cuda, TR_GPU_DOWN, to, from, bytes) : 0;
}

/* They are the host's when `landed` is. */
static int fetch_gradients(struct tr_device *device, struct tr_slot *slot,
                           const struct tr_batch_view *batch,
                           const struct tr_feature_grad *feature_grad)
{
    const struct tr_model *model = device->model;
    size_t element = tr_element(model->feature_grad_dtype);
    int err = 0;
    for (uint32_t i = 0; !err && i < model->n_features; i++) {
        size_t values = model->sequence[i].length
                            ? (size_t)batch->sequence[i].rows * model->sequence[i].dim
                            : (size_t)batch->samples * model->feature[i].width;
        err = fetch(device, feature_grad[i].out, slot->grad_out[i], values * element);
    }
    if (!err)
        err = device->gpu->mark(device->cuda, TR_GPU_DOWN, slot->landed);
    if (!err)
        device->landing = slot;
    return err;
}

/* Behind the pass, on their way when this returns; the caller's memory is written when `fetched` is. */
static int fetch_results(struct tr_device *device, struct tr_slot *slot,
                         const struct tr_batch_view *batch, const struct tr_shape *shape,
                         struct tr_forward_out *out)
{
    const struct tr_model *model = device->model;
    const struct tr_gpu *gpu = device->gpu;
    size_t samples = batch->samples;
    int err = gpu->mark(device->cuda, TR_GPU_COMPUTE, device->computed);
    if (!err)
        err = gpu->await(device->cuda, TR_GPU_DOWN, device->computed);
    if (!err)
        err = fetch(device, device->loss, device->loss_there, TR_HEADS_MAX * sizeof(double));
    if (!err && shape->trains)
        err = fetch(device, slot->outcome, slot->gradients.outcome, slot->gradients.outcome_bytes);
    if (!err)
        err = fetch(device, out->score, device->score,
                    samples * model->score_columns * sizeof(tr_real));
    if (!err)
        err = fetch(device, out->logit, device->logit, samples * sizeof(tr_real));
    return err ? err : gpu->mark(device->cuda, TR_GPU_DOWN, device->fetched);
}

static void take_losses(const struct tr_device *device, struct tr_forward_out *out)
{
    const struct tr_model *model = device->model;
    out->loss_sum = 0;
    memset(out->head_loss, 0, sizeof out->head_loss);
    for (uint32_t h = 0; h < model->n_heads; h++) {
        out->head_loss[h] = device->loss[h];
        out->loss_sum += model->head[h].weight * device->loss[h];
    }
}

static void take_outcome(const struct tr_device *device, const struct tr_slot *slot,
                         struct tr_feature_grad *feature_grad, struct tr_forward_out *out)
{
    const struct tr_model *model = device->model;
    const struct tr_cuda_outcome *outcome = slot->outcome;
    const uint32_t *unfit = (const uint32_t *)(outcome + 1);
    const float *scale = (const float *)(unfit + model->n_features);
    out->finite = outcome->finite != 0;
    out->saturated = out->finite ? outcome->saturated : 0;
    for (uint32_t i = 0; i < model->n_features; i++) {
        model->unfit[i] = unfit[i] != 0;
        if (feature_grad)
            feature_grad[i].scale = scale[i] > 0 ? scale[i] : 1;
    }
}

/* The pass, and what comes of it but the features' gradients; while it is computed the caller does what it wants to do beside it. */
static int run_batch(struct tr_device *device, const struct tr_batch_view *batch,
                     uint64_t global_samples, const struct tr_shape *shape, struct tr_slot *slot,
                     struct tr_forward_out *out)
{
    int err = tr_device_close_params(device);
    if (!err)
        err = put_numbers(device, slot, batch, global_samples);
    if (!err)
        err = device->gpu->await(device->cuda, TR_GPU_COMPUTE, slot->here);
    if (!err && shape->optimizer)
        err = batch->rider->prepare(batch->rider->arg);
    if (!err)
        err = run(device, slot, shape);
    if (!err)
        err = fetch_results(device, slot, batch, shape, out);
    if (!err && batch->beside)
        err = batch->beside->fn(batch->beside->arg);
    return err;
}

static struct tr_shape shape_of(const struct tr_batch_view *batch, bool trains,
                                const struct tr_forward_out *out)
{
    return (struct tr_shape){
        .samples = batch->samples,
        .trains = trains,
        .weighted = batch->weight != NULL,
        .scored = out->score != NULL,
        .logits = out->logit != NULL,
        .optimizer = trains && batch->rider ? batch->rider->arg : NULL,
    };
}

static int wait_results(struct tr_device *device, struct tr_forward_out *out)
{
    int err = device->gpu->wait(device->cuda, device->fetched);
    if (!err)
        take_losses(device, out);
    return err;
}

int tr_device_forward(struct tr_model *model, const struct tr_batch_view *batch,
                      struct tr_forward_out *out)
{
    struct tr_device *device = model->device;
    const struct tr_shape shape = shape_of(batch, false, out);
    struct tr_slot *slot;
    uint64_t at = rt_trace_begin(batch->batch_id);
    rt_assert(batch->samples >= 1 && batch->samples <= model->samples_max);
    int err = tr_slot_of(device, batch, &slot);
    if (!err)
        err = run_batch(device, batch, batch->samples, &shape, slot, out);
    if (!err)
        err = wait_results(device, out);
    rt_trace_span(batch->batch_id, 0, "forward", at);
    out->finite = true;
    out->saturated = 0;
    return err;
}

int tr_device_land(struct tr_model *model)
{
    struct tr_device *device = model->device;
    struct tr_slot *slot = device->landing;
    device->landing = NULL;
    return slot ? device->gpu->wait(device->cuda, slot->landed) : 0;
}

/* The pass writes where those of the batch before last are copied from, if it has the same slot. */
static int train(struct tr_device *device, const struct tr_batch_view *batch,
                 uint64_t global_samples, struct tr_feature_grad *feature_grad,
                 struct tr_forward_out *out)
{
    const struct tr_shape shape = shape_of(batch, true, out);
    struct tr_slot *slot;
    device->rider = batch->rider;
    int err = tr_slot_of(device, batch, &slot);
    if (!err && device->landing == slot)
        err = tr_device_land(device->model);
    if (!err)
        err = run_batch(device, batch, global_samples, &shape, slot, out);
    device->grads.written = false; /* what is there is of the batch before */
    if (!err)
        err = tr_device_land(device->model);
    if (!err && feature_grad)
        err = fetch_gradients(device, slot, batch, feature_grad);
    if (!err)
        err = wait_results(device, out);
    if (!err)
        take_outcome(device, slot, feature_grad, out);
    return err;
}

int tr_device_train(struct tr_model *model, const struct tr_batch_view *batch,
                    uint64_t global_samples, struct tr_feature_grad *feature_grad,
                    struct tr_forward_out *out)
{
    struct tr_device *device = model->device;
    uint64_t at = rt_trace_begin(batch->batch_id);
    rt_assert(global_samples >= 1);
    rt_assert(batch->samples >= 1 && batch->samples <= model->samples_max);
    int err = train(device, batch, global_samples, feature_grad, out);
    if (!err && !batch->rider)
        out->finite &= isfinite(out->loss_sum); /* each head's is; the device goes by that */
    if (!err && !(batch->lands_later && out->finite))
        err = tr_device_land(model);
    rt_trace_span(batch->batch_id, 0, "device", at);
    if (err)
        return err;
    out->landing = device->landing != NULL;
    if (batch->rider && out->finite)
        tr_device_stepped(device);
    if (batch->settled)
        batch->settled->fn(batch->settled->arg, 0);
    return 0;
}

#endif
