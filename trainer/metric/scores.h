/* trainer/metric/scores.h -- what was scored in an evaluation, by batch: on its way to rank 0, and summed up there.
 *
 * A result must not depend on who scored a batch, nor on when: samples are summed up in the order of batch
 * ids, so one rank and three give the same bits for the same scores. Memory: 4 bytes a sample and 8 for each head, 8 more
 * where there are groups; to sum up, at rank 0, a head at a time: 36 more, with groups 68. Touch: loop thread, and whoever
 * has tr_scores_result() run for it meanwhile. */
#ifndef TR_SCORES_H
#define TR_SCORES_H

#include "runtime/base/map.h"
#include "runtime/net/io.h"
#include "runtime/wire/batch.h"
#include "trainer/metric/auc.h"
#include "trainer/model/model.h"

/* Zero-initialise; tr_scores_init; tr_scores_release. */
struct tr_scores {
    const struct tr_head *head; /* [n_heads] the model's */
    uint32_t n_heads;
    bool grouped;
    uint32_t columns; /* of a row */
    float *
        row; /* [samples][columns] in order of arrival: weight; of each head score and label, as auc.h says */
    uint64_t *group; /* [samples] where grouped */
    size_t samples, room;
    struct tr_scored {
        uint64_t batch_id;
        size_t first;
        uint32_t samples;
    } * list; /* [n] */
    size_t n, capacity;
    struct rt_map known; /* batch ids: place in the list, when they came */
};

/* A batch that was scored; all memory the caller's. */
struct tr_scored_view {
    uint64_t batch_id;
    uint32_t samples, n_labels;
    const float *score;    /* [samples][tr_model_score_columns()] */
    const float *label;    /* [samples][n_labels] */
    const float *weight;   /* [samples] or NULL */
    const uint64_t *group; /* [samples] where grouped */
};

void tr_scores_init(struct tr_scores *scores, const struct tr_head *head, uint32_t n_heads,
                    bool grouped);
void tr_scores_release(struct tr_scores *scores);
void tr_scores_reset(struct tr_scores *scores); /* forget all samples, keep the memory */

bool tr_scores_has(const struct tr_scores *scores, uint64_t batch_id);
/* RT_EPROTO: the batch is here already; RT_EDATA: a score is none; RT_ELIMIT, RT_ENOMEM. Nothing was added. */
int tr_scores_add(struct tr_scores *scores, const struct tr_scored_view *view);

/* What a sample's scores and labels come to for a head. */
struct tr_auc_sample tr_head_sample(const struct tr_head *head, const float *score,
                                    const float *label, float weight);

/* The part that begins at batch *at of the list (0 first), at most `samples_max` samples or one batch: head's counts
 * and `last` are filled in, *payload is the caller's, *at moves on. RT_ENOMEM: no buffer. */
int tr_scores_pack(const struct tr_scores *scores, size_t *at, uint32_t samples_max,
                   struct rt_io *io, struct wire_scores *head, struct rt_buf **payload);
/* Add another rank's part. RT_EPROTO: the payload is not what the head says, a batch is here already
 * or in the part twice; RT_EDATA: a score is none; RT_ELIMIT, RT_ENOMEM. Nothing was added. */
int tr_scores_take(struct tr_scores *scores, const struct wire_scores *head,
                   const struct rt_buf *payload);

/* Leave out the batches that `wanted` does not want. */
void tr_scores_filter(struct tr_scores *scores, bool (*wanted)(void *arg, uint64_t batch_id),
                      void *arg);
int tr_scores_result(struct tr_scores *scores,
                     struct tr_quality *out /* [n_heads] */); /* RT_ENOMEM */

#endif
