/* runtime/net/loop_impl.h -- the inside of struct rt_loop, shared by loop.c and conn.c only. */
#ifndef RT_LOOP_IMPL_H
#define RT_LOOP_IMPL_H

#include "runtime/net/loop.h"
#include "runtime/net/timers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <uv.h>

#define RT_POSTS_MAX      1024
#define RT_LOOP_READ_SIZE (16u << 10) /* headers and messages; payloads go to their own buffers */

struct rt_post {
    void (*fn)(void *arg);
    void *arg;
};

enum { RT_WORKERS = 2 };

#define RT_LOOP_CORES_MAX 8192u /* as the most that Linux is built for */

/* A helper thread, started with its first job. */
struct rt_worker {
    struct rt_loop *loop;
    uv_thread_t thread;
    bool runs, quit;
    uv_cond_t come;
    struct rt_work *first, **end;
};

struct rt_loop {
    struct rt_io io; /* first: an rt_io of this kind is an rt_loop */
    char name[16];
    uv_loop_t uv;
    uv_async_t wake;    /* posts, finished work, stop */
    uv_timer_t alarm;   /* set to the earliest of `timers` */
    uv_idle_t soon;     /* runs while one is due already: a look at the sockets lies between */
    uv_prepare_t flush; /* before the loop sleeps: what was queued in this round leaves */
    struct rt_timers timers;
    struct rt_loop_stats stats;
    uint64_t woke_ns;  /* when this turn's first callback was called; 0: none was */
    uint64_t alarm_ns; /* when `alarm` or `soon` rings; UINT64_MAX: neither is set */
    struct rt_pool *pool;
    struct rt_timer tend; /* of the pool */
    uint64_t draw_key, draws;

    /* Touched by: any thread. */
    atomic_int stop;
    uv_mutex_t lock; /* guards the four below */
    struct rt_post post[RT_POSTS_MAX];
    size_t post_first, post_count;
    struct rt_work *work_done, **work_done_end;
    struct {
        struct rt_work *work; /* NULL: there is none */
        uint64_t what;
    } tells; /* the latest of what a job tells */

    struct rt_worker worker[RT_WORKERS];    /* by rt_work.disk */
    uv_mutex_t work_lock;                   /* guards their queues */
    uint64_t cores[RT_LOOP_CORES_MAX / 64]; /* bits: those on which they may run */
    bool knows_cores;

    /* The thread that runs the loop. */
    uv_thread_t thread;
    atomic_int running;
    pthread_t runner;

    /* conn.c; touched by: loop thread. */
    size_t queue_max;
    struct rt_link *links, *dirty;
    struct rt_listener *listeners;
    struct rt_out *free_outs;
    size_t n_free_outs;
    struct rt_lz *lz;     /* NULL: nothing was packed yet */
    uint8_t *read_buffer; /* RT_LOOP_READ_SIZE; used up within one read callback */
};

#endif
