/* tests/unit/test_source.c -- lines of plain, gzip and zstd files, whole, joined, cut short. */
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
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
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

/* One zstd frame with its checksum; appended as above. */
static void squeeze_zstd(const char *text, size_t n, uint8_t *out, size_t capacity, size_t *size)
{
    ZSTD_CCtx *context = ZSTD_createCCtx();

    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    size_t packed = ZSTD_compress2(context, out + *size, capacity - *size, text, n);
    assert_false(ZSTD_isError(packed));
    *size += packed;
    ZSTD_freeCCtx(context);
}

/* The kinds of packed files, for tests that hold for each. */
static const struct packing {
    const char *name;
    void (*squeeze)(const char *text, size_t n, uint8_t *out, size_t capacity, size_t *size);
    size_t known; /* bytes that tell the kind */
} packing[] = {{"gzip", squeeze, 2}, {"zstd", squeeze_zstd, 4}};

static uint64_t bytes_on_disk(const char *const *path, uint32_t n)
{
    uint64_t bytes = 0;
    struct stat st;

    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(stat(path[i], &st), 0);
        bytes += (uint64_t)st.st_size;
    }
    return bytes;
}

/* All lines joined by '|'; the return value of the last call in *rc. Every byte of the files is counted once. */
static char *read_all(const char *const *path, uint32_t n, int *rc)
{
    struct dc_source *source = dc_source_create(io, path, n);
    _Atomic uint64_t bytes = 0;
    struct rt_strbuf sb;
    struct dc_line line;

    dc_source_count(source, &bytes);
    rt_strbuf_init(&sb);
    rt_strbuf_add(&sb, "", 0);
    while ((*rc = dc_source_line(source, &line)) > 0) {
        rt_strbuf_addf(&sb, "%u.%u:", line.file, (unsigned)line.number);
        rt_strbuf_add(&sb, line.text, line.size);
        rt_strbuf_add(&sb, "|", 1);
    }
    if (*rc == 0)
        assert_int_equal(bytes, bytes_on_disk(path, n));
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
        {"byte order mark",
         "\xef\xbb\xbf"
         "a\nb\n",
         "0.1:a|0.2:b|"},
        {"nothing but a mark", "\xef\xbb\xbf", "0.1:|"},
        {"a mark further on",
         "a\n\xef\xbb\xbf"
         "b\n",
         "0.1:a|0.2:\xef\xbb\xbf"
         "b|"},
        {"nearly gzip", "\x1f", "0.1:\x1f|"},
        {"nearly zstd", "\x28\xb5\x2f\n", "0.1:\x28\xb5\x2f|"},
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

/* What is unusual and legal in a text: a NUL byte, a name that promises something else. */
static void odd_files(void **state)
{
    char *path = put("odd.gz", "a\0b\nc", 5);
    const char *list[] = {path};
    struct dc_source *source = dc_source_create(io, list, 1);
    struct dc_line line;

    (void)state;
    assert_int_equal(dc_source_line(source, &line), 1);
    assert_int_equal(line.size, 3);
    assert_memory_equal(line.text, "a\0b", 3);
    assert_int_equal(dc_source_line(source, &line), 1);
    assert_int_equal(dc_source_line(source, &line), 0);
    dc_source_destroy(source);
    rt_free(path);
}

/* Members one after another, empty ones too, a line across two of them; all kinds of files in one list. */
static void several_files(void **state)
{
    uint8_t data[ARRAY_LEN(packing)][4096];
    size_t size[ARRAY_LEN(packing)] = {0};
    int rc;

    (void)state;
    memcpy(data[1], "\x5a\x2a\x4d\x18\2\0\0\0ab", 10); /* zstd: a frame to be skipped */
    size[1] = 10;
    for (size_t i = 0; i < ARRAY_LEN(packing); i++) {
        packing[i].squeeze("g1\ng", 4, data[i], sizeof(data[i]), &size[i]);
        packing[i].squeeze("", 0, data[i], sizeof(data[i]), &size[i]);
        packing[i].squeeze("2\n", 2, data[i], sizeof(data[i]), &size[i]);
    }
    char *a = put("a", "x\ny", 3), *b = put("b", data[0], size[0]), *c = put("c", "", 0),
         *d = put("d", data[1], size[1]), *e = put("e", "z\n", 2);
    const char *list[] = {a, b, c, d, e};
    for (size_t read_max = 0; read_max < 4; read_max++) {
        plain_io_set_read_max(io, read_max);
        char *got = read_all(list, 5, &rc);
        assert_int_equal(rc, 0);
        assert_string_equal(got, "0.1:x|0.2:y|1.1:g1|1.2:g2|3.1:g1|3.2:g2|4.1:z|");
        rt_free(got);
    }
    plain_io_set_read_max(io, 0);
    rt_free(a);
    rt_free(b);
    rt_free(c);
    rt_free(d);
    rt_free(e);
}

/* Reads `data` as a file; expects an error that names the file and has `want` in its text. */
static void expect_broken(const char *what, const uint8_t *data, size_t size, const char *want)
{
    char *path = put("broken", data, size);
    const char *list[] = {path};
    int rc;

    rt_free(read_all(list, 1, &rc));
    if (rc != RT_EDATA || !strstr(rt_err_text(), "broken: ") || !strstr(rt_err_text(), want))
        fail_msg("%s: rc %d, text '%s', expected '%s'", what, rc, rt_err_text(), want);
    rt_free(path);
}

static void broken_members(void **state)
{
    static const char text[] = "first\nsecond\nthird\n";

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(packing); i++) {
        uint8_t data[4096];
        size_t size = 0, one;
        char want[64];

        packing[i].squeeze(text, sizeof(text) - 1, data, sizeof(data), &size);
        one = size;
        packing[i].squeeze(text, sizeof(text) - 1, data, sizeof(data), &size);
        for (size_t cut = packing[i].known; cut < size; cut++) { /* every possible truncation */
            snprintf(want, sizeof(want), "%s data ends early (truncated file?) at byte %zu",
                     packing[i].name, cut);
            if (cut != one)
                expect_broken("cut", data, cut, want);
        }
        memcpy(data + size, "garbage", 7);
        snprintf(want, sizeof(want), "%s data is followed by something else at byte %zu",
                 packing[i].name, size);
        expect_broken("tail", data, size + 7, want);
        data[one - (i ? 1 : 6)] ^= 1; /* the checksum of the first member */
        snprintf(want, sizeof(want), "%s data ", packing[i].name);
        expect_broken("checksum", data, size, want);
    }
}

