/* tests/unit/test_source.c -- lines of plain and gzip files, whole, joined, cut short. */
#include "data_compose/source.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/base/strbuf.h"
#include "tests/lib/plain_io.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <cmocka.h>

static char dir[TEMP_PATH_MAX];
static struct rt_io *io;

static char *put(const char *name, const void *data, size_t size)
{
    char *path = rt_path_join(dir, name);
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
    return path;
}

/* One gzip member; appended to out at *size. */
static void squeeze(const char *text, size_t n, uint8_t *out, size_t capacity, size_t *size)
{
    z_stream z = {0};

    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    z.next_in = (uint8_t *)(uintptr_t)text;
    z.avail_in = (uInt)n;
    z.next_out = out + *size;
    z.avail_out = (uInt)(capacity - *size);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    *size = capacity - z.avail_out;
    deflateEnd(&z);
}

/* All lines joined by '|'; the return value of the last call in *rc. */
static char *read_all(const char *const *path, uint32_t n, int *rc)
{
    struct dc_source *source = dc_source_create(io, path, n);
    struct rt_strbuf sb;
    struct dc_line line;

    rt_strbuf_init(&sb);
    rt_strbuf_add(&sb, "", 0);
    while ((*rc = dc_source_line(source, &line)) > 0) {
        rt_strbuf_addf(&sb, "%u.%u:", line.file, (unsigned)line.number);
        rt_strbuf_add(&sb, line.text, line.size);
        rt_strbuf_add(&sb, "|", 1);
    }
    dc_source_destroy(source);
    return rt_strbuf_detach(&sb);
}

static void plain_lines(void **state)
{
    static const struct {
        const char *name, *text, *want;
    } row[] = {
        {"empty", "", ""},
        {"one byte", "a", "0.1:a|"},
        {"no end", "a\nb", "0.1:a|0.2:b|"},
        {"end", "a\nb\n", "0.1:a|0.2:b|"},
        {"crlf", "a\r\n\r\nb\r\n", "0.1:a|0.2:|0.3:b|"},
        {"empty lines", "\n\n", "0.1:|0.2:|"},
        {"cr inside", "a\rb\n", "0.1:a\rb|"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (size_t read_max = 0; read_max < 3; read_max++) {
            char *path = put("plain", row[i].text, strlen(row[i].text));
            const char *list[] = {path};
            int rc;

            plain_io_set_read_max(io, read_max);
            char *got = read_all(list, 1, &rc);
            if (rc != 0 || strcmp(got, row[i].want) != 0)
                fail_msg("%s: rc %d, got '%s', want '%s'", row[i].name, rc, got, row[i].want);
            rt_free(got);
            rt_free(path);
        }
    }
    plain_io_set_read_max(io, 0);
}

static void several_files(void **state)
{
    uint8_t data[4096];
    size_t size = 0;
    int rc;

    (void)state;
    squeeze("g1\ng", 4, data, sizeof(data), &size);
    squeeze("2\n", 2, data, sizeof(data), &size); /* a line across two members */
    squeeze("", 0, data, sizeof(data), &size);
    char *a = put("a", "x\ny", 3), *b = put("b.gz", data, size), *c = put("c", "z\n", 2);
    const char *list[] = {a, b, c};
    for (size_t read_max = 0; read_max < 4; read_max++) {
        plain_io_set_read_max(io, read_max);
        char *got = read_all(list, 3, &rc);
        assert_int_equal(rc, 0);
        assert_string_equal(got, "0.1:x|0.2:y|1.1:g1|1.2:g2|2.1:z|");
        rt_free(got);
    }
    plain_io_set_read_max(io, 0);
    rt_free(a);
    rt_free(b);
    rt_free(c);
}

static void broken_files(void **state)
{
    static const char text[] = "first\nsecond\nthird\n";
    uint8_t data[4096];
    size_t size = 0;
    int rc;

    (void)state;
    squeeze(text, sizeof(text) - 1, data, sizeof(data), &size);
    for (size_t cut = 2; cut < size; cut++) { /* every possible truncation */
        char *path = put("cut.gz", data, cut);
        const char *list[] = {path};
        char *got = read_all(list, 1, &rc);

        if (rc != RT_EDATA || !strstr(rt_err_text(), "cut.gz") ||
            !strstr(rt_err_text(), "ends early"))
            fail_msg("cut at %zu of %zu: rc %d, text '%s'", cut, size, rc, rt_err_text());
        rt_free(got);
        rt_free(path);
    }
    memcpy(data + size, "garbage", 7);
    char *tail = put("tail.gz", data, size + 7);
    data[size - 6] ^= 1; /* the checksum */
    char *sum = put("sum.gz", data, size);
    char *none = rt_path_join(dir, "none");
    const char *list[] = {tail, sum, none, dir};
    static const int want[] = {RT_EDATA, RT_EDATA, RT_EFILE, RT_EFILE};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        char *got = read_all(&list[i], 1, &rc);
        if (rc != want[i])
            fail_msg("%s: rc %d, want %d", list[i], rc, want[i]);
        rt_free(got);
    }
    rt_free(tail);
    rt_free(sum);
    rt_free(none);
}

