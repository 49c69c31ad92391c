/* runtime/job/layout.h -- where things stand in a row, and how many bytes a table of so many rows takes.
 *
 * The embedding server lays its rows out by it, and `saffron plan` predicts with it: one place says both.
 *
 *   byte 0     8            8 or 12             .. or 16
 *   | id, u64 | touched, u32 | frequency, f32 | weights [dim] in the table's dtype, padded to 4 | state, f32 [...] |
 *             \-- if rows are evicted or expire; frequency only with LFU --/
 */
#ifndef RT_LAYOUT_H
#define RT_LAYOUT_H

#include "runtime/job/job.h"

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

#endif
