/* runtime/wire/step.h -- codec of proto/step.proto: what trainer ranks say to one another. */
#ifndef WIRE_STEP_H
#define WIRE_STEP_H

#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

/* What a rank has done. */
struct wire_rank_counts {
    uint64_t samples_trained, samples_dropped, batches_trained, batches_dropped;
    double epoch_loss_sum; /* of the first head, in its epoch */
    uint64_t epoch_samples;
    bool suspect; /* its alarm of loss and gradient norm stands */
};

struct wire_step_header {
    uint64_t group_epoch, step;
    bool has_batch, ended;
    uint64_t batch_id;
    uint32_t samples;
    uint32_t n_finished;
    const uint64_t *finished;
    double learning_rate;
    uint64_t round, phase;
    bool paused;
    uint64_t unaveraged, imports_due;
    struct wire_rank_counts counts;
    uint64_t digested, digest; /* 1 + the step whose dense weights the digest is of; 0: none */
};
int wire_step_header_pack(const struct wire_step_header *in, struct wire_out *out);
int wire_step_header_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_step_header *out);

struct wire_step_headers {
    uint64_t group_epoch, round;
    uint32_t n_ranks;                      /* 0: the header was taken back */
    const struct wire_step_header *header; /* [n_ranks] */
};
int wire_step_headers_pack(const struct wire_step_headers *in, struct wire_out *out);
int wire_step_headers_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_step_headers *out);

struct wire_join_group {
    uint64_t group_epoch, step;
    bool invite;
    const uint8_t *state; /* a packed AwaitPhaseReply; none in an invitation */
    size_t state_size;
    uint64_t digest;               /* of weights and optimizer, never in a group before; else 0 */
    uint64_t imports, imports_due; /* models that were taken in this job; with one under way */
    uint64_t steps_before;         /* in the weights when `step` was 0 */
    const char *differs;           /* at most WIRE_TEXT_MAX bytes; "" or NULL: nothing does */
};
int wire_join_group_pack(const struct wire_join_group *in, struct wire_out *out);
int wire_join_group_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                           struct wire_join_group *out);

struct wire_join_group_reply {
    uint64_t group_epoch; /* 0: answer to an invitation */
    uint32_t rank;
    uint64_t step;
    const uint8_t *state; /* a packed AwaitPhaseReply */
    size_t state_size;
    uint32_t n_ranks;
    const uint64_t *incarnation;   /* [n_ranks] */
    uint64_t imports, imports_due; /* that the most advanced one has; that the group will */
};
int wire_join_group_reply_pack(const struct wire_join_group_reply *in, struct wire_out *out);
int wire_join_group_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                 struct wire_join_group_reply *out);

struct wire_fetch_state {
    uint64_t group_epoch;
    uint32_t part;
};
int wire_fetch_state_pack(const struct wire_fetch_state *in, struct wire_out *out);
int wire_fetch_state_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_fetch_state *out);

/* A batch that is in the dense weights and not yet acked by every owner: what running it again needs. */
struct wire_owed {
    uint64_t batch_id, step, samples; /* samples: of all ranks in that step */
    uint32_t place, among;
    double learning_rate;
    uint64_t attempt;
};
struct wire_fetch_state_reply {
    uint64_t step;
    uint32_t part, parts;
    uint64_t elements, optimizer_steps;
    uint32_t n_owed;
    const struct wire_owed *owed;
    uint64_t steps_before; /* what the age of its weights is over step */
};
int wire_fetch_state_reply_pack(const struct wire_fetch_state_reply *in, struct wire_out *out);
int wire_fetch_state_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_fetch_state_reply *out);

struct wire_reduce_chunk {
    uint64_t group_epoch, operation;
    uint32_t bucket, turn, count;
    uint32_t dtype; /* enum wire_dtype of the payload: float32 or bfloat16 */
};
int wire_reduce_chunk_pack(const struct wire_reduce_chunk *in, struct wire_out *out);
int wire_reduce_chunk_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_reduce_chunk *out);

struct wire_ask_communicator {
    uint64_t group_epoch;
    uint32_t version; /* ncclGetVersion's number */
};
int wire_ask_communicator_pack(const struct wire_ask_communicator *in, struct wire_out *out);
int wire_ask_communicator_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                 struct wire_ask_communicator *out);

struct wire_ask_communicator_reply {
    uint64_t group_epoch;
    uint32_t version;
    const uint8_t *id; /* [WIRE_NCCL_ID_BYTES] */
};
int wire_ask_communicator_reply_pack(const struct wire_ask_communicator_reply *in,
                                     struct wire_out *out);
int wire_ask_communicator_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                       struct wire_ask_communicator_reply *out);

#endif
