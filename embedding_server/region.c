/* embedding_server/region.c -- an array in memory of its own, by mmap.
 *
 * DESIGN: rows and index lines are hit at random, so they want huge pages and one address computation; they
 * must grow without a copy and give memory back exactly. malloc gives neither: a large block is not
 * a multiple of 2 MiB, and what lies past its last whole huge page is either wasted or in small pages.
 * So addresses are reserved (PROT_NONE, which costs nothing and counts nowhere), made usable from the front
 * page by page, and moved with mremap() when they run out: 5 GB of huge pages are 2,700 entries of a page
 * table. A list of blocks was used first: a load more for each row, and 4 % of the rows in small pages. */
#include "embedding_server/region.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <string.h>
#include <sys/mman.h>

#define RESERVE_FIRST ((size_t)64 << 20) /* doubled whenever it is used up */

void ebs_region_init(struct ebs_region *region, struct ebs_budget *budget)
{
    *region = (struct ebs_region){.budget = budget};
}

void ebs_region_release(struct ebs_region *region)
{
    if (region->at)
        (void)munmap(region->at, region->reserved);
    if (region->budget)
        ebs_budget_give(region->budget, region->size);
    ebs_region_init(region, region->budget);
}

size_t ebs_region_round(size_t bytes)
{
    return rt_whole_pages(bytes);
}

/* `bytes` of addresses, aligned for huge pages; NULL when there are none. */
static uint8_t *reserve(size_t bytes)
{
    size_t span = bytes + EBS_HUGE_PAGE, lead;
    uint8_t *at = mmap(NULL, span, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    lead = rt_align_up((uintptr_t)at, EBS_HUGE_PAGE) - (uintptr_t)at;
    if (lead > 0)
        (void)munmap(at, lead);
    (void)munmap(at + lead + bytes, EBS_HUGE_PAGE - lead);
    return at + lead;
}

/* Advice only: without huge pages the memory is as good, just slower to touch at random. */
static void advise(uint8_t *at, size_t bytes)
{
    (void)madvise(at, bytes, MADV_HUGEPAGE);
}

/* Move what is in use to the front of a new range, by its page tables. Where the system refuses (a fork has cut
 * the mapping in pieces) its bytes are copied, to one more range: what became of the refused one is unknown, and
 * another thread may have got a part of it. NULL: no addresses. */
static uint8_t *move(const struct ebs_region *region, uint8_t *to, size_t reserved)
{
    size_t size = region->size;

    if (size == 0)
        return to;
    if (mremap(region->at, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to) {
        (void)munmap(region->at + size, region->reserved - size);
        return to;
    }
    (void)munmap(to + size, reserved - size);
    to = reserve(reserved);
    if (!to)
        return NULL;
    if (mprotect(to, size, PROT_READ | PROT_WRITE) != 0) {
        (void)munmap(to, reserved);
        return NULL;
    }
    advise(to, size);
    memcpy(to, region->at, size);
    (void)munmap(region->at, region->reserved);
    return to;
}

/* A range that `size` bytes fit in. */
static bool extend(struct ebs_region *region, size_t size)
{
    size_t reserved = RESERVE_FIRST;
    uint8_t *at;

    while (reserved < size)
        reserved *= 2;
    at = reserve(reserved);
    if (at)
        at = move(region, at, reserved);
    if (!at)
        return false;
    if (size >= EBS_HUGE_FROM)
        advise(at, reserved);
    region->at = at;
    region->reserved = reserved;
    return true;
}

int ebs_region_grow(struct ebs_region *region, size_t bytes)
{
    size_t size = ebs_region_round(bytes), more;

    if (size <= region->size)
        return 0;
    more = size - region->size;
    if (region->budget && !ebs_budget_take(region->budget, more))
        return RT_EFULL; /* at a cap that is the answer for each new row: no time for a text that nobody reads */
    if (rt_fault_now() || (size > region->reserved && !extend(region, size)) ||
        mprotect(region->at + region->size, more, PROT_READ | PROT_WRITE) != 0) {
        if (region->budget)
            ebs_budget_give(region->budget, more);
        return RT_FAIL(RT_ENOMEM, "memory for rows: out of memory at %zu bytes more, holding %zu",
                       more, region->size);
    }
    if (region->size < EBS_HUGE_FROM && size >= EBS_HUGE_FROM)
        advise(region->at, region->reserved);
    region->size = size;
    return 0;
}

void ebs_region_shrink(struct ebs_region *region, size_t bytes)
{
    size_t size = ebs_region_round(bytes), less;
    uint8_t *end = region->at + size;

    if (size >= region->size)
        return;
    less = region->size - size;
    /* Mapped anew and not only protected: that gives back what the system has promised, too. */
    if (mmap(end, less, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1,
             0) != end)
        return;
    if (size >= EBS_HUGE_FROM)
        advise(end, less);
    region->size = size;
    if (region->budget)
        ebs_budget_give(region->budget, less);
}

void ebs_region_touch(struct ebs_region *region, size_t from, size_t to)
{
    rt_assert(to <= region->size);
    for (size_t at = from; at < to; at += EBS_PAGE) {
        volatile uint8_t *byte = region->at + at;

        *byte = *byte;
    }
}
