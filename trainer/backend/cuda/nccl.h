/* trainer/backend/cuda/nccl.h -- the communicator's functions, for the table of what is loaded; the casts that are theirs. */
#ifndef TR_CUDA_NCCL_H
#define TR_CUDA_NCCL_H

#include "trainer/backend/cuda/device.h"
#include "trainer/collective/nccl_api.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const struct tr_nccl_api tr_cuda_nccl;

/* reduce_casts.cu: float32 to bfloat16, rounded to the nearest, ties to even, and back: the same bits as runtime/base/half.h. Queued on `stream`. */
int tr_cuda_reduce_narrow(struct tr_cuda *cuda, cudaStream_t stream, const float *from,
                          uint16_t *to, size_t n);
int tr_cuda_reduce_widen(struct tr_cuda *cuda, cudaStream_t stream, const uint16_t *from, float *to,
                         size_t n);

#ifdef __cplusplus
}
#endif

#endif
