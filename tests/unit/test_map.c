/* tests/unit/test_map.c -- the map against an array of pairs. */
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

static void an_empty_map(void **state)
{
    struct rt_map map;
    uint64_t value = 5, key;
    size_t cursor = 0;

    (void)state;
    rt_map_init(&map);
    assert_false(rt_map_get(&map, 0, &value));
    assert_int_equal(value, 5);
    assert_null(rt_map_get_ptr(&map, 0));
    assert_false(rt_map_remove(&map, 0));
    assert_false(rt_map_next(&map, &cursor, &key, &value));
    rt_map_release(&map);
}

static void any_key_is_a_key(void **state)
{
    static const uint64_t key[] = {0, 1, UINT64_MAX, 0x8000000000000000ULL};
    struct rt_map map;
    uint64_t value;
    int thing;

    (void)state;
    rt_map_init(&map);
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(rt_map_put(&map, key[i], i), 0);
    for (size_t i = 0; i < 4; i++) {
        assert_true(rt_map_get(&map, key[i], &value));
        assert_int_equal(value, i);
        assert_true(rt_map_get(&map, key[i], NULL));
    }
    assert_int_equal(rt_map_put_ptr(&map, 0, &thing), 0);
    assert_ptr_equal(rt_map_get_ptr(&map, 0), &thing);
    assert_int_equal(map.count, 4);
    assert_true(rt_map_remove(&map, 0));
    assert_false(rt_map_get(&map, 0, &value));
    rt_map_release(&map);
}

enum { KEYS = 512 };

struct model {
    uint64_t value[KEYS];
    bool present[KEYS];
    size_t count;
};

static void compare(const struct rt_map *map, const struct model *model)
{
    size_t cursor = 0, seen = 0;
    uint64_t key, value;

    assert_int_equal(map->count, model->count);
    assert_true(map->count <= map->slots / 4 * 3);
    for (uint64_t k = 0; k < KEYS; k++) {
        bool found = rt_map_get(map, k, &value);

        if (found != model->present[k] || (found && value != model->value[k]))
            fail_msg("key %llu: found %d", (unsigned long long)k, found);
    }
    while (rt_map_next(map, &cursor, &key, &value)) {
        assert_true(key < KEYS && model->present[key] && model->value[key] == value);
        seen++;
    }
    assert_int_equal(seen, model->count);
}

static void random_steps_match_the_model(void **state)
{
    uint64_t seed = rt_wall_ms();
    struct model model = {0};
    struct rt_map map;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    rt_map_init(&map);
    for (uint64_t i = 0; i < 60000; i++) {
        uint64_t draw = rt_draw(seed, i);
        uint64_t key = rt_below(rt_draw_fold(draw, 1), KEYS);
        bool filling = i / 3000 % 2 == 0;

        if (rt_below(draw, 10) < (filling ? 7u : 3u)) {
            assert_int_equal(rt_map_put(&map, key, draw), 0);
            model.count += !model.present[key];
            model.present[key] = true;
            model.value[key] = draw;
        } else {
            assert_int_equal(rt_map_remove(&map, key), model.present[key]);
            model.count -= model.present[key];
            model.present[key] = false;
        }
        if (i % 500 == 0)
            compare(&map, &model);
    }
    compare(&map, &model);
    rt_map_release(&map);
}

static void coming_and_going_does_not_grow(void **state)
{
    struct rt_map map;

    (void)state;
    rt_map_init(&map);
    for (uint64_t i = 0; i < 100000; i++) {
        assert_int_equal(rt_map_put(&map, i, i), 0);
        if (i >= 10)
            assert_true(rt_map_remove(&map, i - 10));
    }
    assert_int_equal(map.slots, 16);
    rt_map_release(&map);
}

static void out_of_memory_changes_nothing(void **state)
{
    (void)state;
    for (int nth = 0; nth < 6; nth++) {
        struct rt_map map;
        uint64_t count = 0;
        int err = 0;

        rt_map_init(&map);
        rt_fault_alloc(nth);
        while (!err && count < 100)
            err = rt_map_put(&map, count++, 7);
        rt_fault_alloc(-1);
        assert_int_equal(err, RT_ENOMEM);
        assert_int_equal(map.count, count - 1);
        for (uint64_t k = 0; k + 1 < count; k++)
            assert_true(rt_map_get(&map, k, NULL));
        assert_int_equal(rt_map_put(&map, count - 1, 7), 0);
        rt_map_release(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_map),
        cmocka_unit_test(any_key_is_a_key),
        cmocka_unit_test(random_steps_match_the_model),
        cmocka_unit_test(coming_and_going_does_not_grow),
        cmocka_unit_test(out_of_memory_changes_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
