/* trainer/optimizer_device.c -- see optimizer_device.h. */
#include "trainer/optimizer_device.h"

#include <unistd.h>

#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

struct tr_optimizer_device {
    const struct tr_gpu *gpu;
    struct tr_cuda *cuda;
    struct tr_cuda_optimizer *optimizer;
    struct tr_gpu_mark *done;
    struct tr_optimizer_rates *rates, *rates_there; /* pinned; the device's */
    struct tr_cuda_stepped *stepped;                /* pinned */
    float *state;                                   /* the host's [slots][n] */
    size_t n, slots;
    bool old, written; /* the host's state is older than the device's; may have been written to */
};

static int wait(struct tr_optimizer_device *device)
{
    int err = device->gpu->mark(device->cuda, TR_GPU_COMPUTE, device->done);
    return err ? err : device->gpu->wait(device->cuda, device->done);
}

void tr_optimizer_device_open(struct tr_optimizer_device *device)
{
    int err = 0;
    for (size_t k = 0; device->old && !err && k < device->slots; k++)
        err = device->gpu->download(device->cuda, TR_GPU_COMPUTE, device->state + k * device->n,
                                    device->gpu->optimizer_slot(device->optimizer, k),
                                    device->n * sizeof *device->state);
    if (!err && device->old)
        err = wait(device);
    if (err) {
        rt_log(RT_LOG_ERROR, "gpu_lost reason=\"%s\"", rt_err_text());
        _exit(1);
    }
    device->old = false;
    device->written = true;
}

static int close_state(struct tr_optimizer_device *device)
{
    int err = 0;
    for (size_t k = 0; device->written && !err && k < device->slots; k++)
        err = device->gpu->upload(device->cuda, TR_GPU_COMPUTE,
                                  device->gpu->optimizer_slot(device->optimizer, k),
                                  device->state + k * device->n, device->n * sizeof *device->state);
    device->written = device->written && err;
    return err;
}

int tr_optimizer_device_prepare(struct tr_optimizer_device *device,
                                const struct tr_optimizer_rates *rates)
{
    *device->rates = *rates;
    int err = close_state(device);
    return err ? err
               : device->gpu->upload(device->cuda, TR_GPU_COMPUTE, device->rates_there,
                                     device->rates, sizeof *rates);
}

int tr_optimizer_device_queue(struct tr_optimizer_device *device, struct tr_backend *backend,
                              const float *grad, float *param, const uint32_t *finite)
{
    const struct tr_gpu *gpu = device->gpu;
    int err =
        gpu->optimizer_queue(device->optimizer, backend, device->rates_there, grad, param, finite);
    return err ? err
               : gpu->download(device->cuda, TR_GPU_COMPUTE, device->stepped,
                               gpu->optimizer_stepped(device->optimizer), sizeof *device->stepped);
}

int tr_optimizer_device_stepped(struct tr_optimizer_device *device, double *grad_norm)
{
    *grad_norm = device->stepped->grad_norm;
    if (!device->stepped->stepped)
        return RT_FAIL(RT_EDATA, "optimizer: a gradient is not finite; nothing was changed");
    device->old = true;
    return 0;
}

int tr_optimizer_device_step(struct tr_optimizer_device *device,
                             const struct tr_optimizer_rates *rates, const float *grad,
                             float *param, double *grad_norm)
{
    struct tr_backend backend = {.cuda = device->cuda};
    int err = tr_optimizer_device_prepare(device, rates);
    if (!err)
        err = tr_optimizer_device_queue(device, &backend, grad, param, NULL);
    if (!err)
        err = wait(device);
    return err ? err : tr_optimizer_device_stepped(device, grad_norm);
}

int tr_optimizer_device_create(const struct tr_gpu *gpu, struct tr_cuda *cuda,
                               const struct tr_optimizer_conf *conf, size_t n, size_t slots,
                               const struct tr_span *span, size_t n_spans, float *state,
                               struct tr_optimizer_device **out)
{
    struct tr_optimizer_device *device = rt_xcalloc(1, sizeof *device);
    void *memory[3] = {NULL};
    *device = (struct tr_optimizer_device){.gpu = gpu, .cuda = cuda, .state = state, .n = n};
    device->slots = slots;
    device->written = true;
    int err = gpu->optimizer_create(cuda, conf, n, span, n_spans, &device->optimizer);
    if (!err)
        err = gpu->mark_create(cuda, &device->done);
    if (!err)
        err = gpu->host_alloc(cuda, sizeof *device->rates, "an optimizer's rates", &memory[0]);
    if (!err)
        err = gpu->alloc(cuda, sizeof *device->rates, "an optimizer's rates", &memory[1]);
    if (!err)
        err = gpu->host_alloc(cuda, sizeof *device->stepped, "what a step made", &memory[2]);
    device->rates = memory[0];
    device->rates_there = memory[1];
    device->stepped = memory[2];
    if (err)
        tr_optimizer_device_destroy(device);
    else
        *out = device;
    return err;
}

void tr_optimizer_device_destroy(struct tr_optimizer_device *device)
{
    if (!device)
        return;
    device->gpu->optimizer_destroy(device->optimizer);
    device->gpu->mark_destroy(device->done);
    device->gpu->host_free(device->cuda, device->rates);
    device->gpu->host_free(device->cuda, device->stepped);
    rt_free(device);
}
