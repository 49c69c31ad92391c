/* embedding_server/update.c -- run the optimizer on many rows at once; make rows, and room for them.
 *
 * In:  id[n], grad[n][dim].    Out: changed rows.     For each stretch of ids:
 *
 *   0. widen  gradients that are not float32 as they came, into the cache
 *   1. stage  hash, index lines, rows on their way to L2 (stage.h)
 *   2. find   settle every id -> row[i], where its row is, or NULL (gradient not usable, or missing: place[]);
 *             copy those of a cut under way (table_cut.h); stamp the rows found with this update's tick
 *   3. make   each id that is missing: admission -> ask the index again -> room -> a new row
 *   4. run    the optimizer over the rows of row[]
 *
 * A stretch is 256 ids, or as many as the gradients that there is room to widen.
 * Gradient i is only ever addressed as grad + i * dim: an id that is missing, new, evicted or left out cannot
 * shift its neighbours' gradients.
 *
 * DESIGN: a stretch is done from its first id to its last row while both are in L2. To find or make all rows of an update
 * first, so that running out of memory could still undo it, brings the rows of a large update into the cache
 * twice. Instead nothing can fail: where memory ends, new ids get no row and are counted, as they are where
 * a cap is reached, and the rows that are there have their gradients.
 * Rows are made after all of the stretch are found, because making a row may evict another: those found are stamped by
 * then, and rows stamped now are never evicted. A missing id is looked for again in step 3, for it may come twice. Victims
 * are chosen for up to VICTIMS rows at a time, since the more are looked at together the better the
 * choice (evict.h); those that are not needed stay. */
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/half.h"

#include <math.h>
#include <string.h>

#define VICTIMS 64u

/* ---- widen ---- */

static bool is_wide(const struct ebs_update *update)
{
    return update->dtype == WIRE_F32 && (update->unscale == 0.0f || update->unscale == 1.0f);
}

size_t ebs_update_wide(const struct ebs_table *table, const struct ebs_update *update)
{
    return is_wide(update) ? SIZE_MAX : EBS_WIDE / table->dim;
}

const float *ebs_update_gradients(const struct ebs_table *table, const struct ebs_update *update,
                                  size_t at, size_t n, float *wide)
{
    float unscale = update->unscale == 0.0f ? 1.0f : update->unscale;
    const uint8_t *from =
        (const uint8_t *)update->grad + at * table->dim * wire_dtype_size(update->dtype);

    if (is_wide(update))
        return (const float *)(const void *)from;
    rt_widen_scaled(update->dtype, unscale, from, wide, n * table->dim);
    return wide;
}

/* ---- find ---- */

/* @place: [n] the ids that have a usable gradient and no row.     @return how many those are */
static size_t find_stretch(struct ebs_table *table, struct ebs_stretch *s, const float *grad,
                           uint32_t *place, uint64_t *nonfinite)
{
    bool usable[EBS_STRETCH];
    size_t left_out = s->n - ebs_gradients_usable(&table->optimizer, grad, s->n, usable);
    size_t missing = 0;

    *nonfinite += left_out;
    if (ebs_settle(table, s) > 0)
        for (uint32_t i = 0; i < s->n; i++)
            if (!s->row[i] && usable[i])
                place[missing++] = i;
    for (size_t i = 0; i < s->n && left_out > 0; i++)
        if (!usable[i])
            s->row[i] = NULL;
    if (table->slab.cut_end > 0)
        ebs_table_keep_stretch(table, s);
    for (size_t i = 0; i < s->n && table->layout.touched; i++)
        if (s->row[i])
            ebs_evict_touch(&table->evict, s->row[i], table->clock.now);
    return missing;
}

/* ---- make ---- */

/* The rows that an update makes, a stretch at a time. */
struct making {
    struct ebs_table *table;
    const struct ebs_update *update; /* all of it */
    struct ebs_applied *applied;
    /* the stretch */
    struct ebs_stretch *s;
    uint32_t *place; /* [n] its ids that are missing and, after ask_admission(), admitted */
    size_t n;
    size_t wanted; /* rows that it may still need, but for ids that come twice */
    size_t n_victims;
    uint32_t victim[VICTIMS];
    /* the update */
    bool no_memory; /* growth was refused: from now on a row comes in for one that goes */
    bool dry;       /* nothing may be evicted */
};

