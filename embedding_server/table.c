/* embedding_server/table.c -- look up and update many rows at once.
 *
 * In:  id[n], and for updates grad[n][dim].    Out: row[n][dim], or changed rows.
 *
 *   id -hash-> index line -tag-> row number -> row {id | weights | state}       index.h, slab.h
 *
 * A single look-up costs two or three cache misses one after the other, some 300 ns. DESIGN: the
 * request is worked on in stretches of ids, each in stages that ask for the next stage's memory, so that as
 * many misses are under way as the CPU can have:
 *   1. hash all ids of a stretch, and prefetch their index lines;
 *   2. match tags in the index lines -> candidate row numbers, and prefetch the rows, to L2;
 *   3. rows: compare the id, copy or update.
 * A stretch is small enough that its index lines stay in L1 and its rows in L2 until they are used.
 * The id stands in the row and not in the index line: it shares the row's first cache line, keeps an index
 * entry at 5 bytes, and lets the index be rebuilt from the rows.
 *
 * An update first finds or creates all its rows (this is all that can fail, and it changes no value),
 * then runs the optimizer on them. Gradient i is only ever addressed as grad + i * dim: an id that is missing,
 * new or left out cannot shift its neighbours' gradients. */
#include "embedding_server/table.h"
#include "embedding_server/index.h"
#include "embedding_server/init.h"
#include "embedding_server/optimizer.h"
#include "embedding_server/slab.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"

#include <math.h>
#include <string.h>

#define STRETCH 256u
#define LINE    64u

struct ebs_table {
    char *name;
    uint32_t dim;
    struct rt_row_layout layout;
    struct ebs_init init;
    struct ebs_optimizer optimizer;
    struct ebs_index index;
    struct ebs_slab slab;
    uint32_t *found; /* [found_capacity] row numbers of the update being applied */
    size_t found_capacity;
    struct ebs_table_counts counts;
};

static int check(const struct rt_table_conf *job)
{
    if (job->dim < 1 || job->dim > EBS_DIM_MAX)
        return RT_FAIL(RT_EUSAGE, "table %s: dim: expected 1..%u, got %u", job->name, EBS_DIM_MAX,
                       job->dim);
    if (job->dtype != WIRE_F32)
        return RT_FAIL(RT_EUSAGE, "table %s: dtype: expected float32 rows", job->name);
    return 0;
}

static int bind(struct ebs_table *table, const struct rt_table_conf *job, uint64_t seed)
{
    struct ebs_init_conf init = {.kind = (enum ebs_init_kind)job->init.kind,
                                 .low = (float)job->init.low,
                                 .high = (float)job->init.high,
                                 .mean = (float)job->init.mean,
                                 .std = (float)job->init.std,
                                 .value = (float)job->init.value};
    int err;

    err = ebs_optimizer_prepare(&table->optimizer, job, seed);
    return err ? err : ebs_init_prepare(&table->init, &init, seed, job->name);
}

int ebs_table_create(const struct ebs_table_conf *conf, struct ebs_table **out)
{
    const struct rt_table_conf *job = conf->job;
    struct ebs_table *table = NULL;
    int err = check(job);

    if (err)
        return err;
    table = rt_try_calloc(1, sizeof(*table));
    if (!table)
        return RT_FAIL(RT_ENOMEM, "table %s: out of memory", job->name);
    table->dim = job->dim;
    table->layout = rt_row_layout(job);
    ebs_slab_init(&table->slab, table->layout.row_bytes);
    err = bind(table, job, conf->seed);
    if (err)
        goto out;
    err = ebs_index_init(&table->index, rt_draw_key(conf->seed, "index", job->name));
    if (err)
        goto out;
    table->name = rt_xstrdup(job->name);
    *out = table;
    return 0;
out:
    ebs_table_destroy(table);
    return err;
}

