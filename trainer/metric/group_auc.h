/* trainer/metric/group_auc.h -- AUC within groups of samples: how well a user's samples are ranked among themselves.
 *
 * The mean over groups of the group's AUC, weighted by the group's samples (the sum of their weights), ties counting one
 * half. A group without both classes has no AUC and is left out of both sums. (Zhou et al., Deep Interest Network, KDD 2018,
 * section 6.2, and Zhu et al., Optimized Cost per Click, KDD 2017: there "impressions" are the samples.)
 * Exact over whatever samples are given: of all ranks, where rank 0 has them. */
#ifndef TR_GROUP_AUC_H
#define TR_GROUP_AUC_H

#include <stddef.h>
#include <stdint.h>

struct tr_auc_sample;

/* group[n]: whom a sample belongs to (64-bit hash of the column's value). *groups: how many have an AUC; *out: NaN where none
 * has. Takes 48 bytes a sample for the time of it: RT_ENOMEM. */
int tr_group_auc(const struct tr_auc_sample *sample, const uint64_t *group, size_t n, double *out,
                 uint64_t *groups);

#endif
