/* tests/unit/test_compose.c -- which rows an id of a hashed table is the sum of. */
#include "middleware/compose.h"

#include "runtime/base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { IDS = 20000, FUNCTIONS = 3, ROWS = 100 };

static struct rt_table_conf table[2] = {
    {.name = "user", .dim = 4, .hash_functions = FUNCTIONS, .hash_rows = ROWS},
    {.name = "item", .dim = 4, .hash_functions = FUNCTIONS, .hash_rows = ROWS}};
static struct rt_job job = {.n_tables = 2, .table = table, .global = {.seed = 3}};

static uint64_t id[IDS], row[2][IDS * FUNCTIONS];

/* About as often as chance says: ids of two tables, of two functions, share a row one time in ROWS. */
static void spread(void **state)
{
    uint32_t count[ROWS] = {0}, same_table = 0, same_function = 0;

    (void)state;
    for (uint64_t i = 0; i < IDS; i++)
        id[i] = i; /* what comes from an integer column */
    for (uint32_t t = 0; t < 2; t++)
        mw_compose_ids(&job, t, id, IDS, row[t]);
    for (size_t i = 0; i < IDS * FUNCTIONS; i++) {
        assert_true(row[0][i] < ROWS);
        count[row[0][i]]++;
        same_table += row[0][i] == row[1][i];
        same_function += i % FUNCTIONS && row[0][i] == row[0][i - 1];
    }
    for (int r = 0; r < ROWS; r++) /* 600 each, within 8 deviations */
        if (count[r] < 400 || count[r] > 800)
            fail_msg("row %d is part of %u ids", r, count[r]);
    assert_true(same_table > 400 && same_table < 800);
    assert_true(same_function > 250 && same_function < 550);
}

/* A pure function of seed, table and id: alone as among others, in any order. */
static void pure(void **state)
{
    (void)state;
    mw_compose_ids(&job, 0, id, IDS, row[0]);
    for (size_t i = IDS; i-- > 0;) {
        uint64_t one[FUNCTIONS];

        mw_compose_ids(&job, 0, &id[i], 1, one);
        assert_memory_equal(one, &row[0][i * FUNCTIONS], sizeof(one));
    }
    job.global.seed++;
    mw_compose_ids(&job, 0, id, IDS, row[1]);
    job.global.seed--;
    assert_memory_not_equal(row[0], row[1], sizeof(row[0]));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spread),
        cmocka_unit_test(pure),
    };

    return cmocka_run_group_tests_name("compose", tests, NULL, NULL);
}
