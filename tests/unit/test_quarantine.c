/* tests/unit/test_quarantine.c -- the file of bad rows, and when they are too many. */
#include "data_compose/quarantine.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[TEMP_PATH_MAX];

static char *content(void)
{
    char *path = rt_path_join(dir, "quarantine/data_compose-3.tsv"), *text;
    size_t size;

    assert_int_equal(rt_file_read(path, DC_QUARANTINE_BYTES_MAX + 1, &text, &size), 0);
    assert_true(size <= DC_QUARANTINE_BYTES_MAX);
    unlink(path);
    rt_free(path);
    return text;
}

static void lines(void **state)
{
    static const struct {
        const char *name, *row;
        size_t size;
        const char *want;
    } row[] = {
        {"fields", "1\ta\t\tb", 6, "1\\ta\\t\\tb"},
        {"a backslash", "a\\tb", 4, "a\\\\tb"},
        {"control characters", "\x1b[31m\r\0\x7f", 8, "\\x1b[31m\\x0d\\x00\\x7f"},
        {"other languages", "\xd0\xb4\xd0\xb0", 4, "\xd0\xb4\xd0\xb0"},
        {"no row", NULL, 0, ""},
        {"an empty row", "", 0, ""},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_quarantine *q = dc_quarantine_create(dir, 3, 0.5);

        dc_quarantine_add(q, false, "f\t.tsv", 7 + i, "bad\nword", row[i].row, row[i].size);
        dc_quarantine_destroy(q);
        char *got = content();
        char *want = rt_xasprintf("f\\x09.tsv\t%zu\tbad\\x0aword\t%s\n", 7 + i, row[i].want);
        if (strcmp(got, want) != 0)
            fail_msg("%s: got '%s', want '%s'", row[i].name, got, want);
        rt_free(got);
        rt_free(want);
    }
}

/* A long row is cut, its length told; the file ends at its limit with a whole line, and the rest is counted. */
static void limits(void **state)
{
    static char row[3 * DC_QUARANTINE_ROW_MAX];
    struct dc_quarantine *q = dc_quarantine_create(dir, 3, 0.5);
    uint32_t n = DC_QUARANTINE_BYTES_MAX / (4 * DC_QUARANTINE_ROW_MAX) + 100;

    (void)state;
    memset(row, '\1', sizeof(row)); /* the worst: four bytes for each */
    for (uint32_t i = 0; i < n; i++)
        dc_quarantine_add(q, false, "f", i, "why", row, sizeof(row));
    dc_quarantine_destroy(q);
    char *got = content(), *tail = rt_xasprintf("...(%zu bytes)\n", sizeof(row));
    assert_string_equal(got + strlen(got) - strlen(tail), tail);
    char *end = strchr(got, '\n');
    assert_memory_equal(end - strlen(tail) + 1, tail, strlen(tail));
    assert_int_equal(end + 1 - got, 8 + 4 * DC_QUARANTINE_ROW_MAX + strlen(tail));
    rt_free(got);
    rt_free(tail);
}

static void too_many(void **state)
{
    static const struct {
        double ratio;
        uint64_t bad, read;
        bool ended, stops;
    } row[] = {
        {0.001, 0, 0, true, false},         {0.001, 1, 10, false, false},
        {0.001, 10, 10, false, false},      {0.001, 11, 11, false, true},
        {0.001, 11, 10999, false, true},    {0.001, 11, 11000, false, false},
        {0.001, 1, 10, true, true},         {0.001, 1, 999, true, true},
        {0.001, 1, 1000, true, false},      {0.001, 1000, 1000000, true, false},
        {0.001, 1001, 1000000, true, true}, {0, 1, 1000000, false, true},
        {0, 0, 1000000, true, false},       {1, 1000, 1000, true, false},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_quarantine *q = dc_quarantine_create(NULL, 3, row[i].ratio);

        dc_quarantine_add(q, true, "test.tsv", 9, "no", NULL, 0);
        dc_quarantine_add(q, false, "train.tsv", 5, "label", "x", 1);
        dc_quarantine_add(q, false, "train.tsv", 6, "later", "x", 1);
        int err = dc_quarantine_check(q, false, row[i].bad, row[i].read, row[i].ended);
        if (err != (row[i].stops ? RT_EDATA : 0))
            fail_msg("%g: %d of %d: %d", row[i].ratio, (int)row[i].bad, (int)row[i].read, err);
        if (row[i].stops)
            assert_non_null(strstr(rt_err_text(), "allows; the first: train.tsv:5: label"));
        dc_quarantine_destroy(q);
    }
    struct dc_quarantine *q = dc_quarantine_create(dir, 3, 0.01);
    dc_quarantine_add(q, true, "test.tsv", 9, "no", "y", 1);
    assert_int_equal(dc_quarantine_check(q, true, 3, 100, true), RT_EDATA);
    char *want =
        rt_xasprintf("3 of 100 test rows are bad (0.03), more than data.max_bad_ratio 0.01 "
                     "allows (%s/quarantine/data_compose-3.tsv); the first: test.tsv:9: no",
                     dir);
    assert_string_equal(rt_err_text(), want);
    dc_quarantine_destroy(q);
    rt_free(want);
    rt_free(content());
}

/* A file that may not grow stands for a full disk: whole lines stay, the job goes on. */
static void full_disk(void **state)
{
    struct rlimit before, small;
    struct dc_quarantine *q = dc_quarantine_create(dir, 3, 0.5);
    char row[101];

    (void)state;
    memset(row, 'x', sizeof(row));
    row[100] = '\n';
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    small = before;
    small.rlim_cur = 1000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    for (uint32_t i = 0; i < 50; i++)
        dc_quarantine_add(q, false, "f", 10, "why", row, 100);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    dc_quarantine_add(q, false, "f", 10, "why", row, 100); /* given up is given up */
    dc_quarantine_destroy(q);
    char *got = content();
    assert_int_equal(strlen(got) % 110, 0);
    assert_int_equal(strlen(got) / 110, 1000 / 110);
    rt_free(got);
}

static int setup(void **state)
{
    (void)state;
    temp_folder(dir);
    return 0;
}

static int teardown(void **state)
{
    char *quarantine = rt_path_join(dir, "quarantine");

    (void)state;
    rmdir(quarantine);
    rt_free(quarantine);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(lines),
        cmocka_unit_test(limits),
        cmocka_unit_test(too_many),
        cmocka_unit_test(full_disk),
    };

    return cmocka_run_group_tests(test, setup, teardown);
}
