/* embedding_server/table_inner.h -- what table.c, update.c and tend.c share; nobody else includes it. */
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
#include "embedding_server/table.h"
#include "runtime/base/prefetch.h"
#include "runtime/job/layout.h"

#define EBS_STRETCH 256u /* ids that are worked on at a time */
#define EBS_LINE    64u

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
    bool marking;            /* marks were cleared once: updates set them */
    bool sweeping;           /* for rows to expire */
    uint32_t sweep_at;       /* next row of the sweep */
    uint64_t sweep_due;      /* time_ms of the next one */
    struct ebs_table_counts counts;
};

/* The first two stages of a stretch of ids (table.c has the picture). */
struct ebs_stretch {
    size_t n;
    const uint64_t *id;
    uint64_t hash[EBS_STRETCH];
    uint32_t candidate[EBS_STRETCH]; /* not yet compared with the id */
};

/* To L2, where a stretch's rows fit whatever their size. (For small rows L1 was as fast.) */
static inline void ebs_prefetch_row(const struct ebs_slab *slab, uint32_t row, size_t bytes)
{
    const uint8_t *at, *end;

    if (row == EBS_ROW_NONE)
        return;
    at = ebs_slab_at(slab, row);
    end = at + bytes;
    for (; at < end; at += EBS_LINE)
        __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(end - 1, 0, 2);
    RT_PREFETCHES();
}

/* Stages 1 and 2. @bytes: how much of each row stage 3 will touch. The few ids (one in 30) that their home line does
 * not tell of are asked for again at the end, when the line after it has come. */
static inline void ebs_stage(const struct ebs_table *table, const uint64_t *id, size_t n,
                             size_t bytes, struct ebs_stretch *out)
{
    const struct ebs_index *index = &table->index;
    uint32_t home[EBS_STRETCH], later[EBS_STRETCH];
    size_t n_later = 0;

    out->n = n;
    out->id = id;
    for (size_t i = 0; i < n; i++) {
        out->hash[i] = ebs_index_hash(index, id[i]);
        home[i] = ebs_index_home(index, out->hash[i]);
        __builtin_prefetch(&index->line[home[i]], 0, 2);
    }
    for (size_t i = 0; i < n; i++) {
        if (ebs_index_at_home(index, home[i], out->hash[i], &out->candidate[i])) {
            ebs_prefetch_row(&table->slab, out->candidate[i], bytes);
        } else {
            __builtin_prefetch(&index->line[home[i] + 1], 0, 2);
            later[n_later++] = (uint32_t)i;
        }
    }
    for (size_t i = 0; i < n_later; i++) {
        uint32_t *candidate = &out->candidate[later[i]];

        *candidate = ebs_index_candidate(index, out->hash[later[i]]);
        ebs_prefetch_row(&table->slab, *candidate, bytes);
    }
}

/* The row of id i of a stretch. */
static inline uint32_t ebs_settle(const struct ebs_table *table, const struct ebs_stretch *s,
                                  size_t i)
{
    uint32_t row = s->candidate[i];

    if (row == EBS_ROW_NONE || ebs_row_id(ebs_slab_at(&table->slab, row)) == s->id[i])
        return row;
    return ebs_index_find(&table->index, &table->slab, s->hash[i], s->id[i]);
}

/* Take a row out of the table (table.c); who calls counts it. */
void ebs_table_drop(struct ebs_table *table, uint32_t row);

#endif
