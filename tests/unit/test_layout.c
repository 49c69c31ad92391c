/* tests/unit/test_layout.c -- bytes of a row by hand, bytes of a table beside a real one. */
#include "embedding_server/table.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"
#include "runtime/job/shard.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#define SEED  20261122u
#define BATCH 500u

static void rows(void **state)
{
    static const struct {
        uint32_t dim, dtype, optimizer, eviction;
        uint64_t ttl;
        uint32_t want_weight, want_state, want_bytes;
    } row[] = {
        {64, WIRE_BF16, RT_OPT_ROWWISE_ADAGRAD, RT_EVICT_NONE, 0, 8, 136, 140},
        {16, WIRE_F32, RT_OPT_SGD, RT_EVICT_NONE, 0, 8, 72, 72},
        {16, WIRE_F32, RT_OPT_ADAGRAD, RT_EVICT_NONE, 0, 8, 72, 136},
        {16, WIRE_F32, RT_OPT_ADAM, RT_EVICT_LRU, 0, 12, 76, 204},
        {16, WIRE_F16, RT_OPT_FTRL, RT_EVICT_LFU, 0, 16, 48, 176},
        {3, WIRE_F16, RT_OPT_SGD, RT_EVICT_NONE, 60, 12, 20, 20}, /* 6 bytes of weights, padded */
        {1, WIRE_BF16, RT_OPT_ROWWISE_ADAGRAD, RT_EVICT_NONE, 0, 8, 12, 16},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf table = {.name = "t",
                                      .dim = row[i].dim,
                                      .dtype = row[i].dtype,
                                      .optimizer.kind = row[i].optimizer,
                                      .eviction.kind = row[i].eviction,
                                      .ttl_seconds = row[i].ttl};
        struct rt_row_layout got = rt_row_layout(&table);

        if (got.weight != row[i].want_weight || got.state != row[i].want_state ||
            got.row_bytes != row[i].want_bytes)
            fail_msg("row %zu: weights at %u, state at %u, %u bytes", i, got.weight, got.state,
                     got.row_bytes);
    }
}

/* What a file says of a table's optimizer tells the slots of its state, as the table's own configuration does. */
static void slots_of_a_text(void **state)
{
    static const char *const none[] = {"", "adamw", "ada", "sgd2", " adam"};
    struct rt_state_slot got[RT_STATE_SLOTS], want[RT_STATE_SLOTS];

    (void)state;
    for (uint32_t kind = RT_OPT_SGD; kind <= RT_OPT_FTRL; kind++) {
        struct rt_sparse_optimizer_conf optimizer = {.kind = kind, .learning_rate = 0.1};
        char text[RT_STATE_TEXT];
        uint32_t slots = rt_state_slots(&optimizer, 12, want);

        rt_state_text(&optimizer, text);
        assert_int_equal(rt_state_slots_of(text, 12, got), slots);
        for (uint32_t k = 0; k < slots; k++) {
            assert_string_equal(got[k].name, want[k].name);
            assert_int_equal(got[k].count, want[k].count);
        }
    }
    for (size_t i = 0; i < ARRAY_LEN(none); i++)
        assert_int_equal(rt_state_slots_of(none[i], 12, got), -1);
}

/* Rows number from..to-1 of a table that has those before. */
static void add_rows(struct ebs_table *table, uint64_t from, uint64_t to)
{
    static const float grad[BATCH * 8];
    uint64_t id[BATCH];

    for (; from < to; from += BATCH) {
        struct ebs_applied applied = {0};
        struct ebs_update update = {.id = id,
                                    .grad = grad,
                                    .n = to - from < BATCH ? to - from : BATCH,
                                    .lr = 1,
                                    .step = 1,
                                    .window = 4};

        for (size_t i = 0; i < update.n; i++)
            id[i] = rt_draw(SEED, from + i);
        ebs_table_apply(table, &update, &applied);
        assert_int_equal(applied.created, update.n);
    }
}

static void compare(const struct rt_table_conf *conf, const struct ebs_table *table, uint64_t n)
{
    struct ebs_table_bytes got = ebs_table_bytes(table);
    struct rt_table_size want = rt_table_size(conf, n, 1);

    if (got.rows != want.rows)
        fail_msg("%s with %lu rows: %zu bytes of rows, expected %lu", conf->name, (unsigned long)n,
                 got.rows, (unsigned long)want.rows);
    /* A group of lines may be full before the whole is: a unit more. */
    if (fabs((double)got.index - (double)want.index) >
        fmax(RT_UNIT_LINES * RT_LINE_BYTES, 0.001 * (double)want.index))
        fail_msg("%s with %lu rows: %zu bytes of index, expected %lu", conf->name, (unsigned long)n,
                 got.index, (unsigned long)want.index);
    if (fabs((double)got.slack - (double)want.slack) > 512)
        fail_msg("%s with %lu rows: %zu bytes of slack, expected %lu", conf->name, (unsigned long)n,
                 got.slack, (unsigned long)want.slack);
    /* A page of each array may not have been asked for yet; nobody has touched ahead here. */
    if (got.allocator > want.allocator + RT_HUGE_PAGE)
        fail_msg("%s with %lu rows: %zu bytes of pages, expected at most %lu", conf->name,
                 (unsigned long)n, got.allocator, (unsigned long)(want.allocator + RT_HUGE_PAGE));
}

