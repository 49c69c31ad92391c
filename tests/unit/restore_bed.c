/* tests/unit/restore_bed.c -- see restore_bed.h. */
#include "tests/unit/restore_bed.h"

#include "embedding_server/cut_write.h"
#include "embedding_server/policy.h"
#include "embedding_server/serve.h"
#include "embedding_server/slab.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/store.h"
#include "runtime/net/loop.h"
#include "runtime/wire/member.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

/* The rows of one table of all owners, by id. */
struct restore_rows {
    size_t n, bytes;
    uint8_t *byte; /* [n][bytes] */
};

static struct rt_row_layout layout_of(const struct restore_bed *bed, uint32_t table)
{
    return rt_row_layout(&bed->job->table[table]);
}

/* ---- owners ---- */

void restore_bed_begin(struct restore_bed *bed, const struct rt_job *job)
{
    memset(bed, 0, sizeof(*bed));
    bed->job = job;
    temp_folder(bed->dir);
}

static void forget(struct restore_bed *bed)
{
    for (uint32_t t = 0; bed->before && t < bed->job->n_tables; t++)
        rt_free(bed->before[t].byte);
    rt_free(bed->before);
    bed->before = NULL;
}

void restore_bed_end(struct restore_bed *bed)
{
    restore_bed_close(bed);
    forget(bed);
}

void restore_bed_open(struct restore_bed *bed, uint32_t owners)
{
    restore_bed_close(bed);
    assert_int_equal(rt_shard_map_init(&bed->shards, owners, 1), 0);
    assert_int_equal(rt_loop_create(&(struct rt_loop_conf){.name = "test"}, &bed->loop), 0);
    bed->begun_ms = rt_io_now(rt_loop_io(bed->loop)) / RT_MS;
    for (; bed->owners < owners; bed->owners++) {
        struct ebs_owner_conf conf = {.io = rt_loop_io(bed->loop),
                                      .job = bed->job,
                                      .shards = &bed->shards,
                                      .owner = bed->owners,
                                      .greeting = &wire_greeting,
                                      .memory = bed->job->global.embedding_server_memory,
                                      .checkpoint_dir = bed->dir,
                                      .listen = "tcp:127.0.0.1:0"};

        if (ebs_owner_create(&conf, &bed->owner[bed->owners]) != 0)
            fail_msg("%s", rt_err_text());
    }
}

void restore_bed_close(struct restore_bed *bed)
{
    while (bed->owners > 0)
        ebs_owner_destroy(bed->owner[--bed->owners]);
    if (bed->loop)
        rt_loop_destroy(bed->loop);
    bed->loop = NULL;
}

struct ebs_table *restore_bed_table(const struct restore_bed *bed, uint32_t table, uint64_t id)
{
    return bed->owner[rt_shard_owner(&bed->shards, rt_shard_of(id))]->table[table];
}

void restore_bed_update(struct restore_bed *bed, uint32_t table, const uint64_t *id, size_t n,
                        uint64_t seed)
{
    uint32_t dim = bed->job->table[table].dim;
    uint64_t *own = rt_xcalloc(n, sizeof(*own));
    float *grad = rt_xcalloc(n * dim, sizeof(*grad));

    for (uint32_t o = 0; o < bed->owners; o++) {
        struct ebs_table *of = bed->owner[o]->table[table];
        struct ebs_applied applied = {0};
        size_t m = 0;

        for (size_t i = 0; i < n; i++) {
            if (restore_bed_table(bed, table, id[i]) != of)
                continue;
            for (uint32_t d = 0; d < dim; d++)
                grad[m * dim + d] = (float)rt_unit_f64(rt_draw(seed ^ id[i], d)) - 0.5f;
            own[m++] = id[i];
        }
        ebs_table_tick(of, bed->begun_ms + seed);
        ebs_table_apply(of,
                        &(struct ebs_update){.id = own,
                                             .grad = grad,
                                             .n = m,
                                             .lr = 0.1f,
                                             .step = 1 + seed,
                                             .draw = seed,
                                             .window = 1},
                        &applied);
    }
    rt_free(own);
    rt_free(grad);
}

