/* tests/unit/test_predict.c -- the file of scores: its text, batches that turn out not to belong there, and disks that fill up. */
#include "trainer/predict.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#define COLUMNS (5 + TR_WIDE_COLUMNS)

static char folder[TEMP_PATH_MAX], *path, *partial;

static const struct tr_head heads[] = {
    {.name = "ctr", .kind = TR_HEAD_BCE, .first = 0, .columns = 1},
    {.name = "shelf", .kind = TR_HEAD_SOFTMAX, .classes = 3, .first = 1, .columns = 3},
    {.name = "stars", .kind = TR_HEAD_MSE, .first = 4, .columns = 1},
    {.name = "word",
     .kind = TR_HEAD_SOFTMAX,
     .classes = 65,
     .first = 5,
     .columns = TR_WIDE_COLUMNS},
};

static struct tr_predict *create(const struct tr_head *head, uint32_t n)
{
    struct tr_predict *predict;
    if (tr_predict_create(path, head, n, &predict) != 0)
        fail_msg("%s", rt_err_text());
    return predict;
}

/* The file; the caller's. */
static char *text_of(const char *name)
{
    char *text = NULL;
    size_t size;
    if (rt_file_read(name, 64 << 20, &text, &size) != 0)
        fail_msg("%s", rt_err_text());
    return text;
}

static bool all(void *arg, uint64_t batch_id)
{
    (void)arg;
    (void)batch_id;
    return true;
}

static bool odd(void *arg, uint64_t batch_id)
{
    (void)arg;
    return batch_id % 2 == 1;
}

static void the_text(void **state)
{
    static const char keys[] = "a\tb\n\r\\cplain";
    static const uint32_t length[] = {7, 0, 5};
    float score[3][COLUMNS] = {0};
    struct tr_predict *predict = create(heads, ARRAY_LEN(heads));
    uint64_t lines;
    (void)state;
    memcpy(score[0], (float[]){0.1f, 0.25f, 0.5f, 0.25f, -FLT_MAX}, 5 * sizeof(float));
    memcpy(score[1], (float[]){-NAN, 0, 1, 0, INFINITY}, 5 * sizeof(float));
    memcpy(score[2], (float[]){FLT_TRUE_MIN, 1, 0, 0, -INFINITY}, 5 * sizeof(float));
    memcpy(&score[0][5], (float[]){0.125f, 64, 0.75f}, sizeof(float[TR_WIDE_COLUMNS]));
    memcpy(&score[1][5], (float[]){0.5f, 1, 0.5f}, sizeof(float[TR_WIDE_COLUMNS]));
    memcpy(&score[2][5], (float[]){0, 0, 1}, sizeof(float[TR_WIDE_COLUMNS]));
    tr_predict_add(predict, 3, &(struct tr_predict_rows){1, 3, &score[0][0], length, keys});
    tr_predict_add(predict, 3, &(struct tr_predict_rows){2, 1, &score[2][0], NULL, NULL});
    assert_false(rt_file_exists(path));
    assert_int_equal(tr_predict_end(predict, 3, all, NULL, &lines), 0);
    assert_int_equal(lines, 4);
    char *got = text_of(path);
    assert_string_equal(
        got, "key\tctr\tshelf.0\tshelf.1\tshelf.2\tstars\tword.class\tword.probability\n"
             "a\\tb\\n\\r\\\\c\t0.100000001\t0.25\t0.5\t0.25\t-3.40282347e+38\t64\t0.75\n"
             "\tnan\t0\t1\t0\tinf\t1\t0.5\n"
             "plain\t1.40129846e-45\t1\t0\t0\t-inf\t0\t1\n"
             "\t1.40129846e-45\t1\t0\t0\t-inf\t0\t1\n");
    rt_free(got);
    tr_predict_destroy(predict);
    assert_false(rt_file_exists(partial));
    unlink(path);
}

