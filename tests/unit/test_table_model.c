/* tests/unit/test_table_model.c -- millions of random operations against a naive list of ids.
 *
 * The model knows of each id how often its row was updated since it was made, and when. What the table may decide by
 * itself (whom to let in, whom to evict, what has expired) it is asked for afterwards, by walking over all its rows;
 * whatever it decided, the numbers must add up: a row that was there and is there has every gradient, one that is
 * new has some, and what is missing in all was counted as not admitted or refused; a row that is gone was counted
 * too, was old enough, and reads as its initial value. Gradients differ between ids, so none can stand in for another. */
#include "embedding_server/optimizer.h"
#include "embedding_server/table.h"
#include "embedding_server/table_cut.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"
#include "tests/unit/table_bed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define DIM        3
#define IDS        500
#define N_MAX      48
#define WINDOW     3
#define TTL_S      20
#define TICKS      (1 << 15) /* more than a case has */
#define OPERATIONS 70000     /* ids touched, per case and dtype */

struct known {
    bool live, marked;
    uint64_t count;  /* updates since it was made */
    uint64_t tick;   /* the last one; 0 where rows are not stamped */
    uint64_t occurs; /* in the operation under way */
};

struct policy {
    const char *name;
    struct rt_admission_conf admission;
    struct rt_eviction_conf eviction;
    uint64_t ttl_seconds;
    uint32_t optimizer; /* enum rt_optimizer_kind: SGD, or one whose state adds up squares */
    size_t most;        /* ids of an update; 0: N_MAX */
    bool oldest_first;  /* a table as small as this evicts exactly the oldest */
    size_t budget;      /* pages that the table may take; 0: any number */
};

struct model {
    const struct policy *policy;
    struct rt_table_conf conf;
    struct ebs_table *table;
    struct ebs_budget budget;
    struct known known[IDS];
    uint64_t id[IDS];
    struct rt_map place; /* id -> index */
    uint64_t seed, draws, tick, time_ms, batch;
    bool cut;                       /* there was one */
    uint64_t time_of[TICKS];        /* when a tick was */
    struct ebs_table_counts counts; /* after the last operation */
};

static const struct policy policies[] = {
    {.name = "none"},
    {.name = "lru, exact",
     .eviction = {.kind = RT_EVICT_LRU, .rows = 60},
     .most = 16,
     .oldest_first = true},
    {.name = "lru, count",
     .admission = {.kind = RT_ADMIT_COUNT, .count = 3, .sketch_bytes = 1 << 14},
     .eviction = {.kind = RT_EVICT_LRU, .rows = 250}},
    {.name = "lfu",
     .eviction = {.kind = RT_EVICT_LFU, .rows = 200, .half_life = 20},
     .optimizer = RT_OPT_ROWWISE_ADAGRAD},
    {.name = "full, by lot",
     .admission = {.kind = RT_ADMIT_PROBABILITY, .probability = 0.5},
     .eviction = {.kind = RT_EVICT_NONE, .rows = 300}},
    {.name = "lru, ttl",
     .eviction = {.kind = RT_EVICT_LRU, .rows = 300},
     .ttl_seconds = TTL_S,
     .optimizer = RT_OPT_ADAGRAD},
    {.name = "ttl, count",
     .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 14},
     .ttl_seconds = TTL_S},
    {.name = "lru, no memory", .eviction = {.kind = RT_EVICT_LRU}, .budget = 5},
    {.name = "lfu, no memory",
     .eviction = {.kind = RT_EVICT_LFU, .rows = 290, .half_life = 5},
     .optimizer = RT_OPT_ADAGRAD,
     .budget = 6},
    {.name = "no memory", .budget = 4},
};

static uint64_t draw(struct model *m, uint64_t below)
{
    return rt_below(rt_draw(m->seed, m->draws++), below);
}

