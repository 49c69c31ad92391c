/* tests/unit/test_put.c -- rows as a file has them into tables: bit for bit, once, as far as there is room. */
#include "embedding_server/policy.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "tests/unit/table_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ROWS 5000u

/* Rows as bytes, and pointers to them. */
struct rows {
    size_t n, bytes;
    uint8_t *byte;
    const uint8_t **row; /* [n] */
};

static struct rows make_rows(const struct rt_table_conf *conf, size_t n, uint64_t seed)
{
    struct rt_row_layout layout = rt_row_layout(conf);
    struct rows rows = {.n = n, .bytes = layout.row_bytes};

    rows.byte = rt_xcalloc(n, rows.bytes);
    rows.row = rt_xcalloc(n, sizeof(*rows.row));
    for (size_t i = 0; i < n; i++) {
        uint8_t *row = rows.byte + i * rows.bytes;
        uint64_t id = rt_draw(1, i);

        for (size_t at = 0; at < layout.state + layout.state_count * sizeof(float); at++)
            row[at] = (uint8_t)rt_draw(seed + i, at);
        for (size_t at = layout.weight + layout.weight_bytes; at < layout.state; at++)
            row[at] = 0; /* padding */
        memcpy(row, &id, sizeof(id));
        rows.row[i] = row;
    }
    return rows;
}

static void free_rows(struct rows *rows)
{
    rt_free(rows->byte);
    rt_free(rows->row);
}

static uint64_t digest_of(const struct rows *rows, const struct rt_table_conf *conf)
{
    struct rt_row_layout layout = rt_row_layout(conf);
    uint64_t sum = 0, seed = rt_hash_bytes(conf->name, strlen(conf->name));

    for (size_t i = 0; i < rows->n; i++)
        sum += rt_rowfile_row_digest(&layout, seed, rows->row[i]);
    return sum;
}

static uint64_t id_of(const struct rows *rows, size_t i)
{
    return ebs_row_id(rows->row[i]);
}

/* The row here is those bytes, but for the tick. */
static void check_row(const struct ebs_table *table, const uint8_t *want, uint32_t shift)
{
    const struct rt_row_layout *layout = &table->layout;
    uint32_t touched = 0, is = 0;
    const uint8_t *row = ebs_table_row(table, ebs_row_id(want));

    assert_non_null(row);
    assert_memory_equal(row + layout->weight, want + layout->weight,
                        layout->row_bytes - layout->weight);
    if (layout->frequency)
        assert_memory_equal(row + layout->frequency, want + layout->frequency, sizeof(float));
    if (layout->touched) {
        memcpy(&touched, want + layout->touched, sizeof(touched));
        memcpy(&is, row + layout->touched, sizeof(is));
    }
    assert_int_equal(is, layout->touched ? touched + shift : 0);
}

static struct rt_table_conf conf_of(uint32_t dim, uint32_t dtype, uint32_t optimizer,
                                    uint32_t eviction)
{
    struct rt_table_conf conf = table_bed_counting(dim, dtype);

    conf.optimizer = (struct rt_sparse_optimizer_conf){.kind = optimizer,
                                                       .learning_rate = 0.1,
                                                       .eps = 1e-8,
                                                       .beta1 = 0.9,
                                                       .beta2 = 0.999,
                                                       .ftrl_beta = 1.0};
    conf.eviction.kind = eviction;
    conf.eviction.half_life = 100;
    return conf;
}

