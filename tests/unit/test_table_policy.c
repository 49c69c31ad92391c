/* tests/unit/test_table_policy.c -- rows that are let in, evicted and expired; nobody else's gradient moves. */
#include "embedding_server/table.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
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
#include <cmocka.h>

#define DIM 4

/* How many of value[n][DIM] are its own gradient times -1; the others must be 0, and so must each `unusable`-th. */
static size_t whole_rows(const char *name, const float *value, size_t n, size_t unusable)
{
    size_t has = 0;

    for (size_t i = 0; i < n; i++, value += DIM) {
        bool bad = unusable && i % unusable == 0, zero = true, own = true;

        for (size_t j = 0; j < DIM; j++) {
            zero &= value[j] == 0.0f;
            own &= value[j] == (float)(i * DIM + j + 1);
        }
        if (!zero && (bad || !own))
            fail_msg("%s: id %zu has %g", name, i, (double)value[0]);
        has += own;
    }
    return has;
}

/* The worst bug known of systems like this one: an update to an id that was evicted did not step over its gradient, so
 * all ids after it got their neighbours' gradients. Whatever becomes of an id, gradient i is id i's. */
static void gradients_never_shift(void **test)
{
    enum { N = 600, BEFORE = 400 };
    static uint64_t id[N];
    static float grad[N][DIM], got[N][DIM];
    static const struct {
        const char *name;
        struct rt_admission_conf admission;
        struct rt_eviction_conf eviction;
        size_t unusable; /* each k-th gradient; 0: none */
    } row[] = {
        {"lru", {0}, {.kind = RT_EVICT_LRU, .rows = 500}, 0},
        {"lru, more ids than rows", {0}, {.kind = RT_EVICT_LRU, .rows = 300}, 5},
        {"lfu", {0}, {.kind = RT_EVICT_LFU, .rows = 350, .half_life = 3}, 0},
        {"full, refused", {0}, {.kind = RT_EVICT_NONE, .rows = 450}, 7},
        {"by count", {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 16}, {0}, 0},
        {"by lot", {.kind = RT_ADMIT_PROBABILITY, .probability = 0.5}, {0}, 3},
        {"by lot, lru",
         {.kind = RT_ADMIT_PROBABILITY, .probability = 0.5},
         {.kind = RT_EVICT_LRU, .rows = 150},
         3},
    };

    (void)test;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct rt_table_conf conf = table_bed_counting(DIM, WIRE_F32);
        struct ebs_table *table;
        struct ebs_applied applied;
        size_t unusable = 0, has;
        uint64_t before;

        conf.admission = row[r].admission;
        conf.eviction = row[r].eviction;
        table = table_bed_create(&conf);
        for (size_t i = 0; i < N; i++)
            id[i] = rt_draw(r, i);
        /* Two rounds, that the sketch has seen all ids once; then some rows are gone, and all lose theirs that
         * others need. */
        memset(grad, 0, sizeof(grad));
        for (size_t i = 0; i < BEFORE; i += 100)
            table_bed_update(table, id + i, grad[0], 100);
        for (size_t i = 0; i < N; i += 3)
            ebs_table_remove(table, id[i]);
        before = ebs_table_rows(table);
        for (size_t i = 0; i < N; i++) {
            for (size_t j = 0; j < DIM; j++)
                grad[i][j] = -(float)(i * DIM + j + 1);
            if (row[r].unusable && i % row[r].unusable == 0) {
                grad[i][i % DIM] = NAN;
                unusable++;
            }
        }
        applied = table_bed_update(table, id, grad[0], N);
        assert_int_equal(ebs_table_lookup(table, id, N, got[0]), ebs_table_rows(table));
        has = whole_rows(row[r].name, got[0], N, row[r].unusable);
        if (applied.nonfinite != unusable || applied.rows != has ||
            has + unusable + applied.refused + applied.not_admitted != N ||
            ebs_table_rows(table) != before + applied.created - applied.evicted)
            fail_msg("%s: %zu rows, %zu unusable, %llu refused, %llu not admitted", row[r].name,
                     has, unusable, (unsigned long long)applied.refused,
                     (unsigned long long)applied.not_admitted);
        assert_true(has > 100 && has + unusable < N + (row[r].eviction.rows > N));
        table_bed_check(table);
        ebs_table_destroy(table);
    }
}

