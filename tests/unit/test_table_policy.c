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
        size_t unusable = 0, has = 0;
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
        for (size_t i = 0; i < N; i++) {
            bool bad = row[r].unusable && i % row[r].unusable == 0, zero = true, own = true;

            for (size_t j = 0; j < DIM; j++) {
                zero &= got[i][j] == 0.0f;
                own &= got[i][j] == (float)(i * DIM + j + 1);
            }
            if (!zero && (bad || !own))
                fail_msg("%s: id %zu has %g", row[r].name, i, (double)got[i][0]);
            has += own;
        }
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_never_shift),
    };

    return cmocka_run_group_tests_name("table policy", tests, NULL, NULL);
}
