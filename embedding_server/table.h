/* embedding_server/table.h -- the rows of one table that one owner holds.
 *
 * A row is {id | touched, frequency where a policy needs them | weights in the table's dtype | optimizer state}, laid
 * out by runtime/job/layout.h. Every 64-bit id is legal, 0 and UINT64_MAX included. A row exists once a gradient was
 * applied to it; before that, and after it was evicted, expired or removed, it reads as its initial value, which
 * is computed (init.h). Memory grows with live rows, without long pauses and without a second copy, and shrinks
 * with them. table_cut.h: its rows as they were at one instant.
 * Touch: the owner's thread only; there is no lock. */
#ifndef EBS_TABLE_H
#define EBS_TABLE_H

#include "embedding_server/budget.h"
#include "runtime/job/job.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EBS_DIM_MAX  1024u      /* as WIRE_DIM_MAX */
#define EBS_ROW_NONE UINT32_MAX /* no row; a table of one owner has fewer rows than this */

struct ebs_table;

struct ebs_table_conf {
    const struct rt_table_conf *job; /* copied */
    uint64_t seed;                   /* the job's */
    uint32_t shards; /* that this owner has, of RT_SHARDS; capacities are shared out by it */
    struct ebs_budget *budget; /* of the owner, outlives the table; NULL: no limit */
};

/* RT_EUSAGE names the table and the number; RT_ENOMEM; RT_EFULL: the budget does not hold an empty table. */
int ebs_table_create(const struct ebs_table_conf *conf, struct ebs_table **out);
void ebs_table_destroy(struct ebs_table *table); /* NULL is legal */

const char *ebs_table_name(const struct ebs_table *table);
uint32_t ebs_table_dim(const struct ebs_table *table);

/* ebs_table_lookup() - copy the weights of rows; a missing row reads as its initial value.
 * @id: [n]     @row: [n][dim] float32 whatever the rows are stored in; caller's memory.
 * Changes nothing: no row is created or counted as used.  Return: number of ids that had a row. */
size_t ebs_table_lookup(const struct ebs_table *table, const uint64_t *id, size_t n, float *row);
/* The same as elements of `dtype` (enum wire_dtype): rows stored in it as they are, others to the nearest (element.h).
 * @row: [n][dim], aligned as its elements are. */
size_t ebs_table_lookup_as(const struct ebs_table *table, uint32_t dtype, const uint64_t *id,
                           size_t n, void *row);

/* One update: gradient i belongs to id[i] whatever the other ids' rows are. */
struct ebs_update {
    const uint64_t *id; /* [n]; an id that comes twice is applied twice, in order */
    const void *grad;   /* [n][dim] elements of `dtype`, aligned as they are */
    size_t n;
    uint32_t dtype; /* enum wire_dtype */
    float unscale;  /* a gradient is its element times this; 0 counts as 1 */
    float lr;       /* finite */
    uint64_t step;  /* the group's, from 1 on */
    uint64_t
        draw; /* names the update, for draws that it makes: the step in synchronous modes, else the batch id */
    uint32_t
        window; /* rows that one of the last so many updates touched are not evicted; 0 counts as 1 */
};
struct ebs_applied {
    uint64_t rows;         /* rows that were changed */
    uint64_t created;      /* of these, rows that did not exist before */
    uint64_t nonfinite;    /* gradients not applied: a value not finite, or over EBS_GRADIENT_MAX */
    uint64_t not_admitted; /* ... for an id without a row that admission did not give one */
    uint64_t
        refused; /* ... for one without room: the table or memory full, and nothing that may be evicted */
    uint64_t evicted; /* rows that made room */
};

/* A new update begins: what it touches is younger than all before. Once per update and table, before it is
 * applied. @time_ms: a clock that time to live is counted on; it may stand still, and should not go back. */
void ebs_table_tick(struct ebs_table *table, uint64_t time_ms);

/* The learning rate of an update that comes with a factor, see ebs_optimizer_lr(). */
float ebs_table_lr(const struct ebs_table *table, float lr, double factor);

/* ebs_table_apply() - run the optimizer on the rows of an update, creating those that are missing and are
 * admitted. A gradient with a value that is not usable is left out as a whole and creates nothing.
 * It cannot fail: where there is no room for a new row, or no memory, its id is counted as refused and the others
 * have their gradients. A large update may be done in slices, with others in between. Of the ids that
 * it comes to later, one whose row is the least used of many may lose it to a new one before.
 * @out: added to, not cleared. */
void ebs_table_apply(struct ebs_table *table, const struct ebs_update *update,
                     struct ebs_applied *out);

