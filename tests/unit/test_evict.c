/* tests/unit/test_evict.c -- sampled eviction against the exact policies, on traces.
 *
 * Hit rates are of accesses, the table being warm; differences are relative: |sampled - exact| / exact. */
#include "embedding_server/evict.h"
#include "embedding_server/table.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#define NONE    UINT32_MAX
#define PENDING (UINT32_MAX - 1) /* missing, and asked for by the update at work */

static struct rt_table_conf table_conf(enum rt_eviction_kind kind, uint64_t half_life)
{
    return (struct rt_table_conf){.name = "t",
                                  .dim = 4,
                                  .optimizer = {.kind = RT_OPT_SGD},
                                  .eviction = {.kind = kind, .half_life = half_life}};
}

/* ---- a table of our own: ids below `ids`, each a row number or none ---- */

struct sim {
    struct ebs_slab slab;
    struct ebs_evict evict;
    uint32_t *row; /* [ids] */
    uint32_t ids, capacity, now;
    uint64_t hits, asked, refused;
};

static void sim_begin(struct sim *sim, const struct rt_table_conf *conf, uint32_t ids,
                      uint32_t capacity)
{
    *sim = (struct sim){.ids = ids, .capacity = capacity};
    ebs_slab_init(&sim->slab, 32, NULL);
    ebs_evict_init(&sim->evict, conf, 1);
    sim->row = rt_xcalloc(ids, sizeof(uint32_t));
    for (uint32_t i = 0; i < ids; i++)
        sim->row[i] = NONE;
}

static void sim_end(struct sim *sim)
{
    ebs_slab_release(&sim->slab);
    rt_free(sim->row);
}

static void sim_create(struct sim *sim, uint32_t id)
{
    assert_int_equal(ebs_slab_alloc(&sim->slab, id, &sim->row[id]), 0);
    ebs_evict_born(&sim->evict, ebs_slab_at(&sim->slab, sim->row[id]), sim->now);
}

static void sim_remove(struct sim *sim, uint32_t row)
{
    sim->row[ebs_row_id(ebs_slab_at(&sim->slab, row))] = NONE;
    ebs_slab_free(&sim->slab, row);
}

/* One update: touch what is there, make room for the rest, create it. Rows of this update are kept. */
static void sim_update(struct sim *sim, const uint32_t *id, uint32_t n)
{
    uint32_t missing[4096], victim[4096], room, found, n_missing = 0;

    sim->now++;
    for (uint32_t i = 0; i < n; i++) {
        sim->asked++;
        if (sim->row[id[i]] == NONE) {
            sim->row[id[i]] = PENDING;
            missing[n_missing++] = id[i];
            continue;
        }
        sim->hits++;
        if (sim->row[id[i]] != PENDING)
            ebs_evict_touch(&sim->evict, ebs_slab_at(&sim->slab, sim->row[id[i]]), sim->now);
    }
    room = sim->capacity - (uint32_t)sim->slab.count;
    if (n_missing > room) {
        found = (uint32_t)ebs_evict_choose(&sim->evict, &sim->slab, sim->now, sim->now,
                                           n_missing - room, victim);
        for (uint32_t i = 0; i < found; i++)
            sim_remove(sim, victim[i]);
    }
    for (uint32_t i = 0; i < n_missing; i++) {
        sim->row[missing[i]] = NONE;
        if (sim->slab.count < sim->capacity)
            sim_create(sim, missing[i]);
        else
            sim->refused++;
    }
}

static double sim_rate(const struct sim *sim)
{
    return (double)sim->hits / (double)sim->asked;
}

/* ---- exact LRU: a list ---- */

struct exact {
    uint32_t *before, *after; /* [ids + 1]; entry `ids` is the head */
    uint8_t *in;
    uint32_t ids, capacity, count;
    uint64_t hits, asked;
};

static void exact_begin(struct exact *exact, uint32_t ids, uint32_t capacity)
{
    *exact = (struct exact){.ids = ids, .capacity = capacity};
    exact->before = rt_xcalloc(ids + 1, sizeof(uint32_t));
    exact->after = rt_xcalloc(ids + 1, sizeof(uint32_t));
    exact->in = rt_xcalloc(ids, 1);
    exact->before[ids] = exact->after[ids] = ids;
}

static void exact_end(struct exact *exact)
{
    rt_free(exact->before);
    rt_free(exact->after);
    rt_free(exact->in);
}

