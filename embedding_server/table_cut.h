/* embedding_server/table_cut.h -- the rows of a table as they are at one instant, while it goes on.
 *
 *   ebs_table_cut -> ebs_table_cut_pass, often, in slices -> it says that all is passed
 *                    or ebs_table_cut_drop -> ebs_table_cut_let_go, often -> it says that all is
 *
 * The cut is made in no time: nothing is copied but what changes before it is passed (slab.h). A row that is updated, put, evicted or
 * removed goes to the buffer as it was, then it changes; the others go there when the cut passes them. A byte of a row that differs is
 * a change: its stamp too. Rows stay where they are meanwhile: there is no upkeep but memory for growth (tend.c). The lines of the sketch
 * of admission (admit.h) go the same way, before the rows.
 *
 * From the first cut on a table knows which rows have changed since the latest one, and which ids have gone: an increment is cut from
 * them. Of ids that went at most an eighth of the rows are known (65,536 of a small table); of more there is no increment.
 * Touch: owner thread only. */
#ifndef EBS_TABLE_CUT_H
#define EBS_TABLE_CUT_H

#include "embedding_server/rowbuf.h"
#include "embedding_server/table.h"

/* Ids whose rows went since the latest cut; one that came again and went again is there twice, and one may have a row. */
struct ebs_removed {
    uint64_t *id; /* [n] rt_free */
    size_t n, room;
    bool lost; /* there were more than are kept */
};
#define EBS_REMOVED_MIN  65536u
#define EBS_REMOVED_PART 8u

/* Rows changed since the latest cut; before the first: all. */
uint64_t ebs_table_changed(const struct ebs_table *table);
/* Is it known what has changed, and what has gone? */
bool ebs_table_knows_changes(const struct ebs_table *table);

/* The rows are those of a cut, made before this table was: what changes from now on is known, as after that cut. */
void ebs_table_follow(struct ebs_table *table);
/* Begin; none is under way, but one that was dropped. @full: all rows, else those that changed: ebs_table_changed() of them.
 * @number: of the table, in the buffer. @out: outlives the cut. @removed: the ids that went, the caller's now; NULL with `full`. */
void ebs_table_cut(struct ebs_table *table, bool full, uint32_t number, struct ebs_rowbuf *out,
                   struct ebs_removed *removed);
/* At most EBS_CUT_ROWS more rows, or lines, go to the buffer: at most ebs_table_cut_pass_bytes(). false: the cut has passed all, and is over. */
#define EBS_CUT_ROWS 64u
bool ebs_table_cut_pass(struct ebs_table *table);
size_t ebs_table_cut_pass_bytes(const struct ebs_table *table);
/* Over, whatever is left: nothing is copied any more, and the buffer may go. Takes no time, but for a bit per line of the sketch. */
void ebs_table_cut_drop(struct ebs_table *table);
/* Then the bits of the rows that are left are set right, those of some 262,144 at a call. true: there are others. A new cut does it first,
 * for as many as are left then. */
bool ebs_table_cut_let_go(struct ebs_table *table);
/* What an update of so many ids may have copied, in bytes of the buffer (ebs_rowbuf_room); 0: no cut is under way. */
size_t ebs_table_cut_copies(const struct ebs_table *table, size_t ids);
/* The same while one is; the longest row or line. */
size_t ebs_table_cut_most(const struct ebs_table *table, size_t ids);
size_t ebs_table_cut_row_max(const struct ebs_table *table);

#endif
