/* tests/lib/made_checkpoints.c -- see made_checkpoints.h. */
#include "tests/lib/made_checkpoints.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/store.h"
#include "runtime/job/layout.h"
#include "runtime/job/safetensors.h"
#include "tests/lib/job_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#define IDS_END     (MADE_ROWS + MADE_NEW + 1)
#define OWNERS_MAX  3u
#define DENSE_FILES 3u
#define BLOCK_BYTES 8192u

static const struct made {
    const char *name, *base_name;
    unsigned at, base; /* steps / 10; base 0: full */
    uint64_t attempt, base_attempt;
    uint32_t owners;
} made[] = {
    {"step-10", "", 1, 0, 1000, 0, 2},
    {"step-20", "step-10", 2, 1, 2000, 1000, 2},
    {"step-30", "step-20", 3, 2, 3000, 2000, 2},
    {"whole-30", "", 3, 0, 4000, 0, 3},
};

static void must(int err)
{
    if (err)
        fail_msg("%s", rt_err_text());
}

struct rt_job *made_job(void)
{
    const char *const set[] = {"embedding.tables.item.optimizer.type=adagrad"};

    return job_fixture(set, 1);
}

unsigned made_number(uint64_t id, unsigned at)
{
    unsigned number = id >= 1 && id <= MADE_ROWS;

    if (at >= 2) {
        if (id % 7 == 0)
            number = 0;
        if (id > MADE_ROWS || (number && id % 5 == 0))
            number = 2;
    }
    if (at >= 3) {
        if (number && id % 3 == 0)
            number = 3;
        if (id > MADE_ROWS && id <= MADE_ROWS + 10)
            number = 0;
        if (id == 7) /* it had gone, and came again */
            number = 3;
    }
    return id >= 1 && id < IDS_END ? number : 0;
}

/* ---- rows ---- */

/* Rows or ids of one block to be. */
struct gathered {
    struct rt_rowfile_out *out;
    enum rt_rowfile_kind kind;
    uint32_t table;
    size_t n, bytes;
    uint8_t entry[BLOCK_BYTES];
};

static void put_gathered(struct gathered *g)
{
    if (g->n > 0)
        must(rt_rowfile_put(g->out, g->kind, g->table, g->entry, g->n, g->bytes));
    g->n = g->bytes = 0;
}

/* Zeros, of an entry more. */
static uint8_t *next_entry(struct gathered *g, size_t bytes)
{
    uint8_t *at;

    if (g->bytes + bytes > sizeof(g->entry))
        put_gathered(g);
    at = g->entry + g->bytes;
    memset(at, 0, bytes);
    g->bytes += bytes;
    g->n++;
    return at;
}

static void gather_row(struct gathered *g, const struct rt_row_layout *layout, uint64_t id,
                       unsigned number)
{
    uint8_t *row = next_entry(g, layout->row_bytes);
    float value;

    assert_true(layout->weight_bytes % sizeof(value) == 0);
    memcpy(row, &id, sizeof(id));
    for (uint32_t d = 0; d < layout->weight_bytes / sizeof(value); d++) {
        value = (float)id + 0.5F * (float)number + 0.25F * (float)d;
        memcpy(row + layout->weight + d * sizeof(value), &value, sizeof(value));
    }
    value = (float)number;
    for (uint32_t k = 0; k < layout->state_count; k++)
        memcpy(row + layout->state + k * sizeof(value), &value, sizeof(value));
}

/* What was removed comes before what is there. */
static void put_table(struct rt_rowfile_out *out, const struct rt_job *job, uint32_t table,
                      const struct made *of, const struct rt_rowfile_head *head)
{
    struct rt_row_layout layout = rt_row_layout(&job->table[table]);

    for (int kind = of->base ? RT_ROWFILE_REMOVED : RT_ROWFILE_ROWS; kind >= RT_ROWFILE_ROWS;
         kind--) {
        struct gathered g = {.out = out, .kind = (enum rt_rowfile_kind)kind, .table = table};

        for (uint64_t id = 1; id < IDS_END; id++) {
            uint32_t shard = rt_shard_of(id);
            unsigned now = made_number(id, of->at), before = made_number(id, of->base);

            if (shard < head->shard_first || shard >= head->shard_end)
                continue;
            if (kind == RT_ROWFILE_REMOVED && before && !now)
                memcpy(next_entry(&g, sizeof(id)), &id, sizeof(id));
            if (kind == RT_ROWFILE_ROWS && now && (!of->base || now != before))
                gather_row(&g, &layout, id, now);
        }
        put_gathered(&g);
    }
}