/* The oldest tick that this update protects. */
static uint32_t keep_from(const struct ebs_table *table, uint32_t window)
{
    return table->clock.now - (window > 0 ? window - 1 : 0);
}

static void choose_victims(struct making *m)
{
    struct ebs_table *table = m->table;
    bool full = m->no_memory || table->slab.count >= table->capacity;
    uint64_t room = full ? 0 : table->capacity - table->slab.count;
    size_t want = m->wanted > room ? m->wanted - room : 1;

    if (want > VICTIMS)
        want = VICTIMS;
    m->n_victims = ebs_evict_choose(&table->evict, &table->slab, table->clock.now,
                                    keep_from(table, m->update->window), want, m->victim);
    for (size_t v = 0; v < m->n_victims; v++) {
        uint64_t id = ebs_row_id(ebs_slab_at(&table->slab, m->victim[v]));

        ebs_index_prefetch(&table->index, ebs_index_hash(&table->index, id));
    }
}

static bool evict_one(struct making *m)
{
    if (m->dry || m->table->job.eviction.kind == RT_EVICT_NONE)
        return false;
    if (m->n_victims == 0)
        choose_victims(m);
    if (m->n_victims == 0) {
        m->dry = true; /* looking again for each id to come would find nothing, and take its time */
        return false;
    }
    ebs_table_drop(m->table, m->victim[--m->n_victims]);
    m->table->counts.evicted++;
    m->applied->evicted++;
    return true;
}

static void fill_row(struct ebs_table *table, uint64_t id, uint8_t *row)
{
    const struct rt_row_layout *layout = &table->layout;

    if (table->job.dtype == WIRE_F32) {
        ebs_init_fill(&table->init, id, (float *)(row + layout->weight), table->dim);
    } else {
        float weight[EBS_DIM_MAX];

        ebs_init_fill(&table->init, id, weight, table->dim);
        ebs_element_round(table->job.dtype, weight, row + layout->weight, table->dim);
    }
    ebs_optimizer_state_fill(&table->optimizer, (float *)(row + layout->state));
}

/* Room is made where there is none. false: it could not be. */
static bool place_with_room(struct making *m, uint64_t id, uint32_t *out)
{
    struct ebs_table *table = m->table;
    bool full = table->slab.count >= table->capacity || m->no_memory;

    if (full && !evict_one(m))
        return false;
    if (ebs_table_place(table, id, out) == 0)
        return true;
    m->no_memory = true;
    return evict_one(m) && ebs_table_place(table, id, out) == 0;
}

/* The new row; NULL: there is no room for it. */
static uint8_t *create_row(struct making *m, uint64_t id)
{
    struct ebs_table *table = m->table;
    uint32_t number;
    uint8_t *row;

    if (!place_with_room(m, id, &number)) {
        m->applied->refused++;
        table->counts.refused++;
        return NULL;
    }
    row = ebs_slab_at(&table->slab, number);
    fill_row(table, id, row);
    ebs_evict_born(&table->evict, row, table->clock.now);
    ebs_admit_forget(table->admit, id);
    m->applied->created++;
    table->counts.created++;
    return row;
}

/* Before any row of the stretch is made, so that room is made for as many as will come. An id that comes twice is asked
 * for twice: each is an occurrence, and who was told yes is told so again until its row is there. */
static void ask_admission(struct making *m)
{
    struct ebs_table *table = m->table;
    size_t admitted = 0;

    for (size_t i = 0; i < m->n; i++)
        ebs_admit_prefetch(table->admit, m->s->id[m->place[i]]);
    for (size_t i = 0; ebs_admit_is_cut(table->admit) && i < m->n; i++)
        ebs_table_keep_line(table, m->s->id[m->place[i]]);
    for (size_t i = 0; i < m->n; i++)
        if (ebs_admit_ask(table->admit, m->s->id[m->place[i]], m->update->draw))
            m->place[admitted++] = m->place[i];
    m->applied->not_admitted += m->n - admitted;
    table->counts.not_admitted += m->n - admitted;
    m->n = admitted;
}

