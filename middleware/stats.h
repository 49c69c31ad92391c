/* middleware/stats.h -- the numbers of one loop. Written by its thread, relaxed; any thread may read. */
#ifndef MW_STATS_H
#define MW_STATS_H

#include "runtime/admin/metrics.h"

#include <stdatomic.h>
#include <stdint.h>

/* X(kind, field, metric, help) */
#define MW_STATS(X)                                                                                \
    X(RT_GAUGE, owners, "owners", "owners of rows that the job has")                               \
    X(RT_GAUGE, owners_up, "owners_up", "owners of rows that are connected")                       \
    X(RT_GAUGE, batches_open, "batches_open", "batches held")                                      \
    X(RT_GAUGE, bytes_reserved, "reserved_bytes", "memory promised to the batches held")           \
    X(RT_COUNTER, batches_put, "batches_put_total", "batches taken from data-compose")             \
    X(RT_COUNTER, ids, "ids_total", "ids in the batches taken")                                    \
    X(RT_COUNTER, distinct, "distinct_ids_total", "distinct ids of a batch and table among them")  \
    X(RT_COUNTER, lookups, "lookups_total", "batches whose embeddings were sent")                  \
    X(RT_COUNTER, pushes, "pushes_total", "batches whose gradients all owners acked")              \
    X(RT_COUNTER, released, "released_total", "batches given up by a trainer")                     \
    X(RT_COUNTER, retries, "retries_total", "requests to owners that must be sent again")          \
    X(RT_COUNTER, digest_errors, "digest_errors_total", "requests whose digest differs")           \
    X(RT_COUNTER, refused_full, "refused_full_total", "batches refused for want of memory")        \
    X(RT_COUNTER, unknown, "unknown_total", "requests for batches that are not held")              \
    X(RT_COUNTER, dropped_dead, "dropped_dead_total", "batches of dead data-compose incarnations") \
    X(RT_COUNTER, dropped_idle, "dropped_idle_total", "idle batches that made room for others")    \
    X(RT_COUNTER, bytes_to_trainers, "trainer_sent_bytes_total", "bytes of replies to trainers")   \
    X(RT_COUNTER, bytes_to_owners, "owner_sent_bytes_total", "bytes of requests to owners")        \
    X(RT_COUNTER, rows_nonfinite, "rows_nonfinite_total", "rows whose gradient was not finite")

/* X(field, metric, help): times of work on one batch, observed in nanoseconds. */
#define MW_TIMES(X)                                                                                \
    X(dedup, "dedup_seconds", "seconds to deduplicate, split and lay out the ids of one batch")    \
    X(pool, "pool_seconds", "seconds to pool the rows of one batch into embeddings")               \
    X(scatter, "scatter_seconds", "seconds to sum the gradients of one batch into those of rows")

struct mw_stats {
#define X(kind, field, metric, help) _Atomic uint64_t field;
    MW_STATS(X)
#undef X
#define X(field, metric, help) struct rt_histogram field;
    MW_TIMES(X)
#undef X
};

static inline void mw_count(_Atomic uint64_t *value, uint64_t add)
{
    atomic_store_explicit(value, atomic_load_explicit(value, memory_order_relaxed) + add,
                          memory_order_relaxed);
}
/* Work on a batch that began at `begin_ns` is done now. */
static inline void mw_took(struct rt_histogram *histogram, uint64_t begin_ns, uint64_t now_ns)
{
    rt_histogram_observe(histogram, RT_HISTOGRAM_SECONDS, now_ns - begin_ns);
}
static inline uint64_t mw_read(const _Atomic uint64_t *value)
{
    return atomic_load_explicit((_Atomic uint64_t *)value, memory_order_relaxed);
}

#endif
