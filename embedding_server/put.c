/* embedding_server/put.c -- rows that come of no gradient: one by one of a saved model, or by the stretch as a checkpoint has them.
 *
 * DESIGN: a restore takes as long as its slowest part, and the rows of a file come in no order of the index. So all index lines of a
 * stretch are asked for first, as for a lookup (table.c). The home line alone tells of nearly every id whether it is there, and takes it
 * if not: one look instead of a search, a search for room and a third for the slot. Rows are copied whole, one after the other to
 * the end of the slab; the index has its lines before the first one comes, or each would be spread some five times (index.c). */
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/rowfile.h"

#include <string.h>

/* ---- room ---- */

int ebs_table_place(struct ebs_table *table, uint64_t id, uint32_t *out)
{
    uint32_t row;
    int err = ebs_slab_alloc(&table->slab, id, &row);

    if (err)
        return err;
    err = ebs_index_insert(&table->index, &table->slab, ebs_index_hash(&table->index, id), row);
    if (err) {
        ebs_slab_free(&table->slab, row);
        return err;
    }
    *out = row;
    return 0;
}

/* A row for an id that has none. The texts are for a user: whoever may leave the row out need not read them. */
static int add_row(struct ebs_table *table, uint64_t id, uint32_t *number)
{
    int err;

    if (table->slab.count >= table->capacity)
        return RT_FAIL(RT_ELIMIT,
                       "table %s: an owner has room for %llu rows, and there are more: expected "
                       "more workers or embedding servers",
                       table->name, (unsigned long long)table->capacity);
    err = ebs_table_place(table, id, number);
    if (err)
        return RT_FAIL(err,
                       err == RT_EFULL ? "table %s: global.embedding_server.memory has no room for "
                                         "more than %llu rows"
                                       : "table %s: no memory for more than %llu rows",
                       table->name, (unsigned long long)table->slab.count);
    table->counts.created++;
    return 0;
}

void ebs_table_reserve(struct ebs_table *table, uint64_t rows)
{
    uint64_t most = table->capacity < EBS_ROWS_MAX ? table->capacity : EBS_ROWS_MAX;

    ebs_index_reserve(&table->index, rows < most ? rows : most);
}

/* ---- one row of a saved model ---- */

int ebs_table_put(struct ebs_table *table, uint64_t id, const float *weight, const float *state)
{
    const struct rt_row_layout *layout = &table->layout;
    uint32_t number = ebs_table_find(table, id);
    uint8_t *row;

    if (number == EBS_ROW_NONE) {
        int err = add_row(table, id, &number);

        if (err)
            return err;
        ebs_evict_born(&table->evict, ebs_slab_at(&table->slab, number), table->clock.now);
    } else {
        ebs_table_keep(table, number);
    }
    row = ebs_slab_at(&table->slab, number);
    if (table->job.dtype == WIRE_F32)
        memcpy(row + layout->weight, weight, table->dim * sizeof(float));
    else
        ebs_element_round(table->job.dtype, weight, row + layout->weight, table->dim);
    if (state)
        memcpy(row + layout->state, state, layout->state_count * sizeof(float));
    else
        ebs_optimizer_state_fill(&table->optimizer, (float *)(row + layout->state));
    if (table->marking)
        ebs_slab_mark(&table->slab, number);
    return 0;
}

/* ---- rows of a checkpoint ---- */

static void shift_touched(const struct ebs_table *table, uint8_t *row, uint32_t shift)
{
    uint32_t touched;

    if (!table->layout.touched)
        return;
    memcpy(&touched, row + table->layout.touched, sizeof(touched));
    touched += shift;
    memcpy(row + table->layout.touched, &touched, sizeof(touched));
}

/* The row that an id is to be copied to; *number is EBS_ROW_NONE where it is left out. */
static int row_for(struct ebs_table *table, uint64_t id, uint32_t *number, uint64_t *left_out)
{
    int err;

    *number = ebs_table_find(table, id);
    if (*number != EBS_ROW_NONE)
        return 0;
    err = add_row(table, id, number);
    if ((err != RT_ELIMIT && err != RT_EFULL) || table->job.eviction.kind == RT_EVICT_NONE)
        return err;
    *number = EBS_ROW_NONE;
    *left_out += 1;
    return 0;
}

