/* runtime/admin/metrics.c -- named numbers as Prometheus text (exposition format 0.0.4).
 *
 * A list of series in the order of registration; a series is a name with its labels, and one or more sources
 * that are added up. Lines of one name must stand together in the format, so printing takes each name where it
 * first occurs; there are some hundreds of series, and a page every few seconds. */
#include "runtime/admin/metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

/* One of the three, of the kind that its series has. */
struct source {
    const _Atomic uint64_t *u64;
    const _Atomic double *f64;
    const struct rt_histogram *histogram;
};

struct series {
    enum rt_metric_kind kind;
    enum rt_histogram_unit unit;
    char *name, *labels, *help; /* labels may be empty */
    struct source *source;      /* [n]; the first one tells their type */
    size_t n;
};

struct rt_metrics {
    struct series *series;
    size_t n, capacity;
};

struct rt_metrics *rt_metrics_create(void)
{
    return rt_xcalloc(1, sizeof(struct rt_metrics));
}

void rt_metrics_destroy(struct rt_metrics *metrics)
{
    if (!metrics)
        return;
    for (size_t i = 0; i < metrics->n; i++) {
        rt_free(metrics->series[i].name);
        rt_free(metrics->series[i].labels);
        rt_free(metrics->series[i].help);
        rt_free(metrics->series[i].source);
    }
    rt_free(metrics->series);
    rt_free(metrics);
}

static bool is_name(const char *name)
{
    static const char legal[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789";

    return name[0] != '\0' && (name[0] < '0' || name[0] > '9') && name[strspn(name, legal)] == '\0';
}

static struct series *find(struct rt_metrics *metrics, const char *name, const char *labels)
{
    for (size_t i = 0; i < metrics->n; i++) {
        struct series *s = &metrics->series[i];

        if (strcmp(s->name, name) == 0 && strcmp(s->labels, labels) == 0)
            return s;
    }
    return NULL;
}

static void add(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                const char *labels, const char *help, enum rt_histogram_unit unit,
                const struct source *source)
{
    struct series *s;

    labels = labels ? labels : "";
    rt_assert(is_name(name) && !strpbrk(help, "\n\\") && !strchr(labels, '\n'));
    s = find(metrics, name, labels);
    if (!s) {
        if (metrics->n == metrics->capacity) {
            metrics->capacity = metrics->capacity ? 2 * metrics->capacity : 32;
            metrics->series =
                rt_xrealloc(metrics->series, metrics->capacity * sizeof(*metrics->series));
        }
        s = &metrics->series[metrics->n++];
        *s = (struct series){
            .kind = kind,
            .unit = unit,
            .name = rt_xstrdup(name),
            .labels = rt_xstrdup(labels),
            .help = rt_xstrdup(help),
        };
    }
    rt_assert(s->kind == kind && s->unit == unit);
    rt_assert(s->n == 0 || !s->source[0].u64 == !source->u64);
    s->source = rt_xrealloc(s->source, (s->n + 1) * sizeof(*s->source));
    s->source[s->n++] = *source;
}

void rt_metrics_label(struct rt_strbuf *labels, const char *name, const char *value)
{
    rt_strbuf_addf(labels, "%s%s=\"", labels->len > 0 ? "," : "", name);
    for (const char *at = value; *at; at++) {
        if (*at == '\n')
            rt_strbuf_addf(labels, "\\n");
        else
            rt_strbuf_addf(labels, *at == '\\' || *at == '"' ? "\\%c" : "%c", *at);
    }
    rt_strbuf_addf(labels, "\"");
}

void rt_metrics_u64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic uint64_t *value)
{
    add(metrics, kind, name, labels, help, RT_HISTOGRAM_COUNT, &(struct source){.u64 = value});
}

void rt_metrics_f64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic double *value)
{
    add(metrics, kind, name, labels, help, RT_HISTOGRAM_COUNT, &(struct source){.f64 = value});
}

void rt_metrics_histogram(struct rt_metrics *metrics, const char *name, const char *labels,
                          const char *help, enum rt_histogram_unit unit,
                          const struct rt_histogram *histogram)
{
    add(metrics, RT_HISTOGRAM, name, labels, help, unit, &(struct source){.histogram = histogram});
}

static uint64_t load(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void print_double(double value, struct rt_strbuf *out)
{
    if (isnan(value))
        rt_strbuf_addf(out, "NaN\n");
    else if (isinf(value))
        rt_strbuf_addf(out, "%sInf\n", value > 0 ? "+" : "-");
    else
        rt_strbuf_addf(out, "%.15g\n", value);
}

/* name<what>{labels} */
static void print_head(const struct series *s, const char *what, struct rt_strbuf *out)
{
    rt_strbuf_addf(out, s->labels[0] ? "%s%s{%s} " : "%s%s%s ", s->name, what, s->labels);
}

/* Buckets are read before the sum and added up here, so that they and the count agree whatever the writer does. */
static void print_histogram(const struct series *s, struct rt_strbuf *out)
{
    uint64_t count = 0, sum = 0;

    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++) {
        for (size_t i = 0; i < s->n; i++)
            count += load(&s->source[i].histogram->bucket[b]);
        rt_strbuf_addf(out, "%s_bucket{%s%sle=\"", s->name, s->labels, s->labels[0] ? "," : "");
        if (b < RT_HISTOGRAM_BUCKETS - 1)
            rt_strbuf_addf(out, "%.10g\"} ", rt_histogram_bound(s->unit, b));
        else
            rt_strbuf_addf(out, "+Inf\"} ");
        rt_strbuf_addf(out, "%llu\n", (unsigned long long)count);
    }
    for (size_t i = 0; i < s->n; i++)
        sum += load(&s->source[i].histogram->sum);
    print_head(s, "_sum", out);
    print_double(s->unit == RT_HISTOGRAM_SECONDS ? (double)sum * 1e-9 : (double)sum, out);
    print_head(s, "_count", out);
    rt_strbuf_addf(out, "%llu\n", (unsigned long long)count);
}

static void print_series(const struct series *s, struct rt_strbuf *out)
{
    uint64_t whole = 0;
    double value = 0;

    if (s->kind == RT_HISTOGRAM) {
        print_histogram(s, out);
        return;
    }
    print_head(s, "", out);
    for (size_t i = 0; i < s->n; i++) {
        if (s->source[i].u64)
            whole += load(s->source[i].u64);
        else
            value += atomic_load_explicit(s->source[i].f64, memory_order_relaxed);
    }
    if (s->source[0].u64)
        rt_strbuf_addf(out, "%llu\n", (unsigned long long)whole);
    else
        print_double(value, out);
}

void rt_metrics_print(const struct rt_metrics *metrics, struct rt_strbuf *out)
{
    static const char *const kinds[] = {
        [RT_COUNTER] = "counter", [RT_GAUGE] = "gauge", [RT_HISTOGRAM] = "histogram"};

    for (size_t i = 0; i < metrics->n; i++) {
        const struct series *s = &metrics->series[i];
        bool printed = false;

        for (size_t j = 0; j < i && !printed; j++)
            printed = strcmp(metrics->series[j].name, s->name) == 0;
        if (printed)
            continue;
        rt_strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", s->name, s->help, s->name,
                       kinds[s->kind]);
        for (size_t j = i; j < metrics->n; j++) {
            if (strcmp(metrics->series[j].name, s->name) == 0)
                print_series(&metrics->series[j], out);
        }
    }
}