static void exact_unlink(struct exact *exact, uint32_t id)
{
    exact->after[exact->before[id]] = exact->after[id];
    exact->before[exact->after[id]] = exact->before[id];
}

static void exact_access(struct exact *exact, uint32_t id)
{
    uint32_t head = exact->ids, last = exact->before[head];

    exact->asked++;
    if (exact->in[id]) {
        exact->hits++;
        exact_unlink(exact, id);
    } else if (exact->count == exact->capacity) {
        exact_unlink(exact, last);
        exact->in[last] = 0;
    } else {
        exact->count++;
    }
    exact->in[id] = 1;
    exact->after[id] = exact->after[head];
    exact->before[id] = head;
    exact->before[exact->after[head]] = id;
    exact->after[head] = id;
}

/* ---- Zipf: rank r with a weight of r^-1.05 ---- */

struct zipf {
    double *sum; /* [ids] of the weights up to here */
    uint32_t ids;
    uint64_t key, draws;
};

static void zipf_begin(struct zipf *zipf, uint32_t ids, uint64_t key)
{
    double sum = 0;

    *zipf = (struct zipf){.ids = ids, .key = key};
    zipf->sum = rt_xcalloc(ids, sizeof(double));
    for (uint32_t i = 0; i < ids; i++)
        zipf->sum[i] = sum += pow(i + 1.0, -1.05);
}

