/* runtime/net/loop.c -- rt_io on libuv: one loop, its timers, its posts, its worker.
 *
 * Timers are our own heap with one uv_timer as its alarm: libuv's timers are handles, whose memory
 * may be freed only after an asynchronous close, while rt_timer is embedded in its owner and dies
 * with it. The alarm may ring early (libuv counts in milliseconds); then it is set again.
 *
 * Sends are gathered: a link with something queued is flushed before the loop sleeps, so replies to
 * a burst of requests leave in one write (conn.c).
 *
 * A turn, what a loop does between two sleeps, is timed by the first callback in it (rt_loop_woke) and the
 * one before the sleep: two looks at the clock. libuv's own idle time costs an epoll_wait more for each sleep: 0.3 us
 * at both sides of a request that takes 7 us of CPU (2 vCPU, loaded).
 *
 * A worker is a thread, started with its first job; there are two, so that a step does not wait for a disk. Jobs travel on
 * a locked list there and on another back; the loop is woken by the same uv_async as for posts. A thread begins on the cores of the
 * one that starts it, which may be bound to a core of its own: a worker runs on those that the loop's maker had. */
#include "runtime/net/loop_impl.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/net/conn.h"
#include "runtime/net/files.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct rt_loop *loop_of(struct rt_io *io)
{
    return (struct rt_loop *)io;
}

/* ---- clock, randomness, pool ---- */

static uint64_t io_now_ns(struct rt_io *io)
{
    (void)io;
    return rt_now_ns();
}

static uint64_t io_wall_ms(struct rt_io *io)
{
    (void)io;
    return rt_wall_ms();
}

static uint64_t io_random(struct rt_io *io)
{
    struct rt_loop *loop = loop_of(io);
    return rt_draw(loop->draw_key, loop->draws++);
}

static struct rt_pool *io_pool(struct rt_io *io)
{
    return loop_of(io)->pool;
}

#define TEND_NS (60 * RT_S) /* a buffer that nobody needs for so long goes back to the allocator */

static void on_tend(void *arg)
{
    struct rt_loop *loop = arg;
    rt_pool_tend(loop->pool);
    rt_timer_start(&loop->io, &loop->tend, TEND_NS);
}

/* ---- timers ---- */

static void on_alarm(uv_timer_t *handle);
static void on_soon(uv_idle_t *handle);

/* What is due at once does not go by libuv's timers: one that is set to 0 ms in its own callback rings again before
 * libuv looks at any socket (1.44), so work in slices would hold the loop for as long as it lasts. */
static void set_alarm(struct rt_loop *loop)
{
    uint64_t now, next = rt_timers_next(&loop->timers);
    int err;
    if (next >= loop->alarm_ns)
        return; /* it rings in time; one ring too many does no harm */
    now = rt_now_ns();
    if (next <= now)
        err = uv_idle_start(&loop->soon, on_soon);
    else
        err = uv_timer_start(&loop->alarm, on_alarm, (next - now + RT_MS - 1) / RT_MS, 0);
    rt_assert(err == 0);
    loop->alarm_ns = next;
}

static void fire_due(struct rt_loop *loop)
{
    rt_loop_woke(loop);
    uint64_t now = rt_now_ns(), seq_end = loop->timers.next_seq;
    struct rt_timer *timer;
    loop->alarm_ns = UINT64_MAX;
    while ((timer = rt_timers_pop(&loop->timers, now, seq_end)))
        timer->fire(timer->arg);
    set_alarm(loop);
}

static void on_alarm(uv_timer_t *handle)
{
    fire_due(handle->data);
}

static void on_soon(uv_idle_t *handle)
{
    uv_idle_stop(handle);
    fire_due(handle->data);
}

static void io_timer_start(struct rt_io *io, struct rt_timer *timer, uint64_t after_ns)
{
    struct rt_loop *loop = loop_of(io);
    uint64_t deadline;
    rt_assert(rt_loop_is_current(loop));
    if (__builtin_add_overflow(rt_now_ns(), after_ns, &deadline))
        deadline = UINT64_MAX - 1;
    rt_timers_start(&loop->timers, timer, deadline);
    set_alarm(loop);
}