/* The same where the id's home line tells all, and a new row goes to the end: nearly always. */
static bool row_at_once(struct ebs_table *table, uint64_t id, uint32_t home, uint8_t tag,
                        uint32_t *number)
{
    struct ebs_slab *slab = &table->slab;

    if (slab->count != slab->fresh || slab->fresh == slab->capacity ||
        slab->count >= table->capacity ||
        !ebs_index_claim(&table->index, slab, home, tag, id, slab->fresh, number))
        return false;
    if (*number == EBS_ROW_NONE) {
        int err = ebs_slab_alloc(slab, id, number); /* it has room for this one */

        rt_assert(err == 0);
        table->counts.created++;
    }
    return true;
}

static void copy_in(struct ebs_table *table, uint32_t number, const uint8_t *row, uint32_t shift)
{
    uint8_t *to = ebs_slab_at(&table->slab, number);

    if (table->slab.cut_end > 0)
        ebs_table_keep(table, number);
    memcpy(to, row, table->slab.row_bytes);
    if (shift != 0)
        shift_touched(table, to, shift);
    if (table->marking)
        ebs_slab_mark(&table->slab, number);
}

/* Home lines are asked for, then the rows that may be there already. */
static void stage(const struct ebs_table *table, const uint8_t *const *row, size_t n,
                  uint32_t *home, uint8_t *tag)
{
    const struct ebs_index *index = &table->index;
    uint32_t candidate;

    for (size_t i = 0; i < n; i++) {
        uint64_t hash = ebs_index_hash(index, ebs_row_id(row[i]));

        home[i] = ebs_index_home(index, hash);
        tag[i] = ebs_index_tag(hash);
        __builtin_prefetch(&index->line[home[i]], 1, 2);
    }
    for (size_t i = 0; i < n; i++)
        if (ebs_index_at_home(index, home[i], tag[i], &candidate) && candidate != EBS_ROW_NONE)
            ebs_prefetch_row(ebs_slab_at(&table->slab, candidate), table->slab.row_bytes);
}

static int put_stretch(struct ebs_table *table, const uint8_t *const *row, size_t n, uint32_t shift,
                       uint64_t *left_out)
{
    uint32_t home[EBS_STRETCH], lines = table->index.n_lines;
    uint8_t tag[EBS_STRETCH];

    stage(table, row, n, home, tag);
    for (size_t i = 0; i < n; i++) {
        uint64_t id = ebs_row_id(row[i]);
        uint32_t number;

        /* An index that has grown has other homes. */
        if (table->index.n_lines != lines || !row_at_once(table, id, home[i], tag[i], &number)) {
            int err = row_for(table, id, &number, left_out);

            if (err)
                return err;
        }
        if (number != EBS_ROW_NONE)
            copy_in(table, number, row[i], shift);
    }
    return 0;
}

int ebs_table_put_rows(struct ebs_table *table, const uint8_t *const *row, size_t n, uint32_t shift,
                       uint64_t *left_out)
{
    int err = 0;

    for (size_t at = 0; at < n && !err; at += EBS_STRETCH)
        err = put_stretch(table, row + at, n - at < EBS_STRETCH ? n - at : EBS_STRETCH, shift,
                          left_out);
    return err;
}

uint64_t ebs_table_remove_rows(struct ebs_table *table, const uint64_t *id, size_t n)
{
    struct ebs_stretch s;
    uint64_t removed = 0;

    for (size_t at = 0; at < n; at += EBS_STRETCH) {
        ebs_stage(table, id + at, n - at < EBS_STRETCH ? n - at : EBS_STRETCH, sizeof(uint64_t),
                  &s);
        for (size_t i = 0; i < s.n; i++)
            removed += ebs_table_remove(table, s.id[i]);
    }
    return removed;
}

int ebs_table_clear(struct ebs_table *table)
{
    uint64_t salt = table->index.salt;
    struct ebs_budget *budget = table->slab.rows.budget;

    rt_assert(!table->cut_out);
    rt_free(table->removed.id);
    table->removed = (struct ebs_removed){0};
    ebs_index_release(&table->index);
    ebs_slab_release(&table->slab);
    ebs_clock_init(&table->clock, table->job.ttl_seconds);
    ebs_admit_clear(table->admit);
    table->marking = table->sweeping = false;
    table->sweep_due = 0;
    table->counts = (struct ebs_table_counts){0};
    return ebs_index_init(&table->index, salt, budget);
}

uint64_t ebs_table_digest(const struct ebs_table *table)
{
    uint64_t seed = rt_hash_bytes(table->name, strlen(table->name)), digest = 0;

    for (uint32_t row = ebs_slab_next_live(&table->slab, 0); row != EBS_ROW_NONE;
         row = ebs_slab_next_live(&table->slab, row + 1))
        digest += rt_rowfile_row_digest(&table->layout, seed, ebs_slab_at(&table->slab, row));
    return digest;
}