/* ---- rows ---- */

static int by_id(const void *a, const void *b)
{
    uint64_t x = ebs_row_id(a), y = ebs_row_id(b);

    return (x > y) - (x < y);
}

static struct restore_rows rows_of(const struct restore_bed *bed, uint32_t table)
{
    struct rt_row_layout layout = layout_of(bed, table);
    struct restore_rows out = {.bytes = layout.row_bytes};
    struct ebs_row row;

    for (uint32_t o = 0; o < bed->owners; o++)
        out.n += ebs_table_rows(bed->owner[o]->table[table]);
    out.byte = rt_xcalloc(out.n + 1, out.bytes);
    out.n = 0;
    for (uint32_t o = 0; o < bed->owners; o++)
        for (uint32_t at = 0; ebs_table_next(bed->owner[o]->table[table], &at, &row);)
            memcpy(out.byte + out.n++ * out.bytes, row.weight - layout.weight, out.bytes);
    qsort(out.byte, out.n, out.bytes, by_id);
    return out;
}

static const uint8_t *find(const struct restore_rows *rows, uint64_t id)
{
    return rows->n ? bsearch(&id, rows->byte, rows->n, rows->bytes, by_id) : NULL;
}

static bool is_again(uint64_t id, const uint64_t *again, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (again[i] == id)
            return true;
    return false;
}

uint64_t restore_bed_sum(const struct restore_bed *bed)
{
    uint64_t sum = 0;

    for (uint32_t o = 0; o < bed->owners; o++)
        for (uint32_t t = 0; t < bed->job->n_tables; t++) {
            const struct ebs_table *table = bed->owner[o]->table[t];
            struct rt_row_layout layout = layout_of(bed, t);
            uint8_t *copy = rt_xmalloc(layout.row_bytes);
            struct ebs_row row;

            for (uint32_t at = 0; ebs_table_next(table, &at, &row);) {
                uint32_t age = ebs_table_now(table) - row.touched;

                memcpy(copy, row.weight - layout.weight, layout.row_bytes);
                if (layout.touched)
                    memcpy(copy + layout.touched, &age, sizeof(age));
                sum += rt_hash_bytes_seed(copy, layout.row_bytes, t);
            }
            rt_free(copy);
        }
    return sum;
}

uint64_t restore_bed_digest(const struct restore_bed *bed)
{
    uint64_t sum = 0;

    for (uint32_t o = 0; o < bed->owners; o++)
        for (uint32_t t = 0; t < bed->job->n_tables; t++)
            sum += ebs_table_digest(bed->owner[o]->table[t]);
    return sum;
}

uint64_t restore_bed_rows(const struct restore_bed *bed)
{
    uint64_t rows = 0;

    for (uint32_t o = 0; o < bed->owners; o++)
        for (uint32_t t = 0; t < bed->job->n_tables; t++)
            rows += ebs_table_rows(bed->owner[o]->table[t]);
    return rows;
}

/* ---- files ---- */

struct writing {
    struct restore_bed *bed;
    struct restore_rows *now; /* [n_tables] */
    bool full;
    const uint64_t *again;
    size_t n_again;
    struct rt_rowfile_out out;
    struct rt_manifest_table *table; /* [n_tables] of the manifest */
};

static bool is_of(const struct restore_bed *bed, uint32_t owner, uint64_t id)
{
    return rt_shard_owner(&bed->shards, rt_shard_of(id)) == owner;
}

/* One at a time: blocks of one row; a reader must not care. */
static void put_removed(struct writing *w, uint32_t owner, uint32_t t)
{
    const struct restore_rows *before = &w->bed->before[t];

    for (size_t i = 0; i < before->n; i++) {
        uint64_t id = ebs_row_id(before->byte + i * before->bytes);

        if (is_of(w->bed, owner, id) &&
            (!find(&w->now[t], id) || is_again(id, w->again, w->n_again)))
            assert_int_equal(rt_rowfile_put(&w->out, RT_ROWFILE_REMOVED, t, &id, 1, sizeof(id)), 0);
    }
}

