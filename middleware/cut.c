/* middleware/cut.c -- what each owner will be asked for of a batch, in parts of bounded size.
 *
 *   owner 0:  table 0 |--------------|  table 1 |-------:--------|  table 2 |------|
 *             part 0  |---------------------------------:        part 1     |------|      owner 1: ...
 *
 * A part is one LookupRows, and later one ApplyGradients. Neither the rows it brings nor the gradients it takes are over
 * loop->part_bytes, which is below the credit of a link; most batches are one part for each owner. Parts are asked for, lost
 * and asked again one by one (fanout.c). The owner applies gradients when all parts of the batch are there
 * (embedding_server/gather.c), in their order: so where a batch is cut changes no bit of what comes of it. It follows from the
 * ids, the shard map and the configuration alone, so that a part that comes again, from another middleware too, is the same.
 *
 * DESIGN: a table is cut at multiples of 8 rows, whose ids are as long as the alignment of segments. So the ids of one
 * table and owner lie behind one another in the held buffer, as if nothing had been cut, and are placed there in
 * one go (split.h); the parts are merely where their requests begin and end. */
#include "middleware/batch.h"
#include "runtime/base/err.h"

#define CUT_ROWS ((uint32_t)(RT_SEGMENT_ALIGN / sizeof(uint64_t)))

/* All parts are cut twice: to count them, and to list what they have. */
struct cutting {
    struct mw_batch *batch;
    uint32_t n_parts, n_tables; /* so far; of a table that was cut, each part counts */
    struct mw_part *part;       /* NULL: they are counted */
    uint32_t *table, *n_ids;
    void **row;
    float *scale; /* NULL: gradients have none */
};

/* Where the next part of an owner begins. */
struct place {
    uint32_t table, row;
};

static size_t rows_in(size_t bytes, size_t used, size_t row_bytes)
{
    size_t room = used + 3 * RT_SEGMENT_ALIGN; /* padding, and where the next table begins */

    return room < bytes ? (bytes - room) / row_bytes : 0;
}

/* Rows of a table that fit beside what a part has: CUT_ROWS at least if that is nothing. */
static uint32_t rows_that_fit(const struct mw_part *part, uint32_t table)
{
    const struct mw_loop *loop = part->batch->loop;
    const struct rt_wire_conf *wire = &loop->conf.job->global.wire;
    size_t dim = loop->conf.job->table[table].dim;
    size_t rows = rows_in(loop->part_bytes, part->rows_size, dim * wire_dtype_size(wire->rows));
    size_t gradients = rows_in(loop->part_bytes, part->gradients_size,
                               sizeof(uint64_t) + dim * wire_dtype_size(wire->row_gradients));
    size_t n = rows < gradients ? rows : gradients;

    if (n > WIRE_IDS_MAX)
        n = WIRE_IDS_MAX;
    n -= n % CUT_ROWS;
    return n == 0 && part->n_tables == 0 ? CUT_ROWS : (uint32_t)n;
}

static void add_rows(const struct cutting *cutting, struct mw_part *part, uint32_t table,
                     uint32_t n)
{
    const struct rt_job *job = part->batch->loop->conf.job;
    size_t values = (size_t)n * job->table[table].dim;

    if (cutting->part) {
        cutting->table[cutting->n_tables + part->n_tables] = table;
        cutting->n_ids[cutting->n_tables + part->n_tables] = n;
    }
    part->n_tables++;
    rt_segment_put(&part->ids_size, n * sizeof(uint64_t));
    rt_segment_put(&part->gradients_size, n * sizeof(uint64_t));
    rt_segment_put(&part->gradients_size, values * wire_dtype_size(job->global.wire.row_gradients));
    rt_segment_put(&part->rows_size, values * wire_dtype_size(job->global.wire.rows));
}

/* As many rows as fit. true: the owner has no more. */
static bool fill_part(const struct cutting *cutting, struct mw_part *part, struct place *at)
{
    uint32_t n_tables = part->batch->loop->conf.job->n_tables;

    for (; at->table < n_tables; at->table++, at->row = 0) {
        uint32_t left = mw_count_of(part->batch, at->table, part->owner) - at->row, fit;

        if (left == 0)
            continue;
        fit = rows_that_fit(part, at->table);
        if (fit > 0)
            add_rows(cutting, part, at->table, left < fit ? left : fit);
        if (fit < left) {
            at->row += fit;
            return false;
        }
    }
    return true;
}

