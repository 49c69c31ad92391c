/* trainer/collective/collective.h -- what the ranks of a group do together in one step.
 *
 * A vtable because there is a true fork: a group of one here, a TCP ring, NCCL. Header exchange runs on
 * the loop thread and travels while the step before is computed; the all-reduce runs on the step thread. */
#ifndef TR_COLLECTIVE_H
#define TR_COLLECTIVE_H

#include "runtime/wire/step.h"

struct tr_collective;

/* All ranks' headers, in rank order, when every one is in. err: the group is broken. Loop thread. */
typedef void (*tr_headers_fn)(void *arg, int err, const struct wire_step_header *header,
                              uint32_t n_ranks);

struct tr_collective_ops {
    const char *name;
    /* May call `done` before it returns. `mine` is copied where it is needed longer. */
    void (*gather_headers)(struct tr_collective *collective, const struct wire_step_header *mine,
                           tr_headers_fn done, void *arg);
    /* Sum grads[n] over the ranks, in place; *finite becomes the logical and of all ranks'. Step thread. */
    int (*all_reduce)(struct tr_collective *collective, float *grads, size_t n, bool *finite);
    void (*destroy)(struct tr_collective *collective);
};

struct tr_collective {
    const struct tr_collective_ops *ops; /* implementations embed this first */
};

/* The group of one rank: its header is all headers, its sum is its own. */
int tr_collective_single(struct tr_collective **out);

#endif
