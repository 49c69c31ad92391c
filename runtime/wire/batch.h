/* runtime/wire/batch.h -- codec of proto/batch.proto: the life of a batch between C, M and T.
 *
 * pack: struct -> out (reused buffer). Asserts what the receiver checks: a wrong message is our bug.
 * unpack: bytes -> struct; arrays live in `arena`. Validates every limit; RT_EPROTO names the message,
 * the field, what was expected and got. Text fields are NUL-free and at most WIRE_TEXT_MAX. */
#ifndef WIRE_BATCH_H
#define WIRE_BATCH_H

#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

enum wire_layout { WIRE_LAYOUT_ONE = 0, WIRE_LAYOUT_LENGTHS = 1 };

struct wire_put_batch {
    uint32_t samples, rank;
    bool evaluate;
    uint64_t digest;
    uint32_t n_features;
    const uint32_t *n_ids;   /* [n_features] */
    const uint32_t *layout;  /* [n_features] enum wire_layout */
    const uint8_t *weighted; /* [n_features] 0/1, or NULL: none is */
    uint64_t composer_incarnation;
    uint32_t world; /* of trainer ranks; 0: not told */
    bool first;     /* no batch that the composer has open for this rank is before it */
};
int wire_put_batch_pack(const struct wire_put_batch *in, struct wire_out *out);
int wire_put_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                          struct wire_put_batch *out);

struct wire_put_batch_reply {
    uint64_t bytes_reserved;
};
int wire_put_batch_reply_pack(const struct wire_put_batch_reply *in, struct wire_out *out);
int wire_put_batch_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_put_batch_reply *out);

struct wire_train_batch {
    uint32_t samples, n_dense, n_labels;
    bool weighted, grouped, evaluate;
    uint64_t key_bytes;
    uint32_t middleware, middleware_loop;
    uint64_t middleware_incarnation, digest, epoch;
    uint32_t attempt;
    bool has_before;
    uint64_t before; /* batch of the same composer and rank that goes before this one; 0 if none */
    bool has_turn_before;
    uint64_t turn_before; /* batch of the same composer, any rank, of the turn before; 0 if none */
};
int wire_train_batch_pack(const struct wire_train_batch *in, struct wire_out *out);
int wire_train_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_train_batch *out);

enum wire_outcome { WIRE_TRAINED = 1, WIRE_DROPPED = 2, WIRE_RETRY = 3, WIRE_EVALUATED = 4 };
struct wire_train_batch_reply {
    enum wire_outcome outcome;
    const char *reason; /* never NULL after unpack */
    bool failed;        /* retry: for a reason of the batch's own */
};
int wire_train_batch_reply_pack(const struct wire_train_batch_reply *in, struct wire_out *out);
int wire_train_batch_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_train_batch_reply *out);

struct wire_lookup_batch {
    uint64_t step;
    uint32_t samples;
    bool evaluate;
    uint64_t digest;
};
int wire_lookup_batch_pack(const struct wire_lookup_batch *in, struct wire_out *out);
int wire_lookup_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_lookup_batch *out);

struct wire_lookup_batch_reply {
    uint32_t samples, dtype, n_features;
    const uint32_t *dim;  /* [n_features] */
    const uint32_t *rows; /* [n_features] of a sequence: distinct rows; 0: pooled. NULL: all are */
    const uint32_t *places; /* [n_features] of a sequence: lengths together; NULL as rows */
};
int wire_lookup_batch_reply_pack(const struct wire_lookup_batch_reply *in, struct wire_out *out);
int wire_lookup_batch_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                   struct wire_lookup_batch_reply *out);

struct wire_push_gradients {
    uint64_t step;
    double learning_rate; /* finite, >= 0 */
    uint32_t samples;
    uint64_t digest;
    uint32_t rank, world, dtype;
    bool synchronous;
    uint32_t n_features;
    const uint32_t *dim;      /* [n_features] */
    uint64_t applied_through; /* below step; 0: nothing is known of earlier steps */
    const uint32_t *rows;     /* [n_features] as the reply had them, or NULL: all are pooled */
    const float *scale;       /* [n_features] what gradients were multiplied by, or NULL: 1 */
    uint64_t attempt;         /* at the step; of a step that is made again it is greater */
    uint64_t age; /* steps in the weights with this one, those of a saved model's too; 0: step */
};
int wire_push_gradients_pack(const struct wire_push_gradients *in, struct wire_out *out);
int wire_push_gradients_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                               struct wire_push_gradients *out);

