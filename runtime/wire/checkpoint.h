/* runtime/wire/checkpoint.h -- codec of proto/checkpoint.proto: a checkpoint, between trainer/0 and the owners. Conventions as
 * in runtime/wire/batch.h. */
#ifndef WIRE_CHECKPOINT_H
#define WIRE_CHECKPOINT_H

#include "runtime/base/mem.h"
#include "runtime/wire/method.h"

#define WIRE_LOST_MAX 4096u /* ranges of lost batches that are told */

struct wire_cut {
    uint64_t attempt; /* > base */
    uint64_t step;
    const char *name; /* wire_is_token() */
    uint64_t base;    /* 0: a full checkpoint */
    uint64_t age;     /* >= step */
    const uint8_t
        *ledger; /* a packed wire_await_phase_reply; of 0 bytes: it is not told, and not compared */
    size_t ledger_size;
};
int wire_cut_pack(const struct wire_cut *in, struct wire_out *out);
int wire_cut_unpack(const uint8_t *data, size_t size, struct rt_arena *arena, struct wire_cut *out);

struct wire_cut_reply {
    uint64_t rows;
};
int wire_cut_reply_pack(const struct wire_cut_reply *in, struct wire_out *out);
int wire_cut_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                          struct wire_cut_reply *out);

struct wire_await_cut {
    uint64_t attempt;
};
int wire_await_cut_pack(const struct wire_await_cut *in, struct wire_out *out);
int wire_await_cut_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                          struct wire_await_cut *out);

struct wire_cut_table {
    uint64_t rows, removed, digest, live;
};
struct wire_await_cut_reply {
    uint64_t attempt;
    const char *file;
    uint64_t bytes, digest;
    uint32_t n_tables;
    const struct wire_cut_table *table; /* [n_tables] */
};
int wire_await_cut_reply_pack(const struct wire_await_cut_reply *in, struct wire_out *out);
int wire_await_cut_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_await_cut_reply *out);

struct wire_end_cut {
    uint64_t attempt;
    bool keep;
    bool last; /* only with keep: no step comes before who is told to stop has gone */
};
int wire_end_cut_pack(const struct wire_end_cut *in, struct wire_out *out);
int wire_end_cut_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                        struct wire_end_cut *out);

struct wire_tell_ledger {
    const uint8_t *ledger; /* a packed wire_await_phase_reply */
    size_t ledger_size;
    uint64_t
        step; /* of the group: nothing up to it is on its way; without a ledger: nothing below it */
    uint32_t n_places;
    const uint32_t
        *place; /* [n_places] < among: finished batches of the step; with a ledger: none */
    uint32_t among;
    uint64_t attempt; /* at the step; with check: the lowest that is not over */
    bool check;       /* is just the ledger applied? */
    bool imported;    /* with check: a model, since the group's checkpoint */
};
int wire_tell_ledger_pack(const struct wire_tell_ledger *in, struct wire_out *out);
int wire_tell_ledger_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_tell_ledger *out);

struct wire_tell_ledger_reply {
    uint64_t lost;         /* batches */
    uint32_t n_ranges;     /* <= WIRE_LOST_MAX */
    const uint64_t *first; /* [n_ranges] batch ids */
    const uint32_t *count; /* [n_ranges] >= 1 */
    bool ahead;
    uint64_t step; /* applied; mode `full` */
    bool differs;  /* of a check */
};
int wire_tell_ledger_reply_pack(const struct wire_tell_ledger_reply *in, struct wire_out *out);
int wire_tell_ledger_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_tell_ledger_reply *out);

struct wire_go_back {
    uint64_t attempt; /* 0: to the beginning */
    const char *name; /* of the checkpoint: wire_is_token(); "": the beginning */
    const char *why;  /* at most WIRE_TEXT_MAX bytes */
};
int wire_go_back_pack(const struct wire_go_back *in, struct wire_out *out);
int wire_go_back_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                        struct wire_go_back *out);

#endif
