/* ctl/voids.h -- checkpoints that trainer/0 gave up: a local run says so, for its user would go on from an older one than he thinks.
 *
 * One line of them in CTL_VOIDS_EVERY_NS: on a disk that is full each one is. Touch: main thread. */
#ifndef CTL_VOIDS_H
#define CTL_VOIDS_H

#include "ctl/poll.h"
#include "ctl/progress.h"

#define CTL_VOIDS_EVERY_NS (60 * 1000000000ull)

/* Zero-initialise. */
struct ctl_voids {
    uint64_t incarnation, known; /* of trainer/0, which counts; told of, or not worth it any more */
    uint64_t told_ns;            /* 0: never */
};

void ctl_voids_look(struct ctl_voids *voids, const struct ctl_snapshot *snapshot,
                    struct ctl_progress *progress);

#endif
