/* embedding_server/merge.h -- the gradients of several ranks as one list per table, each id once.
 *
 * Gradients of an id that comes several times are added in the order of the parts (ranks), and within a part in the
 * order of its rows; ids stand in the order of their first occurrence. Where the work was cut into pieces does
 * not change a bit of it. What is added is float32, whatever the parts came in.
 * Touch: owner thread only. */
#ifndef EBS_MERGE_H
#define EBS_MERGE_H

#include "embedding_server/gather.h"
#include "embedding_server/table.h"

struct ebs_merge;

/* Ids and gradients of a part's table, as an update has them. The rest of the update stays. */
void ebs_part_rows(const struct ebs_part *part, uint32_t t, struct ebs_update *out);

/* What came of one table. */
struct ebs_merged {
    uint32_t table; /* in the job's list, growing */
    const uint64_t *id;
    const float *grad; /* [n][dim] */
    size_t n;
};

/* Takes the memory for all of it. The parts must stay until the end. RT_ENOMEM, RT_ELIMIT. */
int ebs_merge_create(struct ebs_table *const *table, uint32_t n_tables,
                     struct ebs_part *const *part, size_t n, struct ebs_merge **out);
void ebs_merge_destroy(struct ebs_merge *merge); /* NULL is legal */

/* Add up at most so many rows, of one table. false: nothing is left to do. */
bool ebs_merge_piece(struct ebs_merge *merge, size_t rows);

/* Its tables: their number from the start, their contents once all is added up. */
size_t ebs_merge_tables(const struct ebs_merge *merge);
const struct ebs_merged *ebs_merge_table(const struct ebs_merge *merge, size_t i);

#endif
