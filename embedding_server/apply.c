/* embedding_server/apply.c -- the updates of an application, one after the other, a piece of rows at a time.
 *
 *   parts (-> merge.c: one list per table) -> run[]: one update of one table each -> pieces
 *
 * What takes memory is done before the first row changes: so a batch whose rows lie in several
 * tables is applied as a whole or can be sent again as if nothing had happened. An update itself cannot fail.
 * A piece is about PIECE_BYTES of memory gone through, some 0.1 ms, or 1 ms where rows are created and the
 * index grows: the owner's loop looks at its other sockets in between when an application is large. A small one
 * takes all rows of an update at once: nobody waits for the next piece. */
#include "embedding_server/apply.h"
#include "embedding_server/stage.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define PIECE_BYTES    ((size_t)512 << 10)
#define PIECE_ROWS_MAX EBS_PIECE_ROWS_MAX
#define PIECE_ROWS_MIN 64u
#define WINDOW_MIN     4u

size_t ebs_work_bytes(const struct ebs_table *table, size_t rows)
{
    /* The row, its line of the index, and what was sent or is sent of it. */
    return rows * (ebs_table_row_bytes(table) + 64 + ebs_table_dim(table) * sizeof(float));
}

size_t ebs_piece_rows(const struct ebs_table *table)
{
    size_t rows = PIECE_BYTES / ebs_work_bytes(table, 1);

    if (rows > PIECE_ROWS_MAX)
        return PIECE_ROWS_MAX;
    if (rows >= EBS_STRETCH)
        return rows - rows % EBS_STRETCH;
    return rows < PIECE_ROWS_MIN ? PIECE_ROWS_MIN : rows;
}

void ebs_applier_release(struct ebs_applier *applier)
{
    ebs_apply_end(applier);
    rt_free(applier->run);
    rt_free(applier->ticked);
    applier->run = NULL;
    applier->ticked = NULL;
    applier->run_capacity = 0;
}

/* ---- begin ---- */

static int make_room(struct ebs_applier *applier, size_t runs)
{
    if (runs > applier->run_capacity) {
        struct ebs_run *run = rt_try_calloc(runs, sizeof(*run));

        if (!run)
            return RT_FAIL(RT_ENOMEM, "no memory to apply %zu updates", runs);
        rt_free(applier->run);
        applier->run = run;
        applier->run_capacity = runs;
    }
    if (!applier->ticked) {
        applier->ticked = rt_try_calloc(applier->n_tables, sizeof(*applier->ticked));
        if (!applier->ticked)
            return RT_FAIL(RT_ENOMEM, "no memory to apply to %u tables", applier->n_tables);
    }
    return 0;
}

/* Rows that the steps under way have looked up will get their gradients soon. */
static uint32_t window_of(const struct ebs_applier *applier, const struct wire_apply_gradients *m)
{
    uint64_t window = 2ull * applier->staleness * m->world;

    if (window < WINDOW_MIN)
        return WINDOW_MIN;
    return window < UINT32_MAX ? (uint32_t)window : UINT32_MAX;
}

/* All of an update but its rows. */
static struct ebs_run run_of(const struct ebs_applier *applier, size_t part, uint32_t table)
{
    const struct wire_apply_gradients *m = &applier->part[part]->m;
    float lr = ebs_table_lr(applier->table[table], applier->lr[table], m->learning_rate);
    uint64_t age = m->age ? m->age : m->step;

    return (struct ebs_run){.update = {.lr = lr,
                                       .step = age,
                                       .draw = m->synchronous ? age : applier->part[part]->batch_id,
                                       .window = window_of(applier, m)},
                            .table = table,
                            .part = part};
}

static void list_each(struct ebs_applier *applier)
{
    for (size_t p = 0; p < applier->n_parts; p++) {
        const struct ebs_part *part = applier->part[p];

        for (uint32_t t = 0; t < part->m.n_tables; t++) {
            struct ebs_run *run = &applier->run[applier->n_runs++];

            *run = run_of(applier, p, part->m.table[t]);
            ebs_part_rows(part, t, &run->update);
        }
    }
}

/* Their rows are known when all is added up. */
static void list_merged(struct ebs_applier *applier)
{
    for (size_t i = 0; i < ebs_merge_tables(applier->merge); i++)
        applier->run[applier->n_runs++] =
            run_of(applier, 0, ebs_merge_table(applier->merge, i)->table);
}

static void tick_tables(struct ebs_applier *applier, uint64_t time_ms)
{
    applier->applications++;
    for (size_t r = 0; r < applier->n_runs; r++) {
        uint32_t t = applier->run[r].table;

        if (applier->ticked[t] == applier->applications)
            continue;
        applier->ticked[t] = applier->applications;
        ebs_table_tick(applier->table[t], time_ms);
    }
}

