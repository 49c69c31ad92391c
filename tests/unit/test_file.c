/* tests/unit/test_file.c -- whole files, folders, paths. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[TEMP_PATH_MAX];

static int make_folder(void **state)
{
    (void)state;
    temp_folder(folder);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static int remove_folder(void **state)
{
    (void)state;
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static size_t entries_of(const char *path)
{
    DIR *dir = opendir(path);
    size_t n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static void written_files_read_back(void **state)
{
    static const size_t size[] = {0, 1, 4094, 4095, 4096, 4097, 100000};
    char *path = rt_path_join(folder, "data");
    char *text, *data = rt_xcalloc(1, 100000);

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(size); i++) {
        size_t got = 7;

        if (size[i])
            data[size[i] - 1] = (char)(i + 1);
        assert_int_equal(rt_file_write(path, data, size[i]), 0);
        assert_int_equal(rt_file_read(path, size[i], &text, &got), 0);
        if (got != size[i] || memcmp(text, data, got) != 0 || text[got] != '\0')
            fail_msg("size %zu: got %zu", size[i], got);
        rt_free(text);
        if (size[i])
            assert_int_equal(rt_file_read(path, size[i] - 1, &text, &got), RT_ELIMIT);
    }
    assert_int_equal(entries_of(folder), 1); /* no temporary stays */
    assert_true(rt_file_exists(path));
    rt_free(data);
    rt_free(path);
}

static void failures_name_the_path(void **state)
{
    char *absent = rt_path_join(folder, "no/such"), *inner = rt_path_join(folder, "inner");
    char *text;
    size_t size, before;

    (void)state;
    assert_false(rt_file_exists(absent));
    assert_int_equal(rt_file_read(absent, 10, &text, &size), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), absent));
    assert_int_equal(rt_file_read(folder, 10, &text, &size), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "Is a directory"));
    assert_int_equal(rt_file_write(absent, "x", 1), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), absent));
    assert_int_equal(rt_mkdir_all(inner), 0);
    before = entries_of(folder);
    assert_int_equal(rt_file_write(inner, "x", 1), RT_EFILE); /* a folder is in the way */
    assert_non_null(strstr(rt_err_text(), "cannot rename to"));
    assert_int_equal(entries_of(folder), before); /* no temporary stays */
    rt_free(absent);
    rt_free(inner);
}

static void folders_are_made_all_the_way(void **state)
{
    char *deep = rt_path_join(folder, "a/b//c/");
    char *file = rt_path_join(folder, "data"), *below = rt_path_join(file, "x");

    (void)state;
    assert_int_equal(rt_mkdir_all(deep), 0);
    assert_int_equal(rt_mkdir_all(deep), 0);
    assert_true(rt_file_exists(deep));
    assert_int_equal(rt_mkdir_all(file), RT_EFILE);
    assert_int_equal(rt_mkdir_all(below), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), file));
    assert_int_equal(rt_mkdir_all("/"), 0);
    rt_free(deep);
    rt_free(file);
    rt_free(below);
}

static void paths_join(void **state)
{
    static const struct {
        const char *dir, *name, *want;
    } row[] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"a", "/b", "/b"}, {"", "b", "b"}, {"/", "b", "/b"}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char *got = rt_path_join(row[i].dir, row[i].name);

        assert_string_equal(got, row[i].want);
        rt_free(got);
    }
}

static void reading_survives_out_of_memory(void **state)
{
    char *path = rt_path_join(folder, "data"), *text = NULL;
    size_t size;
    int nth = 0;

    (void)state;
    for (;; nth++) {
        int err;

        rt_fault_alloc(nth);
        err = rt_file_read(path, 1000000, &text, &size);
        if (!rt_fault_hit()) {
            assert_int_equal(err, 0);
            rt_free(text);
            break;
        }
        assert_int_equal(err, RT_ENOMEM);
    }
    rt_fault_alloc(-1);
    assert_true(nth > 2);
    rt_free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(written_files_read_back),        cmocka_unit_test(failures_name_the_path),
        cmocka_unit_test(folders_are_made_all_the_way),   cmocka_unit_test(paths_join),
        cmocka_unit_test(reading_survives_out_of_memory),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
