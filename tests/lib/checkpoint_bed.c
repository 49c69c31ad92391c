/* tests/lib/checkpoint_bed.c -- see checkpoint_bed.h. */
#include "tests/lib/checkpoint_bed.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/safetensors.h"

#include <stdio.h>
#include <string.h>

#define SEED      5
#define ROWS_MOST 64 /* that are put at once */

static const struct rt_table_conf tables[CHECKPOINT_BED_TABLES] = {
    {.name = "user", .dim = 4, .dtype = WIRE_F32, .optimizer = {.kind = RT_OPT_ADAGRAD}},
    {.name = "item \xc3\xa4\"",
     .dim = 3,
     .dtype = WIRE_BF16,
     .optimizer = {.kind = RT_OPT_ADAM},
     .eviction = {.kind = RT_EVICT_LFU, .rows = 1000}},
    {.name = "shop",
     .dim = 5,
     .dtype = WIRE_F16,
     .optimizer = {.kind = RT_OPT_SGD},
     .ttl_seconds = 60},
};

const struct rt_job checkpoint_bed_job = {
    .name = "bed",
    .n_tables = CHECKPOINT_BED_TABLES,
    .table = tables,
    .config_hash = 0xfedcba9876543210,
    .plan_hash = 0x8000000000000001,
    .part_hash = {1, 2, 3, 4, UINT64_MAX},
};

uint64_t checkpoint_bed_id(uint32_t i)
{
    return rt_draw(SEED, i);
}

void checkpoint_bed_row(uint32_t table, uint64_t id, uint64_t attempt, uint8_t *row)
{
    struct rt_row_layout layout = rt_row_layout(&tables[table]);

    rt_assert(layout.row_bytes <= CHECKPOINT_BED_ROW);
    memcpy(row, &id, sizeof(id));
    for (uint32_t i = sizeof(id); i < layout.row_bytes; i++)
        row[i] = (uint8_t)rt_draw(id + table, attempt << 16 | i);
    memset(row + layout.weight + layout.weight_bytes, 0,
           layout.state - layout.weight - layout.weight_bytes); /* the padding */
}

static bool is_of(uint64_t id, const struct rt_rowfile_head *head)
{
    uint32_t shard = rt_shard_of(id);

    return shard >= head->shard_first && shard < head->shard_end;
}

static int put_removed(struct rt_rowfile_out *out, const struct rt_rowfile_head *head,
                       uint32_t table, const struct checkpoint_spec *spec)
{
    uint64_t *id = rt_xcalloc(spec->removed, sizeof(*id));
    size_t n = 0;
    int err = 0;

    for (uint32_t i = 0; i < spec->removed; i++) {
        id[n] = checkpoint_bed_id(spec->rows + i);
        n += is_of(id[n], head);
    }
    if (n > 0)
        err = rt_rowfile_put(out, RT_ROWFILE_REMOVED, table, id, n, n * sizeof(*id));
    rt_free(id);
    return err;
}

static int put_rows(struct rt_rowfile_out *out, const struct rt_rowfile_head *head, uint32_t table,
                    const struct checkpoint_spec *spec)
{
    uint32_t row_bytes = rt_row_layout(&tables[table]).row_bytes;
    uint8_t *row = rt_xmalloc((size_t)ROWS_MOST * row_bytes);
    size_t n = 0;
    int err = 0;

    for (uint32_t i = 0; i <= spec->rows && !err; i++) {
        uint64_t id = checkpoint_bed_id(i);

        if (i < spec->rows && is_of(id, head))
            checkpoint_bed_row(table, id, spec->attempt, row + n++ * row_bytes);
        if (n == ROWS_MOST || (i == spec->rows && n > 0)) {
            err = rt_rowfile_put(out, RT_ROWFILE_ROWS, table, row, n, n * row_bytes);
            n = 0;
        }
    }
    rt_free(row);
    return err;
}

