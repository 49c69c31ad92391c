/* embedding_server/report.c -- tables and requests of all owners, as JSON and as the one metric that is no sum.
 *
 *   "rows_total", "rows_refused", "memory_bytes", "bytes_per_row"
 *                                                     all tables; the summary of a run is made of these
 *   "memory_limit": null or the bytes of embedding_server.memory, "memory_limit_used"
 *   "lookups", "updates", ...                         requests
 *   "updates_lost"                                    batches, of the worker that lost most (lost.h)
 *   "n_tables", "tables": [{"name", "dtype", "dim", "rows", "bytes": {a number for each kind}, "bytes_per_row",
 *               "created", "evicted", "expired", "not_admitted", "refused",
 *               "policy": {"admission", "eviction", "capacity_rows", "ttl_seconds"}}]
 *
 * A page adds up the numbers of a name's sources, so bytes per row, a ratio over all owners, is computed where the
 * page is printed. */
#include "embedding_server/report.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/mem.h"

#include <stdio.h>

#define OWNERS_MAX 256 /* as global.embedding_server.workers */

struct ebs_report {
    const struct rt_job *job;
    const struct ebs_owner *owner[OWNERS_MAX];
    uint32_t owners;
    _Atomic double *bytes_per_row; /* [job->n_tables] */
    _Atomic uint64_t window_batches;
    _Atomic double window_seconds;
};

/* One table over all owners. */
struct sum {
    uint64_t rows, capacity, bytes[EBS_BYTES_KINDS], all_bytes; /* capacity: UINT64_MAX: any */
    uint64_t created, evicted, expired, not_admitted, refused;
};

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static struct sum sum_table(const struct ebs_report *report, uint32_t table)
{
    struct sum sum = {0};

    for (uint32_t o = 0; o < report->owners; o++) {
        const struct ebs_table_stats *s = ebs_owner_table_stats(report->owner[o], table);

        uint64_t capacity = get(&s->capacity);

        sum.rows += get(&s->rows);
        sum.capacity = capacity == UINT64_MAX ? UINT64_MAX : sum.capacity + capacity;
        for (int kind = 0; kind < EBS_BYTES_KINDS; kind++) {
            uint64_t bytes = get(&s->bytes[kind]);

            sum.bytes[kind] += bytes;
            sum.all_bytes += bytes;
        }
        sum.created += get(&s->created);
        sum.evicted += get(&s->evicted);
        sum.expired += get(&s->expired);
        sum.not_admitted += get(&s->not_admitted);
        sum.refused += get(&s->refused);
    }
    return sum;
}

/* ---- metrics ---- */

/* What a crash would lose now, of the worker that would lose most. */
static void refresh_window(struct ebs_report *report)
{
    uint64_t now = rt_now_ns(), batches = 0, ns = 0;

    for (uint32_t o = 0; o < report->owners; o++) {
        const struct ebs_owner_stats *s = ebs_owner_stats(report->owner[o]);
        uint64_t durable = get(&s->durable_updates), since = get(&s->durable_ns);
        uint64_t updates = get(&s->updates);

        if (updates > durable && updates - durable > batches)
            batches = updates - durable;
        if (now > since && now - since > ns)
            ns = now - since;
    }
    atomic_store_explicit(&report->window_batches, batches, memory_order_relaxed);
    atomic_store_explicit(&report->window_seconds, (double)ns / 1e9, memory_order_relaxed);
}

static void refresh(void *ctx)
{
    struct ebs_report *report = ctx;

    for (uint32_t t = 0; t < report->job->n_tables; t++) {
        struct sum sum = sum_table(report, t);
        double each = sum.rows ? (double)sum.all_bytes / (double)sum.rows : 0.0;

        atomic_store_explicit(&report->bytes_per_row[t], each, memory_order_relaxed);
    }
    refresh_window(report);
}

struct ebs_report *ebs_report_create(const struct rt_job *job, struct rt_metrics *metrics)
{
    struct ebs_report *report = rt_xcalloc(1, sizeof(*report));
    struct rt_strbuf labels;

    report->job = job;
    report->bytes_per_row = rt_xcalloc(job->n_tables, sizeof(*report->bytes_per_row));
    rt_strbuf_init(&labels);
    for (uint32_t t = 0; t < job->n_tables; t++) {
        rt_strbuf_reset(&labels);
        rt_metrics_label(&labels, "table", job->table[t].name);
        rt_metrics_f64(metrics, RT_GAUGE, "saffron_embedding_server_table_bytes_per_row",
                       labels.text, "all bytes of a table by its live rows, 0: it has none",
                       &report->bytes_per_row[t]);
    }
    rt_strbuf_release(&labels);
    rt_metrics_u64(metrics, RT_GAUGE, "saffron_embedding_server_window_batches", NULL,
                   "batches applied since the cut of the last checkpoint, which a crash would lose",
                   &report->window_batches);
    rt_metrics_f64(metrics, RT_GAUGE, "saffron_embedding_server_window_seconds", NULL,
                   "seconds since the cut of the last checkpoint, before the first since the start",
                   &report->window_seconds);
    rt_metrics_on_print(metrics, refresh, report);
    return report;
}

void ebs_report_destroy(struct ebs_report *report)
{
    if (!report)
        return;
    rt_free(report->bytes_per_row);
    rt_free(report);
}

