/* embedding_server/table.c -- a table's life, looking up many rows at once, what there is.
 *
 * In:  id[n].    Out: row[n][dim] in the dtype asked for.        Changing rows: update.c. Upkeep between updates: tend.c.
 *
 *   id -hash-> index line -tag-> row number -> row {id | meta | weights | state}       index.h, slab.h
 *
 * A single look-up costs two or three cache misses one after the other, some 300 ns. DESIGN: the
 * request is worked on in stretches of ids, each in stages that ask for the next stage's memory, so that as
 * many misses are under way as the CPU can have:
 *   1. hash all ids of a stretch, and prefetch their index lines;
 *   2. match tags in the index lines -> candidate rows, and prefetch them, to L2 (both: stage.h);
 *   3. rows: compare the id, copy or convert; updates: run the optimizer.
 * A stretch is small enough that its index lines stay in L1 and its rows in L2 until they are used.
 * The id stands in the row and not in the index line: it shares the row's first cache line, keeps an index
 * entry at 5 bytes, and lets the index be rebuilt from the rows. */
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <string.h>

_Static_assert(EBS_DIM_MAX == WIRE_DIM_MAX, "a row fits a message");

static int check(const struct ebs_table_conf *conf)
{
    const struct rt_table_conf *job = conf->job;

    rt_assert(conf->shards >= 1 && conf->shards <= RT_SHARDS);
    if (job->dim < 1 || job->dim > EBS_DIM_MAX)
        return RT_FAIL(RT_EUSAGE, "table %s: dim: expected 1..%u, got %u", job->name, EBS_DIM_MAX,
                       job->dim);
    if (wire_dtype_size(job->dtype) == 0)
        return RT_FAIL(RT_EUSAGE, "table %s: dtype: expected f32, f16 or bf16, got number %u",
                       job->name, job->dtype);
    return 0;
}

/* Neither grows, but is memory of the table's as well: what it is itself, and the sketch. */
static int take_fixed(struct ebs_table *table)
{
    struct ebs_budget *budget = table->slab.rows.budget;
    size_t bytes = sizeof(*table) + ebs_admit_bytes(table->admit);

    if (budget && !ebs_budget_take(budget, bytes))
        return RT_EFULL;
    table->fixed_bytes = bytes;
    return 0;
}

static int no_room(const struct ebs_table *table)
{
    const struct ebs_budget *budget = table->slab.rows.budget;

    return RT_FAIL(RT_EFULL,
                   "table %s: no room for an empty table with an admission sketch of %zu bytes: "
                   "%zu of the owner's %zu bytes are taken",
                   table->name, ebs_admit_bytes(table->admit), budget->used, budget->limit);
}

/* What can fail of making a table; `table` is destroyed by the caller then. */
static int build(struct ebs_table *table, const struct ebs_table_conf *conf)
{
    const struct rt_table_conf *job = conf->job;
    int err = ebs_init_prepare(&table->init, job, conf->seed);

    if (!err)
        err = ebs_optimizer_prepare(&table->optimizer, job, conf->seed);
    if (!err)
        err = ebs_admit_create(job, conf->seed, conf->shards, &table->admit);
    if (!err)
        err = take_fixed(table);
    if (!err)
        err = ebs_index_init(&table->index, rt_draw_key(conf->seed, "index", job->name),
                             conf->budget);
    return err == RT_EFULL ? no_room(table) : err;
}

int ebs_table_create(const struct ebs_table_conf *conf, struct ebs_table **out)
{
    const struct rt_table_conf *job = conf->job;
    struct ebs_table *table = NULL;
    int err = check(conf);

    if (err)
        return err;
    table = rt_try_calloc(1, sizeof(*table));
    if (!table)
        return RT_FAIL(RT_ENOMEM, "table %s: out of memory", job->name);
    table->name = rt_xstrdup(job->name);
    table->job = *job;
    table->job.name = table->name;
    table->dim = job->dim;
    table->layout = rt_row_layout(job);
    table->capacity = rt_owner_capacity(job, conf->shards);
    if (table->capacity == 0)
        table->capacity = UINT64_MAX;
    ebs_slab_init(&table->slab, table->layout.row_bytes, conf->budget);
    ebs_clock_init(&table->clock, job->ttl_seconds);
    ebs_evict_init(&table->evict, job, conf->seed);
    err = build(table, conf);
    if (err) {
        ebs_table_destroy(table);
        return err;
    }
    *out = table;
    return 0;
}

void ebs_table_destroy(struct ebs_table *table)
{
    if (!table)
        return;
    ebs_index_release(&table->index);
    ebs_slab_release(&table->slab);
    if (table->fixed_bytes > 0 && table->slab.rows.budget)
        ebs_budget_give(table->slab.rows.budget, table->fixed_bytes);
    ebs_admit_destroy(table->admit);
    rt_free(table->removed.id);
    rt_free(table->name);
    rt_free(table);
}

const char *ebs_table_name(const struct ebs_table *table)
{
    return table->name;
}

uint32_t ebs_table_dim(const struct ebs_table *table)
{
    return table->dim;
}

float ebs_table_lr(const struct ebs_table *table, float lr, double factor)
{
    return ebs_optimizer_lr(&table->optimizer, lr, factor);
}

/* ---- look-up ---- */

#define LONG_ROW 128u /* bytes: of longer ones no more is asked for */

/* What a row would be made with; in 16 bits rounded, for the value must not change when the row is made. */
static void initial(const struct ebs_table *table, uint64_t id, float *out)
{
    _Alignas(4) uint8_t stored[EBS_DIM_MAX * sizeof(uint16_t)];
    const uint8_t *row = stored;

    ebs_init_fill(&table->init, id, out, table->dim);
    if (table->job.dtype == WIRE_F32)
        return;
    ebs_element_round(table->job.dtype, out, stored, table->dim);
    ebs_element_widen(
        &(struct ebs_weights){.row = &row, .n = 1, .dim = table->dim, .dtype = table->job.dtype},
        out);
}