/* Gradients of an update as float32, some at a time: where they are such already, in place.
 * @at, n: which, n at most ebs_update_wide()     @wide: [EBS_WIDE], for those that are not. */
#define EBS_WIDE ((size_t)16 << 10)
size_t ebs_update_wide(const struct ebs_table *table, const struct ebs_update *update);
const float *ebs_update_gradients(const struct ebs_table *table, const struct ebs_update *update,
                                  size_t at, size_t n, float *wide);

/* A row that did not come of a gradient: made if there is none, admitted or not; then its weights are these, to the nearest
 * of the table's dtype. @weight: [dim] finite. @state: [rt_row_layout().state_count] of the optimizer's; NULL: that of a row that
 * was never trained. RT_ELIMIT: its capacity is reached; RT_EFULL, RT_ENOMEM of memory. */
int ebs_table_put(struct ebs_table *table, uint64_t id, const float *weight, const float *state);

/* ---- rows of a checkpoint (put.c) ---- */

/* Memory of the index for so many rows of an empty table, as far as there is any: they come faster then. */
void ebs_table_reserve(struct ebs_table *table, uint64_t rows);

/* Rows as they stand in a file, state and policies' marks included; a row that has one of their ids is replaced.
 * @row: [n] each of ebs_table_row_bytes(), 4-byte aligned.  @shift: added to each `touched`, mod 2^32.
 * @left_out: added to: rows for which a table that may evict had no room; there the rows that came first stay.
 * RT_ELIMIT, RT_EFULL, RT_ENOMEM: a table that may not evict has no room for all; some are there. */
int ebs_table_put_rows(struct ebs_table *table, const uint8_t *const *row, size_t n, uint32_t shift,
                       uint64_t *left_out);

/* Forget the rows of these ids.  Return: how many there were. */
uint64_t ebs_table_remove_rows(struct ebs_table *table, const uint64_t *id, size_t n);

/* As a table that was just made: no rows, counts, time. No cut is under way. RT_ENOMEM, RT_EFULL: only ebs_table_destroy() or the same again. */
int ebs_table_clear(struct ebs_table *table);

/* Sum of the rows' digests, mod 2^64 (runtime/checkpoint/rowfile.h): the same however rows are spread over tables. */
uint64_t ebs_table_digest(const struct ebs_table *table);

/* Forget a row: from now on it reads as its initial value. false: there was none. */
bool ebs_table_remove(struct ebs_table *table, uint64_t id);

uint64_t ebs_table_rows(const struct ebs_table *table);
uint64_t ebs_table_capacity(const struct ebs_table *table); /* most rows; UINT64_MAX: any number */
size_t ebs_table_row_bytes(
    const struct ebs_table *table); /* id, meta, weights and state of one row */

/* Upkeep, bounded: look at or move at most about `rows` rows. Expires rows, gives memory of removed ones
 * back, has memory for growth ready. Row numbers and pointers to rows are good until the next call.
 * Return: there is more to do now. */
bool ebs_table_tend(struct ebs_table *table, uint64_t time_ms, size_t rows);

/* Bytes of memory, by kind; their sum is what the table adds to the process's resident memory. */
struct ebs_table_bytes {
    size_t rows;  /* live rows */
    size_t index; /* from id to row */
    size_t
        slack; /* places of rows that went, bits of rows, the sketch of admission, the table itself */
    size_t allocator; /* rest of the last page of each, and pages touched ahead of growth */
};
struct ebs_table_bytes ebs_table_bytes(const struct ebs_table *table);

/* Since the table was made; rows = created - evicted - expired - removed. */
struct ebs_table_counts {
    uint64_t created, evicted, expired, not_admitted, refused, removed, nonfinite;
};
const struct ebs_table_counts *ebs_table_counts(const struct ebs_table *table);

/* All rows, in the order of their memory: for (uint32_t at = 0; ebs_table_next(table, &at, &row);).
 * The pointers are good until the next apply, remove or tend. */
struct ebs_row {
    uint64_t id;
    const uint8_t *weight; /* [dim] in the table's dtype, 4-byte aligned */
    const float *state;    /* [rt_row_layout().state_count] */
    uint32_t touched;      /* tick of its last update; 0 where the table keeps none */
    float frequency;       /* as it was at `touched`; 0 where the table keeps none */
};
bool ebs_table_next(const struct ebs_table *table, uint32_t *cursor, struct ebs_row *out);

/* One row; false: there is none. */
bool ebs_table_get(const struct ebs_table *table, uint64_t id, struct ebs_row *out);

#endif