static void put_rows(struct writing *w, uint32_t owner, uint32_t t)
{
    struct restore_rows *now = &w->now[t];
    uint8_t *some = rt_xcalloc(now->n + 1, now->bytes);
    size_t n = 0;

    for (size_t i = 0; i < now->n; i++) {
        const uint8_t *row = now->byte + i * now->bytes, *was = NULL;
        uint64_t id = ebs_row_id(row);

        if (!is_of(w->bed, owner, id))
            continue;
        if (!w->full && !is_again(id, w->again, w->n_again))
            was = find(&w->bed->before[t], id);
        if (!was || memcmp(was, row, now->bytes) != 0)
            memcpy(some + n++ * now->bytes, row, now->bytes);
    }
    assert_int_equal(rt_rowfile_put(&w->out, RT_ROWFILE_ROWS, t, some, n, n * now->bytes), 0);
    rt_free(some);
}

static void put_policy(struct writing *w, uint32_t owner, uint32_t t)
{
    const struct ebs_table *table = w->bed->owner[owner]->table[t];
    size_t bytes = ebs_table_policy_size(table), half = bytes / 16 * 8;
    uint8_t *policy = rt_xmalloc(bytes + 1);

    if (bytes > 0) { /* in two blocks, as large ones come */
        ebs_table_policy_write(table, policy);
        assert_int_equal(rt_rowfile_put(&w->out, RT_ROWFILE_POLICY, t, policy, 1, half), 0);
        assert_int_equal(
            rt_rowfile_put(&w->out, RT_ROWFILE_POLICY, t, policy + half, 1, bytes - half), 0);
    }
    rt_free(policy);
}

/* Of a sketch the lines that have counted, from the last one on: their order is nothing. */
static void put_sketch(struct writing *w, uint32_t owner, uint32_t t)
{
    const struct ebs_table *table = w->bed->owner[owner]->table[t];
    const uint8_t *sketch;
    uint64_t n = ebs_admit_sketch(table->admit, &sketch) / EBS_ADMIT_LINE;
    uint8_t line[RT_ROWFILE_LINE], nothing[EBS_ADMIT_LINE] = {0};

    while (n-- > 0) {
        if (memcmp(sketch + n * EBS_ADMIT_LINE, nothing, EBS_ADMIT_LINE) == 0)
            continue;
        memcpy(line, &n, sizeof(n));
        memcpy(line + sizeof(n), sketch + n * EBS_ADMIT_LINE, EBS_ADMIT_LINE);
        assert_int_equal(rt_rowfile_put(&w->out, RT_ROWFILE_SKETCH, t, line, 1, sizeof(line)), 0);
    }
}

static void write_file(struct writing *w, uint32_t owner, const struct rt_manifest *manifest,
                       struct rt_manifest_file *file)
{
    struct restore_bed *bed = w->bed;
    uint32_t n = bed->job->n_tables;
    struct rt_rowfile_table *sum = rt_xcalloc(n, sizeof(*sum));
    char *name = rt_xasprintf(RT_ROWFILE_NAME, owner);
    char *path = rt_xasprintf("%s/%s/%s", bed->dir, manifest->name, name);
    struct rt_rowfile_head head = {.attempt = manifest->attempt,
                                   .base = manifest->base,
                                   .step = manifest->step,
                                   .job = rt_rowfile_job(bed->job),
                                   .owner = owner,
                                   .owners = bed->owners,
                                   .shard_first = rt_shard_first(&bed->shards, owner),
                                   .shard_end = rt_shard_first(&bed->shards, owner + 1),
                                   .n_tables = n};