static struct rt_table_conf evicting(uint32_t kind, uint64_t rows)
{
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);

    conf.eviction = (struct rt_eviction_conf){.kind = kind, .rows = rows, .half_life = 8};
    return conf;
}

static struct ebs_applied count_window(struct ebs_table *table, const uint64_t *id, size_t n,
                                       uint32_t window)
{
    struct ebs_applied applied = {0};
    float grad[16];

    rt_assert(n <= ARRAY_LEN(grad));
    for (size_t i = 0; i < n; i++)
        grad[i] = -1.0f;
    ebs_table_tick(table, 0);
    ebs_table_apply(table,
                    &(struct ebs_update){
                        .id = id, .grad = grad, .n = n, .lr = 1.0f, .step = 1, .window = window},
                    &applied);
    return applied;
}

/* The ends of the id range come and go like others; what was evicted begins anew. */
static void the_oldest_go(void **test)
{
    static const uint64_t id[] = {0, UINT64_MAX, 1, 2, 3, 1ull << 63};
    struct rt_table_conf conf = evicting(RT_EVICT_LRU, 4);
    struct ebs_table *table = table_bed_create(&conf);
    struct ebs_applied applied;

    (void)test;
    table_bed_count(table, id, 2);
    table_bed_count(table, id + 2, 2);
    table_bed_count(table, id, 1);
    table_bed_count(table, (uint64_t[]){1, 2}, 2);
    applied = table_bed_count(table, id + 4, 1); /* the oldest is UINT64_MAX */
    assert_true(applied.evicted == 1 && applied.created == 1 && applied.refused == 0);
    assert_false(table_bed_has(table, UINT64_MAX));
    assert_true(table_bed_value(table, UINT64_MAX) == 0.0f && table_bed_value(table, 0) == 2.0f);
    table_bed_count(table, id + 1, 1); /* and now 0 */
    assert_false(table_bed_has(table, 0));
    assert_true(table_bed_value(table, UINT64_MAX) == 1.0f);
    assert_int_equal(ebs_table_counts(table)->evicted, 2);
    table_bed_check(table);
    ebs_table_destroy(table);
}

static void the_rarely_used_go(void **test)
{
    struct rt_table_conf conf = evicting(RT_EVICT_LFU, 4);
    struct ebs_table *table = table_bed_create(&conf);

    (void)test;
    for (int i = 0; i < 5; i++)
        table_bed_count(table, (uint64_t[]){0, 1}, 2);
    table_bed_count(table, (uint64_t[]){2, 3, 3}, 3);
    table_bed_count(table, (uint64_t[]){4}, 1);
    assert_false(table_bed_has(table, 2));
    table_bed_count(table, (uint64_t[]){5}, 1); /* 3 was used twice, 4 once but later */
    assert_false(table_bed_has(table, 4));
    for (int i = 0; i < 60; i++) /* what 0 and 1 had is forgotten by then */
        table_bed_count(table, (uint64_t[]){3, 5}, 2);
    table_bed_count(table, (uint64_t[]){6, 7}, 2);
    assert_false(table_bed_has(table, 0) || table_bed_has(table, 1));
    ebs_table_destroy(table);
}