/* Small integers, the ends, and anything. */
static void setup(struct model *m, const struct policy *policy, uint32_t dtype, uint64_t seed)
{
    memset(m, 0, sizeof(*m));
    m->policy = policy;
    m->seed = seed;
    m->conf = table_bed_counting(DIM, dtype);
    m->conf.admission = policy->admission;
    m->conf.eviction = policy->eviction;
    m->conf.ttl_seconds = policy->ttl_seconds;
    m->conf.optimizer = (struct rt_sparse_optimizer_conf){.kind = policy->optimizer, .eps = 1e-8};
    m->budget = (struct ebs_budget){.limit = policy->budget * 4096};
    assert_int_equal(table_bed_try(&m->conf, &m->budget, &m->table), 0);
    rt_map_init(&m->place);
    for (size_t k = 0; k < IDS; k++) {
        m->id[k] = k % 3 == 0 ? k / 3 : k % 3 == 1 ? ~(uint64_t)(k / 3) : rt_draw(seed, ~k);
        assert_int_equal(rt_map_put(&m->place, m->id[k], k), 0);
    }
}

/* What each element of an id's gradient is, in magnitude: few bits, so that sums are exact in 16 too. */
static float unit(const struct model *m, size_t k)
{
    return m->conf.dtype == WIRE_F32 ? (float)(1 + k) : (float)(1 + k % 2);
}

/* ---- what a row must be ---- */

static float weight_of(const struct model *m, const struct ebs_row *row, size_t j)
{
    uint16_t half;
    uint32_t bits;
    float out;

    if (m->conf.dtype == WIRE_F32) {
        memcpy(&out, row->weight + j * sizeof(float), sizeof(out));
        return out;
    }
    memcpy(&half, row->weight + j * sizeof(half), sizeof(half));
    if (m->conf.dtype == WIRE_F16) { /* zero or normal */
        out = ldexpf((float)((half & 1023) | 1024), (half >> 10 & 31) - 25);
        return half & 0x7fff ? half >> 15 ? -out : out : 0.0f;
    }
    bits = (uint32_t)half << 16;
    memcpy(&out, &bits, sizeof(out));
    return out;
}

/* How many updates a row has had, by its numbers, which must all say the same. */
static uint64_t updates_of(const struct model *m, size_t k, const struct ebs_row *row)
{
    float one = unit(m, k), count;

    if (m->conf.optimizer.kind == RT_OPT_SGD) {
        count = weight_of(m, row, 0) / one;
        assert_true(weight_of(m, row, 1) == -count * one && weight_of(m, row, 2) == count * one);
    } else {
        uint32_t n = rt_state_count(&m->conf.optimizer, DIM);

        count = row->state[0] / (one * one);
        for (uint32_t s = 1; s < n; s++)
            assert_true(row->state[s] == row->state[0]);
    }
    assert_true(count >= 0.0f && count == (float)(uint64_t)count);
    return (uint64_t)count;
}

/* ---- follow the table ---- */

struct outcome {
    bool sliced; /* with another update in between, which may evict what a later slice needs */
    bool expiry; /* what goes has expired */
    uint64_t created, gone, lost, newest_gone, oldest_kept;
};

static void row_kept(struct model *m, size_t k, uint64_t count, struct outcome *o)
{
    struct known *known = &m->known[k];
    uint64_t want = known->count + known->occurs;

    if (count != want && o->sliced && count >= 1 && count <= known->occurs) {
        o->gone++; /* and came again */
        o->created++;
        o->lost += known->occurs - count;
    } else if (count != want) {
        fail_msg("%s: id %zu has %llu updates, want %llu", m->policy->name, k,
                 (unsigned long long)count, (unsigned long long)want);
    }
    if (known->occurs == 0 && known->tick < o->oldest_kept)
        o->oldest_kept = known->tick;
}

static void row_new(struct model *m, size_t k, uint64_t count, struct outcome *o)
{
    uint64_t occurs = m->known[k].occurs;

    if (occurs == 0 || count > occurs || count == 0)
        fail_msg("%s: id %zu is new with %llu updates of %llu", m->policy->name, k,
                 (unsigned long long)count, (unsigned long long)occurs);
    o->created++;
    o->lost += occurs - count;
}

