/* trainer/numbers.h -- a rank's numbers for /metrics: written by the loop thread (step_seconds by the step thread), relaxed;
 * any thread may read. Private to trainer/. */
#ifndef TR_NUMBERS_H
#define TR_NUMBERS_H

#include "trainer/model/model.h"
#include "trainer/parts.h"

enum { TR_BATCH_STATES = 8 }; /* enum tr_batch_state: state.h */
enum { TR_PHASE_KINDS = 5 };  /* enum wire_phase_kind, which begins at 1 */

enum tr_sample_set { TR_SET_TRAIN, TR_SET_TEST, TR_SETS };

/* Of a head; the training set's are written by the step thread. NaN: not known, or not of its kind. */
struct tr_head_numbers {
    _Atomic double loss, auc, group_auc, normalized_entropy, calibration, accuracy;
    _Atomic uint64_t nonfinite; /* samples; of trained ones 0: their batch is dropped */
};

struct tr_numbers {
    _Atomic uint64_t samples_trained, samples_dropped;
    _Atomic uint64_t batches_trained, batches_dropped, batches_retried;
    _Atomic uint64_t steps, epoch, epochs, evaluations, group_epoch, world;
    _Atomic uint64_t gradients_saturated, reserved_bytes;
    _Atomic uint64_t checkpoints, checkpoints_void, checkpoint_bytes, updates_lost;
    _Atomic uint64_t checkpoints_void_in_row;
    _Atomic uint64_t generation, went_back, steps_again;
    _Atomic double checkpoint_time;
    _Atomic int64_t durable_ns;    /* of the newest checkpoint's cut, or of the start */
    _Atomic uint64_t durable_step; /* and the step */
    /* Brought up to date when the page is printed; NaN: no checkpoints are made here. And each how many one is to be made. */
    _Atomic double checkpoint_age, checkpoint_steps, checkpoint_every, checkpoint_every_steps;
    struct rt_histogram checkpoint_seconds, checkpoint_hold_seconds;
    _Atomic uint64_t permits, permits_used, batches_open;
    _Atomic uint64_t batches[TR_BATCH_STATES]; /* held, by their state; their sum: batches_open */
    _Atomic uint64_t phase[TR_PHASE_KINDS];    /* 1: the one that the rank is in */
    _Atomic double loss, epoch_loss, test_auc, test_logloss, learning_rate; /* NaN: not known */
    _Atomic double learning_rate_factor, gradient_norm;
    _Atomic uint64_t loss_spikes, loss_spike;       /* alarms begun; 1: one stands */
    _Atomic double loss_bound, gradient_norm_bound; /* NaN: not known yet */
    _Atomic uint64_t *nonfinite;                    /* [n_features] */
    _Atomic double step_seconds, wait_seconds;
    struct rt_histogram staleness, evaluate_seconds;
    struct tr_parts parts;
    struct tr_head_numbers head[TR_HEADS_MAX][TR_SETS];
};

static inline void tr_count(_Atomic uint64_t *value, uint64_t add)
{
    atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + add,
                          memory_order_relaxed);
}

static inline void tr_set(_Atomic uint64_t *value, uint64_t now)
{
    atomic_store_explicit(value, now, memory_order_relaxed);
}

static inline void tr_set_real(_Atomic double *value, double now)
{
    atomic_store_explicit(value, now, memory_order_relaxed);
}

#endif
