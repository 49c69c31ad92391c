/* tests/bench/embedding_server/tables.h -- tables as the benchmark fills them, and what their rows must be.
 *
 * A row begins at its initial value, uniform in [-1, 1], a function of its id; filling applies gradients of 0 with
 * learning rate 0, in the order of positions. Updates bring the same gradient to every row, so what a row must be
 * follows from how often it came. */
#ifndef BENCH_TABLES_H
#define BENCH_TABLES_H

#include "embedding_server/table.h"
#include "tests/bench/embedding_server/tally.h"

#define FILL_IDS 65536u /* new ids in an update, where nothing else is wanted */

struct subject {
    struct rt_table_conf conf;
    uint64_t rows;
    bool
        changed; /* by updates that were measured: what its rows are is known no more, only that they are */
};

/* float32, no policy, rows scaled by nobody; @optimizer: RT_OPT_... */
struct subject subject_make(uint32_t dim, uint32_t optimizer, uint64_t rows);
struct ebs_table *subject_create(const struct subject *subject);
size_t subject_state(const struct subject *subject); /* floats of a row */
/* Let a table that holds rows [0, have) hold [0, to), `chunk` new ids an update. */
void subject_fill(struct ebs_table *table, uint64_t have, uint64_t to, size_t chunk);

/* Rates in ids per second of CPU time; `rate` as struct rounds has it. Verified. */
double subject_lookup(struct subject *subject, struct ebs_table *table, int kind, uint64_t seed,
                      double *rate);
double subject_update(struct subject *subject, struct ebs_table *table, int kind, uint64_t seed,
                      double *rate);

#endif