static uint32_t zipf_next(struct zipf *zipf)
{
    double at = rt_unit_f64(rt_draw(zipf->key, zipf->draws++)) * zipf->sum[zipf->ids - 1];
    uint32_t low = 0, high = zipf->ids - 1;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (zipf->sum[middle] > at)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* ---- tests ---- */

/* @batch: accesses per update, so ticks are that coarse and so many rows go at once. */
static void lru_against_exact(uint32_t ids, uint32_t capacity, uint32_t batch)
{
    struct rt_table_conf conf = table_conf(RT_EVICT_LRU, 0);
    uint32_t accesses = 6 * ids / batch, id[4096];
    struct exact exact;
    struct zipf zipf;
    struct sim sim;
    double want, got;

    sim_begin(&sim, &conf, ids, capacity);
    exact_begin(&exact, ids, capacity);
    zipf_begin(&zipf, ids, 5);
    for (uint32_t u = 0; u < accesses; u++) {
        if (u == accesses / 3)
            sim.hits = sim.asked = exact.hits = exact.asked = 0;
        for (uint32_t i = 0; i < batch; i++)
            id[i] = zipf_next(&zipf);
        sim_update(&sim, id, batch);
        for (uint32_t i = 0; i < batch; i++)
            exact_access(&exact, id[i]);
    }
    got = sim_rate(&sim);
    want = (double)exact.hits / (double)exact.asked;
    printf("LRU, %u of %u ids, updates of %u: hit rate %.4f, exact %.4f: %+.2f %%\n", capacity, ids,
           batch, got, want, 100 * (got / want - 1));
    if (fabs(got / want - 1) > 0.005)
        fail_msg("more than 0.5 %% off");
    assert_int_equal(sim.refused, 0);
    assert_true(sim.slab.count == capacity && sim.slab.fresh <= capacity);
    rt_free(zipf.sum);
    exact_end(&exact);
    sim_end(&sim);
}

static void lru_is_within_half_a_percent_of_exact(void **test)
{
    (void)test;
    lru_against_exact(100000, 10000, 1);
    lru_against_exact(100000, 1000, 1);
    lru_against_exact(100000, 10000, 500);
    lru_against_exact(100000, 1000, 50);
}

/* The same through a real table: its hits are the rows that an update did not have to create. */
static void a_real_table_too(void **test)
{
    const uint32_t ids = 100000, capacity = 5000, batch = 250;
    struct rt_table_conf conf = table_conf(RT_EVICT_LRU, 0);
    uint64_t id[250], hits = 0, asked = 0;
    float grad[250 * 4] = {0};
    struct ebs_table *table;
    struct exact exact;
    struct zipf zipf;
    double want, got;

    (void)test;
    conf.eviction.rows = capacity;
    assert_int_equal(
        ebs_table_create(&(struct ebs_table_conf){.job = &conf, .seed = 1, .shards = RT_SHARDS},
                         &table),
        0);
    exact_begin(&exact, ids, capacity);
    zipf_begin(&zipf, ids, 9);
    for (uint32_t u = 0; u < 1600; u++) {
        struct ebs_update update = {.id = id, .grad = grad, .n = batch, .lr = 1, .step = u + 1};
        struct ebs_applied applied = {0};

        if (u == 400)
            hits = asked = exact.hits = exact.asked = 0;
        for (uint32_t i = 0; i < batch; i++) {
            id[i] = zipf_next(&zipf);
            exact_access(&exact, (uint32_t)id[i]);
        }
        ebs_table_tick(table, u);
        ebs_table_apply(table, &update, &applied);
        asked += batch;
        hits += batch - applied.created - applied.refused;
    }
    got = (double)hits / (double)asked;
    want = (double)exact.hits / (double)exact.asked;
    printf("LRU of a real table: hit rate %.4f, exact %.4f: %+.2f %%\n", got, want,
           100 * (got / want - 1));
    assert_true(fabs(got / want - 1) < 0.005);
    assert_int_equal(ebs_table_rows(table), capacity);
    ebs_table_destroy(table);
    rt_free(zipf.sum);
    exact_end(&exact);
}

/* A table of no more rows than are sampled: exactly the oldest goes. */
static void small_tables_are_exact(void **test)
{
    struct rt_table_conf conf = table_conf(RT_EVICT_LRU, 0);
    struct exact exact;
    struct zipf zipf;
    struct sim sim;

    (void)test;
    sim_begin(&sim, &conf, 1000, 256);
    exact_begin(&exact, 1000, 256);
    zipf_begin(&zipf, 1000, 6);
    for (uint32_t u = 0; u < 20000; u++) {
        uint32_t id = zipf_next(&zipf);

        sim_update(&sim, &id, 1);
        exact_access(&exact, id);
    }
    assert_int_equal(sim.hits, exact.hits);
    for (uint32_t i = 0; i < 1000; i++)
        assert_int_equal(sim.row[i] != NONE, exact.in[i]);
    rt_free(zipf.sum);
    exact_end(&exact);
    sim_end(&sim);
}

/* Hit rate of the Zipf part of a trace, of which every other 2,000 accesses are a scan over ids that never come
 * again. */
static double with_scans(enum rt_eviction_kind kind, uint64_t half_life)
{
    const uint32_t ids = 20000, scans = 400000, part = 2000;
    struct rt_table_conf conf = table_conf(kind, half_life);
    uint64_t hits = 0, asked = 0;
    uint32_t fresh = ids;
    struct zipf zipf;
    struct sim sim;

    sim_begin(&sim, &conf, ids + scans, 2000);
    zipf_begin(&zipf, ids, 7);
    for (uint32_t u = 0; u < 400000; u++) {
        bool scan = u / part % 2;
        uint32_t id = scan ? fresh++ : zipf_next(&zipf);

        if (!scan && u > 100000) {
            asked++;
            hits += sim.row[id] != NONE;
        }
        sim_update(&sim, &id, 1);
    }
    rt_free(zipf.sum);
    sim_end(&sim);
    return (double)hits / (double)asked;
}

static void lfu_withstands_scans(void **test)
{
    double lru = with_scans(RT_EVICT_LRU, 0), lfu = with_scans(RT_EVICT_LFU, 100000);

    (void)test;
    printf("hit rate beside scans: LRU %.4f, LFU %.4f\n", lru, lfu);
    assert_true(lfu > lru + 0.05);
}

/* The popular ids change at half time. Hit rates: of the last fifth before it, and of that of the whole trace. */
static void with_a_move(uint64_t half_life, double *before, double *after)
{
    const uint32_t ids = 20000, accesses = 500000;
    struct rt_table_conf conf = table_conf(RT_EVICT_LFU, half_life);
    struct zipf zipf;
    struct sim sim;

    sim_begin(&sim, &conf, ids, 1000);
    zipf_begin(&zipf, ids, 8);
    for (uint32_t u = 0; u < accesses; u++) {
        uint32_t id = (zipf_next(&zipf) + (u < accesses / 2 ? 0 : ids / 2)) % ids;

        if (u == accesses / 10 * 4 || u == accesses / 10 * 9)
            sim.hits = sim.asked = 0;
        sim_update(&sim, &id, 1);
        if (u == accesses / 2 - 1)
            *before = sim_rate(&sim);
    }
    *after = sim_rate(&sim);
    rt_free(zipf.sum);
    sim_end(&sim);
}

static void lfu_follows_what_is_popular(void **test)
{
    double before, after, before_never, after_never;

    (void)test;
    with_a_move(10000, &before, &after);
    with_a_move(4000000000u, &before_never, &after_never);
    printf("popular ids move: half-life 10,000: %.4f -> %.4f; without decay: %.4f -> %.4f\n",
           before, after, before_never, after_never);
    assert_true(after > before - 0.01);
    assert_true(after > after_never + 0.02); /* or decay would not matter here */
}

/* frequency is what the formula in the header says. */
static void frequency_decays(void **test)
{
    struct rt_table_conf conf = table_conf(RT_EVICT_LFU, 8);
    static const uint32_t at[] = {0xfffffff0u, 0xfffffff8u, 0xfffffff8u, 0, 24, 24 + 8000};
    static const float want[] = {1, 1.5f, 2.5f, 2.25f, 1.28125f, 1};
    struct ebs_evict evict;
    uint8_t row[64] = {0};

    (void)test;
    ebs_evict_init(&evict, &conf, 1);
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        uint32_t touched;
        float frequency;

        if (i == 0)
            ebs_evict_born(&evict, row, at[i]);
        else
            ebs_evict_touch(&evict, row, at[i]);
        memcpy(&touched, row + evict.touched, sizeof(touched));
        memcpy(&frequency, row + evict.frequency, sizeof(frequency));
        assert_int_equal(touched, at[i]);
        if (fabsf(frequency - want[i]) > 1e-6f)
            fail_msg("touch %zu: %g", i, (double)frequency);
    }
}

