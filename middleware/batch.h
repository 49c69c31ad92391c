/* middleware/batch.h -- a batch in flight, and what the files of a loop share. Private to middleware/.
 *
 *   put.c      PutBatch: checks, deduplicates, lays out, reserves       -> HELD
 *   lookup.c   LookupBatch: rows from the owners, pooled                -> LOOKING -> SERVED
 *   push.c     PushGradients, ReleaseBatch: gradients to the owners     -> PUSHING -> forgotten
 *   cut.c      what each owner is asked for, in parts
 *   fanout.c   one request per part, sent again when it must be
 *   batch.c    the batches of a loop: found, aged, forgotten; who waits for them
 *   loop.c     the diagram of the states; connections; what happens on each */
#ifndef MW_BATCH_H
#define MW_BATCH_H

#include "middleware/bag.h"
#include "middleware/compose.h"
#include "middleware/dedup.h"
#include "middleware/loop.h"
#include "middleware/split.h"
#include "middleware/stats.h"
#include "runtime/base/map.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/rows.h"

#define MW_WAITERS_MAX    8                    /* repeats of one call; the oldest gives way */
#define MW_SPARE_MAX      64                   /* batch objects kept for use again */
#define MW_DEADLINE_NS    (30 * 1000000000ull) /* of a request to an owner */
#define MW_RETRY_NS       (100 * 1000000ull)   /* until a busy owner is asked again */
#define MW_PART_BYTES_MIN ((size_t)4 << 20)    /* of a cut: MW_OWNER_BYTES_MAX is few parts then */
#define MW_OWNER_BYTES_MAX                                                                         \
    ((size_t)(RT_PAYLOAD_MAX /                                                                     \
              2)) /* of a batch, or of all of a step: half of an owner's memory for payloads */
#define MW_IDLE_NS (60 * 1000000000ull) /* a batch that nobody asked for may then make room */

enum mw_state { MW_HELD, MW_LOOKING, MW_SERVED, MW_PUSHING };

enum mw_part_state {
    MW_PART_NONE, /* nothing to ask this owner for */
    MW_PART_WAIT, /* to be sent when the owner is up */
    MW_PART_SENT,
    MW_PART_DONE,
};

/* What one owner has of a batch, or a part of it (cut.c): one request looks it up, another brings its gradients.
 * Table lists are those of its requests: only tables with ids. */
struct mw_part {
    struct mw_batch *batch;
    uint32_t owner;
    uint32_t number, of; /* of the owner's parts, the how manieth, and how many */
    enum mw_part_state state;
    uint32_t n_tables;
    const uint32_t *table, *n_ids; /* [n_tables] */
    float *scale;                  /* [n_tables] of row gradients in float16, else NULL */
    void **row; /* [n_tables] -> [n_ids][dim], of the reply to read; of the gradients to write */
    size_t ids_at, ids_size;             /* its ids in batch->held: one request's payload */
    size_t gradients_at, gradients_size; /* ids and gradients in batch->gradients: likewise */
    size_t rows_size;                    /* of the owner's reply */
    struct rt_buf *rows;                 /* the owner's reply, until pooled */
};

struct mw_feature {
    /* [n_ids] positions of rows in the table, or of ids if it is hashed; of a sequence: indices into row. In batch->held, as
     * the next three. */
    const uint32_t *slot;
    const uint32_t *length; /* [samples], NULL: one id each */
    const float *weight;    /* [n_ids], NULL: none */
    const uint32_t *row;    /* [n_rows] of a sequence: positions of its rows in the table */
    uint32_t n_ids, n_rows;
};

struct mw_waiter {
    struct rt_call *call;
    uint16_t method;
};