static void rows_are_there_bit_for_bit(void **test)
{
    static const uint32_t dims[] = {1, 5, 16};

    (void)test;
    for (uint32_t optimizer = RT_OPT_SGD; optimizer <= RT_OPT_FTRL; optimizer++)
        for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++)
            for (uint32_t eviction = RT_EVICT_NONE; eviction <= RT_EVICT_LFU; eviction++) {
                struct rt_table_conf conf =
                    conf_of(dims[(optimizer + dtype) % 3], dtype, optimizer, eviction);
                struct rows rows = make_rows(&conf, ROWS, 7), other = make_rows(&conf, 300, 8);
                struct ebs_table *table;
                uint64_t left_out = 0;

                conf.eviction.rows = eviction == RT_EVICT_NONE ? 0 : ROWS;
                table = table_bed_create(&conf);
                if (optimizer % 2)
                    ebs_table_reserve(table, ROWS);
                assert_int_equal(ebs_table_put_rows(table, rows.row, ROWS, 77, &left_out), 0);
                assert_int_equal(ebs_table_rows(table), ROWS);
                table_bed_check(table);
                assert_int_equal(ebs_table_digest(table), digest_of(&rows, &conf));
                /* again, of which the first have other values now */
                assert_int_equal(ebs_table_put_rows(table, other.row, 300, 5, &left_out), 0);
                assert_int_equal(ebs_table_rows(table), ROWS);
                assert_int_equal(left_out, 0);
                for (size_t i = 0; i < ROWS; i++)
                    check_row(table, i < 300 ? other.row[i] : rows.row[i], i < 300 ? 5 : 77);
                free_rows(&rows);
                free_rows(&other);
                ebs_table_destroy(table);
            }
}

/* An id that comes twice in a stretch, a file of many rows beside those that are there already. */
static void the_last_of_an_id_counts(void **test)
{
    struct rt_table_conf conf = conf_of(3, WIRE_F32, RT_OPT_ADAGRAD, RT_EVICT_NONE);
    struct rows a = make_rows(&conf, 100, 1), b = make_rows(&conf, 100, 2);
    const uint8_t *both[200];
    struct ebs_table *table = table_bed_create(&conf);
    uint64_t left_out = 0;

    (void)test;
    for (size_t i = 0; i < 100; i++) {
        both[2 * i] = a.row[i];
        both[2 * i + 1] = b.row[i];
    }
    assert_int_equal(ebs_table_put_rows(table, both, 200, 0, &left_out), 0);
    assert_int_equal(ebs_table_rows(table), 100);
    assert_int_equal(ebs_table_digest(table), digest_of(&b, &conf));
    free_rows(&a);
    free_rows(&b);
    ebs_table_destroy(table);
}

static void no_room(void **test)
{
    struct rt_table_conf conf = conf_of(4, WIRE_F32, RT_OPT_SGD, RT_EVICT_NONE);
    struct rows rows = make_rows(&conf, 1000, 1);
    struct ebs_budget budget = {.limit = 40000};
    struct ebs_table *table;
    uint64_t left_out = 0;

    (void)test;
    conf.eviction.rows = 600;
    table = table_bed_create(&conf);
    assert_int_equal(ebs_table_put_rows(table, rows.row, 1000, 0, &left_out), RT_ELIMIT);
    assert_non_null(strstr(rt_err_text(), "room for 600 rows"));
    assert_int_equal(ebs_table_rows(table), 600);
    ebs_table_destroy(table);

    conf.eviction.rows = 0;
    assert_int_equal(table_bed_try(&conf, &budget, &table), 0);
    assert_int_equal(ebs_table_put_rows(table, rows.row, 1000, 0, &left_out), RT_EFULL);
    assert_non_null(strstr(rt_err_text(), "global.embedding_server.memory"));
    table_bed_check(table);
    ebs_table_destroy(table);
    assert_int_equal(budget.used, 0);
    free_rows(&rows);

    /* One that may evict keeps those that came first. */
    conf = conf_of(4, WIRE_F32, RT_OPT_SGD, RT_EVICT_LRU);
    conf.eviction.rows = 600;
    rows = make_rows(&conf, 1000, 1);
    table = table_bed_create(&conf);
    assert_int_equal(left_out, 0);
    assert_int_equal(ebs_table_put_rows(table, rows.row, 1000, 0, &left_out), 0);
    assert_int_equal(left_out, 400);
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(table_bed_has(table, id_of(&rows, i)), i < 600);
    ebs_table_destroy(table);
    free_rows(&rows);
}

