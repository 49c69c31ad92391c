/* trainer/model/device.c -- see device.h: memory, mirrors, and what is made of a batch. */
#ifndef TR_REAL_DOUBLE /* device_none.c */

#include "trainer/model/device.h"

#include <string.h>
#include <unistd.h>

#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "trainer/model/build.h"
#include "trainer/model/convert.h"
#include "trainer/model/device_impl.h"

/* ---- mirrors ---- */

static int fetch(struct tr_device *device, tr_real *to, const tr_real *from)
{
    const struct tr_gpu *gpu = device->gpu;
    int err =
        gpu->download(device->cuda, TR_GPU_COMPUTE, to, from, device->model->count * sizeof *to);
    if (!err)
        err = gpu->mark(device->cuda, TR_GPU_COMPUTE, device->fetched);
    return err ? err : gpu->wait(device->cuda, device->fetched);
}

/* What may have been written there. */
static int close_mirror(struct tr_device *device, struct tr_mirror *mirror)
{
    if (!mirror->written)
        return 0;
    mirror->written = false;
    return device->gpu->upload(device->cuda, TR_GPU_COMPUTE, mirror->device, mirror->host,
                               device->model->count * sizeof *mirror->host);
}

/* Whoever reads what is not current would save it, or compare it: there is nothing left to do but to be started again. */
tr_real *tr_device_params(struct tr_device *device)
{
    struct tr_mirror *params = &device->params;
    if (params->old && fetch(device, params->host, params->device) != 0) {
        rt_log(RT_LOG_ERROR, "gpu_lost reason=\"%s\"", rt_err_text());
        _exit(1);
    }
    params->old = false;
    params->written = true;
    return params->host;
}

tr_real *tr_device_grads(struct tr_device *device)
{
    device->grads.written = true;
    return device->grads.host;
}

int tr_device_fetch_grads(struct tr_device *device)
{
    device->grads.written = true;
    return fetch(device, device->grads.host, device->grads.device);
}

int tr_device_close_params(struct tr_device *device)
{
    return close_mirror(device, &device->params);
}

int tr_device_vectors(struct tr_device *device, tr_real **grads, tr_real **params)
{
    int err = close_mirror(device, &device->params);
    if (!err)
        err = close_mirror(device, &device->grads);
    *grads = device->grads.device;
    *params = device->params.device;
    return err;
}

void tr_device_stepped(struct tr_device *device)
{
    device->params.old = true;
    device->params.written = false;
}

/* ---- memory ---- */

static int make_mirror(struct tr_device *device, struct tr_mirror *mirror, const char *what)
{
    size_t bytes = (device->model->count ? device->model->count : 1) * sizeof(tr_real);
    void *memory = NULL;
    int err = device->gpu->host_alloc(device->cuda, bytes, what, &memory);
    mirror->host = memory;
    memory = NULL;
    if (!err)
        err = device->gpu->alloc(device->cuda, bytes, what, &memory);
    mirror->device = memory;
    return err;
}

int tr_device_backend(struct tr_backend *backend, const struct tr_model_conf *conf)
{
    *backend = (struct tr_backend){
        .ops = conf->gpu->ops,
        .loops = conf->gpu->loops,
        .losses = conf->gpu->losses,
        .threads = 1,
        .precision = RT_DTYPE_F32,
        .cuda = conf->cuda,
    };
    return 0;
}

int tr_device_create(struct tr_model *model, const struct tr_model_conf *conf, size_t floats)
{
    struct tr_device *device = model->device = rt_xcalloc(1, sizeof *device);
    void *memory = NULL;
    device->gpu = conf->gpu;
    device->cuda = conf->cuda;
    device->model = model;
    int err = make_mirror(device, &device->params, "the parameters");
    if (!err)
        err = make_mirror(device, &device->grads, "the parameters' gradients");
    if (!err)
        err = conf->gpu->alloc(conf->cuda, floats * sizeof(tr_real), "activations", &memory);
    if (!err)
        err = conf->gpu->mark_create(conf->cuda, &device->fetched);
    if (!err)
        err = conf->gpu->mark_create(conf->cuda, &device->computed);
    model->params = device->params.device;
    model->grads = device->grads.device;
    model->memory = memory;
    return err;
}

/* ---- tables ---- */

static int host_and_device(struct tr_device *device, size_t bytes, const char *what, void **host,
                           void **there)
{
    int err = device->gpu->host_alloc(device->cuda, bytes, what, host);
    return err ? err : device->gpu->alloc(device->cuda, bytes, what, there);
}

/* What tensors there are, for the finite check. */
static int make_spans(struct tr_device *device)
{
    const struct tr_model *model = device->model;
    struct tr_span *span = rt_xcalloc(model->n_tensors + 1, sizeof *span);
    for (size_t t = 0; t < model->n_tensors; t++)
        span[t] = (struct tr_span){.offset = model->tensor[t].offset,
                                   .count = model->tensor[t].count,
                                   .momentum = model->tensor[t].momentum};
    int err = device->gpu->spans_init(device->cuda, span, model->n_tensors, &device->spans);
    rt_free(span);
    return err;
}

static int make_sums(struct tr_device *device)
{
    const struct tr_model *model = device->model;
    bool narrow = model->feature_grad_dtype != RT_DTYPE_F32;
    int err = 0;
    device->sum = rt_xcalloc(model->n_features + 1, sizeof(void *));
    for (uint32_t i = 0; !err && i < model->n_features; i++) {
        size_t floats = (size_t)model->samples_max * model->feature[i].width;
        if (model->sequence[i].length && narrow)
            err = device->gpu->alloc(device->cuda, floats * sizeof(tr_real), model->feature[i].name,
                                     &device->sum[i]);
    }
    return err;
}

static int make_results(struct tr_device *device)
{
    const struct tr_model *model = device->model;
    size_t scores = (size_t)model->samples_max * model->score_columns * sizeof(tr_real);
    void *memory = NULL;
    int err = host_and_device(device, TR_HEADS_MAX * sizeof(double), "losses",
                              (void **)&device->loss, (void **)&device->loss_there);
    if (!err)
        err = device->gpu->alloc(device->cuda, scores, "scores", &memory);
    device->score = memory;
    if (!err)
        err = device->gpu->alloc(device->cuda, model->samples_max * sizeof(tr_real), "logits",
                                 &memory);
    device->logit = memory;
    return err;
}

int tr_device_prepare(struct tr_model *model)
{
    struct tr_device *device = model->device;
    int err = make_spans(device);
    if (!err)
        err = make_sums(device);
    if (!err)
        err = make_results(device);
    for (uint32_t s = 0; !err && s < TR_DEVICE_SLOTS; s++)
        err = tr_slot_make(device, &device->slot[s]);
    return err;
}

void tr_device_destroy(struct tr_device *device)
{
    if (!device)
        return;
    const struct tr_gpu *gpu = device->gpu;
    for (uint32_t s = 0; s < TR_DEVICE_SLOTS; s++)
        tr_slot_release(device, &device->slot[s]);
    gpu->host_free(device->cuda, device->params.host);
    gpu->host_free(device->cuda, device->grads.host);
    gpu->host_free(device->cuda, device->loss);
    gpu->mark_destroy(device->fetched);
    gpu->mark_destroy(device->computed);
    rt_free(device->sum);
    rt_free(device);
}

#endif
