/* tests/unit/test_ctl_restore.c -- which checkpoint a local run goes on from, and that roles find it the newest. */
#include "ctl/restore.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/lock.h"
#include "runtime/checkpoint/store.h"
#include "tests/lib/checkpoint_bed.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static char dir[TEMP_PATH_MAX];
static struct ctl_progress quiet = {.quiet = true};

static void put(const char *name, uint64_t attempt, uint64_t base, const char *base_name)
{
    const struct checkpoint_spec spec = {.name = name,
                                         .attempt = attempt,
                                         .base = base,
                                         .base_name = base_name,
                                         .owners = 2,
                                         .rows = 20,
                                         .dense = 64};

    if (checkpoint_bed_write(dir, &spec) != 0)
        fail_msg("%s", rt_err_text());
}

static void damage(const char *name, const char *file)
{
    char *path = rt_xasprintf("%s/%s/%s", dir, name, file);

    assert_int_equal(truncate(path, 100), 0);
    rt_free(path);
}

static const struct {
    const char *name, *which, *want; /* want NULL: RT_EUSAGE, with these words: */
    const char *words;
} row[] = {
    {"the newest", "latest", "third", NULL},
    {"by name", "first", "first", NULL},
    {"an increment", "second", "second", NULL},
    {"no such one", "fourth", NULL, "newest first: third, second, first"},
};

static void one_is_chosen(void **state)
{
    (void)state;
    temp_folder(dir);
    put("first", 1, 0, NULL);
    put("second", 2, 1, "first");
    put("third", 3, 0, NULL);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct ctl_restorable got = {0};
        int err = ctl_restore_choose(dir, row[i].which, &checkpoint_bed_job, &quiet, &got);

        if (row[i].want && (err || strcmp(got.name, row[i].want) != 0))
            fail_msg("%s: got %s", row[i].name, err ? rt_err_text() : got.name);
        if (!row[i].want && (err != RT_EUSAGE || !strstr(rt_err_text(), row[i].words)))
            fail_msg("%s: got %d, %s", row[i].name, err, rt_err_text());
        ctl_restorable_release(&got);
    }
}

static void what_is_damaged_is_not(void **state)
{
    struct ctl_restorable got = {0};

    (void)state;
    temp_folder(dir);
    assert_int_equal(ctl_restore_choose(dir, "latest", &checkpoint_bed_job, &quiet, &got),
                     RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "there is no checkpoint in"));
    put("first", 1, 0, NULL);
    put("second", 2, 0, NULL);
    put("third", 3, 2, "second");
    damage("second", "rows.00001"); /* and the third goes on from it */
    assert_int_equal(ctl_restore_choose(dir, "third", &checkpoint_bed_job, &quiet, &got),
                     RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "second/rows.00001"));
    assert_int_equal(ctl_restore_choose(dir, "latest", &checkpoint_bed_job, &quiet, &got), 0);
    assert_string_equal(got.name, "first");
    ctl_restorable_release(&got);
    damage("first", "manifest.json");
    assert_int_equal(ctl_restore_choose(dir, "latest", &checkpoint_bed_job, &quiet, &got),
                     RT_EUSAGE);
    assert_null(got.name);
}

static void newer_ones_are_set_aside(void **state)
{
    struct ctl_restorable to = {0}, newest = {0};
    int lock;

    (void)state;
    temp_folder(dir);
    ctl_restore_newest(dir, &newest);
    assert_null(newest.name);
    put("first", 1, 0, NULL);
    put("second", 2, 1, "first");
    put("third", 3, 0, NULL);
    ctl_restore_newest(dir, &newest);
    assert_string_equal(newest.name, "third");
    ctl_restorable_release(&newest);
    assert_int_equal(ctl_restore_choose(dir, "first", &checkpoint_bed_job, &quiet, &to), 0);
    assert_int_equal(ctl_restore_check_free(dir), 0);
    assert_int_equal(rt_store_lock(dir, "trainer/0 of job bed", &lock), 0);
    assert_int_equal(ctl_restore_check_free(dir), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "/.lock: held by trainer/0 of job bed; "));
    assert_int_equal(ctl_restore_go_back(dir, &to, &quiet), RT_EUSAGE); /* a job writes there */
    ctl_restore_newest(dir, &newest);
    assert_string_equal(newest.name, "third");
    ctl_restorable_release(&newest);
    rt_store_unlock(lock);
    assert_int_equal(ctl_restore_go_back(dir, &to, &quiet), 0);
    ctl_restore_newest(dir, &newest);
    assert_string_equal(newest.name, "first");
    assert_true(newest.step == to.step && newest.age == to.age);
    ctl_restorable_release(&newest);
    ctl_restorable_release(&to);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_is_chosen),
        cmocka_unit_test(what_is_damaged_is_not),
        cmocka_unit_test(newer_ones_are_set_aside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
