/* tests/unit/test_split.c -- every id at its owner, stable, and every occurrence still names its id. */
#include "middleware/split.h"
#include "runtime/base/assert.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define IDS 3000

static void check(uint32_t servers, uint32_t workers, uint32_t n, uint64_t seed)
{
    static uint64_t id[IDS], grouped[IDS];
    static uint32_t count[RT_OWNERS_MAX], position[IDS], slot[IDS], before[IDS];
    static struct mw_cursor cursor[RT_OWNERS_MAX];
    static uint16_t owner[IDS];
    struct rt_shard_map map;
    uint32_t sum = 0;

    assert_int_equal(rt_shard_map_init(&map, servers, workers), 0);
    for (uint32_t i = 0; i < n; i++) {
        id[i] = i == 0 ? 0 : i == 1 ? UINT64_MAX : rt_draw(seed, i);
        slot[i] = before[i] = (uint32_t)rt_below(rt_draw(seed + 1, i), n);
    }
    mw_split_count(&map, id, n, owner, count);
    for (uint32_t k = 0; k < map.owners; k++) {
        cursor[k] = (struct mw_cursor){grouped + sum, sum};
        sum += count[k];
    }
    assert_int_equal(sum, n);
    mw_split_place(id, owner, n, cursor, position);
    mw_split_renumber(slot, n, position, slot);
    sum = 0;
    for (uint32_t k = 0; k < map.owners; k++) {
        for (uint32_t j = 0; j < count[k]; j++)
            assert_int_equal(rt_shard_owner(&map, rt_shard_of(grouped[sum + j])), k);
        sum += count[k];
    }
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(grouped[position[i]], id[i]);
        assert_int_equal(grouped[slot[i]], id[before[i]]);
        for (uint32_t j = i + 1; j < n && j < i + 50; j++) /* stable */
            assert_true(owner[i] != owner[j] || position[i] < position[j]);
    }
}

static void maps_and_sizes(void **state)
{
    static const struct {
        uint32_t servers, workers, n;
    } row[] = {{1, 1, 0},  {1, 1, 1},    {1, 1, IDS},   {2, 1, IDS},
               {3, 5, 17}, {8, 8, 1000}, {4096, 1, IDS}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        check(row[i].servers, row[i].workers, row[i].n, 77 + i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(maps_and_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