static int put_all(struct rt_rowfile_out *out, const struct rt_rowfile_head *head,
                   const struct checkpoint_spec *spec)
{
    int err = 0;

    for (uint32_t t = 0; t < CHECKPOINT_BED_TABLES && !err; t++) {
        if (spec->removed > 0)
            err = put_removed(out, head, t, spec);
        if (!err && tables[t].eviction.kind != RT_EVICT_NONE)
            err = rt_rowfile_put(out, RT_ROWFILE_POLICY, t, "policy", 1, 6);
        if (!err)
            err = put_rows(out, head, t, spec);
    }
    return err;
}

int checkpoint_bed_rows(const char *path, const struct checkpoint_spec *spec, uint32_t owner,
                        struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES],
                        struct rt_manifest_file *out)
{
    struct rt_rowfile_head head = {
        .attempt = spec->attempt,
        .base = spec->base,
        .step = 10 * spec->attempt,
        .job = rt_rowfile_job(&checkpoint_bed_job),
        .owner = owner,
        .owners = spec->owners,
        .shard_first = RT_SHARDS * owner / spec->owners,
        .shard_end = RT_SHARDS * (owner + 1) / spec->owners,
        .n_tables = CHECKPOINT_BED_TABLES,
    };
    struct rt_rowfile_table table[CHECKPOINT_BED_TABLES];
    struct rt_rowfile_out file = {0};
    int err = rt_rowfile_begin(&file, path, &checkpoint_bed_job, &head);

    *out = (struct rt_manifest_file){.is_rows = true,
                                     .owner = owner,
                                     .shard_first = head.shard_first,
                                     .shard_end = head.shard_end};
    if (!err)
        err = put_all(&file, &head, spec);
    if (!err)
        err = rt_rowfile_finish(&file, table, &out->bytes, &out->digest);
    rt_rowfile_drop(&file);
    for (uint32_t t = 0; t < CHECKPOINT_BED_TABLES && !err; t++) {
        sum[t].rows += table[t].rows;
        sum[t].removed += table[t].removed;
        sum[t].digest += table[t].digest;
    }
    return err;
}

/* What the other files are, as the trainer writes them; name, bytes and digest of what is there. */
static int add_other(const char *folder, const char *name, struct rt_manifest_file *out)
{
    char *path = rt_path_join(folder, name), *text = NULL;
    size_t size = 0;
    int err = rt_file_read(path, (size_t)1 << 30, &text, &size);

    if (!err)
        *out = (struct rt_manifest_file){
            .name = name, .bytes = size, .digest = rt_hash_bytes(text, size)};
    rt_free(text);
    rt_free(path);
    return err;
}

static int write_dense(const char *folder, const struct checkpoint_spec *spec)
{
    char *dense = rt_path_join(folder, "dense.safetensors");
    char *model = rt_path_join(folder, "model.yml");
    uint8_t *weight = rt_xmalloc(spec->dense + 1);
    const struct rt_tensor tensor = {.name = "top.0.weight",
                                     .type = RT_TENSOR_U8,
                                     .rank = 1,
                                     .shape = {spec->dense},
                                     .data = weight};
    int err;

    for (uint32_t i = 0; i < spec->dense; i++)
        weight[i] = (uint8_t)rt_draw(spec->attempt, i);
    err = rt_safetensors_write(dense, NULL, 0, &tensor, 1);
    if (!err)
        err = rt_file_write(model, "layers: []\n", 11);
    rt_free(weight);
    rt_free(model);
    rt_free(dense);
    return err;
}

struct rt_manifest checkpoint_bed_manifest(const struct checkpoint_spec *spec)
{
    static const uint8_t bits[3] = {0x05, 0x00, 0xff};
    static const struct wire_split_ledger ledger[] = {
        {.split = 0, .stepped_low = 7, .finished_low = 7, .rows_read = 100, .rows_quarantined = 3},
        {.split = 5,
         .stepped_low = 9,
         .finished_low = 8,
         .stepped = bits,
         .finished = bits,
         .stepped_bytes = 2,
         .finished_bytes = 3,
         .rows_read = 1,
         .end_sequence = WIRE_SEQUENCE_MAX},
    };
    static const struct wire_statistics statistics[] = {{"price \\ \"x\"", -0.0, 1e-300, 12},
                                                        {"age", 0.1, 3, 1}};
    static struct rt_manifest_table table[CHECKPOINT_BED_TABLES];