static void io_timer_stop(struct rt_io *io, struct rt_timer *timer)
{
    rt_assert(rt_loop_is_current(loop_of(io)));
    rt_timers_stop(&loop_of(io)->timers, timer);
}

/* ---- posts and work ---- */

int rt_loop_post(struct rt_loop *loop, void (*fn)(void *arg), void *arg)
{
    int err = 0;
    uv_mutex_lock(&loop->lock);
    if (loop->post_count == RT_POSTS_MAX) {
        err = RT_FAIL(RT_EFULL, "loop %s: %d posts are waiting", loop->name, RT_POSTS_MAX);
    } else {
        size_t at = (loop->post_first + loop->post_count++) % RT_POSTS_MAX;
        loop->post[at] = (struct rt_post){fn, arg};
    }
    uv_mutex_unlock(&loop->lock);
    if (!err)
        uv_async_send(&loop->wake);
    return err;
}

static bool take_post(struct rt_loop *loop, struct rt_post *out)
{
    uv_mutex_lock(&loop->lock);
    bool some = loop->post_count > 0;
    if (some) {
        *out = loop->post[loop->post_first];
        loop->post_first = (loop->post_first + 1) % RT_POSTS_MAX;
        loop->post_count--;
    }
    uv_mutex_unlock(&loop->lock);
    return some;
}

static void finish_work(struct rt_loop *loop)
{
    uv_mutex_lock(&loop->lock);
    struct rt_work *work = loop->work_done, *telling = loop->tells.work;
    uint64_t what = loop->tells.what;
    loop->work_done = NULL;
    loop->work_done_end = &loop->work_done;
    loop->tells.work = NULL;
    uv_mutex_unlock(&loop->lock);
    if (telling) /* it may be done as well */
        telling->told(telling->arg, what);
    while (work) {
        struct rt_work *next = work->next; /* done() may start the job again */
        work->done(work->arg);
        work = next;
    }
}

/* Posts that came before the stop are run before it: so the flag is read first, then their number. */
static void on_wake(uv_async_t *handle)
{
    struct rt_loop *loop = handle->data;
    struct rt_post post;
    rt_loop_woke(loop);
    bool stop = atomic_load(&loop->stop);
    uv_mutex_lock(&loop->lock);
    size_t n = loop->post_count;
    uv_mutex_unlock(&loop->lock);
    finish_work(loop);
    while (n-- > 0 && take_post(loop, &post))
        post.fn(post.arg);
    if (stop)
        uv_stop(&loop->uv);
}

static void worker_main(void *arg)
{
    struct rt_worker *worker = arg;
    struct rt_loop *loop = worker->loop;
    char name[16];
    snprintf(name, sizeof(name), "%.12s-%s", loop->name, worker == &loop->worker[1] ? "fs" : "wk");
    pthread_setname_np(pthread_self(), name);
    if (loop->knows_cores)
        (void)sched_setaffinity(0, sizeof(loop->cores), (const cpu_set_t *)loop->cores);
    rt_mem_bind_thread();
    uv_mutex_lock(&loop->work_lock);
    while (!worker->quit) {
        struct rt_work *work = worker->first;
        if (!work) {
            uv_cond_wait(&worker->come, &loop->work_lock);
            continue;
        }
        worker->first = work->next;
        if (!work->next)
            worker->end = &worker->first;
        uv_mutex_unlock(&loop->work_lock);
        work->run(work->arg);
        work->next = NULL;
        uv_mutex_lock(&loop->lock);
        *loop->work_done_end = work;
        loop->work_done_end = &work->next;
        uv_mutex_unlock(&loop->lock);
        uv_async_send(&loop->wake);
        uv_mutex_lock(&loop->work_lock);
    }
    uv_mutex_unlock(&loop->work_lock);
}

static void start_worker(struct rt_worker *worker)
{
    if (worker->runs)
        return;
    worker->runs = true;
    int err = uv_thread_create(&worker->thread, worker_main, worker);
    rt_assert(err == 0);
}