struct mw_batch {
    struct mw_loop *loop;
    struct mw_batch *prev, *next; /* the loop's list, least recently touched first */
    uint64_t touched_ns;
    uint64_t id, digest;
    uint32_t samples;
    bool evaluate;
    uint32_t rank; /* of the trainer that will ask for it */
    uint32_t composer;
    uint64_t composer_incarnation;
    enum mw_state state;
    bool gone;                  /* forgotten; freed when no request of it is out */
    size_t reserved;            /* bytes promised */
    struct rt_arena *arena;     /* feature, part and their lists */
    struct mw_feature *feature; /* [job features] */
    struct mw_part
        *part; /* [n_parts] by owner, of each in the order of its rows; each has one or more */
    uint32_t n_parts;
    uint32_t *distinct;           /* [job tables] rows */
    struct mw_composed *composed; /* [job tables] */
    size_t sum_bytes;             /* of the sums of its largest table; 0: they are made in place */
    struct rt_buf *held;          /* slots, lengths, weights, ids by owner and table */
    struct rt_buf *gradients;     /* while PUSHING */
    struct mw_waiter waiter[MW_WAITERS_MAX];
    uint32_t n_waiters;
    /* The fan-out: */
    uint32_t attempt;               /* replies to an earlier one are dropped */
    uint32_t parts_out, parts_left; /* of this attempt: sent and not answered; not done */
    uint32_t calls_out;             /* of all attempts */
    int err;                        /* what ends it early; text beside */
    char err_text[WIRE_TEXT_MAX];
    uint64_t step;
    struct wire_push_gradients push; /* without the lists */
    uint64_t rows_applied, rows_nonfinite;
};

/* Areas that grow to the largest batch ever put and serve one batch after the other. */
struct mw_scratch {
    uint32_t n_ids;           /* room for so many; of hashed tables, of their rows */
    uint64_t *id;             /* [n_ids] distinct ones of one hashed table */
    uint64_t *hashed;         /* [n_ids] their rows */
    uint32_t *composed;       /* [n_ids] which those are, of all hashed tables */
    uint32_t *slot;           /* [n_ids] */
    uint32_t *sequence;       /* [n_ids] rows of sequences */
    uint64_t *distinct;       /* [n_ids] of all tables, one after the other */
    uint16_t *owner;          /* [n_ids] of each distinct id */
    uint32_t *position;       /* [n_ids] of one table */
    void **row;               /* [n_ids] of one table, by position */
    uint32_t *count;          /* [tables][owners] ids */
    struct mw_cursor *cursor; /* [owners] */
};

struct mw_ask; /* a request that is out: fanout.c */

struct mw_owner {
    struct rt_peer *peer;
    bool up;
    uint64_t incarnation; /* when it was up last; 0: it never was */
};

struct mw_loop {
    struct mw_loop_conf conf;
    struct rt_rpc *rpc;
    char address[RT_ADDRESS_MAX];
    bool closing;
    struct rt_shard_map map; /* owners 0: no server has said hello yet */
    struct mw_owner *owner;  /* [map.owners] */
    struct rt_map batches;   /* id -> struct mw_batch */
    struct mw_batch *oldest, *newest;
    struct mw_batch *spare; /* by next */
    uint32_t n_spare;
    struct rt_map composers; /* index -> highest incarnation seen */
    size_t reserved;
    struct rt_map reserved_of; /* trainer rank -> its part of `reserved` */
    struct mw_dedup *dedup;
    struct mw_scratch scratch;
    struct mw_ask *asks;     /* kept for use again, by next */
    struct rt_arena *arena;  /* of the message at hand */
    struct wire_out out;     /* the message being packed */
    size_t part_bytes;       /* most of a part, either way */
    uint32_t *dim;           /* [job features] */
    uint32_t *feature_order; /* [job features] by table, stable */
    struct rt_timer retry;
    bool retry_armed;
    struct mw_stats stats;
};

/* ---- batch.c ---- */

struct mw_batch *mw_batch_find(struct mw_loop *loop, uint64_t id);
/* A fresh one, not yet found by its id; RT_ENOMEM. mw_batch_free gives back one that was not opened. */
int mw_batch_new(struct mw_loop *loop, struct mw_batch **out);
void mw_batch_free(struct mw_batch *batch);
size_t mw_reserved_of(const struct mw_loop *loop, uint32_t rank);
/* From now on it is found and its reserved bytes count. RT_ENOMEM. */
int mw_batch_open(struct mw_batch *batch);
void mw_batch_touch(struct mw_batch *batch); /* to the young end of the list */
/* Out of the loop; freed at once, or when its last request to an owner returns. Waiters must be answered. */
void mw_batch_forget(struct mw_batch *batch);
/* Reply buffers and gradients back to the pool. */
void mw_batch_drop_buffers(struct mw_batch *batch);

