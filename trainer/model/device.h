/* trainer/model/device.h -- a model whose tensors lie in a GPU's memory. Private to trainer/model/.
 *
 * The layers are the same, and call the same operations, of another backend (backend/gpu.h); a batch is one slice. What a batch brings is copied to one
 * of two slots, so that the next one's may come while this one is computed; a pass is run once as it is, which allocates what
 * is missing, then recorded for each slot and shape of batch, and played from then on. Parameters and gradients have a mirror in the
 * host's memory, for all who save, compare and sum them: copied when somebody asks and they have changed since. */
#ifndef TR_DEVICE_H
#define TR_DEVICE_H

#include "trainer/model/model.h"

struct tr_device;

struct tr_backend;
int tr_device_backend(struct tr_backend *backend, const struct tr_model_conf *conf);
/* The model is built; its tensors have no place yet: they get one here (model->params, grads, memory). RT_ENOMEM, RT_EBACKEND. */
int tr_device_create(struct tr_model *model, const struct tr_model_conf *conf, size_t floats);
/* After the parameters have their first values, in tr_device_params(): tables, slots. */
int tr_device_prepare(struct tr_model *model);
void tr_device_destroy(struct tr_device *device); /* NULL is legal */

/* As tr_model_forward() and tr_model_train(), which come here. */
int tr_device_forward(struct tr_model *model, const struct tr_batch_view *batch,
                      struct tr_forward_out *out);
int tr_device_train(struct tr_model *model, const struct tr_batch_view *batch,
                    uint64_t global_samples, struct tr_feature_grad *feature_grad,
                    struct tr_forward_out *out);
int tr_device_stage(struct tr_model *model, struct tr_batch_view *batch);
int tr_device_land(struct tr_model *model);

/* The mirrors; who has them may write to them until the next step. That of the parameters is made current. */
tr_real *tr_device_params(struct tr_device *device);
tr_real *tr_device_grads(struct tr_device *device);
int tr_device_fetch_grads(struct tr_device *device); /* make it current */
int tr_device_vectors(struct tr_device *device, tr_real **grads, tr_real **params);
void tr_device_stepped(struct tr_device *device); /* the parameters there are newer now */

#endif
