/* tests/unit/test_dedup.c -- distinct ids in order of first occurrence, over features and rounds. */
#include "middleware/dedup.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void tables(void **state)
{
    static const struct {
        const char *name;
        uint64_t id[6];
        size_t n;
        uint32_t slot[6];
        uint64_t distinct[6];
        uint32_t want;
    } row[] = {
        {"empty", {0}, 0, {0}, {0}, 0},
        {"zero", {0, 0}, 2, {0, 0}, {0}, 1},
        {"all ones", {UINT64_MAX, 0, UINT64_MAX}, 3, {0, 1, 0}, {UINT64_MAX, 0}, 2},
        {"all same", {7, 7, 7}, 3, {0, 0, 0}, {7}, 1},
        {"order of arrival", {9, 3, 9, 1, 3}, 5, {0, 1, 0, 2, 1}, {9, 3, 1}, 3},
    };
    struct mw_dedup *dedup = mw_dedup_create(1);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t distinct[6];
        uint32_t slot[6], got;

        assert_int_equal(mw_dedup_begin(dedup, row[i].n), 0);
        got = mw_dedup_add(dedup, row[i].id, row[i].n, slot, distinct, 0);
        if (got != row[i].want || memcmp(slot, row[i].slot, row[i].n * 4) != 0 ||
            memcmp(distinct, row[i].distinct, got * 8) != 0)
            fail_msg("%s: got %u", row[i].name, got);
    }
    mw_dedup_destroy(dedup);
}

static void features_that_share_a_table(void **state)
{
    const uint64_t a[3] = {5, 6, 5}, b[3] = {6, 8, 5};
    struct mw_dedup *dedup = mw_dedup_create(1);
    uint64_t distinct[6];
    uint32_t slot[6], n;

    (void)state;
    assert_int_equal(mw_dedup_begin(dedup, 6), 0);
    n = mw_dedup_add(dedup, a, 3, slot, distinct, 0);
    n = mw_dedup_add(dedup, b, 3, slot + 3, distinct, n);
    assert_int_equal(n, 3);
    assert_memory_equal(distinct, ((uint64_t[]){5, 6, 8}), 24);
    assert_memory_equal(slot, ((uint32_t[]){0, 1, 0, 1, 2, 0}), 24);
    mw_dedup_destroy(dedup);
}

static void out_of_memory(void **state)
{
    struct mw_dedup *dedup = mw_dedup_create(1);
    const uint64_t id[1] = {4};
    uint64_t distinct[1];
    uint32_t slot[1];

    (void)state;
    rt_fault_alloc(0);
    assert_int_equal(mw_dedup_begin(dedup, 10), RT_ENOMEM);
    rt_fault_alloc(-1);
    assert_int_equal(mw_dedup_begin(dedup, 10), 0);
    rt_fault_alloc(0);
    assert_int_equal(mw_dedup_begin(dedup, 100000), RT_ENOMEM);
    rt_fault_alloc(-1);
    assert_int_equal(mw_dedup_begin(dedup, 1), 0); /* the smaller area is still good */
    assert_int_equal(mw_dedup_add(dedup, id, 1, slot, distinct, 0), 1);
    mw_dedup_destroy(dedup);
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* Rounds of all sizes through one object; the truth is a sorted list. */
static void random_against_sorting(void **state)
{
    enum { MAX = 20000, ROUNDS = 60 };
    uint64_t seed = 20260301, counter = 0;
    uint64_t *id = rt_xmalloc(MAX * 8), *distinct = rt_xmalloc(MAX * 8),
             *sorted = rt_xmalloc(MAX * 8);
    uint32_t *slot = rt_xmalloc(MAX * 4);
    struct mw_dedup *dedup = mw_dedup_create(seed);

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < ROUNDS; round++) {
        size_t n = (size_t)rt_below(rt_draw(seed, counter++), round % 10 ? 900 : MAX), want = 0;
        uint64_t range = 1 + rt_below(rt_draw(seed, counter++), 2 * n + 1);
        uint32_t got, next = 0;

        for (size_t i = 0; i < n; i++)
            id[i] = rt_below(rt_draw(seed, counter++), range) * 0x9e3779b97f4a7c15ull;
        memcpy(sorted, id, n * 8);
        qsort(sorted, n, 8, compare);
        for (size_t i = 0; i < n; i++)
            want += i == 0 || sorted[i] != sorted[i - 1];
        assert_int_equal(mw_dedup_begin(dedup, n), 0);
        got = mw_dedup_add(dedup, id, n / 2, slot, distinct, 0);
        got = mw_dedup_add(dedup, id + n / 2, n - n / 2, slot + n / 2, distinct, got);
        assert_int_equal(got, want);
        for (size_t i = 0; i < n; i++) {
            assert_true(slot[i] <= next); /* new ones are numbered as they come */
            next += slot[i] == next;
            assert_int_equal(distinct[slot[i]], id[i]);
        }
    }
    mw_dedup_destroy(dedup);
    rt_free(id);
    rt_free(distinct);
    rt_free(sorted);
    rt_free(slot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables),
        cmocka_unit_test(features_that_share_a_table),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(random_against_sorting),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