/* Rows whose gradients may still be under way: they are not evicted, whoever else finds no room. */
static void rows_in_use_stay(void **test)
{
    struct rt_table_conf conf = evicting(RT_EVICT_LRU, 4);
    struct ebs_table *table = table_bed_create(&conf);
    struct ebs_applied applied;

    (void)test;
    count_window(table, (uint64_t[]){1, 2}, 2, 3);
    count_window(table, (uint64_t[]){3, 4}, 2, 3);
    applied = count_window(table, (uint64_t[]){5, 6}, 2, 3);
    assert_true(applied.refused == 2 && applied.evicted == 0 && applied.rows == 0);
    applied = count_window(table, (uint64_t[]){5, 6, 7}, 3, 3); /* 1 and 2 are old enough now */
    assert_true(applied.refused == 1 && applied.evicted == 2 && applied.rows == 2);
    assert_true(table_bed_has(table, 3) && table_bed_has(table, 4));
    applied = count_window(table, (uint64_t[]){1, 2, 3, 4, 5, 6, 7, 8}, 8, UINT32_MAX);
    assert_true(applied.refused == 4 && applied.rows == 4);
    /* Of an update's own rows none goes, whatever the window says. */
    applied = count_window(table, (uint64_t[]){11, 12, 13, 3, 4, 5}, 6, 0);
    assert_true(applied.evicted == 1 && applied.refused == 2 && applied.rows == 4);
    table_bed_check(table);
    ebs_table_destroy(table);
}

/* Each occurrence counts, the ones of one update too, however far apart they stand in it. */
static void occurrences_count(void **test)
{
    enum { N = 700 };
    uint64_t id[N];
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
    struct ebs_table *table;
    struct ebs_applied applied;

    (void)test;
    conf.admission =
        (struct rt_admission_conf){.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 20};
    table = table_bed_create(&conf);
    for (size_t i = 0; i < N; i++)
        id[i] = 1000 + i;
    id[0] = id[1] = id[2] = id[600] = id[601] = 7;
    id[3] = id[602] = 8;
    applied = table_bed_count(table, id, N);
    assert_true(table_bed_value(table, 7) == 4.0f && table_bed_value(table, 8) == 1.0f);
    assert_true(applied.created == 2 && applied.rows == 5);
    assert_int_equal(applied.not_admitted, N - 5);
    ebs_table_lookup(table, id, 1, (float[1]){0});
    table_bed_value(table, 1004); /* looking does not count */
    table_bed_value(table, 1004);
    assert_int_equal(table_bed_count(table, (uint64_t[]){1004, 5}, 2).rows, 1);
    assert_true(ebs_table_remove(table, 7)); /* from zero again */
    assert_int_equal(table_bed_count(table, (uint64_t[]){7}, 1).not_admitted, 1);
    assert_int_equal(table_bed_count(table, (uint64_t[]){7}, 1).created, 1);
    ebs_table_destroy(table);
}

/* An update is told by its draw, so the same one is let in again, on any owner. */
static void the_lot_is_the_draw(void **test)
{
    enum { N = 4000 };
    static uint64_t id[N];
    static float grad[N];
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
    uint64_t digest[3];
    struct ebs_applied applied;

    (void)test;
    conf.admission = (struct rt_admission_conf){.kind = RT_ADMIT_PROBABILITY, .probability = 0.25};
    for (size_t i = 0; i < N; i++) {
        id[i] = i;
        grad[i] = -1.0f;
    }
    for (uint64_t d = 0; d < 3; d++) {
        struct ebs_table *table = table_bed_create(&conf);
        struct ebs_update update = {
            .id = id, .grad = grad, .n = N, .lr = 1.0f, .step = 1, .draw = d / 2};

        memset(&applied, 0, sizeof(applied));
        ebs_table_apply(table, &update, &applied);
        assert_true(applied.created > 850 && applied.created < 1150);
        digest[d] = table_bed_digest(table);
        ebs_table_destroy(table);
    }
    assert_true(digest[0] == digest[1] && digest[0] != digest[2]);
}

static void an_owner_has_its_share(void **test)
{
    struct rt_table_conf conf = evicting(RT_EVICT_LRU, 1000);
    static uint64_t id[1000];

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(id); i++)
        id[i] = i;
    for (uint32_t parts = 1; parts <= 3; parts++) {
        struct ebs_table *table = NULL;

        assert_int_equal(
            ebs_table_create(
                &(struct ebs_table_conf){.job = &conf, .seed = 1, .shards = RT_SHARDS / parts},
                &table),
            0);
        for (int round = 0; round < 3; round++)
            table_bed_count(table, id, ARRAY_LEN(id));
        assert_int_equal(ebs_table_rows(table), (1000 + parts - 1) / parts);
        ebs_table_destroy(table);
    }
}

