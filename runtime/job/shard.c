/* runtime/job/shard.c -- the shard map: two numbers and their checked product. */
#include "runtime/job/shard.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"

int rt_shard_map_init(struct rt_shard_map *map, uint32_t servers, uint32_t workers)
{
    uint64_t owners = (uint64_t)servers * workers;
    uint32_t key[2] = {servers, workers};

    if (owners == 0 || owners > RT_OWNERS_MAX)
        return RT_FAIL(RT_EUSAGE,
                       "shard map: %u embedding servers x %u workers = %llu owners, expected 1..%u",
                       servers, workers, (unsigned long long)owners, RT_OWNERS_MAX);
    map->servers = servers;
    map->workers = workers;
    map->owners = (uint32_t)owners;
    map->version = rt_hash_bytes(key, sizeof(key));
    return 0;
}

uint32_t rt_shard_first(const struct rt_shard_map *map, uint32_t owner)
{
    rt_assert(owner <= map->owners);
    return (uint32_t)((uint64_t)owner * RT_SHARDS / map->owners);
}
