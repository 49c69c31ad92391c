/* trainer/model/model.c -- a built model's memory, and its step.
 *
 * Parameters and gradients are one vector each, so all-reduce, optimizer, finite check and
 * checkpoint are one loop. Activations, their gradients and scratch are one more allocation, cut
 * into 64-byte aligned pieces for one slice of a batch; shorter slices use the front of each piece.
 * Features, labels and dense columns stay where the caller has them; only a single dense column (or
 * one of several labels) that a layer reads by name is copied out of its matrix, and 16-bit features are widened
 * into a slice of our own, as the rows of sequences are (sequence.c).
 *
 * DESIGN: a slice goes forward and backward through all layers before the next one begins. Layer by layer
 * over the whole batch, each of the big tensors (4096 x 367 floats: 6 MB) goes out to memory and comes
 * back several times; a slice of 128 keeps all of them in 2 MB of cache. But each slice reads all weights twice, and reads and
 * writes their gradients. That is for nothing where weights stay in the cache between slices. Where they do not, it is 16 bytes of each
 * weight for 6 operations a sample, and oneDNN has its operands laid out for its fast kernel only in a large product: DLRM with a top of
 * 1024-1024-512-256-1 took 236 us a sample in slices of 128, 229 of 256, 190 of 384, 192 of 512, 189 of 1024 or
 * 2048 (Zen 3, AVX2, one thread, medians in turns); products alone are 164 there. Hence two sizes, by the number of parameters.
 * Layers that look at all samples (tr_build_running) have the batch in one slice, whatever it costs. */
#include "trainer/model/model.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/base/trace.h"
#include "trainer/model/build.h"
#include "trainer/model/convert.h"
#include "trainer/model/settle.h"

#define MODEL_ARENA_MAX (256u << 20)
#define PIECE_ALIGN     16u  /* floats: 64 bytes */
#define SLICE_SAMPLES   128u /* per thread, where weights stay in a cache from slice to slice */
#define SLICE_LARGE     512u /* per thread, where they do not */
/* Parameters of which this is said: 1 MiB, half an L2 cache of a server. */
#define SLICE_PARAMS (1u << 18)
#define F16_ROOM     0x1p-12f /* of the scale that half.h finds: struct tr_feature_grad */

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

/* ---- memory ---- */

/* Take `floats` from the plan; when `base` is there, *out points to them. False on overflow. */
static bool cut_piece(tr_real *base, size_t *used, size_t floats, tr_real **out)
{
    size_t next;
    if (!rt_add_size(*used, floats, &next) || !rt_add_size(next, PIECE_ALIGN - 1, &next))
        return false;
    if (base)
        *out = base + *used;
    *used = next & ~(size_t)(PIECE_ALIGN - 1);
    return true;
}

static bool cut_layer(struct tr_layer *layer, uint32_t samples, tr_real *base, size_t *used)
{
    struct tr_value *out = &layer->out;
    bool ok = out->home || cut_piece(base, used, out->stride * samples, &out->data);
    if (ok && out->trainable && !out->home && !layer->type->loss)
        ok = cut_piece(base, used, out->stride * samples, &out->grad);
    for (uint32_t i = 0; ok && i < layer->n_buffers; i++)
        ok = cut_piece(base, used, layer->buffer_floats[i], &layer->buffer[i]);
    return ok;
}

/* What a layer reads of a feature in 16 bits, widened; and its gradients before they are narrowed. */
static bool cut_feature(struct tr_model *model, uint32_t i, tr_real *base, size_t *used)
{
    struct tr_value *feature = &model->feature[i];
    size_t floats = (size_t)model->slice * feature->width;
    struct tr_sequence *sequence = &model->sequence[i];
    bool ok = true;
    if (feature->readers && (sequence->length || model->feature_dtype != RT_DTYPE_F32))
        ok = cut_piece(base, used, floats, &feature->data);
    if (ok && feature->readers && (sequence->length || model->feature_grad_dtype != RT_DTYPE_F32))
        ok = cut_piece(base, used, floats, &model->feature_space[i]);
    if (ok && sequence->length && sequence->mask->readers)
        ok = cut_piece(base, used, (size_t)model->slice * sequence->length, &sequence->mask->data);
    return ok;
}

