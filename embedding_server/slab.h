/* embedding_server/slab.h -- memory of a table's rows: fixed-size rows, numbered, in one array that grows at its end.
 *
 *   row: id (8 bytes) | ... as runtime/job/layout.h says ...     4-byte aligned
 *
 *   rows   | live or free ...........| never used, no memory but the rest of a page |
 *          0                       fresh                                        capacity
 *   bits   live and mark, 64 rows per pair of words
 *
 * A row's number says where it stands. Freed rows are used again first, the lowest first, so that the end
 * of the array empties; compaction moves the last rows into free ones and gives the pages back. Row numbers
 * change only there. A pointer to a row is valid until the next allocation or trim. Touch: owner thread only. */
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
    uint64_t mark; /* changed since marks were cleared */
};

struct ebs_slab {
    size_t row_bytes;
    uint32_t capacity; /* rows that fit without growth */
    uint32_t fresh;    /* rows from here on were never used */
    uint64_t count;    /* live rows; fresh - count are free */
    struct ebs_region rows, bits;
    uint64_t *open; /* bit per block of rows: it may have a free one. See slab.c */
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

/* The first live (live and marked) row at or after `row`; EBS_ROW_NONE when there is none. */
uint32_t ebs_slab_next_live(const struct ebs_slab *slab, uint32_t row);
uint32_t ebs_slab_next_marked(const struct ebs_slab *slab, uint32_t row);
void ebs_slab_clear_marks(struct ebs_slab *slab);

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

static inline void ebs_slab_mark(struct ebs_slab *slab, uint32_t row)
{
    ebs_slab_bits(slab, row)->mark |= 1ull << (row % 64);
}

static inline void ebs_slab_unmark(struct ebs_slab *slab, uint32_t row)
{
    ebs_slab_bits(slab, row)->mark &= ~(1ull << (row % 64));
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
