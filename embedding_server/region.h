/* embedding_server/region.h -- one array that grows and shrinks at its end, page by page, up to any size.
 *
 *   | in use, zero where never written | addresses only, no memory |
 *   at                             at + size              at + reserved
 *
 * From 1 MiB on in huge pages, before that in small ones: what it holds is what it uses, but for less than one page.
 * When its addresses run out the page tables move to a larger range, not the bytes but for those of a small region: pointers into
 * a region end when it grows. Touch: owner thread only. */
#ifndef EBS_REGION_H
#define EBS_REGION_H

#include "embedding_server/budget.h"
#include "runtime/job/layout.h"

#include <stdint.h>

#define EBS_PAGE      RT_SMALL_PAGE
#define EBS_HUGE_PAGE RT_HUGE_PAGE
#define EBS_HUGE_FROM RT_HUGE_FROM /* regions of this size and more ask for huge pages */

struct ebs_region {
    uint8_t *at;               /* one mapping; NULL before anything was asked for */
    size_t size, reserved;     /* bytes, whole pages */
    struct ebs_budget *budget; /* `size` is taken from it; NULL: none. Borrowed */
};

void ebs_region_init(struct ebs_region *region, struct ebs_budget *budget);
void ebs_region_release(struct ebs_region *region); /* as after init */

/* At least `bytes` of it may be used afterwards; no pages are touched. RT_EFULL: over the budget (sets no error text);
 * RT_ENOMEM. Then nothing has changed. */
int ebs_region_grow(struct ebs_region *region, size_t bytes);

/* Whole pages past `bytes` go back to the system; they read as zero should they be used again. */
void ebs_region_shrink(struct ebs_region *region, size_t bytes);

/* Write to each page of [from, to), which is in use, so that whoever writes there next need not wait for it. */
void ebs_region_touch(struct ebs_region *region, size_t from, size_t to);

/* What it will hold for `bytes` of content: whole pages. */
size_t ebs_region_round(size_t bytes);

#endif