/* Lay out all pieces; with base NULL only *used is computed. */
static bool cut_memory(struct tr_model *model, tr_real *base, size_t *used)
{
    bool ok = true;
    *used = 0;
    for (uint32_t i = 0; ok && i < model->n_layers; i++)
        ok = cut_layer(&model->layer[i], model->slice, base, used);
    for (uint32_t i = 0; ok && i < model->n_features; i++)
        ok = cut_feature(model, i, base, used);
    for (uint32_t i = 0; ok && i < model->n_dense; i++)
        if (model->dense_column[i].readers)
            ok = cut_piece(base, used, model->slice, &model->dense_column[i].data);
    for (uint32_t i = 0; ok && model->n_labels > 1 && i < model->n_labels; i++)
        if (model->label[i].readers)
            ok = cut_piece(base, used, model->slice, &model->label[i].data);
    return ok;
}

/* From the last layer on: a home may have a home itself. */
static void move_in(struct tr_model *model)
{
    for (uint32_t i = model->n_layers; i-- > 0;) {
        struct tr_value *out = &model->layer[i].out;
        if (!out->home)
            continue;
        out->stride = out->home->stride;
        out->data = out->home->data + out->home_at;
        out->grad = out->trainable ? out->home->grad + out->home_at : NULL;
    }
}

/* A batch has at most as many rows as places. */
static int allocate_sums(struct tr_model *model)
{
    for (uint32_t i = 0; model->feature_grad_dtype != RT_DTYPE_F32 && i < model->n_features; i++) {
        struct tr_sequence *sequence = &model->sequence[i];
        size_t bytes = 0;
        if (!sequence->length)
            continue;
        if (rt_mul_size(model->samples_max, model->feature[i].width, &bytes) &&
            rt_mul_size(bytes, sizeof(tr_real), &bytes))
            sequence->sum = rt_try_aligned(bytes);
        if (!sequence->sum)
            return RT_FAIL(RT_ENOMEM, "model: no memory for gradients of %u samples of '%s'",
                           model->samples_max, model->feature[i].name);
    }
    return 0;
}

static int allocate(struct tr_model *model)
{
    size_t floats = 0, bytes = 0;
    size_t count = model->count ? model->count : 1;
    if (!cut_memory(model, NULL, &floats) || !rt_mul_size(floats, sizeof(tr_real), &bytes))
        return RT_FAIL(RT_ELIMIT, "model: activations of %u samples overflow", model->slice);
    model->memory = rt_try_aligned(bytes);
    model->params = rt_try_aligned(count * sizeof(tr_real));
    model->grads = rt_try_aligned(count * sizeof(tr_real));
    if (!model->memory || !model->params || !model->grads)
        return RT_FAIL(RT_ENOMEM,
                       "model: no memory for %zu parameters and %zu MiB of activations "
                       "(%u samples)",
                       model->count, bytes >> 20, model->slice);
    cut_memory(model, model->memory, &floats);
    move_in(model);
    memset(model->memory, 0, bytes);
    tr_model_clear_grads(model);
    return 0;
}

static void place_params(struct tr_model *model)
{
    for (uint32_t i = 0; i < model->n_layers; i++) {
        struct tr_layer *layer = &model->layer[i];
        for (uint32_t k = 0; k < layer->n_params; k++) {
            const struct tr_param *tensor = &model->tensor[layer->first_param + k];
            layer->param[k].value = model->params + tensor->offset;
            layer->param[k].grad = model->grads + tensor->offset;
            layer->param[k].count = tensor->count;
        }
    }
}

static void init_params(struct tr_model *model, uint64_t seed)
{
    for (size_t t = 0; t < model->n_tensors; t++) {
        const struct tr_param *tensor = &model->tensor[t];
        uint64_t key = rt_draw_key(seed, "init", tensor->name);
        tr_real bound = (tr_real)model->start[t].bound, middle = (tr_real)model->start[t].middle;
        for (size_t i = 0; i < tensor->count; i++)
            model->params[tensor->offset + i] =
                middle + (2 * rt_unit_f32(rt_draw(key, i)) - 1) * bound;
    }
}

/* A product has a matrix of parameters on one side. */
static int prepare_products(struct tr_model *model, uint32_t precision)
{
    struct tr_space space = {.precision = precision,
                             .params = model->params,
                             .n_params = model->count,
                             .rows = model->slice,
                             .columns = 1};
    for (size_t t = 0; t < model->n_tensors; t++)
        for (uint32_t k = 0; k < model->tensor[t].rank; k++)
            if (model->tensor[t].shape[k] > space.columns)
                space.columns = model->tensor[t].shape[k];
    return tr_backend_prepare(&model->backend, &space);
}

