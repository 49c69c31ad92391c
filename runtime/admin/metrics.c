/* runtime/admin/metrics.c -- named numbers as Prometheus text (exposition format 0.0.4).
 *
 * A list in the order of registration. Lines of one name must stand together in the format, so printing
 * takes each name where it first occurs; there are some tens of them, and a page every few seconds. */
#include "runtime/admin/metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

struct metric {
    enum rt_metric_kind kind;
    char *name, *labels, *help;  /* labels may be NULL */
    const _Atomic uint64_t *u64; /* one of the two */
    const _Atomic double *f64;
};

struct rt_metrics {
    struct metric *metric;
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
        rt_free(metrics->metric[i].name);
        rt_free(metrics->metric[i].labels);
        rt_free(metrics->metric[i].help);
    }
    rt_free(metrics->metric);
    rt_free(metrics);
}

static bool is_name(const char *name)
{
    static const char legal[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789";

    return name[0] != '\0' && (name[0] < '0' || name[0] > '9') && name[strspn(name, legal)] == '\0';
}

static struct metric *add(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                          const char *labels, const char *help)
{
    struct metric *m;

    rt_assert(is_name(name));
    rt_assert(!strpbrk(help, "\n\\") && !(labels && strchr(labels, '\n')));
    if (metrics->n == metrics->capacity) {
        metrics->capacity = metrics->capacity ? 2 * metrics->capacity : 32;
        metrics->metric =
            rt_xrealloc(metrics->metric, metrics->capacity * sizeof(*metrics->metric));
    }
    m = &metrics->metric[metrics->n++];
    *m = (struct metric){
        .kind = kind,
        .name = rt_xstrdup(name),
        .labels = labels ? rt_xstrdup(labels) : NULL,
        .help = rt_xstrdup(help),
    };
    return m;
}

void rt_metrics_u64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic uint64_t *value)
{
    add(metrics, kind, name, labels, help)->u64 = value;
}

void rt_metrics_f64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic double *value)
{
    add(metrics, kind, name, labels, help)->f64 = value;
}

static void print_value(const struct metric *m, struct rt_strbuf *out)
{
    double value;

    rt_strbuf_addf(out, "%s%s%s%s ", m->name, m->labels ? "{" : "", m->labels ? m->labels : "",
                   m->labels ? "}" : "");
    if (m->u64) {
        rt_strbuf_addf(out, "%llu\n",
                       (unsigned long long)atomic_load_explicit(m->u64, memory_order_relaxed));
        return;
    }
    value = atomic_load_explicit(m->f64, memory_order_relaxed);
    if (isnan(value))
        rt_strbuf_addf(out, "NaN\n");
    else if (isinf(value))
        rt_strbuf_addf(out, "%sInf\n", value > 0 ? "+" : "-");
    else
        rt_strbuf_addf(out, "%.15g\n", value);
}

void rt_metrics_print(const struct rt_metrics *metrics, struct rt_strbuf *out)
{
    for (size_t i = 0; i < metrics->n; i++) {
        const struct metric *m = &metrics->metric[i];
        bool printed = false;

        for (size_t j = 0; j < i && !printed; j++)
            printed = strcmp(metrics->metric[j].name, m->name) == 0;
        if (printed)
            continue;
        rt_strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name,
                       m->kind == RT_COUNTER ? "counter" : "gauge");
        for (size_t j = i; j < metrics->n; j++) {
            if (strcmp(metrics->metric[j].name, m->name) == 0)
                print_value(&metrics->metric[j], out);
        }
    }
}
