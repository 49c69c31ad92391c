/* runtime/process/push.h -- pages of metrics to a Prometheus push gateway, from a thread of its own.
 *
 * For jobs that end before anyone asks, and where nobody can reach the admin port. A gateway that is slow or away costs a
 * line in the log, and another when it is back; never the caller's time, but for the last page: 2 s at most. A page that
 * did not get there is not sent again: the next one says more. */
#ifndef RT_PUSH_H
#define RT_PUSH_H

#include "runtime/base/strbuf.h"

#include <stdatomic.h>
#include <stdint.h>

struct rt_push;

struct rt_push_conf {
    const char *address; /* HOST:PORT or http://HOST:PORT; rt_push_check has seen it */
    const char *job, *role;
    uint32_t index;
    uint64_t limit_ns; /* for one page; 0: 2 s */
};

/* Could a gateway be there: [http://]HOST:PORT[/], HOST a name, an IPv4 address, or [an IPv6 one]? RT_EUSAGE when not. */
int rt_push_check(const char *address);

/* Starts the thread. Copies. */
int rt_push_create(const struct rt_push_conf *conf, struct rt_push **out);
/* PUT this page to /metrics/job/JOB/role/ROLE/index/INDEX, soon; takes its text. One that still waits is replaced.
 * Touch, and of the two below: one thread. */
void rt_push_give(struct rt_push *push, struct rt_strbuf *page);
/* As give, but nothing comes after it: what is under way is given up, and it has limit_ns from now on. */
void rt_push_last(struct rt_push *push, struct rt_strbuf *page);
/* Waits for the last page, if there is one, until its time is over. NULL is legal. */
void rt_push_destroy(struct rt_push *push);

/* Touch: any thread. */
struct rt_push_stats {
    _Atomic uint64_t taken, failed; /* pages */
};
const struct rt_push_stats *rt_push_stats(const struct rt_push *push);

#endif
