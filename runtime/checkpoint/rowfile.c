/* runtime/checkpoint/rowfile.c -- writing a row file; what a row's digest is.
 *
 * DESIGN: whatever is put becomes blocks of at most RT_ROWFILE_BLOCK_MAX at once, and nothing is kept here: who writes gathers rows
 * into a buffer of its own. A block's head has its place and its attempt under a checksum of its own, so a reader may believe the
 * length before it reads what follows, and sees a block that was moved, doubled or left by another attempt. The file's digest is of
 * all its bytes, as `xxhsum -H3` makes it. */
#include "runtime/checkpoint/rowfile.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/strbuf.h"
#include "runtime/checkpoint/rowfile_impl.h"

#include <inttypes.h>

/* The largest row that a job can have: id, marks, weights and two floats of state for each. */
#define ROW_MAX (16 + 3 * 4 * (size_t)WIRE_DIM_MAX)

uint64_t rt_rowfile_row_digest(const struct rt_row_layout *layout, uint64_t seed,
                               const uint8_t *row)
{
    uint8_t copy[ROW_MAX];
    size_t bytes = layout->row_bytes - layout->weight;

    if (layout->weight == sizeof(uint64_t)) /* nothing between the id and the weights */
        return rt_hash_bytes_seed(row, layout->row_bytes, seed);
    rt_assert(sizeof(uint64_t) + bytes <= sizeof(copy));
    memcpy(copy, row, sizeof(uint64_t));
    memcpy(copy + sizeof(uint64_t), row + layout->weight, bytes);
    return rt_hash_bytes_seed(copy, sizeof(uint64_t) + bytes, seed);
}

void rt_rowfile_entry_of(const struct rt_table_conf *table, char optimizer[RT_STATE_TEXT],
                         struct rt_rowfile_entry *out)
{
    struct rt_row_layout layout = rt_row_layout(table);

    rt_state_text(&table->optimizer, optimizer);
    *out = (struct rt_rowfile_entry){
        .name_bytes = (uint32_t)strlen(table->name) + 1,
        .optimizer_bytes = (uint32_t)strlen(optimizer) + 1,
        .dim = table->dim,
        .dtype = table->dtype,
        .marks = (layout.touched ? RT_ROWFILE_HAS_TOUCHED : 0) |
                 (layout.frequency ? RT_ROWFILE_HAS_FREQUENCY : 0),
        .state_count = layout.state_count,
        .row_bytes = layout.row_bytes,
    };
}

uint64_t rt_rowfile_job(const struct rt_job *job)
{
    char optimizer[RT_STATE_TEXT];
    struct rt_strbuf text;
    uint64_t hash;

    rt_strbuf_init(&text);
    rt_strbuf_addf(&text, "%s\n", job->name);
    for (uint32_t t = 0; t < job->n_tables; t++) {
        struct rt_rowfile_entry e;

        rt_rowfile_entry_of(&job->table[t], optimizer, &e);
        rt_strbuf_addf(&text, "%s\n%s\n%u %u %u %u\n", job->table[t].name, optimizer, e.dim,
                       e.dtype, e.marks, e.state_count);
    }
    hash = rt_hash_bytes(text.text, text.len);
    rt_strbuf_release(&text);
    return hash;
}

/* ---- writing ---- */

static int put(struct rt_rowfile_out *out, const void *data, size_t size)
{
    rt_hash_add(out->hash, data, size);
    return rt_partial_put(&out->file, data, size);
}

static int make_arrays(struct rt_rowfile_out *out)
{
    uint32_t n = out->job->n_tables;

    out->table = rt_try_calloc(n, sizeof(*out->table));
    out->seed = rt_try_calloc(n, sizeof(*out->seed));
    out->layout = rt_try_calloc(n, sizeof(*out->layout));
    out->hash = rt_hash_create();
    if (!out->table || !out->seed || !out->layout || !out->hash)
        return RT_FAIL(RT_ENOMEM, "%s: out of memory for %u tables", out->file.path, n);
    for (uint32_t t = 0; t < n; t++) {
        const char *name = out->job->table[t].name;

        out->seed[t] = rt_hash_bytes(name, strlen(name));
        out->layout[t] = rt_row_layout(&out->job->table[t]);
    }
    return 0;
}

static void add_entry(const struct rt_table_conf *table, struct rt_strbuf *text)
{
    static const char zeros[RT_ROWFILE_ALIGN];
    char optimizer[RT_STATE_TEXT];
    struct rt_rowfile_entry entry;
    size_t end;

    rt_rowfile_entry_of(table, optimizer, &entry);
    end = text->len + rt_rowfile_entry_bytes(&entry);
    rt_strbuf_add(text, (const char *)&entry, sizeof(entry));
    rt_strbuf_add(text, table->name, entry.name_bytes);
    rt_strbuf_add(text, optimizer, entry.optimizer_bytes);
    rt_strbuf_add(text, zeros, end - text->len);
}

