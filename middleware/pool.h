/* middleware/pool.h -- rows of distinct ids -> one pooled embedding per sample.
 *
 * out[s] = scale * (weight * row + weight * row ...), in the order of occurrence, from zero; an empty bag
 * gives zeros. Rows are read in their dtype, the sum is float32 and narrowed once (half.h: to the nearest). The bits are
 * the same on every instruction set. Touch: any thread. */
#ifndef MW_POOL_H
#define MW_POOL_H

#include "middleware/bag.h"

/* @row: [distinct] each -> row_dtype[dim]   @out: sample_dtype[samples][dim] */
void mw_pool(const struct mw_bags *bags, const void *const *row, void *out);

/* The same compiled for each instruction set; mw_pool picks one by rt_cpu_isa(). */
void mw_pool_plain(const struct mw_bags *bags, const void *const *row, void *out);
void mw_pool_avx2(const struct mw_bags *bags, const void *const *row, void *out);
void mw_pool_avx512(const struct mw_bags *bags, const void *const *row, void *out);

#endif