    for (uint32_t t = 0; t < CHECKPOINT_BED_TABLES; t++)
        table[t] =
            (struct rt_manifest_table){.name = tables[t].name, .live = spec->base ? 5000 : 0};
    return (struct rt_manifest){
        .name = spec->name,
        .attempt = spec->attempt,
        .base = spec->base,
        .base_name = spec->base_name ? spec->base_name : "",
        .made_ms = 1700000000000,
        .job = checkpoint_bed_job.name,
        .version = "0.1",
        .config_hash = checkpoint_bed_job.config_hash,
        .plan_hash = checkpoint_bed_job.plan_hash,
        .part_hash = {1, 2, 3, 4, UINT64_MAX},
        .row_job = rt_rowfile_job(&checkpoint_bed_job),
        .seed = UINT64_MAX,
        .run = spec->run,
        .anew = spec->anew,
        .named = spec->named,
        .mode = "hybrid",
        .cpu = "avx2",
        .world = 1,
        .splits = 64,
        .threads = 2,
        .owners = spec->owners,
        .step = 10 * spec->attempt,
        .age = 10 * spec->attempt + 1,
        .learning_factor = 0.5,
        .samples_trained = 1234,
        .epoch_loss_sum = 1.0 / 3,
        .n_ledger = ARRAY_LEN(ledger),
        .ledger = ledger,
        .n_statistics = ARRAY_LEN(statistics),
        .statistics = statistics,
        .n_tables = CHECKPOINT_BED_TABLES,
        .table = table,
    };
}

/* The sums become the manifest's tables; all live rows are told of the first owner. */
static int publish(const char *dir, const struct checkpoint_spec *spec,
                   const struct rt_rowfile_table *sum, struct rt_manifest_file *file)
{
    struct rt_manifest manifest = checkpoint_bed_manifest(spec);
    struct rt_manifest_table table[CHECKPOINT_BED_TABLES];

    for (uint32_t t = 0; t < CHECKPOINT_BED_TABLES; t++) {
        table[t] = (struct rt_manifest_table){
            .name = tables[t].name,
            .rows = sum[t].rows,
            .removed = sum[t].removed,
            .digest = sum[t].digest,
            .live = spec->base ? sum[t].rows + 10 : sum[t].rows,
        };
        file[0].live += table[t].live;
    }
    manifest.table = table;
    manifest.n_files = spec->owners + 2;
    manifest.file = file;
    return rt_store_publish(dir, &manifest);
}

int checkpoint_bed_write(const char *dir, const struct checkpoint_spec *spec)
{
    struct rt_manifest_file *file = rt_xcalloc(spec->owners + 2, sizeof(*file));
    struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES] = {{0}};
    char(*name)[32] = rt_xcalloc(spec->owners, sizeof(*name));
    const char *begun = spec->begun_as ? spec->begun_as : spec->name;
    char *folder = rt_path_join(dir, begun);
    int err = rt_store_begin(dir, begun);

    for (uint32_t k = 0; k < spec->owners && !err; k++) {
        char *path;

        snprintf(name[k], sizeof(name[k]), RT_ROWFILE_NAME, k);
        path = rt_path_join(folder, name[k]);
        err = checkpoint_bed_rows(path, spec, k, sum, &file[k]);
        file[k].name = name[k];
        rt_free(path);
    }
    if (!err)
        err = write_dense(folder, spec);
    if (!err)
        err = add_other(folder, "dense.safetensors", &file[spec->owners]);
    if (!err)
        err = add_other(folder, "model.yml", &file[spec->owners + 1]);
    if (!err && spec->begun_as)
        err = rt_store_rename(dir, begun, spec->name);
    if (!err)
        err = publish(dir, spec, sum, file);
    rt_free(folder);
    rt_free(name);
    rt_free(file);
    return err;
}
