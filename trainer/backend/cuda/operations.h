/* trainer/backend/cuda/operations.h -- the operations of backend.h on a GPU, each in the file of its family: named as in the tables,
 * with tr_cuda_ before. They queue work on the device's stream and return. */
#ifndef TR_CUDA_OPERATIONS_H
#define TR_CUDA_OPERATIONS_H

#include "trainer/backend/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

int tr_cuda_prepare(struct tr_backend *backend, const struct tr_space *space);
void tr_cuda_begin(struct tr_backend *backend);
void tr_cuda_release(struct tr_backend *backend);
int tr_cuda_linear_forward(struct tr_backend *backend, const struct tr_linear *op);
int tr_cuda_linear_backward(struct tr_backend *backend, const struct tr_linear_grad *op);
int tr_cuda_dot_forward(struct tr_backend *backend, const struct tr_dot *op);
int tr_cuda_dot_backward(struct tr_backend *backend, const struct tr_dot_grad *op);
int tr_cuda_bce_forward(struct tr_backend *backend, struct tr_bce *op);
int tr_cuda_bce_backward(struct tr_backend *backend, const struct tr_bce_grad *op);

int tr_cuda_act_forward(struct tr_backend *backend, const struct tr_act *op);
int tr_cuda_act_backward(struct tr_backend *backend, const struct tr_act_grad *op);
int tr_cuda_copy(struct tr_backend *backend, const struct tr_copy *op);
int tr_cuda_mul_forward(struct tr_backend *backend, const struct tr_mul *op);
int tr_cuda_mul_backward(struct tr_backend *backend, const struct tr_mul_grad *op);
int tr_cuda_reduce_forward(struct tr_backend *backend, const struct tr_reduce *op);
int tr_cuda_reduce_backward(struct tr_backend *backend, const struct tr_reduce_grad *op);
int tr_cuda_softmax_forward(struct tr_backend *backend, const struct tr_softmax *op);
int tr_cuda_softmax_backward(struct tr_backend *backend, const struct tr_softmax_grad *op);
int tr_cuda_layernorm_forward(struct tr_backend *backend, const struct tr_layernorm *op);
int tr_cuda_layernorm_backward(struct tr_backend *backend, const struct tr_layernorm_grad *op);
int tr_cuda_moments(struct tr_backend *backend, const struct tr_moments *op);
int tr_cuda_norm_take(struct tr_backend *backend, const struct tr_norm_take *op);
int tr_cuda_norm_bring(struct tr_backend *backend, const struct tr_norm_bring *op);
int tr_cuda_batchnorm_forward(struct tr_backend *backend, const struct tr_batchnorm *op);
int tr_cuda_batchnorm_backward(struct tr_backend *backend, const struct tr_batchnorm_grad *op);
int tr_cuda_dice_forward(struct tr_backend *backend, const struct tr_dice *op);
int tr_cuda_dice_backward(struct tr_backend *backend, const struct tr_dice_grad *op);
int tr_cuda_dropout(struct tr_backend *backend, const struct tr_dropout *op);
int tr_cuda_masked_pool_forward(struct tr_backend *backend, const struct tr_masked_pool *op);
int tr_cuda_masked_pool_backward(struct tr_backend *backend, const struct tr_masked_pool_grad *op);
int tr_cuda_clear(struct tr_backend *backend, const struct tr_clear *op);
int tr_cuda_cross_forward(struct tr_backend *backend, const struct tr_cross *op);
int tr_cuda_cross_backward(struct tr_backend *backend, const struct tr_cross_grad *op);
int tr_cuda_fm_forward(struct tr_backend *backend, const struct tr_fm *op);
int tr_cuda_fm_backward(struct tr_backend *backend, const struct tr_fm_grad *op);
int tr_cuda_mix_forward(struct tr_backend *backend, const struct tr_mix *op);
int tr_cuda_mix_backward(struct tr_backend *backend, const struct tr_mix_grad *op);
int tr_cuda_attention_forward(struct tr_backend *backend, const struct tr_attention *op);
int tr_cuda_attention_backward(struct tr_backend *backend, const struct tr_attention_grad *op);
int tr_cuda_din_forward(struct tr_backend *backend, const struct tr_din *op);
int tr_cuda_din_backward(struct tr_backend *backend, const struct tr_din_grad *op);

int tr_cuda_bce_product_forward(struct tr_backend *backend, struct tr_bce_product *op);
int tr_cuda_bce_product_backward(struct tr_backend *backend, const struct tr_bce_product_grad *op);
int tr_cuda_mse_forward(struct tr_backend *backend, struct tr_mse *op);
int tr_cuda_mse_backward(struct tr_backend *backend, const struct tr_mse_grad *op);
int tr_cuda_softmax_ce_forward(struct tr_backend *backend, struct tr_softmax_ce *op);
int tr_cuda_softmax_ce_backward(struct tr_backend *backend, const struct tr_softmax_ce_grad *op);

extern const struct tr_backend_ops tr_cuda_ops;
extern const struct tr_backend_loops tr_cuda_loops;
extern const struct tr_backend_losses tr_cuda_losses;

#ifdef __cplusplus
}
#endif

#endif
