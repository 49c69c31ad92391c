/* runtime/base/buf.c -- payload buffers in size classes.
 *
 * One allocation holds the header (a cache line) and the data behind it. Capacities come in classes, four
 * to each doubling, so at most a fifth is unused, and a returned buffer serves any later request of its
 * class. A request that does not fit the budget first gives cached buffers of other classes back to the
 * allocator, the largest first; only what is lent is hard. The lock guards a few pointers; a fresh
 * allocation happens outside it, with its bytes already counted.
 *
 * A moment that needs one buffer more than any before it would otherwise have it cached for ever. Of each class the
 * fewest that lay unused are remembered: so many nobody needed since the last rt_pool_tend(), which frees them. */
#include "runtime/base/buf.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

#include <pthread.h>

#define HEADER_BYTES 64
#define CLASS_FIRST  256 /* bytes of data in class 0 */
#define STEPS        4   /* classes per doubling */
#define CLASS_COUNT  (STEPS * 40)

struct rt_pool {
    pthread_mutex_t lock; /* guards all below */
    size_t budget, lent, cached;
    uint64_t fresh;
    struct idle {             /* cached buffers of a class */
        struct rt_buf *first; /* by next; taken and put back here: those at the end rest longest */
        uint32_t n, fewest;   /* how many: now, and at any time since the last rt_pool_tend() */
    } idle[CLASS_COUNT];
};

_Static_assert(sizeof(struct rt_buf) <= HEADER_BYTES, "the header is one cache line");

static size_t class_bytes(unsigned class)
{
    size_t base = (size_t)CLASS_FIRST << (class / STEPS);

    return base + base / STEPS * (class % STEPS);
}

/* The smallest class that holds size; CLASS_COUNT when none does. */
static unsigned class_of(size_t size)
{
    unsigned class = 0;

    if (size > CLASS_FIRST) /* the doubling that begins at or below size */
        class = (unsigned)(63 - __builtin_clzll(size) - __builtin_ctz(CLASS_FIRST)) * STEPS;
    while (class < CLASS_COUNT && class_bytes(class) < size)
        class ++;
    return class < CLASS_COUNT ? class : CLASS_COUNT;
}

struct rt_pool *rt_pool_create(size_t budget)
{
    struct rt_pool *pool = rt_xcalloc(1, sizeof(*pool));

    pthread_mutex_init(&pool->lock, NULL);
    pool->budget = budget;
    return pool;
}

/* Under the lock. NULL: there is none. */
static struct rt_buf *pop_idle(struct rt_pool *pool, unsigned class)
{
    struct idle *idle = &pool->idle[class];
    struct rt_buf *buf = idle->first;

    if (!buf)
        return NULL;
    idle->first = buf->next;
    pool->cached -= buf->capacity;
    idle->n--;
    if (idle->n < idle->fewest)
        idle->fewest = idle->n;
    return buf;
}

/* Under the lock: give cached buffers back, the largest first, until at most `keep` bytes stay. */
static void trim_cached(struct rt_pool *pool, size_t keep)
{
    for (unsigned class = CLASS_COUNT; class -- > 0 && pool->cached > keep;)
        while (pool->idle[class].first && pool->cached > keep)
            rt_free(pop_idle(pool, class));
}

/* Under the lock: the `fewest` at the end of a list. */
static struct rt_buf *cut_unused(struct rt_pool *pool, struct idle *idle)
{
    struct rt_buf **end = &idle->first, *cut;

    for (uint32_t i = idle->fewest; i < idle->n; i++)
        end = &(*end)->next;
    cut = *end;
    *end = NULL;
    for (const struct rt_buf *buf = cut; buf; buf = buf->next)
        pool->cached -= buf->capacity;
    idle->n -= idle->fewest;
    idle->fewest = idle->n;
    return cut;
}

