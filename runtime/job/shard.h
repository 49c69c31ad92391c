/* runtime/job/shard.h -- which owner holds a row. hash(id) picks one of 65,536 shards, for ever; the
 * owners (event loops of embedding servers, server by server) hold contiguous ranges that tile them. */
#ifndef RT_SHARD_H
#define RT_SHARD_H

#include "runtime/base/hash.h"

#define RT_SHARDS     65536u
#define RT_OWNERS_MAX (RT_SHARDS / 16)

static inline uint32_t rt_shard_of(uint64_t id)
{
    return (uint32_t)(rt_hash_id(id) >> 48);
}

struct rt_shard_map {
    uint32_t servers, workers; /* owners = servers * workers */
    uint32_t owners;
    uint64_t version; /* travels with every request: a pure function of the two */
};

/* RT_EUSAGE when there are no owners, or more than RT_OWNERS_MAX. */
int rt_shard_map_init(struct rt_shard_map *map, uint32_t servers, uint32_t workers);

/* Owner k holds shards [k*65536/owners, (k+1)*65536/owners), rounded down. */
static inline uint32_t rt_shard_owner(const struct rt_shard_map *map, uint32_t shard)
{
    return (uint32_t)((((uint64_t)shard + 1) * map->owners - 1) / RT_SHARDS);
}
/* First shard of an owner; rt_shard_first(map, owners) == 65536. */
uint32_t rt_shard_first(const struct rt_shard_map *map, uint32_t owner);

#endif
