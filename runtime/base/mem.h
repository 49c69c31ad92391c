/* runtime/base/mem.h -- memory by lifetime, and sizes that cannot overflow.
 *
 * rt_x*: small amounts whose size is ours; out of memory ends the process.
 * rt_try_*: sizes that come from a peer or a configuration file; NULL is reported as an error.
 * rt_arena: many small objects that die together (a batch, a message, a configuration). */
#ifndef RT_MEM_H
#define RT_MEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *rt_xmalloc(size_t size);
void *rt_xcalloc(size_t count, size_t size); /* zeroed */
void *rt_xrealloc(void *old, size_t size);
char *rt_xstrdup(const char *text);
char *rt_xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

void *rt_try_malloc(size_t size);               /* NULL when out of memory */
void *rt_try_calloc(size_t count, size_t size); /* NULL when out of memory or on overflow; zeroed */
void *rt_try_realloc(void *old, size_t size);
/* 64-byte aligned; free with rt_free. Sizes of 2 MiB and more ask for huge pages. */
void *rt_try_aligned(size_t size);
void *rt_xaligned(size_t size);
void rt_free(void *p); /* NULL is legal; for every function above */

/* How often the calling thread has asked the allocator for memory by any function here, arenas' chunks included. What does
 * its work a second time without a change of it allocates nothing: tests of steady states say so. */
uint64_t rt_mem_count(void);

/* Give the calling thread an allocator arena of its own, so that owners never meet in malloc. For
 * long-lived loop threads, once, at their start. Nothing happens without jemalloc. */
void rt_mem_bind_thread(void);

/* What the allocator holds, in bytes (jemalloc's stats: see its manual); false where it does not tell. It asks every
 * arena: some 10 us each. Touch: any thread. */
struct rt_mem_held {
    uint64_t allocated; /* by the program */
    uint64_t active;    /* pages that hold some of it */
    uint64_t metadata;  /* the allocator's own */
    uint64_t retained;  /* addresses kept for later; not resident */
};
bool rt_mem_held(struct rt_mem_held *out);

/* Checked arithmetic: false on overflow, *out then untouched. */
static inline bool rt_mul_size(size_t a, size_t b, size_t *out)
{
    size_t product;

    if (__builtin_mul_overflow(a, b, &product))
        return false;
    *out = product;
    return true;
}
static inline bool rt_add_size(size_t a, size_t b, size_t *out)
{
    size_t sum;

    if (__builtin_add_overflow(a, b, &sum))
        return false;
    *out = sum;
    return true;
}
/* Next multiple of `align` (a power of two); the caller knows that it cannot overflow. */
static inline size_t rt_align_up(size_t size, size_t align)
{
    return (size + align - 1) & ~(align - 1);
}

/* Tests arm the n-th (from 0) rt_try_* allocation of this thread to fail; negative disarms.
 * rt_fault_hit() tells whether it has failed one since. Covers rt_try_* and arenas. */
void rt_fault_alloc(int64_t nth);
bool rt_fault_hit(void);
/* For whoever asks the system itself, for memory or to read a file: counts as one allocation, true if it is the one to fail. */
bool rt_fault_now(void);

/* Arena: objects that are freed at once. Never more than `limit` bytes of objects, each rounded up to 16
 * (the chunks below add at most a third, and 1 MiB). Touch: owner thread. */
struct rt_arena;
int rt_arena_create(size_t limit, struct rt_arena **out);
void rt_arena_destroy(struct rt_arena *arena); /* NULL is legal */
void rt_arena_reset(struct rt_arena *arena);   /* forget all objects, keep one chunk */
void *rt_arena_alloc(struct rt_arena *arena,
                     size_t size); /* 16-byte aligned; NULL over the limit */
void *rt_arena_calloc(struct rt_arena *arena, size_t count, size_t size);
char *rt_arena_strdup(struct rt_arena *arena, const char *text);
size_t rt_arena_used(const struct rt_arena *arena);
#define rt_arena_array(arena, type, count) ((type *)rt_arena_calloc((arena), (count), sizeof(type)))

#endif