struct wire_push_gradients_reply {
    uint64_t rows_applied, rows_nonfinite;
};
int wire_push_gradients_reply_pack(const struct wire_push_gradients_reply *in,
                                   struct wire_out *out);
int wire_push_gradients_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                     struct wire_push_gradients_reply *out);

struct wire_release_batch {
    const char *reason;
};
int wire_release_batch_pack(const struct wire_release_batch *in, struct wire_out *out);
int wire_release_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                              struct wire_release_batch *out);
/* ReleaseBatchReply and EndOfEpochReply are empty messages: size 0. */

struct wire_statistics {
    const char *column;
    double mean, deviation;
    uint64_t count;
};
struct wire_split_ledger {
    uint32_t split;
    uint64_t stepped_low, finished_low;
    const uint8_t *stepped, *finished; /* bitmaps above the low marks */
    uint32_t stepped_bytes, finished_bytes;
    uint64_t rows_read, rows_quarantined, end_sequence;
};

struct wire_await_phase {
    uint64_t known;
    uint32_t composer, composers;
    uint32_t n_statistics;
    const struct wire_statistics *statistics;
    bool done; /* it was told WIRE_PHASE_DONE at some time */
};
int wire_await_phase_pack(const struct wire_await_phase *in, struct wire_out *out);
int wire_await_phase_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_await_phase *out);

enum wire_phase_kind {
    WIRE_PHASE_TRAIN = 1,
    WIRE_PHASE_EVALUATE = 2,
    WIRE_PHASE_DONE = 3,
    WIRE_PHASE_STATISTICS = 4,
};
const char *wire_phase_name(enum wire_phase_kind kind);
struct wire_await_phase_reply {
    uint64_t phase;
    enum wire_phase_kind kind;
    uint64_t epoch;
    uint32_t n_ledger;
    const struct wire_split_ledger *ledger;
    uint32_t n_statistics;
    const struct wire_statistics *statistics;
    uint64_t pass; /* complete passes over this set before */
    bool epoch_over;
};
int wire_await_phase_reply_pack(const struct wire_await_phase_reply *in, struct wire_out *out);
int wire_await_phase_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_await_phase_reply *out);

struct wire_end_of_epoch {
    uint64_t phase, epoch;
    bool evaluate;
    uint32_t composer;
    uint32_t n_ended;
    const struct wire_split_ledger *ended;
};
int wire_end_of_epoch_pack(const struct wire_end_of_epoch *in, struct wire_out *out);
int wire_end_of_epoch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_end_of_epoch *out);

struct wire_nothing_yet {
    uint64_t phase;
    uint32_t composer, composers;
    bool has_until;
    uint64_t until; /* batch id */
};
int wire_nothing_yet_pack(const struct wire_nothing_yet *in, struct wire_out *out);
int wire_nothing_yet_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_nothing_yet *out);

struct wire_tell_finished {
    uint64_t leader; /* incarnation of trainer/0 */
    uint32_t n_batches;
    const uint64_t *batch; /* [n_batches] ids */
};
int wire_tell_finished_pack(const struct wire_tell_finished *in, struct wire_out *out);
int wire_tell_finished_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                              struct wire_tell_finished *out);

struct wire_tell_phase {
    uint64_t phase;
    enum wire_phase_kind kind;
    uint64_t epoch, pass;
    bool epoch_over;
    uint32_t n_statistics;
    const struct wire_statistics *statistics;
    uint32_t composers;
    uint32_t n_ledger;
    const struct wire_split_ledger *ledger;
};
int wire_tell_phase_pack(const struct wire_tell_phase *in, struct wire_out *out);
int wire_tell_phase_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                           struct wire_tell_phase *out);

struct wire_scores {
    uint64_t phase;
    uint32_t part;
    bool last;
    uint32_t batches, samples;
};
int wire_scores_pack(const struct wire_scores *in, struct wire_out *out);
int wire_scores_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                       struct wire_scores *out);
/* NothingYetReply, TellFinishedReply, TellPhaseReply and ScoresReply are empty messages: size 0. */

#endif
