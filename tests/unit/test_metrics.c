/* tests/unit/test_metrics.c -- the Prometheus page: HELP and TYPE once per name, lines of a name together. */
#include "runtime/admin/metrics.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
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

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(page), cmocka_unit_test(empty_and_many)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
