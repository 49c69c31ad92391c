/* runtime/process/incarnation.h -- the number of this start of an identity (role, index): it has to grow. */
#ifndef RT_INCARNATION_H
#define RT_INCARNATION_H

#include "runtime/base/role.h"

#include <stdbool.h>
#include <stdint.h>

struct rt_incarnation {
    uint64_t number;
    bool raised; /* this process began with it because a peer held a higher one */
    char *path;  /* where the last one is stored; NULL: no run directory */
};

/* max(wall clock in ms, stored + 1, what rt_incarnation_raise asked for). Stores it; a file that cannot be read
 * or written is logged, for the wall clock alone is good as long as nobody puts it back. */
void rt_incarnation_take(struct rt_incarnation *in, const char *run_dir, enum rt_role role,
                         uint32_t index);
void rt_incarnation_release(struct rt_incarnation *in);
/* A number that somebody holds: the next start will be above it. */
void rt_incarnation_store(const struct rt_incarnation *in, uint64_t number);
/* Become a new start of this program, with the same arguments and a number above `held`. Threads, descriptors above
 * 2 and all memory go; the process id stays. Returns only when it fails. */
int rt_incarnation_raise(uint64_t held, char *const *argv);

#endif