static void initial_as(const struct ebs_table *table, uint32_t dtype, uint64_t id, void *out)
{
    float wide[EBS_DIM_MAX];

    if (dtype == WIRE_F32) {
        initial(table, id, out);
        return;
    }
    initial(table, id, wide);
    rt_narrow(dtype, wide, out, table->dim);
}

/* @return how many ids have a row */
static size_t copy_rows(const struct ebs_table *table, struct ebs_stretch *s, uint32_t dtype,
                        uint8_t *out)
{
    const uint8_t *weight[EBS_STRETCH];
    size_t bytes = table->dim * wire_dtype_size(dtype), missing = ebs_settle(table, s);

    for (size_t i = 0; i < s->n; i++)
        weight[i] = s->row[i] ? s->row[i] + table->layout.weight : NULL;
    ebs_element_read(
        &(struct ebs_weights){
            .row = weight, .n = s->n, .dim = table->dim, .dtype = table->job.dtype},
        dtype, out);
    for (size_t i = 0; i < s->n && missing > 0; i++)
        if (!weight[i])
            initial_as(table, dtype, s->id[i], out + i * bytes);
    return s->n - missing;
}

size_t ebs_table_lookup(const struct ebs_table *table, const uint64_t *id, size_t n, float *row)
{
    return ebs_table_lookup_as(table, WIRE_F32, id, n, row);
}

size_t ebs_table_lookup_as(const struct ebs_table *table, uint32_t dtype, const uint64_t *id,
                           size_t n, void *row)
{
    size_t hits = 0, bytes = table->layout.weight + table->layout.weight_bytes;
    size_t out_bytes = table->dim * wire_dtype_size(dtype);
    struct ebs_stretch s;

    /* The hardware sees a copy coming, and brings the rest of a long row as soon as it is asked for: of the machine's limit at
     * dim 64, 0.61 (Zipf 0.58) with two lines asked for, 0.57 (0.56) with all, 0.55 (0.53) with one. */
    if (bytes > LONG_ROW)
        bytes = LONG_ROW;
    for (size_t at = 0; at < n; at += EBS_STRETCH) {
        ebs_stage(table, id + at, n - at < EBS_STRETCH ? n - at : EBS_STRETCH, bytes, &s);
        hits += copy_rows(table, &s, dtype, (uint8_t *)row + at * out_bytes);
    }
    return hits;
}

/* ---- time ---- */

void ebs_table_tick(struct ebs_table *table, uint64_t time_ms)
{
    if (table->layout.touched)
        ebs_clock_tick(&table->clock, time_ms);
}

/* ---- rows that go ---- */

void ebs_table_drop(struct ebs_table *table, uint32_t row)
{
    uint64_t id = ebs_row_id(ebs_slab_at(&table->slab, row));

    ebs_table_keep(table, row);
    ebs_table_note_removed(table, id);
    ebs_index_remove(&table->index, &table->slab, ebs_index_hash(&table->index, id), id);
    ebs_slab_free(&table->slab, row);
}

bool ebs_table_remove(struct ebs_table *table, uint64_t id)
{
    uint32_t row = ebs_table_find(table, id);

    if (row == EBS_ROW_NONE)
        return false;
    ebs_table_drop(table, row);
    table->counts.removed++;
    return true;
}

/* ---- what there is ---- */

uint64_t ebs_table_capacity(const struct ebs_table *table)
{
    return table->capacity;
}

uint64_t ebs_table_rows(const struct ebs_table *table)
{
    return table->slab.count;
}

size_t ebs_table_row_bytes(const struct ebs_table *table)
{
    return table->slab.row_bytes;
}

struct ebs_table_bytes ebs_table_bytes(const struct ebs_table *table)
{
    size_t rows = table->slab.count * table->slab.row_bytes;
    size_t slab = ebs_slab_bytes(&table->slab), index = ebs_index_bytes(&table->index);

    return (struct ebs_table_bytes){
        .rows = rows,
        .index = index,
        .slack = slab - rows + ebs_admit_bytes(table->admit) +
                 table->removed.room * sizeof(*table->removed.id) + sizeof(*table),
        .allocator =
            ebs_slab_resident(&table->slab) - slab + ebs_index_resident(&table->index) - index,
    };
}

const struct ebs_table_counts *ebs_table_counts(const struct ebs_table *table)
{
    return &table->counts;
}

static struct ebs_row row_of(const struct ebs_table *table, uint32_t number)
{
    const struct rt_row_layout *layout = &table->layout;
    const uint8_t *row = ebs_slab_at(&table->slab, number);
    struct ebs_row out = {.id = ebs_row_id(row),
                          .weight = row + layout->weight,
                          .state = (const float *)(row + layout->state)};

    if (layout->touched)
        memcpy(&out.touched, row + layout->touched, sizeof(out.touched));
    if (layout->frequency)
        memcpy(&out.frequency, row + layout->frequency, sizeof(out.frequency));
    return out;
}

bool ebs_table_next(const struct ebs_table *table, uint32_t *cursor, struct ebs_row *out)
{
    uint32_t row = ebs_slab_next_live(&table->slab, *cursor);

    if (row == EBS_ROW_NONE)
        return false;
    *out = row_of(table, row);
    *cursor = row + 1;
    return true;
}

bool ebs_table_get(const struct ebs_table *table, uint64_t id, struct ebs_row *out)
{
    uint32_t row = ebs_table_find(table, id);

    if (row == EBS_ROW_NONE)
        return false;
    *out = row_of(table, row);
    return true;
}