int ebs_apply_begin(struct ebs_applier *applier, struct ebs_part *const *part, size_t n, bool merge,
                    uint64_t time_ms)
{
    size_t runs = 0;
    int err;

    rt_assert(applier->phase == EBS_APPLY_IDLE);
    for (size_t p = 0; p < n; p++)
        runs += part[p]->m.n_tables;
    err = make_room(applier, runs);
    if (!err && merge && n > 0)
        err = ebs_merge_create(applier->table, applier->n_tables, part, n, &applier->merge);
    if (err)
        return err;
    applier->part = part;
    applier->n_parts = n;
    applier->at_run = applier->at_row = applier->n_runs = 0;
    applier->phase = applier->merge ? EBS_APPLY_MERGE : EBS_APPLY_ROWS;
    for (size_t p = 0; p < n; p++)
        part[p]->rows = part[p]->nonfinite = 0;
    if (applier->merge)
        list_merged(applier);
    else
        list_each(applier);
    tick_tables(applier, time_ms);
    return 0;
}

void ebs_apply_end(struct ebs_applier *applier)
{
    if (applier->phase == EBS_APPLY_IDLE)
        return;
    ebs_merge_destroy(applier->merge);
    applier->merge = NULL;
    applier->part = NULL;
    applier->n_parts = applier->n_runs = 0;
    applier->at_once = false;
    applier->phase = EBS_APPLY_IDLE;
}

/* ---- pieces ---- */

static size_t rows_of_piece(const struct ebs_applier *applier, const struct ebs_table *table)
{
    size_t rows = ebs_piece_rows(table);

    if (applier->at_once)
        return SIZE_MAX;
    return applier->piece_rows > 0 && applier->piece_rows < rows ? applier->piece_rows : rows;
}

static void merge_piece(struct ebs_applier *applier)
{
    size_t rows = PIECE_ROWS_MAX;

    for (size_t r = 0; r < applier->n_runs; r++) {
        size_t here = rows_of_piece(applier, applier->table[applier->run[r].table]);

        rows = here < rows ? here : rows;
    }
    if (ebs_merge_piece(applier->merge, rows))
        return;
    for (size_t r = 0; r < applier->n_runs; r++) {
        const struct ebs_merged *merged = ebs_merge_table(applier->merge, r);
        struct ebs_update *update = &applier->run[r].update;

        update->id = merged->id;
        update->grad = merged->grad;
        update->n = merged->n;
    }
    applier->phase = EBS_APPLY_ROWS;
}

/* The next rows of the list of updates; NULL: there are none. */
static const struct ebs_run *next_rows(struct ebs_applier *applier, struct ebs_update *update)
{
    const struct ebs_run *run = &applier->run[applier->at_run];
    const struct ebs_table *table;
    size_t most, left;

    while (applier->at_run < applier->n_runs && applier->at_row == run->update.n) {
        applier->at_run++;
        applier->at_row = 0;
        run++;
    }
    if (applier->at_run == applier->n_runs)
        return NULL;
    table = applier->table[run->table];
    most = rows_of_piece(applier, table);
    left = run->update.n - applier->at_row;
    *update = run->update;
    update->id += applier->at_row;
    update->grad = (const uint8_t *)update->grad +
                   applier->at_row * ebs_table_dim(table) * wire_dtype_size(update->dtype);
    update->n = left < most ? left : most;
    applier->at_row += update->n;
    return run;
}

static void rows_piece(struct ebs_applier *applier)
{
    struct ebs_applied applied = {0};
    struct ebs_update update;
    const struct ebs_run *run = next_rows(applier, &update);

    if (!run) {
        applier->phase = EBS_APPLY_DONE;
        return;
    }
    ebs_table_apply(applier->table[run->table], &update, &applied);
    applier->part[run->part]->rows += applied.rows;
    applier->part[run->part]->nonfinite += applied.nonfinite;
}

void ebs_apply_piece(struct ebs_applier *applier)
{
    rt_assert(applier->phase == EBS_APPLY_MERGE || applier->phase == EBS_APPLY_ROWS);
    if (applier->phase == EBS_APPLY_MERGE)
        merge_piece(applier);
    else
        rows_piece(applier);
}

int ebs_apply_parts(struct ebs_applier *applier, struct ebs_part *const *part, size_t n, bool merge,
                    uint64_t time_ms)
{
    int err = ebs_apply_begin(applier, part, n, merge, time_ms);

    if (err)
        return err;
    applier->at_once = true;
    while (applier->phase != EBS_APPLY_DONE)
        ebs_apply_piece(applier);
    ebs_apply_end(applier);
    return 0;
}
