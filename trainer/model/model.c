/* trainer/model/model.c -- a built model's memory.
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
#define SLICE_LARGE     512u /* per thread, where they do not */
/* Parameters of which this is said: 1 MiB, half an L2 cache of a server. */
#define SLICE_PARAMS (1u << 18)

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
    bool narrow_in = model->on_gpu || model->feature_dtype != RT_DTYPE_F32;
    bool narrow_out = model->on_gpu || model->feature_grad_dtype != RT_DTYPE_F32;
    bool ok = true;
    if (feature->readers && (sequence->length || narrow_in))
        ok = cut_piece(base, used, floats, &feature->data);
    if (ok && feature->readers && (sequence->length || narrow_out))
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
    bool wanted = !model->on_gpu && model->feature_grad_dtype != RT_DTYPE_F32;
    for (uint32_t i = 0; wanted && i < model->n_features; i++) {
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

static int allocate_on_host(struct tr_model *model, size_t bytes)
{
    size_t count = model->count ? model->count : 1;
    model->memory = rt_try_aligned(bytes);
    if (!model->is_lane)
        model->params = rt_try_aligned(count * sizeof(tr_real));
    model->grads = rt_try_aligned(count * sizeof(tr_real));
    if (!model->memory || !model->params || !model->grads)
        return RT_FAIL(RT_ENOMEM,
                       "model: no memory for %zu parameters and %zu MiB of activations "
                       "(%u samples)",
                       model->count, bytes >> 20, model->slice);
    memset(model->memory, 0, bytes);
    tr_model_clear_grads(model);
    return 0;
}

static int allocate(struct tr_model *model, const struct tr_model_conf *conf)
{
    size_t floats = 0, bytes = 0;
    if (!cut_memory(model, NULL, &floats) || !rt_mul_size(floats, sizeof(tr_real), &bytes))
        return RT_FAIL(RT_ELIMIT, "model: activations of %u samples overflow", model->slice);
    int err =
        model->on_gpu ? tr_device_create(model, conf, floats) : allocate_on_host(model, bytes);
    if (err)
        return err;
    cut_memory(model, model->memory, &floats);
    move_in(model);
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
    tr_real *params = tr_model_params(model);
    for (size_t t = 0; t < model->n_tensors; t++) {
        const struct tr_param *tensor = &model->tensor[t];
        uint64_t key = rt_draw_key(seed, "init", tensor->name);
        tr_real bound = (tr_real)model->start[t].bound, middle = (tr_real)model->start[t].middle;
        for (size_t i = 0; i < tensor->count; i++)
            params[tensor->offset + i] = middle + (2 * rt_unit_f32(rt_draw(key, i)) - 1) * bound;
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
    model->on_gpu = conf->gpu != NULL;
    model->feature_dtype = conf->feature_dtype;
    model->feature_grad_dtype = conf->feature_grad_dtype;
    model->gradient_max = conf->gradient_max > 0 ? conf->gradient_max : FLT_MAX;
    model->feature_gradient_max =
        conf->feature_gradient_max > 0 ? conf->feature_gradient_max : FLT_MAX;
}

/* All but its memory, for slices of this many samples for each thread of its products. */
static int build(const struct tr_spec *spec, const struct tr_model_inputs *inputs,
                 const struct tr_model_conf *conf, uint32_t slice, int threads,
                 struct tr_model **out)
{
    struct tr_model *model = *out = rt_xcalloc(1, sizeof *model);
    init_conf(model, conf);
    model->n_lanes = 1;
    int err = conf->gpu ? tr_device_backend(&model->backend, conf)
                        : tr_backend_init(&model->backend, conf->backend, threads);
    if (!err)
        model->slice = at_most(model->samples_max, slice * (uint32_t)model->backend.threads);
    if (!err)
        err = rt_arena_create(MODEL_ARENA_MAX, &model->arena);
    return err ? err : tr_build_model(model, spec, inputs);
}

/* Samples of a slice for each thread; `build` takes no more than there are. */
static uint32_t slice_for(const struct tr_model *model)
{
    if (model->whole_batch || model->on_gpu)
        return TR_SAMPLES_MAX;
    return model->count > SLICE_PARAMS ? SLICE_LARGE : TR_SLICE_SAMPLES;
}

/* May each thread have a part of a batch for itself? */
static bool may_be_parted(const struct tr_model *model)
{
    for (uint32_t i = 0; i < model->n_features; i++)
        if (model->sequence[i].length)
            return false;
    return !model->whole_batch && !model->on_gpu && model->feature_grad_dtype != RT_DTYPE_F16;
}

static int place(struct tr_model *model, const struct tr_model_conf *conf)
{
    int err = allocate(model, conf);
    if (!err)
        err = allocate_sums(model);
    if (!err)
        err = prepare_products(model, conf->precision);
    if (!err)
        place_params(model);
    return err;
}

/* The copies that the other threads do their part in. */
static int make_lanes(struct tr_model *model, const struct tr_spec *spec,
                      const struct tr_model_inputs *inputs, const struct tr_model_conf *conf,
                      uint32_t slice)
{
    uint32_t lanes = (uint32_t)conf->threads;
    model->lane = rt_xcalloc(lanes, sizeof(struct tr_model *));
    for (model->n_lanes = 1; model->n_lanes < lanes; model->n_lanes++) {
        struct tr_model **lane = &model->lane[model->n_lanes];
        int err = build(spec, inputs, conf, slice, 1, lane);
        (*lane)->is_lane = true;
        (*lane)->params = model->params;
        if (!err)
            err = place(*lane, conf);
        if (err) {
            tr_model_destroy(*lane);
            return err;
        }
    }
    return 0;
}

/* How it is cut and shared out is known when it was built once. */
static int create(const struct tr_spec *spec, const struct tr_model_inputs *inputs,
                  const struct tr_model_conf *conf, struct tr_model **out)
{
    int err = build(spec, inputs, conf, TR_SLICE_SAMPLES, 1, out);
    if (err)
        return err;
    uint32_t slice = slice_for(*out);
    bool parted = conf->threads > 1 && may_be_parted(*out);
    int threads = parted || conf->gpu || conf->threads < 1 ? 1 : conf->threads;
    if (slice != TR_SLICE_SAMPLES || threads > 1) {
        tr_model_destroy(*out);
        err = build(spec, inputs, conf, slice, threads, out);
    }
    if (!err)
        err = place(*out, conf);
    if (!err)
        init_params(*out, conf->seed);
    if (!err && conf->gpu)
        err = tr_device_prepare(*out);
    if (!err && parted)
        err = make_lanes(*out, spec, inputs, conf, slice);
    return err ? err : tr_parts_create(*out);
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
    int err = create(spec, inputs, conf, &model);
    if (err)
        tr_model_destroy(model);
    else
        *out = model;
    return err;
}

void tr_model_destroy(struct tr_model *model)
{
    if (!model)
        return;
    tr_parts_destroy(model);
    for (uint32_t i = 1; model->lane && i < model->n_lanes; i++)
        tr_model_destroy(model->lane[i]);
    rt_free(model->lane);
    for (uint32_t i = 0; model->sequence && i < model->n_features; i++)
        rt_free(model->sequence[i].sum);
    tr_backend_release(&model->backend);
    if (model->on_gpu) {
        tr_device_destroy(model->device);
    } else {
        rt_free(model->memory);
        if (!model->is_lane)
            rt_free(model->params);
        rt_free(model->grads);
    }
    rt_arena_destroy(model->arena);
    rt_free(model);
}

/* ---- looking at it ---- */

tr_real *tr_model_params(struct tr_model *model)
{
    return model->on_gpu ? tr_device_params(model->device) : model->params;
}

tr_real *tr_model_grads(struct tr_model *model)
{
    return model->on_gpu ? tr_device_grads(model->device) : model->grads;
}

int tr_model_fetch_grads(struct tr_model *model)
{
    return model->on_gpu ? tr_device_fetch_grads(model->device) : 0;
}

int tr_model_vectors(struct tr_model *model, tr_real **grads, tr_real **params)
{
    *grads = model->grads;
    *params = model->params;
    return model->on_gpu ? tr_device_vectors(model->device, grads, params) : 0;
}

void tr_model_stepped(struct tr_model *model)
{
    if (model->on_gpu)
        tr_device_stepped(model->device);
}

int tr_model_land(struct tr_model *model)
{
    return model->on_gpu ? tr_device_land(model) : 0;
}

int tr_model_stage(struct tr_model *model, struct tr_batch_view *batch)
{
    return model->on_gpu ? tr_device_stage(model, batch) : 0;
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
    memset(tr_model_grads(model), 0, model->count * sizeof(tr_real));
}