/* Bytes changed at random: the lines or an error, never a hang, and with a checksum never other lines. */
static void corrupt_members(void **state)
{
    uint64_t key = 77, at = 0;
    char text[3000];

    (void)state;
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 30 == 29 ? '\n' : (char)('a' + rt_below(rt_draw(key, at++), 8));
    for (size_t i = 0; i < ARRAY_LEN(packing); i++) {
        uint8_t data[4096];
        size_t size = 0;
        int rc;

        packing[i].squeeze(text, sizeof(text), data, sizeof(data), &size);
        char *path = put("broken", data, size);
        const char *list[] = {path};
        char *whole = read_all(list, 1, &rc);
        assert_int_equal(rc, 0);
        for (int n = 0; n < 2000; n++) {
            size_t where = packing[i].known + rt_below(rt_draw(key, at++), size - packing[i].known);
            uint8_t was = data[where];

            data[where] ^= (uint8_t)(1 + rt_below(rt_draw(key, at++), 255));
            rt_free(put("broken", data, size));
            char *got = read_all(list, 1, &rc);
            if (rc == 0 && strcmp(got, whole) != 0)
                fail_msg("%s: byte %zu changed: other lines and no error", packing[i].name, where);
            rt_free(got);
            data[where] = was;
        }
        rt_free(whole);
        rt_free(path);
    }
}

