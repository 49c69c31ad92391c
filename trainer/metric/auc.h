/* trainer/metric/auc.h -- exact quality of a head's scores: AUC, log loss, calibration and more.
 *
 * All (score, label, weight) triples are kept and sorted once at the end, so the AUC is exact: the
 * weighted share of (positive, negative) pairs in which the positive scores higher, ties counting
 * one half. 12 bytes a sample. What a triple is, by the kind of the head:
 *
 *   bce         the probability of 1; the label, 0 or 1
 *   mse         the prediction; the label
 *   softmax_ce  the probability of the class that the label names; 1 where it is the largest of all, else 0
 * A score that is not finite is none: its sample is counted, and no number is made of it.
 * Touch: owner thread. */
#ifndef TR_AUC_H
#define TR_AUC_H

#include <stddef.h>
#include <stdint.h>

#include "trainer/model/model.h"

#define TR_AUC_SAMPLES_MAX (1ull << 30) /* samples of one evaluation, 12 GiB */

struct tr_auc;

/* NaN: not known, or not of this kind of head. */
struct tr_quality {
    uint64_t samples;   /* with a finite score: all that follows is of them */
    uint64_t nonfinite; /* the others */
    double weight;      /* sum of weights (= samples without weights) */
    double loss;        /* the mean of the head's loss: log loss, mse, or cross entropy */
    double auc;         /* bce; NaN when one class is absent */
    double
        logloss; /* bce, softmax_ce: mean, scores clipped to [1e-7, 1 - 1e-7]; NaN without samples */
    double mean_label;  /* bce: base rate */
    double mean_score;  /* calibration = mean_score / mean_label */
    double calibration; /* bce, mse; NaN when mean_label is 0 */
    /* bce: log loss over that of a constant score, the base rate p: -(p log p + (1 - p) log(1 - p)) (He et al., Practical
     * Lessons from Predicting Clicks on Ads at Facebook, 2014, section 3). NaN when one class is absent. */
    double normalized_entropy;
    double mse;      /* mse */
    double accuracy; /* softmax_ce: share of samples whose most probable class is the label */
    double
        group_auc;   /* bce: see group_auc.h; NaN without groups, and where none has both classes */
    uint64_t groups; /* that group_auc is the mean over */
};

extern const struct tr_quality tr_quality_unknown; /* of no samples */

/* limit: most samples taken, 1..TR_AUC_SAMPLES_MAX. */
int tr_auc_create(enum tr_head_kind kind, uint64_t limit, struct tr_auc **out);
void tr_auc_destroy(struct tr_auc *auc); /* NULL is legal */
void tr_auc_reset(struct tr_auc *auc);   /* forget all samples, keep the memory */
/* Take all the memory that n samples will need, and their result without groups: RT_ENOMEM. */
int tr_auc_reserve(struct tr_auc *auc, size_t n);

/* Add n samples: score[n] in [0,1] or not finite, label[n] 0 or 1 (above 0.5 counts as 1), weight[n] >= 0 or NULL; of mse any
 * score[n], label[n] finite. RT_EDATA on another score or a bad weight, RT_ELIMIT over the limit, RT_ENOMEM: nothing was added. */
int tr_auc_add(struct tr_auc *auc, const float *score, const float *label, const float *weight,
               size_t n);

/* Of such a head? RT_EDATA. */
struct tr_auc_sample;
int tr_auc_check(enum tr_head_kind kind, const struct tr_auc_sample *sample);

/* Add n samples that are checked. RT_ELIMIT, RT_ENOMEM: nothing was added. */
int tr_auc_add_samples(struct tr_auc *auc, const struct tr_auc_sample *sample, size_t n);

/* Sorts a copy of what was added: 24 bytes a sample for the time of it, with groups 48. group[] goes with the samples in
 * the order in which they were added; NULL: there are none. RT_ENOMEM. */
int tr_auc_result(const struct tr_auc *auc, const uint64_t *group, struct tr_quality *out);

/* The triples held, in order of arrival; valid until the next call on auc. */
struct tr_auc_sample {
    float score, label, weight;
};
const struct tr_auc_sample *tr_auc_samples(const struct tr_auc *auc, size_t *n);

#endif
