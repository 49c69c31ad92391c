/* middleware/split.c -- a counting sort of ids by owner. */
#include "middleware/split.h"
#include "runtime/base/assert.h"

#include <string.h>

_Static_assert(RT_OWNERS_MAX <= UINT16_MAX, "an owner's number fits uint16_t");

void mw_split_count(const struct rt_shard_map *map, const uint64_t *id, uint32_t n, uint16_t *owner,
                    uint32_t *count)
{
    memset(count, 0, map->owners * sizeof(*count));
    for (uint32_t i = 0; i < n; i++) {
        owner[i] = (uint16_t)rt_shard_owner(map, rt_shard_of(id[i]));
        count[owner[i]]++;
    }
}

void mw_split_place(const uint64_t *id, const uint16_t *owner, uint32_t n, struct mw_cursor *cursor,
                    uint32_t *position)
{
    for (uint32_t i = 0; i < n; i++) {
        struct mw_cursor *to = &cursor[owner[i]];

        *to->id++ = id[i];
        position[i] = to->position++;
    }
}

void mw_split_renumber(const uint32_t *slot, size_t n, const uint32_t *position, uint32_t *out)
{
    for (size_t i = 0; i < n; i++)
        out[i] = position[slot[i]];
}
