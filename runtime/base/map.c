/* runtime/base/map.c -- open addressing, linear probing.
 *
 * Three parallel arrays of `slots` entries; an entry lives at hash(key) or in the run of used slots after
 * it. Removing shifts the rest of the run back into the hole, so there are no tombstones and a map that
 * is filled and emptied for ever (batches in flight) never grows and never slows down. */
#include "runtime/base/map.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"

#define SLOTS_FIRST 16

static size_t home_of(const struct rt_map *map, uint64_t key)
{
    return (size_t)rt_hash_id(key) & (map->slots - 1);
}

/* The slot that holds key, or the unused one where it belongs. */
static size_t slot_of(const struct rt_map *map, uint64_t key)
{
    size_t at = home_of(map, key);

    while (map->used[at] && map->key[at] != key)
        at = (at + 1) & (map->slots - 1);
    return at;
}

void rt_map_init(struct rt_map *map)
{
    *map = (struct rt_map){0};
}

void rt_map_release(struct rt_map *map)
{
    rt_free(map->key);
    rt_free(map->value);
    rt_free(map->used);
    rt_map_init(map);
}

bool rt_map_get(const struct rt_map *map, uint64_t key, uint64_t *value)
{
    size_t at;

    if (map->count == 0)
        return false;
    at = slot_of(map, key);
    if (!map->used[at])
        return false;
    if (value)
        *value = map->value[at];
    return true;
}

void *rt_map_get_ptr(const struct rt_map *map, uint64_t key)
{
    uint64_t value;

    return rt_map_get(map, key, &value) ? (void *)(uintptr_t)value : NULL;
}

static void put_fresh(struct rt_map *map, uint64_t key, uint64_t value)
{
    size_t at = slot_of(map, key);

    map->used[at] = 1;
    map->key[at] = key;
    map->value[at] = value;
    map->count++;
}

static int grow(struct rt_map *map)
{
    size_t slots = map->slots ? map->slots * 2 : SLOTS_FIRST;
    struct rt_map wider = {
        .key = rt_try_calloc(slots, sizeof(*wider.key)),
        .value = rt_try_calloc(slots, sizeof(*wider.value)),
        .used = rt_try_calloc(slots, sizeof(*wider.used)),
        .slots = slots,
    };

    if (!wider.key || !wider.value || !wider.used) {
        rt_map_release(&wider);
        return RT_FAIL(RT_ENOMEM, "map of %zu slots: out of memory", slots);
    }
    for (size_t i = 0; i < map->slots; i++) {
        if (map->used[i])
            put_fresh(&wider, map->key[i], map->value[i]);
    }
    rt_map_release(map);
    *map = wider;
    return 0;
}

int rt_map_put(struct rt_map *map, uint64_t key, uint64_t value)
{
    if (map->slots) {
        size_t at = slot_of(map, key);

        if (map->used[at]) {
            map->value[at] = value;
            return 0;
        }
    }
    if (map->count + 1 > map->slots / 4 * 3) {
        int err = grow(map);

        if (err)
            return err;
    }
    put_fresh(map, key, value);
    return 0;
}

int rt_map_put_ptr(struct rt_map *map, uint64_t key, void *value)
{
    return rt_map_put(map, key, (uint64_t)(uintptr_t)value);
}

bool rt_map_remove(struct rt_map *map, uint64_t key)
{
    size_t mask = map->slots - 1;
    size_t hole;

    if (map->count == 0)
        return false;
    hole = slot_of(map, key);
    if (!map->used[hole])
        return false;
    for (size_t at = (hole + 1) & mask; map->used[at]; at = (at + 1) & mask) {
        /* An entry may move into the hole when its way from home leads over it. */
        size_t home = home_of(map, map->key[at]);

        if (((at - home) & mask) >= ((at - hole) & mask)) {
            map->key[hole] = map->key[at];
            map->value[hole] = map->value[at];
            hole = at;
        }
    }
    map->used[hole] = 0;
    map->count--;
    return true;
}

bool rt_map_next(const struct rt_map *map, size_t *cursor, uint64_t *key, uint64_t *value)
{
    for (size_t i = *cursor; i < map->slots; i++) {
        if (!map->used[i])
            continue;
        if (key)
            *key = map->key[i];
        if (value)
            *value = map->value[i];
        *cursor = i + 1;
        return true;
    }
    *cursor = map->slots;
    return false;
}
