/* tests/unit/test_saving.c -- the command `save`: a name means one save for good, and what became of it is told. */
#include "runtime/process/saving.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define PARTS 2u

static char dir[TEMP_PATH_MAX];

static int begin(struct rt_saving **saving, const char *name, struct rt_save **part)
{
    struct wire_control_request request = {.command = WIRE_CTL_SAVE, .text = name};

    return rt_saving_begin(saving, dir, &request, PARTS, part);
}

/* "NAME STATE FILES ERROR" of those that the status tells, the latest first, each and a semicolon. */
static void told(const struct rt_saving *saving, char *out, size_t size)
{
    json_t *status = json_object();
    const json_t *save;
    size_t at = 0;

    rt_saving_status(saving, status);
    save = json_object_get(status, "save");
    for (size_t i = 0; save; i++) {
        const char *error = json_string_value(json_object_get(save, "error"));

        at += (size_t)snprintf(
            out + at, size - at, "%s %s %d %s;", json_string_value(json_object_get(save, "name")),
            json_string_value(json_object_get(save, "state")),
            (int)json_integer_value(json_object_get(save, "files")), error ? error : "-");
        save = json_array_get(json_object_get(status, "saves_before"), i);
    }
    json_decref(status);
}

static void expect(const struct rt_saving *saving, const char *want)
{
    char got[2048];

    told(saving, got, sizeof(got));
    assert_string_equal(got, want);
}

static void end(struct rt_save *part, int err)
{
    for (uint32_t i = 0; i < PARTS; i++) {
        rt_save_count(&part[i], 10);
        rt_save_end(&part[i], i == 0 ? err : 0);
    }
}

static void what_failed_has_failed(void **state)
{
    struct rt_saving *saving = NULL;
    struct rt_save *part;

    (void)state;
    assert_int_equal(begin(&saving, "a", &part), 0);
    assert_non_null(part);
    expect(saving, "a writing 0 -;");
    end(part, RT_FAIL(RT_EFILE, "disk full"));
    for (int again = 0; again < 2; again++) {
        assert_int_equal(begin(&saving, "a", &part), 0);
        assert_null(part);
        expect(saving, "a failed 2 disk full;");
    }
    rt_saving_destroy(saving);
}

/* The same number from all who ask: so a file tells which save it is of. */
static void a_number_tells_saves_apart(void **state)
{
    struct wire_control_request request = {
        .command = WIRE_CTL_SAVE, .text = "model", .number = 1764000000123.0};
    struct rt_saving *saving = NULL;
    struct rt_save *part;

    (void)state;
    assert_int_equal(rt_saving_begin(&saving, dir, &request, PARTS, &part), 0);
    assert_string_equal(part[1].id, "model-1764000000123");
    end(part, 0);
    request.text = "other";
    request.number = 1e300;
    assert_int_equal(rt_saving_begin(&saving, dir, &request, PARTS, &part), 0);
    assert_string_equal(part[0].id, "other");
    end(part, 0);
    rt_saving_destroy(saving);
}

static void no_folder(void **state)
{
    char *path = rt_path_join(dir, "file"), got[2048];
    struct rt_saving *saving = NULL;
    struct rt_save *part;

    (void)state;
    assert_int_equal(rt_file_write(path, "x", 1), 0);
    assert_int_equal(begin(&saving, "file", &part), RT_EFILE);
    assert_null(part);
    assert_int_equal(remove(path), 0);
    assert_int_equal(begin(&saving, "file", &part), 0);
    assert_null(part);
    told(saving, got, sizeof(got));
    assert_non_null(strstr(got, "file failed 0 /"));
    rt_saving_destroy(saving);
    rt_free(path);
}

/* Two who save at the same time, each asking again and again: both have their own. */
static void two_names(void **state)
{
    struct rt_saving *saving = NULL;
    struct rt_save *part, *none;

    (void)state;
    assert_int_equal(begin(&saving, "a", &part), 0);
    assert_int_equal(begin(&saving, "b", &none), RT_EFULL);
    assert_string_equal(rt_err_text(), "the model is being saved as 'a' already");
    assert_null(none);
    end(part, 0);
    assert_int_equal(begin(&saving, "b", &part), 0);
    assert_non_null(part);
    assert_int_equal(begin(&saving, "a", &none), 0);
    assert_null(none);
    expect(saving, "b writing 0 -;a done 2 -;");
    end(part, 0);
    assert_int_equal(begin(&saving, "a", &none), 0);
    assert_null(none);
    expect(saving, "b done 2 -;a done 2 -;");
    rt_saving_destroy(saving);
}

static void so_many_are_kept(void **state)
{
    struct rt_saving *saving = NULL;
    struct rt_save *part;
    char name[2] = "a", got[2048];

    (void)state;
    for (uint32_t i = 0; i < RT_SAVING_KEPT + 2; i++) {
        name[0] = (char)('a' + i);
        assert_int_equal(begin(&saving, name, &part), 0);
        end(part, 0);
    }
    told(saving, got, sizeof(got));
    assert_non_null(strstr(got, ";b done 2 -;"));
    assert_null(strstr(got, ";a "));
    assert_int_equal(begin(&saving, "b", &part), 0);
    assert_null(part);
    rt_saving_destroy(saving);
}

static void what_is_refused(void **state)
{
    struct wire_control_request request = {.command = WIRE_CTL_SAVE, .text = "a"};
    struct rt_saving *saving = NULL;
    struct rt_save *part;

    (void)state;
    assert_int_equal(begin(&saving, "../a", &part), RT_EUSAGE);
    assert_int_equal(rt_saving_begin(&saving, NULL, &request, PARTS, &part), RT_EUSAGE);
    assert_null(part);
    assert_null(saving);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_failed_has_failed),
        cmocka_unit_test(no_folder),
        cmocka_unit_test(two_names),
        cmocka_unit_test(so_many_are_kept),
        cmocka_unit_test(what_is_refused),
        cmocka_unit_test(a_number_tells_saves_apart),
    };

    temp_folder(dir);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
