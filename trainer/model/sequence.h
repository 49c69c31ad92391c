/* trainer/model/sequence.h -- features that are sequences: distinct rows and an index outside, [samples][max_length][dim]
 * and a mask inside. Private to trainer/model/.
 *
 * Called for a batch's slices in their order, from its first sample on: where a slice's places begin in the index follows from the
 * one before. Gradients of a row are added place after place in float32, so their bits do not depend on threads. */
#ifndef TR_SEQUENCE_H
#define TR_SEQUENCE_H

#include "trainer/model/model.h"

#include <stdbool.h>

struct tr_value;

/* Of feature f of a model, length 0: it is pooled. */
struct tr_sequence {
    uint32_t length, dim;  /* most places of a sample; width of a row */
    struct tr_value *mask; /* NAME.mask, [samples][length] of 0 and 1 */
    tr_real *sum;          /* [rows][dim] where gradients are wanted in 16 bits; ours */
    size_t begin, end;     /* of the slice, in the index */
};

/* Rows of the slice first..first + samples into feature->data, zeros after the last one of a sample; the mask likewise. */
void tr_sequence_bind(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                      uint32_t first, uint32_t samples);
/* Sums of a batch from zero; those of the slice that was bound last; and into grad->out and grad->scale, where they are not
 * made there. Return of the last: how many were too large for 16 bits. */
void tr_sequence_clear(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                       struct tr_feature_grad *grad);
void tr_sequence_add(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                     uint32_t first, uint32_t samples, struct tr_feature_grad *grad);
uint64_t tr_sequence_narrow(struct tr_model *model, uint32_t f, const struct tr_batch_view *batch,
                            struct tr_feature_grad *grad);

#endif
