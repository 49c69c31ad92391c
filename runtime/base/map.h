/* runtime/base/map.h -- open-addressing map from any 64-bit key to a 64-bit value (or pointer).
 *
 * For bookkeeping (open batches, pending calls), not for embedding rows. Linear probing, deletion
 * without tombstones, load at most 3/4. No key is reserved. Touch: owner thread. */
#ifndef RT_MAP_H
#define RT_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rt_map {
    uint64_t *key;
    uint64_t *value;
    uint8_t *used;
    size_t slots; /* power of two, 0 before the first put */
    size_t count;
};

void rt_map_init(struct rt_map *map);
void rt_map_release(struct rt_map *map);
bool rt_map_get(const struct rt_map *map, uint64_t key, uint64_t *value); /* value may be NULL */
void *rt_map_get_ptr(const struct rt_map *map, uint64_t key);             /* NULL when absent */
int rt_map_put(struct rt_map *map, uint64_t key, uint64_t value); /* insert or replace; RT_ENOMEM */
int rt_map_put_ptr(struct rt_map *map, uint64_t key, void *value);
bool rt_map_remove(struct rt_map *map, uint64_t key);
/* Iterate: for (size_t i = 0; rt_map_next(map, &i, &k, &v);). Do not change the map meanwhile. */
bool rt_map_next(const struct rt_map *map, size_t *cursor, uint64_t *key, uint64_t *value);

#endif
