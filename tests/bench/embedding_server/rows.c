/* tests/bench/embedding_server/rows.c -- lookups and updates of one table beside the machine's limit.
 *
 * One case is a dim and an optimizer, with BENCH_GIB of rows, or half of that where they are so many that filling
 * takes long. Its limit and its table are measured one after the other, each in a process of its own, so that the memory of the first is free when the second begins. An update's limit
 * moves weights and, for Adagrad and Adam, as many bytes of state. */
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/limit.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"
#include "runtime/base/assert.h"

#include <stdio.h>
#include <string.h>

enum { LOOKUP = 1, UPDATE = 2, BOTH = 3 };
enum { FIGURES = IDS_KINDS + 1 }; /* lookup of each kind of ids, update of uniform ones */

static const struct rows_case {
    const char *name;
    uint32_t dim;
    uint32_t optimizer;
    int what;
    double demanded[FIGURES];
    unsigned part; /* of BENCH_GIB: 1 all, 2 half */
} cases[] = {
    {"dim64", 64, RT_OPT_ROWWISE_ADAGRAD, BOTH, {0.52, 0.45, 0.48}, 1},
    {"dim16", 16, RT_OPT_ROWWISE_ADAGRAD, BOTH, {0.40, 0.30, 0.36}, 1},
    {"dim128", 128, RT_OPT_SGD, LOOKUP, {0}, 1},
    {"dim64_adagrad", 64, RT_OPT_ADAGRAD, UPDATE, {0, 0, 0.45}, 1},
    {"dim16_adagrad", 16, RT_OPT_ADAGRAD, UPDATE, {0, 0, 0.45}, 2},
    {"dim64_adam", 64, RT_OPT_ADAM, UPDATE, {0, 0, 0.45}, 1},
    {"dim16_adam", 16, RT_OPT_ADAM, UPDATE, {0, 0, 0.45}, 2},
};

/* Bytes of a row that a lookup reads, or an update has to change. */
static size_t moved(const struct rows_case *c, int what)
{
    struct subject subject = subject_make(c->dim, c->optimizer, 1);
    size_t state = subject_state(&subject);

    return (c->dim + (what == LIMIT_UPDATE && state > 1 ? state : 0)) * sizeof(float);
}

static size_t bytes_of(const struct rows_case *c)
{
    return bench_bytes() / c->part;
}

static struct subject subject_of(const struct rows_case *c)
{
    return subject_make(c->dim, c->optimizer,
                        bytes_of(c) / moved(c, c->what & LOOKUP ? LIMIT_COPY : LIMIT_UPDATE));
}

static void run_limits(const void *arg, double *out)
{
    const struct rows_case *c = arg;
    struct limit_array *array = limit_array_create(bytes_of(c));

    for (int figure = 0; figure < FIGURES; figure++) {
        int what = figure / IDS_KINDS;
        struct limit_want want = {.what = what,
                                  .kind = figure % IDS_KINDS,
                                  .rows = subject_of(c).rows,
                                  .bytes = moved(c, what),
                                  .grad_bytes = what == LIMIT_UPDATE ? c->dim * sizeof(float) : 0};

        if (c->what & (what == LIMIT_COPY ? LOOKUP : UPDATE))
            out[figure] = limit_measure(array, &want);
    }
    limit_array_destroy(array);
}

static void run_table(const void *arg, double *out)
{
    const struct rows_case *c = arg;
    struct subject subject = subject_of(c);
    struct ebs_table *table = subject_create(&subject);

    subject_fill(table, 0, subject.rows, FILL_IDS);
    for (int figure = 0; figure < FIGURES; figure++) {
        int kind = figure % IDS_KINDS;

        if (figure < IDS_KINDS && c->what & LOOKUP)
            out[figure] = subject_lookup(&subject, table, kind, 1, NULL);
        if (figure >= IDS_KINDS && c->what & UPDATE)
            out[figure] = subject_update(&subject, table, kind, 1, NULL);
    }
    ebs_table_destroy(table);
}

static void report(const struct rows_case *c, const double *limit, const double *rate)
{
    for (int figure = 0; figure < FIGURES; figure++) {
        int what = figure / IDS_KINDS;
        char name[64];
        struct entry entry = {.name = name,
                              .value = rate[figure] * 1e-6,
                              .unit = "M rows/s",
                              .limit = limit[figure] * 1e-6,
                              .limit_name = what == LIMIT_COPY ? "rows copied at known positions"
                                                               : "rows changed at known positions",
                              .demanded = c->demanded[figure]};

        if (rate[figure] == 0)
            continue;
        snprintf(name, sizeof(name), "%s_%s_%s", what == LIMIT_COPY ? "lookup" : "update", c->name,
                 ids_kind_name(figure % IDS_KINDS));
        entry_put(&entry);
    }
}

void part_rows(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        double limit[FIGURES], rate[FIGURES];

        if (strcmp(cases[i].name, name) != 0)
            continue;
        bench_child(run_limits, &cases[i], limit, FIGURES);
        bench_child(run_table, &cases[i], rate, FIGURES);
        report(&cases[i], limit, rate);
        return;
    }
    die("rows: no case %s", name);
}