static void row_gone(struct model *m, size_t k, struct outcome *o)
{
    const struct known *known = &m->known[k];

    o->gone++;
    o->lost += known->occurs;
    if (known->tick > o->newest_gone)
        o->newest_gone = known->tick;
    if (known->occurs > 0 && !o->sliced)
        fail_msg("%s: id %zu was evicted by its own update", m->policy->name, k);
    if (o->expiry && m->time_ms - m->time_of[known->tick] < TTL_S * 1000)
        fail_msg("%s: id %zu expired after %llu ms", m->policy->name, k,
                 (unsigned long long)(m->time_ms - m->time_of[known->tick]));
    if (!o->expiry && m->tick - known->tick < WINDOW)
        fail_msg("%s: id %zu was evicted though just used", m->policy->name, k);
}

/* So many rows have changed since the latest cut; which ones, tests/unit/test_table_cut.c asks. */
static void check_changed(struct model *m)
{
    uint64_t live = 0, marked = 0;

    for (size_t k = 0; k < IDS; k++) {
        live += m->known[k].live;
        marked += m->known[k].live && m->known[k].marked;
    }
    assert_int_equal(ebs_table_changed(m->table), m->cut ? marked : live);
    if (draw(m, 16) == 0) {
        ebs_table_cut(m->table, true, 0, NULL, NULL);
        ebs_table_cut_drop(m->table);
        assert_false(ebs_table_cut_let_go(m->table));
        m->cut = true;
        for (size_t k = 0; k < IDS; k++)
            m->known[k].marked = false;
    }
}

/* Walk the table, hold it against the model, and take over what it decided. */
static void follow(struct model *m, struct outcome *o)
{
    static bool seen[IDS];
    uint64_t rows = 0;
    struct ebs_row row;

    o->oldest_kept = UINT64_MAX;
    memset(seen, 0, sizeof(seen));
    for (uint32_t at = 0; ebs_table_next(m->table, &at, &row); rows++) {
        uint64_t k, count;

        assert_true(rt_map_get(&m->place, row.id, &k) && !seen[k]);
        seen[k] = true;
        count = updates_of(m, k, &row);
        if (m->known[k].live)
            row_kept(m, k, count, o);
        else
            row_new(m, k, count, o);
        m->known[k].count = count;
        m->known[k].tick = row.touched;
        if (m->conf.eviction.kind != RT_EVICT_NONE && m->known[k].occurs > 0 && !o->sliced)
            assert_int_equal(row.touched, m->tick);
    }
    for (size_t k = 0; k < IDS; k++) {
        struct known *known = &m->known[k];

        if (known->live && !seen[k])
            row_gone(m, k, o);
        else if (!known->live && !seen[k])
            o->lost += known->occurs;
        known->marked = seen[k] && (known->marked || known->occurs > 0);
        known->live = seen[k];
        known->occurs = 0;
    }
    check_changed(m);
    assert_int_equal(rows, ebs_table_rows(m->table));
    assert_true(m->budget.limit == 0 || m->budget.used <= m->budget.limit);
    assert_true(m->conf.eviction.rows == 0 || rows <= m->conf.eviction.rows);
}

/* What the table has counted since it was asked last. */
static struct ebs_table_counts counted(struct model *m)
{
    struct ebs_table_counts now = *ebs_table_counts(m->table), was = m->counts;

    m->counts = now;
    return (struct ebs_table_counts){.created = now.created - was.created,
                                     .evicted = now.evicted - was.evicted,
                                     .expired = now.expired - was.expired,
                                     .not_admitted = now.not_admitted - was.not_admitted,
                                     .refused = now.refused - was.refused,
                                     .removed = now.removed - was.removed};
}

/* ---- operations ---- */

struct batch {
    size_t n;
    uint64_t id[N_MAX];
    float grad[N_MAX][DIM];
    uint64_t unusable;
};

static void draw_batch(struct model *m, struct batch *b)
{
    size_t most = m->policy->most ? m->policy->most : N_MAX;

    b->n = 1 + draw(m, most);
    b->unusable = 0;
    for (size_t i = 0; i < b->n; i++) {
        /* Some ids come far more often than others. */
        size_t k = draw(m, 1 + draw(m, IDS));
        float one = unit(m, k);

        if (m->policy->oldest_first && m->known[k].occurs > 0) {
            b->n = i;
            break;
        }
        b->id[i] = m->id[k];
        for (size_t j = 0; j < DIM; j++)
            b->grad[i][j] = j == 1 ? one : -one;
        if (draw(m, 50) == 0) {
            b->grad[i][draw(m, DIM)] = 2 * EBS_GRADIENT_MAX;
            b->unusable++;
        } else {
            m->known[k].occurs++;
        }
    }
}

