/* ctl/plan_print.c -- a plan as a page to read, and as JSON. The page rounds to three digits; JSON has all of them. */
#include "ctl/plan_print.h"
#include "ctl/amount.h"
#include "runtime/base/assert.h"

#include <inttypes.h>
#include <string.h>

/* From most to least memory. */
static const enum rt_role order[] = {RT_ROLE_EMBEDDING_SERVER, RT_ROLE_MIDDLEWARE, RT_ROLE_TRAINER,
                                     RT_ROLE_DATA_COMPOSE};
static const char *const dtype_name[] = {
    [WIRE_F32] = "float32", [WIRE_F16] = "float16", [WIRE_BF16] = "bfloat16"};

static uint32_t count_of(const struct ctl_question *q, const struct ctl_plan *plan,
                         enum rt_role role)
{
    return role == RT_ROLE_EMBEDDING_SERVER ? plan->servers : q->replicas[role];
}

static uint64_t total(const struct rt_table_size *size)
{
    return size->rows + size->index + size->slack + size->allocator;
}

/* ---- the page ---- */

static void print_size(const char *name, uint64_t rows, const struct rt_table_size *size,
                       const char *kind, uint32_t row_bytes, FILE *out)
{
    char count[CTL_AMOUNT_MAX], bytes[CTL_AMOUNT_MAX];
    double n = rows ? (double)rows : 1;

    fprintf(out, "%-20s %8s  %-14s", name, ctl_amount((double)rows, "", count), kind);
    if (row_bytes)
        fprintf(out, " %5" PRIu32, row_bytes);
    else
        fprintf(out, " %5s", "");
    fprintf(out, " %6.2f %6.2f %8.1f  %9s\n", (double)size->index / n,
            (double)(size->slack + size->allocator) / n, (double)total(size) / n,
            ctl_amount((double)total(size), "B", bytes));
}

static void print_tables(const struct ctl_question *q, const struct ctl_plan *plan, FILE *out)
{
    char kind[48], parameters[CTL_AMOUNT_MAX], capacity[CTL_AMOUNT_MAX];

    fprintf(out, "%-20s %8s  %-14s %5s %6s %6s %8s  %9s\n", "TABLE", "ROWS", "DIM", "ROW", "INDEX",
            "SLACK", "= B/ROW", "BYTES");
    for (uint32_t t = 0; t < q->job->n_tables; t++) {
        const struct ctl_plan_table *table = &plan->table[t];

        snprintf(kind, sizeof(kind), "%u %s", q->job->table[t].dim,
                 dtype_name[q->job->table[t].dtype]);
        print_size(q->job->table[t].name, table->rows, &table->size, kind, table->row_bytes, out);
    }
    snprintf(kind, sizeof(kind), "%s weights", ctl_amount(plan->parameters, "", parameters));
    print_size("all", plan->rows, &plan->size, kind, 0, out);
    for (uint32_t t = 0; t < q->job->n_tables; t++) {
        if (plan->table[t].rows < q->rows[t])
            fprintf(out, "%s: its capacity holds %s of the rows\n", q->job->table[t].name,
                    ctl_amount((double)plan->table[t].rows, "", capacity));
    }
}

static void print_need(const char *what, uint32_t servers, FILE *out)
{
    if (servers)
        fprintf(out, "%-9s %6u  ", what, servers);
    else
        fprintf(out, "%-9s %6s  ", what, "-");
}

static void print_needs(const struct ctl_question *q, const struct ctl_plan *plan, FILE *out)
{
    char a[CTL_AMOUNT_MAX], b[CTL_AMOUNT_MAX];
    uint64_t cap = q->job->global.embedding_server_memory;

    fprintf(out, "\nEMBEDDING SERVERS of %u workers: %u, needed for\n", q->workers, plan->servers);
    print_need("memory", plan->need.memory, out);
    ctl_amount((double)plan->process[RT_ROLE_EMBEDDING_SERVER].memory, "B", a);
    if (q->server_memory)
        fprintf(out, "the fullest takes %s of --server-memory %s\n", a,
                ctl_amount((double)q->server_memory, "B", b));
    else if (cap)
        fprintf(out, "the fullest takes %s; embedding_server.memory is %s for its tables\n", a,
                ctl_amount((double)cap, "B", b));
    else
        fprintf(out, "the fullest takes %s; --server-memory says what it has\n", a);
    print_need("traffic", plan->need.rate, out);
    if (q->samples_per_second > 0)
        fprintf(out, "%s rows a second read and written, %s by each owner (--owner-rate %s)\n",
                ctl_amount(plan->owner_rows * plan->owners, "", a),
                ctl_amount(plan->owner_rows, "", b),
                ctl_amount(q->owner_rate, "", (char[CTL_AMOUNT_MAX]){0}));
    else
        fprintf(out, "--samples-per-second says how much there is\n");
    print_need("rows", plan->need.rows, out);
    fprintf(out, "an owner counts the rows of a table in 32 bits\n");
}

