/* tests/bench/embedding_server/limit.h -- what this machine's memory allows: rows at known random positions.
 *
 * An array as large as a table's rows, on huge pages, each row at a multiple of 64 bytes. A lookup's limit copies
 * rows; an update's reads, changes and writes them. The loops are compiled for each instruction set, the prefetch
 * distance and level that are best for the case are found by a sweep in the same run. */
#ifndef BENCH_LIMIT_H
#define BENCH_LIMIT_H

#include <stddef.h>
#include <stdint.h>

enum { LIMIT_COPY, LIMIT_UPDATE };

/* @row: the array.  @position: [n].  @ahead: rows between a prefetch and its use.
 * @level: locality as __builtin_prefetch has it: 3 L1, 2 L2, 0 non-temporal.
 * @buffer: copy: [n][bytes] out; update: [n][grad_bytes] in: each part of a row has -= rate * gradient. */
struct limit_case {
    uint8_t *row;
    size_t bytes, grad_bytes; /* of a row: 32, 64, 256, 512, 768; gradient: 64, 256 */
    size_t stride;
    unsigned ahead;
    int level;
};
typedef void (*limit_fn)(const struct limit_case *limit, const uint64_t *position, size_t n,
                         float *buffer);
struct limit_loops {
    limit_fn copy, update;
};
extern const struct limit_loops limit_plain, limit_avx2, limit_avx512;

#define LIMIT_RATE 0x1p-10f

/* One thread's limit of one case, in rows per second of its CPU time; median. Verified: dies on a wrong row. */
struct limit_want {
    int what;      /* LIMIT_COPY, ... */
    int kind;      /* of ids */
    uint64_t rows; /* of the array that are used */
    size_t bytes, grad_bytes;
};
struct limit_array;
struct limit_array *limit_array_create(size_t bytes);
void limit_array_destroy(struct limit_array *array);
double limit_measure(struct limit_array *array, const struct limit_want *want);

#endif
