/* trainer/backend/cpu/matmul.h -- matrix products by oneDNN: its sgemm, and its matmul primitives, made once and kept.
 *
 * sgemm takes float32 in any strides and needs no plan. The primitives take float32 or bfloat16, without gaps between
 * rows, and a `kept` right side is laid out once for all products until its version changes.
 * Memory: a product of a new shape makes a primitive, and a kept side a copy of its size; the same product again allocates
 * nothing of ours, scratch included. oneDNN's sgemm takes packing space from malloc in each call; so do its matmul
 * primitives where it makes them of that (its implementation "gemm:jit": CPUs without AVX-512).
 * Only matmul.c calls oneDNN: its status becomes RT_EBACKEND there. Touch: the step thread. */
#ifndef TR_MATMUL_H
#define TR_MATMUL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* c[m][n] = a[m][k] b[k][n] (+ c when add); `ta`, `tb`: that side is stored transposed. */
struct tr_product {
    bool ta, tb, add;
    int64_t m, n, k;
    const void *a, *b;
    float *c;
    size_t lda, ldb, ldc; /* sgemm's: floats from one stored row to the next */
    bool bf16, kept;      /* the primitives' */
    uint64_t version;     /* of what is kept */
};

int tr_sgemm(int threads, const struct tr_product *p);

struct tr_matmul;
int tr_matmul_create(struct tr_matmul **out); /* RT_EBACKEND */
void tr_matmul_destroy(struct tr_matmul *matmul);
int tr_matmul_run(struct tr_matmul *matmul, int threads, const struct tr_product *p);

/* Whether this CPU multiplies bfloat16: AVX512-bf16 or AMX, and oneDNN makes use of it. */
bool tr_matmul_has_bf16(struct tr_matmul *matmul);

#endif
