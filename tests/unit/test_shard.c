/* tests/unit/test_shard.c -- ranges tile, the two directions agree, the version tells maps apart. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/job/shard.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void limits(void **state)
{
    static const struct {
        uint32_t servers, workers;
        int want;
    } row[] = {
        {1, 1, 0},
        {4096, 1, 0},
        {512, 8, 0},
        {0, 1, RT_EUSAGE},
        {1, 0, RT_EUSAGE},
        {4097, 1, RT_EUSAGE},
        {65536, 65536, RT_EUSAGE},
    };
    struct rt_shard_map map;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        int got = rt_shard_map_init(&map, row[i].servers, row[i].workers);

        if (got != row[i].want)
            fail_msg("%u x %u: got %s", row[i].servers, row[i].workers, rt_err_name(got));
    }
}

static void ranges_tile(void **state)
{
    (void)state;
    for (uint32_t owners = 1; owners <= RT_OWNERS_MAX; owners = owners * 3 / 2 + 1) {
        struct rt_shard_map map;

        assert_int_equal(rt_shard_map_init(&map, owners, 1), 0);
        assert_int_equal(rt_shard_first(&map, 0), 0);
        assert_int_equal(rt_shard_first(&map, owners), RT_SHARDS);
        for (uint32_t k = 0; k < owners; k++) {
            uint32_t first = rt_shard_first(&map, k), next = rt_shard_first(&map, k + 1);

            assert_true(first < next);
            if (rt_shard_owner(&map, first) != k || rt_shard_owner(&map, next - 1) != k)
                fail_msg("%u owners: owner %u does not hold its ends", owners, k);
        }
    }
}

static void every_shard_of_a_few_maps(void **state)
{
    static const uint32_t owners[] = {1, 2, 3, 7, 24, 1000, 4096};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(owners); i++) {
        struct rt_shard_map map;
        uint32_t k = 0;

        assert_int_equal(rt_shard_map_init(&map, owners[i], 1), 0);
        for (uint32_t shard = 0; shard < RT_SHARDS; shard++) {
            if (shard == rt_shard_first(&map, k + 1))
                k++;
            if (rt_shard_owner(&map, shard) != k)
                fail_msg("%u owners: shard %u", owners[i], shard);
        }
    }
}

static void version_is_a_function_of_the_two(void **state)
{
    struct rt_shard_map a, b, c;

    (void)state;
    assert_int_equal(rt_shard_map_init(&a, 2, 4), 0);
    assert_int_equal(rt_shard_map_init(&b, 2, 4), 0);
    assert_int_equal(rt_shard_map_init(&c, 4, 2), 0);
    assert_int_equal(a.version, b.version);
    assert_int_not_equal(a.version, c.version);
    assert_int_equal(rt_shard_of(0), 0);
    assert_int_equal(rt_shard_of(1), 0xb456);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(limits),
        cmocka_unit_test(ranges_tile),
        cmocka_unit_test(every_shard_of_a_few_maps),
        cmocka_unit_test(version_is_a_function_of_the_two),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