void mw_wait(struct mw_batch *batch, struct rt_call *call, uint16_t method);
/* Answer those that wait for `method` (0: all), with a reply or, out NULL, with a status and text. Never
 * RT_ECANCELED: that is what the caller's own rpc says when it goes away. */
void mw_answer(struct mw_batch *batch, uint16_t method, const struct rt_outgoing *out, int status,
               const char *text);

/* The batch a request names, or NULL when the call was answered: not held, or another digest. */
struct mw_batch *mw_batch_asked(struct mw_loop *loop, struct rt_call *call,
                                const struct rt_frame *request, uint64_t digest);
/* Answer with `err` and the current error text. */
void mw_refuse(struct rt_call *call, int err);

/* The bags of one feature, for pooling and scattering. Of a sequence: each of its rows is one. */
struct mw_bags mw_batch_bags(const struct mw_batch *batch, uint32_t feature);
/* scratch.row[position] of one table, from the parts' row lists; elements of `size` bytes. */
void **mw_batch_rows(struct mw_batch *batch, uint32_t table, size_t size);
static inline bool mw_is_hashed(const struct rt_job *job, uint32_t table)
{
    return job->table[table].hash_functions != 0;
}
/* The place of a table in a part's list, or n_tables. */
uint32_t mw_part_table(const struct mw_part *part, uint32_t table);

/* Of the frame that carries it, with its one piece or none. */
static inline size_t mw_frame_bytes(const struct rt_outgoing *out)
{
    return RT_FRAME_HEADER_SIZE + out->message_size + (out->n_pieces ? out->pieces[0].size : 0);
}

/* ---- cut.c ---- */

/* Ids of a table that an owner has, of the batch that scratch was filled for. */
static inline uint32_t mw_count_of(const struct mw_batch *batch, uint32_t table, uint32_t owner)
{
    const struct mw_loop *loop = batch->loop;

    return batch->distinct[table] ? loop->scratch.count[(size_t)table * loop->map.owners + owner]
                                  : 0;
}

/* What the payloads of a batch's parts take together. */
struct mw_cut {
    size_t ids, rows, gradients;
};
/* batch->part, from scratch.count and batch->distinct. Ids of one table and owner lie behind one another, whatever parts they
 * are of. @together: batches that an owner must have room for at once, above 0. RT_ELIMIT, RT_ENOMEM. */
int mw_cut(struct mw_batch *batch, uint32_t together, struct mw_cut *out);

/* ---- fanout.c ---- */

/* Ask for every part that has rows (all: every part) as the batch's state says; what is out of before is void. */
void mw_fanout_begin(struct mw_batch *batch, bool all);
/* What is out is void; buffers are given back. The caller answers who waits and sets the state. */
void mw_fanout_abandon(struct mw_batch *batch);
void mw_fanout_release(struct mw_loop *loop); /* what is kept for use again; nothing is out */
/* Send what waits for an owner; NULL: for all that are up. */
void mw_fanout_resend(struct mw_loop *loop, const struct mw_owner *owner);
/* It was started anew, without what waited there: it is to be sent again also parts that it has acked, of batches that
 * it has not acked whole, and in `full` of all that are open. */
void mw_fanout_repeat(struct mw_loop *loop, const struct mw_owner *owner);

/* ---- put.c, lookup.c, push.c ---- */

void mw_serve_put(void *ctx, struct rt_call *call, const struct rt_frame *request);
void mw_serve_lookup(void *ctx, struct rt_call *call, const struct rt_frame *request);
void mw_serve_push(void *ctx, struct rt_call *call, const struct rt_frame *request);
void mw_serve_release(void *ctx, struct rt_call *call, const struct rt_frame *request);

/* A fan-out's request to one owner: packs into loop->out. */
int mw_lookup_pack(struct mw_part *part);
int mw_push_pack(struct mw_part *part);
/* An owner's reply; an error is for the whole batch. */
int mw_lookup_take(struct mw_part *part, const struct rt_frame *reply);
int mw_push_take(struct mw_part *part, const struct rt_frame *reply);
/* All owners have answered. */
void mw_lookup_finish(struct mw_batch *batch);
void mw_push_finish(struct mw_batch *batch);

#endif
