/* runtime/base/mem.c -- allocation, the failing n-th one, arenas.
 *
 * The allocator is whatever malloc is linked (jemalloc in ordinary builds). An arena is a list of chunks
 * that are filled from the front; chunks double from 4 KiB to 1 MiB, and an object too large for that
 * gets a chunk of its own behind the one being filled. The limit counts the objects (rounded to 16 bytes),
 * not the chunks, so whether a message fits does not depend on how its parts fell into chunks. */
#include "runtime/base/mem.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#if defined(RT_JEMALLOC)
#include <jemalloc/jemalloc.h>
#endif

#define HUGE_PAGE   ((size_t)2 << 20)
#define SMALL_PAGE  ((size_t)4096)
#define CACHE_LINE  64
#define CHUNK_FIRST ((size_t)4096)
#define CHUNK_MAX   ((size_t)1 << 20)
#define ARENA_ALIGN 16

static _Thread_local int64_t fault_left = -1; /* allocations until the one that fails */
static _Thread_local bool fault_was_hit;

void rt_fault_alloc(int64_t nth)
{
    fault_left = nth;
    fault_was_hit = false;
}

bool rt_fault_hit(void)
{
    return fault_was_hit;
}

bool rt_fault_now(void)
{
    if (fault_left < 0)
        return false;
    if (fault_left-- > 0)
        return false;
    fault_was_hit = true;
    return true;
}

static _Thread_local uint64_t asked;

uint64_t rt_mem_count(void)
{
    return asked;
}

static _Noreturn void out_of_memory(size_t size)
{
    rt_log(RT_LOG_ERROR, "out of memory bytes=%zu", size);
    abort();
}

void *rt_xmalloc(size_t size)
{
    void *p = malloc(size ? size : 1);

    asked++;
    if (!p)
        out_of_memory(size);
    return p;
}

void *rt_xcalloc(size_t count, size_t size)
{
    void *p = calloc(count ? count : 1, size ? size : 1);

    asked++;
    if (!p)
        out_of_memory(count * size);
    return p;
}

void *rt_xrealloc(void *old, size_t size)
{
    void *p = realloc(old, size ? size : 1);

    asked++;
    if (!p)
        out_of_memory(size);
    return p;
}

char *rt_xstrdup(const char *text)
{
    size_t size = strlen(text) + 1;

    return memcpy(rt_xmalloc(size), text, size);
}

char *rt_xasprintf(const char *fmt, ...)
{
    char *text = NULL;
    va_list args;
    int n;

    va_start(args, fmt);
    n = vasprintf(&text, fmt, args);
    va_end(args);
    asked++;
    if (n < 0)
        out_of_memory(0);
    return text;
}

void *rt_try_malloc(size_t size)
{
    asked++;
    return rt_fault_now() ? NULL : malloc(size ? size : 1);
}

void *rt_try_calloc(size_t count, size_t size)
{
    asked++;
    return rt_fault_now() ? NULL : calloc(count ? count : 1, size ? size : 1);
}

void *rt_try_realloc(void *old, size_t size)
{
    asked++;
    return rt_fault_now() ? NULL : realloc(old, size ? size : 1);
}

static void *aligned(size_t size)
{
    size_t align = size >= HUGE_PAGE ? HUGE_PAGE : CACHE_LINE;
    void *p;

    asked++;
    if (posix_memalign(&p, align, size ? size : 1) != 0)
        return NULL;
    /* Advice only: without huge pages the memory is as good, just slower to touch at random. */
    if (align == HUGE_PAGE)
        (void)madvise(p, size & ~(SMALL_PAGE - 1), MADV_HUGEPAGE);
    return p;
}

void *rt_try_aligned(size_t size)
{
    return rt_fault_now() ? NULL : aligned(size);
}

void *rt_xaligned(size_t size)
{
    void *p = aligned(size);

    if (!p)
        out_of_memory(size);
    return p;
}

void rt_free(void *p)
{
    free(p);
}

void rt_mem_bind_thread(void)
{
#if defined(RT_JEMALLOC)
    unsigned arena;
    size_t size = sizeof(arena);

    if (mallctl("arenas.create", &arena, &size, NULL, 0) != 0 ||
        mallctl("thread.arena", NULL, NULL, &arena, sizeof(arena)) != 0)
        rt_log(RT_LOG_WARN, "memory arena of its own refused, thread shares one");
#endif
}

