/* embedding_server/update.c -- run the optimizer on many rows at once; make rows, and room for them.
 *
 * In:  id[n], grad[n][dim].    Out: changed rows.     For each stretch of ids:
 *
 *   1. stage  hash, index lines, rows on their way to L2 (table_inner.h)
 *   2. find   settle every id -> found[i] = its row | MISSING | EBS_ROW_NONE (gradient not usable);
 *             stamp the rows found with this update's tick
 *   3. make   each id still MISSING: ask the index again -> admission -> room -> a new row
 *   4. run    the optimizer over the rows of found[]
 *
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
#include "runtime/base/err.h"

#include <math.h>
#include <string.h>

#define MISSING (EBS_ROW_NONE - 1) /* in found[] between the steps */
#define VICTIMS 64u
_Static_assert(MISSING >= EBS_ROWS_MAX, "no row has this number");

/* ---- find ---- */

/* @return how many are MISSING */
static size_t find_stretch(struct ebs_table *table, const struct ebs_stretch *s, const float *grad,
                           uint32_t *found, uint64_t *nonfinite)
{
    bool usable[EBS_STRETCH];
    size_t missing = 0;

    *nonfinite += s->n - ebs_gradients_usable(&table->optimizer, grad, s->n, usable);
    for (size_t i = 0; i < s->n; i++) {
        if (!usable[i]) {
            found[i] = EBS_ROW_NONE;
            continue;
        }
        found[i] = ebs_settle(table, s, i);
        if (found[i] == EBS_ROW_NONE) {
            found[i] = MISSING;
            missing++;
        }
    }
    for (size_t i = 0; i < s->n && table->layout.touched; i++)
        if (found[i] < MISSING)
            ebs_evict_touch(&table->evict, ebs_slab_at(&table->slab, found[i]), table->clock.now);
    return missing;
}

/* ---- make ---- */

