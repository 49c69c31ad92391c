/* embedding_server/chain.c -- see chain.h. */
#include "embedding_server/chain.h"
#include "embedding_server/policy.h"
#include "embedding_server/serve.h"
#include "embedding_server/stage.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/store.h"

#include <math.h>
#include <string.h>

/* Deviations below what is expected of our share, so that an index is not made too large where we have fewer. */
#define RESERVE_BELOW 4.0

/* An owner then, whose files we read: the newest one tells its clock. */
struct source {
    uint32_t owner;
    bool *told;      /* [n_tables] its policies */
    uint32_t *shift; /* [n_tables] the tick of its clock; then from there to ours */
    bool *counts;    /* [n_tables] its sketch is of the size of ours */
};

struct loading {
    const struct ebs_chain *chain;
    struct ebs_owner *owner;
    struct ebs_chain_loaded *out;
    struct source *source; /* [n_sources] */
    uint32_t n_sources, n_tables;
    uint8_t *policy; /* [room] of the table that is being read */
    size_t bytes, room;
};

/* ---- which files ---- */

static bool is_ours(const struct loading *l, const struct rt_manifest_file *file)
{
    return file->is_rows && file->shard_first < l->owner->shard_end &&
           file->shard_end > l->owner->shard_first;
}

static struct source *find_source(const struct loading *l, uint32_t owner)
{
    for (uint32_t i = 0; i < l->n_sources; i++)
        if (l->source[i].owner == owner)
            return &l->source[i];
    return NULL;
}

static int make_sources(struct loading *l, const struct rt_manifest *newest)
{
    bool whole = false;

    l->source = rt_try_calloc(newest->n_files + 1u, sizeof(*l->source));
    for (uint32_t f = 0; l->source && f < newest->n_files; f++) {
        struct source *source = &l->source[l->n_sources];

        if (!is_ours(l, &newest->file[f]))
            continue;
        source->owner = newest->file[f].owner;
        source->told = rt_try_calloc(l->n_tables, sizeof(*source->told));
        source->shift = rt_try_calloc(l->n_tables, sizeof(*source->shift));
        source->counts = rt_try_calloc(l->n_tables, sizeof(*source->counts));
        l->n_sources++;
        whole = source->told && source->shift && source->counts;
        if (!whole)
            break;
    }
    if (whole)
        return 0;
    return RT_FAIL(RT_ENOMEM, "%s: out of memory for the names of its files", newest->name);
}

static void release(struct loading *l)
{
    for (uint32_t i = 0; i < l->n_sources; i++) {
        rt_free(l->source[i].told);
        rt_free(l->source[i].shift);
        rt_free(l->source[i].counts);
    }
    rt_free(l->source);
    rt_free(l->policy);
}

static int open_file(const struct loading *l, const struct rt_manifest *manifest,
                     const struct rt_manifest_file *file, char **path, struct rt_rowfile **out)
{
    int err = rt_store_path(l->chain->dir, manifest->name, file->name, path);

    if (!err)
        err = rt_rowfile_open(*path, l->chain->job, out);
    if (!err)
        err = rt_store_check_head(manifest, *path, file, *out);
    return err;
}

/* ---- policies ---- */

static int append_policy(struct loading *l, const struct rt_rowfile_block *block)
{
    if (l->room - l->bytes < block->bytes) {
        uint8_t *grown = rt_try_realloc(l->policy, l->bytes + block->bytes);

        if (!grown)
            return RT_FAIL(RT_ENOMEM, "out of memory for %zu bytes of policies",
                           l->bytes + block->bytes);
        l->policy = grown;
        l->room = l->bytes + block->bytes;
    }
    memcpy(l->policy + l->bytes, block->payload, block->bytes);
    l->bytes += block->bytes;
    return 0;
}

/* All of a table's has been read. */
static int take_policy(struct loading *l, struct source *source, const char *path, uint32_t t)
{
    struct ebs_table *table = l->owner->table[t];
    int err = l->bytes > 0 ? ebs_policy_check(l->policy, l->bytes) : 0;

    if (err)
        return rt_fail_prefix(err, "%s: table %s: ", path, ebs_table_name(table));
    if (l->bytes == 0)
        return 0;
    source->told[t] = true;
    source->shift[t] = ebs_policy_now(l->policy);
    source->counts[t] = ebs_table_policy_merge(table, l->policy);
    l->out->counts_left_out |= !source->counts[t];
    l->bytes = 0;
    return 0;
}

