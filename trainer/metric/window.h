/* trainer/metric/window.h -- quality of the samples that were trained last, as they were scored before the step that learned
 * from them: of a run of 65,536 samples of this rank (by whole batches), when it is complete. Then as many as three runs have
 * are passed over: a run costs 75 ns a sample and head (2 GHz Zen 3), too much to be looked at by nobody.
 *
 * Memory: at most 48 bytes for each head and sample of a run, all of it taken in init. Touch: the step thread. */
#ifndef TR_WINDOW_H
#define TR_WINDOW_H

#include "trainer/metric/scores.h"

#define TR_WINDOW_SAMPLES 65536u
#define TR_WINDOW_REST    (3 * TR_WINDOW_SAMPLES)

/* Zero-initialise. */
struct tr_window {
    const struct tr_head *head; /* [n_heads] the model's */
    uint32_t n_heads;
    size_t samples; /* of the run */
    size_t rest;    /* samples to pass over before the next one */
    uint64_t runs;  /* that are complete */
    struct tr_auc *auc[TR_HEADS_MAX];
    float *score;                            /* [batch_size][columns] */
    struct tr_quality quality[TR_HEADS_MAX]; /* of the latest run that is complete */
};

int tr_window_init(struct tr_window *window, const struct tr_head *head, uint32_t n_heads,
                   uint32_t batch_size); /* RT_ENOMEM */
void tr_window_release(struct tr_window *window);

/* Where a training batch's scores go; NULL: they are not wanted. */
float *tr_window_scores(const struct tr_window *window);
/* The batch whose scores, all of them finite, lie there. *complete: `quality` is new. RT_ENOMEM. */
int tr_window_add(struct tr_window *window, const struct tr_scored_view *view, bool *complete);

#endif
