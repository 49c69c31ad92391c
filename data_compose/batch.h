/* data_compose/batch.h -- one pass over a set, cut into the batches of the splits of one composer.
 *
 *     dc_batcher_create(&conf, &batcher);
 *     while ((turn = dc_batcher_turn(batcher, &batch)) > 0)      a slice of work, a few milliseconds
 *         if (turn == DC_TURN_BATCH) ... batch is ours: dc_batch_destroy() ...
 *     0: the pass is over: dc_batcher_split() tells how each split ended; < 0: an error, text set
 *
 * A batch is a pure function of its id and the data plan: the same bytes whichever composer makes it, and
 * whatever was skipped before it. Touch: the io's thread. */
#ifndef DC_BATCH_H
#define DC_BATCH_H

#include "data_compose/feed.h"

#include "runtime/base/buf.h"

struct dc_batcher;
struct dc_quarantine;

/* Batches that are done, to be used again: making one allocates nothing once there have been as many at a time. Zero-initialise;
 * outlives its batches. Touch: the io's thread. */
struct dc_batch_pool {
    struct dc_batch *idle;
};
void dc_batch_pool_release(struct dc_batch_pool *pool);

/* A finished batch. */
struct dc_batch {
    uint64_t id; /* runtime/job/batch_id.h */
    uint32_t samples;
    bool has_before;
    uint64_t before; /* of the same rank, just before it in this pass, wanted or not */
    bool has_turn_before;
    uint64_t turn_before;           /* of any rank, of the turn before (turn.h) */
    uint64_t digest;                /* XXH3-64 of the bytes of ids */
    uint32_t *n_ids;                /* [n_features] */
    uint32_t *layout;               /* [n_features] enum wire_layout */
    uint8_t *weighted;              /* [n_features] 0/1: its ids have weights; NULL: none has */
    struct rt_buf *ids;             /* the payload of PutBatch */
    uint64_t key_bytes;             /* 0: no keys, or all are empty */
    struct rt_buf *samples_payload; /* of TrainBatch: dense, labels, weights, groups, keys */
    struct dc_batch_pool *pool;     /* NULL: freed when it is done */
    struct dc_batch *next;          /* of the idle ones */
};
/* All zero, with its arrays; without buffers. weighted: [n_features] copied; NULL: no ids have weights. */
struct dc_batch *dc_batch_create(struct dc_batch_pool *pool, uint32_t n_features,
                                 const uint8_t *weighted);
/* Give its buffers back, and it to its pool. NULL is legal. */
void dc_batch_destroy(struct dc_batch *batch);

struct dc_batcher_conf {
    struct dc_feed_conf feed;
    uint32_t world;                   /* trainer ranks; 0: 1 */
    uint32_t index, size;             /* splits index, index + size, ... are ours */
    uint64_t epoch;                   /* picks the permutations */
    const uint64_t *first_sequence;   /* [splits] of this pass; NULL: 0; copied */
    struct dc_quarantine *quarantine; /* judges how many rows may be bad; NULL: any number */
    bool record_bad;                  /* and writes them down */
    struct dc_batch_pool *pool;       /* of its batches; NULL: none */
    /* Batches that are not wanted are counted, not built. NULL: all are wanted. */
    bool (*skip)(void *ctx, uint64_t batch_id);
    void *ctx;
    /* One of the same set that came to DC_TURN_END: its memory is taken over, so that pass after pass uses the same, and it is
     * destroyed. Or NULL. */
    struct dc_batcher *last;
};

enum dc_turn {
    DC_TURN_END = 0,
    DC_TURN_BATCH = 1,
    DC_TURN_AGAIN = 2, /* nothing yet */
    DC_TURN_FULL = 3,  /* the io's buffers are over their budget: come back when some are free */
};

struct dc_split_end {
    uint64_t end_sequence, rows_read, rows_quarantined; /* rows: of this pass */
};

/* RT_EUSAGE: a batch would be over the limits of the wire; RT_ENOMEM. */
int dc_batcher_create(const struct dc_batcher_conf *conf, struct dc_batcher **out);
void dc_batcher_destroy(struct dc_batcher *batcher); /* NULL is legal */
int dc_batcher_turn(struct dc_batcher *batcher, struct dc_batch **out);
/* Rows that the whole pass will have, estimated from how far it is; NaN: not known yet. */
double dc_batcher_expected(const struct dc_batcher *batcher);
/* So far; complete after DC_TURN_END. The split must be ours. */
void dc_batcher_split(const struct dc_batcher *batcher, uint32_t split, struct dc_split_end *out);
/* true: *batch_id is a batch of the latest turn that no batch to come is of (turn.h). */
bool dc_batcher_closed(const struct dc_batcher *batcher, uint64_t *batch_id);
/* true: *batch_id is a batch of the latest turn so far. */
bool dc_batcher_latest(const struct dc_batcher *batcher, uint64_t *batch_id);
/* Are batches finished that others of their turns, or of turns before, are not (turn.h)? */
bool dc_batcher_mixed(const struct dc_batcher *batcher);
void dc_batcher_rows(const struct dc_batcher *batcher, uint64_t *read, uint64_t *quarantined);

#endif
