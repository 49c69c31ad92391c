/* runtime/admin/metrics.c -- named numbers as Prometheus text (exposition format 0.0.4).
 *
 * A list of series in the order of registration; a series is a name with its labels, and one or more sources
 * that are added up. Lines of one name must stand together in the format, so series of one name are chained, and
 * a page takes each chain where it begins. A job may have thousands of tables: series are found by their hash, and the
 * page ends growing at LINES_MAX. */
#include "runtime/admin/metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define LINES_MAX ((size_t)1 << 16) /* of numbers: 6 MiB of text, 20 ms to print */
#define NONE      SIZE_MAX

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
    bool leads; /* the first of its name */
    size_t next,
        end; /* of the same name: the one after it; of who leads, the last one. NONE: there is none */
};

struct rt_metrics {
    struct series *series;
    size_t n, capacity, lines;
    struct rt_map by_key, by_name; /* hash of name and labels -> series; of the name -> who leads */
    bool is_full;                  /* and said so */
    struct {
        void (*call)(void *ctx);
        void *ctx;
    } refresh[RT_REFRESH_MAX];
    size_t refreshes;
};

struct rt_metrics *rt_metrics_create(void)
{
    struct rt_metrics *metrics = rt_xcalloc(1, sizeof(*metrics));

    rt_map_init(&metrics->by_key);
    rt_map_init(&metrics->by_name);
    return metrics;
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
    rt_map_release(&metrics->by_key);
    rt_map_release(&metrics->by_name);
    rt_free(metrics->series);
    rt_free(metrics);
}

void rt_metrics_on_print(struct rt_metrics *metrics, void (*refresh)(void *ctx), void *ctx)
{
    rt_assert(metrics->refreshes < RT_REFRESH_MAX);
    metrics->refresh[metrics->refreshes].call = refresh;
    metrics->refresh[metrics->refreshes++].ctx = ctx;
}

static bool is_name(const char *name)
{
    static const char legal[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_:0123456789";

    return name[0] != '\0' && (name[0] < '0' || name[0] > '9') && name[strspn(name, legal)] == '\0';
}

/* The series of this name and labels (of the name alone where labels is NULL), or NULL; *slot is the key that it has in
 * the map, or is to have. */
static struct series *find(struct rt_metrics *metrics, const char *name, const char *labels,
                           uint64_t *slot)
{
    struct rt_map *map = labels ? &metrics->by_key : &metrics->by_name;
    uint64_t at;

    *slot = rt_hash_bytes(name, strlen(name));
    if (labels)
        *slot = rt_hash_bytes_seed(labels, strlen(labels), *slot);
    for (; rt_map_get(map, *slot, &at); ++*slot) {
        struct series *s = &metrics->series[at];

        if (strcmp(s->name, name) == 0 && (!labels || strcmp(s->labels, labels) == 0))
            return s;
    }
    return NULL;
}

/* A series at the end of the list, and of the chain of its name. */
static struct series *append(struct rt_metrics *metrics, const struct series *like, uint64_t slot)
{
    struct series *s, *first;
    uint64_t name_slot;
    int err;

    if (metrics->n == metrics->capacity) {
        metrics->capacity = metrics->capacity ? 2 * metrics->capacity : 32;
        metrics->series =
            rt_xrealloc(metrics->series, metrics->capacity * sizeof(*metrics->series));
    }
    first = find(metrics, like->name, NULL, &name_slot);
    s = &metrics->series[metrics->n];
    *s = *like;
    s->name = rt_xstrdup(like->name);
    s->labels = rt_xstrdup(like->labels);
    s->help = rt_xstrdup(like->help);
    s->leads = !first;
    s->next = NONE;
    s->end = metrics->n;
    err = rt_map_put(&metrics->by_key, slot, metrics->n);
    if (first) {
        rt_assert(first->kind == s->kind && first->unit == s->unit);
        metrics->series[first->end].next = metrics->n;
        first->end = metrics->n;
    } else {
        err |= rt_map_put(&metrics->by_name, name_slot, metrics->n);
    }
    rt_assert(err == 0);
    metrics->n++;
    return s;
}

static void add(struct rt_metrics *metrics, const struct series *like, const struct source *source)
{
    size_t lines = like->kind == RT_HISTOGRAM ? RT_HISTOGRAM_BUCKETS + 2 : 1;
    struct series *s;
    uint64_t slot;

    rt_assert(is_name(like->name) && !strpbrk(like->help, "\n\\") && !strchr(like->labels, '\n'));
    s = find(metrics, like->name, like->labels, &slot);
    if (!s && metrics->lines + lines > LINES_MAX) {
        if (!metrics->is_full)
            rt_log(RT_LOG_WARN, "metrics_full name=%s lines_max=%zu", like->name, LINES_MAX);
        metrics->is_full = true;
        return;
    }
    if (!s) {
        metrics->lines += lines;
        s = append(metrics, like, slot);
    }
    rt_assert(s->kind == like->kind && s->unit == like->unit);
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

/* What a series is told by. */
static struct series described(enum rt_metric_kind kind, const char *name, const char *labels,
                               const char *help)
{
    return (struct series){.kind = kind,
                           .name = (char *)name,
                           .labels = (char *)(labels ? labels : ""),
                           .help = (char *)help};
}

void rt_metrics_u64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic uint64_t *value)
{
    struct series like = described(kind, name, labels, help);

    add(metrics, &like, &(struct source){.u64 = value});
}

void rt_metrics_f64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic double *value)
{
    struct series like = described(kind, name, labels, help);

    add(metrics, &like, &(struct source){.f64 = value});
}

void rt_metrics_histogram(struct rt_metrics *metrics, const char *name, const char *labels,
                          const char *help, enum rt_histogram_unit unit,
                          const struct rt_histogram *histogram)
{
    struct series like = described(RT_HISTOGRAM, name, labels, help);

    like.unit = unit;
    add(metrics, &like, &(struct source){.histogram = histogram});
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

    for (size_t i = 0; i < metrics->refreshes; i++)
        metrics->refresh[i].call(metrics->refresh[i].ctx);
    for (size_t i = 0; i < metrics->n; i++) {
        const struct series *s = &metrics->series[i];

        if (!s->leads)
            continue;
        rt_strbuf_addf(out, "# HELP %s %s\n# TYPE %s %s\n", s->name, s->help, s->name,
                       kinds[s->kind]);
        for (size_t at = i; at != NONE; at = metrics->series[at].next)
            print_series(&metrics->series[at], out);
    }
}
