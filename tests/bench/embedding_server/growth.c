/* tests/bench/embedding_server/growth.c -- memory and pauses of a table on its way to 20 M rows.
 *
 * Dim 16, row-wise Adagrad, 1,024 new ids an update, and upkeep after each as the owner's loop has it do. A pause is
 * the time of one update or of one bout of upkeep. What the process has grown by in resident memory, less weights
 * and optimizer state, is overhead: id, index, policies' stamps, slack, the allocator's. The memory is the process's
 * first, so the table pays for page faults as in a job. */
#include "tests/bench/embedding_server/entry.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"
#include "tests/lib/bench.h"

#include <stdio.h>
#include <string.h>

#define DIM          16
#define ROWS         20e6
#define CHUNK        1024u
#define TEND_ROWS    4096 /* of one bout of upkeep */
#define TTL_SECONDS  86400
#define PAUSE_MAX_MS 10.0

enum { OVERHEAD, ACCOUNTED, APPLY_P999, APPLY_MAX, TEND_P999, TEND_MAX, RATE, FIGURES };

static struct subject subject_of(int policies)
{
    struct subject subject = subject_make(DIM, RT_OPT_ROWWISE_ADAGRAD, bench_rows(ROWS));

    if (policies) {
        subject.conf.eviction.kind = RT_EVICT_LRU;
        subject.conf.eviction.rows = 2 * subject.rows;
        subject.conf.ttl_seconds = TTL_SECONDS;
    }
    return subject;
}

struct growth {
    double *apply_ms, *tend_ms; /* [n] */
    size_t n;
    uint64_t ns;
};

static void grow(struct growth *growth, struct ebs_table *table, uint64_t rows)
{
    uint64_t id[CHUNK];
    float *grad = rt_xcalloc((size_t)CHUNK * DIM, sizeof(*grad));

    for (uint64_t at = 0; at < rows; at += CHUNK) {
        struct ebs_update update = {.id = id, .grad = grad, .n = CHUNK, .step = 1, .draw = at + 1};
        struct ebs_applied applied = {0};
        uint64_t begin, time_ms = 1000 + at / CHUNK; /* an update a millisecond */

        for (size_t i = 0; i < CHUNK; i++)
            id[i] = ids_of(at + i);
        begin = bench_cpu_ns();
        ebs_table_tick(table, time_ms);
        ebs_table_apply(table, &update, &applied);
        if (applied.created != CHUNK)
            die("growth: %llu rows created", (unsigned long long)applied.created);
        growth->apply_ms[growth->n] = 1e-6 * (double)(bench_cpu_ns() - begin);
        growth->ns += bench_cpu_ns() - begin;
        begin = bench_cpu_ns();
        ebs_table_tend(table, time_ms, TEND_ROWS);
        growth->tend_ms[growth->n++] = 1e-6 * (double)(bench_cpu_ns() - begin);
        growth->ns += bench_cpu_ns() - begin;
    }
    rt_free(grad);
}

static size_t sum_of(const struct ebs_table_bytes *bytes)
{
    return bytes->rows + bytes->index + bytes->slack + bytes->allocator;
}

static void run_growth(const void *arg, double *out)
{
    struct subject subject = subject_of(*(const int *)arg);
    size_t n = subject.rows / CHUNK + 1, net = DIM + subject_state(&subject), before, after;
    struct growth growth = {.apply_ms = bench_array(n * sizeof(double)),
                            .tend_ms = bench_array(n * sizeof(double))};
    struct ebs_table_bytes bytes;
    struct ebs_table *table;
    double rows;

    before = bench_resident();
    table = subject_create(&subject);
    grow(&growth, table, subject.rows);
    after = bench_resident();
    bytes = ebs_table_bytes(table);
    rows = (double)ebs_table_rows(table);
    net *= sizeof(float);
    out[OVERHEAD] = (double)(after - before) / rows - (double)net;
    out[ACCOUNTED] = (double)sum_of(&bytes) / (double)(after - before);
    out[APPLY_P999] = quantile(growth.apply_ms, growth.n, 0.999);
    out[APPLY_MAX] = growth.apply_ms[growth.n - 1];
    out[TEND_P999] = quantile(growth.tend_ms, growth.n, 0.999);
    out[TEND_MAX] = growth.tend_ms[growth.n - 1];
    out[RATE] = rows * 1e3 / (double)growth.ns;
    ebs_table_destroy(table);
}

void part_growth(const char *policies)
{
    int on = strcmp(policies, "on") == 0;
    double out[FIGURES];
    char name[FIGURES][48];
    static const char *const what[] = {"overhead",       "accounted",      "grow_apply_p999",
                                       "grow_apply_max", "grow_tend_p999", "grow_tend_max",
                                       "grow_rate"};
    double limit = on ? 20 : 16;

    bench_child(run_growth, &on, out, FIGURES);
    for (int f = 0; f < FIGURES; f++)
        snprintf(name[f], sizeof(name[f]), "%s_policies_%s", what[f], on ? "on" : "off");
    entry_put(&(struct entry){.name = name[OVERHEAD],
                              .value = out[OVERHEAD],
                              .unit = "bytes/row",
                              .limit = limit,
                              .limit_name = on ? "with recency and expiry" : "without policies",
                              .demanded = 1,
                              .less = true});
    entry_put(&(struct entry){
        .name = name[ACCOUNTED], .value = out[ACCOUNTED], .unit = "of resident growth"});
    for (int f = APPLY_P999; f <= TEND_MAX; f++)
        entry_put(&(struct entry){.name = name[f],
                                  .value = out[f],
                                  .unit = "ms",
                                  .limit = PAUSE_MAX_MS,
                                  .limit_name = "longest pause",
                                  .demanded = f == APPLY_P999 || f == TEND_P999,
                                  .less = true});
    entry_put(&(struct entry){.name = name[RATE], .value = out[RATE], .unit = "M rows/s"});
}
