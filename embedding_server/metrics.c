/* embedding_server/metrics.c -- an owner's numbers: what its tables hold, and where each number stands on the page.
 *
 * Counters and gauges are labelled with the worker: owners have unlike shares of the load, and one that lags
 * should show. What is said of tables, and the histograms, have no such label: they would be tables or buckets times
 * workers lines, and the page adds up the workers' numbers by itself. */
#include "embedding_server/serve.h"
#include "embedding_server/table_cut.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <stdio.h>

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void set(_Atomic uint64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

static void change(_Atomic uint64_t *sum, _Atomic uint64_t *part, uint64_t now)
{
    set(sum, get(sum) + now - get(part));
    set(part, now);
}

const char *const ebs_bytes_name[EBS_BYTES_KINDS] = {
    [EBS_BYTES_ROWS] = "rows",
    [EBS_BYTES_INDEX] = "index",
    [EBS_BYTES_SLACK] = "slack",
    [EBS_BYTES_ALLOCATOR] = "allocator",
};

static unsigned digits(uint64_t n)
{
    unsigned out = 0;

    for (; n > 0; n /= 10)
        out++;
    return out;
}

/* At the first one, and each time there are ten times as many: a table that stays full must not fill the log. */
static void tell_refused(const struct ebs_owner *owner, uint32_t table, uint64_t before,
                         uint64_t refused)
{
    const struct ebs_table *of = owner->table[table];
    const char *why = "no more memory, or row numbers";

    if (digits(refused) == digits(before))
        return;
    if (ebs_table_rows(of) >= ebs_table_capacity(of))
        why = "its capacity is used up";
    else if (owner->budget.limit > 0)
        why = "global.embedding_server.memory is used up";
    rt_log(RT_LOG_WARN, "rows_refused table=%s worker=%u refused=%llu rows=%llu why=\"%s\"",
           ebs_table_name(of), owner->conf.identity.loop, (unsigned long long)refused,
           (unsigned long long)ebs_table_rows(of), why);
}

void ebs_count_table(struct ebs_owner *owner, uint32_t table)
{
    struct ebs_owner_stats *all = &owner->stats;
    struct ebs_table_stats *s = &owner->table_stats[table];
    const struct ebs_table_counts *counts = ebs_table_counts(owner->table[table]);
    struct ebs_table_bytes now = ebs_table_bytes(owner->table[table]);
    const size_t bytes[EBS_BYTES_KINDS] = {
        [EBS_BYTES_ROWS] = now.rows,
        [EBS_BYTES_INDEX] = now.index,
        [EBS_BYTES_SLACK] = now.slack,
        [EBS_BYTES_ALLOCATOR] = now.allocator,
    };

    change(&all->rows, &s->rows, ebs_table_rows(owner->table[table]));
    set(&all->row_bytes, get(&all->row_bytes) + now.rows - get(&s->bytes[EBS_BYTES_ROWS]));
    for (int kind = 0; kind < EBS_BYTES_KINDS; kind++)
        change(&all->memory_bytes, &s->bytes[kind], bytes[kind]);
    change(&all->changed, &s->changed, ebs_table_changed(owner->table[table]));
    set(&s->capacity, ebs_table_capacity(owner->table[table]));
    set(&s->created, counts->created);
    set(&s->evicted, counts->evicted);
    set(&s->expired, counts->expired);
    set(&s->not_admitted, counts->not_admitted);
    set(&s->nonfinite, counts->nonfinite);
    tell_refused(owner, table, get(&s->refused), counts->refused);
    set(&s->refused, counts->refused);
    set(&all->budget, owner->budget.limit);
    set(&all->budget_used, owner->budget.used);
}

static void register_rows(const char *labels, const struct ebs_table_stats *s,
                          struct rt_metrics *metrics)
{
    const struct {
        enum rt_metric_kind kind;
        const char *name, *help;
        const _Atomic uint64_t *value;
    } metric[] = {
        {RT_GAUGE, "saffron_embedding_server_rows", "live rows", &s->rows},
        {RT_COUNTER, "saffron_embedding_server_rows_created_total", "rows made", &s->created},
        {RT_COUNTER, "saffron_embedding_server_rows_evicted_total",
         "rows that made room for others", &s->evicted},
        {RT_COUNTER, "saffron_embedding_server_rows_expired_total",
         "rows that had no gradient for ttl_seconds", &s->expired},
        {RT_COUNTER, "saffron_embedding_server_rows_not_admitted_total",
         "gradients left out, admission gave their id no row", &s->not_admitted},
        {RT_COUNTER, "saffron_embedding_server_rows_refused_total",
         "gradients left out, there was no room for a row of their id", &s->refused},
        {RT_COUNTER, "saffron_embedding_server_table_nonfinite_total",
         "gradients left out, they were not finite or huge", &s->nonfinite},
    };

    for (size_t i = 0; i < ARRAY_LEN(metric); i++)
        rt_metrics_u64(metrics, metric[i].kind, metric[i].name, labels, metric[i].help,
                       metric[i].value);
}

static void register_table(const char *table, const struct ebs_table_stats *s,
                           struct rt_metrics *metrics)
{
    struct rt_strbuf labels;

    rt_strbuf_init(&labels);
    rt_metrics_label(&labels, "table", table);
    register_rows(labels.text, s, metrics);
    for (int kind = 0; kind < EBS_BYTES_KINDS; kind++) {
        rt_strbuf_reset(&labels);
        rt_metrics_label(&labels, "table", table);
        rt_metrics_label(&labels, "kind", ebs_bytes_name[kind]);
        rt_metrics_u64(metrics, RT_GAUGE, "saffron_embedding_server_table_bytes", labels.text,
                       "bytes of live rows with their optimizer state, of the index, of free rows "
                       "and bookkeeping, of what their memory takes beyond them",
                       &s->bytes[kind]);
    }
    rt_strbuf_release(&labels);
}

static void register_histograms(const struct ebs_owner_stats *s, struct rt_metrics *metrics)
{
    rt_metrics_histogram(metrics, "saffron_embedding_server_lookup_rows", NULL,
                         "rows of one LookupRows", RT_HISTOGRAM_COUNT, &s->lookup_rows);
    rt_metrics_histogram(metrics, "saffron_embedding_server_lookup_seconds", NULL,
                         "seconds in the tables for one LookupRows", RT_HISTOGRAM_SECONDS,
                         &s->lookup_seconds);
    rt_metrics_histogram(metrics, "saffron_embedding_server_apply_rows", NULL,
                         "rows of one ApplyGradients that was applied", RT_HISTOGRAM_COUNT,
                         &s->apply_rows);
    rt_metrics_histogram(metrics, "saffron_embedding_server_apply_seconds", NULL,
                         "seconds in the tables for one ApplyGradients; in mode full for all of a "
                         "step",
                         RT_HISTOGRAM_SECONDS, &s->apply_seconds);
}

void ebs_owner_register(const struct ebs_owner *owner, struct rt_metrics *metrics)
{
    const struct ebs_owner_stats *s = &owner->stats;
    const struct {
        enum rt_metric_kind kind;
        const char *name, *help;
        const _Atomic uint64_t *value;
    } metric[] = {
        {RT_COUNTER, "lookups_total", "LookupRows answered", &s->lookups},
        {RT_COUNTER, "rows_looked_up_total", "rows read", &s->rows_looked_up},
        {RT_COUNTER, "rows_found_total", "of these, rows that exist", &s->rows_found},
        {RT_COUNTER, "updates_total", "batches applied", &s->updates},
        {RT_COUNTER, "updates_again_total", "parts of applied batches sent again",
         &s->updates_again},
        {RT_COUNTER, "rows_applied_total", "rows changed", &s->rows_applied},
        {RT_COUNTER, "rows_nonfinite_total", "gradients left out", &s->rows_nonfinite},
        {RT_COUNTER, "requests_refused_total", "requests answered with an error", &s->refused},
        {RT_COUNTER, "requests_sliced_total", "large requests worked on in pieces", &s->sliced},
        {RT_COUNTER, "lost_batches_total",
         "batches whose updates were lost when the server was started anew", &s->lost},
        {RT_GAUGE, "lookups_waiting", "lookups that wait for a step", &s->waiting},
        {RT_GAUGE, "batches_open", "batches that wait for parts or ranks", &s->open},
        {RT_GAUGE, "step", "last step applied in synchronous mode", &s->step},
        {RT_GAUGE, "row_bytes", "id, weights and optimizer state of live rows", &s->row_bytes},
        {RT_GAUGE, "budget_bytes", "bytes that the tables may take, 0: any", &s->budget},
        {RT_GAUGE, "budget_used_bytes", "bytes of rows, index and sketches taken of it",
         &s->budget_used},
        {RT_GAUGE, "changed_rows", "rows changed since the latest checkpoint's cut", &s->changed},
        {RT_GAUGE, "checkpoint_writing", "1: rows of a checkpoint are being written",
         &s->cut_writing},
        {RT_COUNTER, "checkpoint_rows_total", "rows written to checkpoints", &s->cut_rows},
        {RT_COUNTER, "checkpoint_bytes_total", "bytes of checkpoints' files", &s->cut_bytes},
        {RT_COUNTER, "checkpoint_waits_total",
         "updates that waited for room to copy the rows that they change", &s->cut_waits},
        {RT_COUNTER, "checkpoint_copies_total", "rows copied because they were about to change",
         &s->cut_copies},
        {RT_COUNTER, "checkpoint_failures_total", "checkpoints that could not be written",
         &s->cuts_failed},
    };
    char labels[32];

    snprintf(labels, sizeof(labels), "worker=\"%u\"", owner->conf.identity.loop);
    for (size_t i = 0; i < ARRAY_LEN(metric); i++) {
        char *name = rt_xasprintf("saffron_embedding_server_%s", metric[i].name);

        rt_metrics_u64(metrics, metric[i].kind, name, labels, metric[i].help, metric[i].value);
        rt_free(name);
    }
    rt_metrics_f64(metrics, RT_GAUGE, "saffron_embedding_server_checkpoint_seconds", labels,
                   "of the latest checkpoint, from its cut to the file on disk", &s->cut_seconds);
    for (uint32_t t = 0; t < owner->conf.job->n_tables; t++)
        register_table(owner->conf.job->table[t].name, &owner->table_stats[t], metrics);
    register_histograms(s, metrics);
    rt_metrics_rpc(metrics, RT_ROLE_EMBEDDING_SERVER, owner->rpc);
}
