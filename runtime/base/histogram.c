/* runtime/base/histogram.c -- power-of-two buckets. */
#include "runtime/base/histogram.h"

/* log2 of the first bound. */
static unsigned first_of(enum rt_histogram_unit unit)
{
    return unit == RT_HISTOGRAM_SECONDS ? 12 : unit == RT_HISTOGRAM_BYTES ? 8 : 0;
}

/* One writer: a load and a store are enough, and cheaper than an atomic add. */
static void add(_Atomic uint64_t *value, uint64_t more)
{
    atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + more,
                          memory_order_relaxed);
}

void rt_histogram_observe(struct rt_histogram *histogram, enum rt_histogram_unit unit,
                          uint64_t value)
{
    unsigned first = first_of(unit), i = 0;

    if (value > 1ull << first) /* the smallest i with value <= 2^(first + i) */
        i = 64 - (unsigned)__builtin_clzll(value - 1) - first;
    add(&histogram->bucket[i < RT_HISTOGRAM_BUCKETS - 1 ? i : RT_HISTOGRAM_BUCKETS - 1], 1);
    add(&histogram->sum, value);
}

double rt_histogram_bound(enum rt_histogram_unit unit, unsigned i)
{
    double bound = (double)(1ull << (first_of(unit) + i));

    return unit == RT_HISTOGRAM_SECONDS ? bound * 1e-9 : bound;
}
