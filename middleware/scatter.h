/* middleware/scatter.h -- gradients of pooled embeddings -> summed gradient of each distinct row.
 *
 * The backward of pool.h: row += (scale * weight) * gradient[s] for every id of sample s, in the order of
 * occurrence, onto what is there: the caller zeroes the rows once, then adds feature after feature. The
 * bits are the same on every instruction set. Touch: any thread. */
#ifndef MW_SCATTER_H
#define MW_SCATTER_H

#include "middleware/bag.h"

/* @gradient: [samples][dim]   @row: [distinct] each -> float32[dim], added to; may not overlap */
void mw_scatter(const struct mw_bags *bags, const float *gradient, float *const *row);

/* The same compiled for each instruction set; mw_scatter picks one by rt_cpu_isa(). */
void mw_scatter_plain(const struct mw_bags *bags, const float *gradient, float *const *row);
void mw_scatter_avx2(const struct mw_bags *bags, const float *gradient, float *const *row);
void mw_scatter_avx512(const struct mw_bags *bags, const float *gradient, float *const *row);

#endif
