/* tests/bench/embedding_server/ids.h -- which rows are asked for: the same ones of the table and of its limit.
 *
 * A row has a position, 0..rows-1, in the order in which a table is filled: where it lies in a plain array. Its
 * id is a bijection of that. Uniform: any position, with repetition. Zipf: the r-th most frequent has a share of
 * r^-1.05, and ranks are scattered over all positions, so that frequent rows are no neighbours. */
#ifndef BENCH_IDS_H
#define BENCH_IDS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { IDS_UNIFORM, IDS_ZIPF, IDS_KINDS };

struct ids {
    int kind;
    uint64_t rows, key, counter;
    uint64_t scatter;          /* coprime to rows */
    double h_first, h_last, s; /* of the Zipf sampler */
};

void ids_init(struct ids *ids, int kind, uint64_t rows, uint64_t seed);
void ids_positions(struct ids *ids, uint64_t *position, size_t n); /* the next n */
uint64_t ids_of(uint64_t position);
void ids_from_positions(uint64_t *position, size_t n); /* in place */
const char *ids_kind_name(int kind);                   /* "uniform" */

#ifdef __cplusplus
}
#endif
#endif
