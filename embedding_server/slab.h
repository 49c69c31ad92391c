/* embedding_server/slab.h -- memory of a table's rows: fixed-size rows, numbered, in one array that grows at its end.
 *
 *   row: id (8 bytes) | ... as runtime/job/layout.h says ...     4-byte aligned
 *
 *   rows   | live or free ...........| never used, no memory but the rest of a page |
 *          0                       fresh                                        capacity
 *   bits   live, mark and saved, 64 rows per three words
 *
 * A row's number says where it stands. Freed rows are used again first, the lowest first, so that the end
 * of the array empties; compaction moves the last rows into free ones and gives the pages back. Row numbers
 * change only there. A pointer to a row is valid until the next allocation or trim.
 *
 * A CUT is all live rows, or all that are marked, as they are when it begins; that takes no time. It is passed a block of 64 rows
 * after the other, from row 0 to cut_end. Of the blocks ahead of it:
 *   pending   live, not saved, and (full or marked): of the cut, and no byte has changed. ebs_slab_keep() says so before it does.
 *   saved     was kept before it changed or went, or is a row made since: not the cut's to pass any more
 * A block that is passed gives its pending rows, and keeps the marks of saved ones, which changed since. So when all are passed a
 * mark says: changed since the cut. Nothing moves while blocks are ahead. In a cut that was dropped nothing is pending any more, and no
 * row has to be kept; but its blocks have to be passed before the next one. Touch: owner thread only. */
#ifndef EBS_SLAB_H
#define EBS_SLAB_H

#include "embedding_server/region.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define EBS_ROW_NONE UINT32_MAX
#define EBS_ROWS_MAX RT_ROWS_MAX

/* Of 64 rows: bit i belongs to row i of them. */
struct ebs_row_bits {
    uint64_t live;
    uint64_t
        mark; /* changed since the latest cut; ahead of one: since the one before, or saved and changed since */
    uint64_t saved; /* 0, but ahead of a cut */
};

struct ebs_slab {
    size_t row_bytes;
    uint32_t capacity; /* rows that fit without growth */
    uint32_t fresh;    /* rows from here on were never used */
    uint64_t count;    /* live rows; fresh - count are free */
    struct ebs_region rows, bits;
    uint32_t cut_at, cut_end; /* multiples of 64: rows ahead of the cut; none: 0, 0 */
    bool cut_full, cut_dropped;
    uint64_t marked; /* rows changed since the latest cut */
    uint64_t *open;  /* bit per block of rows: it may have a free one. See slab.c */
    size_t open_words;
    size_t open_from;    /* words of `open` before this are 0 */
    uint32_t ahead_from; /* `fresh` when memory was last touched ahead */
    size_t touched;      /* bytes of rows touched ahead */
};

void ebs_slab_init(struct ebs_slab *slab, size_t row_bytes, struct ebs_budget *budget);
void ebs_slab_release(struct ebs_slab *slab);

/* A row for `id`, live, not marked, the rest of it undefined. RT_EFULL (budget), RT_ENOMEM, RT_ELIMIT; then
 * nothing has changed. */
int ebs_slab_alloc(struct ebs_slab *slab, uint64_t id, uint32_t *row);
void ebs_slab_free(struct ebs_slab *slab, uint32_t row);

/* Bytes in use: rows that were ever used, bits. */
size_t ebs_slab_bytes(const struct ebs_slab *slab);
/* What the system has given for them, whole pages: the rest of the last page, and what was touched ahead. */
size_t ebs_slab_resident(const struct ebs_slab *slab);

/* The first live row at or after `row`; EBS_ROW_NONE when there is none. */
uint32_t ebs_slab_next_live(const struct ebs_slab *slab, uint32_t row);

/* A cut of all rows, or of those that are marked. None is under way. */
void ebs_slab_cut(struct ebs_slab *slab, bool full);
/* Pass the block at cut_at. Return: a bit for each of its 64 rows that was pending. */
uint64_t ebs_slab_cut_pass(struct ebs_slab *slab);
/* Nobody wants it any more: takes no time. Then pass up to `blocks` more; true: there are others. */
void ebs_slab_cut_drop(struct ebs_slab *slab);
bool ebs_slab_cut_let_go(struct ebs_slab *slab, uint32_t blocks);

/* Compaction, one row at a time: which row to move, and to which free one; false: nothing to gain. Then the
 * caller tells its index, and calls move. */
bool ebs_slab_compact_next(struct ebs_slab *slab, uint32_t *from, uint32_t *to);
void ebs_slab_move(struct ebs_slab *slab, uint32_t from,
                   uint32_t to); /* `to` is free; mark moves too */
/* Pages past the last live row go back to the system. */
void ebs_slab_trim(struct ebs_slab *slab);

/* Memory that a VM never had costs up to 3 ms per huge page at its first touch. Called now and then, this
 * touches about `bytes` ahead of the rows in use (at least a page, so up to 3 ms), up to twice what the
 * table has grown by since the last call that had nothing to do; none where it has not grown. True: there is more. */
bool ebs_slab_touch_ahead(struct ebs_slab *slab, size_t bytes);

static inline uint8_t *ebs_slab_at(const struct ebs_slab *slab, uint32_t row)
{
    return slab->rows.at + (size_t)row * slab->row_bytes;
}

static inline uint32_t ebs_slab_number(const struct ebs_slab *slab, const uint8_t *row)
{
    return (uint32_t)((size_t)(row - slab->rows.at) / slab->row_bytes);
}

static inline struct ebs_row_bits *ebs_slab_bits(const struct ebs_slab *slab, uint32_t row)
{
    return (struct ebs_row_bits *)slab->bits.at + row / 64;
}

static inline bool ebs_slab_is_live(const struct ebs_slab *slab, uint32_t row)
{
    return row < slab->fresh && (ebs_slab_bits(slab, row)->live >> (row % 64) & 1);
}

static inline bool ebs_slab_is_ahead(const struct ebs_slab *slab, uint32_t row)
{
    return row - slab->cut_at < slab->cut_end - slab->cut_at;
}

/* A row is about to change, or to go. true: it is pending, and has to be copied now. */
static inline bool ebs_slab_keep(struct ebs_slab *slab, uint32_t row)
{
    struct ebs_row_bits *bits = ebs_slab_bits(slab, row);
    uint64_t bit = 1ull << (row % 64);
    bool marked = bits->mark & bit;

    if (!ebs_slab_is_ahead(slab, row) || (bits->saved & bit))
        return false;
    bits->saved |= bit;
    slab->marked += marked;
    return (slab->cut_full || marked) && !slab->cut_dropped;
}

/* A row has changed. It was kept before, where there is a cut. */
static inline void ebs_slab_mark(struct ebs_slab *slab, uint32_t row)
{
    struct ebs_row_bits *bits = ebs_slab_bits(slab, row);
    uint64_t bit = 1ull << (row % 64);

    slab->marked += !(bits->mark & bit);
    bits->mark |= bit;
}

static inline bool ebs_slab_marked(const struct ebs_slab *slab, uint32_t row)
{
    return row < slab->fresh && (ebs_slab_bits(slab, row)->mark >> (row % 64) & 1);
}

static inline uint64_t ebs_row_id(const uint8_t *row)
{
    uint64_t id;

    memcpy(&id, row, sizeof(id)); /* rows are 4-byte aligned */
    return id;
}

#endif
