/* runtime/base/trace.h -- what some batches went through in this process, as Chrome trace events (ui.perfetto.dev).
 *
 *     rt_trace_open(&conf);                                       once, before the process works
 *     uint64_t at = rt_trace_begin(batch_id);                     0: not this batch
 *     ... pool ...
 *     at = rt_trace_span(batch_id, loop, "pool", at);             from `at` until now; now
 *     rt_trace_close();
 *
 * Which batches are traced follows from their ids alone, so all processes that were given the same `every` trace the same
 * ones, and nothing is said of it on the wire. Off, or of any other batch, a span costs a load and a branch.
 *
 * A batch is what the viewer calls a process, and a row of it (a "thread") is a loop of one of our processes, or the calls
 * from one to another: opened, it reads from top to bottom. Times are CLOCK_MONOTONIC: one clock for all processes of a
 * machine. The file's first line names the host, and what to add for the time of day (`wall_minus_monotonic_us`).
 * Touch: any thread; open and close: when no other thread traces. */
#ifndef RT_TRACE_H
#define RT_TRACE_H

#include "runtime/base/role.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RT_TRACE_BYTES_MAX                                                                         \
    (64u << 20)                 /* of one process's file; what comes then is counted, not kept */
#define RT_TRACE_LINE_MAX 1024u /* of one event */
#define RT_TRACE_NAME_MAX 48u   /* of a span; longer ones are cut */

struct rt_trace_conf {
    const char
        *path; /* of the file; one that is there is added to: of an earlier start of this process */
    uint32_t every; /* each so-many-th batch; >= 1 */
    enum rt_role role;
    uint32_t index;
    const char *host;   /* which machine: what has another id has another clock */
    uint64_t bytes_max; /* 0: RT_TRACE_BYTES_MAX */
    /* For calls: method -> its name; NULL: it has none. */
    const char *(*method_name)(uint16_t method);
};

/* RT_EFILE, naming the path. */
int rt_trace_open(const struct rt_trace_conf *conf);
void rt_trace_close(void); /* nothing when it is not open */

extern _Atomic uint32_t rt_trace_every; /* 0: off */

/* Each so-many-th batch: of every split, at another place in each. A batch of evaluation counts as that of the split of
 * training. Never batch 0: that is what frames without a batch say. Splits weigh twice, or else the batches of one
 * trainer rank would be all that are traced (rt_batch_rank). */
static inline bool rt_trace_takes(uint64_t batch_id, uint32_t every)
{
    uint64_t split = batch_id >> 48 & 0x7fff, sequence = batch_id & ((1ull << 48) - 1);

    return batch_id != 0 && (2 * split + sequence) % every == 2 % every;
}

static inline bool rt_trace_wants(uint64_t batch_id)
{
    uint32_t every = atomic_load_explicit(&rt_trace_every, memory_order_relaxed);

    return __builtin_expect(every != 0, 0) && rt_trace_takes(batch_id, every);
}

/* Spans of the batches that are wanted; the inlines below ask. */
uint64_t rt_trace_now(void);
void rt_trace_put(uint64_t batch_id, uint32_t loop, const char *name, uint64_t from_ns,
                  uint64_t to_ns);

/* Now; 0 when the batch is not traced. */
static inline uint64_t rt_trace_begin(uint64_t batch_id)
{
    return rt_trace_wants(batch_id) ? rt_trace_now() : 0;
}

/* Work on the batch from from_ns until now, on the row of that loop of this process. Returns now: where the next begins.
 * 0, and nothing, when the batch is not traced. name: plain text, no quotes. */
static inline uint64_t rt_trace_span(uint64_t batch_id, uint32_t loop, const char *name,
                                     uint64_t from_ns)
{
    uint64_t to_ns = rt_trace_begin(batch_id);

    if (to_ns)
        rt_trace_put(batch_id, loop, name, from_ns, to_ns);
    return to_ns;
}

/* A loop of a process. */
struct rt_trace_place {
    enum rt_role role;
    uint32_t index, loop;
};

/* A request, at the side that asks or at the side that serves; the viewer draws an arrow from one to the other. For
 * runtime/net, once rt_trace_wants. */
struct rt_trace_call {
    uint64_t batch_id, request_id; /* request_id: as in the frame */
    uint16_t method;
    int err; /* 0: it was answered */
    struct rt_trace_place from, to;
    uint64_t begin_ns, end_ns;
};
void rt_trace_asked(const struct rt_trace_call *call);
void rt_trace_served(const struct rt_trace_call *call);

/* Events that found no room, or could not be written. */
uint64_t rt_trace_lost(void);

#endif
