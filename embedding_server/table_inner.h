/* embedding_server/table_inner.h -- what table*.c, update.c and tend.c share; nobody else includes it. */
#ifndef EBS_TABLE_INNER_H
#define EBS_TABLE_INNER_H

#include "embedding_server/admit.h"
#include "embedding_server/clock.h"
#include "embedding_server/element.h"
#include "embedding_server/evict.h"
#include "embedding_server/index.h"
#include "embedding_server/init.h"
#include "embedding_server/optimizer.h"
#include "embedding_server/slab.h"
#include "embedding_server/stage.h"
#include "embedding_server/table.h"
#include "embedding_server/table_cut.h"
#include "runtime/job/layout.h"

struct ebs_table {
    char *name;
    uint32_t dim;
    struct rt_table_conf job; /* without its name */
    struct rt_row_layout layout;
    struct ebs_init init;
    struct ebs_optimizer optimizer;
    struct ebs_index index;
    struct ebs_slab slab;
    struct ebs_clock clock;
    struct ebs_evict evict;
    struct ebs_admit *admit; /* NULL: every id is admitted */
    size_t fixed_bytes;      /* of itself and admit, as taken from the budget */
    uint64_t capacity;       /* rows; UINT64_MAX: any number */
    bool marking;            /* there was a cut: what changes is marked, and what goes is noted */
    struct ebs_removed removed; /* since the latest cut */
    struct ebs_rowbuf *cut_out; /* of the cut under way */
    uint32_t cut_number;        /* of the table, there */
    bool sweeping;              /* for rows to expire */
    uint32_t sweep_at;          /* next row of the sweep */
    uint64_t sweep_due;         /* time_ms of the next one */
    struct ebs_table_counts counts;
};

/* Stages 1 and 2 of a stretch. @bytes: how much of each row stage 3 will touch. */
static inline void ebs_stage(const struct ebs_table *table, const uint64_t *id, size_t n,
                             size_t bytes, struct ebs_stretch *out)
{
    ebs_stage_run(&(struct ebs_finder){.index = table->index,
                                       .rows = table->slab.rows.at,
                                       .row_bytes = table->slab.row_bytes,
                                       .bytes = bytes},
                  id, n, out);
}

/* The number of an id's row; EBS_ROW_NONE: there is none. */
static inline uint32_t ebs_table_find(const struct ebs_table *table, uint64_t id)
{
    return ebs_index_find(&table->index, &table->slab, ebs_index_hash(&table->index, id), id);
}

/* Where it is; NULL: there is none. */
static inline uint8_t *ebs_table_row(const struct ebs_table *table, uint64_t id)
{
    uint32_t row = ebs_table_find(table, id);

    return row == EBS_ROW_NONE ? NULL : ebs_slab_at(&table->slab, row);
}

/* Stage 3 begins: another id's row that has the same tag (one in 30) is not taken for this one's.
 * @return: how many ids have no row. */
static inline size_t ebs_settle(const struct ebs_table *table, struct ebs_stretch *s)
{
    size_t missing = 0;

    for (size_t i = 0; i < s->n; i++) {
        uint8_t *row = s->row[i];

        if (row && ebs_row_id(row) != s->id[i])
            row = s->row[i] = ebs_table_row(table, s->id[i]);
        missing += row == NULL;
    }
    return missing;
}

/* A slot in the slab and one in the index for an id that has none; the row's content is undefined (put.c). RT_EFULL, RT_ENOMEM,
 * RT_ELIMIT: nothing has changed. */
int ebs_table_place(struct ebs_table *table, uint64_t id, uint32_t *out);

/* Take a row out of the table (table.c); who calls counts it. */
void ebs_table_drop(struct ebs_table *table, uint32_t row);

/* table_cut.c: a row is about to change, as it is it goes to the cut under way, if it is of it; the same of all rows of a stretch, and of
 * the line of the sketch that an id is counted in, to be called where a cut of them is under way only; an id has lost its row. */
void ebs_table_keep(struct ebs_table *table, uint32_t row);
void ebs_table_keep_line(struct ebs_table *table, uint64_t id);
void ebs_table_keep_stretch(struct ebs_table *table, const struct ebs_stretch *s);
void ebs_table_note_removed(struct ebs_table *table, uint64_t id);

#endif
