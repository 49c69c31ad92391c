/* tests/bench/embedding_server/measure.h -- how the parts measure: sizes, clocks, memory, rounds.
 *
 * Everything is timed in CPU time of the calling thread, in rounds of many requests, each round with ids that
 * no round before it had; the median counts. */
#ifndef BENCH_MEASURE_H
#define BENCH_MEASURE_H

#include "tests/bench/embedding_server/ids.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { REQUEST_IDS = 16384, ROUNDS = 5 };

/* BENCH_GIB (6): of rows per case; all sizes follow. rows is scaled with it and has a floor. */
size_t bench_bytes(void);
uint64_t bench_rows(double rows);
size_t bench_requests(void); /* of a round: 64, fewer for small sizes */

uint64_t bench_wall_ns(void);
double bench_process_cpu(int pid);      /* seconds, of all its threads */
double median(double *value, size_t n); /* sorts them */
bool same_floats(const float *a, const float *b, size_t n);
double quantile(double *value, size_t n, double q);
void bench_pin(unsigned core);
size_t bench_resident(void);     /* bytes, of this process */
void *bench_array(size_t bytes); /* zeroed, on huge pages, resident; dies where there is none */
void bench_array_free(void *array, size_t bytes);
void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));

/* In a process of its own, so that all its memory is back when it has ended; dies if that fails.
 * @out: [n] its results. */
void bench_child(void (*run)(const void *arg, double *out), const void *arg, double *out, size_t n);

/* One round of requests, run and timed: called with ids or positions, request by request. */
typedef void (*request_fn)(void *ctx, const uint64_t *id, size_t n);
struct rounds {
    struct ids *ids;
    int as_ids; /* else: positions */
    request_fn run;
    void (*verify)(void *ctx, const uint64_t *position,
                   size_t n);                                    /* the last request; may be NULL */
    void (*each)(void *ctx, const uint64_t *position, size_t n); /* a round's, before it; or NULL */
    void *ctx;
    size_t requests; /* of a round; 0: bench_requests() */
    double *rate;    /* [ROUNDS] of each, may be NULL */
};
double bench_rounds(const struct rounds *rounds); /* ids per second of CPU time: the median */

#ifdef __cplusplus
}
#endif
#endif
