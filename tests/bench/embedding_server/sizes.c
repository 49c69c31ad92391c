/* tests/bench/embedding_server/sizes.c -- does the ratio to the limit hold from 1 M to 50 M rows?
 *
 * Dim 16, bfloat16: rows of 32 bytes of weights. One table grows from size to size; the limit is that of an array with as
 * many rows, each on a cache line of its own. The figure is the lowest ratio as a part of the highest. */
#include "tests/bench/embedding_server/entry.h"
#include "tests/bench/embedding_server/limit.h"
#include "tests/bench/embedding_server/measure.h"
#include "tests/bench/embedding_server/parts.h"
#include "tests/bench/embedding_server/tables.h"

#include <math.h>
#include <stdio.h>

#define DIM    16
#define BYTES  (DIM * 2)
#define STRIDE 64
#define SIZES  6

static const double millions[SIZES] = {1, 2, 5, 10, 20, 50};

static uint64_t rows_of(int size)
{
    return bench_rows(millions[size] * 1e6);
}

static void run_limits(const void *unused, double *out)
{
    struct limit_array *array = limit_array_create(rows_of(SIZES - 1) * STRIDE);

    (void)unused;
    for (int size = 0; size < SIZES; size++)
        out[size] = limit_measure(array, &(struct limit_want){.what = LIMIT_COPY,
                                                              .kind = IDS_UNIFORM,
                                                              .rows = rows_of(size),
                                                              .bytes = BYTES});
    limit_array_destroy(array);
}

static void run_table(const void *unused, double *out)
{
    struct subject subject = subject_make(DIM, RT_OPT_ROWWISE_ADAGRAD, 0);
    struct ebs_table *table;

    (void)unused;
    subject.conf.dtype = WIRE_BF16;
    table = subject_create(&subject);
    for (int size = 0; size < SIZES; size++) {
        subject_fill(table, subject.rows, rows_of(size), FILL_IDS);
        subject.rows = rows_of(size);
        out[size] = subject_lookup(&subject, table, IDS_UNIFORM, 1, NULL);
    }
    ebs_table_destroy(table);
}

void part_sizes(const char *unused)
{
    double limit[SIZES], rate[SIZES], lowest = INFINITY, highest = 0;

    (void)unused;
    bench_child(run_limits, NULL, limit, SIZES);
    bench_child(run_table, NULL, rate, SIZES);
    for (int size = 0; size < SIZES; size++) {
        char name[64];

        snprintf(name, sizeof(name), "lookup_dim16_bfloat16_%gM", millions[size]);
        lowest = fmin(lowest, rate[size] / limit[size]);
        highest = fmax(highest, rate[size] / limit[size]);
        entry_put(&(struct entry){.name = name,
                                  .value = rate[size] * 1e-6,
                                  .unit = "M rows/s",
                                  .limit = limit[size] * 1e-6,
                                  .limit_name = "rows copied at known positions"});
    }
    entry_put(&(struct entry){.name = "ratio_1M_to_50M",
                              .value = lowest / highest,
                              .unit = "lowest/highest",
                              .limit = 1,
                              .limit_name = "the same at all sizes",
                              .demanded = 0.85});
}