/* The rows that an update makes, a stretch at a time. */
struct making {
    struct ebs_table *table;
    const struct ebs_update *update; /* all of it */
    struct ebs_applied *applied;
    /* the stretch */
    const struct ebs_stretch *s;
    uint32_t *found;
    size_t n; /* ids that were missing */
    uint32_t place[EBS_STRETCH];
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

/* A slot in the slab and one in the index. On an error nothing has changed. */
static int place_row(struct ebs_table *table, uint64_t id, uint64_t hash, uint32_t *out)
{
    uint32_t row;
    int err = ebs_slab_alloc(&table->slab, id, &row);

    if (err)
        return err;
    err = ebs_index_insert(&table->index, &table->slab, hash, row);
    if (err) {
        ebs_slab_free(&table->slab, row);
        return err;
    }
    *out = row;
    return 0;
}

/* Room is made where there is none. false: it could not be. */
static bool place_with_room(struct making *m, uint64_t id, uint64_t hash, uint32_t *out)
{
    struct ebs_table *table = m->table;
    bool full = table->slab.count >= table->capacity || m->no_memory;

    if (full && !evict_one(m))
        return false;
    if (place_row(table, id, hash, out) == 0)
        return true;
    m->no_memory = true;
    return evict_one(m) && place_row(table, id, hash, out) == 0;
}

/* The new row; EBS_ROW_NONE: there is no room for it. */
static uint32_t create_row(struct making *m, uint64_t id, uint64_t hash)
{
    struct ebs_table *table = m->table;
    uint32_t row;

    if (!place_with_room(m, id, hash, &row)) {
        m->applied->refused++;
        table->counts.refused++;
        return EBS_ROW_NONE;
    }
    fill_row(table, id, ebs_slab_at(&table->slab, row));
    ebs_evict_born(&table->evict, ebs_slab_at(&table->slab, row), table->clock.now);
    ebs_admit_forget(table->admit, id);
    m->applied->created++;
    table->counts.created++;
    return row;
}

static uint32_t look_again(const struct making *m, uint32_t at)
{
    return ebs_index_find(&m->table->index, &m->table->slab, m->s->hash[at], m->s->id[at]);
}

/* The missing ids, and their lines of the sketch on the way. */
static void collect(struct making *m)
{
    m->n = m->n_victims = 0;
    for (uint32_t at = 0; at < m->s->n; at++) {
        if (m->found[at] != MISSING)
            continue;
        m->place[m->n++] = at;
        ebs_admit_prefetch(m->table->admit, m->s->id[at]);
    }
}

/* Before any row of the stretch is made, so that room is made for as many as will come. An id that comes twice is asked
 * for twice: each is an occurrence, and who was told yes is told so again until its row is there. */
static void ask_admission(struct making *m)
{
    struct ebs_table *table = m->table;

    for (size_t i = 0; i < m->n; i++) {
        uint32_t at = m->place[i];

        if (ebs_admit_ask(table->admit, m->s->id[at], m->update->draw))
            continue;
        m->found[at] = EBS_ROW_NONE;
        m->applied->not_admitted++;
        table->counts.not_admitted++;
    }
}

static void make_stretch(struct making *m)
{
    struct ebs_table *table = m->table;

    collect(m);
    if (table->admit)
        ask_admission(m);
    m->wanted = 0;
    for (size_t i = 0; i < m->n; i++)
        m->wanted += m->found[m->place[i]] == MISSING;
    for (size_t i = 0; i < m->n; i++) {
        uint32_t at = m->place[i];

        if (m->found[at] != MISSING)
            continue;
        m->found[at] = look_again(m, at);
        if (m->found[at] != EBS_ROW_NONE)
            ebs_evict_touch(&table->evict, ebs_slab_at(&table->slab, m->found[at]),
                            table->clock.now);
        else
            m->found[at] = create_row(m, m->s->id[at], m->s->hash[at]);
        m->wanted--;
    }
}

/* ---- run ---- */

static void run_stretch(struct ebs_table *table, const struct ebs_step *step,
                        const struct ebs_stretch *s, const float *grad, const uint32_t *found)
{
    uint8_t *weight[EBS_STRETCH];
    float *state[EBS_STRETCH];

    for (size_t i = 0; i < s->n; i++) {
        uint8_t *row;

        weight[i] = NULL;
        if (found[i] == EBS_ROW_NONE)
            continue;
        row = ebs_slab_at(&table->slab, found[i]);
        weight[i] = row + table->layout.weight;
        state[i] = (float *)(row + table->layout.state);
        if (table->marking)
            __builtin_prefetch(ebs_slab_bits(&table->slab, found[i]), 1);
    }
    ebs_optimizer_run(
        &table->optimizer, step,
        &(struct ebs_rows){.row = weight, .state = state, .id = s->id, .grad = grad, .n = s->n});
    for (size_t i = 0; i < s->n && table->marking; i++)
        if (weight[i])
            ebs_slab_mark(&table->slab, found[i]);
}

void ebs_table_apply(struct ebs_table *table, const struct ebs_update *update,
                     struct ebs_applied *out)
{
    struct ebs_step step =
        ebs_optimizer_step(&table->optimizer, update->lr, update->step, update->draw);
    struct ebs_applied applied = {0};
    struct ebs_stretch s;
    uint32_t found[EBS_STRETCH];
    struct making making = {
        .table = table, .update = update, .applied = &applied, .s = &s, .found = found};

    rt_assert(isfinite(update->lr));
    for (size_t at = 0; at < update->n; at += EBS_STRETCH) {
        const float *grad = update->grad + at * table->dim;
        size_t n = update->n - at < EBS_STRETCH ? update->n - at : EBS_STRETCH;

        ebs_stage(table, update->id + at, n, table->slab.row_bytes, &s);
        if (find_stretch(table, &s, grad, found, &applied.nonfinite) > 0)
            make_stretch(&making);
        run_stretch(table, &step, &s, grad, found);
    }
    out->rows += update->n - applied.nonfinite - applied.not_admitted - applied.refused;
    out->created += applied.created;
    out->nonfinite += applied.nonfinite;
    out->not_admitted += applied.not_admitted;
    out->refused += applied.refused;
    out->evicted += applied.evicted;
}
