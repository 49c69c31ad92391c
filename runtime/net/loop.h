/* runtime/net/loop.h -- rt_io on libuv: one event loop, one thread, one pool, one worker thread on demand.
 *
 * Between threads there are three bridges and no fourth: a bounded queue, uv_async_send (both inside
 * rt_loop_post), a documented atomic. */
#ifndef RT_LOOP_H
#define RT_LOOP_H

#include "runtime/base/histogram.h"
#include "runtime/net/io.h"

struct rt_loop;
struct uv_loop_s;

/* Above any credit (credit.h) and the largest frame: a link meets it only if its replies were admitted without bound. */
#define RT_LINK_QUEUE_MAX ((size_t)4 << 30)

struct rt_loop_conf {
    const char *name;   /* thread name, at most 15 bytes, static */
    size_t pool_budget; /* bytes of payload buffers */
    size_t queue_max;   /* bytes waiting on one link that close it; 0: RT_LINK_QUEUE_MAX */
};

/* Ignores SIGPIPE. Its workers may use the cores of the thread that calls this, whatever the loop's thread is bound to later. */
int rt_loop_create(const struct rt_loop_conf *conf, struct rt_loop **out);
/* After rt_loop_run returned or before it was called. Closes what is open (links hear down(), so
 * their owners go first or are still there); jobs and posts that were not begun are dropped. All
 * payload buffers must be back (asserted). NULL is legal. */
void rt_loop_destroy(struct rt_loop *loop);

struct rt_io *rt_loop_io(struct rt_loop *loop);
struct uv_loop_s *rt_loop_uv(
    struct rt_loop *loop); /* for runtime/admin, runtime/process and ctl only */

/* Run on the calling thread until rt_loop_stop; binds the thread to its own allocator arena. On return
 * the worker is at rest, so what a job uses may be freed: the job that it was at has been run, those that
 * waited have not, and no done() is called unless the loop is run again. */
int rt_loop_run(struct rt_loop *loop);
/* Run on a thread of its own; join waits for its end. */
int rt_loop_start_thread(struct rt_loop *loop);
void rt_loop_join(struct rt_loop *loop);
void rt_loop_stop(struct rt_loop *loop); /* Touch: any thread */

/* Have fn(arg) run on the loop's thread. RT_EFULL when its queue (1,024) is full. Touch: any thread. */
int rt_loop_post(struct rt_loop *loop, void (*fn)(void *arg), void *arg);

/* For metrics. Written on the loop's thread; any may read. */
struct rt_loop_stats {
    struct rt_histogram turn;      /* RT_HISTOGRAM_SECONDS: work between two sleeps */
    _Atomic double busy_seconds;   /* the sum of them */
    _Atomic uint64_t queued_bytes; /* accepted by links, not yet with the kernel */
};
const struct rt_loop_stats *rt_loop_stats(const struct rt_loop *loop);
/* Called first by every callback of rt_loop_uv: the loop is at work. */
void rt_loop_woke(struct rt_loop *loop);

/* true on the loop's own thread (or before it runs). */
int rt_loop_is_current(const struct rt_loop *loop);

#endif