/* A table of each kind, looked at as it grows. */
static void tables(void **state)
{
    static const struct rt_table_conf conf[] = {
        {.name = "plain", .dim = 8, .optimizer = {.kind = RT_OPT_ADAGRAD, .eps = 1e-8}},
        {.name = "half",
         .dim = 2,
         .dtype = WIRE_BF16,
         .optimizer = {.kind = RT_OPT_SGD},
         .eviction = {.kind = RT_EVICT_LFU, .rows = 1u << 30, .half_life = 1000}},
        {.name = "counted",
         .dim = 4,
         .optimizer = {.kind = RT_OPT_ROWWISE_ADAGRAD, .eps = 1e-8},
         .admission = {.kind = RT_ADMIT_COUNT, .count = 1, .sketch_bytes = 1 << 16}},
    };
    static const uint64_t at[] = {1, 9, 10, 100, 2257, 2258, 3000, 5000, 30000, 100000, 250000};

    (void)state;
    for (size_t c = 0; c < ARRAY_LEN(conf); c++) {
        struct ebs_table_conf table_conf = {.job = &conf[c], .seed = SEED, .shards = RT_SHARDS};
        struct ebs_table *table = NULL;
        uint64_t n = 0;

        if (ebs_table_create(&table_conf, &table))
            fail_msg("%s", rt_err_text());
        for (size_t i = 0; i < ARRAY_LEN(at); i++) {
            add_rows(table, n, at[i]);
            n = at[i];
            compare(&conf[c], table, n);
        }
        ebs_table_destroy(table);
    }
}

/* A capacity in bytes, reached, holds all there is; and leaves little unused. */
static void capacities(void **state)
{
    static const struct {
        uint32_t dim, dtype;
        uint64_t rows, bytes, want;
    } row[] = {
        {8, WIRE_F32, 0, 0, 0},           {8, WIRE_F32, 12, 0, 12},
        {8, WIRE_F32, 12, 1000000, 12},   {64, WIRE_BF16, 0, 50000000, 0},
        {16, WIRE_F32, 0, 2000000000, 0}, {1, WIRE_F16, 0, 300000, 0},
        {8, WIRE_F32, 0, 1, 1},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf table = {
            .name = "t",
            .dim = row[i].dim,
            .dtype = row[i].dtype,
            .eviction = {.kind = RT_EVICT_LRU, .rows = row[i].rows, .bytes = row[i].bytes}};
        uint64_t got = rt_table_capacity(&table);
        struct rt_table_size size = rt_table_size(&table, got, 1);
        uint64_t all = size.rows + size.index + size.slack + size.allocator;

        if (row[i].rows + row[i].want > 0 || row[i].bytes == 0)
            assert_int_equal(got, row[i].want);
        else if (all > row[i].bytes + 3 * RT_HUGE_PAGE || all < row[i].bytes * 0.95)
            fail_msg("row %zu: %lu rows take %lu bytes", i, (unsigned long)got, (unsigned long)all);
        if (row[i].bytes > 1 && size.rows + size.index + size.slack > row[i].bytes)
            fail_msg("row %zu: %lu rows are over %lu bytes", i, (unsigned long)got,
                     (unsigned long)row[i].bytes);
    }
}

/* What an owner may have fits its share, pages and all, and one row more does not; small shares hold one row. */
static void shares(void **state)
{
    static const uint64_t bytes[] = {1,       60000,   500000,    3000000,
                                     8 << 20, 9 << 20, 100000000, 30000000000};

    (void)state;
    for (size_t b = 0; b < ARRAY_LEN(bytes); b++)
        for (uint32_t owners = 1; owners <= 256; owners *= 4)
            for (uint32_t dim = 1; dim <= 256; dim *= 16) {
                struct rt_table_conf table = {
                    .name = "t",
                    .dim = dim,
                    .admission = {.kind = b % 2 ? RT_ADMIT_COUNT : RT_ADMIT_ALWAYS,
                                  .sketch_bytes = 16384},
                    .eviction = {.kind = RT_EVICT_LRU, .bytes = bytes[b]}};
                uint64_t got = rt_owner_capacity(&table, RT_SHARDS / owners);
                struct rt_table_size at = rt_table_size(&table, got, owners);
                struct rt_table_size above = rt_table_size(&table, got + 1, owners);
                uint64_t share = (bytes[b] + owners - 1) / owners;

                if (got != 1 && at.rows + at.index + at.slack + at.allocator > share)
                    fail_msg("%lu bytes, %u owners, dim %u: %lu rows are too many",
                             (unsigned long)bytes[b], owners, dim, (unsigned long)got);
                if (got < RT_ROWS_MAX &&
                    above.rows + above.index + above.slack + above.allocator + RT_STEP_SMALL <=
                        share)
                    fail_msg("%lu bytes, %u owners, dim %u: %lu rows are too few",
                             (unsigned long)bytes[b], owners, dim, (unsigned long)got);
                table.eviction.rows = 2 * owners + 1; /* the smaller of the two */
                assert_int_equal(rt_owner_capacity(&table, RT_SHARDS / owners), got < 3 ? got : 3);
            }
    assert_int_equal(rt_owner_capacity(&(struct rt_table_conf){.name = "t", .dim = 4}, 7), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows),       cmocka_unit_test(slots_of_a_text), cmocka_unit_test(tables),
        cmocka_unit_test(capacities), cmocka_unit_test(shares),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
