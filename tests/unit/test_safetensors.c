/* tests/unit/test_safetensors.c -- files of tensors: what is written reads back, what is not whole is refused by name. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "tests/lib/temp.h"

#include <dirent.h>
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char folder[TEMP_PATH_MAX];
static char *path;

static int make_folder(void **state)
{
    (void)state;
    temp_folder(folder);
    path = rt_path_join(folder, "a.safetensors");
    return 0;
}

static int remove_one(const char *name, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(name);
}

static int remove_folder(void **state)
{
    (void)state;
    rt_free(path);
    return nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static size_t entries_of_folder(void)
{
    DIR *dir = opendir(folder);
    size_t n = 0;

    assert_non_null(dir);
    while (readdir(dir))
        n++;
    closedir(dir);
    return n - 2;
}

static const float weight[6] = {0.0f, -1.5f, 3e38f, 1e-40f, 5.0f, 6.0f};
static const int64_t ids[3] = {-1, INT64_MIN, 7};
static const uint16_t half[5] = {1, 2, 3, 4, 0xffff};
static const struct rt_tensor_note notes[] = {{"table", "user \"ä\""}, {"step", "12"}};
static const struct rt_tensor tensors[] = {
    {.name = "top.0.weight", .type = RT_TENSOR_F32, .rank = 2, .shape = {2, 3}, .data = weight},
    {.name = "ids", .type = RT_TENSOR_I64, .rank = 1, .shape = {3}, .data = ids},
    {.name = "none", .type = RT_TENSOR_F16, .rank = 3, .shape = {4, 0, 2}},
    {.name = "scalar", .type = RT_TENSOR_F32, .rank = 0, .data = weight + 4},
    {.name = "rows", .type = RT_TENSOR_BF16, .rank = 2, .shape = {5, 1}, .data = half},
};

static void write_all(void)
{
    assert_int_equal(rt_safetensors_write(path, notes, 2, tensors, ARRAY_LEN(tensors)), 0);
}

static void what_is_written_reads_back(void **state)
{
    struct rt_safetensors *file;
    struct rt_tensor_note note;
    uint8_t data[64];

    (void)state;
    write_all();
    assert_int_equal(rt_safetensors_open(path, &file), 0);
    assert_string_equal(rt_safetensors_path(file), path);
    assert_int_equal(rt_safetensors_count(file), ARRAY_LEN(tensors));
    assert_string_equal(rt_safetensors_note(file, "table"), "user \"ä\"");
    assert_string_equal(rt_safetensors_note(file, "step"), "12");
    assert_null(rt_safetensors_note(file, "part"));
    for (size_t i = 0; i < 2; i++) {
        assert_true(rt_safetensors_note_at(file, i, &note));
        assert_string_equal(note.text, rt_safetensors_note(file, note.key));
    }
    assert_false(rt_safetensors_note_at(file, 2, &note));
    assert_null(rt_safetensors_find(file, "top"));
    for (size_t i = 0; i < ARRAY_LEN(tensors); i++) {
        const struct rt_tensor *want = &tensors[i];
        const struct rt_tensor *t = rt_safetensors_find(file, want->name);

        assert_non_null(t);
        assert_int_equal(t->type, want->type);
        assert_int_equal(t->rank, want->rank);
        assert_memory_equal(t->shape, want->shape, want->rank * sizeof(uint64_t));
        assert_int_equal(t->bytes, rt_tensor_count(want) * rt_tensor_type_size(want->type));
        assert_int_equal(rt_safetensors_read(file, t, 0, data, (size_t)t->bytes), 0);
        assert_true(t->bytes == 0 || memcmp(data, want->data, (size_t)t->bytes) == 0);
    }
    assert_int_equal(rt_safetensors_read(file, rt_safetensors_find(file, "rows"), 4, data, 4), 0);
    assert_memory_equal(data, half + 2, 4);
    rt_safetensors_close(file);
}

/* Byte for byte what the format's own library (safetensors 0.8.0) wrote of {"a": arange(3), "b": ones(2, 2).bfloat16()}. */
static void file_of_the_library(void **state)
{
    static const char header[] = "{\"a\":{\"dtype\":\"I64\",\"shape\":[3],\"data_offsets\":[0,24]},"
                                 "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,2],\"data_offsets\":[24,"
                                 "32]}}       ";
    uint8_t bytes[8 + sizeof(header) - 1 + 32] = {sizeof(header) - 1};
    const int64_t a[3] = {0, 1, 2};
    struct rt_safetensors *file;
    int64_t got[3];

    (void)state;
    memcpy(bytes + 8, header, sizeof(header) - 1);
    memcpy(bytes + 8 + sizeof(header) - 1, a, sizeof(a));
    memcpy(bytes + sizeof(bytes) - 8, "\x80\x3f\x80\x3f\x80\x3f\x80\x3f", 8);
    assert_int_equal(rt_safetensors_open_bytes("lib", bytes, sizeof(bytes), &file), 0);
    assert_int_equal(rt_safetensors_count(file), 2);
    assert_int_equal(rt_safetensors_read(file, rt_safetensors_at(file, 0), 0, got, 24), 0);
    assert_memory_equal(got, a, sizeof(a));
    assert_int_equal(rt_safetensors_at(file, 1)->type, RT_TENSOR_BF16);
    rt_safetensors_close(file);
}