_Static_assert(RT_ROWFILE_REMOVED == RT_ROWFILE_ROWS + 1, "put_table() counts down");

static void put_owner(const char *folder, const struct rt_job *job, const struct made *of,
                      uint32_t owner, struct rt_manifest_table *table,
                      struct rt_manifest_file *file)
{
    struct rt_rowfile_out out = {0};
    struct rt_rowfile_table sum[2];
    struct rt_shard_map map;

    must(rt_shard_map_init(&map, of->owners, 1));
    struct rt_rowfile_head head = {.attempt = of->attempt,
                                   .base = of->base_attempt,
                                   .step = of->at * 10,
                                   .job = rt_rowfile_job(job),
                                   .owner = owner,
                                   .owners = of->owners,
                                   .shard_first = rt_shard_first(&map, owner),
                                   .shard_end = rt_shard_first(&map, owner + 1),
                                   .n_tables = job->n_tables};
    char *path;

    *file = (struct rt_manifest_file){.is_rows = true,
                                      .owner = owner,
                                      .shard_first = head.shard_first,
                                      .shard_end = head.shard_end,
                                      .name = rt_xasprintf(RT_ROWFILE_NAME, owner)};
    path = rt_path_join(folder, file->name);
    must(rt_rowfile_begin(&out, path, job, &head));
    must(rt_rowfile_put(&out, RT_ROWFILE_POLICY, 0, "clocks", 1, 6));
    for (uint32_t t = 0; t < job->n_tables; t++)
        put_table(&out, job, t, of, &head);
    must(rt_rowfile_finish(&out, sum, &file->bytes, &file->digest));
    for (uint32_t t = 0; t < job->n_tables; t++) {
        table[t].rows += sum[t].rows;
        table[t].removed += sum[t].removed;
        table[t].digest += sum[t].digest;
    }
    rt_rowfile_drop(&out);
    rt_free(path);
}

/* ---- the rest ---- */

static void note_file(const char *path, const char *name, struct rt_manifest_file *out)
{
    char *text;
    size_t size;

    must(rt_file_read(path, 1 << 20, &text, &size));
    *out =
        (struct rt_manifest_file){.name = name, .bytes = size, .digest = rt_hash_bytes(text, size)};
    rt_free(text);
}

/* 12 weights and 4 biases that follow from the step. */
static void put_dense(const char *folder, const struct made *of, struct rt_manifest_file *file)
{
    const struct rt_tensor_note note[] = {
        {"step", "10"}, {"save", of->name}, {"state", "true"}, {"standardize.a", "0.5 2"}};
    const struct rt_tensor_note state_note[] = {
        {"optimizer", "sgd"}, {"optimizer_steps", "10"}, {"step", "10"}, {"save", of->name}};
    float weight[12], bias[4], sum[12];
    char *path = rt_path_join(folder, "dense.safetensors");

    for (unsigned i = 0; i < ARRAY_LEN(weight); i++) {
        weight[i] = (float)i + (i == 3 ? (float)of->at : 0);
        sum[i] = 1;
    }
    for (unsigned i = 0; i < ARRAY_LEN(bias); i++)
        bias[i] = 0.125F * (float)i;
    const struct rt_tensor tensor[] = {
        {.name = "top.0.weight", .type = RT_TENSOR_F32, .rank = 2, .shape = {4, 3}, .data = weight},
        {.name = "top.0.bias", .type = RT_TENSOR_F32, .rank = 1, .shape = {4}, .data = bias}};
    const struct rt_tensor state = {
        .name = "top.0.weight.sum", .type = RT_TENSOR_F32, .rank = 1, .shape = {12}, .data = sum};

    must(rt_safetensors_write(path, note, ARRAY_LEN(note), tensor, ARRAY_LEN(tensor)));
    note_file(path, "dense.safetensors", &file[0]);
    rt_free(path);
    path = rt_path_join(folder, "dense_state.safetensors");
    must(rt_safetensors_write(path, state_note, ARRAY_LEN(state_note), &state, 1));
    note_file(path, "dense_state.safetensors", &file[1]);
    rt_free(path);
    path = rt_path_join(folder, "model.yml");
    must(rt_file_write(path, "layers: []\n", 11));
    note_file(path, "model.yml", &file[2]);
    rt_free(path);
}