/* ---- life ---- */

static void init_conf(struct tr_model *model, const struct tr_model_conf *conf)
{
    model->samples_max = conf->samples_max;
    model->feature_dtype = conf->feature_dtype;
    model->feature_grad_dtype = conf->feature_grad_dtype;
    model->gradient_max = conf->gradient_max > 0 ? conf->gradient_max : FLT_MAX;
    model->feature_gradient_max =
        conf->feature_gradient_max > 0 ? conf->feature_gradient_max : FLT_MAX;
}

/* All but its memory, for slices of this many samples for each thread. */
static int build(const struct tr_spec *spec, const struct tr_model_inputs *inputs,
                 const struct tr_model_conf *conf, uint32_t slice, struct tr_model **out)
{
    struct tr_model *model = *out = rt_xcalloc(1, sizeof *model);
    init_conf(model, conf);
    int err = tr_backend_init(&model->backend, conf->backend, conf->threads);
    if (!err)
        model->slice = at_most(model->samples_max, slice * (uint32_t)model->backend.threads);
    if (!err)
        err = rt_arena_create(MODEL_ARENA_MAX, &model->arena);
    return err ? err : tr_build_model(model, spec, inputs);
}

/* Samples of a slice for each thread; `build` takes no more than there are. */
static uint32_t slice_for(const struct tr_model *model)
{
    if (model->whole_batch)
        return TR_SAMPLES_MAX;
    return model->count > SLICE_PARAMS ? SLICE_LARGE : SLICE_SAMPLES;
}

int tr_model_create(const struct tr_spec *spec, const struct tr_model_inputs *inputs,
                    const struct tr_model_conf *conf, struct tr_model **out)
{
    if (conf->samples_max < 1 || conf->samples_max > TR_SAMPLES_MAX)
        return RT_FAIL(RT_EUSAGE, "model: expected batches of 1..%u samples, got %u",
                       TR_SAMPLES_MAX, conf->samples_max);
    rt_assert(conf->feature_dtype < RT_DTYPE_COUNT && conf->feature_grad_dtype < RT_DTYPE_COUNT);
    rt_assert(conf->precision == RT_DTYPE_F32 || conf->precision == RT_DTYPE_BF16);
    struct tr_model *model = NULL;
    int err = build(spec, inputs, conf, SLICE_SAMPLES, &model);
    uint32_t slice = err ? SLICE_SAMPLES : slice_for(model);
    if (slice != SLICE_SAMPLES) { /* which is known only now */
        tr_model_destroy(model);
        err = build(spec, inputs, conf, slice, &model);
    }
    if (!err)
        err = allocate(model);
    if (!err)
        err = allocate_sums(model);
    if (!err)
        err = prepare_products(model, conf->precision);
    if (err) {
        tr_model_destroy(model);
        return err;
    }
    place_params(model);
    init_params(model, conf->seed);
    *out = model;
    return 0;
}

void tr_model_destroy(struct tr_model *model)
{
    if (!model)
        return;
    for (uint32_t i = 0; model->sequence && i < model->n_features; i++)
        rt_free(model->sequence[i].sum);
    tr_backend_release(&model->backend);
    rt_free(model->memory);
    rt_free(model->params);
    rt_free(model->grads);
    rt_arena_destroy(model->arena);
    rt_free(model);
}

/* ---- a step ---- */

/* Samples first..first+samples of a batch. */
struct slice {
    const struct tr_batch_view *batch;
    uint32_t first, samples;
};

static void copy_column(tr_real *to, const tr_real *from, uint32_t samples, uint32_t stride)
{
    for (uint32_t s = 0; s < samples; s++)
        to[s] = from[(size_t)s * stride];
}

/* Where a slice of a feature begins in the caller's memory. */
static void *slice_of(const void *whole, const struct slice *slice, uint32_t width, uint32_t dtype)
{
    return (char *)(uintptr_t)whole + (size_t)slice->first * width * tr_element(dtype);
}

