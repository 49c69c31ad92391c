/* trainer/model/slot.c -- where the inputs of a batch lie on a device, and how they come there. */
#ifndef TR_REAL_DOUBLE /* device_none.c */

#include "trainer/model/device_impl.h"

#include "runtime/base/mem.h"
#include "trainer/model/build.h"
#include "trainer/model/convert.h"

size_t tr_numbers_rows(const struct tr_device *device)
{
    return tr_numbers_keys() + device->model->n_layers * sizeof(uint64_t);
}

static size_t numbers_bytes(const struct tr_device *device)
{
    return tr_numbers_rows(device) + device->model->n_features * sizeof(uint32_t);
}

/* ---- memory ---- */

static int get(struct tr_device *device, size_t bytes, const char *what, void *out)
{
    void *memory = NULL;
    int err = device->gpu->alloc(device->cuda, bytes, what, &memory);
    *(void **)out = memory;
    return err;
}

static int get_pinned(struct tr_device *device, size_t bytes, const char *what, void *out)
{
    void *memory = NULL;
    int err = device->gpu->host_alloc(device->cuda, bytes, what, &memory);
    *(void **)out = memory;
    return err;
}

/* A batch has at most as many rows as places. */
static int make_sequence(struct tr_device *device, struct tr_slot *slot, uint32_t i)
{
    const struct tr_model *model = device->model;
    const struct tr_sequence *of = &model->sequence[i];
    struct tr_slot_sequence *to = &slot->sequence[i];
    const char *name = model->feature[i].name;
    size_t samples = model->samples_max, places = samples * of->length, n = sizeof(uint32_t);
    to->row = slot->feature[i];
    to->rows = (uint32_t *)(slot->numbers + tr_numbers_rows(device)) + i;
    int err = get(device, places * n, name, &to->index);
    if (!err)
        err = get(device, (samples + 1) * n, name, &to->begin);
    if (!err)
        err = get(device, (places + 1) * n, name, &to->row_begin);
    if (!err)
        err = get(device, places * n, name, &to->place);
    if (!err)
        err = get_pinned(device, (samples + 1) * n, name, &to->begin_host);
    if (!err)
        err = get_pinned(device, (places + 1) * n, name, &to->row_begin_host);
    return err ? err : get_pinned(device, places * n, name, &to->place_host);
}

/* What is widened to where: in pinned memory, since it is copied later. */
static int make_table(struct tr_device *device, struct tr_slot *slot)
{
    const struct tr_model *model = device->model;
    size_t bytes = (model->n_features + 1) * sizeof *slot->table;
    struct tr_cuda_feature *host = NULL;
    uint32_t n = 0;
    int err = get_pinned(device, bytes, "features", &host);
    if (!err)
        err = get(device, bytes, "features", &slot->table);
    if (err) {
        device->gpu->host_free(device->cuda, host);
        return err;
    }
    device->width_max = 1;
    for (uint32_t i = 0; i < model->n_features; i++) {
        const struct tr_value *feature = &model->feature[i];
        if (model->sequence[i].length)
            continue;
        host[n++] = (struct tr_cuda_feature){
            slot->feature[i], feature->readers ? feature->data : NULL, feature->width};
        device->width_max = feature->width > device->width_max ? feature->width : device->width_max;
    }
    device->n_pooled = n;
    err = device->gpu->upload(device->cuda, TR_GPU_COMPUTE, slot->table, host, bytes);
    if (!err)
        err = device->gpu->mark(device->cuda, TR_GPU_COMPUTE, device->fetched);
    if (!err)
        err = device->gpu->wait(device->cuda, device->fetched);
    device->gpu->host_free(device->cuda, host);
    return err;
}

