/* embedding_server/back.h -- mode `exact`: rows are those of one line of steps, and who has left it is started anew.
 *
 * Where a trainer or an embedding server is lost, trainer/0 sends all of them back to one checkpoint (trainer/back.h). An owner that has
 * just the rows of it stays; another says so to its process, which ends, is started again and reads them. Until trainer/0 has
 * compared it with the ledger (a check of TellLedger: lost.h) an owner gives no rows, lookups wait, and takes no gradients. Those of
 * steps that were made before may still be on their way, in a middleware that has lived on: the check tells the lowest
 * attempt that is not over, and what is of a lower one is refused with RT_EUNKNOWN, which nobody repeats. Touch: owner thread only. */
#ifndef EBS_BACK_H
#define EBS_BACK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct ebs_owner;
struct rt_call;
struct rt_frame;

/* What struct ebs_owner has of it. */
struct ebs_history {
    uint64_t base;      /* attempt of the checkpoint that its rows are of; 0: it began with none */
    uint64_t base_step; /* of that checkpoint */
    bool imported;      /* rows of another model were read since then */
    uint64_t least;     /* attempt; steps of lower ones are over */
    atomic_bool compared; /* its rows are what trainer/0 expects. Any thread may read it */
};

void ebs_serve_go_back(void *ctx, struct rt_call *call, const struct rt_frame *request);
/* It was compared, and steps of attempts below this one are over. */
void ebs_history_begin(struct ebs_owner *owner, uint64_t attempt);
/* May gradients of this attempt be applied? RT_ENOTREADY: nobody knows yet; RT_EUNKNOWN: it is over. owner.h: ebs_history_waits() */
int ebs_history_check(const struct ebs_owner *owner, uint64_t attempt);

#endif
