/* ctl/fold.c -- see fold.h.
 *
 * A table's rows lie in blocks of BLOCK_BYTES, one after the other without a gap: whose id goes is replaced by the last one. A sorted
 * merge of the files was not taken: nothing in them is sorted, and sorting needs the same passes or a second copy on disk. */
#include "ctl/fold.h"
#include "ctl/amount.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/rowfile.h"

#include <inttypes.h>
#include <string.h>

#define BLOCK_BYTES ((size_t)1 << 20)
#define PLACE_BYTES 72u /* of a row in the map, at most, while it grows (runtime/base/map.h) */

/* ---- a table's rows ---- */

static size_t per_block(const struct ctl_fold_table *table)
{
    return BLOCK_BYTES / table->layout.row_bytes > 0 ? BLOCK_BYTES / table->layout.row_bytes : 1;
}

static uint8_t *row_at(const struct ctl_fold_table *table, uint64_t row)
{
    size_t each = per_block(table);

    return table->block[row / each] + row % each * table->layout.row_bytes;
}

const uint8_t *ctl_fold_row(const struct ctl_fold_table *table, uint64_t row)
{
    return row_at(table, row);
}

uint64_t ctl_fold_id(const uint8_t *row)
{
    uint64_t id;

    memcpy(&id, row, sizeof(id));
    return id;
}

const uint8_t *ctl_fold_find(const struct ctl_fold_table *table, uint64_t id)
{
    uint64_t row;

    return rt_map_get(&table->place, id, &row) ? row_at(table, row) : NULL;
}

static void forget_rows(struct ctl_fold_table *table)
{
    rt_map_release(&table->place);
    for (size_t i = 0; i < table->blocks; i++)
        rt_free(table->block[i]);
    rt_free(table->block);
    table->block = NULL;
    table->blocks = 0;
    table->n = 0;
}

static int add_block(struct ctl_fold_table *table)
{
    uint8_t **more = rt_try_realloc(table->block, (table->blocks + 1) * sizeof(*more));
    uint8_t *block = rt_try_malloc(per_block(table) * table->layout.row_bytes);

    if (more)
        table->block = more;
    if (!more || !block) {
        rt_free(block);
        return RT_FAIL(RT_ENOMEM, "table %s: no memory for more than %" PRIu64 " rows at a time",
                       table->name, table->n);
    }
    table->block[table->blocks++] = block;
    return 0;
}

static int put_row(struct ctl_fold_table *table, const uint8_t *row)
{
    uint64_t at = table->n, id = ctl_fold_id(row);
    int err = 0;

    if (!rt_map_get(&table->place, id, &at)) {
        if (table->n == table->blocks * per_block(table))
            err = add_block(table);
        if (!err)
            err = rt_map_put(&table->place, id, at);
        if (err)
            return err;
        table->n++;
    }
    memcpy(row_at(table, at), row, table->layout.row_bytes);
    return 0;
}

static int remove_row(struct ctl_fold_table *table, uint64_t id)
{
    uint64_t at, last = table->n - 1;

    if (!rt_map_get(&table->place, id, &at))
        return 0;
    rt_map_remove(&table->place, id);
    table->n--;
    if (at == last)
        return 0;
    memcpy(row_at(table, at), row_at(table, last), table->layout.row_bytes);
    return rt_map_put(&table->place, ctl_fold_id(row_at(table, at)), at);
}

/* ---- a file ---- */

struct range {
    uint32_t first, end; /* shards */
};

static bool has_shard(const struct range *range, uint64_t id)
{
    uint32_t shard = rt_shard_of(id);

    return shard >= range->first && shard < range->end;
}

