/* tests/unit/test_click_log.c -- the generated click log: layout, popularity, truth; and the files it goes to. */
#include "data_compose/click_log.h"
#include "data_compose/writer.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "tests/lib/temp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

static const struct dc_click_log_conf criteo = {
    .features = 26, .dense = 13, .ids = 1000, .seed = 1};

/* A row is label, 13 numbers or nothing, 26 ids of 8 digits, and never over its bound. */
static void layout(void **state)
{
    struct dc_click_log *clicks = dc_click_log_create(&criteo);
    char text[DC_CLICK_ROW_BYTES(26, 13) + 1];
    double p;
    float label;

    (void)state;
    for (uint64_t n = 0; n < 2000; n++) {
        size_t size = dc_click_log_row(clicks, DC_SYNTHETIC_TRAIN, n, text, &p, &label);

        assert_true(size < sizeof(text) && text[size - 1] == '\n');
        text[size - 1] = '\0';
        assert_int_equal(text[0], label > 0 ? '1' : '0');
        char *at = text + 1;
        for (int d = 0; d < 13; d++) {
            assert_int_equal(*at++, '\t');
            size_t digits = strspn(at, "0123456789");
            assert_true(digits <= 3 && (digits == 0 || strtol(at, NULL, 10) <= 998));
            at += digits;
        }
        for (int f = 0; f < 26; f++) {
            assert_int_equal(*at++, '\t');
            assert_int_equal(strspn(at, "0123456789abcdef"), 8);
            at += 8;
        }
        assert_int_equal(*at, '\0');
        assert_true(p > 0 && p < 1);
    }
    dc_click_log_destroy(clicks);
}

/* The log of a seed is the same bytes on every machine and in every version: figures are compared over both. */
static void same_bytes(void **state)
{
    static const struct {
        uint64_t seed, want;
    } row[] = {{1, 0x1d71e8051da0d886}, {2, 0xe0c08c6e5f3e72f3}};
    char text[2][DC_CLICK_ROW_BYTES(26, 13)];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_click_log_conf conf = criteo;
        conf.seed = row[i].seed;
        struct dc_click_log *clicks = dc_click_log_create(&conf);
        uint64_t sum = 0;
        double p;
        float label;

        for (uint64_t n = 0; n < 1000; n++) {
            size_t size = dc_click_log_row(clicks, DC_SYNTHETIC_TRAIN, n, text[0], &p, &label);
            sum = rt_hash_bytes_seed(text[0], size, sum);
        }
        if (sum != row[i].want)
            fail_msg("seed %llu: digest 0x%llx", (unsigned long long)row[i].seed,
                     (unsigned long long)sum);
        size_t a = dc_click_log_row(clicks, DC_SYNTHETIC_TRAIN, 7, text[0], &p, &label);
        size_t b = dc_click_log_row(clicks, DC_SYNTHETIC_TEST, 7, text[1], &p, &label);
        assert_true(a != b || memcmp(text[0], text[1], a) != 0);
        dc_click_log_destroy(clicks);
    }
}

/* 16 ids: each is seen as often as the log-uniform law says, and there are no others. */
static void popularity(void **state)
{
    enum { IDS = 16, ROWS = 60000 };
    struct dc_click_log_conf conf = {.features = 1, .dense = 0, .ids = IDS, .seed = 3};
    struct dc_click_log *clicks = dc_click_log_create(&conf);
    struct {
        char text[9];
        double count;
    } seen[IDS + 1] = {0};
    int n_seen = 0;

    (void)state;
    for (uint64_t n = 0; n < ROWS; n++) {
        char text[DC_CLICK_ROW_BYTES(1, 0)];
        double p;
        float label;
        int i = 0;

        assert_int_equal(dc_click_log_row(clicks, DC_SYNTHETIC_TRAIN, n, text, &p, &label), 11);
        while (i < n_seen && memcmp(seen[i].text, text + 2, 8) != 0)
            i++;
        assert_true(i < IDS);
        if (i == n_seen)
            memcpy(seen[n_seen++].text, text + 2, 8);
        seen[i].count++;
    }
    assert_int_equal(n_seen, IDS);
    for (int k = 0; k < IDS; k++) { /* the k-th most popular */
        double most = 0, want = ROWS * log((k + 2.0) / (k + 1.0)) / log(IDS + 1.0);
        int at = 0;

        for (int i = 0; i < IDS; i++)
            if (seen[i].count > most)
                most = seen[at = i].count;
        if (fabs(most - want) > 5 * sqrt(want))
            fail_msg("rank %d: %g rows, expected %g", k, most, want);
        seen[at].count = 0;
    }
    dc_click_log_destroy(clicks);
}

