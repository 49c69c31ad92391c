/* embedding_server/update.c -- run the optimizer on many rows at once; make rows, and room for them.
 *
 * In:  id[n], grad[n][dim].    Out: changed rows, and found[n] in between.
 *
 *   prepare  1. find:  settle every id -> found[i] = its row | MISSING | EBS_ROW_NONE (gradient not usable);
 *                      stamp the rows found with this update's tick
 *            2. make:  each id still MISSING: ask the index again -> admission -> room -> a new row
 *   commit   the optimizer over the rows of found[], stretch by stretch
 *
 * prepare is all that can fail, and it changes no value. Gradient i is only ever addressed as grad + i * dim: an id
 * that is missing, new, evicted or left out cannot shift its neighbours' gradients.
 *
 * DESIGN: two passes, because making a row may evict another. When the first row is made, all rows that this
 * update found are stamped, and rows stamped now are never evicted, so no row number in found[] dies before the
 * commit. A missing id is looked for again in the second pass: it may come twice, or a neighbour of a
 * sliced update may have made its row. Victims are chosen for up to VICTIMS rows at a time, since the more are looked
 * at together the better the choice (evict.h); those that are not needed stay. */
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <string.h>

#define MISSING (EBS_ROW_NONE - 1) /* in found[] between the passes */
#define VICTIMS 64u
_Static_assert(MISSING >= EBS_ROWS_MAX, "no row has this number");

static inline size_t stretch_at(size_t at, size_t n)
{
    return n - at < EBS_STRETCH ? n - at : EBS_STRETCH;
}

/* ---- prepare, first pass ---- */