#if defined(RT_JEMALLOC)
static bool ask_allocator(const char *name, uint64_t *out)
{
    size_t value, size = sizeof(value);

    if (mallctl(name, &value, &size, NULL, 0) != 0)
        return false;
    *out = value;
    return true;
}

bool rt_mem_held(struct rt_mem_held *out)
{
    uint64_t epoch = 1; /* its numbers are as of the last time that this was written */

    return mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)) == 0 &&
           ask_allocator("stats.allocated", &out->allocated) &&
           ask_allocator("stats.active", &out->active) &&
           ask_allocator("stats.metadata", &out->metadata) &&
           ask_allocator("stats.retained", &out->retained);
}
#else
bool rt_mem_held(struct rt_mem_held *out)
{
    (void)out;
    return false;
}
#endif

/* ---- arenas ---- */

struct chunk {
    struct chunk *next;
    size_t size, used; /* bytes of data[] */
    _Alignas(ARENA_ALIGN) uint8_t data[];
};

struct rt_arena {
    struct chunk *head; /* the one being filled; NULL before the first object */
    size_t limit, used;
    size_t chunk_next; /* bytes of the next ordinary chunk */
};

int rt_arena_create(size_t limit, struct rt_arena **out)
{
    struct rt_arena *arena = rt_try_calloc(1, sizeof(*arena));

    if (!arena)
        return RT_FAIL(RT_ENOMEM, "arena: out of memory");
    arena->limit = limit;
    arena->chunk_next = CHUNK_FIRST;
    *out = arena;
    return 0;
}

static void free_chunks(struct chunk *chunk)
{
    while (chunk) {
        struct chunk *next = chunk->next;

        free(chunk);
        chunk = next;
    }
}

void rt_arena_destroy(struct rt_arena *arena)
{
    if (!arena)
        return;
    free_chunks(arena->head);
    free(arena);
}

void rt_arena_reset(struct rt_arena *arena)
{
    arena->used = 0;
    if (!arena->head)
        return;
    free_chunks(arena->head->next);
    arena->head->next = NULL;
    arena->head->used = 0;
}

/* A chunk with room for `size` bytes, linked in; NULL when out of memory. */
static struct chunk *chunk_add(struct rt_arena *arena, size_t size)
{
    bool own = size > CHUNK_MAX / 4;
    struct chunk *chunk;
    size_t bytes;

    while (!own && arena->chunk_next / 4 < size)
        arena->chunk_next *= 2;
    bytes = own ? size : arena->chunk_next - sizeof(struct chunk);
    chunk = malloc(sizeof(*chunk) + bytes);
    asked++;
    if (!chunk)
        return NULL;
    chunk->size = bytes;
    chunk->used = 0;
    if (own && arena->head) {
        chunk->next = arena->head->next;
        arena->head->next = chunk;
        return chunk;
    }
    chunk->next = arena->head;
    arena->head = chunk;
    if (!own && arena->chunk_next < CHUNK_MAX)
        arena->chunk_next *= 2;
    return chunk;
}

void *rt_arena_alloc(struct rt_arena *arena, size_t size)
{
    struct chunk *chunk = arena->head;
    void *p;

    if (size > arena->limit - arena->used || rt_fault_now())
        return NULL;
    if (size > SIZE_MAX / 2)
        return NULL;
    size = rt_align_up(size ? size : 1, ARENA_ALIGN);
    if (size > arena->limit - arena->used)
        return NULL;
    if (!chunk || size > chunk->size - chunk->used) {
        chunk = chunk_add(arena, size);
        if (!chunk)
            return NULL;
    }
    p = chunk->data + chunk->used;
    chunk->used += size;
    arena->used += size;
    return p;
}

void *rt_arena_calloc(struct rt_arena *arena, size_t count, size_t size)
{
    size_t bytes;
    void *p;

    if (!rt_mul_size(count, size, &bytes))
        return NULL;
    p = rt_arena_alloc(arena, bytes);
    return p ? memset(p, 0, bytes) : NULL;
}

char *rt_arena_strdup(struct rt_arena *arena, const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = rt_arena_alloc(arena, size);

    return copy ? memcpy(copy, text, size) : NULL;
}

size_t rt_arena_used(const struct rt_arena *arena)
{
    return arena->used;
}