    assert_int_equal(rt_rowfile_begin(&w->out, path, bed->job, &head), 0);
    for (uint32_t t = 0; t < n && !w->full; t++)
        put_removed(w, owner, t);
    for (uint32_t t = 0; t < n; t++)
        put_policy(w, owner, t);
    for (uint32_t t = 0; t < n; t++) {
        put_rows(w, owner, t);
        put_sketch(w, owner, t);
    }
    *file = (struct rt_manifest_file){.name = name,
                                      .is_rows = true,
                                      .owner = owner,
                                      .shard_first = head.shard_first,
                                      .shard_end = head.shard_end};
    assert_int_equal(rt_rowfile_finish(&w->out, sum, &file->bytes, &file->digest), 0);
    for (uint32_t t = 0; t < n; t++) {
        file->live += ebs_table_rows(bed->owner[owner]->table[t]);
        w->table[t].rows += sum[t].rows;
        w->table[t].removed += sum[t].removed;
        w->table[t].digest += sum[t].digest;
    }
    rt_free(path);
    rt_free(sum);
}

static struct rt_manifest manifest_of(const struct restore_bed *bed, const char *name, bool full,
                                      uint64_t step)
{
    const struct rt_job *job = bed->job;
    struct rt_manifest out = {.name = name,
                              .attempt = bed->attempt + 1,
                              .base = full ? 0 : bed->attempt,
                              .base_name = full ? "" : bed->name,
                              .made_ms = 1,
                              .job = job->name,
                              .version = "test",
                              .config_hash = job->config_hash,
                              .plan_hash = job->plan_hash,
                              .row_job = rt_rowfile_job(job),
                              .seed = job->global.seed,
                              .mode = rt_mode_name(job->global.mode),
                              .cpu = "test",
                              .world = 1,
                              .splits = 1,
                              .threads = 1,
                              .owners = bed->owners,
                              .step = step,
                              .age = step,
                              .learning_factor = 1};

    memcpy(out.part_hash, job->part_hash, sizeof(out.part_hash));
    return out;
}

/* ---- the owners' own ---- */

static void look(void *arg)
{
    struct restore_bed *bed = arg;
    bool writing = false;

    for (uint32_t o = 0; o < bed->owners; o++)
        writing |= bed->owner[o]->cutter.cut->state == EBS_CUT_WRITING;
    if (writing)
        rt_timer_start(rt_loop_io(bed->loop), &bed->look, 1000000);
    else
        rt_loop_stop(bed->loop);
}

static void stop(void *arg)
{
    rt_loop_stop(arg);
}

void restore_bed_pass(struct restore_bed *bed, uint64_t ms)
{
    struct rt_timer end = {.fire = stop, .arg = bed->loop};

    rt_timer_start(rt_loop_io(bed->loop), &end, ms * RT_MS);
    assert_int_equal(rt_loop_run(bed->loop), 0);
    rt_timer_stop(rt_loop_io(bed->loop), &end);
}

static void cut_all(struct restore_bed *bed, const struct rt_manifest *manifest)
{
    for (uint32_t o = 0; o < bed->owners; o++)
        if (ebs_cut_make(bed->owner[o], &(struct wire_cut){.attempt = manifest->attempt,
                                                           .step = manifest->step,
                                                           .name = manifest->name,
                                                           .base = manifest->base,
                                                           .age = manifest->age}) != 0)
            fail_msg("%s", rt_err_text());
    bed->look = (struct rt_timer){.fire = look, .arg = bed};
    rt_timer_start(rt_loop_io(bed->loop), &bed->look, 0);
    assert_int_equal(rt_loop_run(bed->loop), 0);
    rt_timer_stop(rt_loop_io(bed->loop), &bed->look);
}