/* A few hundred packed bytes that are megabytes of lines: the buffer is filled many times from one input. */
static void much_from_little(void **state)
{
    enum { LINES = 5000000 };
    char *text = rt_xmalloc(2 * LINES);
    static uint8_t data[32768];
    struct dc_line line;

    (void)state;
    for (size_t i = 0; i < LINES; i++)
        memcpy(text + 2 * i, "x\n", 2);
    for (size_t i = 0; i < ARRAY_LEN(packing); i++) {
        size_t size = 0;
        uint64_t n = 0;
        int rc;

        packing[i].squeeze(text, 2 * LINES, data, sizeof(data), &size);
        char *path = put("little", data, size);
        const char *list[] = {path};
        struct dc_source *source = dc_source_create(io, list, 1);
        while ((rc = dc_source_line(source, &line)) > 0)
            n += line.size == 1 && line.text[0] == 'x';
        assert_int_equal(rc, 0);
        assert_int_equal(n, LINES);
        dc_source_destroy(source);
        rt_free(path);
    }
    rt_free(text);
}

static void refused_files(void **state)
{
    static const struct {
        const char *name;
        uint8_t data[10];
    } row[] = {
        {"xz", {0xfd, '7', 'z', 'X', 'Z', 0}}, {"lz4", {0x04, 0x22, 0x4d, 0x18, 0x64}},
        {"zip", {'P', 'K', 3, 4, 20}},         {"bzip2", {'B', 'Z', 'h', '9', '1', 'A', 'Y', '&'}},
        {"Parquet", {'P', 'A', 'R', '1', 21}},
    };
    char want[64];
    int rc;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        snprintf(want, sizeof(want), "expected plain text, gzip or zstd, got %s", row[i].name);
        expect_broken(row[i].name, row[i].data, sizeof(row[i].data), want);
    }
    char *none = rt_path_join(dir, "none");
    const char *list[] = {none, dir};
    for (size_t i = 0; i < ARRAY_LEN(list); i++) {
        rt_free(read_all(&list[i], 1, &rc));
        assert_int_equal(rc, RT_EFILE);
    }
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

/* Random lines through members of random sizes and reads of random sizes. */
static void random_lines(void **state)
{
    uint64_t key = 20240607, at = 0;
    struct rt_strbuf text, want;
    uint8_t *data = rt_xmalloc(8u << 20);
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
    char *path[3] = {put("random", text.text, text.len)};
    for (size_t i = 0; i < ARRAY_LEN(packing); i++) {
        size_t size = 0, from = 0;

        while (from < text.len) {
            size_t n = 1 + rt_below(rt_draw(key, at++), 300000);
            n = n < text.len - from ? n : text.len - from;
            packing[i].squeeze(text.text + from, n, data, 8u << 20, &size);
            from += n;
        }
        path[1 + i] = put(packing[i].name, data, size);
    }
    for (int i = 0; i < 3; i++) {
        const char *list[] = {path[i]};

        plain_io_set_read_max(io, 1 + rt_below(rt_draw(key, at++), 10000));
        char *got = read_all(list, 1, &rc);
        assert_int_equal(rc, 0);
        assert_string_equal(got, want.text);
        rt_free(got);
        rt_free(path[i]);
    }
    plain_io_set_read_max(io, 0);
    rt_strbuf_release(&text);
    rt_strbuf_release(&want);
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
    static const char *const name[] = {"plain",  "odd.gz", "a",      "b",     "c",
                                       "d",      "e",      "broken", "long",  "endless",
                                       "random", "gzip",   "zstd",   "little"};

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
        cmocka_unit_test(plain_lines),      cmocka_unit_test(odd_files),
        cmocka_unit_test(several_files),    cmocka_unit_test(broken_members),
        cmocka_unit_test(corrupt_members),  cmocka_unit_test(refused_files),
        cmocka_unit_test(much_from_little), cmocka_unit_test(long_lines),
        cmocka_unit_test(random_lines),
    };

    return cmocka_run_group_tests(test, setup, teardown);
}