void ebs_table_destroy(struct ebs_table *table)
{
    if (!table)
        return;
    ebs_index_release(&table->index);
    ebs_slab_release(&table->slab);
    rt_free(table->found);
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

/* ---- the stages ---- */

struct stretch {
    size_t n;
    const uint64_t *id;
    uint64_t hash[STRETCH];
    uint32_t candidate[STRETCH]; /* not yet compared with the id */
};

static void prefetch_line(const struct ebs_index *index, uint64_t hash)
{
    const struct ebs_segment *segment = ebs_index_segment(index, hash);

    __builtin_prefetch(&segment->line[ebs_index_home(segment, hash)]);
}

/* To L2: a request's rows do not fit L1, and L1 fills limit how many misses are under way. */
static inline void prefetch_row(const struct ebs_slab *slab, uint32_t row, size_t bytes)
{
    const uint8_t *at, *end;

    if (row == EBS_ROW_NONE)
        return;
    at = ebs_slab_at(slab, row);
    end = at + bytes;
    for (; at < end; at += LINE)
        __builtin_prefetch(at, 0, 2);
    __builtin_prefetch(end - 1, 0, 2);
}

/* Stages 1 and 2. @bytes: how much of each row stage 3 will touch. */
static void stage(const struct ebs_table *table, const uint64_t *id, size_t n, size_t bytes,
                  struct stretch *out)
{
    const struct ebs_index *index = &table->index;

    out->n = n;
    out->id = id;
    for (size_t i = 0; i < n; i++) {
        out->hash[i] = ebs_index_hash(index, id[i]);
        prefetch_line(index, out->hash[i]);
    }
    for (size_t i = 0; i < n; i++) {
        out->candidate[i] = ebs_index_candidate(index, out->hash[i]);
        prefetch_row(&table->slab, out->candidate[i], bytes);
    }
}

/* The row of id i of a stretch. */
static inline uint32_t settle(const struct ebs_table *table, const struct stretch *s, size_t i)
{
    uint32_t row = s->candidate[i];

    if (row == EBS_ROW_NONE || ebs_row_id(ebs_slab_at(&table->slab, row)) == s->id[i])
        return row;
    return ebs_index_find(&table->index, &table->slab, s->hash[i], s->id[i]);
}

static inline float *weights(const struct ebs_table *table, uint8_t *row)
{
    return (float *)(row + table->layout.weight);
}

/* ---- look-up ---- */

/* The dim that most tables have is known here, so it takes no call. */
static inline void copy(float *restrict out, const float *restrict weight, size_t dim)
{
    if (dim == 16)
        memcpy(out, weight, 16 * sizeof(float));
    else
        memcpy(out, weight, dim * sizeof(float));
}

static size_t lookup_stretch(const struct ebs_table *table, const struct stretch *s, float *out)
{
    const struct ebs_slab *slab = &table->slab;
    size_t dim = table->dim, hits = 0;

    for (size_t i = 0; i < s->n; i++, out += dim) {
        uint32_t row = settle(table, s, i);

        if (row == EBS_ROW_NONE) {
            ebs_init_fill(&table->init, s->id[i], out, dim);
            continue;
        }
        copy(out, weights(table, ebs_slab_at(slab, row)), dim);
        hits++;
    }
    return hits;
}

size_t ebs_table_lookup(const struct ebs_table *table, const uint64_t *id, size_t n, float *row)
{
    size_t hits = 0, bytes = table->layout.weight + table->layout.weight_bytes;
    struct stretch s;

    for (size_t at = 0; at < n; at += STRETCH) {
        stage(table, id + at, n - at < STRETCH ? n - at : STRETCH, bytes, &s);
        hits += lookup_stretch(table, &s, row + at * table->dim);
    }
    return hits;
}

/* ---- update ---- */

static int create_row(struct ebs_table *table, uint64_t id, uint64_t hash, uint32_t *out)
{
    float *weight;
    uint32_t row;
    int err = ebs_slab_alloc(&table->slab, id, &row);

    if (err)
        return rt_fail_prefix(err, "table %s: ", table->name);
    err = ebs_index_insert(&table->index, &table->slab, hash, row);
    if (err) {
        ebs_slab_free(&table->slab, row);
        return rt_fail_prefix(err, "table %s: ", table->name);
    }
    weight = weights(table, ebs_slab_at(&table->slab, row));
    ebs_init_fill(&table->init, id, weight, table->dim);
    ebs_optimizer_state_fill(&table->optimizer, weight + table->dim);
    *out = row;
    return 0;
}

/* found[i]: the row of gradient i, or EBS_ROW_NONE where the gradient is not usable. */
static int find_stretch(struct ebs_table *table, const struct stretch *s, const float *grad,
                        uint32_t *found, struct ebs_applied *applied)
{
    size_t dim = table->dim;
    uint32_t row;
    int err;

    for (size_t i = 0; i < s->n; i++) {
        found[i] = EBS_ROW_NONE;
        if (!ebs_gradient_usable(&table->optimizer, grad + i * dim)) {
            applied->nonfinite++;
            continue;
        }
        row = settle(table, s, i);
        /* Asked again: an id that comes twice may have been created a moment ago. */
        if (row == EBS_ROW_NONE)
            row = ebs_index_find(&table->index, &table->slab, s->hash[i], s->id[i]);
        if (row == EBS_ROW_NONE) {
            err = create_row(table, s->id[i], s->hash[i], &row);
            if (err)
                return err;
            applied->created++;
            table->counts.created++;
        }
        found[i] = row;
        applied->rows++;
    }
    return 0;
}

int ebs_table_prepare(struct ebs_table *table, const struct ebs_update *update, uint32_t *found,
                      struct ebs_applied *out)
{
    struct ebs_applied applied = {0};
    struct stretch s;

    rt_assert(isfinite(update->lr));
    for (size_t at = 0; at < update->n; at += STRETCH) {
        size_t n = update->n - at < STRETCH ? update->n - at : STRETCH;
        int err;

        stage(table, update->id + at, n, sizeof(uint64_t), &s); /* the id alone is compared */
        err = find_stretch(table, &s, update->grad + at * table->dim, found + at, &applied);
        if (err)
            return err;
    }
    out->rows += applied.rows;
    out->created += applied.created;
    out->nonfinite += applied.nonfinite;
    return 0;
}

void ebs_table_commit(struct ebs_table *table, const struct ebs_update *update,
                      const uint32_t *found)
{
    struct ebs_step step =
        ebs_optimizer_step(&table->optimizer, update->lr, update->step, update->draw);
    const struct ebs_slab *slab = &table->slab;
    uint8_t *rows[STRETCH];

    for (size_t at = 0; at < update->n; at += STRETCH) {
        size_t n = update->n - at < STRETCH ? update->n - at : STRETCH;
        struct ebs_rows of = {
            .row = rows, .id = update->id + at, .grad = update->grad + at * table->dim, .n = n};

        for (size_t i = 0; i < n; i++) {
            uint32_t row = found[at + i];

            rows[i] = row == EBS_ROW_NONE ? NULL : ebs_slab_at(slab, row);
            prefetch_row(slab, row, slab->row_bytes);
        }
        ebs_optimizer_run(&table->optimizer, &step, &of);
    }
}

int ebs_table_apply(struct ebs_table *table, const struct ebs_update *update,
                    struct ebs_applied *out)
{
    int err;

    if (update->n > table->found_capacity) {
        size_t bytes;
        bool fits = rt_mul_size(update->n, sizeof(*table->found), &bytes);
        uint32_t *found = fits ? rt_try_realloc(table->found, bytes) : NULL;

        if (!found)
            return RT_FAIL(RT_ENOMEM, "table %s: out of memory for an update of %zu rows",
                           table->name, update->n);
        table->found = found;
        table->found_capacity = update->n;
    }
    err = ebs_table_prepare(table, update, table->found, out);
    if (!err)
        ebs_table_commit(table, update, table->found);
    return err;
}

void ebs_table_tick(struct ebs_table *table, uint64_t wall_ms)
{
    (void)table;
    (void)wall_ms;
}

void ebs_table_guard(struct ebs_table *table, bool on)
{
    (void)table;
    (void)on;
}

bool ebs_table_tend(struct ebs_table *table, uint64_t wall_ms, size_t rows)
{
    (void)table;
    (void)wall_ms;
    (void)rows;
    return false;
}

bool ebs_table_remove(struct ebs_table *table, uint64_t id)
{
    uint64_t hash = ebs_index_hash(&table->index, id);
    uint32_t row = ebs_index_remove(&table->index, &table->slab, hash, id);

    if (row == EBS_ROW_NONE)
        return false;
    ebs_slab_free(&table->slab, row);
    table->counts.removed++;
    return true;
}

/* ---- what there is ---- */

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

    return (struct ebs_table_bytes){
        .rows = rows,
        .index = ebs_index_bytes(&table->index),
        .slack = ebs_slab_bytes(&table->slab) - rows,
        .scratch = table->found_capacity * sizeof(*table->found),
    };
}

const struct ebs_table_counts *ebs_table_counts(const struct ebs_table *table)
{
    return &table->counts;
}

static struct ebs_row row_of(const struct ebs_table *table, uint32_t number)
{
    uint8_t *row = ebs_slab_at(&table->slab, number);

    return (struct ebs_row){.id = ebs_row_id(row),
                            .weight = row + table->layout.weight,
                            .state = (const float *)(row + table->layout.state)};
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
    uint32_t row =
        ebs_index_find(&table->index, &table->slab, ebs_index_hash(&table->index, id), id);

    if (row == EBS_ROW_NONE)
        return false;
    *out = row_of(table, row);
    return true;
}
