/* tests/unit/test_table_memory.c -- bytes are accounted for, come back, and a cap on them is not an error. */
#include "embedding_server/table.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/unit/table_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MIB ((size_t)1 << 20)

/* Bytes of memory that the process has, those of files aside: by its page tables, since statm is a rough count. */
static size_t resident(void)
{
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    unsigned long long kib = 0;
    char line[256];

    assert_non_null(file);
    while (fgets(line, sizeof(line), file) && sscanf(line, "Anonymous: %llu", &kib) != 1)
        ;
    fclose(file);
    assert_true(kib > 0);
    return (size_t)kib << 10;
}

static size_t sum_of(const struct ebs_table *table)
{
    struct ebs_table_bytes bytes = ebs_table_bytes(table);

    return bytes.rows + bytes.index + bytes.slack + bytes.allocator;
}

/* Sanitizers have memory of their own for each byte. */
static void check_resident(const struct ebs_table *table, size_t before)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    (void)table;
    (void)before;
#else
    double sum = (double)sum_of(table), held = (double)resident() - (double)before;

    if (held < sum * 0.98 - (double)MIB || held > sum * 1.02 + (double)MIB)
        fail_msg("resident memory grew by %.0f bytes, the table says %.0f", held, sum);
#endif
}

/* Ids [from, end), one update per thousand. */
static void count_range(struct ebs_table *table, uint64_t from, uint64_t end)
{
    uint64_t id[1000];

    for (uint64_t at = from; at < end; at += ARRAY_LEN(id)) {
        size_t n = end - at < ARRAY_LEN(id) ? end - at : ARRAY_LEN(id);

        for (size_t i = 0; i < n; i++)
            id[i] = rt_draw(5, at + i);
        table_bed_count(table, id, n);
    }
}

/* Growth, removal of most of it, growth again: rows stay themselves, and memory follows them. */
static void memory_follows_rows(void **test)
{
    enum { ROWS = 600000, DIM = 4, KEEP = 8 };
    struct rt_table_conf conf = table_bed_counting(DIM, WIRE_F32);
    struct ebs_budget budget = {0};
    struct ebs_table *table;
    struct ebs_table_bytes bytes;
    size_t before, full, calls = 0;

    (void)test;
    conf.optimizer.kind = RT_OPT_ADAGRAD;
    conf.optimizer.eps = 1e-8;
    before = resident();
    assert_int_equal(table_bed_try(&conf, &budget, &table), 0);
    count_range(table, 0, ROWS);
    check_resident(table, before);
    full = sum_of(table);
    assert_true(full < ROWS * (ebs_table_row_bytes(table) + 8.5) + 2.5 * (double)MIB);
    for (uint64_t i = 0; i < ROWS; i++)
        if (i % KEEP)
            assert_true(ebs_table_remove(table, rt_draw(5, i)));
    while (ebs_table_tend(table, 0, 1000))
        calls++;
    assert_true(calls >= ROWS / KEEP * 3 / 4 / 1000); /* so many were moved, a thousand at a call */
    assert_true(sum_of(table) < full / KEEP + 2 * MIB);
    check_resident(table, before);
    table_bed_check(table);
    for (uint64_t i = 0; i < ROWS; i++) {
        struct ebs_row row;

        assert_true(ebs_table_get(table, rt_draw(5, i), &row) == (i % KEEP == 0));
        if (i % KEEP == 0)
            assert_true(row.state[0] == 1.0f && row.state[DIM - 1] == 1.0f);
    }
    bytes = ebs_table_bytes(table);
    /* The budget knows all of it but a few KiB: the table itself, and bits over its blocks. */
    assert_true(budget.used <= bytes.rows + bytes.index + bytes.slack + bytes.allocator);
    assert_true(budget.used + 16384 >= bytes.rows + bytes.index + bytes.slack + bytes.allocator);
    count_range(table, 0, ROWS);
    check_resident(table, before);
    assert_int_equal(ebs_table_rows(table), ROWS);
    ebs_table_destroy(table);
    assert_int_equal(budget.used, 0);
}

