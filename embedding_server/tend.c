/* embedding_server/tend.c -- upkeep between updates: rows expire, memory comes back, growth finds memory ready.
 *
 *   sweep    all rows in the order of memory, some at a call; those whose time to live is over go. A sweep begins
 *            SWEEPS times in a time to live, at most each second, so a row goes that much late.
 *   compact  the last rows move into free places lower down, and the pages behind them go back. The index
 *            shrinks by itself as rows go (index.c)
 *   ahead    memory for rows to come is touched now, so that the update that needs it does not wait for the kernel
 *
 * Row numbers change here and nowhere else. Rows are not compacted during a sweep, or they would move to where it has been
 * already; so the next sweep begins when that is done, or a table that takes longer to sweep than its sweeps are apart
 * would never give memory back. While a cut has rows ahead (table_cut.h) none expires, and none moves. */
#include "embedding_server/table_inner.h"

#define BATCH       64u /* rows that are prefetched at a time */
#define SWEEPS      32u
#define SWEEP_MS    1000u
#define MOVE_AHEAD  8u /* rows from the one that moves to the one whose index line is prefetched */
#define TOUCH_BYTES ((size_t)1 << 20) /* ahead, at a call */

/* ---- expiry ---- */

static bool expired(const struct ebs_table *table, uint32_t row)
{
    uint32_t touched;

    memcpy(&touched, ebs_slab_at(&table->slab, row) + table->layout.touched, sizeof(touched));
    return ebs_clock_expired(&table->clock, touched);
}

/* Some rows from the sweep's place on. @return how many were looked at; 0: the sweep is at the end. */
static size_t sweep_batch(struct ebs_table *table, size_t most)
{
    uint32_t row[BATCH];
    size_t n = 0, old = 0;

    while (n < most && n < BATCH) {
        row[n] = ebs_slab_next_live(&table->slab, table->sweep_at);
        if (row[n] == EBS_ROW_NONE)
            break;
        table->sweep_at = row[n] + 1;
        ebs_prefetch_row(ebs_slab_at(&table->slab, row[n++]), table->layout.weight);
    }
    for (size_t i = 0; i < n; i++) {
        if (!expired(table, row[i]))
            continue;
        row[old++] = row[i];
        ebs_index_prefetch(
            &table->index,
            ebs_index_hash(&table->index, ebs_row_id(ebs_slab_at(&table->slab, row[i]))));
    }
    for (size_t i = 0; i < old; i++)
        ebs_table_drop(table, row[i]);
    table->counts.expired += old;
    return n;
}

/* true: the sweep is not at its end. */
static bool sweep(struct ebs_table *table, uint64_t time_ms, size_t *left)
{
    uint64_t pause = table->job.ttl_seconds * 1000 / SWEEPS;

    if (table->job.ttl_seconds == 0)
        return false;
    if (!table->sweeping) {
        if (time_ms < table->sweep_due)
            return false;
        table->sweeping = true;
        table->sweep_at = 0;
        table->sweep_due = time_ms + (pause > SWEEP_MS ? pause : SWEEP_MS);
    }
    while (*left > 0) {
        size_t n = sweep_batch(table, *left);

        if (n == 0) {
            table->sweeping = false;
            break;
        }
        *left -= n;
    }
    return table->sweeping;
}

/* ---- memory ---- */

static void prefetch_entry(const struct ebs_table *table, uint32_t row)
{
    if (ebs_slab_is_live(&table->slab, row))
        ebs_index_prefetch(
            &table->index,
            ebs_index_hash(&table->index, ebs_row_id(ebs_slab_at(&table->slab, row))));
}

/* true: there are rows left to move. */
static bool compact(struct ebs_table *table, size_t *left)
{
    uint32_t from, to;

    for (; ebs_slab_compact_next(&table->slab, &from, &to); --*left) {
        uint64_t id;

        if (*left == 0)
            return true;
        if (from >= MOVE_AHEAD)
            prefetch_entry(table, from - MOVE_AHEAD);
        id = ebs_row_id(ebs_slab_at(&table->slab, from));
        ebs_index_move(&table->index, ebs_index_hash(&table->index, id), from, to);
        ebs_slab_move(&table->slab, from, to);
    }
    ebs_slab_trim(&table->slab);
    return false;
}

bool ebs_table_tend(struct ebs_table *table, uint64_t time_ms, size_t rows)
{
    size_t left = rows;
    bool more;

    ebs_clock_pass(&table->clock, time_ms);
    more = ebs_slab_touch_ahead(&table->slab, TOUCH_BYTES);
    if (table->slab.cut_end > 0)
        return more;
    if (!table->sweeping && compact(table, &left))
        return true;
    return sweep(table, time_ms, &left) || compact(table, &left) || more;
}
