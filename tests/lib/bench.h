/* tests/lib/bench.h -- what a benchmark (tests/bench/<name>.c) measures, as build/bench/<name>.json:
 * {"machine": {...}, "entries": [{name, value, unit, limit, limit_name, ratio}]}, and `demanded` where a ratio is.
 *
 *     struct bench *bench = bench_create("trainer");
 *     bench_less(bench, "step", us, "us/sample", floor, "products at their best rate");
 *     return bench_finish(bench);
 *
 * Times are CPU times of the calling thread: other work on the machine disturbs them least. */
#ifndef TEST_BENCH_H
#define TEST_BENCH_H

#include <stdint.h>

struct bench;

struct bench *bench_create(const char *name);
/* More is better: ratio = value / limit. Less is better: limit / value. limit NAN: null, and no ratio. */
void bench_more(struct bench *bench, const char *name, double value, const char *unit, double limit,
                const char *limit_name);
void bench_less(struct bench *bench, const char *name, double value, const char *unit, double limit,
                const char *limit_name);
/* The latest entry's ratio shall be at least this. */
void bench_demand(struct bench *bench, double ratio);
/* Write the file, print a table, free; the program's exit code. */
int bench_finish(struct bench *bench);

uint64_t bench_cpu_ns(void); /* of the calling thread */

#endif