void restore_bed_cut(struct restore_bed *bed, const char *name, bool full)
{
    uint32_t n = bed->job->n_tables;
    struct rt_manifest manifest = manifest_of(bed, name, full, 0);
    struct rt_manifest_file *file = rt_xcalloc(bed->owners, sizeof(*file));
    struct rt_manifest_table *table = rt_xcalloc(n, sizeof(*table));

    assert_int_equal(rt_store_begin(bed->dir, name), 0);
    cut_all(bed, &manifest);
    for (uint32_t o = 0; o < bed->owners; o++) {
        const struct ebs_cut *cut = bed->owner[o]->cutter.cut;

        assert_int_equal(cut->state, EBS_CUT_DONE);
        file[o] = (struct rt_manifest_file){.name = cut->file,
                                            .bytes = cut->bytes,
                                            .digest = cut->digest,
                                            .is_rows = true,
                                            .owner = o,
                                            .shard_first = bed->owner[o]->shard_first,
                                            .shard_end = bed->owner[o]->shard_end};
        for (uint32_t t = 0; t < n; t++) {
            table[t].name = bed->job->table[t].name;
            table[t].rows += cut->table[t].rows;
            table[t].removed += cut->table[t].removed;
            table[t].digest += cut->table[t].digest;
            table[t].live += cut->part[t].live;
            file[o].live += cut->part[t].live;
        }
        bed->owner[o]->cutter.kept = manifest.attempt; /* as EndCut does */
    }
    manifest.n_tables = n;
    manifest.table = table;
    manifest.n_files = bed->owners;
    manifest.file = file;
    if (rt_store_publish(bed->dir, &manifest) != 0)
        fail_msg("%s", rt_err_text());
    bed->attempt = manifest.attempt;
    snprintf(bed->name, sizeof(bed->name), "%s", name);
    rt_free(file);
    rt_free(table);
}

void restore_bed_write(struct restore_bed *bed, const char *name, bool full, uint64_t low,
                       const uint64_t *again, size_t n_again)
{
    static const uint8_t bits[] = {0x04}; /* low + 2 */
    const struct wire_split_ledger ledger = {.split = 0,
                                             .stepped_low = low,
                                             .finished_low = low,
                                             .stepped = bits,
                                             .finished = bits,
                                             .stepped_bytes = sizeof(bits),
                                             .finished_bytes = sizeof(bits)};
    uint32_t n = bed->job->n_tables;
    struct rt_manifest manifest = manifest_of(bed, name, full, low + 1);
    struct rt_manifest_file *file = rt_xcalloc(bed->owners, sizeof(*file));
    struct writing w = {.bed = bed,
                        .full = full,
                        .again = again,
                        .n_again = n_again,
                        .now = rt_xcalloc(n, sizeof(*w.now)),
                        .table = rt_xcalloc(n, sizeof(*w.table))};

    for (uint32_t t = 0; t < n; t++) {
        w.now[t] = rows_of(bed, t);
        w.table[t].name = bed->job->table[t].name;
        w.table[t].live = w.now[t].n;
    }
    assert_int_equal(rt_store_begin(bed->dir, name), 0);
    for (uint32_t o = 0; o < bed->owners; o++)
        write_file(&w, o, &manifest, &file[o]);
    manifest.n_ledger = 1;
    manifest.ledger = &ledger;
    manifest.n_tables = n;
    manifest.table = w.table;
    manifest.n_files = bed->owners;
    manifest.file = file;
    if (rt_store_publish(bed->dir, &manifest) != 0)
        fail_msg("%s", rt_err_text());
    for (uint32_t o = 0; o < bed->owners; o++)
        rt_free((char *)(uintptr_t)file[o].name);
    rt_free(file);
    rt_free(w.table);
    forget(bed);
    bed->before = w.now;
    bed->attempt = manifest.attempt;
    snprintf(bed->name, sizeof(bed->name), "%s", name);
}

int restore_bed_restore(struct restore_bed *bed, uint32_t first, uint32_t n,
                        struct ebs_restored *out)
{
    return ebs_restore(
        &(struct ebs_restore){
            .dir = bed->dir, .job = bed->job, .owner = bed->owner + first, .n = n},
        out);
}

void restore_bed_damage(const struct restore_bed *bed, const char *name, const char *file, long at)
{
    char *path = rt_xasprintf("%s/%s/%s", bed->dir, name, file);
    FILE *f = fopen(path, "r+b");
    int byte;

    assert_non_null(f);
    assert_int_equal(fseek(f, at, at < 0 ? SEEK_END : SEEK_SET), 0);
    byte = fgetc(f);
    assert_int_not_equal(byte, EOF);
    assert_int_equal(fseek(f, -1, SEEK_CUR), 0);
    assert_int_not_equal(fputc(byte ^ 0x10, f), EOF);
    assert_int_equal(fclose(f), 0);
    rt_free(path);
}
