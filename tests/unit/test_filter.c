/* tests/unit/test_filter.c -- at most once per batch, in bounded memory. */
#include "embedding_server/filter.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static uint64_t batch(uint64_t split, uint64_t sequence)
{
    return split << EBS_SEQUENCE_BITS | sequence;
}

static void mark(struct ebs_filter *filter, uint64_t batch_id)
{
    assert_int_equal(ebs_filter_reserve(filter, batch_id), 0);
    ebs_filter_set(filter, batch_id);
}

static void low_moves_over_what_is_applied(void **test)
{
    static const struct {
        const char *name;
        uint64_t set[5], n, low;
    } row[] = {
        {"none", {0}, 0, 0},
        {"first", {0}, 1, 1},
        {"in order", {0, 1, 2}, 3, 3},
        {"backwards", {2, 1, 0}, 3, 3},
        {"a gap stays", {0, 1, 3}, 3, 2},
        {"again", {0, 0, 0}, 3, 1},
        {"last of the window", {63}, 1, 0},
        {"first beyond it", {64}, 1, 1},
        {"beyond it, after some", {0, 1, 66}, 3, 3},
        {"beyond it, with the rest applied", {1, 2, 64}, 3, 3},
        {"far beyond", {1, 1000000}, 2, 1000000 - 63},
        {"the largest sequence", {0xffffffffffff}, 1, 0xffffffffffff - 63},
    };

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ebs_filter *filter = NULL;

        assert_int_equal(ebs_filter_create(64, &filter), 0);
        for (size_t k = 0; k < row[i].n; k++)
            mark(filter, batch(9, row[i].set[k]));
        for (size_t k = 0; k < row[i].n; k++)
            if (!ebs_filter_seen(filter, batch(9, row[i].set[k])))
                fail_msg("%s: %zu is not seen", row[i].name, k);
        if (ebs_filter_low(filter, 9) != row[i].low)
            fail_msg("%s: low %llu", row[i].name, (unsigned long long)ebs_filter_low(filter, 9));
        assert_int_equal(ebs_filter_low(filter, 8), 0);
        ebs_filter_destroy(filter);
    }
}

static void splits_are_apart(void **test)
{
    static const uint64_t split[] = {0, 1, 255, 256, 65535};
    struct ebs_filter *filter = NULL;

    (void)test;
    assert_int_equal(ebs_filter_create(4096, &filter), 0);
    for (size_t i = 0; i < ARRAY_LEN(split); i++) {
        assert_false(ebs_filter_seen(filter, batch(split[i], 5)));
        mark(filter, batch(split[i], 5));
        assert_true(ebs_filter_seen(filter, batch(split[i], 5)));
        assert_false(ebs_filter_seen(filter, batch(split[i], 4)));
    }
    /* 5 splits on 3 pages of 2 KiB, 512 bytes of window each: bounded by what was used. */
    assert_true(ebs_filter_bytes(filter) < 16 * 1024);
    ebs_filter_destroy(filter);
}

static void bad_windows_and_no_memory(void **test)
{
    struct ebs_filter *filter = NULL;
    bool done = false;

    (void)test;
    assert_int_equal(ebs_filter_create(0, &filter), RT_EUSAGE);
    assert_int_equal(ebs_filter_create(63, &filter), RT_EUSAGE);
    assert_int_equal(ebs_filter_create(EBS_WINDOW_MAX + 1, &filter), RT_EUSAGE);
    for (int64_t nth = 0; !done; nth++) {
        int err;

        filter = NULL;
        rt_fault_alloc(nth);
        err = ebs_filter_create(64, &filter);
        if (!err)
            err = ebs_filter_reserve(filter, batch(3, 0));
        done = !rt_fault_hit();
        rt_fault_alloc(-1);
        assert_int_equal(err, done ? 0 : RT_ENOMEM);
        if (filter)
            assert_false(ebs_filter_seen(filter, batch(3, 0)));
        ebs_filter_destroy(filter);
    }
}

#define SPLITS    3
#define SEQUENCES 3000
#define OPEN      100 /* batches of a split that can be open at once */

/* A naive list of what was applied; batches are applied out of order within OPEN, with repeats. */
static void as_a_naive_list(void **test)
{
    static bool applied[SPLITS][SEQUENCES];
    uint64_t seed = (uint64_t)time(NULL), at = 0, first[SPLITS] = {0};
    struct ebs_filter *filter = NULL;

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    memset(applied, 0, sizeof(applied));
    assert_int_equal(ebs_filter_create(2 * OPEN, &filter), 0);
    for (int k = 0; k < 200000; k++) {
        uint64_t s = rt_below(rt_draw(seed, at++), SPLITS);
        uint64_t sequence = first[s] + rt_below(rt_draw(seed, at++), OPEN);

        if (rt_below(rt_draw(seed, at++), 4) == 0)
            sequence = rt_below(rt_draw(seed, at++), sequence + 1); /* an old one, retried */
        if (sequence >= SEQUENCES)
            continue;
        if (ebs_filter_seen(filter, batch(s, sequence)) != applied[s][sequence])
            fail_msg("operation %d: split %d sequence %d", k, (int)s, (int)sequence);
        if (sequence < first[s])
            continue;
        mark(filter, batch(s, sequence));
        applied[s][sequence] = true;
        while (first[s] < SEQUENCES && applied[s][first[s]])
            first[s]++;
        if (ebs_filter_low(filter, (uint32_t)s) != first[s])
            fail_msg("operation %d: split %d low %d, want %d", k, (int)s,
                     (int)ebs_filter_low(filter, (uint32_t)s), (int)first[s]);
    }
    ebs_filter_destroy(filter);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(low_moves_over_what_is_applied),
        cmocka_unit_test(splits_are_apart),
        cmocka_unit_test(bad_windows_and_no_memory),
        cmocka_unit_test(as_a_naive_list),
    };

    return cmocka_run_group_tests_name("filter", tests, NULL, NULL);
}