/* Those at the beginning of a file; its rows, and lines of sketches, are read later. */
static int read_policies(struct loading *l, struct source *source, const char *path,
                         struct rt_rowfile *file)
{
    struct rt_rowfile_block block;
    uint32_t table = 0;
    int err = 0, more = 0;

    l->bytes = 0;
    while (!err && (more = rt_rowfile_next(file, &block)) > 0 &&
           (block.kind == RT_ROWFILE_POLICY || block.kind == RT_ROWFILE_REMOVED)) {
        if (block.kind == RT_ROWFILE_REMOVED)
            continue;
        if (block.table != table)
            err = take_policy(l, source, path, table);
        table = block.table;
        if (!err)
            err = append_policy(l, &block);
    }
    if (!err && more < 0)
        err = more;
    return err ? err : take_policy(l, source, path, table);
}

static int check_told(const struct loading *l, const struct source *source, const char *path)
{
    for (uint32_t t = 0; t < l->n_tables; t++)
        if (!source->told[t] && ebs_table_policy_size(l->owner->table[t]) > 0)
            return RT_FAIL(RT_EDATA, "%s: table %s: no policies before its rows", path,
                           ebs_table_name(l->owner->table[t]));
    return 0;
}

/* What the newest checkpoint's owners knew beside their rows: from here on ticks of theirs mean something. */
static int load_policies(struct loading *l, const struct rt_manifest *newest)
{
    int err = 0;

    for (uint32_t f = 0; f < newest->n_files && !err; f++) {
        struct rt_rowfile *file = NULL;
        char *path = NULL;

        if (!is_ours(l, &newest->file[f]))
            continue;
        err = open_file(l, newest, &newest->file[f], &path, &file);
        if (!err) {
            struct source *source = find_source(l, newest->file[f].owner);

            err = read_policies(l, source, path, file);
            if (!err)
                err = check_told(l, source, path);
        }
        rt_rowfile_close(file);
        rt_free(path);
    }
    for (uint32_t i = 0; i < l->n_sources; i++)
        for (uint32_t t = 0; t < l->n_tables; t++) {
            l->source[i].shift[t] = ebs_table_now(l->owner->table[t]) - l->source[i].shift[t];
            l->out->shifted |= l->source[i].shift[t] != 0;
        }
    return err;
}

/* ---- rows ---- */

/* @all: the file has only rows of ours, as its reader has made sure. */
static int put_rows(struct loading *l, const struct rt_rowfile_block *block, uint32_t shift,
                    bool all)
{
    struct ebs_table *table = l->owner->table[block->table];
    uint32_t first = l->owner->shard_first, width = l->owner->shard_end - first;
    size_t bytes = ebs_table_row_bytes(table), n = 0;
    const uint8_t *row[EBS_STRETCH];
    int err = 0;

    for (size_t i = 0; i < block->count && !err; i++) {
        const uint8_t *at = block->payload + i * bytes;

        if (all || rt_shard_of(ebs_row_id(at)) - first < width)
            row[n++] = at;
        if (n == EBS_STRETCH || i + 1 == block->count) {
            err = ebs_table_put_rows(table, row, n, shift, &l->out->left_out);
            n = 0;
        }
    }
    return err;
}

/* What was counted at the last cut counts; the lines of those before it are older ones. */
static int put_lines(struct loading *l, const struct rt_rowfile_block *block,
                     const struct source *source, bool is_newest)
{
    struct ebs_table *table = l->owner->table[block->table];

    if (!is_newest || !source->counts[block->table] ||
        ebs_table_sketch_merge(table, block->payload, block->count))
        return 0;
    return RT_FAIL(RT_EDATA, "table %s: a line of its sketch of admission that it has not",
                   ebs_table_name(table));
}