static int put_head(struct rt_rowfile_out *out, const struct rt_rowfile_head *head)
{
    struct rt_rowfile_prelude prelude = {
        .version = RT_ROWFILE_VERSION,
        .attempt = head->attempt,
        .base = head->base,
        .step = head->step,
        .job = head->job,
        .owner = head->owner,
        .owners = head->owners,
        .shard_first = head->shard_first,
        .shard_end = head->shard_end,
        .n_tables = head->n_tables,
    };
    struct rt_strbuf text;
    int err;

    memcpy(prelude.magic, RT_ROWFILE_MAGIC, sizeof(prelude.magic));
    rt_strbuf_init(&text);
    rt_strbuf_add(&text, (const char *)&prelude, sizeof(prelude));
    for (uint32_t t = 0; t < out->job->n_tables; t++)
        add_entry(&out->job->table[t], &text);
    if (text.len > RT_ROWFILE_HEAD_MAX) {
        err = RT_FAIL(RT_EFILE, "%s: the names of %u tables take %zu bytes, at most %zu fit",
                      out->file.path, head->n_tables, text.len, RT_ROWFILE_HEAD_MAX);
    } else {
        prelude.head_bytes = (uint32_t)text.len;
        memcpy(text.text, &prelude, sizeof(prelude));
        prelude.crc = rt_rowfile_head_crc((const uint8_t *)text.text, text.len);
        memcpy(text.text, &prelude, sizeof(prelude));
        err = put(out, text.text, text.len);
    }
    rt_strbuf_release(&text);
    return err;
}

int rt_rowfile_begin(struct rt_rowfile_out *out, const char *path, const struct rt_job *job,
                     const struct rt_rowfile_head *head)
{
    int err;

    rt_assert(head->attempt > head->base && head->owner < head->owners);
    rt_assert(head->shard_first < head->shard_end && head->shard_end <= RT_SHARDS);
    rt_assert(head->n_tables == job->n_tables && head->job == rt_rowfile_job(job));
    *out =
        (struct rt_rowfile_out){.job = job, .attempt = head->attempt, .is_full = head->base == 0};
    err = rt_partial_open(&out->file, path);
    if (!err)
        err = make_arrays(out);
    if (!err)
        err = put_head(out, head);
    return err;
}

static int put_block(struct rt_rowfile_out *out, enum rt_rowfile_kind kind, uint32_t table,
                     const void *payload, size_t count, size_t bytes)
{
    static const uint8_t zeros[RT_ROWFILE_ALIGN];
    size_t pad = rt_align_up(bytes, RT_ROWFILE_ALIGN) - bytes;
    struct rt_rowfile_block_head head = {
        .kind = kind,
        .table = table,
        .attempt = out->attempt,
        .at = out->file.bytes,
        .count = (uint32_t)count,
        .bytes = (uint32_t)bytes,
        .payload_crc = rt_crc32c(rt_crc32c(0, payload, bytes), zeros, pad),
    };
    int err;

    head.head_crc = rt_rowfile_block_crc(&head);
    err = put(out, &head, sizeof(head));
    if (!err)
        err = put(out, payload, bytes);
    if (!err && pad > 0)
        err = put(out, zeros, pad);
    return err;
}

static void count_rows(struct rt_rowfile_out *out, uint32_t table, const uint8_t *row, size_t n)
{
    const struct rt_row_layout *layout = &out->layout[table];

    out->table[table].rows += n;
    for (size_t i = 0; i < n; i++)
        out->table[table].digest +=
            rt_rowfile_row_digest(layout, out->seed[table], row + i * layout->row_bytes);
}

int rt_rowfile_put(struct rt_rowfile_out *out, enum rt_rowfile_kind kind, uint32_t table,
                   const void *payload, size_t count, size_t bytes)
{
    const uint8_t *from = payload;
    size_t one, most;
    int err = 0;

    rt_assert(kind >= RT_ROWFILE_ROWS && kind <= RT_ROWFILE_SKETCH && kind != RT_ROWFILE_END);
    rt_assert(table < out->job->n_tables);
    if (kind == RT_ROWFILE_POLICY) {
        rt_assert(count == 1 && bytes <= RT_ROWFILE_POLICY_MAX);
        return put_block(out, kind, table, payload, 1, bytes);
    }
    one = kind == RT_ROWFILE_ROWS     ? out->layout[table].row_bytes
          : kind == RT_ROWFILE_SKETCH ? RT_ROWFILE_LINE
                                      : sizeof(uint64_t);
    most = RT_ROWFILE_BLOCK_MAX / one;
    rt_assert(bytes == count * one && most > 0);
    if (kind == RT_ROWFILE_REMOVED) {
        rt_assert(!out->is_full && out->table[table].rows == 0);
        out->table[table].removed += count;
    } else if (kind == RT_ROWFILE_ROWS) {
        count_rows(out, table, payload, count);
    }
    for (size_t n; count > 0 && !err; count -= n, from += n * one) {
        n = count < most ? count : most;
        err = put_block(out, kind, table, from, n, n * one);
    }
    return err;
}

static void forget(struct rt_rowfile_out *out)
{
    rt_free(out->table);
    rt_free(out->seed);
    rt_free(out->layout);
    rt_hash_destroy(out->hash);
    *out = (struct rt_rowfile_out){0};
}

int rt_rowfile_finish(struct rt_rowfile_out *out, struct rt_rowfile_table *table, uint64_t *bytes,
                      uint64_t *digest)
{
    uint32_t n = out->job->n_tables;
    int err = put_block(out, RT_ROWFILE_END, 0, out->table, n, n * sizeof(*out->table));

    if (err)
        return err;
    memcpy(table, out->table, n * sizeof(*table));
    *bytes = out->file.bytes;
    *digest = rt_hash_value(out->hash);
    err = rt_partial_finish(&out->file);
    if (!err)
        forget(out);
    return err;
}

void rt_rowfile_drop(struct rt_rowfile_out *out)
{
    rt_partial_drop(&out->file);
    forget(out);
}
