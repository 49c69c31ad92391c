/* runtime/job/layout.c -- the bytes of a row, and of a table of so many rows.
 *
 * The index is a forest of segments that grow and split by themselves, so its size depends on how the ids
 * fell. It is not far from a staircase all the same: all segments of a table split at nearly the same time, and the
 * load goes from 0.81 down to 0.65 and up again. rt_table_size follows PATHS segments, each from the
 * table's first row to its last, on the side that a draw takes it to at each split. A leaf at depth d is come by with
 * probability 2^-d, so 2^d times its size is an estimate of the whole without bias; the mean of PATHS of them is within 1 %.
 * Rejected: one segment that always splits in even halves. Its staircase has corners that real tables have not. */
#include "runtime/job/layout.h"
#include "runtime/base/rand.h"

#include <math.h>

#define PATHS         256u
#define SEGMENT_BYTES 32u /* beside its lines: struct ebs_segment */
#define BLOCK_ENTRY   48u /* of the list of blocks */

uint32_t rt_state_count(const struct rt_sparse_optimizer_conf *optimizer, uint32_t dim)
{
    switch ((enum rt_optimizer_kind)optimizer->kind) {
    case RT_OPT_SGD:
        return 0;
    case RT_OPT_ADAGRAD:
        return dim;
    case RT_OPT_ROWWISE_ADAGRAD:
        return 1;
    case RT_OPT_ADAM:
    case RT_OPT_FTRL:
        break;
    }
    return 2 * dim;
}

struct rt_row_layout rt_row_layout(const struct rt_table_conf *table)
{
    struct rt_row_layout out = {
        .weight_bytes = table->dim * (uint32_t)wire_dtype_size(table->dtype),
        .state_count = rt_state_count(&table->optimizer, table->dim),
    };
    uint32_t at = sizeof(uint64_t);

    if (table->eviction.kind != RT_EVICT_NONE || table->ttl_seconds > 0) {
        out.touched = at;
        at += sizeof(uint32_t);
    }
    if (table->eviction.kind == RT_EVICT_LFU) {
        out.frequency = at;
        at += sizeof(float);
    }
    out.weight = at;
    out.state = at + ((out.weight_bytes + 3) & ~3u);
    out.row_bytes = out.state + out.state_count * (uint32_t)sizeof(float);
    return out;
}

/* ---- the index ---- */

struct leaf {
    double lines;   /* of the whole index, as this leaf has it */
    unsigned depth; /* how often it was split off */
};

/* A split of a full segment with `rows` rows in the end, of which `full` are there now: the half that goes on has *now
 * and *end. Both are what is left of drawing without putting back, for which the normal curve does at these sizes. */
static void split(uint64_t draw, double full, double *now, double *end)
{
    double all = *end, half = rint(all / 2 + sqrt(all) / 2 * rt_normal_f32(rt_draw(draw, 0)));
    double here =
        full * half / all + sqrt(full * (1 - full / all)) / 2 * rt_normal_f32(rt_draw(draw, 1));

    *end = half;
    *now = fmin(fmax(rint(here), 0), fmin(full, half));
}

/* One segment from the first row to the last. */
static struct leaf follow(uint64_t key, double rows)
{
    uint32_t lines = 1;
    struct leaf leaf = {0};

    for (;;) {
        uint32_t full = rt_segment_room(lines);

        if (rows <= full) /* the row after these is the one that it grows for */
            break;
        lines = rt_segment_lines(full);
        if (lines > RT_SEGMENT_LINES && leaf.depth < RT_SEGMENT_DEPTH_MAX) {
            double now;

            split(rt_draw(key, leaf.depth++), full, &now, &rows);
            lines = rt_segment_lines((uint32_t)now);
        }
    }
    leaf.lines = ldexp(lines, (int)leaf.depth);
    return leaf;
}

static uint64_t index_bytes(uint64_t rows)
{
    double lines = 0, segments = 0;
    unsigned depth = 0;

    for (uint64_t path = 0; path < PATHS; path++) {
        struct leaf leaf = follow(rt_draw_fold(rt_draw_key(1, "plan", NULL), path), (double)rows);

        lines += leaf.lines;
        segments += ldexp(1, (int)leaf.depth);
        depth = leaf.depth > depth ? leaf.depth : depth;
    }
    return (uint64_t)(lines / PATHS * RT_LINE_BYTES + segments / PATHS * SEGMENT_BYTES) +
           sizeof(void *) * (1ull << depth);
}

/* ---- the whole ---- */

static uint64_t block_rows(uint32_t row_bytes)
{
    uint64_t rows = 64;

    while (row_bytes * rows * 2 <= RT_BLOCK_BYTES)
        rows *= 2;
    return rows;
}

struct rt_table_size rt_table_size(const struct rt_table_conf *table, uint64_t rows,
                                   uint32_t owners)
{
    uint64_t row_bytes = rt_row_layout(table).row_bytes, in_block = block_rows((uint32_t)row_bytes);
    uint64_t blocks = (rows + in_block - 1) / in_block;
    struct rt_table_size out = {.rows = rows * row_bytes, .index = index_bytes(rows)};

    out.slack = blocks * (in_block * RT_ROW_BITS / 8 + BLOCK_ENTRY);
    if (table->admission.kind == RT_ADMIT_COUNT)
        out.slack += table->admission.sketch_bytes / owners;
    return out;
}

uint64_t rt_table_capacity(const struct rt_table_conf *table)
{
    /* Just rebuilt: a load of 13/20 of the slots, less the line that is rounded up to. */
    const double index_row = RT_LINE_BYTES / (RT_LINE_SLOTS * 0.65) * 1.01;
    const struct rt_eviction_conf *eviction = &table->eviction;
    uint64_t sketch = table->admission.kind == RT_ADMIT_COUNT ? table->admission.sketch_bytes : 0;
    double row = rt_row_layout(table).row_bytes + index_row + RT_ROW_BITS / 8.0, rows;

    if (eviction->bytes == 0)
        return eviction->rows;
    rows = eviction->bytes > sketch ? floor((double)(eviction->bytes - sketch) / row) : 0;
    if (eviction->rows > 0)
        rows = fmin(rows, (double)eviction->rows);
    return rows < 1 ? 1 : (uint64_t)rows;
}
