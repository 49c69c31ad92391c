/* trainer/permit.h -- staleness as a counted thing: one permit per batch that was looked up and whose
 * gradients are not yet acked. A hard bound: nothing is looked up without one. Touch: loop thread. */
#ifndef TR_PERMIT_H
#define TR_PERMIT_H

#include "runtime/base/assert.h"

#include <stdbool.h>
#include <stdint.h>

struct tr_permits {
    uint32_t limit; /* S; 1 in full and exact mode */
    uint32_t used;
    uint32_t used_max; /* staleness_max of the summary */
};

static inline bool tr_permit_take(struct tr_permits *permits)
{
    if (permits->used == permits->limit)
        return false;
    if (++permits->used > permits->used_max)
        permits->used_max = permits->used;
    return true;
}

static inline void tr_permit_return(struct tr_permits *permits)
{
    rt_assert(permits->used > 0);
    permits->used--;
}

#endif