static void rows_go_and_come(void **test)
{
    struct rt_table_conf conf = conf_of(2, WIRE_F16, RT_OPT_ADAM, RT_EVICT_LRU);
    struct rows rows = make_rows(&conf, ROWS, 3);
    struct ebs_table *table = table_bed_create(&conf);
    uint64_t id[ROWS], left_out = 0;

    (void)test;
    for (size_t i = 0; i < ROWS; i++)
        id[i] = i % 2 ? id_of(&rows, i) : rt_draw(2, i); /* half of them have no row */
    for (int round = 0; round < 3; round++) {
        assert_int_equal(ebs_table_put_rows(table, rows.row, ROWS, 0, &left_out), 0);
        assert_int_equal(ebs_table_digest(table), digest_of(&rows, &conf));
        assert_int_equal(ebs_table_remove_rows(table, id, ROWS), ROWS / 2);
        assert_int_equal(ebs_table_remove_rows(table, id, ROWS), 0);
        assert_int_equal(ebs_table_rows(table), ROWS / 2);
        table_bed_check(table);
    }
    assert_int_equal(ebs_table_clear(table), 0);
    assert_int_equal(ebs_table_rows(table), 0);
    assert_int_equal(ebs_table_digest(table), 0);
    assert_int_equal(ebs_table_now(table), 0);
    assert_false(table_bed_has(table, id_of(&rows, 0)));
    table_bed_check(table);
    assert_int_equal(ebs_table_put_rows(table, rows.row, ROWS, 0, &left_out), 0);
    assert_int_equal(ebs_table_digest(table), digest_of(&rows, &conf));
    free_rows(&rows);
    ebs_table_destroy(table);
}

/* What was reserved is what the rows would have taken; and a table takes it only while it is empty. */
static void an_index_is_reserved_as_it_grows(void **test)
{
    struct rt_table_conf conf = conf_of(1, WIRE_F32, RT_OPT_SGD, RT_EVICT_NONE);
    static const size_t many[] = {1, 10, 100, 2257, 2258, 3000, 20000, 100000};

    (void)test;
    for (size_t k = 0; k < ARRAY_LEN(many); k++) {
        struct rows rows = make_rows(&conf, many[k], 1);
        struct ebs_table *grown = table_bed_create(&conf), *reserved = table_bed_create(&conf);
        uint64_t left_out = 0;
        size_t index;

        ebs_table_reserve(reserved, many[k]);
        index = ebs_table_bytes(reserved).index;
        assert_int_equal(ebs_table_put_rows(grown, rows.row, many[k], 0, &left_out), 0);
        assert_int_equal(ebs_table_put_rows(reserved, rows.row, many[k], 0, &left_out), 0);
        assert_int_equal(ebs_table_bytes(reserved).index, ebs_table_bytes(grown).index);
        assert_int_equal(ebs_table_bytes(reserved).index, index);
        table_bed_check(reserved);
        ebs_table_reserve(reserved, 10 * many[k]);
        assert_int_equal(ebs_table_bytes(reserved).index, index);
        assert_int_equal(ebs_table_digest(reserved), ebs_table_digest(grown));
        free_rows(&rows);
        ebs_table_destroy(grown);
        ebs_table_destroy(reserved);
    }
}

static void nothing_is_lost_when_memory_fails(void **test)
{
    struct rt_table_conf conf = conf_of(2, WIRE_F32, RT_OPT_SGD, RT_EVICT_LFU);
    struct rows rows = make_rows(&conf, ROWS, 1);
    bool failed = true;

    (void)test;
    for (int64_t nth = 0; failed; nth++) {
        struct ebs_table *table = table_bed_create(&conf);
        uint64_t left_out = 0;
        int err;

        rt_fault_alloc(nth);
        ebs_table_reserve(table, nth % 2 ? ROWS : 0);
        err = ebs_table_put_rows(table, rows.row, ROWS, 0, &left_out);
        failed = rt_fault_hit();
        rt_fault_alloc(-1);
        assert_true(err == 0 || (failed && err == RT_ENOMEM));
        table_bed_check(table);
        if (err) /* once more, with what is there */
            assert_int_equal(ebs_table_put_rows(table, rows.row, ROWS, 0, &left_out), 0);
        assert_int_equal(left_out, 0);
        assert_int_equal(ebs_table_digest(table), digest_of(&rows, &conf));
        ebs_table_destroy(table);
    }
    free_rows(&rows);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_there_bit_for_bit),
        cmocka_unit_test(the_last_of_an_id_counts),
        cmocka_unit_test(no_room),
        cmocka_unit_test(rows_go_and_come),
        cmocka_unit_test(an_index_is_reserved_as_it_grows),
        cmocka_unit_test(nothing_is_lost_when_memory_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
