/* embedding_server/apply.h -- run the updates of some parts on an owner's tables, all or none.
 * Touch: owner thread only. */
#ifndef EBS_APPLY_H
#define EBS_APPLY_H

#include "embedding_server/gather.h"
#include "embedding_server/table.h"

struct ebs_applier {
    struct ebs_table **table; /* [n_tables], the job's list */
    const float *lr;          /* [n_tables] learning rate of each, before the factor told */
    uint32_t n_tables;
    uint32_t *found; /* scratch, used again */
    size_t found_capacity;
};
void ebs_applier_release(struct ebs_applier *applier); /* the scratch; the tables are the owner's */

/* ebs_apply_parts() - one update per part and table, in the order given; or, when `merge`, one update
 * per table: gradients of an id that several parts have are added first, in the order of the parts (ranks).
 * Sets rows and nonfinite of each part (merged: all of it in the first). RT_ENOMEM: no row has changed. */
int ebs_apply_parts(struct ebs_applier *applier, struct ebs_part *const *part, size_t n,
                    bool merge);

#endif
