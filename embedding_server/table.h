/* embedding_server/table.h -- the rows of one table that one owner holds.
 *
 * A row is {id | weights, float32[dim] | optimizer state}. Every 64-bit id is legal, 0 and UINT64_MAX
 * included. A row exists once a gradient was applied to it; before that it reads as its initial value,
 * which is computed (init.h). Memory grows with live rows, without long pauses and without a second copy.
 * Touch: the owner's thread only; there is no lock. */
#ifndef EBS_TABLE_H
#define EBS_TABLE_H

#include "embedding_server/init.h"
#include "embedding_server/optimizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EBS_DIM_MAX 1024u /* as WIRE_DIM_MAX */

struct ebs_table;

struct ebs_table_conf {
    const char *name; /* copied; part of what makes initial values */
    uint32_t dim;     /* 1..EBS_DIM_MAX */
    uint64_t seed;    /* the job's */
    struct ebs_init_conf init;
    struct ebs_optimizer_conf optimizer;
};

/* RT_EUSAGE names the table and the number; RT_ENOMEM. */
int ebs_table_create(const struct ebs_table_conf *conf, struct ebs_table **out);
void ebs_table_destroy(struct ebs_table *table); /* NULL is legal */

const char *ebs_table_name(const struct ebs_table *table);
uint32_t ebs_table_dim(const struct ebs_table *table);

/* ebs_table_lookup() - copy the weights of rows; a missing row reads as its initial value.
 * @id: [n]     @row: [n][dim] float32, caller's memory.
 * Creates nothing.  Return: number of ids that had a row. */
size_t ebs_table_lookup(const struct ebs_table *table, const uint64_t *id, size_t n, float *row);

/* One update: gradient i belongs to id[i] whatever the other ids' rows are. */
struct ebs_update {
    const uint64_t *id; /* [n]; an id that comes twice is applied twice, in order */
    const float *grad;  /* [n][dim] */
    size_t n;
    float lr;      /* finite */
    uint64_t step; /* the group's, from 1 on */
};
struct ebs_applied {
    uint64_t rows;      /* rows that were changed */
    uint64_t created;   /* of these, rows that did not exist before */
    uint64_t nonfinite; /* gradients not applied: a value not finite, or over EBS_GRADIENT_MAX */
};

/* ebs_table_apply() - run the optimizer on the rows of an update, creating those that are missing.
 * A gradient with a value that is not usable is left out as a whole and creates nothing.
 * All or nothing: RT_ENOMEM or RT_ELIMIT and no row has changed (a missing one may have been created,
 * with its initial value, which reads the same). @out: added to, not cleared; untouched on error. */
int ebs_table_apply(struct ebs_table *table, const struct ebs_update *update,
                    struct ebs_applied *out);

/* The same in two halves, so that updates of several tables succeed or fail together. prepare finds or
 * creates the rows and is all that can fail; commit changes them. No remove in between.
 * @found: [n] caller's memory, the link between the two. */
int ebs_table_prepare(struct ebs_table *table, const struct ebs_update *update, uint32_t *found,
                      struct ebs_applied *out);
void ebs_table_commit(struct ebs_table *table, const struct ebs_update *update,
                      const uint32_t *found);

/* Forget a row: from now on it reads as its initial value. false: there was none. */
bool ebs_table_remove(struct ebs_table *table, uint64_t id);

uint64_t ebs_table_rows(const struct ebs_table *table);
size_t ebs_table_row_bytes(const struct ebs_table *table); /* id, weights and state of one row */

/* Bytes of memory, by kind; the part of the last block of rows that was never touched does not count. */
struct ebs_table_bytes {
    size_t rows; /* blocks of rows, free ones included */
    size_t index;
    size_t scratch; /* for the largest update so far */
};
struct ebs_table_bytes ebs_table_bytes(const struct ebs_table *table);

/* All rows, in the order of their memory: for (uint32_t at = 0; ebs_table_next(table, &at, &row);).
 * The pointers are good until the next apply or remove. */
struct ebs_row {
    uint64_t id;
    const float *weight; /* [dim] */
    const float *state;  /* [ebs_optimizer_state_count()] */
};
bool ebs_table_next(const struct ebs_table *table, uint32_t *cursor, struct ebs_row *out);

#endif
