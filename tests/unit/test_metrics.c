/* tests/unit/test_metrics.c -- the Prometheus page: HELP and TYPE once per name, lines of a name together. */
#include "runtime/admin/metrics.h"
#include "runtime/base/log.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static void page(void **state)
{
    static const char want[] = "# HELP saffron_a_rows_total rows so far\n"
                               "# TYPE saffron_a_rows_total counter\n"
                               "saffron_a_rows_total{worker=\"0\"} 18446744073709551615\n"
                               "saffron_a_rows_total{worker=\"1\"} 7\n"
                               "# HELP saffron_a_seconds time\n"
                               "# TYPE saffron_a_seconds gauge\n"
                               "saffron_a_seconds 0.25\n"
                               "# HELP saffron_a_odd what is no number\n"
                               "# TYPE saffron_a_odd gauge\n"
                               "saffron_a_odd{n=\"0\"} NaN\n"
                               "saffron_a_odd{n=\"1\"} +Inf\n"
                               "saffron_a_odd{n=\"2\"} -Inf\n";
    static const char *const label[] = {"n=\"0\"", "n=\"1\"", "n=\"2\""};
    _Atomic double seconds = 0.25, odd[3] = {NAN, INFINITY, -INFINITY};
    _Atomic uint64_t rows[2] = {UINT64_MAX, 0};
    struct rt_metrics *metrics = rt_metrics_create();
    struct rt_strbuf out;

    (void)state;
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_a_rows_total", "worker=\"0\"", "rows so far",
                   &rows[0]);
    rt_metrics_f64(metrics, RT_GAUGE, "saffron_a_seconds", NULL, "time", &seconds);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_a_rows_total", "worker=\"1\"", "rows so far",
                   &rows[1]);
    for (int i = 0; i < 3; i++)
        rt_metrics_f64(metrics, RT_GAUGE, "saffron_a_odd", label[i], "what is no number", &odd[i]);
    atomic_store(&rows[1], 7);
    rt_strbuf_init(&out);
    rt_metrics_print(metrics, &out);
    assert_string_equal(out.text, want);
    rt_strbuf_release(&out);
    rt_metrics_destroy(metrics);
}

/* Loops register the same series: one line, their sum. */
static void sources_are_added_up(void **state)
{
    static const char want[] = "# HELP saffron_a_rows rows\n"
                               "# TYPE saffron_a_rows gauge\n"
                               "saffron_a_rows{table=\"t\"} 12\n"
                               "saffron_a_rows{table=\"u\"} 1\n"
                               "# HELP saffron_a_cpu_seconds_total time\n"
                               "# TYPE saffron_a_cpu_seconds_total counter\n"
                               "saffron_a_cpu_seconds_total 0.75\n";
    _Atomic uint64_t rows[3] = {5, 7, 1};
    _Atomic double seconds[2] = {0.25, 0.5};
    struct rt_metrics *metrics = rt_metrics_create();
    struct rt_strbuf out;

    (void)state;
    for (int i = 0; i < 3; i++)
        rt_metrics_u64(metrics, RT_GAUGE, "saffron_a_rows", i < 2 ? "table=\"t\"" : "table=\"u\"",
                       "rows", &rows[i]);
    for (int i = 0; i < 2; i++)
        rt_metrics_f64(metrics, RT_COUNTER, "saffron_a_cpu_seconds_total", NULL, "time",
                       &seconds[i]);
    rt_strbuf_init(&out);
    rt_metrics_print(metrics, &out);
    assert_string_equal(out.text, want);
    rt_strbuf_release(&out);
    rt_metrics_destroy(metrics);
}

/* Text of users in labels: what would end the value, or the line, is escaped. */
static void labels_are_escaped(void **state)
{
    static const struct {
        const char *value, *want;
    } row[] = {
        {"", "a=\"1\",table=\"\""},
        {"plain", "a=\"1\",table=\"plain\""},
        {"a\"b", "a=\"1\",table=\"a\\\"b\""},
        {"a\\b\\", "a=\"1\",table=\"a\\\\b\\\\\""},
        {"a\nb", "a=\"1\",table=\"a\\nb\""},
        {"x\"} 1\nevil 2", "a=\"1\",table=\"x\\\"} 1\\nevil 2\""},
        {"\xc3\xa9, {", "a=\"1\",table=\"\xc3\xa9, {\""},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        struct rt_strbuf labels;

        rt_strbuf_init(&labels);
        rt_metrics_label(&labels, "a", "1");
        rt_metrics_label(&labels, "table", row[i].value);
        if (strcmp(labels.text, row[i].want) != 0)
            fail_msg("row %zu: got %s, want %s", i, labels.text, row[i].want);
        rt_strbuf_release(&labels);
    }
}