/* All that a table takes with so many bytes at most; its rows are exchanged until the index and the steps of its
 * arrays have been everywhere. */
static size_t taken(const struct rt_table_conf *conf)
{
    enum { N = 4000 };
    static uint64_t id[N];
    struct ebs_table *table = table_bed_create(conf);
    size_t n = N / conf->dim, most = 0;

    for (uint64_t at = 0; ebs_table_counts(table)->evicted <= N; at += n) {
        struct ebs_table_bytes bytes;
        size_t sum;

        for (size_t i = 0; i < n; i++)
            id[i] = at + i;
        table_bed_count(table, id, n);
        bytes = ebs_table_bytes(table);
        sum = bytes.rows + bytes.index + bytes.slack + bytes.allocator;
        most = sum > most ? sum : most;
    }
    table_bed_check(table);
    ebs_table_destroy(table);
    return most;
}

/* A capacity in bytes holds for all that the table takes, and what is left is less than the next page of an array:
 * some small ones and a step, from RT_HUGE_FROM on a huge one with its bits. */
static void bytes_stay_below(void **test)
{
    static const struct {
        uint32_t dim, dtype;
    } kind[] = {{1, WIRE_F32}, {16, WIRE_F32}, {64, WIRE_F16}};

    (void)test;
    for (size_t k = 0; k < ARRAY_LEN(kind); k++)
        for (size_t cap = 384 << 10; cap <= 8 << 20; cap += cap < 9 << 19 ? 192 << 10 : 896 << 10) {
            struct rt_table_conf conf = table_bed_counting(kind[k].dim, kind[k].dtype);
            size_t sum, left = 2 * RT_STEP_SMALL + (cap > RT_HUGE_FROM ? RT_HUGE_PAGE : 0);

            conf.eviction = (struct rt_eviction_conf){.kind = RT_EVICT_LRU, .bytes = cap};
            sum = taken(&conf);
            if (sum > cap || sum + left < cap || sum < cap / 100 * 45)
                fail_msg("dim %u, dtype %u: %zu bytes taken of %zu", kind[k].dim, kind[k].dtype,
                         sum, cap);
        }
}

/* The time to live is counted from the last gradient. */
static void idle_rows_expire(void **test)
{
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
    struct ebs_table *table;
    struct ebs_applied applied = {0};
    float grad = -1.0f;

    (void)test;
    conf.ttl_seconds = 100;
    table = table_bed_create(&conf);
    for (uint64_t s = 0; s < 400; s++) { /* id s / 10 each second, id 1000 now and then */
        uint64_t id = s % 50 == 0 ? 1000 : s / 10;
        struct ebs_update update = {.id = &id, .grad = &grad, .n = 1, .lr = 1.0f, .step = 1};

        ebs_table_tick(table, s * 1000);
        ebs_table_apply(table, &update, &applied);
        while (ebs_table_tend(table, s * 1000, 3))
            ;
        for (uint64_t r = 0; r < 40; r++) {
            uint64_t last = r * 10 + 9;

            if (s > last && s - last <= 100)
                assert_true(table_bed_has(table, r));
            if (s >
                last + 106) /* a sweep each 3.1 s, a second of the ring, and two of these steps */
                assert_false(table_bed_has(table, r));
        }
    }
    assert_true(table_bed_value(table, 1000) == 8.0f);
    ebs_table_tend(table, 600 * 1000, 1000);
    ebs_table_tend(table, 610 * 1000, 1000);
    assert_int_equal(ebs_table_rows(table), 0);
    assert_int_equal(ebs_table_counts(table)->expired, 41);
    ebs_table_destroy(table);
}

