/* runtime/base/queue.c -- a ring under a mutex.
 *
 * It carries whole batches and control messages, thousands a second, so a mutex and two condition
 * variables are cheap enough, and simple enough to be right. Waiting uses the monotonic clock. */
#include "runtime/base/queue.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/mem.h"

#include <errno.h>
#include <pthread.h>
#include <time.h>

struct rt_queue {
    pthread_mutex_t lock; /* guards everything below */
    pthread_cond_t filled, drained;
    size_t capacity, first, count;
    bool closed;
    void *item[];
};

struct rt_queue *rt_queue_create(size_t capacity)
{
    struct rt_queue *queue;
    pthread_condattr_t attr;

    rt_assert(capacity > 0 && capacity <= SIZE_MAX / 2 / sizeof(void *));
    queue = rt_xcalloc(1, sizeof(*queue) + capacity * sizeof(void *));
    queue->capacity = capacity;
    pthread_mutex_init(&queue->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&queue->filled, &attr);
    pthread_cond_init(&queue->drained, &attr);
    pthread_condattr_destroy(&attr);
    return queue;
}

void rt_queue_destroy(struct rt_queue *queue)
{
    if (!queue)
        return;
    pthread_cond_destroy(&queue->filled);
    pthread_cond_destroy(&queue->drained);
    pthread_mutex_destroy(&queue->lock);
    rt_free(queue);
}

static bool push(struct rt_queue *queue, void *item, bool wait)
{
    bool pushed = false;

    rt_assert(item != NULL); /* NULL is pop's "nothing" */
    pthread_mutex_lock(&queue->lock);
    while (wait && !queue->closed && queue->count == queue->capacity)
        pthread_cond_wait(&queue->drained, &queue->lock);
    if (!queue->closed && queue->count < queue->capacity) {
        queue->item[(queue->first + queue->count++) % queue->capacity] = item;
        pushed = true;
        pthread_cond_signal(&queue->filled);
    }
    pthread_mutex_unlock(&queue->lock);
    return pushed;
}

bool rt_queue_try_push(struct rt_queue *queue, void *item)
{
    return push(queue, item, false);
}

bool rt_queue_push(struct rt_queue *queue, void *item)
{
    return push(queue, item, true);
}

/* Under the lock. */
static void *take_first(struct rt_queue *queue)
{
    void *item;

    if (queue->count == 0)
        return NULL;
    item = queue->item[queue->first];
    queue->first = (queue->first + 1) % queue->capacity;
    queue->count--;
    pthread_cond_signal(&queue->drained);
    return item;
}

void *rt_queue_try_pop(struct rt_queue *queue)
{
    void *item;

    pthread_mutex_lock(&queue->lock);
    item = take_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void *rt_queue_pop(struct rt_queue *queue, uint64_t timeout_ns)
{
    uint64_t now = rt_now_ns();
    uint64_t until = timeout_ns > UINT64_MAX - now ? UINT64_MAX : now + timeout_ns;
    struct timespec deadline = {.tv_sec = (time_t)(until / RT_S), .tv_nsec = (long)(until % RT_S)};
    int err = 0;
    void *item;

    pthread_mutex_lock(&queue->lock);
    while (queue->count == 0 && !queue->closed && err != ETIMEDOUT) {
        if (until == UINT64_MAX)
            pthread_cond_wait(&queue->filled, &queue->lock);
        else
            err = pthread_cond_timedwait(&queue->filled, &queue->lock, &deadline);
    }
    item = take_first(queue);
    pthread_mutex_unlock(&queue->lock);
    return item;
}

void rt_queue_close(struct rt_queue *queue)
{
    pthread_mutex_lock(&queue->lock);
    queue->closed = true;
    pthread_cond_broadcast(&queue->filled);
    pthread_cond_broadcast(&queue->drained);
    pthread_mutex_unlock(&queue->lock);
}

size_t rt_queue_count(struct rt_queue *queue)
{
    size_t count;

    pthread_mutex_lock(&queue->lock);
    count = queue->count;
    pthread_mutex_unlock(&queue->lock);
    return count;
}