/* Whatever bits a finite score has, they come back. */
static void every_float_comes_back(void **state)
{
    enum { N = 20000 };
    float *score = rt_xcalloc(N, sizeof *score);
    uint32_t bits = 12345;
    uint64_t lines;
    struct tr_predict *predict = create(heads, 1);
    (void)state;
    for (size_t i = 0; i < N; i++) {
        do {
            bits = bits * 1664525u + 1013904223u;
            memcpy(&score[i], &bits, sizeof bits);
        } while (!isfinite(score[i]));
    }
    tr_predict_add(predict, 1, &(struct tr_predict_rows){1, N, score, NULL, NULL});
    assert_int_equal(tr_predict_end(predict, 1, all, NULL, &lines), 0);
    char *got = text_of(path), *at = got + strcspn(got, "\n") + 1;
    for (size_t i = 0; i < N; i++) {
        float back = strtof(at, &at);
        assert_memory_equal(&back, &score[i], sizeof back);
        assert_int_equal(*at++, '\n');
    }
    assert_int_equal(*at, '\0');
    rt_free(got);
    rt_free(score);
    tr_predict_destroy(predict);
    unlink(path);
}

static void add(struct tr_predict *predict, uint64_t number, uint64_t batch_id, uint32_t samples)
{
    float score[500];
    uint32_t length[500];
    char keys[500 * 8 + 1], *at = keys;
    for (uint32_t s = 0; s < samples; s++) {
        score[s] = 0.5f;
        length[s] = 8;
        at += snprintf(at, 9, "%03u.%04u", (unsigned)(batch_id % 1000), s);
    }
    tr_predict_add(predict, number,
                   &(struct tr_predict_rows){batch_id, samples, score, length, keys});
}

/* Batches of another evaluation among ours, in any place and of any size: what stays is what would be there without them. */
static void what_is_not_wanted_is_taken_out(void **state)
{
    static const struct {
        const char *name;
        uint32_t n, samples[12]; /* of batches 1, 2, ...: odd ones are wanted */
        uint32_t first;          /* id of the first */
    } row[] = {
        {"nothing", 0, {0}, 1},
        {"one that stays", 1, {3}, 1},
        {"one that goes", 1, {3}, 2},
        {"the first goes", 2, {5, 7}, 2},
        {"the last goes", 2, {5, 7}, 1},
        {"by turns", 12, {1, 500, 2, 499, 3, 1, 500, 500, 7, 2, 1, 1}, 1},
        {"by turns, the others", 12, {1, 500, 2, 499, 3, 1, 500, 500, 7, 2, 1, 1}, 2},
    };
    struct tr_predict *mixed = create(heads, 1);
    char *pure_path = rt_path_join(folder, "pure");
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct tr_predict *pure;
        uint64_t lines, want;
        uint32_t repeat = i < 5 ? 1 : 60; /* several buffers of text */
        assert_int_equal(tr_predict_create(pure_path, heads, 1, &pure), 0);
        for (uint32_t b = 0; b < row[i].n * repeat; b++) {
            uint64_t id = row[i].first + b;
            add(mixed, i + 1, id, row[i].samples[b % row[i].n]);
            if (odd(NULL, id))
                add(pure, 1, id, row[i].samples[b % row[i].n]);
        }
        assert_int_equal(tr_predict_end(mixed, i + 1, odd, NULL, &lines), 0);
        assert_int_equal(tr_predict_end(pure, 1, all, NULL, &want), 0);
        char *got = text_of(path), *expected = text_of(pure_path);
        if (strcmp(got, expected) != 0 || lines != want)
            fail_msg("%s: %llu lines, expected %llu", row[i].name, (unsigned long long)lines,
                     (unsigned long long)want);
        rt_free(got);
        rt_free(expected);
        tr_predict_destroy(pure);
    }
    unlink(pure_path);
    rt_free(pure_path);
    tr_predict_destroy(mixed);
    unlink(path);
}