static void bind_feature(struct tr_model *model, const struct slice *slice, uint32_t i)
{
    struct tr_value *feature = &model->feature[i];
    if (model->sequence[i].length) {
        tr_sequence_bind(model, i, slice->batch, slice->first, slice->samples);
        return;
    }
    void *data = slice_of(slice->batch->feature[i], slice, feature->width, model->feature_dtype);
    if (model->feature_dtype == RT_DTYPE_F32)
        feature->data = data;
    else if (feature->readers)
        tr_widen(model->feature_dtype, data, feature->data,
                 (size_t)slice->samples * feature->width);
}

static void bind_inputs(struct tr_model *model, const struct slice *slice)
{
    const struct tr_batch_view *batch = slice->batch;
    const tr_real *dense = batch->dense + (size_t)slice->first * model->n_dense;
    const tr_real *labels = batch->labels + (size_t)slice->first * model->n_labels;
    model->dense.data = (tr_real *)dense;
    for (uint32_t i = 0; i < model->n_dense; i++)
        if (model->dense_column[i].readers)
            copy_column(model->dense_column[i].data, dense + i, slice->samples, model->n_dense);
    for (uint32_t i = 0; i < model->n_features; i++)
        bind_feature(model, slice, i);
    if (model->n_labels == 1)
        model->label[0].data = (tr_real *)labels;
    for (uint32_t i = 0; model->n_labels > 1 && i < model->n_labels; i++)
        if (model->label[i].readers)
            copy_column(model->label[i].data, labels + i, slice->samples, model->n_labels);
}

static struct tr_pass pass_of(struct tr_model *model, const struct slice *slice, bool training)
{
    return (struct tr_pass){
        .backend = &model->backend,
        .samples = slice->samples,
        .first = slice->first,
        .training = training,
        .draw = slice->batch->draw,
        .add_params = slice->first > 0,
        .weight = slice->batch->weight ? slice->batch->weight + slice->first : NULL,
    };
}

/* Of one sample: y[classes] are probabilities. */
static void put_wide(const struct tr_head *head, const tr_real *y, tr_real label, tr_real *to)
{
    uint32_t most = 0;
    for (uint32_t c = 1; c < head->classes; c++)
        most = y[c] > y[most] ? c : most;
    to[TR_WIDE_LABEL] = y[(uint32_t)label];
    to[TR_WIDE_CLASS] = (tr_real)most;
    to[TR_WIDE_MOST] = y[most];
}

static void put_scores(const struct tr_model *model, const struct tr_layer *loss, uint32_t samples,
                       tr_real *to)
{
    const struct tr_head *head = loss->head;
    const tr_real *y = loss->out.data, *label = model->label[head->label].data;
    for (uint32_t s = 0; s < samples; s++, y += loss->out.stride, to += model->score_columns) {
        if (tr_head_is_wide(head))
            put_wide(head, y, label[s], to + head->first);
        else
            memcpy(to + head->first, y, head->columns * sizeof(tr_real));
    }
}

/* What a loss has come to. */
static void take_head(const struct tr_model *model, const struct tr_layer *loss,
                      const struct slice *slice, double loss_sum, struct tr_forward_out *out)
{
    const struct tr_head *head = loss->head;
    const struct tr_value *in = loss->in[0];
    for (uint32_t s = 0; out->logit && head == model->head && s < slice->samples; s++)
        out->logit[slice->first + s] = in->data[s * in->stride];
    if (out->score)
        put_scores(model, loss, slice->samples,
                   out->score + (size_t)slice->first * model->score_columns);
    out->head_loss[head - model->head] += loss_sum;
    out->loss_sum += head->weight * loss_sum;
}

static int forward(struct tr_model *model, const struct slice *slice, bool training,
                   struct tr_forward_out *out)
{
    struct tr_pass pass = pass_of(model, slice, training);
    bind_inputs(model, slice);
    for (uint32_t i = 0; i < model->n_layers; i++) {
        struct tr_layer *layer = &model->layer[i];
        int err = layer->type->forward(layer, &pass);
        if (err)
            return rt_fail_prefix(err, "layer '%s', forward: ", layer->name);
        if (layer->head)
            take_head(model, layer, slice, pass.loss_sum, out);
    }
    return 0;
}

static void clear_losses(struct tr_forward_out *out)
{
    out->loss_sum = 0;
    memset(out->head_loss, 0, sizeof out->head_loss);
}

