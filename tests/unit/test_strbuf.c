/* tests/unit/test_strbuf.c -- growing text, and "did you mean". */
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static void text_grows(void **state)
{
    struct rt_strbuf sb;
    size_t want = 0;

    (void)state;
    rt_strbuf_init(&sb);
    assert_null(sb.text);
    for (int i = 0; i < 1000; i++) {
        rt_strbuf_addf(&sb, "%d,", i);
        rt_strbuf_add(&sb, "xyz", 2);
        want += (i < 10 ? 2 : i < 100 ? 3 : 4) + 2;
        assert_int_equal(sb.len, want);
        assert_int_equal(sb.text[sb.len], '\0');
    }
    assert_memory_equal(sb.text, "0,xy1,xy2,xy", 12);
    assert_true(sb.capacity < 4 * sb.len);
    rt_strbuf_reset(&sb);
    assert_int_equal(sb.len, 0);
    assert_string_equal(sb.text, "");
    rt_strbuf_release(&sb);
    rt_strbuf_release(&sb);
    rt_strbuf_reset(&sb);
}

static void text_is_handed_over(void **state)
{
    struct rt_strbuf sb;
    char *text;

    (void)state;
    rt_strbuf_init(&sb);
    text = rt_strbuf_detach(&sb);
    assert_string_equal(text, "");
    rt_free(text);
    rt_strbuf_addf(&sb, "%s", "abc");
    text = rt_strbuf_detach(&sb);
    assert_string_equal(text, "abc");
    assert_null(sb.text);
    rt_free(text);
}

static void nearest_word(void **state)
{
    static const char *const words[] = {"staleness", "mode",     "wire.rows",     "wire.dtype",
                                        "seed",      "policies", "policies.rows", ""};
    static const struct {
        const char *word, *want;
    } row[] = {
        {"stalenes", "staleness"},
        {"stalness", "staleness"},
        {"mdoe", "mode"},
        {"mode", "mode"},
        {"modes", "mode"},
        {"wire.row", "wire.rows"},
        {"wire.dtypes", "wire.dtype"},
        {"policies.row", "policies.rows"},
        {"policies.x", "policies.rows"},
        {"zzz", NULL},
        {"sede", "seed"},
        {"see", "seed"},
        {"moxxe", NULL},
        {"", ""},
        {"x", NULL},
        {"a-word-that-is-far-too-long-to-be-a-key-of-anything-at-all-in-this-table", NULL},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const char *got = rt_nearest(row[i].word, words, ARRAY_LEN(words));

        if ((got == NULL) != (row[i].want == NULL) || (got && strcmp(got, row[i].want) != 0))
            fail_msg("'%s': got '%s'", row[i].word, got ? got : "nothing");
    }
    assert_null(rt_nearest("x", NULL, 0));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_grows),
        cmocka_unit_test(text_is_handed_over),
        cmocka_unit_test(nearest_word),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