/* At the cap of an owner's memory its tables go on: rows are replaced, or new ids refused, and none is an error. */
static void a_cap_is_no_error(void **test)
{
    static const struct {
        uint32_t eviction;
        size_t limit;
        uint32_t dim;
    } row[] = {
        {RT_EVICT_LRU, 1 * MIB, 1},   {RT_EVICT_LFU, 1 * MIB, 3},     {RT_EVICT_NONE, 1 * MIB, 2},
        {RT_EVICT_LRU, 24 * MIB, 64}, {RT_EVICT_NONE, 24 * MIB, 200}, {RT_EVICT_LRU, 49152, 1},
    };

    (void)test;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct ebs_budget budget = {.limit = row[r].limit};
        struct rt_table_conf conf = table_bed_counting(row[r].dim, WIRE_BF16);
        struct ebs_table *table[2];
        uint64_t evicted = 0, refused = 0, ids = 2 * row[r].limit / (8 + 2 * row[r].dim);

        conf.eviction.kind = row[r].eviction;
        for (int t = 0; t < 2; t++)
            assert_int_equal(table_bed_try(&conf, &budget, &table[t]), 0);
        for (uint64_t at = 0; at < ids; at += 10) { /* two that share one cap */
            count_range(table[0], at, at + 10);
            if (at % 40 == 0)
                count_range(table[1], at, at + 10);
            assert_true(budget.used <= budget.limit);
        }
        for (int t = 0; t < 2; t++) {
            evicted += ebs_table_counts(table[t])->evicted;
            refused += ebs_table_counts(table[t])->refused;
            table_bed_check(table[t]);
        }
        assert_true((evicted > 0) == (row[r].eviction != RT_EVICT_NONE));
        assert_true((refused > 0) == (row[r].eviction == RT_EVICT_NONE));
        /* The cap is used: little is left, and the index is not what fills it. */
        if (row[r].limit >= MIB)
            assert_true(budget.used > row[r].limit - row[r].limit / 8);
        for (int t = 0; t < 2; t++)
            ebs_table_destroy(table[t]);
        assert_int_equal(budget.used, 0);
    }
}

static void no_room_to_begin(void **test)
{
    struct rt_table_conf conf = table_bed_counting(1, WIRE_F32);
    struct ebs_table *table = NULL;

    (void)test;
    conf.admission =
        (struct rt_admission_conf){.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = MIB};
    for (size_t limit = 4096; limit <= 2 * MIB; limit += MIB - 4096) {
        struct ebs_budget budget = {.limit = limit};
        int err = table_bed_try(&conf, &budget, &table);

        if (limit > MIB) {
            assert_int_equal(err, 0);
            assert_true(budget.used >= MIB && budget.used <= limit);
            ebs_table_destroy(table);
        } else {
            assert_int_equal(err, RT_EFULL);
            assert_non_null(strstr(rt_err_text(), "users"));
        }
        assert_int_equal(budget.used, 0);
    }
}

/* What a failed allocation leaves behind is not lost, with every policy that has memory of its own. */
static void failures_lose_nothing(void **test)
{
    uint64_t id[300];
    bool done = false;

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(id); i++)
        id[i] = i * 3;
    for (int64_t nth = 0; !done; nth++) {
        struct rt_table_conf conf = table_bed_counting(8, WIRE_F16);
        struct ebs_budget budget = {.limit = MIB};
        struct ebs_table *table = NULL;
        float grad[8 * ARRAY_LEN(id)] = {0};
        struct ebs_update update = {
            .id = id, .grad = grad, .n = ARRAY_LEN(id), .lr = 1.0f, .step = 1};
        struct ebs_applied applied = {0};
        int err;

        conf.eviction =
            (struct rt_eviction_conf){.kind = RT_EVICT_LFU, .rows = 200, .half_life = 9};
        conf.admission =
            (struct rt_admission_conf){.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 4096};
        conf.ttl_seconds = 10;
        rt_fault_alloc(nth);
        err = table_bed_try(&conf, &budget, &table);
        for (int round = 0; round < 3 && !err; round++) {
            ebs_table_tick(table, 0);
            ebs_table_apply(table, &update, &applied);
        }
        done = !rt_fault_hit();
        rt_fault_alloc(-1);
        assert_int_equal(err, done || table ? 0 : RT_ENOMEM);
        if (table && !done)
            for (int round = 0; round < 3; round++) {
                ebs_table_tick(table, 0);
                ebs_table_apply(table, &update, &applied);
            }
        if (table) {
            assert_int_equal(ebs_table_rows(table), 200);
            table_bed_check(table);
        }
        ebs_table_destroy(table);
        assert_int_equal(budget.used, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_follows_rows),
        cmocka_unit_test(a_cap_is_no_error),
        cmocka_unit_test(no_room_to_begin),
        cmocka_unit_test(failures_lose_nothing),
    };

    return cmocka_run_group_tests_name("table memory", tests, NULL, NULL);
}