static void bind_grads(struct tr_model *model, const struct slice *slice,
                       const struct tr_feature_grad *feature_grad)
{
    uint32_t dtype = model->feature_grad_dtype;
    for (uint32_t i = 0; i < model->n_features; i++) {
        struct tr_value *feature = &model->feature[i];
        feature->grad = NULL;
        feature->written = false;
        if (feature_grad && feature->readers && model->sequence[i].length)
            feature->grad = model->feature_space[i];
        if (!feature_grad || model->sequence[i].length)
            continue;
        size_t n = (size_t)slice->samples * feature->width;
        void *out = slice_of(feature_grad[i].out, slice, feature->width, dtype);
        if (!feature->readers)
            memset(out, 0, n * tr_element(dtype));
        else
            feature->grad = dtype == RT_DTYPE_F32 ? out : model->feature_space[i];
    }
    for (uint32_t i = 0; i < model->n_layers; i++)
        model->layer[i].out.written = false;
}

/* settling: NULL but in the last slice. */
static int backward(struct tr_model *model, const struct slice *slice, double scale,
                    const struct tr_feature_grad *feature_grad, struct tr_settling *settling)
{
    struct tr_pass pass = pass_of(model, slice, true);
    pass.share = slice->batch->samples * scale;
    pass.settling = settling;
    bind_grads(model, slice, feature_grad);
    for (uint32_t i = model->n_layers; i-- > 0;) {
        struct tr_layer *layer = &model->layer[i];
        if (!layer->type->loss && !layer->out.grad)
            continue; /* nothing trainable in it or before it */
        pass.scale = layer->head ? scale * layer->head->weight : 0;
        int err = layer->type->backward(layer, &pass);
        if (err)
            return rt_fail_prefix(err, "layer '%s', backward: ", layer->name);
        if (layer->n_params > 0)
            tr_pass_settled(&pass, layer, 0);
    }
    return 0;
}

static uint64_t count_over(const tr_real *value, size_t n, float max)
{
    uint64_t over = 0;
    for (size_t i = 0; i < n; i++)
        over += fabs(value[i]) > max;
    return over;
}

/* At most SLICE_SAMPLES samples, whatever the slice: the scale does not depend on the threads. Zeros say nothing of it.
 * Return: how many were too large. */
static uint64_t narrow_some(uint32_t dtype, const tr_real *value, size_t n,
                            struct tr_feature_grad *grad, void *out)
{
    static const float largest[] = {[RT_DTYPE_F16] = 65504, [RT_DTYPE_BF16] = 0x1.fep127f};
    if (dtype == RT_DTYPE_F16 && grad->scale == 0 && !tr_within(value, n, 0))
        grad->scale = tr_narrow_scale(value, n) * F16_ROOM;
    float scale = grad->scale > 0 ? grad->scale : 1;
    float max = fminf(largest[dtype] / scale, FLT_MAX);
    tr_narrow(dtype, scale, value, out, n);
    return tr_within(value, n, max) ? 0 : count_over(value, n, max);
}

/* The gradients of a slice, which are finite, to where they are wanted. */
static uint64_t narrow_slice(struct tr_model *model, const struct slice *slice,
                             struct tr_feature_grad *feature_grad)
{
    uint64_t saturated = 0;
    for (uint32_t i = 0; i < model->n_features; i++) {
        const struct tr_value *feature = &model->feature[i];
        if (!feature->grad || model->sequence[i].length)
            continue;
        uint16_t *out = slice_of(feature_grad[i].out, slice, feature->width, RT_DTYPE_F16);
        for (uint32_t s = 0; s < slice->samples; s += SLICE_SAMPLES) {
            size_t at = (size_t)s * feature->width;
            size_t n = (size_t)at_most(slice->samples - s, SLICE_SAMPLES) * feature->width;
            saturated += narrow_some(model->feature_grad_dtype, feature->grad + at, n,
                                     &feature_grad[i], out + at);
        }
    }
    return saturated;
}

static void clear_sums(struct tr_model *model, const struct tr_batch_view *batch,
                       struct tr_feature_grad *feature_grad)
{
    for (uint32_t i = 0; feature_grad && i < model->n_features; i++)
        if (model->sequence[i].length)
            tr_sequence_clear(model, i, batch, &feature_grad[i]);
}

static void add_sums(struct tr_model *model, const struct slice *slice,
                     struct tr_feature_grad *feature_grad)
{
    for (uint32_t i = 0; feature_grad && i < model->n_features; i++)
        if (model->sequence[i].length)
            tr_sequence_add(model, i, slice->batch, slice->first, slice->samples, &feature_grad[i]);
}