static int make_features(struct tr_device *device, struct tr_slot *slot)
{
    const struct tr_model *model = device->model;
    int err = 0;
    slot->feature = rt_xcalloc(model->n_features + 1, sizeof *slot->feature);
    slot->sequence = rt_xcalloc(model->n_features + 1, sizeof *slot->sequence);
    for (uint32_t i = 0; !err && i < model->n_features; i++) {
        size_t values = (size_t)model->samples_max * model->feature[i].width;
        err = get(device, values * tr_element(model->feature_dtype), model->feature[i].name,
                  &slot->feature[i]);
        if (!err && model->sequence[i].length)
            err = make_sequence(device, slot, i);
    }
    return err ? err : make_table(device, slot);
}

static int make_gradient(struct tr_device *device, struct tr_slot *slot, uint32_t i,
                         struct tr_cuda_gradient *of)
{
    const struct tr_model *model = device->model;
    const struct tr_value *feature = &model->feature[i];
    size_t bytes = (size_t)model->samples_max * feature->width;
    of->grad = feature->readers ? model->feature_space[i] : NULL;
    of->width = feature->width;
    int err = get(device, bytes * tr_element(model->feature_grad_dtype), feature->name,
                  &slot->grad_out[i]);
    of->out = model->sequence[i].length ? NULL : slot->grad_out[i];
    return err;
}

static int make_gradients(struct tr_device *device, struct tr_slot *slot)
{
    const struct tr_model *model = device->model;
    struct tr_cuda_gradient *of = rt_xcalloc(model->n_features + 1, sizeof *of);
    int err = 0;
    slot->grad_out = rt_xcalloc(model->n_features + 1, sizeof(void *));
    for (uint32_t i = 0; !err && i < model->n_features; i++)
        err = make_gradient(device, slot, i, &of[i]);
    slot->gradients = (struct tr_cuda_gradients){
        .n = model->n_features,
        .samples_max = model->samples_max,
        .dtype = model->feature_grad_dtype,
        .limit = model->feature_gradient_max,
        .gradient_max = model->gradient_max,
    };
    if (!err)
        err = device->gpu->gradients_init(device->cuda, of, &slot->gradients);
    if (!err)
        err = get_pinned(device, slot->gradients.outcome_bytes, "an outcome", &slot->outcome);
    rt_free(of);
    return err;
}

int tr_slot_make(struct tr_device *device, struct tr_slot *slot)
{
    const struct tr_model *model = device->model;
    size_t samples = model->samples_max, n = sizeof(tr_real);
    int err = get(device, samples * model->n_dense * n, "dense columns", &slot->dense);
    if (!err)
        err = get(device, samples * model->n_labels * n, "labels", &slot->labels);
    if (!err)
        err = get(device, samples * n, "weights of samples", &slot->weight);
    if (!err)
        err = get(device, numbers_bytes(device), "numbers of a step", &slot->numbers);
    if (!err)
        err = get_pinned(device, numbers_bytes(device), "numbers of a step", &slot->numbers_host);
    if (!err)
        err = device->gpu->mark_create(device->cuda, &slot->here);
    if (!err)
        err = device->gpu->mark_create(device->cuda, &slot->landed);
    if (!err)
        err = make_features(device, slot);
    return err ? err : make_gradients(device, slot);
}

/* Copies may be under way, to memory and from memory that others free next. */
void tr_slot_release(struct tr_device *device, struct tr_slot *slot)
{
    const struct tr_gpu *gpu = device->gpu;
    if (slot->here)
        (void)gpu->wait(device->cuda, slot->here);
    if (slot->landed)
        (void)gpu->wait(device->cuda, slot->landed);
    for (uint32_t i = 0; slot->sequence && i < device->model->n_features; i++) {
        gpu->host_free(device->cuda, slot->sequence[i].begin_host);
        gpu->host_free(device->cuda, slot->sequence[i].row_begin_host);
        gpu->host_free(device->cuda, slot->sequence[i].place_host);
    }
    for (uint32_t k = 0; k < slot->n_played; k++)
        gpu->recording_destroy(slot->played[k].recording);
    gpu->host_free(device->cuda, slot->numbers_host);
    gpu->host_free(device->cuda, slot->outcome);
    gpu->mark_destroy(slot->here);
    gpu->mark_destroy(slot->landed);
    rt_free(slot->grad_out);
    rt_free(slot->feature);
    rt_free(slot->sequence);
}

