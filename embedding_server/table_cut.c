/* embedding_server/table_cut.c -- see table_cut.h. */
#include "embedding_server/table_cut.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/checkpoint/rowfile.h"

#include <string.h>

#define EMPTY_MAX   1024u /* blocks without a row of the cut, at a call */
#define PER_NEW_ROW 2u    /* rows that may go for a new one: see place_with_room() */
#define LET_GO      4096u /* blocks of a cut that was dropped, at a call */

uint64_t ebs_table_changed(const struct ebs_table *table)
{
    return table->marking ? table->slab.marked : table->slab.count;
}

bool ebs_table_knows_changes(const struct ebs_table *table)
{
    return table->marking && !table->removed.lost;
}

void ebs_table_follow(struct ebs_table *table)
{
    rt_assert(!table->marking && table->removed.n == 0);
    table->marking = true;
}

void ebs_table_cut(struct ebs_table *table, bool full, uint32_t number, struct ebs_rowbuf *out,
                   struct ebs_removed *removed)
{
    rt_assert(full == !removed && (full || ebs_table_knows_changes(table)));
    while (ebs_table_cut_let_go(table))
        ; /* of one that was dropped just now */
    if (removed)
        *removed = table->removed;
    else
        rt_free(table->removed.id);
    table->removed = (struct ebs_removed){0};
    table->cut_out = out;
    table->cut_number = number;
    table->marking = true;
    ebs_slab_cut(&table->slab, full);
    ebs_admit_cut(table->admit);
}

static void copy_row(struct ebs_table *table, uint32_t row)
{
    ebs_rowbuf_add(table->cut_out, RT_ROWFILE_ROWS, table->cut_number,
                   ebs_slab_at(&table->slab, row), table->slab.row_bytes);
}

static void copy_line(struct ebs_table *table, uint64_t number)
{
    uint8_t line[RT_ROWFILE_LINE];

    memcpy(line, &number, sizeof(number));
    memcpy(line + sizeof(number), ebs_admit_line(table->admit, number), EBS_ADMIT_LINE);
    ebs_rowbuf_add(table->cut_out, RT_ROWFILE_SKETCH, table->cut_number, line, sizeof(line));
}

/* Some lines of the sketch, or of those that are there none. */
static void pass_lines(struct ebs_table *table)
{
    uint64_t pending = 0, first = 0;

    for (uint32_t n = 0; ebs_admit_is_cut(table->admit) && !pending && n < EMPTY_MAX / 16; n++)
        pending = ebs_admit_cut_pass(table->admit, &first);
    for (; pending; pending &= pending - 1)
        copy_line(table, first + (uint64_t)__builtin_ctzll(pending));
}

bool ebs_table_cut_pass(struct ebs_table *table)
{
    struct ebs_slab *slab = &table->slab;
    uint64_t pending = 0;
    uint32_t first = 0;

    if (ebs_admit_is_cut(table->admit)) {
        pass_lines(table);
        return ebs_admit_is_cut(table->admit) || slab->cut_end > 0;
    }
    for (uint32_t n = 0; slab->cut_end > 0 && !pending && n < EMPTY_MAX; n++) {
        first = slab->cut_at;
        pending = ebs_slab_cut_pass(slab);
    }
    for (; pending; pending &= pending - 1)
        copy_row(table, first + (uint32_t)__builtin_ctzll(pending));
    return slab->cut_end > 0;
}

void ebs_table_cut_drop(struct ebs_table *table)
{
    ebs_slab_cut_drop(&table->slab);
    ebs_admit_cut_drop(table->admit);
}

bool ebs_table_cut_let_go(struct ebs_table *table)
{
    return ebs_slab_cut_let_go(&table->slab, LET_GO);
}

static bool has_sketch(const struct ebs_table *table)
{
    const uint8_t *sketch;

    return ebs_admit_sketch(table->admit, &sketch) > 0;
}

size_t ebs_table_cut_row_max(const struct ebs_table *table)
{
    size_t line = has_sketch(table) ? RT_ROWFILE_LINE : 0;

    return table->slab.row_bytes > line ? table->slab.row_bytes : line;
}

size_t ebs_table_cut_pass_bytes(const struct ebs_table *table)
{
    return EBS_CUT_ROWS * ebs_table_cut_row_max(table) + EBS_ROWBUF_RUN;
}

/* Of each stretch (update.c): the rows that are found, lines of ids without one, rows that go. So without a sketch all is one run, with one
 * rows and lines take turns. */
size_t ebs_table_cut_most(const struct ebs_table *table, size_t ids)
{
    size_t rows = table->job.eviction.kind == RT_EVICT_NONE ? 1 : PER_NEW_ROW, runs = 1;
    size_t bytes = ids * rows * table->slab.row_bytes, stretch = EBS_WIDE / table->dim;

    if (stretch > EBS_STRETCH)
        stretch = EBS_STRETCH;
    if (has_sketch(table)) {
        bytes += ids * RT_ROWFILE_LINE;
        runs += 2 * (ids / stretch + 1);
    }
    return ids > 0 ? bytes + runs * EBS_ROWBUF_RUN : 0;
}

size_t ebs_table_cut_copies(const struct ebs_table *table, size_t ids)
{
    const struct ebs_slab *slab = &table->slab;
    bool under_way = (slab->cut_end > 0 && !slab->cut_dropped) || ebs_admit_is_cut(table->admit);

    return under_way ? ebs_table_cut_most(table, ids) : 0;
}

/* ---- before a row changes, or goes ---- */

void ebs_table_keep(struct ebs_table *table, uint32_t row)
{
    if (!ebs_slab_keep(&table->slab, row))
        return;
    copy_row(table, row);
    table->cut_out->kept++;
}

void ebs_table_keep_stretch(struct ebs_table *table, const struct ebs_stretch *s)
{
    uint32_t number[EBS_STRETCH];

    for (size_t i = 0; i < s->n; i++) {
        if (!s->row[i])
            continue;
        number[i] = ebs_slab_number(&table->slab, s->row[i]);
        __builtin_prefetch(ebs_slab_bits(&table->slab, number[i]), 1);
    }
    for (size_t i = 0; i < s->n; i++)
        if (s->row[i])
            ebs_table_keep(table, number[i]);
}

void ebs_table_keep_line(struct ebs_table *table, uint64_t id)
{
    uint64_t number;

    if (!ebs_admit_keep(table->admit, id, &number))
        return;
    copy_line(table, number);
    table->cut_out->kept++;
}

void ebs_table_note_removed(struct ebs_table *table, uint64_t id)
{
    struct ebs_removed *removed = &table->removed;
    size_t most = table->slab.count / EBS_REMOVED_PART;

    if (most < EBS_REMOVED_MIN)
        most = EBS_REMOVED_MIN;
    if (!table->marking || removed->lost)
        return;
    if (removed->n == removed->room && removed->n < most) {
        size_t room = removed->room ? 2 * removed->room : 1024;
        uint64_t *more = rt_try_realloc(removed->id, room * sizeof(*more));

        removed->id = more ? more : removed->id;
        removed->room = more ? room : removed->room;
    }
    if (removed->n == removed->room || removed->n >= most) {
        rt_free(removed->id);
        *removed = (struct ebs_removed){.lost = true};
        return;
    }
    removed->id[removed->n++] = id;
}
