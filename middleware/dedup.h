/* middleware/dedup.h -- the ids of one batch and table -> distinct ids, in order of first occurrence.
 *
 *   mw_dedup_begin(d, ids of all features of the table);
 *   n = 0; for each feature of the table: n = mw_dedup_add(d, id, count, slot, distinct, n);
 *   now distinct[slot[i]] == id[i] for every occurrence of every feature.
 *
 * Any 64-bit id is an id, 0 and ~0 included. The result is a pure function of the ids; the seed only
 * moves them inside the hash table, so that nobody outside can choose ids that collide. Touch: one thread. */
#ifndef MW_DEDUP_H
#define MW_DEDUP_H

#include <stddef.h>
#include <stdint.h>

#define MW_DEDUP_IDS_MAX ((size_t)1 << 31) /* of one table and batch */

struct mw_dedup;

struct mw_dedup *mw_dedup_create(uint64_t seed);
void mw_dedup_destroy(struct mw_dedup *dedup); /* NULL is legal */

/* Forget what was added; room for `ids` occurrences. Memory grows to the most ever asked for, and stays.
 * RT_ENOMEM: nothing may be added then. */
int mw_dedup_begin(struct mw_dedup *dedup, size_t ids);

/* @id: [n]   @slot: [n] out   @distinct: [n_distinct + n] new ones are appended
 * @n_distinct: number of distinct ids so far. Return: their number now. */
uint32_t mw_dedup_add(struct mw_dedup *dedup, const uint64_t *id, size_t n, uint32_t *slot,
                      uint64_t *distinct, uint32_t n_distinct);

size_t mw_dedup_bytes(const struct mw_dedup *dedup); /* of the hash table */

#endif
