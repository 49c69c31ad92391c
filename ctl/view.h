/* ctl/view.h -- the status objects of a snapshot as numbers: what progress and summary are made of. */
#ifndef CTL_VIEW_H
#define CTL_VIEW_H

#include "ctl/poll.h"

#define CTL_DIGEST_MAX 32

/* Of all trainers together: counts are summed over the ranks, what the group has once is rank 0's. A number
 * that was not told is NaN. */
struct ctl_view {
    char state[24], phase[24],
        waiting[128]; /* of rank 0; "" when unknown, or nothing is waited for */
    bool begun;       /* a trainer has answered */
    bool done;        /* rank 0 says so: the last evaluation is over */
    uint32_t ranks, ranks_done;
    double epoch, epochs, step, samples_per_epoch;
    double
        samples_now; /* trained by the processes that are there: not before they went on from a checkpoint */
    double samples_trained, samples_dropped, samples_read, samples_quarantined;
    double train_seconds, samples_per_second, loss, train_loss;
    double train_seconds_total; /* with those of what it went on from */
    double test_auc, test_logloss, test_samples, staleness_max;
    double test_auc_best; /* synthetic data only */
    double rows_total, rows_refused, bytes_per_row;
    double batches_retried, loss_spikes;
    double generation, went_back,
        steps_again;           /* of an `exact` job that went back to a checkpoint */
    const json_t *heads;       /* of the model, as rank 0 has them: ctl_view_heads(); or NULL */
    const json_t *evaluations; /* list, or NULL; lives as long as the snapshot */
    /* Two ranks whose dense weights differ, though both are done; equal when there are none. */
    uint32_t digest_rank[2];
    char digest[2][CTL_DIGEST_MAX];
};

void ctl_view_read(const struct ctl_snapshot *snapshot, struct ctl_view *out);
/* The heads with train_loss over all ranks; the caller's. NULL: nobody told. */
json_t *ctl_view_heads(const struct ctl_snapshot *snapshot);
/* A number of one status object; NaN when absent, null, or no number. */
double ctl_view_number(const json_t *status, const char *key);
/* What training took of all processes of a role, evaluations and starting up apart: CPU seconds, and bytes of frames sent
 * to the processes of another. NaN when nobody told. */
double ctl_view_train_cpu(const struct ctl_snapshot *snapshot, enum rt_role role);
double ctl_view_hop_bytes(const struct ctl_snapshot *snapshot, enum rt_role role, enum rt_role to);
/* Dense weights must be the same on all ranks; where each steps alone (async), they are after an averaging. */
bool ctl_view_digests_differ(const struct ctl_view *view);
/* The files of scores that trainers were asked for. */
struct ctl_predictions {
    double rows;     /* in all of them */
    char error[700]; /* "trainer/1: why" of the first that has none; "": all have */
};
void ctl_view_predictions(const struct ctl_snapshot *snapshot, struct ctl_predictions *out);
/* What the first role that waits for somebody waits for: "trainer/0 waits for middleware"; "": none. */
void ctl_view_waiting(const struct ctl_snapshot *snapshot, char *out, size_t size);

#endif