/* Rows 0..n-1 touched at tick `first + row`, one table for several questions. */
static void fill(struct sim *sim, const struct rt_table_conf *conf, uint32_t n, uint32_t first)
{
    sim_begin(sim, conf, n, n);
    for (uint32_t i = 0; i < n; i++) {
        sim->now = first + i;
        sim_create(sim, i);
    }
}

static void some_rows_stay(void **test)
{
    static const struct {
        const char *name;
        uint32_t n, first, keep; /* the latest `keep` ticks stay */
        size_t want, least, most;
    } row[] = {{"one of a few", 10, 5, 0, 1, 1, 1},
               {"all of a few", 10, 5, 0, 10, 10, 10},
               {"more than there are", 10, 5, 0, 300, 10, 10},
               {"none", 10, 5, 0, 0, 0, 0},
               {"all stay", 1000, 5, 1000, 100, 0, 0},
               {"all but one, of few", 64, 5, 63, 1, 1, 1},
               {"half stay, over the wrap", 1000, UINT32_MAX - 700, 500, 250, 250, 250},
               {"half stay, all others wanted", 1000, 9, 500, 500, 400, 500},
               {"most stay", 100000, 9, 90000, 1000, 900, 1000},
               {"many", 100000, 9, 0, 50000, 49000, 50000}};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf conf = table_conf(RT_EVICT_LRU, 0);
        uint32_t *victim = rt_xcalloc(row[i].want + 1, sizeof(*victim));
        uint32_t now = row[i].first + row[i].n;
        struct sim sim;
        size_t got;

        fill(&sim, &conf, row[i].n, row[i].first);
        got = ebs_evict_choose(&sim.evict, &sim.slab, now, now - row[i].keep, row[i].want, victim);
        if (got < row[i].least || got > row[i].most)
            fail_msg("%s: got %zu", row[i].name, got);
        for (size_t v = 0; v < got; v++) {
            if (victim[v] >= row[i].n - row[i].keep)
                fail_msg("%s: row %u should stay", row[i].name, victim[v]);
            sim_remove(&sim, victim[v]); /* asserts that it is live: none is named twice */
        }
        sim_end(&sim);
        rt_free(victim);
    }
}

