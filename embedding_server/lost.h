/* embedding_server/lost.h -- what an owner that was started anew lacks, and what it would lack if it were started anew now.
 *
 * Lost: batches that the group has finished, so that nobody sends them again, and that the owner has not applied: what its filter
 * lacks of the ledger. A trainer tells the ledger (TellLedger) once an owner has come back; what is lost counts as applied from
 * then on, and is counted once; who asks again, for the answer may be lost with its link, hears the same. Outside synchronous mode an owner never hears of batches without rows of its own, so
 * some of those lost had none here; and after the first ledger nothing more is counted, for what is missing later had none.
 * A check asks first, and changes nothing where something is missing, or (exact) is beyond the ledger: then the job goes back (back.h).
 *
 * Window: what was applied since the cut of the last checkpoint that was published, in batches and seconds; before the first, since
 * the start. Touch: owner thread only. */
#ifndef EBS_LOST_H
#define EBS_LOST_H

#include "embedding_server/filter.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/checkpoint.h"

struct ebs_owner;
struct rt_call;
struct rt_frame;

struct ebs_lost {
    uint64_t batches;
    uint32_t n_ranges; /* the first ones, where there are more */
    uint64_t first[WIRE_LOST_MAX];
    uint32_t count[WIRE_LOST_MAX];
};
/* What the filter lacks of a split of the ledger, added to *out. */
void ebs_lost_add(const struct ebs_filter *filter, const struct wire_split_ledger *ledger,
                  struct ebs_lost *out);

void ebs_serve_tell_ledger(void *ctx, struct rt_call *call, const struct rt_frame *request);

/* What struct ebs_owner has of the window. */
struct ebs_window {
    uint64_t updates, ns; /* batches applied by the latest cut; when it was */
};
void ebs_window_start(struct ebs_owner *owner);     /* nothing has been applied */
void ebs_window_cut(struct ebs_owner *owner);       /* at Cut */
void ebs_window_published(struct ebs_owner *owner); /* at EndCut of that cut, to keep it */

#endif
