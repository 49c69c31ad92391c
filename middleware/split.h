/* middleware/split.h -- the distinct ids of one table, grouped by the owner that holds their rows.
 *
 * Stable: within an owner the order is that of first occurrence, so it is a pure function of the batch and
 * the shard map. Three passes, because where the ids of an owner go is known only when those of all
 * tables are counted (one request carries all tables):
 *
 *   mw_split_count -> the caller lays out its requests -> mw_split_place -> mw_split_renumber
 *
 * Position: rank of an id in the table's order by (owner, first occurrence); the rows of one owner are
 * positions [sum of counts before it, + its count). Touch: any thread; nothing is allocated. */
#ifndef MW_SPLIT_H
#define MW_SPLIT_H

#include "runtime/job/shard.h"

#include <stddef.h>

/* @id: [n] distinct    @owner: [n] out, the owner of each
 * @count: [map->owners] out, ids of each owner */
void mw_split_count(const struct rt_shard_map *map, const uint64_t *id, uint32_t n, uint16_t *owner,
                    uint32_t *count);

/* Where the next id of one owner goes. */
struct mw_cursor {
    uint64_t *id;      /* in the request to that owner */
    uint32_t position; /* first: the sum of the counts of the owners before */
};

/* @cursor: [owners], room for the count of each; used up
 * @position: [n] out, the position of each id */
void mw_split_place(const uint64_t *id, const uint16_t *owner, uint32_t n, struct mw_cursor *cursor,
                    uint32_t *position);

/* out[i] = position[slot[i]]: occurrences then name positions. out may be slot. */
void mw_split_renumber(const uint32_t *slot, size_t n, const uint32_t *position, uint32_t *out);

#endif
