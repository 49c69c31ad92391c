/* trainer/backend/cuda/casts.h -- float32 to bfloat16, and what is done to tensors that are in bfloat16 alone (twins.h).
 *
 * Rounded to the nearest, ties to even; no finite value becomes infinity (runtime/base/half.h). A matrix of halves begins at a
 * multiple of 16 bytes, and so does each of its rows. Return: 0 or RT_EBACKEND. Touch: the step thread. */
#ifndef TR_CUDA_CASTS_H
#define TR_CUDA_CASTS_H

#include "trainer/backend/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

struct tr_halves {
    uint32_t rows, columns;
    uint16_t *at;
    size_t stride;
};

/* y = act(x), rounded; op->y and y_stride are not looked at. What y's rows have beyond the columns becomes 0. */
int tr_cuda_act_to_halves(struct tr_backend *backend, const struct tr_act *op, struct tr_halves y);
/* y = act(y) */
int tr_cuda_act_halves(struct tr_backend *backend, enum tr_act_kind kind, const float *slope,
                       struct tr_halves y);
/* dy = dy act'(x), op->dy and dy_stride not being looked at; y is NULL where op->x is what the gradient comes from. */
int tr_cuda_act_grad_halves(struct tr_backend *backend, const struct tr_act_grad *op,
                            const struct tr_halves *y, struct tr_halves dy);
/* sum[c] = (or +=) the sum of column c. */
int tr_cuda_sum_halves(struct tr_backend *backend, struct tr_halves x, float *sum, bool add);
int tr_cuda_sum_floats(struct tr_backend *backend, const float *x, size_t stride, uint32_t rows,
                       uint32_t columns, float *sum, bool add);
/* Each row of y becomes b. */
int tr_cuda_spread_halves(struct tr_backend *backend, const float *b, struct tr_halves y);
int tr_cuda_spread_floats(struct tr_backend *backend, const float *b, uint32_t rows,
                          uint32_t columns, float *y, size_t stride);

#ifdef __cplusplus
}
#endif

#endif
