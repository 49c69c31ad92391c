/* middleware/compose.h -- compositional hashing: an id's embedding is the sum of several rows of a small table.
 *
 * The distinct ids of a hashed table become rows before anything is asked of an owner: id d has the rows
 * hash_j(d) for j below hash.functions, out of hash.rows, deduplicated in their turn; owners see nothing but numbers of rows. What the ids
 * stand for is an area of float32 sums [distinct ids][dim], which takes the place of rows wherever there are ids: pooling,
 * scattering and sequences need not know. Backward, what is summed up for an id is added to each of its rows (twice, where
 * two functions agree). Which rows an id has is a pure function of (global.seed, table, id). */
#ifndef MW_COMPOSE_H
#define MW_COMPOSE_H

#include "runtime/job/job.h"

struct mw_batch;

/* @id: [n]   @row: [n][hash_functions] out, each below hash_rows. Touch: any thread. */
void mw_compose_ids(const struct rt_job *job, uint32_t table, const uint64_t *id, size_t n,
                    uint64_t *row);

/* An id's rows of a table of a batch: of its ids, in order, positions in the table. In batch->held. */
struct mw_composed {
    const uint32_t *position; /* [n_ids][functions] */
    uint32_t n_ids;           /* distinct ones; 0: not hashed, or none in this batch */
};

/* Bytes of the sums of all hashed tables of a batch, and of the largest; 0: there are none. */
size_t mw_compose_bytes(const struct mw_batch *batch);
size_t mw_compose_most(const struct mw_batch *batch);

/* @area: mw_compose_bytes(), of the tables in order; filled from the owners' replies. Uses scratch.row. */
void mw_compose_sum(struct mw_batch *batch, float *area);
/* Sums of a table, in such an area. */
float *mw_compose_of(const struct mw_batch *batch, uint32_t table, float *area);
/* What is summed for each id of a table is added to its rows. @sum: by id   @row: by position */
void mw_compose_add(struct mw_batch *batch, uint32_t table, const float *sum, float *const *row);

#endif