/* The slab has grown, and its rows may lie elsewhere now. */
static void follow(struct ebs_stretch *s, const uint8_t *from, uint8_t *to)
{
    for (size_t i = 0; i < s->n && from != to; i++)
        if (s->row[i])
            s->row[i] = to + (s->row[i] - from);
}

static void make_stretch(struct making *m)
{
    struct ebs_table *table = m->table;
    struct ebs_stretch *s = m->s;

    m->n_victims = 0;
    if (table->admit)
        ask_admission(m);
    for (size_t i = 0; i < m->n; i++) {
        uint32_t at = m->place[i];
        uint8_t *rows = table->slab.rows.at, *row = ebs_table_row(table, s->id[at]);

        m->wanted = m->n - i;
        if (row) {
            ebs_evict_touch(&table->evict, row, table->clock.now);
        } else {
            row = create_row(m, s->id[at]);
            follow(s, rows, table->slab.rows.at);
        }
        s->row[at] = row;
    }
}

/* ---- run ---- */

static void mark_stretch(struct ebs_table *table, const struct ebs_stretch *s)
{
    uint32_t number[EBS_STRETCH];

    for (size_t i = 0; i < s->n; i++) {
        number[i] = s->row[i] ? ebs_slab_number(&table->slab, s->row[i]) : EBS_ROW_NONE;
        if (s->row[i])
            __builtin_prefetch(ebs_slab_bits(&table->slab, number[i]), 1);
    }
    for (size_t i = 0; i < s->n; i++)
        if (s->row[i])
            ebs_slab_mark(&table->slab, number[i]);
}

static void run_stretch(struct ebs_table *table, const struct ebs_step *step,
                        const struct ebs_stretch *s, const float *grad)
{
    uint8_t *weight[EBS_STRETCH];
    float *state[EBS_STRETCH];

    for (size_t i = 0; i < s->n; i++) {
        weight[i] = NULL;
        if (!s->row[i])
            continue;
        weight[i] = s->row[i] + table->layout.weight;
        state[i] = (float *)(s->row[i] + table->layout.state);
    }
    ebs_optimizer_run(
        &table->optimizer, step,
        &(struct ebs_rows){.row = weight, .state = state, .id = s->id, .grad = grad, .n = s->n});
    if (table->marking)
        mark_stretch(table, s);
}

void ebs_table_apply(struct ebs_table *table, const struct ebs_update *update,
                     struct ebs_applied *out)
{
    struct ebs_step step =
        ebs_optimizer_step(&table->optimizer, update->lr, update->step, update->draw);
    struct ebs_applied applied = {0};
    struct ebs_stretch s;
    uint32_t place[EBS_STRETCH];
    float wide[EBS_WIDE];
    size_t most = ebs_update_wide(table, update), n;
    struct making making = {
        .table = table, .update = update, .applied = &applied, .s = &s, .place = place};

    rt_assert(isfinite(update->lr));
    most = most < EBS_STRETCH ? most : EBS_STRETCH;
    for (size_t at = 0; at < update->n; at += n) {
        const float *grad;

        n = update->n - at < most ? update->n - at : most;
        grad = ebs_update_gradients(table, update, at, n, wide);
        ebs_stage(table, update->id + at, n, table->slab.row_bytes, &s);
        making.n = find_stretch(table, &s, grad, place, &applied.nonfinite);
        if (making.n > 0)
            make_stretch(&making);
        run_stretch(table, &step, &s, grad);
    }
    out->rows += update->n - applied.nonfinite - applied.not_admitted - applied.refused;
    out->created += applied.created;
    out->nonfinite += applied.nonfinite;
    table->counts.nonfinite += applied.nonfinite;
    out->not_admitted += applied.not_admitted;
    out->refused += applied.refused;
    out->evicted += applied.evicted;
}
