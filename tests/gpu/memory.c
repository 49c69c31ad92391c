/* tests/gpu/memory.c -- what of runtime/base/mem.h the CPU's optimizers call, over the C library's allocator: tests of kernels link no
 * jemalloc, so that they build on a bare GPU machine. */
#include <stdlib.h>

#include "runtime/base/mem.h"

static void *or_die(void *memory)
{
    if (!memory)
        abort();
    return memory;
}

void *rt_xcalloc(size_t count, size_t size)
{
    return or_die(calloc(count, size));
}

void *rt_xrealloc(void *old, size_t size)
{
    return or_die(realloc(old, size));
}

void *rt_try_malloc(size_t size)
{
    return malloc(size);
}

void *rt_try_aligned(size_t size)
{
    return aligned_alloc(64, rt_align_up(size, 64));
}

void rt_free(void *p)
{
    free(p);
}