void rt_pool_tend(struct rt_pool *pool)
{
    for (unsigned class = 0; class < CLASS_COUNT; class ++) {
        struct rt_buf *buf, *next;

        pthread_mutex_lock(&pool->lock);
        buf = cut_unused(pool, &pool->idle[class]);
        pthread_mutex_unlock(&pool->lock);
        for (; buf; buf = next) {
            next = buf->next;
            rt_free(buf);
        }
    }
}

void rt_pool_destroy(struct rt_pool *pool)
{
    if (!pool)
        return;
    rt_assert(pool->lent == 0);
    trim_cached(pool, 0);
    pthread_mutex_destroy(&pool->lock);
    rt_free(pool);
}

size_t rt_pool_budget(const struct rt_pool *pool)
{
    return pool->budget;
}

size_t rt_buf_bytes(size_t size)
{
    unsigned class = class_of(size);

    return class < CLASS_COUNT ? class_bytes(class) : SIZE_MAX;
}

size_t rt_pool_lent(const struct rt_pool *pool)
{
    return __atomic_load_n(&pool->lent, __ATOMIC_RELAXED);
}

uint64_t rt_pool_fresh(const struct rt_pool *pool)
{
    return __atomic_load_n(&pool->fresh, __ATOMIC_RELAXED);
}

/* Under the lock; readers of the two counters take none. */
static void lent_add(struct rt_pool *pool, size_t bytes)
{
    __atomic_store_n(&pool->lent, pool->lent + bytes, __ATOMIC_RELAXED);
}

/* A cached buffer, or NULL; *reserved tells whether the bytes are counted as lent now. */
static struct rt_buf *take_cached(struct rt_pool *pool, unsigned class, bool *reserved)
{
    size_t bytes = class_bytes(class);
    struct rt_buf *buf;

    pthread_mutex_lock(&pool->lock);
    buf = pop_idle(pool, class);
    if (!buf && bytes <= pool->budget - pool->lent) {
        trim_cached(pool, pool->budget - pool->lent - bytes);
        __atomic_store_n(&pool->fresh, pool->fresh + 1, __ATOMIC_RELAXED);
    } else if (!buf) {
        bytes = 0;
    }
    lent_add(pool, bytes);
    pthread_mutex_unlock(&pool->lock);
    *reserved = bytes != 0;
    return buf;
}

struct rt_buf *rt_buf_new(struct rt_pool *pool, size_t size)
{
    unsigned class = class_of(size);
    struct rt_buf *buf;
    bool reserved;

    if (class == CLASS_COUNT)
        return NULL;
    buf = take_cached(pool, class, &reserved);
    if (!reserved)
        return NULL;
    if (!buf) {
        buf = rt_try_aligned(HEADER_BYTES + class_bytes(class));
        if (!buf) {
            pthread_mutex_lock(&pool->lock);
            lent_add(pool, 0 - class_bytes(class));
            pthread_mutex_unlock(&pool->lock);
            return NULL;
        }
        buf->data = (uint8_t *)buf + HEADER_BYTES;
        buf->capacity = class_bytes(class);
        buf->pool = pool;
    }
    buf->next = NULL;
    buf->size = 0;
    __atomic_store_n(&buf->refs, 1, __ATOMIC_RELAXED);
    return buf;
}

struct rt_buf *rt_buf_ref(struct rt_buf *buf)
{
    int before = __atomic_fetch_add(&buf->refs, 1, __ATOMIC_RELAXED);

    rt_assert(before > 0);
    return buf;
}

void rt_buf_unref(struct rt_buf *buf)
{
    struct rt_pool *pool;
    unsigned class;
    int before;

    if (!buf)
        return;
    before = __atomic_fetch_sub(&buf->refs, 1, __ATOMIC_ACQ_REL);
    rt_assert(before > 0);
    if (before > 1)
        return;
    pool = buf->pool;
    class = class_of(buf->capacity);
    pthread_mutex_lock(&pool->lock);
    buf->next = pool->idle[class].first;
    pool->idle[class].first = buf;
    pool->idle[class].n++;
    pool->cached += buf->capacity;
    lent_add(pool, 0 - buf->capacity);
    pthread_mutex_unlock(&pool->lock);
}
