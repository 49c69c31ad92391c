/* middleware/bag.h -- the ids of one feature over the samples of a batch, as positions of rows.
 *
 * Sample s has length[s] ids (its bag), one after the other in slot[] and weight[]. What a bag counts for:
 * every row times scale(n) of its n ids -- sum 1, mean 1/n, sqrtn 1/sqrt(n) -- and times the id's
 * weight where there are weights (mean and sqrtn divide by the number of ids, weighted or not).
 *
 * Rows, and what is per sample, are as they arrive and leave; all sums are float32. */
#ifndef MW_BAG_H
#define MW_BAG_H

#include "runtime/base/half.h"
#include "runtime/job/job.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>

struct mw_bags {
    size_t samples;
    const uint32_t *length; /* [samples], or NULL: one id each */
    const uint32_t *slot;   /* [sum of lengths] */
    const float *weight;    /* [sum of lengths], or NULL: all 1 */
    enum rt_pooling pooling;
    size_t dim;
    uint32_t row_dtype, sample_dtype; /* enum rt_dtype; 0 is float32 */
};

static inline float mw_bag_scale(enum rt_pooling pooling, uint32_t n)
{
    if (n <= 1 || pooling == RT_POOL_SUM)
        return 1.0f;
    return 1.0f / (pooling == RT_POOL_MEAN ? (float)n : sqrtf((float)n));
}

#endif