/* Where each value falls: the bound itself belongs to the bucket below it, as `le` says. */
static void histogram_buckets(void **state)
{
    static const struct {
        enum rt_histogram_unit unit;
        uint64_t value;
        unsigned bucket;
        double bound; /* of that bucket */
    } row[] = {
        {RT_HISTOGRAM_COUNT, 0, 0, 1},
        {RT_HISTOGRAM_COUNT, 1, 0, 1},
        {RT_HISTOGRAM_COUNT, 2, 1, 2},
        {RT_HISTOGRAM_COUNT, 3, 2, 4},
        {RT_HISTOGRAM_COUNT, 4, 2, 4},
        {RT_HISTOGRAM_COUNT, 5, 3, 8},
        {RT_HISTOGRAM_COUNT, 1 << 23, 23, 1 << 23},
        {RT_HISTOGRAM_COUNT, (1 << 23) + 1, 24, 0},
        {RT_HISTOGRAM_COUNT, UINT64_MAX, 24, 0},
        {RT_HISTOGRAM_BYTES, 256, 0, 256},
        {RT_HISTOGRAM_BYTES, 257, 1, 512},
        {RT_HISTOGRAM_SECONDS, 4096, 0, 4.096e-6},
        {RT_HISTOGRAM_SECONDS, 4097, 1, 8.192e-6},
        {RT_HISTOGRAM_SECONDS, 1ull << 35, 23, 34.359738368},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(row) / sizeof(row[0]); i++) {
        struct rt_histogram h = {0};

        rt_histogram_observe(&h, row[i].unit, row[i].value);
        rt_histogram_observe(&h, row[i].unit, row[i].value);
        for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++) {
            uint64_t want = b == row[i].bucket ? 2 : 0;

            if (atomic_load(&h.bucket[b]) != want)
                fail_msg("row %zu: bucket %u", i, b);
        }
        assert_true(atomic_load(&h.sum) == 2 * row[i].value); /* modulo 2^64 */
        if (row[i].bound > 0)
            assert_true(fabs(rt_histogram_bound(row[i].unit, row[i].bucket) / row[i].bound - 1) <
                        1e-12);
    }
}

/* Buckets are cumulative on the page, of all sources together. */
static void histogram_page(void **state)
{
    static const char *const want[] = {
        "# TYPE saffron_a_wait_seconds histogram\n",
        "saffron_a_wait_seconds_bucket{part=\"x\",le=\"4.096e-06\"} 1\n",
        "saffron_a_wait_seconds_bucket{part=\"x\",le=\"8.192e-06\"} 1\n",
        "saffron_a_wait_seconds_bucket{part=\"x\",le=\"0.001048576\"} 3\n",
        "saffron_a_wait_seconds_bucket{part=\"x\",le=\"+Inf\"} 4\n",
        "saffron_a_wait_seconds_sum{part=\"x\"} 100.002001\n",
        "saffron_a_wait_seconds_count{part=\"x\"} 4\n",
    };
    struct rt_metrics *metrics = rt_metrics_create();
    struct rt_histogram h[2] = {0};
    struct rt_strbuf out;

    (void)state;
    for (int i = 0; i < 2; i++)
        rt_metrics_histogram(metrics, "saffron_a_wait_seconds", "part=\"x\"", "waiting",
                             RT_HISTOGRAM_SECONDS, &h[i]);
    rt_histogram_observe(&h[0], RT_HISTOGRAM_SECONDS, 1000);
    rt_histogram_observe(&h[0], RT_HISTOGRAM_SECONDS, 1000000);
    rt_histogram_observe(&h[1], RT_HISTOGRAM_SECONDS, 1000000);
    rt_histogram_observe(&h[1], RT_HISTOGRAM_SECONDS, 100000000000);
    rt_strbuf_init(&out);
    rt_metrics_print(metrics, &out);
    for (size_t i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        if (!strstr(out.text, want[i]))
            fail_msg("no %s in %s", want[i], out.text);
    }
    rt_strbuf_release(&out);
    rt_metrics_destroy(metrics);
}

