/* trainer/metric/auc.h -- exact quality of scores: AUC, log loss, calibration.
 *
 * All (score, label, weight) triples are kept and sorted once at the end, so the AUC is exact: the
 * weighted share of (positive, negative) pairs in which the positive scores higher, ties counting
 * one half. 12 bytes a sample. Touch: owner thread. */
#ifndef TR_AUC_H
#define TR_AUC_H

#include <stddef.h>
#include <stdint.h>

#define TR_AUC_SAMPLES_MAX (1ull << 30) /* samples of one evaluation, 12 GiB */

struct tr_auc;

struct tr_quality {
    uint64_t samples;
    double weight;      /* sum of weights (= samples without weights) */
    double auc;         /* NaN when one class is absent */
    double logloss;     /* mean, scores clipped to [1e-7, 1 - 1e-7]; NaN without samples */
    double mean_label;  /* base rate */
    double mean_score;  /* calibration = mean_score / mean_label */
    double calibration; /* NaN when mean_label is 0 */
};

/* limit: most samples taken, 1..TR_AUC_SAMPLES_MAX. */
int tr_auc_create(uint64_t limit, struct tr_auc **out);
void tr_auc_destroy(struct tr_auc *auc); /* NULL is legal */
void tr_auc_reset(struct tr_auc *auc);   /* forget all samples, keep the memory */

/* Add n samples: score[n] in [0,1], label[n] 0 or 1 (above 0.5 counts as 1), weight[n] >= 0 or NULL.
 * RT_EDATA on a NaN score or a bad weight, RT_ELIMIT over the limit, RT_ENOMEM: nothing was added. */
int tr_auc_add(struct tr_auc *auc, const float *score, const float *label, const float *weight,
               size_t n);

/* Add n samples as tr_auc_samples() gave them elsewhere. RT_EDATA on a score, label or weight that cannot be;
 * RT_ELIMIT, RT_ENOMEM: nothing was added. */
struct tr_auc_sample;
int tr_auc_add_samples(struct tr_auc *auc, const struct tr_auc_sample *sample, size_t n);

/* Sorts a copy of what was added. RT_ENOMEM. */
int tr_auc_result(const struct tr_auc *auc, struct tr_quality *out);

/* For merging ranks: the triples held, in order of arrival; valid until the next call on auc. */
struct tr_auc_sample {
    float score, label, weight;
};
const struct tr_auc_sample *tr_auc_samples(const struct tr_auc *auc, size_t *n);

#endif