/* Labels come from the probabilities, and every seed gives a log of about the same difficulty. */
static void truth(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct dc_click_log_conf conf = {.features = 26, .dense = 13, .ids = 100000, .seed = seed};
        struct dc_click_log *clicks = dc_click_log_create(&conf);
        struct dc_auc *auc = dc_auc_create();
        char text[DC_CLICK_ROW_BYTES(26, 13)];
        double expected = 0, clicked = 0, p;
        float label;

        for (uint64_t n = 0; n < 20000; n++) {
            dc_click_log_row(clicks, DC_SYNTHETIC_TEST, n, text, &p, &label);
            dc_auc_add(auc, p, label);
            expected += p;
            clicked += (double)label;
        }
        double best = dc_auc_value(auc);
        if (fabs(clicked - expected) > 400 || best < 0.79 || best > 0.86 || clicked < 4000 ||
            clicked > 9000)
            fail_msg("seed %llu: %g clicks of %g expected, best AUC %g", (unsigned long long)seed,
                     clicked, expected, best);
        dc_auc_destroy(auc);
        dc_click_log_destroy(clicks);
    }
}

/* A file appears when it is finished, one that is given up leaves nothing, two at once are refused. */
static void writer(void **state)
{
    static const char *const name[] = {"plain", "gz", "zst"};
    static const uint8_t magic[][4] = {
        {'r', 'o', 'w', '\n'}, {0x1f, 0x8b, 8, 0}, {0x28, 0xb5, 0x2f, 0xfd}};
    char dir[TEMP_PATH_MAX];

    (void)state;
    temp_folder(dir);
    for (int packing = 0; packing < 3; packing++) {
        char *path = rt_path_join(dir, name[packing]), *partial = rt_xasprintf("%s.partial", path);
        struct dc_writer *w, *second;
        char *text;
        size_t size;
        uint64_t bytes;

        assert_int_equal(dc_writer_create(path, (enum dc_packing)packing, &w), 0);
        assert_int_equal(dc_writer_create(path, DC_PACKING_NONE, &second), RT_EFILE);
        assert_non_null(strstr(rt_err_text(), "another process is writing it"));
        assert_true(rt_file_exists(partial));
        dc_writer_destroy(w);
        assert_false(rt_file_exists(partial));
        assert_int_equal(dc_writer_create(path, (enum dc_packing)packing, &w), 0);
        for (int i = 0; i < 300000; i++)
            assert_int_equal(dc_writer_add(w, "row\n", 4), 0);
        assert_false(rt_file_exists(path));
        assert_int_equal(dc_writer_finish(w, &bytes), 0);
        dc_writer_destroy(w);
        assert_false(rt_file_exists(partial));
        assert_int_equal(rt_file_read(path, 2000000, &text, &size), 0);
        assert_int_equal(size, bytes);
        assert_memory_equal(text, magic[packing], 4);
        rt_free(text);
        unlink(path);
        rt_free(path);
        rt_free(partial);
    }
    struct dc_writer *w;
    char *path = rt_xasprintf("%s/none/file", dir);
    assert_int_equal(dc_writer_create(path, DC_PACKING_NONE, &w), RT_EFILE);
    rt_free(path);
    assert_int_equal(rmdir(dir), 0);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(layout), cmocka_unit_test(same_bytes), cmocka_unit_test(popularity),
        cmocka_unit_test(truth),  cmocka_unit_test(writer),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