#define ENTRY(type, shape, range)                                                                  \
    "{\"dtype\":\"" type "\",\"shape\":" shape ",\"data_offsets\":" range "}"

static void bad_headers_are_refused(void **state)
{
    static const struct {
        const char *header;
        size_t data; /* bytes behind it */
        const char *why;
    } row[] = {
        {"", 0, "no JSON map"},
        {"[]", 0, "no JSON map: another value"},
        {"{} x", 0, "no JSON map"},
        {"{}", 1, "its tensors end at byte 10, the file at 11"},
        {"{\"a\":1}", 0, "tensor 'a': expected dtype, shape"},
        {"{\"a\":{}}", 0, "tensor 'a': expected dtype, shape"},
        {"{\"a\\u0000b\":{}}", 0, "no JSON map"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}}", 4, "expected"},
        {"{\"a\":" ENTRY("F31", "[1]", "[0,4]") "}", 4, "its dtype is not"},
        {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "its dtype is not"},
        {"{\"a\":" ENTRY("F32", "1", "[0,4]") "}", 4, "its shape is not a list"},
        {"{\"a\":" ENTRY("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "its shape is not a list"},
        {"{\"a\":" ENTRY("F32", "[-1]", "[0,4]") "}", 4, "its shape is no size"},
        {"{\"a\":" ENTRY("F32", "[1.0]", "[0,4]") "}", 4, "its shape is no size"},
        {"{\"a\":" ENTRY("F32", "[4611686018427387904]", "[0,0]") "}", 0, "its shape is no size"},
        {"{\"a\":" ENTRY("U8", "[4294967296,4294967296]", "[0,0]") "}", 0, "its shape is no size"},
        {"{\"a\":" ENTRY("U8", "[99999999999999999999]", "[0,0]") "}", 0, "no JSON map"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0]") "}", 4, "its data_offsets do not lie"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4,4]") "}", 4, "its data_offsets do not lie"},
        {"{\"a\":" ENTRY("F32", "[1]", "[4,0]") "}", 4, "its data_offsets do not lie"},
        {"{\"a\":" ENTRY("F32", "[1]", "[-4,0]") "}", 4, "its data_offsets do not lie"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4]") "}", 3, "its data_offsets do not lie"},
        {"{\"a\":" ENTRY("F32", "[2]", "[0,4]") "}", 4, "do not span"},
        {"{\"a\":" ENTRY("F32", "[1]", "[1,5]") "}", 5, "tensor 'a': its bytes do not begin"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"b\":" ENTRY("F32", "[1]", "[5,9]") "}", 9,
         "tensor 'b': its bytes do not begin"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"b\":" ENTRY("U8", "[4]", "[2,6]") "}", 6,
         "tensor 'b': its bytes do not begin"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4]") ",\"a\":" ENTRY("F32", "[1]", "[4,8]") "}", 8,
         "duplicate"},
        {"{\"a\":" ENTRY("F32", "[1]", "[0,4]") "}", 5, "the file at"},
        {"{\"__metadata__\":{\"a\":1}}", 0, "'a' is not a text"},
        {"{\"__metadata__\":[\"a\"]}", 0, "is not a map"},
        {"{\"__metadata__\":\"a\"}", 0, "is not a map"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        uint64_t length = strlen(row[i].header);
        uint8_t *bytes = rt_xcalloc(1, 8 + length + row[i].data);
        struct rt_safetensors *file;

        memcpy(bytes, &length, 8);
        memcpy(bytes + 8, row[i].header, length);
        int err = rt_safetensors_open_bytes("x.st", bytes, 8 + length + row[i].data, &file);
        if (err != RT_EDATA || strncmp(rt_err_text(), "x.st: ", 6) != 0 ||
            !strstr(rt_err_text(), row[i].why))
            fail_msg("row %zu: %d \"%s\", expected \"%s\"", i, err, err ? rt_err_text() : "",
                     row[i].why);
        rt_free(bytes);
    }
}

