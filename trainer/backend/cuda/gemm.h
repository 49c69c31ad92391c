/* trainer/backend/cuda/gemm.h -- a matrix product by cuBLASLt: described in rows, its algorithm chosen once and kept.
 *
 *     struct tr_gemm p = {.m = samples, .n = outputs, .k = inputs, .tb = true, .a = x, .b = w, .d = y,
 *                         .lda = inputs, .ldb = inputs, .ldd = outputs, .epilogue = CUBLASLT_EPILOGUE_BIAS, .vector = b};
 *
 * Return: 0, RT_EBACKEND, RT_ENOMEM, or TR_GEMM_NONE. Touch: the step thread; products are queued on cuda->compute. */
#ifndef TR_CUDA_GEMM_H
#define TR_CUDA_GEMM_H

#include <cublasLt.h>

#include "trainer/backend/cuda/device.h"

#define TR_GEMM_NONE 1 /* the library has no such product: nothing was queued, try a plainer one */

/* d[m][n] = a[m][k] b[k][n] (+ d when add), row-major; `ta`, `tb`: that side is stored transposed. */
struct tr_gemm {
    uint32_t m, n, k;
    bool ta, tb, add;
    bool half;     /* a and b are bfloat16, else float32 */
    bool half_out; /* d is */
    const void *a, *b;
    void *d;
    size_t lda, ldb, ldd; /* elements from one stored row to the next */
    cublasLtEpilogue_t epilogue;
    void *
        vector; /* d's type: BIAS [n], added to each row; BGRADB [m], set to the sums of a's rows */
    void *
        mask; /* RELU_AUX: which elements of d are over 0, a bit each, is kept here; DRELU: was kept here */
    size_t mask_ld; /* bits of a row: tr_gemm_mask_ld() */
};

static inline size_t tr_gemm_mask_ld(uint32_t columns)
{
    return ((size_t)columns + 127) / 128 * 128;
}

struct tr_gemms;
int tr_gemms_create(struct tr_cuda *cuda, struct tr_gemms **out);
void tr_gemms_destroy(struct tr_gemms *gemms); /* not what is queued yet: wait for that before */

int tr_gemm_run(struct tr_gemms *gemms, const struct tr_gemm *gemm);

#endif