static size_t find_stretch(struct ebs_table *table, const struct ebs_stretch *s, const float *grad,
                           uint32_t *found, uint64_t *nonfinite)
{
    size_t dim = table->dim, missing = 0;

    for (size_t i = 0; i < s->n; i++) {
        if (!ebs_gradient_usable(&table->optimizer, grad + i * dim)) {
            found[i] = EBS_ROW_NONE;
            ++*nonfinite;
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

/* ---- prepare, second pass ---- */

/* The rows that one prepare makes, a stretch of missing ids at a time. */
struct making {
    struct ebs_table *table;
    const struct ebs_update *update;
    uint32_t *found;
    struct ebs_applied *applied;
    size_t n; /* missing ids of the stretch */
    size_t place[EBS_STRETCH];
    uint64_t hash[EBS_STRETCH];
    size_t wanted; /* rows that the stretch may still need, but for ids that come twice */
    size_t n_victims;
    uint32_t victim[VICTIMS];
    bool no_memory; /* the budget has refused: from now on a row comes in for one that goes */
    bool dry;       /* nothing may be evicted */
};

/* The oldest tick that this update protects. */
static uint32_t keep_from(const struct ebs_table *table, uint32_t window)
{
    uint32_t now = table->clock.now;
    uint32_t age = window > 0 ? window - 1 : 0;

    if (table->guards > 0 && now - table->guarded_from > age)
        return table->guarded_from;
    return now - age;
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

/* A slot in the slab and one in the index. */
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

/* Room is made where there is none. RT_EFULL: it could not be. */
static int place_with_room(struct making *m, uint64_t id, uint64_t hash, uint32_t *out)
{
    struct ebs_table *table = m->table;
    bool full = table->slab.count >= table->capacity || m->no_memory;
    int err;

    if (full && !evict_one(m))
        return RT_EFULL;
    err = place_row(table, id, hash, out);
    if (err != RT_EFULL)
        return err;
    m->no_memory = true;
    return evict_one(m) ? place_row(table, id, hash, out) : err;
}

/* *out: the new row; EBS_ROW_NONE: there is no room for it. */
static int create_row(struct making *m, uint64_t id, uint64_t hash, uint32_t *out)
{
    struct ebs_table *table = m->table;
    uint32_t row;
    int err = place_with_room(m, id, hash, &row);

    *out = EBS_ROW_NONE;
    if (err == RT_EFULL) {
        m->applied->refused++;
        table->counts.refused++;
        return 0;
    }
    if (err)
        return rt_fail_prefix(err, "table %s: ", table->name);
    fill_row(table, id, ebs_slab_at(&table->slab, row));
    ebs_evict_born(&table->evict, ebs_slab_at(&table->slab, row), table->clock.now);
    ebs_admit_forget(table->admit, id);
    m->applied->created++;
    table->counts.created++;
    *out = row;
    return 0;
}

/* The next missing ids, their index lines and their lines of the sketch on the way. @return where to go on. */
static size_t collect(struct making *m, size_t at)
{
    for (m->n = 0; m->n < EBS_STRETCH && at < m->update->n; at++) {
        uint64_t id = m->update->id[at];

        if (m->found[at] != MISSING)
            continue;
        m->place[m->n] = at;
        m->hash[m->n] = ebs_index_hash(&m->table->index, id);
        ebs_index_prefetch(&m->table->index, m->hash[m->n]);
        ebs_admit_prefetch(m->table->admit, id);
        m->n++;
    }
    return at;
}

static uint32_t look_again(const struct making *m, size_t i)
{
    return ebs_index_find(&m->table->index, &m->table->slab, m->hash[i],
                          m->update->id[m->place[i]]);
}

/* Before any row of the stretch is made, so that room is made for as many as will come. An id that comes twice is asked
 * for twice: each is an occurrence, and who was told yes is told so again until its row is there. */
static void ask_admission(struct making *m)
{
    struct ebs_table *table = m->table;

    for (size_t i = 0; i < m->n; i++) {
        size_t at = m->place[i];

        if (look_again(m, i) != EBS_ROW_NONE ||
            ebs_admit_ask(table->admit, m->update->id[at], m->update->draw))
            continue;
        m->found[at] = EBS_ROW_NONE;
        m->applied->not_admitted++;
        table->counts.not_admitted++;
    }
}

static int make_stretch(struct making *m)
{
    struct ebs_table *table = m->table;

    if (table->admit)
        ask_admission(m);
    m->wanted = 0;
    for (size_t i = 0; i < m->n; i++)
        m->wanted += m->found[m->place[i]] == MISSING;
    for (size_t i = 0; i < m->n; i++) {
        uint32_t *found = &m->found[m->place[i]];
        int err;

        if (*found != MISSING)
            continue;
        *found = look_again(m, i);
        if (*found != EBS_ROW_NONE) {
            ebs_evict_touch(&table->evict, ebs_slab_at(&table->slab, *found), table->clock.now);
        } else {
            err = create_row(m, m->update->id[m->place[i]], m->hash[i], found);
            if (err)
                return err;
        }
        m->wanted--;
    }
    return 0;
}

int ebs_table_prepare(struct ebs_table *table, const struct ebs_update *update, uint32_t *found,
                      struct ebs_applied *out)
{
    struct ebs_applied applied = {0};
    struct making making = {.table = table, .update = update, .found = found, .applied = &applied};
    size_t missing = 0;
    struct ebs_stretch s;

    rt_assert(isfinite(update->lr));
    for (size_t at = 0; at < update->n; at += EBS_STRETCH) {
        /* The id alone is compared; what else is touched stands beside it. */
        ebs_stage(table, update->id + at, stretch_at(at, update->n), table->layout.weight, &s);
        missing +=
            find_stretch(table, &s, update->grad + at * table->dim, found + at, &applied.nonfinite);
    }
    for (size_t at = 0; missing > 0; missing -= making.n) {
        int err;

        at = collect(&making, at);
        err = make_stretch(&making);
        if (err)
            return err;
    }
    out->rows += update->n - applied.nonfinite - applied.not_admitted - applied.refused;
    out->created += applied.created;
    out->nonfinite += applied.nonfinite;
    out->not_admitted += applied.not_admitted;
    out->refused += applied.refused;
    out->evicted += applied.evicted;
    return 0;
}

/* ---- commit ---- */

void ebs_table_commit(struct ebs_table *table, const struct ebs_update *update,
                      const uint32_t *found)
{
    struct ebs_step step =
        ebs_optimizer_step(&table->optimizer, update->lr, update->step, update->draw);
    struct ebs_slab *slab = &table->slab;
    uint8_t *row[EBS_STRETCH];

    for (size_t at = 0; at < update->n; at += EBS_STRETCH) {
        size_t n = stretch_at(at, update->n);

        for (size_t i = 0; i < n; i++) {
            uint32_t number = found[at + i];

            row[i] = number == EBS_ROW_NONE ? NULL : ebs_slab_at(slab, number);
            ebs_prefetch_row(slab, number, slab->row_bytes);
            if (row[i])
                __builtin_prefetch(ebs_slab_bits(slab, number), 1);
        }
        ebs_optimizer_run(
            &table->optimizer, &step,
            &(struct ebs_rows){
                .row = row, .id = update->id + at, .grad = update->grad + at * table->dim, .n = n});
        for (size_t i = 0; i < n; i++)
            if (row[i])
                ebs_slab_mark(slab, found[at + i]);
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
