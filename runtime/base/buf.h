/* runtime/base/buf.h -- reference-counted, 64-byte aligned payload buffers from a pool of size classes.
 *
 * A payload is received straight into such a buffer and leaves from one, so bytes are not copied on
 * the way. Buffers return to their pool and are used again: fresh pages cost more than the data
 * (calibration: 0.29 ns per byte). A pool has a budget in bytes; over it rt_buf_new() returns NULL and
 * the caller holds back. A pool belongs to one loop; a buffer may be *read and released* by any
 * thread (atomic count; the free lists are behind a small lock). */
#ifndef RT_BUF_H
#define RT_BUF_H

#include <stddef.h>
#include <stdint.h>

struct rt_pool;

struct rt_buf {
    uint8_t *data;   /* 64-byte aligned */
    size_t size;     /* bytes in use, set by the owner */
    size_t capacity; /* bytes that fit */
    /* private to buf.c */
    struct rt_pool *pool;
    struct rt_buf *next;
    int refs; /* atomic */
};

/* budget: most bytes lent and cached together. Touch: any thread. */
struct rt_pool *rt_pool_create(size_t budget);
void rt_pool_destroy(struct rt_pool *pool); /* all buffers must be back (asserted) */
/* Free the buffers that nobody has needed since the last call. Its holder calls it now and then. Touch: any thread. */
void rt_pool_tend(struct rt_pool *pool);
size_t rt_pool_budget(const struct rt_pool *pool);
size_t rt_buf_bytes(size_t size);                /* what a buffer of that size takes of a budget */
size_t rt_pool_lent(const struct rt_pool *pool); /* bytes of capacity in use */
uint64_t rt_pool_fresh(
    const struct rt_pool *pool); /* allocations ever made: flat while the same work goes on */

/* A buffer of at least `size` bytes, refs 1, contents undefined; NULL over the budget or out of memory. */
struct rt_buf *rt_buf_new(struct rt_pool *pool, size_t size);
struct rt_buf *rt_buf_ref(struct rt_buf *buf);
void rt_buf_unref(struct rt_buf *buf); /* NULL is legal */

#endif
