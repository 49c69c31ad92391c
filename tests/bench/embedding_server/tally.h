/* tests/bench/embedding_server/tally.h -- how often some rows were updated: what their weights must be is known. */
#ifndef BENCH_TALLY_H
#define BENCH_TALLY_H

#include "tests/bench/embedding_server/ids.h"

#define TALLY_ROWS 256u

struct tally {
    size_t n;
    uint64_t position[TALLY_ROWS]; /* sorted, distinct */
    uint32_t count[TALLY_ROWS];
    uint64_t maybe[1024]; /* a bit per hash of a position that is there */
};

void tally_init(struct tally *tally, const uint64_t *position, size_t n); /* some of these */
void tally_add(struct tally *tally, const uint64_t *position, size_t n);

#endif
