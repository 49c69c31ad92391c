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

/* The index: lines of one cache line, so many that at most RT_LOAD per mille of their slots are taken
 * (embedding_server/index.h). They come RT_UNIT_LINES at a time; before RT_LINES_SMALL, an eighth more at a time. */
#define RT_LINE_BYTES  64u
#define RT_LINE_SLOTS  12u
#define RT_UNIT_LINES  64u
#define RT_LINES_SMALL (4 * RT_UNIT_LINES)
#define RT_LOAD        735u

static inline uint32_t rt_index_more(uint32_t lines) /* that it has after growing */
{
    uint32_t small = lines + lines / 8 + 1;

    if (lines >= RT_LINES_SMALL)
        return lines + RT_UNIT_LINES;
    return small < RT_LINES_SMALL ? small : RT_LINES_SMALL;
}

/* Rows, their bits and the index are an array each (embedding_server/region.h): whole pages, huge ones from
 * RT_HUGE_FROM on. Memory behind the rows is touched before it is needed: RT_AHEAD_PART of what is in use, at most
 * RT_AHEAD_MAX (embedding_server/slab.c). */
#define RT_SMALL_PAGE ((size_t)4096)
#define RT_HUGE_PAGE  ((size_t)2 << 20)
#define RT_HUGE_FROM  ((size_t)1 << 20)
#define RT_SMALL_MOST (RT_HUGE_FROM - RT_SMALL_PAGE) /* the largest array in small pages */
#define RT_STEP_SMALL ((size_t)64 << 10)
#define RT_AHEAD_PART 64u
#define RT_AHEAD_MAX  ((size_t)4 << 20)
#define RT_ROW_BITS   3u /* beside each row: it is live, changed since a cut, saved for one */
#define RT_ROWS_MAX                                                                                \
    (UINT32_MAX - 63) /* of one owner's table; the numbers from here on are free for other use */

#define RT_TABLE_BYTES 5120u /* about, of a table of one owner beside all that */

static inline size_t rt_whole_pages(size_t bytes)
{
    size_t page = bytes <= RT_SMALL_MOST ? RT_SMALL_PAGE : RT_HUGE_PAGE;

    return (bytes + page - 1) & ~(page - 1);
}

struct rt_row_layout {
    uint32_t touched, frequency; /* offset in a row; 0: rows of this table have none */
    uint32_t weight, state;      /* offset */
    uint32_t weight_bytes;       /* dim elements, without padding */
    uint32_t state_count;        /* floats */
    uint32_t row_bytes;          /* a multiple of 4 */
};

struct rt_row_layout rt_row_layout(const struct rt_table_conf *table);
/* The same of a file's rows, whose table is known by its numbers. */
struct rt_row_layout rt_row_place(uint32_t dim, uint32_t dtype, uint32_t state_count, bool touched,
                                  bool frequency);

/* Floats of optimizer state of one row: those of its slots, one slot after the other. */
uint32_t rt_state_count(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim);

#define RT_STATE_SLOTS 2
struct rt_state_slot {
    const char *name; /* as torch.optim has it; FTRL's z and n as in its paper */
    bool is_sum;      /* of squares: not below 0 */
    uint32_t count;   /* floats of a row */
};
/* @return how many there are */
uint32_t rt_state_slots(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim,
                        struct rt_state_slot out[RT_STATE_SLOTS]);

/* What state was made by, in words: state of another text means something else. With FTRL the numbers that its z is a sum
 * over are in it; what the others' state means does not depend on their numbers. */
#define RT_STATE_TEXT 96
void rt_state_text(const struct rt_sparse_optimizer_conf *optimizer, char out[RT_STATE_TEXT]);

/* The slots of what rt_state_text() says, and how many; -1: no optimizer is called so. */
int rt_state_slots_of(const char *text, uint32_t dim, struct rt_state_slot out[RT_STATE_SLOTS]);

/* Most rows that the whole table may have by eviction.rows and eviction.bytes, each taken for all that it takes, the
 * admission sketch left out of the bytes; at least 1. 0: no capacity. */
uint64_t rt_table_capacity(const struct rt_table_conf *table);

/* Most rows that an owner of so many of the RT_SHARDS shards may have: its share of eviction.rows, rounded up, and as many
 * as its share of eviction.bytes holds with pages and all. At least 1. 0: no capacity. */
uint64_t rt_owner_capacity(const struct rt_table_conf *table, uint32_t shards);

/* Bytes of memory of one owner's part of a table that was only added to, as ebs_table_bytes() has them. */
struct rt_table_size {
    uint64_t rows; /* live rows */
    uint64_t index;
    uint64_t slack;     /* bits beside the rows, admission sketch, the table itself */
    uint64_t allocator; /* to the ends of pages, and what is touched ahead */
};
/* @rows: live, of that owner, at most RT_ROWS_MAX.  @owners: among whom the table's sketch is shared out. */
struct rt_table_size rt_table_size(const struct rt_table_conf *table, uint64_t rows,
                                   uint32_t owners);

#endif
