/* tests/unit/test_incarnation.c -- the number of a start grows, whatever the clock and the disk say. */
#include "runtime/process/incarnation.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FUTURE 9000000000000ull /* milliseconds: the year 2255 */

static uint64_t take(const char *dir, bool *raised)
{
    struct rt_incarnation in = {0};

    rt_incarnation_take(&in, dir, RT_ROLE_TRAINER, 3);
    *raised = in.raised;
    rt_incarnation_release(&in);
    return in.number;
}

static void numbers(void **state)
{
    static const struct {
        const char *name, *stored, *asked; /* NULL: nothing */
        uint64_t want;                     /* 0: the wall clock */
        bool raised;
    } row[] = {
        {"clock alone", NULL, NULL, 0, false},
        {"an old one is stored", "5\n", NULL, 0, false},
        {"clock was put back", "9000000000000\n", NULL, FUTURE + 1, false},
        {"a peer held one", NULL, "9000000000007", FUTURE + 7, true},
        {"stored above what a peer held", "9000000000000\n", "70", FUTURE + 1, true},
        {"no number", "x\n", NULL, 0, false},
        {"too much", "99999999999999999999999\n", NULL, 0, false},
        {"two numbers", "9000000000000 1\n", NULL, 0, false},
        {"a long file", "90000000000000000000000000000000000000000000000000000000000000000000000\n",
         NULL, 0, false},
        {"nonsense was asked", NULL, "-9", 0, false},
    };
    char dir[TEMP_PATH_MAX], path[512];

    (void)state;
    temp_folder(dir);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t before = rt_wall_ms(), got, again;
        bool raised, ignored;

        snprintf(path, sizeof(path), "%s/%zu/incarnations", dir, i);
        assert_int_equal(rt_mkdir_all(path), 0);
        snprintf(path, sizeof(path), "%s/%zu/incarnations/trainer-3", dir, i);
        if (row[i].stored)
            assert_int_equal(rt_file_write(path, row[i].stored, strlen(row[i].stored)), 0);
        if (row[i].asked)
            setenv("SAFFRON_INCARNATION", row[i].asked, 1);
        else
            unsetenv("SAFFRON_INCARNATION");
        snprintf(path, sizeof(path), "%s/%zu", dir, i);
        got = take(path, &raised);
        if (row[i].want ? got != row[i].want : got < before || got > rt_wall_ms())
            fail_msg("%s: got %llu", row[i].name, (unsigned long long)got);
        assert_int_equal(raised, row[i].raised);
        again = take(path, &ignored);
        if (again <= got)
            fail_msg("%s: then %llu, which is not above", row[i].name, (unsigned long long)again);
    }
    unsetenv("SAFFRON_INCARNATION");
}

/* What a peer named is remembered; a folder that cannot be there changes nothing. */
static void disk(void **state)
{
    char dir[TEMP_PATH_MAX], path[512];
    struct rt_incarnation in = {0};
    bool raised;

    (void)state;
    temp_folder(dir);
    rt_incarnation_take(&in, dir, RT_ROLE_TRAINER, 3);
    rt_incarnation_store(&in, FUTURE);
    rt_incarnation_release(&in);
    assert_int_equal(take(dir, &raised), FUTURE + 1);
    snprintf(path, sizeof(path), "%s/file", dir);
    assert_int_equal(rt_file_write(path, "", 0), 0);
    assert_true(take(path, &raised) < FUTURE);
    assert_true(take(NULL, &raised) < FUTURE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(numbers), cmocka_unit_test(disk)};

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