void ebs_report_add(struct ebs_report *report, const struct ebs_owner *owner)
{
    rt_assert(report->owners < OWNERS_MAX);
    report->owner[report->owners++] = owner;
}

/* ---- status ---- */

static void put(json_t *object, const char *key, uint64_t value)
{
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void put_ratio(json_t *object, const char *key, uint64_t whole, uint64_t n)
{
    json_object_set_new(object, key, n ? json_real((double)whole / (double)n) : json_null());
}

static json_t *policy_of(const struct rt_table_conf *table, uint64_t capacity)
{
    const struct rt_admission_conf *admission = &table->admission;
    json_t *out = json_object();
    char text[64];

    switch ((enum rt_admission_kind)admission->kind) {
    case RT_ADMIT_COUNT:
        snprintf(text, sizeof(text), "count %u", admission->count);
        break;
    case RT_ADMIT_PROBABILITY:
        snprintf(text, sizeof(text), "probability %g", admission->probability);
        break;
    case RT_ADMIT_ALWAYS:
        snprintf(text, sizeof(text), "always");
        break;
    }
    json_object_set_new(out, "admission", json_string(text));
    json_object_set_new(out, "eviction", json_string(rt_eviction_name(table->eviction.kind)));
    json_object_set_new(out, "capacity_rows",
                        capacity < UINT64_MAX ? json_integer((json_int_t)capacity) : json_null());
    json_object_set_new(out, "ttl_seconds",
                        table->ttl_seconds ? json_integer((json_int_t)table->ttl_seconds)
                                           : json_null());
    return out;
}

static json_t *table_status(const struct ebs_report *report, uint32_t table)
{
    const struct rt_table_conf *conf = &report->job->table[table];
    struct sum sum = sum_table(report, table);
    json_t *out = json_object(), *bytes = json_object();

    json_object_set_new(out, "name", json_string(conf->name));
    json_object_set_new(out, "dtype", json_string(rt_dtype_name(conf->dtype)));
    put(out, "dim", conf->dim);
    put(out, "rows", sum.rows);
    for (int kind = 0; kind < EBS_BYTES_KINDS; kind++)
        put(bytes, ebs_bytes_name[kind], sum.bytes[kind]);
    json_object_set_new(out, "bytes", bytes);
    put_ratio(out, "bytes_per_row", sum.all_bytes, sum.rows);
    put(out, "created", sum.created);
    put(out, "evicted", sum.evicted);
    put(out, "expired", sum.expired);
    put(out, "not_admitted", sum.not_admitted);
    put(out, "refused", sum.refused);
    json_object_set_new(out, "policy", policy_of(conf, sum.capacity));
    return out;
}

static uint64_t refused_of_all(const struct ebs_report *report)
{
    uint64_t refused = 0;

    for (uint32_t o = 0; o < report->owners; o++)
        for (uint32_t t = 0; t < report->job->n_tables; t++)
            refused += get(&ebs_owner_table_stats(report->owner[o], t)->refused);
    return refused;
}

static void put_tables(const struct ebs_report *report, json_t *object)
{
    json_t *tables = json_array();

    for (uint32_t t = 0; t < report->job->n_tables && t < EBS_REPORT_TABLES_MAX; t++)
        json_array_append_new(tables, table_status(report, t));
    json_object_set_new(object, "tables", tables);
}

void ebs_report_status(const struct ebs_report *report, json_t *object)
{
    uint64_t rows = 0, memory = 0, limit = 0, used = 0, sent = 0;
    uint64_t updates = 0, again = 0, nonfinite = 0, lookups = 0, looked_up = 0, found = 0, lost = 0;
    json_t *hops = json_object();

    for (uint32_t o = 0; o < report->owners; o++) {
        const struct ebs_owner_stats *stats = ebs_owner_stats(report->owner[o]);

        rows += get(&stats->rows);
        memory += get(&stats->memory_bytes);
        limit += get(&stats->budget);
        used += get(&stats->budget_used);
        updates += get(&stats->updates);
        again += get(&stats->updates_again);
        lost = get(&stats->lost) > lost ? get(&stats->lost) : lost;
        nonfinite += get(&stats->rows_nonfinite);
        lookups += get(&stats->lookups);
        looked_up += get(&stats->rows_looked_up);
        found += get(&stats->rows_found);
        sent += get(&ebs_owner_rpc_stats(report->owner[o])->bytes_out);
    }
    put(object, "workers", report->owners);
    put(object, "n_tables", report->job->n_tables);
    put(object, "rows_total", rows);
    put(object, "rows_refused", refused_of_all(report));
    put(object, "memory_bytes", memory);
    put_ratio(object, "bytes_per_row", memory, rows);
    json_object_set_new(object, "memory_limit",
                        limit ? json_integer((json_int_t)limit) : json_null());
    put(object, "memory_limit_used", used);
    put(object, "lookups", lookups);
    put(object, "rows_looked_up", looked_up);
    put(object, "rows_found", found);
    put(object, "updates", updates);
    put(object, "updates_again", again);
    put(object, "rows_nonfinite", nonfinite);
    put(object, "updates_lost", lost);
    put(hops, rt_role_name(RT_ROLE_MIDDLEWARE), sent);
    json_object_set_new(object, "bytes_sent", hops);
    put_tables(report, object);
}
