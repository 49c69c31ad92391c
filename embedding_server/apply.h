/* embedding_server/apply.h -- run the updates of some parts on an owner's tables, all or none, in pieces.
 *
 *   IDLE -ebs_apply_begin-> MERGE -> ROWS -> DONE      each arrow: ebs_apply_piece, often
 *   any  -ebs_apply_end-> IDLE
 *
 * The beginning is all that can fail; nothing has changed then. The first row changes with the first piece of ROWS.
 * How it is cut makes no difference to any value, bit for bit. It may to which rows make room for others, for
 * these are chosen for several at a time.
 * Touch: owner thread only. */
#ifndef EBS_APPLY_H
#define EBS_APPLY_H

#include "embedding_server/merge.h"

enum ebs_apply_phase { EBS_APPLY_IDLE, EBS_APPLY_MERGE, EBS_APPLY_ROWS, EBS_APPLY_DONE };

/* One update of one table; private to apply.c. */
struct ebs_run {
    struct ebs_update update;
    uint32_t table;
    size_t part; /* whose outcome it counts in */
};

struct ebs_applier {
    struct ebs_table **table; /* [n_tables], the job's list */
    const float *lr;          /* [n_tables] learning rate of each, before the factor told */
    uint32_t n_tables;
    uint32_t staleness;  /* the job's: how many steps a rank may be ahead of its gradients */
    uint32_t piece_rows; /* most rows of a piece; 0: as many as PIECE_BYTES are */
    enum ebs_apply_phase phase;
    /* private: the application under way, and memory that is used again */
    bool at_once; /* not in pieces */
    struct ebs_part *const *part;
    size_t n_parts;
    struct ebs_merge *merge;
    struct ebs_run *run; /* [n_runs] */
    uint64_t *ticked;    /* [n_tables] the application that a table had its tick for */
    uint64_t applications;
    size_t n_runs, run_capacity, at_run, at_row;
};
void ebs_applier_release(struct ebs_applier *applier); /* its memory; the tables are the owner's */

/* ebs_apply_begin() - one update per part and table, in the order given, of one batch; or, when `merge`, one
 * update per table: gradients of an id that several parts have are added first, in the order of the parts (ranks).
 * @part: [n], stays with its parts until the end.
 * RT_ENOMEM, RT_ELIMIT: nothing has begun. */
int ebs_apply_begin(struct ebs_applier *applier, struct ebs_part *const *part, size_t n, bool merge,
                    uint64_t time_ms);

/* The next piece. In DONE the parts have their `rows` and `nonfinite` (merged: all of it in the first), and only
 * ebs_apply_end() may follow. */
void ebs_apply_piece(struct ebs_applier *applier);

void ebs_apply_end(struct ebs_applier *applier);

/* All of it at once. As ebs_apply_begin(). */
int ebs_apply_parts(struct ebs_applier *applier, struct ebs_part *const *part, size_t n, bool merge,
                    uint64_t time_ms);

/* Bytes of memory that an update (and about as much as a lookup) of so many rows goes through: what its time
 * goes by. */
size_t ebs_work_bytes(const struct ebs_table *table, size_t rows);
/* Rows of a table that are one piece. */
#define EBS_PIECE_ROWS_MAX 512u
size_t ebs_piece_rows(const struct ebs_table *table);

#endif
