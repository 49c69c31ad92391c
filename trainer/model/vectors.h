/* trainer/model/vectors.h -- the inputs of a layer that takes vectors of one width: several tensors, or the rows of one; perhaps
 * behind other inputs. Private to trainer/model/. */
#ifndef TR_VECTORS_H
#define TR_VECTORS_H

#include "trainer/model/layer.h"

#define TR_VECTORS_MAX 1024u /* 523,776 pairs */

struct tr_vectors {
    uint32_t first, inputs; /* which of the layer's inputs, and how many of them */
    uint32_t n, dim;
    const tr_real **x; /* [n], filled in each pass: features bring their own memory */
    size_t *stride;    /* [n] of x and dx */
    tr_real **dx;      /* [n] */
    bool *add;         /* [n] */
};

/* 2..TR_VECTORS_MAX of them, of one width: `inputs` of the layer's inputs, of which there are so many, from `first` on. */
int tr_vectors_build(struct tr_build *build, const struct tr_layer *layer, uint32_t first,
                     uint32_t inputs, struct tr_vectors *out);
void tr_vectors_bind(const struct tr_layer *layer, struct tr_vectors *vectors);
/* dx and add, in a backward pass: once. */
void tr_vectors_bind_grad(const struct tr_layer *layer, struct tr_vectors *vectors);

#endif
