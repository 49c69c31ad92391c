/* tests/unit/test_err.c -- error texts and names, log words, role names, exit codes. */
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/role.h"
#include "tests/lib/temp.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static void codes_have_names(void **state)
{
    static const struct {
        int code;
        const char *name, *meaning;
        int exit_code;
    } row[] = {
        {0, "OK", "success", 0},
        {RT_EUSAGE, "RT_EUSAGE", "wrong usage or configuration", 2},
        {RT_EPROTO, "RT_EPROTO", "peer sent a malformed message", 1},
        {RT_EOWNER, "RT_EOWNER", "row outside this owner's shards", 1},
        {RT_EBACK, "RT_EBACK", "the job goes back to a checkpoint", RT_EXIT_AGAIN},
        {RT_ENOMEM, "ENOMEM", "Cannot allocate memory", 1},
        {-ECONNREFUSED, "ECONNREFUSED", "Connection refused", 1},
        {-4095, "EOF", "end of the stream", 1},
        {-3008, "EAI", "host name could not be resolved", 1},
        {-4000, "EUNKNOWN", "unknown error", 1},
        {-9999, "EUNKNOWN", "unknown error", 1},
        {5, "EUNKNOWN", "unknown error", 1},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (strcmp(rt_err_name(row[i].code), row[i].name) != 0)
            fail_msg("%d: name %s", row[i].code, rt_err_name(row[i].code));
        if (strcmp(rt_err_meaning(row[i].code), row[i].meaning) != 0)
            fail_msg("%d: meaning %s", row[i].code, rt_err_meaning(row[i].code));
        assert_int_equal(rt_exit_code(row[i].code), row[i].exit_code);
    }
}

static void *text_of_another_thread(void *arg)
{
    assert_string_equal(rt_err_text(), "");
    RT_FAIL(RT_EDATA, "theirs");
    return arg;
}

static void text_is_set_once_and_kept(void **state)
{
    pthread_t thread;
    char longer[3000];

    (void)state;
    assert_string_equal(rt_err_text(), "");
    assert_int_equal(RT_FAIL(RT_EDATA, "row %d", 7), RT_EDATA);
    assert_string_equal(rt_err_text(), "row 7");
    assert_int_equal(rt_fail_prefix(RT_EFILE, "%s: ", "a.tsv"), RT_EFILE);
    assert_string_equal(rt_err_text(), "a.tsv: row 7");
    RT_FAIL(RT_EDATA, "again: %s", rt_err_text());
    assert_string_equal(rt_err_text(), "again: a.tsv: row 7");
    pthread_create(&thread, NULL, text_of_another_thread, NULL);
    pthread_join(thread, NULL);
    assert_string_equal(rt_err_text(), "again: a.tsv: row 7");

    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    RT_FAIL(RT_EDATA, "%s", longer);
    assert_int_equal(strlen(rt_err_text()), 1023);
    rt_fail_prefix(RT_EDATA, "in front ");
    assert_int_equal(strlen(rt_err_text()), 1023);
    assert_memory_equal(rt_err_text(), "in front xxx", 12);
    rt_fail_prefix(RT_EDATA, "%s", longer);
    assert_int_equal(strlen(rt_err_text()), 1023);
}

static void log_words(void **state)
{
    enum rt_log_level level = RT_LOG_ERROR;

    (void)state;
    assert_int_equal(rt_log_level_parse("debug", &level), 0);
    assert_int_equal(level, RT_LOG_DEBUG);
    assert_int_equal(rt_log_level_parse("loud\n", &level), RT_EUSAGE);
    assert_string_equal(rt_err_text(),
                        "log level: expected error|warn|info|debug, got 'loud\\x0a'");
}

static void log_escape_is_safe(void **state)
{
    static const struct {
        const char *text;
        size_t size;
        const char *want;
    } row[] = {
        {"plain", 64, "plain"}, {"a\nb\x7f\xff", 64, "a\\x0ab\\x7f\\xff"},
        {"abc", 3, "ab"},       {"a\nb", 5, "a"},
        {"", 64, ""},           {"abc", 1, ""},
    };
    char out[64];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        if (strcmp(rt_log_escape(row[i].text, out, row[i].size), row[i].want) != 0)
            fail_msg("row %zu: got '%s'", i, out);
    }
}

/* What rt_log() puts on standard error. */
static size_t log_captured(char *out, size_t size, const char *text)
{
    char path[TEMP_PATH_MAX];
    int saved = dup(STDERR_FILENO), fd = temp_file(path);
    ssize_t n;

    assert_true(saved >= 0 && fd >= 0);
    dup2(fd, STDERR_FILENO);
    rt_log(RT_LOG_INFO, "event text=%s", text);
    rt_log(RT_LOG_DEBUG, "hidden");
    dup2(saved, STDERR_FILENO);
    close(saved);
    n = pread(fd, out, size - 1, 0);
    assert_true(n > 0);
    out[n] = '\0';
    close(fd);
    unlink(path);
    return (size_t)n;
}

static void log_lines(void **state)
{
    char line[4096], longer[3000];
    size_t n;

    (void)state;
    log_captured(line, sizeof(line), "x");
    assert_string_equal(line + 24, " INFO saffron event text=x\n");
    assert_int_equal(line[10], 'T');
    assert_int_equal(line[23], 'Z');
    rt_log_identity("trainer", 3);
    log_captured(line, sizeof(line), "a\nb");
    assert_string_equal(line + 24, " INFO trainer/3 event text=a?b\n");
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    n = log_captured(line, sizeof(line), longer);
    assert_true(n <= 2048);
    assert_string_equal(line + n - 5, "x...\n");
}

static void roles_and_isa(void **state)
{
    enum rt_role role;

    (void)state;
    for (int i = 0; i < RT_ROLE_COUNT; i++) {
        assert_int_equal(rt_role_parse(rt_role_name((enum rt_role)i), &role), 0);
        assert_int_equal(role, i);
    }
    assert_string_equal(rt_role_name(RT_ROLE_COUNT), "unknown");
    assert_int_equal(rt_role_parse("embserver", &role), RT_EPROTO);

    rt_cpu_set_isa(RT_ISA_PLAIN);
    assert_int_equal(rt_cpu_isa(), RT_ISA_PLAIN);
    assert_string_equal(rt_isa_name(rt_cpu_isa()), "plain");
    rt_cpu_set_isa(RT_ISA_AVX512);
    print_message("this CPU: %s\n", rt_isa_name(rt_cpu_isa()));
#if !defined(__clang__) /* clang 14 has no names for the levels */
    __builtin_cpu_init();
    assert_int_equal(rt_cpu_isa() == RT_ISA_AVX512, __builtin_cpu_supports("x86-64-v4") != 0);
    assert_int_equal(rt_cpu_isa() >= RT_ISA_AVX2, __builtin_cpu_supports("x86-64-v3") != 0);
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_is_set_once_and_kept), /* first: the text is still empty */
        cmocka_unit_test(codes_have_names),
        cmocka_unit_test(log_words),
        cmocka_unit_test(log_escape_is_safe),
        cmocka_unit_test(log_lines),
        cmocka_unit_test(roles_and_isa),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