static int take_block(struct ctl_fold *fold, const struct range *range,
                      const struct rt_rowfile_block *block)
{
    struct ctl_fold_table *table = &fold->table[block->table];
    size_t step =
        block->kind == RT_ROWFILE_REMOVED ? sizeof(uint64_t) : (size_t)table->layout.row_bytes;
    int err = 0;

    if (block->kind != RT_ROWFILE_REMOVED && block->kind != RT_ROWFILE_ROWS)
        return 0;
    for (size_t i = 0; i < block->count && !err; i++) {
        const uint8_t *at = block->payload + i * step;
        uint64_t id = ctl_fold_id(at);

        if (has_shard(range, id))
            err = block->kind == RT_ROWFILE_ROWS ? put_row(table, at) : remove_row(table, id);
    }
    return err;
}

static bool same_schema(const struct ctl_fold_table *table, const struct rt_rowfile_schema *schema)
{
    return strcmp(table->name, schema->name) == 0 &&
           strcmp(table->optimizer, schema->optimizer) == 0 && table->dim == schema->dim &&
           table->dtype == schema->dtype && table->layout.row_bytes == schema->layout.row_bytes &&
           table->layout.weight == schema->layout.weight;
}

/* Tables as the first file of the chain has them; how many there are, and their names, its manifest knows. */
static int check_tables(const struct ctl_fold *fold, const char *path,
                        const struct rt_rowfile *rows)
{
    uint32_t n = rt_rowfile_head(rows)->n_tables;

    for (uint32_t t = 0; t < n; t++)
        if (t >= fold->n_tables || !same_schema(&fold->table[t], rt_rowfile_schema(rows, t)))
            return RT_FAIL(RT_EDATA, "%s: table %s: expected it as the first file has it", path,
                           rt_rowfile_schema(rows, t)->name);
    return 0;
}

static int take_blocks(struct ctl_fold *fold, const struct range *range, struct rt_rowfile *rows)
{
    struct rt_rowfile_block block;
    int rc;

    while ((rc = rt_rowfile_next(rows, &block)) == 1) {
        int err = take_block(fold, range, &block);

        if (err)
            return err;
        if (fold->reading)
            ctl_reading_at(fold->reading, block.at + block.bytes);
    }
    return rc;
}

static int take_file(struct ctl_fold *fold, const struct rt_manifest *manifest,
                     const struct rt_manifest_file *file, const struct range *range)
{
    struct rt_rowfile *rows = NULL;
    char *path = NULL;
    int err = rt_store_path(fold->from->dir, manifest->name, file->name, &path);

    if (!err)
        err = rt_rowfile_open(path, NULL, &rows);
    if (!err)
        err = rt_store_check_head(manifest, path, file, rows);
    if (!err)
        err = check_tables(fold, path, rows);
    if (!err)
        err = take_blocks(fold, range, rows);
    if (!err)
        err = rt_store_check_end(path, file, rows);
    rt_rowfile_close(rows);
    rt_free(path);
    return err;
}

int ctl_fold_take(struct ctl_fold *fold, uint32_t shard_first, uint32_t shard_end)
{
    const struct range range = {shard_first, shard_end};
    int err = 0;

    for (uint32_t t = 0; t < fold->n_tables; t++)
        forget_rows(&fold->table[t]);
    for (size_t i = 0; i < fold->n_chain && !err; i++) {
        const struct rt_manifest *manifest = fold->from->list.at[fold->chain[i]].manifest;

        for (uint32_t k = 0; k < manifest->n_files && !err; k++) {
            const struct rt_manifest_file *file = &manifest->file[k];

            if (!file->is_rows || file->shard_first >= range.end || file->shard_end <= range.first)
                continue;
            err = take_file(fold, manifest, file, &range);
            if (fold->reading)
                ctl_reading_part_done(fold->reading);
        }
    }
    return err;
}

/* ---- all of it ---- */

/* As the first file tells of them. */
static void take_schema(struct ctl_fold *fold, const struct rt_rowfile *rows)
{
    fold->n_tables = rt_rowfile_head(rows)->n_tables;
    fold->table = rt_xcalloc((size_t)fold->n_tables + 1, sizeof(*fold->table));
    for (uint32_t t = 0; t < fold->n_tables; t++) {
        const struct rt_rowfile_schema *schema = rt_rowfile_schema(rows, t);

        fold->table[t] = (struct ctl_fold_table){.name = rt_xstrdup(schema->name),
                                                 .optimizer = rt_xstrdup(schema->optimizer),
                                                 .dim = schema->dim,
                                                 .dtype = schema->dtype,
                                                 .layout = schema->layout};
    }
}