/* ---- a batch ---- */

static int put(struct tr_device *device, void *to, const void *from, size_t bytes)
{
    return bytes ? device->gpu->upload(device->cuda, TR_GPU_UP, to, from, bytes) : 0;
}

static int put_sequence(struct tr_device *device, struct tr_slot *slot, uint32_t i,
                        const struct tr_batch_view *batch)
{
    const struct tr_sequence *of = &device->model->sequence[i];
    const struct tr_sequence_view *view = &batch->sequence[i];
    struct tr_slot_sequence *to = &slot->sequence[i];
    size_t n = sizeof(uint32_t), row = of->dim * tr_element(device->model->feature_dtype);
    device->gpu->places(view, batch->samples, of->length, to->begin_host, to->row_begin_host,
                        to->place_host);
    size_t places = to->begin_host[batch->samples];
    int err = put(device, to->row, batch->feature[i], view->rows * row);
    if (!err)
        err = put(device, to->index, view->index, places * n);
    if (!err)
        err = put(device, to->begin, to->begin_host, ((size_t)batch->samples + 1) * n);
    if (!err)
        err = put(device, to->row_begin, to->row_begin_host, ((size_t)view->rows + 1) * n);
    return err ? err : put(device, to->place, to->place_host, places * n);
}

int tr_slot_fill(struct tr_device *device, struct tr_slot *slot, const struct tr_batch_view *batch)
{
    const struct tr_model *model = device->model;
    size_t samples = batch->samples, n = sizeof(tr_real);
    int err = put(device, slot->dense, batch->dense, samples * model->n_dense * n);
    if (!err)
        err = put(device, slot->labels, batch->labels, samples * model->n_labels * n);
    if (!err && batch->weight)
        err = put(device, slot->weight, batch->weight, samples * n);
    for (uint32_t i = 0; !err && i < model->n_features; i++) {
        size_t bytes = samples * model->feature[i].width * tr_element(model->feature_dtype);
        err = model->sequence[i].length ? put_sequence(device, slot, i, batch)
                                        : put(device, slot->feature[i], batch->feature[i], bytes);
    }
    return err ? err : device->gpu->mark(device->cuda, TR_GPU_UP, slot->here);
}

struct tr_slot *tr_slot_staged(struct tr_device *device, const struct tr_batch_view *batch)
{
    for (uint32_t s = 0; batch->staged && s < TR_DEVICE_SLOTS; s++)
        if (device->slot[s].ticket == batch->staged)
            return &device->slot[s];
    return NULL;
}

/* What a slot was given before may still be on its way to it, from memory that nobody holds any more when this returns. */
static int fill_next(struct tr_device *device, const struct tr_batch_view *batch,
                     struct tr_slot **out)
{
    struct tr_slot *slot = *out = &device->slot[device->turn];
    device->turn = (device->turn + 1) % TR_DEVICE_SLOTS;
    slot->ticket = 0;
    int err = device->gpu->wait(device->cuda, slot->here);
    return err ? err : tr_slot_fill(device, slot, batch);
}

int tr_slot_of(struct tr_device *device, const struct tr_batch_view *batch, struct tr_slot **out)
{
    *out = tr_slot_staged(device, batch);
    return *out ? 0 : fill_next(device, batch, out);
}

int tr_device_stage(struct tr_model *model, struct tr_batch_view *batch)
{
    struct tr_device *device = model->device;
    struct tr_slot *slot;
    if (tr_slot_staged(device, batch))
        return 0;
    batch->staged = 0;
    int err = fill_next(device, batch, &slot);
    if (!err)
        batch->staged = slot->ticket = ++device->tickets;
    return err;
}

#endif
