/* runtime/net/timers.h -- the timers of one rt_io: a heap by deadline, ties in order of their start.
 *
 * Shared by every implementation of rt_io, so that timers behave the same under a real and a
 * simulated clock. Nodes are recycled: starting a timer does not allocate at steady state.
 * Touch: owner thread. */
#ifndef RT_TIMERS_H
#define RT_TIMERS_H

#include "runtime/net/io.h"

struct rt_timer_node {
    uint64_t deadline_ns, seq;
    size_t at; /* place in the heap */
    struct rt_timer *timer;
    struct rt_timer_node *next_free;
};

struct rt_timers {
    struct rt_timer_node **heap;
    size_t count, capacity;
    uint64_t next_seq;
    struct rt_timer_node *free;
};

void rt_timers_init(struct rt_timers *timers);
void rt_timers_release(struct rt_timers *timers); /* timers that still run are forgotten */

void rt_timers_start(struct rt_timers *timers, struct rt_timer *timer, uint64_t deadline_ns);
void rt_timers_stop(struct rt_timers *timers, struct rt_timer *timer); /* legal when not running */

uint64_t rt_timers_next(const struct rt_timers *timers); /* earliest deadline; UINT64_MAX: none */

/* Remove and return a timer due at now_ns that was started before seq_end (take next_seq once, then
 * loop: a timer that restarts itself waits for the next round); NULL when there is none. */
struct rt_timer *rt_timers_pop(struct rt_timers *timers, uint64_t now_ns, uint64_t seq_end);

#endif
