/* embedding_server/serve.h -- the inside of an owner, shared by owner.c (its life), serve*.c (its requests), turn.c
 * (what of them is done in pieces) and metrics.c (its numbers) only. */
#ifndef EBS_SERVE_H
#define EBS_SERVE_H

#include "embedding_server/apply.h"
#include "embedding_server/back.h"
#include "embedding_server/cut.h"
#include "embedding_server/filter.h"
#include "embedding_server/gather.h"
#include "embedding_server/import.h"
#include "embedding_server/lost.h"
#include "embedding_server/owner.h"
#include "embedding_server/save.h"
#include "embedding_server/table.h"
#include "embedding_server/turn.h"

#include <stdatomic.h>

#define EBS_UNPACK_BYTES_MAX  ((size_t)48 << 20) /* what one message may unpack to */
#define EBS_MESSAGE_BYTES_MAX (256u << 10)
#define EBS_FACTOR_MAX        1e6 /* of learning rates, and of the factor on them */

/* 16,384 rows of dim 64, or some 1.5 ms. */
#define EBS_AT_ONCE ((size_t)10 << 20)

/* A lookup that wants to see a step which is not applied yet: the request, kept as it came. */
struct ebs_waiting {
    struct ebs_waiting *next;
    struct rt_call *call;
    struct rt_buf *payload;
    uint64_t step;
    size_t size;
    uint8_t message[];
};

struct ebs_owner {
    struct ebs_owner_conf conf;
    struct rt_rpc *rpc;
    char address[RT_ADDRESS_MAX];
    uint64_t shard_map;
    uint32_t shard_first, shard_end; /* our shards: [first, end) */
    uint32_t owners;                 /* of the map */
    struct ebs_budget budget;        /* of all tables together */
    struct ebs_table **table;        /* [job->n_tables] */
    float *lr;                       /* [job->n_tables] */
    struct ebs_applier applier;      /* of what is applied at once */
    struct ebs_filter *filter;
    struct ebs_gather *gather;
    struct ebs_turn turn;
    struct ebs_saver saver;
    struct ebs_importer importer;
    struct ebs_cutter cutter;
    struct ebs_window window;
    struct ebs_lost *lost; /* what was lost, as the first ledger showed; NULL: none was told */
    struct ebs_history history;
    struct rt_arena *arena; /* of the request being served */
    struct wire_out reply;
    struct ebs_waiting *first, **last;
    struct ebs_owner_stats stats;
    struct ebs_table_stats *table_stats; /* [job->n_tables] */
};

/* ---- metrics.c ---- */

/* What a table holds now. */
void ebs_count_table(struct ebs_owner *owner, uint32_t table);

/* ---- serve.c: what both requests have ---- */

extern const struct rt_method_def ebs_methods[];
extern const size_t ebs_method_count;

void ebs_refuse(struct ebs_owner *owner, struct rt_call *call, int err);
/* RT_EOWNER: ids that are not ours mean that the sender's map of shards is wrong; nothing of it is served. */
int ebs_check_ids(const struct ebs_owner *owner, const uint64_t *id, size_t n);
int ebs_check_head(const struct ebs_owner *owner, uint64_t shard_map, const uint32_t *table,
                   uint32_t n_tables);
/* What rows or gradients come in is told by the job: `expected`, of the configuration's `key`. */
int ebs_check_dtype(const char *key, uint32_t expected, uint32_t dtype);
uint64_t ebs_rows_of(const uint32_t *n_ids, uint32_t n_tables);
/* What a request is: memory gone through, in bytes. More than EBS_AT_ONCE is done in pieces, with other requests in
 * between. */
size_t ebs_work_of(const struct ebs_owner *owner, const uint32_t *table, const uint32_t *n_ids,
                   uint32_t n_tables);

static inline void ebs_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}
static inline void ebs_set(_Atomic uint64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}
static inline uint64_t ebs_get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

/* ---- serve_lookup.c ---- */

void ebs_serve_lookup(void *ctx, struct rt_call *call, const struct rt_frame *request);
/* Serve the lookups that need wait no longer. */
void ebs_wake(struct ebs_owner *owner);
/* The next piece of an answer, of one table and at most so many rows; the last has at_table == n_tables. RT_EOWNER: an id is not ours. */
int ebs_lookup_piece(struct ebs_owner *owner, struct ebs_lookup *lookup, size_t rows);
/* Answer: all pieces are there, or none, and all ids are ours: then they are made now. */
void ebs_lookup_reply(struct ebs_owner *owner, struct ebs_lookup *lookup);

/* ---- serve_apply.c ---- */

void ebs_serve_apply(void *ctx, struct rt_call *call, const struct rt_frame *request);
/* Mode `full`: these batches of a step that is not applied here yet will not come any more: it does not wait for them. */
struct wire_tell_ledger;
int ebs_step_skip(struct ebs_owner *owner, const struct wire_tell_ledger *told);
/* Nothing of the steps up to this one will come any more: lookups that wait for them see what is here. */
void ebs_steps_reached(struct ebs_owner *owner, uint64_t step);
/* A job was applied, or failed with `err`: mark, answer, and go on with what waited for it. Takes the job. */
void ebs_apply_finish(struct ebs_owner *owner, struct ebs_job *job, int err);

#endif