static void print_processes(const struct ctl_question *q, const struct ctl_plan *plan, FILE *out)
{
    char memory[CTL_AMOUNT_MAX], most[CTL_AMOUNT_MAX], in[CTL_AMOUNT_MAX], sent[CTL_AMOUNT_MAX];

    fprintf(out, "\n%-20s %6s %9s %9s %8s %8s %11s %11s\n", "PROCESS", "COUNT", "MEMORY", "AT MOST",
            "LINKS", "FILES", "IN/S", "OUT/S");
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        const struct ctl_plan_process *p = &plan->process[order[i]];
        bool traffic = q->samples_per_second > 0;

        fprintf(out, "%-20s %6u %9s %9s %8" PRIu64 " %8" PRIu64 " %11s %11s\n",
                rt_role_name(order[i]), count_of(q, plan, order[i]),
                ctl_amount((double)p->memory, "B", memory),
                p->memory_max ? ctl_amount((double)p->memory_max, "B", most) : "-", p->links,
                p->descriptors, traffic ? ctl_amount(p->in, "B", in) : "-",
                traffic ? ctl_amount(p->out, "B", sent) : "-");
    }
}

static void print_hops(const struct ctl_question *q, const struct ctl_plan *plan, FILE *out)
{
    char sample[CTL_AMOUNT_MAX], all[CTL_AMOUNT_MAX];

    fprintf(out, "\n%-34s %12s %12s\n", "HOP", "A SAMPLE", "A SECOND");
    for (int h = 0; h < CTL_HOP_COUNT; h++)
        fprintf(out, "%-34s %12s %12s\n", ctl_hops[h].name,
                ctl_amount(plan->bytes_per_sample[h], "B", sample),
                q->samples_per_second > 0
                    ? ctl_amount(plan->bytes_per_sample[h] * q->samples_per_second, "B", all)
                    : "-");
}

void ctl_plan_print(const struct ctl_question *q, const struct ctl_plan *plan, FILE *out)
{
    print_tables(q, plan, out);
    print_needs(q, plan, out);
    print_processes(q, plan, out);
    print_hops(q, plan, out);
}

/* ---- JSON ---- */

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *real_or_null(double value, bool known)
{
    return known ? json_real(value) : json_null();
}

static json_t *size_json(const struct rt_table_size *size)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "rows", number(size->rows), "index",
                     number(size->index), "slack", number(size->slack), "allocator",
                     number(size->allocator));
}

static json_t *tables_json(const struct ctl_question *q, const struct ctl_plan *plan)
{
    json_t *tables = json_object();

    for (uint32_t t = 0; t < q->job->n_tables; t++) {
        const struct ctl_plan_table *table = &plan->table[t];
        double rows = table->rows ? (double)table->rows : 1;

        json_object_set_new(
            tables, q->job->table[t].name,
            json_pack("{s:o, s:o, s:o, s:s, s:o, s:o, s:f}", "rows", number(table->rows),
                      "rows_asked", q->rows[t] ? number(q->rows[t]) : json_null(), "dim",
                      number(q->job->table[t].dim), "dtype", dtype_name[q->job->table[t].dtype],
                      "row_bytes", number(table->row_bytes), "bytes", size_json(&table->size),
                      "bytes_per_row", (double)total(&table->size) / rows));
    }
    return tables;
}

static json_t *needs_json(const struct ctl_plan *plan)
{
    return json_pack("{s:o, s:o, s:o}", "memory",
                     plan->need.memory ? number(plan->need.memory) : json_null(), "traffic",
                     plan->need.rate ? number(plan->need.rate) : json_null(), "rows",
                     number(plan->need.rows));
}

static json_t *processes_json(const struct ctl_question *q, const struct ctl_plan *plan)
{
    json_t *processes = json_object();
    bool traffic = q->samples_per_second > 0;

    for (int role = 0; role < RT_ROLE_COUNT; role++) {
        const struct ctl_plan_process *p = &plan->process[role];

        json_object_set_new(processes, rt_role_name((enum rt_role)role),
                            json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "count",
                                      number(count_of(q, plan, (enum rt_role)role)), "memory_bytes",
                                      number(p->memory), "memory_bytes_max",
                                      p->memory_max ? number(p->memory_max) : json_null(), "links",
                                      number(p->links), "descriptors", number(p->descriptors),
                                      "bytes_in_per_second", real_or_null(p->in, traffic),
                                      "bytes_out_per_second", real_or_null(p->out, traffic)));
    }
    return processes;
}

static json_t *hops_json(const struct ctl_plan *plan, double samples)
{
    json_t *hops = json_object();

    for (int h = 0; h < CTL_HOP_COUNT; h++)
        json_object_set_new(hops, ctl_hops[h].name, json_real(plan->bytes_per_sample[h] * samples));
    return hops;
}

json_t *ctl_plan_json(const struct ctl_question *q, const struct ctl_plan *plan)
{
    bool traffic = q->samples_per_second > 0;

    return json_pack(
        "{s:s, s:o, s:o, s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:f, s:o, s:o, s:o}", "job",
        q->job->name, "tables", tables_json(q, plan), "rows", number(plan->rows), "weights",
        plan->parameters, "bytes", size_json(&plan->size), "embedding_servers",
        number(plan->servers), "workers", number(q->workers), "owners", number(plan->owners),
        "embedding_servers_needed", needs_json(plan), "processes", processes_json(q, plan),
        "rows_per_sample", plan->rows_per_sample, "rows_per_second_of_owner",
        real_or_null(plan->owner_rows, traffic), "bytes_per_sample", hops_json(plan, 1),
        "bytes_per_second", traffic ? hops_json(plan, q->samples_per_second) : json_null());
}
