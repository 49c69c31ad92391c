/* trainer/model/device_none.c -- in float64 (backend/real.h) there is no GPU, and nobody asks for one. */
#ifdef TR_REAL_DOUBLE

#include "runtime/base/err.h"
#include "trainer/model/device.h"

#define NONE RT_EBACKEND

int tr_device_backend(struct tr_backend *backend, const struct tr_model_conf *conf)
{
    (void)backend, (void)conf;
    return NONE;
}

int tr_device_create(struct tr_model *model, const struct tr_model_conf *conf, size_t floats)
{
    (void)model, (void)conf, (void)floats;
    return NONE;
}

int tr_device_prepare(struct tr_model *model)
{
    (void)model;
    return NONE;
}

void tr_device_destroy(struct tr_device *device)
{
    (void)device;
}

int tr_device_forward(struct tr_model *model, const struct tr_batch_view *batch,
                      struct tr_forward_out *out)
{
    (void)model, (void)batch, (void)out;
    return NONE;
}

int tr_device_train(struct tr_model *model, const struct tr_batch_view *batch,
                    uint64_t global_samples, struct tr_feature_grad *feature_grad,
                    struct tr_forward_out *out)
{
    (void)model, (void)batch, (void)global_samples, (void)feature_grad, (void)out;
    return NONE;
}

int tr_device_stage(struct tr_model *model, struct tr_batch_view *batch)
{
    (void)model, (void)batch;
    return NONE;
}

int tr_device_land(struct tr_model *model)
{
    (void)model;
    return NONE;
}

tr_real *tr_device_params(struct tr_device *device)
{
    (void)device;
    return NULL;
}

tr_real *tr_device_grads(struct tr_device *device)
{
    (void)device;
    return NULL;
}

int tr_device_fetch_grads(struct tr_device *device)
{
    (void)device;
    return NONE;
}

int tr_device_vectors(struct tr_device *device, tr_real **grads, tr_real **params)
{
    (void)device, (void)grads, (void)params;
    return NONE;
}

void tr_device_stepped(struct tr_device *device)
{
    (void)device;
}

#endif