/* The jobs that they are at are run to their end; those that wait are kept. */
static void stop_workers(struct rt_loop *loop)
{
    uv_mutex_lock(&loop->work_lock);
    for (int i = 0; i < RT_WORKERS; i++) {
        loop->worker[i].quit = true;
        uv_cond_signal(&loop->worker[i].come);
    }
    uv_mutex_unlock(&loop->work_lock);
    for (int i = 0; i < RT_WORKERS; i++) {
        if (loop->worker[i].runs)
            uv_thread_join(&loop->worker[i].thread);
        loop->worker[i].runs = loop->worker[i].quit = false;
    }
}

static void io_work_tell(struct rt_io *io, struct rt_work *work, uint64_t what)
{
    struct rt_loop *loop = loop_of(io);
    uv_mutex_lock(&loop->lock);
    loop->tells.work = work;
    loop->tells.what = what;
    uv_mutex_unlock(&loop->lock);
    uv_async_send(&loop->wake);
}

static void io_work(struct rt_io *io, struct rt_work *work)
{
    struct rt_loop *loop = loop_of(io);
    struct rt_worker *worker = &loop->worker[work->disk];
    rt_assert(rt_loop_is_current(loop));
    work->next = NULL;
    uv_mutex_lock(&loop->work_lock);
    *worker->end = work;
    worker->end = &work->next;
    uv_cond_signal(&worker->come);
    uv_mutex_unlock(&loop->work_lock);
    start_worker(worker);
}

/* ---- life of the loop ---- */

static const struct rt_io_ops loop_ops = {
    .now_ns = io_now_ns,
    .wall_ms = io_wall_ms,
    .random = io_random,
    .timer_start = io_timer_start,
    .timer_stop = io_timer_stop,
    .listen = rt_conn_listen,
    .unlisten = rt_conn_unlisten,
    .connect = rt_conn_connect,
    .link_set = rt_conn_set,
    .link_send = rt_conn_send,
    .link_checks = rt_conn_checks,
    .link_queued = rt_conn_queued,
    .link_watch = rt_conn_watch,
    .link_pause = rt_conn_pause,
    .link_close = rt_conn_close,
    .link_name = rt_conn_name,
    .work = io_work,
    .work_tell = io_work_tell,
    .file_open = rt_files_open,
    .file_read = rt_files_read,
    .file_close = rt_files_close,
    .pool = io_pool,
};

/* The turn ends where the loop is about to sleep; nothing may have been done in it. */
static void end_turn(struct rt_loop *loop)
{
    _Atomic double *busy = &loop->stats.busy_seconds;
    if (!loop->woke_ns)
        return;
    uint64_t turn = rt_now_ns() - loop->woke_ns;
    loop->woke_ns = 0;
    rt_histogram_observe(&loop->stats.turn, RT_HISTOGRAM_SECONDS, turn);
    atomic_store_explicit(busy,
                          atomic_load_explicit(busy, memory_order_relaxed) + (double)turn * 1e-9,
                          memory_order_relaxed);
}

static void on_flush(uv_prepare_t *handle)
{
    rt_conns_flush(handle->data);
    end_turn(handle->data);
}

static void open_handles(struct rt_loop *loop)
{
    int err = uv_async_init(&loop->uv, &loop->wake, on_wake);
    if (!err)
        err = uv_timer_init(&loop->uv, &loop->alarm);
    if (!err)
        err = uv_idle_init(&loop->uv, &loop->soon);
    if (!err)
        err = uv_prepare_init(&loop->uv, &loop->flush);
    if (!err)
        err = uv_prepare_start(&loop->flush, on_flush);
    rt_assert(err == 0);
    loop->wake.data = loop->alarm.data = loop->soon.data = loop->flush.data = loop;
    err = uv_mutex_init(&loop->lock) | uv_mutex_init(&loop->work_lock);
    for (int i = 0; i < RT_WORKERS; i++) {
        loop->worker[i].loop = loop;
        loop->worker[i].end = &loop->worker[i].first;
        err |= uv_cond_init(&loop->worker[i].come);
    }
    rt_assert(err == 0);
}