/* An evaluation that starts over begins the file anew; after its end nothing is added; the file of before stays until then. */
static void evaluations(void **state)
{
    struct tr_predict *predict = create(heads, 1);
    uint64_t lines;
    (void)state;
    add(predict, 1, 1, 9);
    add(predict, 2, 3, 2);
    assert_int_equal(tr_predict_end(predict, 2, all, NULL, &lines), 0);
    assert_int_equal(lines, 2);
    add(predict, 2, 5, 7);
    assert_int_equal(tr_predict_end(predict, 2, all, NULL, &lines), 0);
    assert_int_equal(lines, 2);
    add(predict, 3, 7, 1);
    char *got = text_of(path);
    assert_string_equal(got, "key\tctr\n003.0000\t0.5\n003.0001\t0.5\n");
    rt_free(got);
    assert_int_equal(tr_predict_end(predict, 3, all, NULL, &lines), 0);
    got = text_of(path);
    assert_string_equal(got, "key\tctr\n007.0000\t0.5\n");
    rt_free(got);
    tr_predict_destroy(predict);
    predict = create(heads, 1);
    assert_true(rt_file_exists(partial));
    tr_predict_destroy(predict);
    assert_false(rt_file_exists(partial));
    assert_int_equal(tr_predict_create("/nowhere/p", heads, 1, &predict), RT_EFILE);
    assert_non_null(strstr(rt_err_text(), "/nowhere/p.partial: cannot be made: No such file"));
    unlink(path);
}

static int write_small(struct tr_predict *predict, uint64_t number)
{
    uint64_t lines;
    for (uint64_t b = 1; b <= 5; b++)
        add(predict, number, b, 500);
    return tr_predict_end(predict, number, odd, NULL, &lines);
}

/* A disk that fills up after any number of bytes: one error, the file of before stays; the next evaluation has its file. */
static void a_full_disk(void **state)
{
    struct rlimit before, small;
    struct tr_predict *predict = create(heads, 1);
    uint64_t number = 1;
    (void)state;
    assert_int_equal(write_small(predict, number++), 0);
    char *want = text_of(path);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    unsigned failed = 0;
    for (rlim_t n = 0; n < 70000; n += 997) {
        small = (struct rlimit){.rlim_cur = n, .rlim_max = before.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
        int err = write_small(predict, number++);
        assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
        if (err == 0)
            break;
        assert_int_equal(err, RT_EFILE);
        assert_non_null(strstr(rt_err_text(), ".partial: cannot write at byte"));
        assert_false(rt_file_exists(partial));
        char *got = text_of(path);
        assert_string_equal(got, want);
        rt_free(got);
        failed++;
    }
    assert_true(failed > 30);
    assert_int_equal(write_small(predict, number++), 0);
    rt_free(want);
    tr_predict_destroy(predict);
    unlink(path);
}

static void no_memory(void **state)
{
    struct tr_predict *predict = create(heads, 1);
    uint64_t lines;
    (void)state;
    rt_fault_alloc(0);
    add(predict, 1, 1, 3);
    assert_true(rt_fault_hit());
    rt_fault_alloc(-1);
    add(predict, 1, 3, 3); /* not a file with a hole */
    assert_int_equal(tr_predict_end(predict, 1, all, NULL, &lines), RT_ENOMEM);
    assert_false(rt_file_exists(path));
    tr_predict_destroy(predict);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(the_text),    cmocka_unit_test(every_float_comes_back),
        cmocka_unit_test(evaluations), cmocka_unit_test(what_is_not_wanted_is_taken_out),
        cmocka_unit_test(a_full_disk), cmocka_unit_test(no_memory),
    };
    temp_folder(folder);
    path = rt_path_join(folder, "scores.tsv");
    partial = rt_xasprintf("%s.partial", path);
    int failed = cmocka_run_group_tests(test, NULL, NULL);
    rt_free(path);
    rt_free(partial);
    return failed;
}