static int read_schema(struct ctl_fold *fold)
{
    const struct rt_manifest *manifest = fold->from->list.at[fold->chain[0]].manifest;
    struct rt_rowfile *rows = NULL;
    char *path = NULL;
    int err = rt_store_path(fold->from->dir, manifest->name, manifest->file[0].name, &path);

    if (!err)
        err = rt_rowfile_open(path, NULL, &rows);
    if (!err)
        take_schema(fold, rows);
    rt_rowfile_close(rows);
    rt_free(path);
    return err;
}

int ctl_fold_open(const struct ctl_checkpoints *from, size_t which, struct ctl_reading *reading,
                  struct ctl_fold *fold)
{
    int err;

    *fold = (struct ctl_fold){.from = from, .reading = reading};
    fold->chain = rt_xcalloc(RT_STORE_CHAIN_MAX, sizeof(*fold->chain));
    err = rt_store_chain(&from->list, which, fold->chain, &fold->n_chain);
    return err ? err : read_schema(fold);
}

void ctl_fold_close(struct ctl_fold *fold)
{
    for (uint32_t t = 0; t < fold->n_tables; t++) {
        forget_rows(&fold->table[t]);
        rt_free(fold->table[t].name);
        rt_free(fold->table[t].optimizer);
    }
    rt_free(fold->table);
    rt_free(fold->chain);
    *fold = (struct ctl_fold){0};
}

const struct rt_manifest *ctl_fold_manifest(const struct ctl_fold *fold)
{
    return fold->from->list.at[fold->chain[fold->n_chain - 1]].manifest;
}

uint64_t ctl_fold_bytes(const struct ctl_fold *fold, const struct rt_shard_map *map)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < fold->n_chain; i++) {
        const struct rt_manifest *manifest = fold->from->list.at[fold->chain[i]].manifest;

        for (uint32_t k = 0; k < manifest->n_files; k++) {
            const struct rt_manifest_file *file = &manifest->file[k];

            if (file->is_rows)
                bytes += file->bytes * (rt_shard_owner(map, file->shard_end - 1) -
                                        rt_shard_owner(map, file->shard_first) + 1);
        }
    }
    return bytes;
}

/* There are most of a table after one of them, not always after the last. */
uint64_t ctl_fold_memory(const struct ctl_fold *fold)
{
    uint64_t bytes = 0;

    for (uint32_t t = 0; t < fold->n_tables; t++) {
        uint64_t rows = 0;

        for (size_t i = 0; i < fold->n_chain; i++) {
            const struct rt_manifest *manifest = fold->from->list.at[fold->chain[i]].manifest;

            if (t < manifest->n_tables && manifest->table[t].live > rows)
                rows = manifest->table[t].live;
        }
        bytes += rows * (fold->table[t].layout.row_bytes + PLACE_BYTES);
    }
    return bytes;
}

void ctl_fold_memory_option(struct argp_state *state, const char *text, double *bytes)
{
    if (!ctl_amount_parse(text, true, bytes) || *bytes < BLOCK_BYTES)
        argp_error(state, "--memory: expected bytes, 1MiB or more, as in 512MiB, got '%s'", text);
}

int ctl_fold_passes(uint64_t bytes, uint64_t most, struct rt_shard_map *map)
{
    uint64_t passes = bytes / most + (bytes % most > 0), least = bytes / RT_OWNERS_MAX;
    char need[CTL_AMOUNT_MAX], got[CTL_AMOUNT_MAX];

    if (passes > RT_OWNERS_MAX)
        return RT_FAIL(RT_EUSAGE, "--memory: expected at least %s for these rows, got %s",
                       ctl_amount((double)least, "B", need), ctl_amount((double)most, "B", got));
    return rt_shard_map_init(map, passes ? (uint32_t)passes : 1, 1);
}
