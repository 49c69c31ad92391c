/* runtime/job/layout.h -- where things stand in a row, and how many bytes a table of so many rows takes.
 *
 * The embedding server lays its rows out by it and builds its index and blocks by the constants here, and
 * `saffron plan` predicts with them: one place says both.
 *
 *   byte 0     8            8 or 12             .. or 16
 *   | id, u64 | touched, u32 | frequency, f32 | weights [dim] in the table's dtype, padded to 4 | state, f32 [...] |
 *             \-- if rows are evicted or expire; frequency only with LFU --/
 */
#ifndef RT_LAYOUT_H
#define RT_LAYOUT_H

#include "runtime/job/job.h"

/* The index: lines of one cache line, in segments (embedding_server/index.h). A segment whose lines are 13/16 full is
 * built anew for a load of 13/20; where that takes more than RT_SEGMENT_LINES, as two. */
#define RT_LINE_BYTES        64u
#define RT_LINE_SLOTS        12u
#define RT_SEGMENT_LINES     2048u
#define RT_SEGMENT_DEPTH_MAX 24u

static inline uint32_t rt_segment_room(uint32_t lines) /* rows until it is full enough to grow */
{
    return (uint32_t)(((uint64_t)lines * RT_LINE_SLOTS * 13 + 15) / 16);
}
static inline uint32_t rt_segment_lines(uint32_t rows) /* lines that are built for so many */
{
    return (uint32_t)((uint64_t)rows * 20 / (13 * RT_LINE_SLOTS)) + 1;
}

/* Rows: blocks of the largest power of two of rows that RT_BLOCK_BYTES hold (embedding_server/slab.h). */
#define RT_BLOCK_BYTES ((size_t)16 << 20)
#define RT_ROW_BITS    2u                /* beside each row of a block: it is live, it is marked */
#define RT_ROWS_MAX    (UINT32_MAX - 1u) /* of one owner's table */

struct rt_row_layout {
    uint32_t touched, frequency; /* offset in a row; 0: rows of this table have none */
    uint32_t weight, state;      /* offset */
    uint32_t weight_bytes;       /* dim elements, without padding */
    uint32_t state_count;        /* floats */
    uint32_t row_bytes;          /* a multiple of 4 */
};

struct rt_row_layout rt_row_layout(const struct rt_table_conf *table);

/* Floats of optimizer state of one row. */
uint32_t rt_state_count(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim);

/* Most rows that the whole table may have by eviction.rows and eviction.bytes, a row taken for what it takes at the
 * index's lowest load and the admission sketch left out of the bytes; at least 1. 0: no capacity. */
uint64_t rt_table_capacity(const struct rt_table_conf *table);

/* Bytes of memory of one owner's part of a table, as ebs_table_bytes() has them. */
struct rt_table_size {
    uint64_t rows;  /* live rows */
    uint64_t index; /* the mean over all ways in which ids can fall */
    uint64_t
        slack; /* bits beside the rows, lists of blocks, admission sketch, what is prepared ahead of growth */
};
/* @rows: live, of that owner, at most RT_ROWS_MAX.  @owners: among whom the table's sketch is shared out. */
struct rt_table_size rt_table_size(const struct rt_table_conf *table, uint64_t rows,
                                   uint32_t owners);

#endif
