/* runtime/base/histogram.h -- how often a number was how large: latencies, sizes, counts.
 *
 * Buckets are powers of two, so that an observation is a count of leading zeros and one relaxed add: about a
 * nanosecond, cheap enough for every request. Bucket i counts values v with bound(i-1) < v <= bound(i), bound(i) =
 * 2^(first + i); the last has no bound. A quantile read from it is exact to a factor of two, which is what a
 * page at night needs; sums and means are exact.
 *
 * Written by one thread, read by any: loops have one each, and the admin page adds up those of one name. */
#ifndef RT_HISTOGRAM_H
#define RT_HISTOGRAM_H

#include <stdatomic.h>
#include <stdint.h>

#define RT_HISTOGRAM_BUCKETS 25 /* of them the last is +Inf */

enum rt_histogram_unit {
    RT_HISTOGRAM_COUNT, /* plain numbers: le = 1, 2, 4, ... 2^23 */
    RT_HISTOGRAM_BYTES, /* le = 2^8 ... 2^31 */
    RT_HISTOGRAM_SECONDS, /* observed in nanoseconds, shown in seconds: le = 2^12 ns (4 us) ... 2^35 ns (34 s) */
};

/* Zero is valid and empty: a struct of them can be calloc'ed. Touched by: its one writer; relaxed reads by any. */
struct rt_histogram {
    _Atomic uint64_t bucket[RT_HISTOGRAM_BUCKETS]; /* not cumulative */
    _Atomic uint64_t sum;                          /* of the values observed, in their own unit */
};

/* Count one value. Touch: the histogram's one writer. */
void rt_histogram_observe(struct rt_histogram *histogram, enum rt_histogram_unit unit,
                          uint64_t value);

/* Upper bound of bucket i < RT_HISTOGRAM_BUCKETS - 1 as the page shows it: a count, bytes, or seconds. */
double rt_histogram_bound(enum rt_histogram_unit unit, unsigned i);

#endif
