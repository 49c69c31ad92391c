/* runtime/net/timers.c -- binary heap of running timers; each timer's node knows its place. */
#include "runtime/net/timers.h"

#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

static bool before(const struct rt_timer_node *a, const struct rt_timer_node *b)
{
    return a->deadline_ns != b->deadline_ns ? a->deadline_ns < b->deadline_ns : a->seq < b->seq;
}

static void place(struct rt_timers *timers, struct rt_timer_node *node, size_t at)
{
    timers->heap[at] = node;
    node->at = at;
}

static void sift_up(struct rt_timers *timers, struct rt_timer_node *node)
{
    size_t at = node->at;
    while (at > 0 && before(node, timers->heap[(at - 1) / 2])) {
        place(timers, timers->heap[(at - 1) / 2], at);
        at = (at - 1) / 2;
    }
    place(timers, node, at);
}

static void sift_down(struct rt_timers *timers, struct rt_timer_node *node)
{
    size_t at = node->at, child;
    while ((child = 2 * at + 1) < timers->count) {
        if (child + 1 < timers->count && before(timers->heap[child + 1], timers->heap[child]))
            child++;
        if (!before(timers->heap[child], node))
            break;
        place(timers, timers->heap[child], at);
        at = child;
    }
    place(timers, node, at);
}

static void remove_node(struct rt_timers *timers, struct rt_timer_node *node)
{
    struct rt_timer_node *last = timers->heap[--timers->count];
    if (last != node) {
        place(timers, last, node->at);
        sift_up(timers, last);
        sift_down(timers, last);
    }
    node->timer->impl = NULL;
    node->next_free = timers->free;
    timers->free = node;
}

void rt_timers_init(struct rt_timers *timers)
{
    *timers = (struct rt_timers){0};
}

void rt_timers_release(struct rt_timers *timers)
{
    while (timers->count)
        remove_node(timers, timers->heap[timers->count - 1]);
    while (timers->free) {
        struct rt_timer_node *node = timers->free;
        timers->free = node->next_free;
        rt_free(node);
    }
    rt_free(timers->heap);
    rt_timers_init(timers);
}

void rt_timers_start(struct rt_timers *timers, struct rt_timer *timer, uint64_t deadline_ns)
{
    rt_assert(timer->fire);
    rt_timers_stop(timers, timer);
    struct rt_timer_node *node = timers->free;
    if (node)
        timers->free = node->next_free;
    else
        node = rt_xmalloc(sizeof *node);
    if (timers->count == timers->capacity) {
        timers->capacity = timers->capacity ? 2 * timers->capacity : 16;
        timers->heap = rt_xrealloc(timers->heap, timers->capacity * sizeof(timers->heap[0]));
    }
    *node = (struct rt_timer_node){deadline_ns, timers->next_seq++, timers->count, timer, NULL};
    timer->impl = node;
    place(timers, node, timers->count++);
    sift_up(timers, node);
}

void rt_timers_stop(struct rt_timers *timers, struct rt_timer *timer)
{
    if (timer->impl)
        remove_node(timers, timer->impl);
}

uint64_t rt_timers_next(const struct rt_timers *timers)
{
    return timers->count ? timers->heap[0]->deadline_ns : UINT64_MAX;
}

struct rt_timer *rt_timers_pop(struct rt_timers *timers, uint64_t now_ns, uint64_t seq_end)
{
    if (!timers->count || timers->heap[0]->deadline_ns > now_ns || timers->heap[0]->seq >= seq_end)
        return NULL;
    struct rt_timer *timer = timers->heap[0]->timer;
    remove_node(timers, timers->heap[0]);
    return timer;
}
