/* trainer/backend/cpu/rounded.h -- products of operands that are rounded to bfloat16, to the nearest even; sums are float32.
 *
 * Parameters are rounded once a step, all of them; x and dy as each product comes, into memory of ours without gaps. Where the CPU
 * multiplies bfloat16 the rounded values stay 16 bits wide and oneDNN's matmul primitives take them. Elsewhere they
 * are widened again and multiplied by sgemm: the product of two bfloat16 values is exact in float32, so both differ in the
 * order of their sums alone.
 * Ownership: all memory is made in create, for `rows` samples at a time; longer operands go in parts.
 * Return: 0, RT_ENOMEM, RT_EBACKEND. Touch: the step thread. */
#ifndef TR_ROUNDED_H
#define TR_ROUNDED_H

#include "trainer/backend/backend.h"

enum tr_rounded_kind {
    TR_ROUNDED_SGEMM, /* widened, by sgemm */
    TR_ROUNDED_WIDE, /* widened, by primitives: what a CPU without bfloat16 can show of the next one, for tests */
    TR_ROUNDED_NATIVE, /* bfloat16, by primitives */
    TR_ROUNDED_BEST    /* the last one where it can be, else the first */
};

struct tr_rounded;
int tr_rounded_create(const struct tr_space *space, enum tr_rounded_kind kind,
                      struct tr_rounded **out);
void tr_rounded_destroy(struct tr_rounded *rounded);
enum tr_rounded_kind tr_rounded_kind(const struct tr_rounded *rounded);
uint32_t tr_rounded_rows(const struct tr_rounded *rounded); /* space->rows */

/* Round the parameters: before the first product of a batch. */
void tr_rounded_begin(struct tr_rounded *rounded);

/* x w^T of at most `rows` samples. It is in op's z (where that is kept, else y), or in memory that is good until the next
 * call: *out, *stride. w is one of the parameters. */
int tr_rounded_forward(struct tr_backend *backend, const struct tr_linear *op, const float **out,
                       size_t *stride);
/* dw and dx of any number of samples, not db. */
int tr_rounded_backward(struct tr_backend *backend, const struct tr_linear_grad *op);

/* [rows][columns] with gaps -> without, rounded: uint16_t of bfloat16, or float where `wide`. */
void tr_round_rows(const float *from, size_t stride, uint32_t rows, uint32_t columns, bool wide,
                   void *to);

#endif
