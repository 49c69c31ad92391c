/* embedding_server/region.c -- an array in memory of its own, by mmap.
 *
 * DESIGN: rows and index lines are hit at random, so they want huge pages and one address computation; they
 * must grow without a copy and give memory back exactly. malloc gives neither: a large block is not
 * a multiple of 2 MiB, and what lies past its last whole huge page is either wasted or in small pages.
 * So a region is one mapping of more addresses than are in use, without memory where nothing was written, and
 * mremap() makes it a larger one when they run out: 5 GB of huge pages are 2,700 entries of a page
 * table. A list of blocks was used first: a load more for each row, and 4 % of the rows in small pages.
 *
 * It is one mapping to the system, all of it with the same rights and advice. Before Linux 6.17 mremap() takes no
 * more than one at a time, and what was moved and what is made usable beside it later are two for ever: with
 * the rest reserved as PROT_NONE the second move of a region was refused, and its bytes had to be copied.
 * Small regions are copied, since one that was moved does not become one with its neighbours again, and a
 * process may have 65,530 mappings: fewer than thousands of tables have regions, in eight owners. And a region that is copied
 * when it becomes large stands in huge pages as a whole. Moved, its first rows would stay in small ones, and those are
 * the ones most asked for: with that, and huge pages from 4 MiB on, lookups and updates of 26 tables of 100,000 rows (dim 16,
 * Adagrad) took 8 % longer, and shared out to 4 owners 13 %. */
#include "embedding_server/region.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <string.h>
#include <sys/mman.h>

#define RESERVE_FIRST ((size_t)64 << 10) /* four times as much when used up; twice, when large */
#define COPY_MAX      EBS_HUGE_FROM      /* up to here bytes are copied then */

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

/* Advice only: without huge pages the memory is as good, just slower to touch at random. They are refused where the
 * use ends at a small page: one of them would be held whole. */
static void advise(uint8_t *at, size_t bytes, size_t used)
{
    (void)madvise(at, bytes, used >= EBS_HUGE_FROM ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

/* Addresses for `bytes`, of which `used` will be; large ones are aligned for huge pages. NULL when there are none. */
static uint8_t *reserve(size_t bytes, size_t used)
{
    size_t spare = bytes > COPY_MAX ? EBS_HUGE_PAGE : 0, lead = 0;
    uint8_t *at = mmap(NULL, bytes + spare, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (at == MAP_FAILED)
        return NULL;
    if (spare > 0)
        lead = rt_align_up((uintptr_t)at, EBS_HUGE_PAGE) - (uintptr_t)at;
    if (lead > 0)
        (void)munmap(at, lead);
    if (spare > lead)
        (void)munmap(at + lead + bytes, spare - lead);
    advise(at + lead, bytes, used);
    return at + lead;
}

/* Move all of it to the front of a new range, by its page tables if it is large. Where the system refuses that, its bytes
 * are copied, to one more range: what became of the refused one is unknown, and another thread may have got a part
 * of it. NULL: no addresses. */
static uint8_t *move(const struct ebs_region *region, uint8_t *to, size_t reserved)
{
    if (!region->at)
        return to;
    if (region->reserved > COPY_MAX) {
        if (mremap(region->at, region->reserved, reserved, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to)
            return to;
        to = reserve(reserved, region->size);
        if (!to)
            return NULL;
    }
    memcpy(to, region->at, region->size);
    (void)munmap(region->at, region->reserved);
    return to;
}

/* A range that `size` bytes fit in. */
static bool extend(struct ebs_region *region, size_t size)
{
    size_t reserved = RESERVE_FIRST;
    uint8_t *at;

    while (reserved < size)
        reserved *= reserved < COPY_MAX ? 4 : 2;
    at = reserve(reserved, size);
    if (at)
        at = move(region, at, reserved);
    if (!at)
        return false;
    advise(at, reserved, size);
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
        return RT_EFULL; /* at the limit each new row asks, so it is not told in words */
    if (rt_fault_now() || (size > region->reserved && !extend(region, size))) {
        if (region->budget)
            ebs_budget_give(region->budget, more);
        return RT_FAIL(RT_ENOMEM, "memory for rows: out of memory at %zu bytes more, holding %zu",
                       more, region->size);
    }
    if (region->size < EBS_HUGE_FROM && size >= EBS_HUGE_FROM)
        advise(region->at, region->reserved, size);
    region->size = size;
    return 0;
}

void ebs_region_shrink(struct ebs_region *region, size_t bytes)
{
    size_t size = ebs_region_round(bytes), less;

    if (size >= region->size)
        return;
    less = region->size - size;
    if (madvise(region->at + size, less, MADV_DONTNEED) != 0)
        return;
    if (region->size >= EBS_HUGE_FROM && size < EBS_HUGE_FROM)
        advise(region->at, region->reserved, size);
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
