/* runtime/base/queue.h -- bounded queue of pointers between threads (any producers, any consumers). */
#ifndef RT_QUEUE_H
#define RT_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct rt_queue;

struct rt_queue *rt_queue_create(size_t capacity);
void rt_queue_destroy(struct rt_queue *queue); /* NULL is legal; items are the caller's matter */
bool rt_queue_try_push(struct rt_queue *queue, void *item); /* false when full or closed */
/* Wait while full; false when closed. */
bool rt_queue_push(struct rt_queue *queue, void *item);
void *rt_queue_try_pop(struct rt_queue *queue); /* NULL when empty */
/* Wait at most timeout_ns (UINT64_MAX: for ever); NULL on time-out, or when closed and empty. */
void *rt_queue_pop(struct rt_queue *queue, uint64_t timeout_ns);
void rt_queue_close(struct rt_queue *queue); /* pushes fail, waiting poppers drain and wake */
size_t rt_queue_count(struct rt_queue *queue);

#endif
