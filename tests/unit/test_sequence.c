/* tests/unit/test_sequence.c -- the middleware's sequences: their own distinct rows, in order of first occurrence. */
#include "middleware/sequence.h"
#include "runtime/base/assert.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { MOST = 8, MANY = 500 };

static void by_hand(void **state)
{
    static const struct {
        const char *name;
        uint32_t n, slot[MOST], rows, row[MOST], index[MOST];
    } row[] = {
        {"none", 0, {0}, 0, {0}, {0}},
        {"one", 1, {5}, 1, {5}, {0}},
        {"all the same", 3, {2, 2, 2}, 1, {2}, {0, 0, 0}},
        {"order", 5, {7, 0, 7, 3, 0}, 3, {7, 0, 3}, {0, 1, 0, 2, 1}},
    };

    (void)state;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        uint32_t slot[MOST], mark[MOST], own[MOST];

        memcpy(slot, row[r].slot, sizeof(slot));
        if (mw_sequence_rows(slot, row[r].n, mark, MOST, own) != row[r].rows ||
            memcmp(own, row[r].row, row[r].rows * sizeof(*own)) ||
            memcmp(slot, row[r].index, row[r].n * sizeof(*slot)))
            fail_msg("%s", row[r].name);
    }
}

static void as_naive(void **state)
{
    uint64_t key = rt_draw_key(20261122, "sequence", NULL), at = 0;

    (void)state;
    printf("seed 20261122\n");
    for (uint32_t n = 0; n < MANY; n += 7) {
        uint32_t slot[MANY], index[MANY], mark[MANY], own[MANY];
        uint32_t distinct = 1 + (uint32_t)rt_below(rt_draw(key, at++), MANY - 1), rows, seen = 0;

        for (uint32_t i = 0; i < n; i++)
            index[i] = slot[i] = (uint32_t)rt_below(rt_draw(key, at++), distinct);
        rows = mw_sequence_rows(index, n, mark, distinct, own);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(index[i] <= seen && index[i] < rows); /* a new one is the next */
            seen += index[i] == seen;
            assert_int_equal(own[index[i]], slot[i]);
        }
        assert_int_equal(seen, rows);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(as_naive),
    };

    return cmocka_run_group_tests_name("sequence", tests, NULL, NULL);
}