static uint64_t narrow_sums(struct tr_model *model, const struct tr_batch_view *batch,
                            struct tr_feature_grad *feature_grad)
{
    uint64_t saturated = 0;
    for (uint32_t i = 0; i < model->n_features; i++)
        if (model->sequence[i].length)
            saturated += tr_sequence_narrow(model, i, batch, &feature_grad[i]);
    return saturated;
}

/* 0: not chosen yet. */
static void forget_scales(struct tr_feature_grad *feature_grad, uint32_t n)
{
    for (uint32_t i = 0; feature_grad && i < n; i++)
        feature_grad[i].scale = 0;
}

static void settle_scales(struct tr_feature_grad *feature_grad, uint32_t n)
{
    for (uint32_t i = 0; feature_grad && i < n; i++)
        if (feature_grad[i].scale == 0)
            feature_grad[i].scale = 1;
}

int tr_model_forward(struct tr_model *model, const struct tr_batch_view *batch,
                     struct tr_forward_out *out)
{
    rt_assert(batch->samples >= 1 && batch->samples <= model->samples_max);
    int err = 0;
    clear_losses(out);
    tr_backend_begin(&model->backend);
    for (uint32_t first = 0; !err && first < batch->samples; first += model->slice) {
        struct slice slice = {batch, first, at_most(batch->samples - first, model->slice)};
        uint64_t at = rt_trace_begin(batch->batch_id);
        err = forward(model, &slice, false, out);
        rt_trace_span(batch->batch_id, 0, "forward", at);
    }
    return err;
}

int tr_model_train(struct tr_model *model, const struct tr_batch_view *batch,
                   uint64_t global_samples, struct tr_feature_grad *feature_grad,
                   struct tr_forward_out *out)
{
    bool narrow = feature_grad && model->feature_grad_dtype != RT_DTYPE_F32;
    struct tr_settling settling = {model, batch->settled, model->count, true};
    rt_assert(global_samples >= 1);
    rt_assert(batch->samples >= 1 && batch->samples <= model->samples_max);
    int err = 0;
    clear_losses(out);
    out->finite = true;
    out->saturated = 0;
    forget_scales(feature_grad, model->n_features);
    clear_sums(model, batch, feature_grad);
    tr_backend_begin(&model->backend);
    for (uint32_t first = 0; !err && first < batch->samples; first += model->slice) {
        struct slice slice = {batch, first, at_most(batch->samples - first, model->slice)};
        bool last = first + slice.samples == batch->samples;
        uint64_t at = rt_trace_begin(batch->batch_id);
        err = forward(model, &slice, true, out);
        at = rt_trace_span(batch->batch_id, 0, "forward", at);
        if (!err)
            err = backward(model, &slice, 1.0 / (double)global_samples, feature_grad,
                           last ? &settling : NULL);
        if (!err)
            out->finite &= tr_finite_features(model, slice.samples);
        if (!err)
            add_sums(model, &slice, feature_grad);
        if (!err && narrow && out->finite)
            out->saturated += narrow_slice(model, &slice, feature_grad);
        rt_trace_span(batch->batch_id, 0, "backward", at);
    }
    if (!err && narrow && out->finite)
        out->saturated += narrow_sums(model, batch, feature_grad);
    settle_scales(feature_grad, model->n_features);
    if (!err)
        tr_settle(&settling, 0);
    out->finite &= isfinite(out->loss_sum) && settling.finite;
    return err;
}

/* ---- looking at it ---- */

tr_real *tr_model_params(struct tr_model *model)
{
    return model->params;
}

tr_real *tr_model_grads(struct tr_model *model)
{
    return model->grads;
}

size_t tr_model_count(const struct tr_model *model)
{
    return model->count;
}

const struct tr_param *tr_model_tensors(const struct tr_model *model, size_t *n)
{
    *n = model->n_tensors;
    return model->tensor;
}

const struct tr_head *tr_model_heads(const struct tr_model *model, uint32_t *n)
{
    *n = model->n_heads;
    return model->head;
}

uint32_t tr_model_score_columns(const struct tr_model *model)
{
    return model->score_columns;
}

void tr_model_clear_grads(struct tr_model *model)
{
    memset(model->grads, 0, model->count * sizeof(tr_real));
}