static struct ebs_update update_of(struct model *m, const struct batch *b, size_t from, size_t end)
{
    return (struct ebs_update){.id = b->id + from,
                               .grad = b->grad[from],
                               .n = end - from,
                               .lr = 1.0f,
                               .step = 1,
                               .draw = m->batch,
                               .window = WINDOW};
}

static void tick(struct model *m)
{
    m->tick++;
    m->batch++;
    m->time_ms += draw(m, 600);
    assert_true(m->tick < TICKS);
    m->time_of[m->tick] = m->time_ms;
    ebs_table_tick(m->table, m->time_ms);
}

/* The outcome, the table's answers and its counts are one. */
static void check_update(struct model *m, struct outcome *o, const struct ebs_applied *applied,
                         uint64_t ids)
{
    struct ebs_table_counts counts;

    follow(m, o);
    counts = counted(m);
    assert_int_equal(o->created, applied->created);
    assert_int_equal(o->created, counts.created);
    assert_int_equal(o->gone, applied->evicted);
    assert_int_equal(o->gone, counts.evicted);
    assert_int_equal(o->lost, applied->not_admitted + applied->refused);
    assert_int_equal(o->lost, counts.not_admitted + counts.refused);
    assert_int_equal(ids, applied->rows + applied->nonfinite + o->lost);
    assert_int_equal(counts.expired + counts.removed, 0);
    if (m->conf.admission.kind == RT_ADMIT_ALWAYS)
        assert_int_equal(applied->not_admitted, 0);
    if (m->policy->oldest_first && o->gone > 0 && !o->sliced)
        assert_true(o->newest_gone <= o->oldest_kept);
}

static size_t run_update(struct model *m)
{
    struct batch b;
    struct ebs_applied applied = {0};
    struct outcome o = {0};
    struct ebs_update update;

    draw_batch(m, &b);
    tick(m);
    update = update_of(m, &b, 0, b.n);
    ebs_table_apply(m->table, &update, &applied);
    assert_int_equal(applied.nonfinite, b.unusable);
    check_update(m, &o, &applied, b.n);
    return b.n;
}

/* A sliced update, another one between its slices, and upkeep. */
static size_t run_sliced(struct model *m)
{
    struct batch b, between;
    struct ebs_applied applied = {0};
    struct outcome o = {.sliced = true};
    struct ebs_update first, second, other;
    size_t cut;

    draw_batch(m, &b);
    cut = draw(m, b.n + 1);
    draw_batch(m, &between);
    first = update_of(m, &b, 0, cut);
    second = update_of(m, &b, cut, b.n);
    other = update_of(m, &between, 0, between.n);
    tick(m);
    ebs_table_apply(m->table, &first, &applied);
    tick(m);
    ebs_table_apply(m->table, &other, &applied);
    if (m->conf.ttl_seconds == 0)
        ebs_table_tend(m->table, m->time_ms, 1000);
    ebs_table_apply(m->table, &second, &applied);
    assert_int_equal(applied.nonfinite, b.unusable + between.unusable);
    check_update(m, &o, &applied, b.n + between.n);
    return b.n + between.n;
}

/* No memory somewhere: ids that find no room are refused and counted, the others have their gradients. */
static size_t run_failing(struct model *m)
{
    struct batch b;
    struct ebs_applied applied = {0};
    struct outcome o = {0};
    struct ebs_update update;

    draw_batch(m, &b);
    tick(m);
    update = update_of(m, &b, 0, b.n);
    rt_fault_alloc((int64_t)draw(m, 4));
    ebs_table_apply(m->table, &update, &applied);
    rt_fault_alloc(-1);
    check_update(m, &o, &applied, b.n);
    return b.n;
}

