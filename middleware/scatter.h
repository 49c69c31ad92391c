/* middleware/scatter.h -- gradients of pooled embeddings -> summed gradient of each distinct row.
 *
 * The backward of pool.h: sum += (scale * inverse * weight) * gradient[s] for every id of sample s, in the order
 * of occurrence, onto what is there: the caller zeroes the sums once, then adds feature after feature. Gradients are read
 * in their dtype; `inverse` is 1 / what they were multiplied by before they were narrowed. The bits are the same on
 * every instruction set. Touch: any thread. */
#ifndef MW_SCATTER_H
#define MW_SCATTER_H

#include "middleware/bag.h"

/* @gradient: sample_dtype[samples][dim]   @sum: [distinct] each -> float32[dim], added to; may not overlap
 * Of the bags, row_dtype is not looked at. */
void mw_scatter(const struct mw_bags *bags, const void *gradient, float inverse, float *const *sum);

/* The same compiled for each instruction set; mw_scatter picks one by rt_cpu_isa(). */
void mw_scatter_plain(const struct mw_bags *bags, const void *gradient, float inverse,
                      float *const *sum);
void mw_scatter_avx2(const struct mw_bags *bags, const void *gradient, float inverse,
                     float *const *sum);
void mw_scatter_avx512(const struct mw_bags *bags, const void *gradient, float inverse,
                       float *const *sum);

#endif
