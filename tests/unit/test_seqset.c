/* tests/unit/test_seqset.c -- the set against a plain array of flags. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/seqset.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define WINDOW 128u

static struct rt_seqset *make(uint32_t window)
{
    struct rt_seqset *set = NULL;

    assert_int_equal(rt_seqset_create(window, &set), 0);
    return set;
}

static void windows(void **state)
{
    static const struct {
        uint32_t window;
        int want;
    } row[] = {{64, 0}, {1 << 20, 0}, {0, RT_EUSAGE}, {63, RT_EUSAGE}, {(1 << 20) + 64, RT_EUSAGE}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_seqset *set = NULL;
        int got = rt_seqset_create(row[i].window, &set);

        if (got != row[i].want)
            fail_msg("window %u: got %s", row[i].window, rt_err_name(got));
        rt_seqset_destroy(set);
    }
}

static void mark_moves_over_what_is_in(void **state)
{
    static const struct {
        const char *name;
        uint64_t add[4];
        int n;
        uint64_t low, count;
        uint8_t bits[2];
        size_t size;
    } row[] = {
        {"nothing", {0}, 0, 0, 0, {0}, 0},
        {"in order", {0, 1, 2}, 3, 3, 3, {0}, 0},
        {"a gap", {1, 2}, 2, 0, 2, {6}, 1},
        {"gap filled", {1, 2, 0}, 3, 3, 3, {0}, 0},
        {"twice", {0, 0, 2, 2}, 4, 1, 2, {2}, 1},
        {"second byte", {9}, 1, 0, 1, {0, 2}, 2},
        {"end of the window", {WINDOW - 1}, 1, 0, 1, {0}, WINDOW / 8},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_seqset *set = make(WINDOW);
        const uint8_t *bits;
        size_t size;

        for (int k = 0; k < row[i].n; k++)
            assert_int_equal(rt_seqset_add(set, 3, row[i].add[k]), 0);
        size = rt_seqset_bitmap(set, 3, &bits);
        if (rt_seqset_low(set, 3) != row[i].low || rt_seqset_count(set, 3) != row[i].count ||
            size != row[i].size || (size <= 2 && memcmp(bits, row[i].bits, size) != 0))
            fail_msg("%s", row[i].name);
        assert_int_equal(rt_seqset_splits(set), row[i].n ? 4 : 0);
        assert_int_equal(rt_seqset_count(set, 2), 0);
        rt_seqset_destroy(set);
    }
}

static void beyond_the_window_is_refused(void **state)
{
    struct rt_seqset *set = make(64);

    (void)state;
    assert_int_equal(rt_seqset_add(set, 0, 64), RT_ELIMIT);
    assert_int_equal(rt_seqset_add(set, 0, RT_SEQUENCE_MAX), RT_ELIMIT);
    assert_int_equal(rt_seqset_add(set, 0, 63), 0);
    assert_int_equal(rt_seqset_add(set, 0, 0), 0);
    assert_int_equal(rt_seqset_add(set, 0, 64), 0); /* the mark moved by one */
    assert_int_equal(rt_seqset_add(set, 65535, 1), 0);
    assert_int_equal(rt_seqset_splits(set), 65536);
    rt_seqset_destroy(set);
}

static void restore_checks_and_normalises(void **state)
{
    struct rt_seqset *set = make(64);
    const uint8_t three_then_gap[2] = {0x17, 0x80};
    const uint8_t nine[9] = {0};
    const uint8_t *bits;

    (void)state;
    assert_int_equal(rt_seqset_restore(set, 1, 100, three_then_gap, 2), 0);
    assert_int_equal(rt_seqset_low(set, 1), 103);
    assert_int_equal(rt_seqset_count(set, 1), 105);
    assert_true(rt_seqset_has(set, 1, 104) && rt_seqset_has(set, 1, 115));
    assert_false(rt_seqset_has(set, 1, 103) || rt_seqset_has(set, 1, 114));
    assert_int_equal(rt_seqset_bitmap(set, 1, &bits), 2);
    assert_int_equal(rt_seqset_restore(set, 1, 0, nine, 9), RT_EPROTO);
    assert_int_equal(rt_seqset_restore(set, 1, RT_SEQUENCE_MAX + 1, nine, 0), RT_EPROTO);
    assert_int_equal(rt_seqset_restore(set, 65536, 0, nine, 0), RT_EPROTO);
    assert_int_equal(rt_seqset_low(set, 1), 103); /* refused: nothing changed */
    assert_int_equal(rt_seqset_restore(set, 1, 7, NULL, 0), 0);
    assert_int_equal(rt_seqset_count(set, 1), 7);
    rt_seqset_destroy(set);
}

static int fill(void)
{
    struct rt_seqset *set = NULL;
    int err = rt_seqset_create(64, &set);

    for (uint32_t split = 0; split < 200 && !err; split += 50)
        err = rt_seqset_add(set, split, 1);
    rt_seqset_destroy(set);
    return err;
}

static void every_allocation_may_fail(void **state)
{
    int nth = 0, err;

    (void)state;
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = fill();
        rt_fault_alloc(-1);
        if (!err)
            break;
        assert_int_equal(err, RT_ENOMEM);
    }
    assert_true(nth >= 6);
}

/* Random adds near the mark; a plain array of flags is the truth. */
static void random_against_flags(void **state)
{
    enum { SPLITS = 3, SPAN = 4096, ADDS = 20000 };
    static uint8_t in[SPLITS][SPAN + 2 * WINDOW];
    uint64_t low[SPLITS] = {0}, seed = 20260122;
    struct rt_seqset *set = make(WINDOW), *copy = make(WINDOW);

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < ADDS; i++) {
        uint32_t split = (uint32_t)rt_below(rt_draw(seed, 3 * i), SPLITS);
        uint64_t reach = rt_draw(seed, 3 * i + 1) % 4 ? 8 : WINDOW + 4;
        uint64_t sequence = low[split] + rt_below(rt_draw(seed, 3 * i + 2), reach);
        bool beyond = sequence >= low[split] + WINDOW;

        if (low[split] >= SPAN)
            continue;
        assert_int_equal(rt_seqset_add(set, split, sequence), beyond ? RT_ELIMIT : 0);
        if (!beyond)
            in[split][sequence] = 1;
        while (in[split][low[split]])
            low[split]++;
        assert_int_equal(rt_seqset_low(set, split), low[split]);
    }
    for (uint32_t split = 0; split < SPLITS; split++) {
        const uint8_t *bits;
        size_t size = rt_seqset_bitmap(set, split, &bits);
        uint64_t count = 0;

        assert_int_equal(rt_seqset_restore(copy, split, low[split], bits, size), 0);
        for (uint64_t s = 0; s < SPAN + WINDOW; s++) {
            count += in[split][s];
            if (rt_seqset_has(set, split, s) != in[split][s] ||
                rt_seqset_has(copy, split, s) != in[split][s])
                fail_msg("split %u sequence %llu", split, (unsigned long long)s);
        }
        assert_int_equal(rt_seqset_count(set, split), count);
        assert_true(low[split] > SPAN / 2);
    }
    rt_seqset_destroy(set);
    rt_seqset_destroy(copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows),
        cmocka_unit_test(mark_moves_over_what_is_in),
        cmocka_unit_test(beyond_the_window_is_refused),
        cmocka_unit_test(restore_checks_and_normalises),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(random_against_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