static void empty_and_many(void **state)
{
    struct rt_metrics *metrics = rt_metrics_create();
    _Atomic uint64_t value = 1;
    struct rt_strbuf out;

    (void)state;
    rt_strbuf_init(&out);
    rt_metrics_print(metrics, &out);
    assert_int_equal(out.len, 0);
    for (int i = 0; i < 100; i++) {
        char name[] = "metric_xx"; /* copied by the registry */

        name[7] = (char)('a' + i / 10);
        name[8] = (char)('a' + i % 10);
        rt_metrics_u64(metrics, RT_GAUGE, name, NULL, "h", &value);
    }
    rt_metrics_print(metrics, &out);
    assert_int_equal(
        out.len, 100 * (sizeof("# HELP metric_xx h\n# TYPE metric_xx gauge\nmetric_xx 1\n") - 1));
    rt_strbuf_release(&out);
    rt_metrics_destroy(metrics);
    rt_metrics_destroy(NULL);
}

static void twice(void *ctx)
{
    _Atomic uint64_t *value = ctx;

    atomic_store(value, 2 * atomic_load(value));
}

/* Who wants to know is asked when a page is printed, before its first line is. */
static void refreshed(void **state)
{
    struct rt_metrics *metrics = rt_metrics_create();
    _Atomic uint64_t value = 1, other = 1;
    struct rt_strbuf out;

    (void)state;
    rt_metrics_u64(metrics, RT_GAUGE, "a", NULL, "h", &value);
    rt_metrics_on_print(metrics, twice, (void *)&value);
    rt_metrics_on_print(metrics, twice, (void *)&other);
    for (int i = 0; i < 3; i++) {
        rt_strbuf_init(&out);
        rt_metrics_print(metrics, &out);
        assert_string_equal(out.text, i == 0   ? "# HELP a h\n# TYPE a gauge\na 2\n"
                                      : i == 1 ? "# HELP a h\n# TYPE a gauge\na 4\n"
                                               : "# HELP a h\n# TYPE a gauge\na 8\n");
        rt_strbuf_release(&out);
        assert_int_equal(other, value);
    }
    rt_metrics_destroy(metrics);
}

/* Thousands of tables: names stay together, loops are added up, and what is too much is left out, histograms whole. */
static void bounded(void **state)
{
    enum { TABLES = 40000 };
    struct rt_metrics *metrics = rt_metrics_create();
    static struct rt_histogram empty;
    _Atomic uint64_t value = 1;
    uint64_t warnings = atomic_load(rt_log_count(RT_LOG_WARN));
    size_t lines = 0, blocks = 0;
    struct rt_strbuf out;
    char labels[32];

    (void)state;
    for (int loop = 0; loop < 2; loop++) {
        for (int i = 0; i < TABLES; i++) {
            snprintf(labels, sizeof(labels), "table=\"%d\"", i);
            rt_metrics_u64(metrics, RT_GAUGE, "rows", labels, "h", &value);
            rt_metrics_u64(metrics, RT_GAUGE, "bytes", labels, "h", &value);
        }
        rt_metrics_histogram(metrics, "x_seconds", NULL, "h", RT_HISTOGRAM_SECONDS, &empty);
    }
    rt_strbuf_init(&out);
    rt_metrics_print(metrics, &out);
    for (const char *at = out.text; *at; at = strchr(at, '\n') + 1) {
        blocks += strncmp(at, "# TYPE", 6) == 0;
        lines += *at != '#';
    }
    assert_int_equal(lines, 65536);
    assert_int_equal(blocks, 2);
    assert_non_null(strstr(out.text, "\nrows{table=\"32767\"} 2\n"));
    assert_null(strstr(out.text, "table=\"32768\""));
    assert_int_equal(atomic_load(rt_log_count(RT_LOG_WARN)), warnings + 1);
    rt_strbuf_release(&out);
    rt_metrics_destroy(metrics);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page),
        cmocka_unit_test(sources_are_added_up),
        cmocka_unit_test(labels_are_escaped),
        cmocka_unit_test(histogram_buckets),
        cmocka_unit_test(histogram_page),
        cmocka_unit_test(refreshed),
        cmocka_unit_test(bounded),
        cmocka_unit_test(empty_and_many),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