/* A sweep here takes twice as long as sweeps are apart. */
static void memory_comes_back_between_sweeps(void **test)
{
    enum { ROWS = 20000, KEEP = 4, N = 1000, CALLS = 650, TTL = 32000, LATER = 20000 };
    static uint64_t id[N];
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
    struct ebs_table_bytes bytes;
    struct ebs_table *table;

    (void)test;
    conf.ttl_seconds = TTL;
    table = table_bed_create(&conf);
    for (uint64_t at = 0; at < ROWS; at += N) {
        for (size_t i = 0; i < N; i++)
            id[i] = at + i;
        table_bed_count(table, id, N);
    }
    ebs_table_tick(table, LATER * 1000);
    for (uint64_t at = 0; at < ROWS; at += N * KEEP) {
        for (size_t i = 0; i < N; i++)
            id[i] = at + i * KEEP;
        table_bed_count(table, id, N);
    }
    for (uint64_t call = 0; call < CALLS; call++)
        ebs_table_tend(table, (TTL + 200 + call * 25) * 1000, 64);
    bytes = ebs_table_bytes(table);
    assert_int_equal(ebs_table_rows(table), ROWS / KEEP);
    assert_true(bytes.slack + bytes.allocator < 32 << 10);
    table_bed_check(table);
    ebs_table_destroy(table);
}

/* SGD, lr 1, gradient -1: a value is the number of updates since its row was made, whatever came and went around
 * it. What an update finds before it is what it adds to. */
static void values_count_updates(void **test)
{
    enum { N = 2000, STRETCH = 256, IDS = 60000, ROUNDS = 150 };
    static const struct rt_eviction_conf eviction[] = {
        {.kind = RT_EVICT_NONE}, /* growth alone */
        {.kind = RT_EVICT_LRU, .rows = 20000},
        {.kind = RT_EVICT_LFU, .rows = 10000, .half_life = 10},
    };
    static uint64_t id[N];
    static uint32_t times[IDS];
    static float before[N], after[N];

    (void)test;
    for (size_t e = 0; e < ARRAY_LEN(eviction); e++) {
        struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
        struct ebs_table *table;
        uint64_t at = 0, refused = 0;
        /* A long update may evict what it comes to later, which begins anew then. */
        size_t n = eviction[e].kind == RT_EVICT_NONE ? N : STRETCH;

        conf.eviction = eviction[e];
        table = table_bed_create(&conf);
        for (size_t round = 0; round < ROUNDS * N / n; round++) {
            struct ebs_applied applied;

            memset(times, 0, sizeof(times));
            for (size_t i = 0; i < n; i++) {
                double u = rt_unit_f64(rt_draw(e, at++));

                id[i] = (uint64_t)(pow(IDS, u)) - 1; /* few of them often */
                times[id[i]]++;
            }
            ebs_table_lookup(table, id, n, before);
            applied = table_bed_count(table, id, n);
            refused += applied.refused;
            ebs_table_lookup(table, id, n, after);
            for (size_t i = 0; i < n; i++)
                assert_true(after[i] == before[i] + (float)times[id[i]]);
        }
        assert_int_equal(refused, 0);
        assert_true(eviction[e].rows == 0 || ebs_table_rows(table) == eviction[e].rows);
        table_bed_check(table);
        ebs_table_destroy(table);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_never_shift),
        cmocka_unit_test(the_oldest_go),
        cmocka_unit_test(the_rarely_used_go),
        cmocka_unit_test(rows_in_use_stay),
        cmocka_unit_test(occurrences_count),
        cmocka_unit_test(the_lot_is_the_draw),
        cmocka_unit_test(an_owner_has_its_share),
        cmocka_unit_test(bytes_stay_below),
        cmocka_unit_test(idle_rows_expire),
        cmocka_unit_test(memory_comes_back_between_sweeps),
        cmocka_unit_test(values_count_updates),
    };

    return cmocka_run_group_tests_name("table policy", tests, NULL, NULL);
}