static struct mw_part begin_part(const struct cutting *cutting, uint32_t owner, uint32_t number)
{
    struct mw_part part = {.batch = cutting->batch, .owner = owner, .number = number};

    if (cutting->part) {
        part.table = cutting->table + cutting->n_tables;
        part.n_ids = cutting->n_ids + cutting->n_tables;
        part.row = cutting->row + cutting->n_tables;
        part.scale = cutting->scale ? cutting->scale + cutting->n_tables : NULL;
    }
    return part;
}

static void cut_owner(struct cutting *cutting, uint32_t owner)
{
    struct place at = {0, 0};
    uint32_t first = cutting->n_parts;
    bool last = false;

    while (!last) {
        struct mw_part part = begin_part(cutting, owner, cutting->n_parts - first);

        last = fill_part(cutting, &part, &at);
        if (cutting->part)
            cutting->part[cutting->n_parts] = part;
        cutting->n_parts++;
        cutting->n_tables += part.n_tables;
    }
    for (uint32_t i = first; cutting->part && i < cutting->n_parts; i++)
        cutting->part[i].of = cutting->n_parts - first;
}

static void cut_all(struct cutting *cutting)
{
    cutting->n_parts = cutting->n_tables = 0;
    for (uint32_t k = 0; k < cutting->batch->loop->map.owners; k++)
        cut_owner(cutting, k);
}

static int make_lists(struct cutting *cutting)
{
    struct rt_arena *arena = cutting->batch->arena;
    uint32_t n = cutting->n_tables;
    bool scaled = cutting->batch->loop->conf.job->global.wire.row_gradients == WIRE_F16;

    cutting->part = rt_arena_array(arena, struct mw_part, cutting->n_parts);
    cutting->table = rt_arena_array(arena, uint32_t, n);
    cutting->n_ids = rt_arena_array(arena, uint32_t, n);
    cutting->row = rt_arena_array(arena, void *, n);
    if (scaled)
        cutting->scale = rt_arena_array(arena, float, n);
    if (!cutting->part || !cutting->table || !cutting->n_ids || !cutting->row ||
        (scaled && !cutting->scale))
        return RT_FAIL(RT_ENOMEM, "no memory for %u parts, %u tables", cutting->n_parts, n);
    return 0;
}

/* What one owner has to hold of the batch, until all its parts are there. */
/* Together: batches whose gradients an owner has to hold at once, those of a step's ranks in mode `full`. */
static int check_owner(const struct mw_batch *batch, uint32_t first, uint32_t together)
{
    const struct mw_part *part = &batch->part[first];
    size_t rows = 0, gradients = 0, larger;

    for (uint32_t i = 0; i < part->of; i++) {
        rows += part[i].rows_size;
        gradients += part[i].gradients_size;
    }
    larger = rows > gradients ? rows : gradients;
    if (larger > MW_OWNER_BYTES_MAX / together || part->of > WIRE_BATCH_PARTS_MAX)
        return RT_FAIL(
            RT_ELIMIT,
            "the rows of owner %u are %zu bytes in %u parts, expected at most %zu in %u: "
            "use a smaller data.batch_size",
            part->owner, larger, part->of, MW_OWNER_BYTES_MAX / together, WIRE_BATCH_PARTS_MAX);
    return 0;
}

int mw_cut(struct mw_batch *batch, uint32_t together, struct mw_cut *out)
{
    struct cutting cutting = {.batch = batch};
    int err;

    *out = (struct mw_cut){0};
    cut_all(&cutting);
    err = make_lists(&cutting);
    if (err)
        return err;
    cut_all(&cutting);
    batch->part = cutting.part;
    batch->n_parts = cutting.n_parts;
    for (uint32_t i = 0; i < batch->n_parts && !err; i++) {
        struct mw_part *part = &batch->part[i];

        if (part->number == 0)
            err = check_owner(batch, i, together);
        part->ids_at = rt_segment_put(&out->ids, part->ids_size);
        rt_segment_put(&out->rows, part->rows_size);
        rt_segment_put(&out->gradients, part->gradients_size);
    }
    return err;
}