/* No prefix of a file is a file, whether it comes from memory or from a disk. */
static void every_truncation_is_refused(void **state)
{
    char *text, *part = rt_path_join(folder, "part");
    struct rt_safetensors *file;
    size_t size;

    (void)state;
    write_all();
    assert_int_equal(rt_file_read(path, 1 << 20, &text, &size), 0);
    for (size_t n = 0; n < size; n++) {
        char *copy = rt_xmalloc(n + 1);

        memcpy(copy, text, n);
        assert_int_equal(rt_safetensors_open_bytes("part", copy, n, &file), RT_EDATA);
        rt_free(copy);
        if (n % 16 != 0)
            continue;
        assert_int_equal(rt_file_write(part, text, n), 0);
        assert_int_equal(rt_safetensors_open(part, &file), RT_EDATA);
        assert_non_null(strstr(rt_err_text(), "part: "));
    }
    /* Behind an open reader's back. */
    assert_int_equal(rt_file_write(part, text, size), 0);
    assert_int_equal(rt_safetensors_open(part, &file), 0);
    assert_int_equal(truncate(part, (off_t)size - 4), 0);
    assert_int_equal(
        rt_safetensors_read(file, rt_safetensors_find(file, "rows"), 0, (uint8_t[10]){0}, 10),
        RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "it has become shorter"));
    rt_safetensors_close(file);
    assert_int_equal(remove(part), 0);
    rt_free(part);
    rt_free(text);
}

static void a_length_beyond_the_limit(void **state)
{
    uint64_t length = RT_TENSOR_HEADER_MAX + 1;
    uint8_t *bytes = rt_xcalloc(1, 8 + length);
    char *pipe_path = rt_xasprintf("%s/pipe", folder);
    struct rt_safetensors *file;

    (void)state;
    memcpy(bytes, &length, 8);
    assert_int_equal(rt_safetensors_open_bytes("x", bytes, 8 + length, &file), RT_EDATA);
    assert_non_null(strstr(rt_err_text(), "a header of 16777217, at most 16777216"));
    length = UINT64_MAX;
    memcpy(bytes, &length, 8);
    assert_int_equal(rt_safetensors_open_bytes("x", bytes, 100, &file), RT_EDATA);
    rt_free(bytes);
    assert_int_equal(rt_safetensors_open(folder, &file), RT_EFILE);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_int_equal(rt_safetensors_open(pipe_path, &file),
                     RT_EFILE); /* and nobody waits for its writer */
    assert_non_null(strstr(rt_err_text(), "not a file"));
    unlink(pipe_path);
    rt_free(pipe_path);
    assert_int_equal(rt_safetensors_open("/nowhere/x", &file), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "/nowhere/x: cannot be opened"));
}

/* A disk that fills up after any number of bytes: the file that was there stays, and nothing lies beside it. */
static void a_write_that_fails_leaves_nothing(void **state)
{
    struct rlimit before, small;
    struct rt_safetensors *file;
    struct stat st;
    size_t failed = 0, left = entries_of_folder();

    (void)state;
    write_all();
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    for (rlim_t n = 0; n < (rlim_t)st.st_size; n++) {
        small = (struct rlimit){.rlim_cur = n, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        int err = rt_safetensors_write(path, notes, 1, tensors, ARRAY_LEN(tensors));
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        if (err == 0)
            break;
        assert_int_equal(err, RT_EFILE);
        assert_non_null(strstr(rt_err_text(), "cannot write: File too large"));
        failed++;
        assert_int_equal(entries_of_folder(), left);
        assert_int_equal(rt_safetensors_open(path, &file), 0);
        assert_non_null(rt_safetensors_note(file, "step")); /* the one of before */
        rt_safetensors_close(file);
    }
    assert_true(failed > 300);
    assert_int_equal(rt_safetensors_write("/nowhere/x", NULL, 0, tensors, 1), RT_EFILE);
    assert_int_equal(
        rt_safetensors_write(path, NULL, 0,
                             &(struct rt_tensor){.name = "\xff", .type = RT_TENSOR_F32}, 1),
        RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "a tensor's name is not UTF-8"));
}

static void every_allocation_and_read_may_fail(void **state)
{
    struct rt_safetensors *file;
    int failed = 0, err;

    (void)state;
    write_all();
    do {
        rt_fault_alloc(failed);
        err = rt_safetensors_open(path, &file);
        rt_fault_alloc(-1);
        assert_true(err == 0 || err == RT_ENOMEM || err == RT_EFILE); /* of memory; of a read */
        failed += err != 0;
    } while (err);
    assert_true(failed > 0);
    rt_safetensors_close(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_reads_back),
        cmocka_unit_test(file_of_the_library),
        cmocka_unit_test(bad_headers_are_refused),
        cmocka_unit_test(every_truncation_is_refused),
        cmocka_unit_test(a_length_beyond_the_limit),
        cmocka_unit_test(a_write_that_fails_leaves_nothing),
        cmocka_unit_test(every_allocation_and_read_may_fail),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