static void long_lines(void **state)
{
    size_t size = 2 * DC_LINE_MAX + 10;
    char *text = rt_xmalloc(size);
    int rc;

    (void)state;
    for (int over = 0; over < 2; over++) {
        size_t n = DC_LINE_MAX + (size_t)over;

        memset(text, 'x', size);
        memcpy(text, "a\n", 2);
        text[2 + n] = '\n';
        char *path = put("long", text, 3 + n);
        const char *list[] = {path};
        char *got = read_all(list, 1, &rc);
        if (rc != (over ? RT_EDATA : 0))
            fail_msg("over %d: rc %d, %s", over, rc, rt_err_text());
        if (over)
            assert_non_null(strstr(rt_err_text(), "long:2: line is longer than"));
        else
            assert_int_equal(strlen(got), 6 + 5 + n);
        rt_free(got);
        rt_free(path);
    }
    memset(text, 'x', size);
    char *path = put("endless", text, DC_LINE_MAX + 2); /* no line end at all */
    const char *list[] = {path};
    rt_free(read_all(list, 1, &rc));
    assert_int_equal(rc, RT_EDATA);
    rt_free(path);
    rt_free(text);
}

/* Random lines through gzip members of random sizes and reads of random sizes. */
static void random_lines(void **state)
{
    uint64_t key = 20240607, at = 0;
    struct rt_strbuf text, want;
    uint8_t *data = rt_xmalloc(8u << 20);
    size_t size = 0, from = 0;
    int rc;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)key);
    rt_strbuf_init(&text);
    rt_strbuf_init(&want);
    for (unsigned i = 1; i <= 3000; i++) {
        size_t n = rt_below(rt_draw(key, at++), i % 100 ? 200 : 60000);
        rt_strbuf_addf(&want, "0.%u:", i);
        for (size_t k = 0; k < n; k++) {
            char c = (char)('a' + rt_below(rt_draw(key, at++), 20));
            rt_strbuf_add(&text, &c, 1);
            rt_strbuf_add(&want, &c, 1);
        }
        rt_strbuf_add(&text, "\n", 1);
        rt_strbuf_add(&want, "|", 1);
    }
    while (from < text.len) {
        size_t n = 1 + rt_below(rt_draw(key, at++), 300000);
        n = n < text.len - from ? n : text.len - from;
        squeeze(text.text + from, n, data, 8u << 20, &size);
        from += n;
    }
    char *gz = put("random.gz", data, size), *plain = put("random", text.text, text.len);
    const char *list[] = {gz, plain};
    for (int i = 0; i < 2; i++) {
        plain_io_set_read_max(io, 1 + rt_below(rt_draw(key, at++), 10000));
        char *got = read_all(&list[i], 1, &rc);
        assert_int_equal(rc, 0);
        assert_string_equal(got, want.text);
        rt_free(got);
    }
    plain_io_set_read_max(io, 0);
    rt_strbuf_release(&text);
    rt_strbuf_release(&want);
    rt_free(gz);
    rt_free(plain);
    rt_free(data);
}

static int setup(void **state)
{
    (void)state;
    io = plain_io_create(1 << 20);
    temp_folder(dir);
    return 0;
}

static int teardown(void **state)
{
    static const char *const name[] = {"plain",   "a",         "b.gz",   "c",
                                       "cut.gz",  "tail.gz",   "sum.gz", "long",
                                       "endless", "random.gz", "random"};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(name); i++) {
        char *path = rt_path_join(dir, name[i]);
        unlink(path);
        rt_free(path);
    }
    plain_io_destroy(io);
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(plain_lines),  cmocka_unit_test(several_files),
        cmocka_unit_test(broken_files), cmocka_unit_test(long_lines),
        cmocka_unit_test(random_lines),
    };

    return cmocka_run_group_tests(test, setup, teardown);
}