static int load_block(struct loading *l, const struct rt_rowfile_block *block,
                      const struct source *source, bool is_newest, bool all)
{
    switch (block->kind) {
    case RT_ROWFILE_ROWS:
        return put_rows(l, block, source->shift[block->table], all);
    case RT_ROWFILE_REMOVED: /* of other owners' ids there is no row here */
        ebs_table_remove_rows(l->owner->table[block->table],
                              (const uint64_t *)(const void *)block->payload, block->count);
        return 0;
    case RT_ROWFILE_SKETCH:
        return put_lines(l, block, source, is_newest);
    case RT_ROWFILE_POLICY:
    case RT_ROWFILE_END:
        break;
    }
    return 0;
}

/* Read to its end, and whole. */
static void count_file(struct loading *l, const struct rt_rowfile *in,
                       const struct rt_manifest_file *file, struct ebs_chain_sum *sum)
{
    const struct rt_rowfile_table *table = rt_rowfile_tables(in);

    l->out->bytes += file->bytes;
    if (file->shard_first < l->owner->shard_first)
        return;
    sum->files++;
    for (uint32_t t = 0; t < l->n_tables; t++) {
        sum->table[t].rows += table[t].rows;
        sum->table[t].removed += table[t].removed;
        sum->table[t].digest += table[t].digest;
    }
}

static int load_file(struct loading *l, size_t which, const struct rt_manifest_file *file)
{
    const struct rt_manifest *manifest = l->chain->manifest[which];
    const struct source *source = find_source(l, file->owner);
    bool is_newest = which == l->chain->n - 1;
    bool all = file->shard_first >= l->owner->shard_first && file->shard_end <= l->owner->shard_end;
    struct rt_rowfile_block block;
    struct rt_rowfile *in = NULL;
    char *path = NULL;
    int more = 0, err;

    if (!source)
        return RT_FAIL(RT_EDATA, "%s/%s: its owners are not those of %s, which goes on from it",
                       l->chain->dir, manifest->name, l->chain->manifest[l->chain->n - 1]->name);
    err = open_file(l, manifest, file, &path, &in);
    while (!err && (more = rt_rowfile_next(in, &block)) != 0)
        err = more < 0 ? more : load_block(l, &block, source, is_newest, all);
    if (!err)
        err = rt_store_check_end(path, file, in);
    if (!err)
        count_file(l, in, file, &l->out->sum[which]);
    rt_rowfile_close(in);
    rt_free(path);
    return err;
}

static int load_checkpoint(struct loading *l, size_t which)
{
    const struct rt_manifest *manifest = l->chain->manifest[which];
    int err = 0;

    for (uint32_t f = 0; f < manifest->n_files && !err; f++)
        if (is_ours(l, &manifest->file[f]))
            err = load_file(l, which, &manifest->file[f]);
    return err;
}

/* Our share of the rows: all of them, or as many as chance gives us surely, for ids are spread by a hash. An index that grows while rows
 * come costs more than it takes to be sure. */
static uint64_t share_of(uint64_t rows, uint32_t width)
{
    double mean = (double)rows * width / RT_SHARDS;
    double sure = mean - RESERVE_BELOW * sqrt(mean);

    if (width == RT_SHARDS)
        return rows;
    return sure > 0 ? (uint64_t)sure : 0;
}

static void reserve(const struct loading *l, const struct rt_manifest *newest)
{
    uint32_t width = l->owner->shard_end - l->owner->shard_first;

    for (uint32_t t = 0; t < newest->n_tables && t < l->n_tables; t++)
        ebs_table_reserve(l->owner->table[t], share_of(newest->table[t].live, width));
}

int ebs_chain_load(const struct ebs_chain *chain, struct ebs_owner *owner,
                   struct ebs_chain_loaded *out)
{
    const struct rt_manifest *newest = chain->manifest[chain->n - 1];
    struct loading l = {
        .chain = chain, .owner = owner, .out = out, .n_tables = chain->job->n_tables};
    int err = make_sources(&l, newest);

    if (!err)
        err = load_policies(&l, newest);
    if (!err)
        reserve(&l, newest);
    for (size_t i = 0; i < chain->n && !err; i++)
        err = load_checkpoint(&l, i);
    release(&l);
    return err;
}