/* Victims are old, wherever in the table they are. */
static void victims_are_old(void **test)
{
    struct rt_table_conf conf = table_conf(RT_EVICT_LRU, 0);
    const uint32_t n = 100000;
    uint32_t victim[1000], low = 0;
    uint64_t sum = 0;
    struct sim sim;

    (void)test;
    fill(&sim, &conf, n, 0);
    for (uint32_t i = 0; i < n;
         i++) { /* every row again, in an order that has nothing to do with where it is */
        sim.now = n + (uint32_t)(i * 7919ull % n);
        ebs_evict_touch(&sim.evict, ebs_slab_at(&sim.slab, i), sim.now);
    }
    assert_int_equal(ebs_evict_choose(&sim.evict, &sim.slab, 2 * n, 2 * n, 1000, victim), 1000);
    for (uint32_t i = 0; i < 1000; i++) {
        uint32_t order = (uint32_t)(victim[i] * 7919ull % n);

        sum += order;
        low += victim[i] < n / 2;
        assert_true(order < n / 4);
    }
    printf("mean age rank of victims: %.1f %% of the table; exact: 0.5 %%\n",
           100.0 * (double)sum / 1000 / n);
    assert_true(sum / 1000 < n / 12);
    assert_in_range(low, 400, 600);
    sim_end(&sim);
}

/* Creations, touches, removals and evictions in any order, with holes: what is named may go. */
static void by_chance(void **test)
{
    uint64_t seed = (uint64_t)time(NULL), draw = 0;
    struct rt_table_conf conf = table_conf(RT_EVICT_LFU, 50);
    const uint32_t ids = 3000;
    struct sim sim;

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    sim_begin(&sim, &conf, ids, ids);
    sim.now = UINT32_MAX - 1000; /* wraps */
    for (uint32_t step = 0; step < 100000; step++) {
        uint32_t id = (uint32_t)rt_below(rt_draw(seed, draw++), ids), victim[40];
        uint64_t kind = rt_below(rt_draw(seed, draw++), 100);

        if (kind < 2) {
            uint32_t keep = (uint32_t)rt_below(rt_draw(seed, draw++), 200);
            size_t want = rt_below(rt_draw(seed, draw++), 40);
            size_t got =
                ebs_evict_choose(&sim.evict, &sim.slab, sim.now, sim.now - keep, want, victim);

            assert_true(got <= want);
            for (size_t v = 0; v < got; v++) {
                uint32_t touched;

                memcpy(&touched, ebs_slab_at(&sim.slab, victim[v]) + sim.evict.touched,
                       sizeof(touched));
                assert_true(sim.now - touched > keep);
                sim_remove(&sim, victim[v]);
            }
        } else if (sim.row[id] == NONE) {
            sim_create(&sim, id);
        } else if (kind < 30) {
            sim_remove(&sim, sim.row[id]);
        } else {
            ebs_evict_touch(&sim.evict, ebs_slab_at(&sim.slab, sim.row[id]), sim.now);
        }
        sim.now += kind < 50;
    }
    sim_end(&sim);
}

static double cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* For the reader; asserted only against something being wrong by far. */
static void cost(void **test)
{
    static const enum rt_eviction_kind kind[] = {RT_EVICT_LRU, RT_EVICT_LFU};
    static const size_t want[] = {1, 16, 256};
    const uint32_t n = 1000000;

    (void)test;
    for (size_t k = 0; k < ARRAY_LEN(kind); k++) {
        struct rt_table_conf conf = table_conf(kind[k], 1000000);
        uint32_t victim[256];
        struct sim sim;

        fill(&sim, &conf, n, 0);
        for (size_t w = 0; w < ARRAY_LEN(want); w++) {
            double from = cpu_ns(), ns;
            uint32_t rows = 0;

            while (rows < 20000)
                rows += (uint32_t)ebs_evict_choose(&sim.evict, &sim.slab, n, n, want[w], victim);
            ns = (cpu_ns() - from) / rows;
            printf("choose, %s, %zu at a time: %.0f ns per row\n", k ? "LFU" : "LRU", want[w], ns);
            assert_true(ns < 100000);
        }
        sim_end(&sim);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lru_is_within_half_a_percent_of_exact),
        cmocka_unit_test(a_real_table_too),
        cmocka_unit_test(small_tables_are_exact),
        cmocka_unit_test(lfu_withstands_scans),
        cmocka_unit_test(lfu_follows_what_is_popular),
        cmocka_unit_test(frequency_decays),
        cmocka_unit_test(some_rows_stay),
        cmocka_unit_test(victims_are_old),
        cmocka_unit_test(by_chance),
        cmocka_unit_test(cost),
    };

    return cmocka_run_group_tests_name("evict", tests, NULL, NULL);
}