static void publish(const char *dir, const struct rt_job *job, const struct made *of,
                    const struct rt_manifest_table *table, const struct rt_manifest_file *file)
{
    static const uint8_t bits = 0x14; /* 2 and 4 above the low mark */
    const struct wire_split_ledger ledger[] = {
        {.split = 0,
         .stepped_low = 10 * of->at,
         .finished_low = 10 * of->at,
         .stepped = &bits,
         .finished = &bits,
         .stepped_bytes = 1,
         .finished_bytes = 1,
         .rows_read = 1000 * of->at,
         .rows_quarantined = of->at},
        {.split = 1, .stepped_low = 5, .finished_low = 5, .stepped = &bits, .finished = &bits}};
    struct rt_manifest manifest = {.name = of->name,
                                   .attempt = of->attempt,
                                   .base = of->base_attempt,
                                   .base_name = of->base_name,
                                   .made_ms = 1700000000000 + of->attempt,
                                   .job = job->name,
                                   .version = "0",
                                   .config_hash = job->config_hash,
                                   .plan_hash = job->plan_hash,
                                   .row_job = rt_rowfile_job(job),
                                   .seed = 3,
                                   .mode = "hybrid",
                                   .cpu = "plain",
                                   .world = 1,
                                   .splits = 2,
                                   .threads = 1,
                                   .owners = of->owners,
                                   .step = 10 * of->at,
                                   .age = 10 * of->at,
                                   .epoch = 1,
                                   .learning_factor = 1,
                                   .suspect = of->at == 2,
                                   .samples_trained = 160 * of->at,
                                   .batches_trained = 10 * of->at,
                                   .n_ledger = ARRAY_LEN(ledger),
                                   .ledger = ledger,
                                   .n_tables = job->n_tables,
                                   .table = table,
                                   .n_files = of->owners + DENSE_FILES,
                                   .file = file};

    memcpy(manifest.part_hash, job->part_hash, sizeof(manifest.part_hash));
    must(rt_store_publish(dir, &manifest));
}

static void make(const char *dir, const struct rt_job *job, const struct made *of)
{
    struct rt_manifest_table table[2] = {{0}};
    struct rt_manifest_file file[OWNERS_MAX + DENSE_FILES];
    char *folder = rt_path_join(dir, of->name);
    uint64_t live = 0;

    assert_int_equal(job->n_tables, ARRAY_LEN(table));
    must(rt_store_begin(dir, of->name));
    for (uint64_t id = 1; id < IDS_END; id++)
        live += made_number(id, of->at) > 0;
    for (uint32_t t = 0; t < job->n_tables; t++) {
        table[t].name = job->table[t].name;
        table[t].live = live;
    }
    for (uint32_t k = 0; k < of->owners; k++)
        put_owner(folder, job, of, k, table, &file[k]);
    file[0].live = job->n_tables * live; /* of the owners together */
    put_dense(folder, of, &file[of->owners]);
    publish(dir, job, of, table, file);
    for (uint32_t k = 0; k < of->owners; k++)
        rt_free((char *)(uintptr_t)file[k].name);
    rt_free(folder);
}

void made_checkpoints(const char *dir, const struct rt_job *job)
{
    for (size_t i = 0; i < ARRAY_LEN(made); i++)
        make(dir, job, &made[i]);
}
