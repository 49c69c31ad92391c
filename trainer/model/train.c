/* trainer/model/train.c -- a batch through the network: forward, or forward and backward, a slice of samples at a time.
 *
 * A thread has a part of the batch, and a copy of the model to do it in (lanes.h): activations and gradients are its own, the
 * parameters all threads'. What a layer does beside its products is so shared out as well, and no thread waits for another within
 * a step; at its end the gradients are added up, in the order of the threads. Where samples are not a part's own business -
 * layers that look at all of them, sequences, whose places follow one another, float16, whose scale the first samples
 * choose - one model does it all, and threads share the products alone. Measured on two cores of Zen 3: HACKING.md. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"
#include "trainer/model/build.h"
#include "trainer/model/convert.h"
#include "trainer/model/lanes.h"
#include "trainer/model/settle.h"

#define F16_ROOM 0x1p-12f /* of the scale that half.h finds: struct tr_feature_grad */

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

/* Samples first..first+samples of a batch. */
struct slice {
    const struct tr_batch_view *batch;
    uint32_t first, samples;
    bool begins; /* its part of the batch */
};

/* What a thread has of a batch, samples first..end, and what came of it. */
struct tr_part {
    struct tr_model *model;
    const struct tr_batch_view *batch;
    uint32_t first, end;
    double scale; /* 1 / global samples; 0: forward alone */
    struct tr_feature_grad *feature_grad;
    struct tr_settling *settling; /* NULL: gradients are not complete yet at the end */
    struct tr_forward_out out;
    int err;
    char text[256]; /* its error: texts belong to threads */
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
        .add_params = !slice->begins,
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

static void clear_out(struct tr_forward_out *out)
{
    out->finite = true;
    out->landing = false;
    out->saturated = 0;
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

/* At most TR_SLICE_SAMPLES samples, whatever the slice: the scale does not depend on the threads. Zeros say nothing of it.
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
        for (uint32_t s = 0; s < slice->samples; s += TR_SLICE_SAMPLES) {
            size_t at = (size_t)s * feature->width;
            size_t n = (size_t)at_most(slice->samples - s, TR_SLICE_SAMPLES) * feature->width;
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

/* ---- a part of a batch, on its thread ---- */

static struct slice slice_at(const struct tr_part *part, uint32_t first)
{
    return (struct slice){.batch = part->batch,
                          .first = first,
                          .samples = at_most(part->end - first, part->model->slice),
                          .begins = first == part->first};
}

/* A row of the trace is one thread's. */
static uint64_t traced(const struct tr_part *part)
{
    return part->model->is_lane ? 0 : part->batch->batch_id;
}

static int forward_part(struct tr_part *part)
{
    uint64_t id = traced(part);
    int err = 0;
    for (uint32_t first = part->first; !err && first < part->end; first += part->model->slice) {
        struct slice slice = slice_at(part, first);
        uint64_t at = rt_trace_begin(id);
        err = forward(part->model, &slice, false, &part->out);
        rt_trace_span(id, 0, "forward", at);
    }
    return err;
}

static int train_slice(struct tr_part *part, const struct slice *slice)
{
    struct tr_model *model = part->model;
    struct tr_forward_out *out = &part->out;
    bool last = slice->first + slice->samples == part->end;
    bool narrow = part->feature_grad && model->feature_grad_dtype != RT_DTYPE_F32;
    uint64_t id = traced(part), at = rt_trace_begin(id);
    int err = forward(model, slice, true, out);
    at = rt_trace_span(id, 0, "forward", at);
    if (!err)
        err = backward(model, slice, part->scale, part->feature_grad, last ? part->settling : NULL);
    if (err)
        return err;
    out->finite &= tr_finite_features(model, slice->samples);
    add_sums(model, slice, part->feature_grad);
    if (narrow && out->finite)
        out->saturated += narrow_slice(model, slice, part->feature_grad);
    rt_trace_span(id, 0, "backward", at);
    return 0;
}

static int train_part(struct tr_part *part)
{
    int err = 0;
    if (part->first == part->end)
        tr_model_clear_grads(part->model);
    for (uint32_t first = part->first; !err && first < part->end; first += part->model->slice) {
        struct slice slice = slice_at(part, first);
        err = train_slice(part, &slice);
    }
    return err;
}

static void run_part(struct tr_part *part)
{
    tr_backend_begin(&part->model->backend);
    part->err = part->scale > 0 ? train_part(part) : forward_part(part);
    if (part->err)
        snprintf(part->text, sizeof part->text, "%s", rt_err_text());
}

/* ---- all parts ---- */

static void run_lane(void *arg, uint32_t lane)
{
    run_part((struct tr_part *)arg + lane);
}

static int run_parts(struct tr_model *model, const struct tr_part *whole)
{
    uint32_t lanes = model->n_lanes, samples = whole->batch->samples;
    for (uint32_t i = 0; i < lanes; i++) {
        model->part[i] = *whole;
        model->part[i].model = i ? model->lane[i] : model;
        model->part[i].first = (uint32_t)((uint64_t)samples * i / lanes);
        model->part[i].end = (uint32_t)((uint64_t)samples * (i + 1) / lanes);
    }
    if (lanes > 1)
        tr_lanes_run(model->lanes, run_lane, model->part);
    else
        run_part(model->part);
    for (uint32_t i = 0; i < lanes; i++)
        if (model->part[i].err)
            return RT_FAIL(model->part[i].err, "%s", model->part[i].text);
    return 0;
}

/* What came of all of them, in their order. */
static void take_parts(struct tr_model *model, struct tr_forward_out *out)
{
    for (uint32_t i = 0; i < model->n_lanes; i++) {
        const struct tr_forward_out *of = &model->part[i].out;
        out->loss_sum += of->loss_sum;
        for (uint32_t h = 0; h < model->n_heads; h++)
            out->head_loss[h] += of->head_loss[h];
        out->finite &= of->finite;
        out->saturated += of->saturated;
        for (uint32_t f = 0; i > 0 && !of->finite && f < model->n_features; f++)
            model->unfit[f] = model->unfit[f] || model->lane[i]->unfit[f];
    }
}

static void forget_unfit(struct tr_model *model)
{
    for (uint32_t i = 0; i < model->n_lanes; i++) {
        struct tr_model *of = i ? model->lane[i] : model;
        memset(of->unfit, 0, of->n_features * sizeof *of->unfit);
    }
}

bool tr_model_feature_is_unfit(const struct tr_model *model, uint32_t feature)
{
    return model->unfit[feature];
}

/* A lane adds up a piece of the vector. */
static void add_grads(void *arg, uint32_t lane)
{
    struct tr_model *model = arg;
    size_t from = model->count * lane / model->n_lanes;
    size_t end = model->count * (lane + 1) / model->n_lanes;
    for (uint32_t k = 1; k < model->n_lanes; k++) {
        const tr_real *more = model->lane[k]->grads;
        for (size_t i = from; i < end; i++)
            model->grads[i] += more[i];
    }
}

static struct tr_part whole_of(const struct tr_batch_view *batch, const struct tr_forward_out *out)
{
    return (struct tr_part){.batch = batch,
                            .out = {.logit = out->logit, .score = out->score, .finite = true}};
}

int tr_model_forward(struct tr_model *model, const struct tr_batch_view *batch,
                     struct tr_forward_out *out)
{
    if (model->on_gpu)
        return tr_device_forward(model, batch, out);
    struct tr_part whole = whole_of(batch, out);
    rt_assert(batch->samples >= 1 && batch->samples <= model->samples_max);
    clear_out(out);
    int err = run_parts(model, &whole);
    if (!err)
        take_parts(model, out);
    return err;
}

int tr_model_train(struct tr_model *model, const struct tr_batch_view *batch,
                   uint64_t global_samples, struct tr_feature_grad *feature_grad,
                   struct tr_forward_out *out)
{
    if (model->on_gpu)
        return tr_device_train(model, batch, global_samples, feature_grad, out);
    bool narrow = feature_grad && model->feature_grad_dtype != RT_DTYPE_F32;
    struct tr_settling settling = {model, batch->settled, model->count, true};
    struct tr_part whole = whole_of(batch, out);
    rt_assert(global_samples >= 1);
    rt_assert(batch->samples >= 1 && batch->samples <= model->samples_max);
    whole.scale = 1.0 / (double)global_samples;
    whole.feature_grad = feature_grad;
    whole.settling = model->n_lanes > 1 ? NULL : &settling;
    clear_out(out);
    forget_unfit(model);
    forget_scales(feature_grad, model->n_features);
    clear_sums(model, batch, feature_grad);
    int err = run_parts(model, &whole);
    if (!err && model->n_lanes > 1)
        tr_lanes_run(model->lanes, add_grads, model);
    if (!err)
        take_parts(model, out);
    if (!err && narrow && out->finite)
        out->saturated += narrow_sums(model, batch, feature_grad);
    settle_scales(feature_grad, model->n_features);
    if (!err)
        tr_settle(&settling, 0);
    out->finite &= isfinite(out->loss_sum) && settling.finite;
    return err;
}

/* ---- its memory ---- */

int tr_parts_create(struct tr_model *model)
{
    model->part = rt_try_calloc(model->n_lanes, sizeof *model->part);
    if (!model->part)
        return RT_FAIL(RT_ENOMEM, "model: no memory for the parts of %u threads", model->n_lanes);
    return model->n_lanes > 1 ? tr_lanes_create(model->n_lanes, &model->lanes) : 0;
}

void tr_parts_destroy(struct tr_model *model)
{
    tr_lanes_destroy(model->lanes);
    rt_free(model->part);
}