int rt_loop_create(const struct rt_loop_conf *conf, struct rt_loop **out)
{
    struct rt_loop *loop = rt_xcalloc(1, sizeof(*loop));
    int err = uv_loop_init(&loop->uv);
    if (err) {
        rt_free(loop);
        return RT_FAIL(err, "event loop %s: %s", conf->name, uv_strerror(err));
    }
    signal(SIGPIPE, SIG_IGN); /* a lost connection is an error code here, not a signal */
    snprintf(loop->name, sizeof(loop->name), "%s", conf->name);
    loop->io.ops = &loop_ops;
    loop->uv.data = loop;
    loop->alarm_ns = UINT64_MAX;
    loop->work_done_end = &loop->work_done;
    loop->pool = rt_pool_create(conf->pool_budget);
    loop->draw_key = rt_draw_fold(rt_draw_key(rt_now_ns(), "loop", NULL), (uint64_t)getpid());
    loop->queue_max = conf->queue_max ? conf->queue_max : RT_LINK_QUEUE_MAX;
    loop->read_buffer = rt_xaligned(RT_LOOP_READ_SIZE);
    loop->knows_cores = sched_getaffinity(0, sizeof(loop->cores), (cpu_set_t *)loop->cores) == 0;
    loop->tend.fire = on_tend;
    loop->tend.arg = loop;
    rt_timers_init(&loop->timers);
    open_handles(loop);
    *out = loop;
    return 0;
}

static void close_handle(uv_handle_t *handle, void *arg)
{
    (void)arg;
    if (!uv_is_closing(handle))
        uv_close(handle, NULL);
}

void rt_loop_destroy(struct rt_loop *loop)
{
    if (!loop)
        return;
    rt_assert(!atomic_load(&loop->running));
    stop_workers(loop);
    rt_conns_close_all(loop);
    uv_walk(&loop->uv, close_handle, NULL);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    int err = uv_loop_close(&loop->uv);
    rt_assert(err == 0);
    rt_conns_release(loop);
    rt_timers_release(&loop->timers);
    rt_pool_destroy(loop->pool);
    uv_mutex_destroy(&loop->lock);
    uv_mutex_destroy(&loop->work_lock);
    for (int i = 0; i < RT_WORKERS; i++)
        uv_cond_destroy(&loop->worker[i].come);
    rt_free(loop->read_buffer);
    rt_free(loop);
}

struct rt_io *rt_loop_io(struct rt_loop *loop)
{
    return &loop->io;
}

struct uv_loop_s *rt_loop_uv(struct rt_loop *loop)
{
    return &loop->uv;
}

void rt_loop_woke(struct rt_loop *loop)
{
    if (!loop->woke_ns)
        loop->woke_ns = rt_now_ns();
}

const struct rt_loop_stats *rt_loop_stats(const struct rt_loop *loop)
{
    return &loop->stats;
}

int rt_loop_run(struct rt_loop *loop)
{
    static _Thread_local bool bound;
    if (!bound)
        rt_mem_bind_thread();
    bound = true;
    loop->runner = pthread_self();
    atomic_store(&loop->running, 1);
    for (int i = 0; i < RT_WORKERS; i++)
        if (loop->worker[i].first) /* of a run before */
            start_worker(&loop->worker[i]);
    rt_timer_start(&loop->io, &loop->tend, TEND_NS);
    uv_run(&loop->uv, UV_RUN_DEFAULT);
    rt_timer_stop(&loop->io, &loop->tend);
    stop_workers(loop);
    rt_conns_flush(loop);
    atomic_store(&loop->stop, 0);
    atomic_store(&loop->running, 0);
    return 0;
}

static void thread_main(void *arg)
{
    struct rt_loop *loop = arg;
    pthread_setname_np(pthread_self(), loop->name);
    rt_loop_run(loop);
}

int rt_loop_start_thread(struct rt_loop *loop)
{
    int err = uv_thread_create(&loop->thread, thread_main, loop);
    if (err)
        return RT_FAIL(err, "thread %s: %s", loop->name, uv_strerror(err));
    return 0;
}

void rt_loop_join(struct rt_loop *loop)
{
    uv_thread_join(&loop->thread);
}

void rt_loop_stop(struct rt_loop *loop)
{
    atomic_store(&loop->stop, 1);
    uv_async_send(&loop->wake);
}

int rt_loop_is_current(const struct rt_loop *loop)
{
    return !atomic_load(&loop->running) || pthread_equal(loop->runner, pthread_self());
}