static size_t run_lookup(struct model *m)
{
    bool digest = draw(m, 8) == 0;
    uint64_t before = digest ? table_bed_digest(m->table) : 0, id[N_MAX];
    size_t n = 1 + draw(m, N_MAX), place[N_MAX], hits = 0;
    float got[N_MAX][DIM];

    for (size_t i = 0; i < n; i++) {
        place[i] = draw(m, IDS);
        id[i] = m->id[place[i]];
        hits += m->known[place[i]].live;
    }
    assert_int_equal(ebs_table_lookup(m->table, id, n, got[0]), hits);
    for (size_t i = 0; i < n; i++) {
        const struct known *known = &m->known[place[i]];
        float want = known->live ? (float)known->count * unit(m, place[i]) : 0.0f;

        if (known->live && m->conf.optimizer.kind != RT_OPT_SGD)
            continue;
        assert_true(got[i][0] == want && got[i][1] == -want && got[i][2] == want);
    }
    if (digest)
        assert_true(before == table_bed_digest(m->table));
    return n;
}

static void remove_id(struct model *m, size_t k)
{
    assert_true(ebs_table_remove(m->table, m->id[k]) == m->known[k].live);
    m->known[k].live = m->known[k].marked = false;
}

/* Some; now and then nearly all. And those whose sums would leave what 16 bits can say exactly. */
static size_t run_remove(struct model *m)
{
    size_t n = draw(m, 40) == 0 ? 2 * IDS : 1 + draw(m, 8);
    uint64_t before, after = 0;

    for (size_t i = 0; i < n; i++)
        remove_id(m, draw(m, IDS));
    for (size_t k = 0; k < IDS; k++)
        if (m->known[k].count > 60)
            remove_id(m, k);
    before = counted(m).removed;
    for (size_t k = 0; k < IDS; k++)
        after += m->known[k].live;
    assert_true(before <= n + IDS && after == ebs_table_rows(m->table));
    return n;
}

static size_t run_tend(struct model *m)
{
    struct outcome o = {.expiry = true};
    struct ebs_table_counts counts;

    m->time_ms += draw(m, 3000);
    ebs_table_tend(m->table, m->time_ms, 1 + draw(m, 300)); /* rows expire, others move */
    follow(m, &o);
    counts = counted(m);
    assert_int_equal(o.gone, counts.expired);
    assert_int_equal(counts.created + counts.evicted + counts.removed, 0);
    return 16;
}

/* All that is left expires, where rows do. */
static void run_out(struct model *m)
{
    struct outcome o = {.expiry = true};

    m->time_ms += (TTL_S + 2) * 1000;
    while (ebs_table_tend(m->table, m->time_ms, 7))
        ;
    m->time_ms += 2000;
    while (ebs_table_tend(m->table, m->time_ms, 7))
        ;
    follow(m, &o);
    if (m->conf.ttl_seconds == 0)
        for (size_t k = 0; k < IDS; k++)
            remove_id(m, k);
    ebs_table_tend(m->table, m->time_ms, 7); /* trims */
    assert_int_equal(ebs_table_rows(m->table), 0);
    assert_true(m->budget.used <= 4 * 4096 + m->conf.admission.sketch_bytes);
}

static void as_a_naive_list(void **test)
{
    uint64_t seed = (uint64_t)time(NULL);
    static struct model model;

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t c = 0; c < ARRAY_LEN(policies) * 3; c++) {
        struct model *m = &model;

        setup(m, &policies[c / 3], (uint32_t)(c % 3), rt_draw(seed, c));
        for (size_t done = 0; done < OPERATIONS;) {
            uint64_t kind = draw(m, 100);

            done += kind < 40   ? run_update(m)
                    : kind < 50 ? run_sliced(m)
                    : kind < 53 ? run_failing(m)
                    : kind < 80 ? run_lookup(m)
                    : kind < 95 ? run_remove(m)
                                : run_tend(m);
        }
        table_bed_check(m->table);
        run_out(m);
        ebs_table_destroy(m->table);
        assert_int_equal(m->budget.used, 0);
        rt_map_release(&m->place);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_a_naive_list),
    };

    return cmocka_run_group_tests_name("table model", tests, NULL, NULL);
}
