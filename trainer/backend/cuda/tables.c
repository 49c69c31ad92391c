/* trainer/backend/cuda/tables.c -- backend.h's three tables for a GPU. An operation that no file defines is NULL: weak. */
#include "trainer/backend/cuda/operations.h"

#pragma weak tr_cuda_prepare
#pragma weak tr_cuda_begin
#pragma weak tr_cuda_release
#pragma weak tr_cuda_linear_forward
#pragma weak tr_cuda_linear_backward
#pragma weak tr_cuda_dot_forward
#pragma weak tr_cuda_dot_backward
#pragma weak tr_cuda_bce_forward
#pragma weak tr_cuda_bce_backward
#pragma weak tr_cuda_act_forward
#pragma weak tr_cuda_act_backward
#pragma weak tr_cuda_copy
#pragma weak tr_cuda_mul_forward
#pragma weak tr_cuda_mul_backward
#pragma weak tr_cuda_reduce_forward
#pragma weak tr_cuda_reduce_backward
#pragma weak tr_cuda_softmax_forward
#pragma weak tr_cuda_softmax_backward
#pragma weak tr_cuda_layernorm_forward
#pragma weak tr_cuda_layernorm_backward
#pragma weak tr_cuda_moments
#pragma weak tr_cuda_norm_take
#pragma weak tr_cuda_norm_bring
#pragma weak tr_cuda_batchnorm_forward
#pragma weak tr_cuda_batchnorm_backward
#pragma weak tr_cuda_dice_forward
#pragma weak tr_cuda_dice_backward
#pragma weak tr_cuda_dropout
#pragma weak tr_cuda_masked_pool_forward
#pragma weak tr_cuda_masked_pool_backward
#pragma weak tr_cuda_clear
#pragma weak tr_cuda_cross_forward
#pragma weak tr_cuda_cross_backward
#pragma weak tr_cuda_fm_forward
#pragma weak tr_cuda_fm_backward
#pragma weak tr_cuda_mix_forward
#pragma weak tr_cuda_mix_backward
#pragma weak tr_cuda_attention_forward
#pragma weak tr_cuda_attention_backward
#pragma weak tr_cuda_din_forward
#pragma weak tr_cuda_din_backward
#pragma weak tr_cuda_bce_product_forward
#pragma weak tr_cuda_bce_product_backward
#pragma weak tr_cuda_mse_forward
#pragma weak tr_cuda_mse_backward
#pragma weak tr_cuda_softmax_ce_forward
#pragma weak tr_cuda_softmax_ce_backward

const struct tr_backend_ops tr_cuda_ops = {
    .name = "cuda",
    .prepare = tr_cuda_prepare,
    .begin = tr_cuda_begin,
    .release = tr_cuda_release,
    .linear_forward = tr_cuda_linear_forward,
    .linear_backward = tr_cuda_linear_backward,
    .dot_forward = tr_cuda_dot_forward,
    .dot_backward = tr_cuda_dot_backward,
    .bce_forward = tr_cuda_bce_forward,
    .bce_backward = tr_cuda_bce_backward,
};

const struct tr_backend_loops tr_cuda_loops = {
    .act_forward = tr_cuda_act_forward,
    .act_backward = tr_cuda_act_backward,
    .copy = tr_cuda_copy,
    .mul_forward = tr_cuda_mul_forward,
    .mul_backward = tr_cuda_mul_backward,
    .reduce_forward = tr_cuda_reduce_forward,
    .reduce_backward = tr_cuda_reduce_backward,
    .softmax_forward = tr_cuda_softmax_forward,
    .softmax_backward = tr_cuda_softmax_backward,
    .layernorm_forward = tr_cuda_layernorm_forward,
    .layernorm_backward = tr_cuda_layernorm_backward,
    .moments = tr_cuda_moments,
    .norm_take = tr_cuda_norm_take,
    .norm_bring = tr_cuda_norm_bring,
    .batchnorm_forward = tr_cuda_batchnorm_forward,
    .batchnorm_backward = tr_cuda_batchnorm_backward,
    .dice_forward = tr_cuda_dice_forward,
    .dice_backward = tr_cuda_dice_backward,
    .dropout = tr_cuda_dropout,
    .masked_pool_forward = tr_cuda_masked_pool_forward,
    .masked_pool_backward = tr_cuda_masked_pool_backward,
    .clear = tr_cuda_clear,
    .cross_forward = tr_cuda_cross_forward,
    .cross_backward = tr_cuda_cross_backward,
    .fm_forward = tr_cuda_fm_forward,
    .fm_backward = tr_cuda_fm_backward,
    .mix_forward = tr_cuda_mix_forward,
    .mix_backward = tr_cuda_mix_backward,
    .attention_forward = tr_cuda_attention_forward,
    .attention_backward = tr_cuda_attention_backward,
    .din_forward = tr_cuda_din_forward,
    .din_backward = tr_cuda_din_backward,
};

const struct tr_backend_losses tr_cuda_losses = {
    .bce_product_forward = tr_cuda_bce_product_forward,
    .bce_product_backward = tr_cuda_bce_product_backward,
    .mse_forward = tr_cuda_mse_forward,
    .mse_backward = tr_cuda_mse_backward,
    .softmax_ce_forward = tr_cuda_softmax_ce_forward,
    .softmax_ce_backward = tr_cuda_softmax_ce_backward,
};
