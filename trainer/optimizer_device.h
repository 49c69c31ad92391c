/* trainer/optimizer_device.h -- the part of a dense optimizer that is on a GPU: its state, and the step. Private to trainer/optimizer.c. */
#ifndef TR_OPTIMIZER_DEVICE_H
#define TR_OPTIMIZER_DEVICE_H

#include "trainer/backend/gpu.h"

struct tr_optimizer_device;

/* state: the host's [slots][n], which is copied there before the first step. RT_ENOMEM, RT_EBACKEND. */
int tr_optimizer_device_create(const struct tr_gpu *gpu, struct tr_cuda *cuda,
                               const struct tr_optimizer_conf *conf, size_t n, size_t slots,
                               const struct tr_span *span, size_t n_spans, float *state,
                               struct tr_optimizer_device **out);
void tr_optimizer_device_destroy(struct tr_optimizer_device *device); /* NULL is legal */

/* A step in three: what changes from step to step; the step, which may be recorded, and is skipped where *finite is 0 (NULL: it counts as 1); and, once the
 * compute queue has come to its end, what became of it. The pointers are to the device's memory. stepped: RT_EDATA: the gradients were not finite, and
 * nothing was changed. */
int tr_optimizer_device_prepare(struct tr_optimizer_device *device,
                                const struct tr_optimizer_rates *rates);
int tr_optimizer_device_queue(struct tr_optimizer_device *device, struct tr_backend *backend,
                              const float *grad, float *param, const uint32_t *finite);
int tr_optimizer_device_stepped(struct tr_optimizer_device *device, double *grad_norm);
/* All three, and waits. grad, param: the device's. RT_EDATA: they were not finite, and nothing was changed. */
int tr_optimizer_device_step(struct tr_optimizer_device *device,
                             const struct tr_optimizer_rates *rates, const float *grad,
                             float *param, double *grad_norm);
/* The host's state is what the device's is; who has it may write to it until the next step. A GPU that fails ends the process (model.h). */
void tr_optimizer_device_open(struct tr_optimizer_device *device);

#endif
