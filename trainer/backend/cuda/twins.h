/* trainer/backend/cuda/twins.h -- bfloat16 copies of float32 tensors, found by the tensor's address.
 *
 * A twin has rows of a multiple of 16 bytes, whatever the tensor's are, as tensor cores want them; what is beyond the columns is 0. What it holds
 * is of one pass (from one tr_cuda_begin to the next) and has to be made anew in each: `made`. Memory is the device's, taken in the warm-up
 * and kept until the end; a batch of fewer samples takes the same. Touch: the step thread. */
#ifndef TR_CUDA_TWINS_H
#define TR_CUDA_TWINS_H

#include "trainer/backend/cuda/device.h"

struct tr_twin {
    const float *of;
    size_t of_stride;
    uint32_t columns, rows; /* room for so many */
    uint16_t *half;
    size_t stride;      /* of half */
    uint64_t made;      /* the pass that it is of; */
    uint32_t made_rows; /* so many */
    void *mask;         /* which elements are over 0: gemm.h; NULL: none yet */
    uint64_t masked;    /* the pass that mask is of */
    uint64_t settled;   /* the pass in which a mask was applied to it: it is a gradient */
    struct tr_twin *next;
};

#define TR_TWIN_BUCKETS 256u

struct tr_twins {
    struct tr_twin *twin[TR_TWIN_BUCKETS];
};

static inline size_t tr_twin_stride(uint32_t columns)
{
    return ((size_t)columns + 7) / 8 * 8;
}

struct tr_twin *tr_twin_find(const struct tr_twins *twins, const float *of, size_t stride,
                             uint32_t columns);
/* The same, made where there is none, or none with so much room. RT_ENOMEM; RT_EBACKEND: a graph is captured. */
int tr_twin_room(struct tr_cuda *cuda, struct tr_twins *twins, const float *of, size_t stride,
                 uint32_t rows, uint32_t columns, struct tr_twin **out);
int tr_twin_mask_room(struct tr_cuda *cuda, struct tr_twin *twin);
void tr_twins_forget(struct tr_twins *twins);

#endif
