/* trainer/backend/cuda/products.h -- what the matrix products of a device work with: cuBLASLt's plans, and bfloat16 copies.
 *
 * In float32 a product takes the tensors as they are. In bfloat16 it takes copies of x, w and dy ("twins"): of all parameters at once, by
 * tr_cuda_begin; of an x where the first product of a pass reads it, for all others of that pass, dw's included: so between two begins
 * an x does not change once it was read; of a dy in each backward, for dw and dx. What is hidden (struct tr_linear) has no other form than the twin:
 * the product writes it, float32 memory is not touched. Biases of hidden outputs are added in bfloat16, as the library wants them.
 * On its own stream a bias, relu, and relu's gradient between two hidden tensors are part of the product.
 * Return: 0, RT_EBACKEND, RT_ENOMEM. Touch: the step thread. */
#ifndef TR_CUDA_PRODUCTS_H
#define TR_CUDA_PRODUCTS_H

#include "trainer/backend/cuda/device.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TR_NOT_HIDDEN 1

/* act_backward where y and dy are twins. TR_NOT_HIDDEN: they are float32, and the caller's to do: op->hidden is not set, or products are
 * of float32. */
int tr_cuda_hidden_act_backward(struct tr_backend *backend, const struct tr_act_grad *op);

#ifdef __cplusplus
}
#else

/* ---- of linear.c and products.c ---- */

#include "trainer/backend/cuda/casts.h"
#include "trainer/backend/cuda/gemm.h"
#include "trainer/backend/cuda/twins.h"

struct tr_cuda_products {
    struct tr_gemms *gemms;
    struct tr_twins twins;
    struct tr_space space;
    uint16_t *params; /* [space.n_params] in bfloat16 */
    uint16_t *cast;   /* a dy, while its products are queued */
    size_t cast_bytes;
    uint64_t pass; /* counts begins */
    int begun;     /* what the latest one came to: it cannot tell */
};

/* One side of a product, as it is multiplied. */
struct tr_side {
    const void *at;
    size_t ld;
};

static inline struct tr_halves tr_halves_of(const struct tr_twin *twin, uint32_t rows)
{
    return (struct tr_halves){rows, twin->columns, twin->half, twin->stride};
}

/* Makes them where prepare was not called. */
int tr_cuda_products_get(struct tr_backend *backend, struct tr_cuda_products **out);

/* The twin of a tensor that is read, made of it where it has to be; of a hidden one, which has to be there. */
int tr_cuda_twin_of(struct tr_backend *backend, const float *of, size_t stride, uint32_t rows,
                    uint32_t columns, bool hidden, struct tr_twin **out);
/* That of one that a product is to write. */
int tr_cuda_twin_for(struct tr_backend *backend, const float *of, size_t stride, uint32_t rows,
                     uint32_t columns, struct tr_twin **out);
/* Parameters in bfloat16. A w [rows][columns] has rows of tr_twin_stride(columns), as its x has. */
int tr_cuda_half_weight(struct tr_backend *backend, const float *w, uint32_t rows, uint32_t columns,
                        struct tr_side *out);
int tr_cuda_half_bias(struct tr_backend *backend, const float *b, uint32_t columns,
                      struct tr_side *out);
/* A copy that is good until the next one. */
int tr_cuda_cast(struct tr_backend *backend, const float *x, size_t stride, uint32_t rows,
                 uint32_t columns, struct tr_halves *out);

#endif

#endif
