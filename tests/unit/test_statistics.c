/* tests/unit/test_statistics.c -- mean and deviation against two passes in long double. */
#include "data_compose/statistics.h"
#include "data_compose/synthetic.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/wire/batch.h"
#include "tests/lib/data_job.h"
#include "tests/lib/plain_io.h"
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

#define ROWS 10000

static struct rt_io *io;

/* The empty field is 7, values are far from 0, one column is constant, some rows are bad. */
static void against_two_passes(void **state)
{
    char name[TEMP_PATH_MAX];
    const char *path[] = {name};
    static long double value[3][ROWS];
    uint64_t key = 31;
    FILE *f = fdopen(temp_file(name), "w");
    struct dc_statistics *s;
    struct data_job dj;
    uint32_t n, turns = 1;
    int rc;

    (void)state;
    assert_non_null(f);
    for (uint64_t i = 0; i < ROWS; i++) {
        float a = 1000000.0f + (float)rt_below(rt_draw(key, 3 * i), 16);
        float b = (float)rt_below(rt_draw(key, 3 * i + 1), 1000);
        bool empty = rt_below(rt_draw(key, 3 * i + 2), 10) == 0;

        fprintf(f, empty ? "1\t%.0f\t\t5\n" : "1\t%.0f\t%.0f\t5\n", (double)a, (double)b);
        if (i % 7 == 0)
            fprintf(f, "1\tbad\t1\t5\n");
        value[0][i] = (long double)a;
        value[1][i] = (long double)log1pf(empty ? 7.0f : b);
        value[2][i] = 5;
    }
    fclose(f);
    data_job_init(&dj, RT_FORMAT_TSV, false,
                  "y=label a=dense:std b=dense:log1p,std,missing c=dense:std");
    dj.job.data.train = path;
    dj.job.data.n_train = 1;
    assert_true(dc_statistics_wanted(&dj.job));
    assert_int_equal(dc_statistics_create(&(struct dc_feed_conf){.io = io, .job = &dj.job}, &s), 0);
    while ((rc = dc_statistics_turn(s)) > 0)
        turns++;
    assert_int_equal(rc, 0);
    assert_int_equal(turns, 3); /* 4,096 rows a slice */
    const struct wire_statistics *column = dc_statistics_columns(s, &n);
    assert_int_equal(n, 3);
    for (uint32_t c = 0; c < n; c++) {
        long double sum = 0, square = 0;

        for (uint32_t i = 0; i < ROWS; i++)
            sum += value[c][i];
        for (uint32_t i = 0; i < ROWS; i++)
            square += (value[c][i] - sum / ROWS) * (value[c][i] - sum / ROWS);
        double mean = (double)(sum / ROWS), deviation = sqrt((double)(square / ROWS));
        if (column[c].count != ROWS || fabs(column[c].mean - mean) > 1e-6 * fabs(mean) ||
            fabs(column[c].deviation - deviation) > 1e-6 * (deviation + 1e-9))
            fail_msg("%s: %.9g %.9g, want %.9g %.9g", column[c].column, column[c].mean,
                     column[c].deviation, mean, deviation);
    }
    struct dc_parser *parser; /* and what the parser makes of them */
    assert_int_equal(dc_parser_create(&dj.job, &parser), 0);
    assert_int_equal(dc_statistics_apply(&dj.job, column, n, parser), 0);
    assert_int_equal(dc_parser_row(parser, "1\t1000007.5\t\t5", 14), 0);
    assert_true(fabsf(dc_parser_view(parser)->dense[0]) < 0.05f);
    assert_true(dc_parser_view(parser)->dense[2] == 0.0f);
    assert_int_equal(dc_statistics_apply(&dj.job, column, 2, parser), RT_EPROTO);
    assert_non_null(strstr(rt_err_text(), "'c'"));
    dc_parser_destroy(parser);
    dc_statistics_destroy(s);
    unlink(name);
}

static void generated(void **state)
{
    struct dc_synthetic *synthetic = dc_synthetic_create(1);
    struct dc_statistics *s;
    struct data_job dj;
    uint32_t n;

    (void)state;
    data_job_init(&dj, RT_FORMAT_SYNTHETIC, false, "label=label x4=dense:std x1=dense c1=feature");
    struct dc_feed_conf feed = {
        .io = io, .job = &dj.job, .synthetic = synthetic, .synthetic_rows = 20000};
    assert_int_equal(dc_statistics_create(&feed, &s), 0);
    while (dc_statistics_turn(s) > 0)
        ;
    const struct wire_statistics *column = dc_statistics_columns(s, &n);
    assert_int_equal(n, 1);
    assert_string_equal(column[0].column, "x4"); /* uniform in [0, 1) */
    assert_true(fabs(column[0].mean - 0.5) < 0.01);
    assert_true(fabs(column[0].deviation - sqrt(1 / 12.0)) < 0.01);
    dc_statistics_destroy(s);
    dc_synthetic_destroy(synthetic);
}

static void broken_file(void **state)
{
    const char *path[] = {"/nonexistent/x.tsv"};
    struct dc_statistics *s;
    struct data_job dj;

    (void)state;
    data_job_init(&dj, RT_FORMAT_TSV, false, "y=label a=dense:std");
    dj.job.data.train = path;
    dj.job.data.n_train = 1;
    assert_int_equal(dc_statistics_create(&(struct dc_feed_conf){.io = io, .job = &dj.job}, &s), 0);
    assert_int_equal(dc_statistics_turn(s), RT_EFILE);
    dc_statistics_destroy(s);
}

static int setup(void **state)
{
    (void)state;
    io = plain_io_create(1 << 20);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    plain_io_destroy(io);
    return 0;
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(against_two_passes),
        cmocka_unit_test(generated),
        cmocka_unit_test(broken_file),
    };

    return cmocka_run_group_tests(test, setup, teardown);
}
