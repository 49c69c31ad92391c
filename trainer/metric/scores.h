/* trainer/metric/scores.h -- what was scored in an evaluation, by batch: on its way to rank 0, and summed up there.
 *
 * A result must not depend on who scored a batch, nor on when: samples are summed up in the order of batch
 * ids, so one rank and three give the same bits for the same scores. Touch: loop thread, and whoever has
 * tr_scores_result() run for it meanwhile. */
#ifndef TR_SCORES_H
#define TR_SCORES_H

#include "runtime/base/map.h"
#include "runtime/net/io.h"
#include "runtime/wire/batch.h"
#include "trainer/metric/auc.h"

/* Zero-initialise; tr_scores_init; tr_scores_release. */
struct tr_scores {
    struct tr_auc *auc; /* the samples in order of arrival; the trainer's */
    struct tr_scored {
        uint64_t batch_id;
        size_t first;
        uint32_t samples;
    } * list; /* [n] */
    size_t n, capacity;
    struct rt_map known; /* batch ids */
};

void tr_scores_init(struct tr_scores *scores, struct tr_auc *auc);
void tr_scores_release(struct tr_scores *scores);
void tr_scores_reset(struct tr_scores *scores); /* and the samples */

bool tr_scores_has(const struct tr_scores *scores, uint64_t batch_id);
/* The latest `samples` samples of the auc are this batch's. RT_ENOMEM. */
int tr_scores_mark(struct tr_scores *scores, uint64_t batch_id, uint32_t samples);

/* The part that begins at batch *at of the list (0 first), at most `samples_max` samples or one batch: head's counts
 * and `last` are filled in, *payload is the caller's, *at moves on. RT_ENOMEM: no buffer. */
int tr_scores_pack(const struct tr_scores *scores, size_t *at, uint32_t samples_max,
                   struct rt_io *io, struct wire_scores *head, struct rt_buf **payload);
/* Add another rank's part. RT_EPROTO: the payload is not what the head says, a score is none, a batch is here
 * already; RT_ELIMIT, RT_ENOMEM. */
int tr_scores_take(struct tr_scores *scores, const struct wire_scores *head,
                   const struct rt_buf *payload);

/* Leave out the batches that `wanted` does not want. */
void tr_scores_filter(struct tr_scores *scores, bool (*wanted)(void *arg, uint64_t batch_id),
                      void *arg);
int tr_scores_result(struct tr_scores *scores, struct tr_quality *out); /* RT_ENOMEM */

#endif
