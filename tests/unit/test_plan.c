/* tests/unit/test_plan.c -- the sums of `saffron plan`: those of the design, needs, limits, amounts as text. */
#include "ctl/amount.h"
#include "ctl/plan_print.h"
#include "ctl/plan_sum.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define SEED 5u

#define CLOSE(got, want, share)                                                                    \
    do {                                                                                           \
        if (fabs((double)(got) / (double)(want)-1) > (share))                                      \
            fail_msg("%s is %g, expected %g", #got, (double)(got), (double)(want));                \
    } while (0)

/* One table, one feature, all of it to be changed. */
struct sheet {
    struct rt_job job;
    struct rt_table_conf table[2];
    struct rt_feature_conf feature[2];
    uint64_t rows[2];
    double ids[2];
    struct ctl_question question;
};

static void sheet_init(struct sheet *s)
{
    *s = (struct sheet){
        .table = {{.name = "items", .dim = 16, .optimizer = {.kind = RT_OPT_ADAGRAD}},
                  {.name = "users", .dim = 16, .optimizer = {.kind = RT_OPT_SGD}}},
        .feature = {{.name = "item", .table = 0, .max_length = 256},
                    {.name = "user", .table = 1, .max_length = 256}},
        .rows = {1000000, 1000000},
        .ids = {1, 1},
        .job = {.name = "sheet", .n_tables = 1, .n_features = 1},
        .question = {.distinct = 0.5,
                     .owner_rate = 1e6,
                     .replicas = {1, 1, 0, 1},
                     .workers = 4,
                     .loops = 2},
    };
    s->job.table = s->table;
    s->job.feature = s->feature;
    s->job.global = (struct rt_global_conf){.staleness = 4, .middleware_memory = 1 << 30};
    s->job.data = (struct rt_data_conf){
        .batch_size = 1024, .window = 8, .shuffle_rows = 8192, .n_dense = 13, .n_labels = 1};
    s->question.job = &s->job;
    s->question.rows = s->rows;
    s->question.ids = s->ids;
}

static struct ctl_plan sum(const struct sheet *s)
{
    struct ctl_plan plan;

    if (ctl_plan_sum(&s->question, &plan))
        fail_msg("%s", rt_err_text());
    return plan;
}

/* design.md, "Scale on paper": 10^13 parameters. */
static void scale_on_paper(void **state)
{
    struct sheet s;
    struct ctl_plan plan;
    double rows_each_way;

    (void)state;
    sheet_init(&s);
    s.table[0].dim = 64;
    s.table[0].dtype = WIRE_BF16;
    s.table[0].optimizer.kind = RT_OPT_ROWWISE_ADAGRAD;
    s.rows[0] = 10000000000000 / 64;
    s.job.global.wire = (struct rt_wire_conf){.rows = WIRE_BF16,
                                              .row_gradients = WIRE_BF16,
                                              .embeddings = WIRE_BF16,
                                              .gradients = WIRE_BF16};
    s.ids[0] = 30;
    s.question.distinct = 0.3;
    s.question.samples_per_second = 64 * 150000.0;
    s.question.server_memory = 2000000000000;
    s.question.workers = s.question.loops = 8;
    s.question.replicas[RT_ROLE_TRAINER] = 64;
    s.question.replicas[RT_ROLE_MIDDLEWARE] = 100;
    s.question.replicas[RT_ROLE_DATA_COMPOSE] = 8;
    plan = sum(&s);
    CLOSE(plan.parameters, 1e13, 1e-9);
    assert_int_equal(plan.table[0].row_bytes, 132 + 8);
    CLOSE(plan.size.rows + plan.size.index + plan.size.slack, 23e12, 0.01);
    assert_int_equal(plan.servers, 12);
    assert_int_equal(plan.need.memory, 12);
    assert_int_equal(plan.owners, 96);
    assert_in_range(plan.process[RT_ROLE_EMBEDDING_SERVER].memory, 1900000000000, 2000000000000);
    assert_int_equal(plan.process[RT_ROLE_MIDDLEWARE].links - 8 * (64 + 8), 768);
    assert_int_equal(plan.process[RT_ROLE_EMBEDDING_SERVER].links, 6408);
    CLOSE(plan.owner_rows * 96, 86.4e6, 1e-9);
    CLOSE(plan.owner_rows, 0.9e6, 1e-9);
    assert_int_equal(plan.need.rate, 11);
    rows_each_way = plan.bytes_per_sample[CTL_HOP_embedding_server_to_middleware] * 9.6e6;
    CLOSE(rows_each_way, 12e9, 0.1);
    ctl_plan_release(&plan);
}

/* Rows never come to more than their owners let in, which round up; a capacity in bytes holds with pages and all. */
static void capacities(void **state)
{
    static const struct {
        uint64_t asked, rows, bytes, want_rows, sketch;
    } row[] = {
        {1000000, 0, 0, 1000000, 0},
        {1000000, 700000, 0, 700000, 0},
        {0, 700000, 0, 700000, 0},
        {1000000, 2000000, 0, 1000000, 0},
        {1000000, 10, 0, 12, 0},
        {1000000, 0, 50000000, 0, 0},
        {0, 0, 50000000, 0, 0},
        {1000000, 0, 50000000, 0, 1 << 20},
        {0, 0, 50000000, 0, 1 << 20},
        {1000000, 200000, 50000000, 200000, 0},
        {1000000, 0, 1, 4, 0},
        {0, 0, 1, 4, 0},
        {1, 0, 1, 1, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct sheet s;
        struct ctl_plan plan;
        uint64_t bytes, held;

        sheet_init(&s);
        s.rows[0] = row[i].asked;
        s.table[0].eviction = (struct rt_eviction_conf){
            .kind = RT_EVICT_LRU, .rows = row[i].rows, .bytes = row[i].bytes};
        s.table[0].admission.kind = row[i].sketch ? RT_ADMIT_COUNT : RT_ADMIT_ALWAYS;
        s.table[0].admission.sketch_bytes = row[i].sketch;
        plan = sum(&s);
        bytes = plan.size.rows + plan.size.index + plan.size.slack + plan.size.allocator;
        held = 4 * rt_owner_capacity(&s.table[0], RT_SHARDS / 4);
        if (row[i].want_rows && plan.table[0].rows != row[i].want_rows)
            fail_msg("row %zu: %lu rows", i, (unsigned long)plan.table[0].rows);
        if (row[i].bytes > 1 && bytes > row[i].bytes)
            fail_msg("row %zu: %lu bytes", i, (unsigned long)bytes);
        if (!row[i].want_rows && plan.table[0].rows != held)
            fail_msg("row %zu: %lu rows, the owners let %lu in", i,
                     (unsigned long)plan.table[0].rows, (unsigned long)held);
        ctl_plan_release(&plan);
    }
}

/* Each need by itself decides how many servers there are. */
static void needs(void **state)
{
    struct sheet s;
    struct ctl_plan plan;

    (void)state;
    sheet_init(&s);
    plan = sum(&s);
    assert_int_equal(plan.servers, 1);
    assert_int_equal(plan.need.memory, 0);
    ctl_plan_release(&plan);

    s.question.samples_per_second = 33e6; /* 16.5 M rows: 4.1 servers of 4 */
    plan = sum(&s);
    assert_int_equal(plan.need.rate, 5);
    assert_int_equal(plan.servers, 5);
    ctl_plan_release(&plan);

    s.question.samples_per_second = 0;
    s.rows[0] = 100000000000;
    plan = sum(&s); /* 24 owners have a row number for each */
    assert_int_equal(plan.servers, 6);
    ctl_plan_release(&plan);

    s.rows[0] = 1000000;
    s.job.global.embedding_server_memory = 44000000; /* 143 MB of tables */
    plan = sum(&s);
    assert_int_equal(plan.servers, 4);
    ctl_plan_release(&plan);

    s.question.replicas[RT_ROLE_EMBEDDING_SERVER] = 7;
    plan = sum(&s);
    assert_int_equal(plan.servers, 7);
    assert_int_equal(plan.need.memory, 4);
    assert_int_equal(plan.owners, 28);
    ctl_plan_release(&plan);
}

/* The fullest server is looked at: of 65,536 shards 5 servers cannot have the same. */
static void fullest(void **state)
{
    struct sheet s;
    struct ctl_plan plan;
    uint64_t one;

    (void)state;
    sheet_init(&s);
    s.rows[0] = 50000000000;
    s.question.replicas[RT_ROLE_EMBEDDING_SERVER] = 1000; /* 65 or 66 shards */
    plan = sum(&s);
    one = (plan.size.rows + plan.size.index + plan.size.slack + plan.size.allocator) / 1000;
    CLOSE(plan.process[RT_ROLE_EMBEDDING_SERVER].memory - (12u << 20) - 4 * (2u << 20),
          (double)one * 66 / 65.536, 0.003);
    ctl_plan_release(&plan);
}

static void refusals(void **state)
{
    static const struct {
        uint64_t rows, server_memory, cap;
        uint32_t servers;
        double samples;
        const char *want;
    } row[] = {
        {100000000000, 0, 0, 2, 0,
         "--embedding-servers 2: table items would have over 4294967232 rows in one owner; "
         "expected at "
         "least 6 servers of 4 workers"},
        {10000000, 510000000, 0, 2, 0, "expected at least 3 servers"},
        {10000000, 0, 500000000, 2, 0,
         "global.embedding_server.memory is 500 MB; expected at least 3"},
        {10000000, 1000000, 0, 0, 0, "a server takes 21.0 MB before its first row"},
        {1000000000000000, 0, 0, 0, 0,
         "the number of rows asks for more than 1024 embedding servers"},
        {1000000000000, 1000000000, 0, 0, 0, "the memory of a server asks for more than 1024"},
        {1000, 0, 0, 0, 1e12, "--samples-per-second asks for more than 1024 embedding servers"},
        {1000, 0, 0, 2000, 0, "--embedding-servers 2000: expected at most 1024 of 4 workers"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct sheet s;
        struct ctl_plan plan;

        sheet_init(&s);
        s.rows[0] = row[i].rows;
        s.question.server_memory = row[i].server_memory;
        s.job.global.embedding_server_memory = row[i].cap;
        s.question.replicas[RT_ROLE_EMBEDDING_SERVER] = row[i].servers;
        s.question.samples_per_second = row[i].samples;
        if (ctl_plan_sum(&s.question, &plan) != RT_EUSAGE)
            fail_msg("row %zu is planned", i);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("row %zu: '%s'", i, rt_err_text());
    }
}

static uint64_t between(uint64_t *draws, uint64_t low, uint64_t high)
{
    return low + rt_below(rt_draw(SEED, (*draws)++), high - low + 1);
}

/* Whatever is asked: what is planned fits, and one server less would not. */
static void least(void **state)
{
    uint64_t draws = 0;

    (void)state;
    print_message("seed %u\n", SEED);
    for (int i = 0; i < 300; i++) {
        struct sheet s;
        struct ctl_plan plan;
        uint32_t servers;

        sheet_init(&s);
        s.job.n_tables = s.job.n_features = 2;
        for (int t = 0; t < 2; t++) {
            s.table[t].dim = (uint32_t)between(&draws, 1, 128);
            s.table[t].dtype = (uint32_t)between(&draws, WIRE_F32, WIRE_BF16);
            s.rows[t] = between(&draws, 1, 1ull << between(&draws, 1, 36));
        }
        s.question.workers = (uint32_t)between(&draws, 1, 8);
        s.question.server_memory = between(&draws, 2000000000, 2000000000000);
        s.question.samples_per_second = (double)between(&draws, 0, 20000000);
        plan = sum(&s);
        servers = plan.servers;
        assert_true(plan.process[RT_ROLE_EMBEDDING_SERVER].memory <= s.question.server_memory);
        assert_true(plan.owner_rows <= s.question.owner_rate);
        ctl_plan_release(&plan);
        if (servers == 1)
            continue;
        s.question.replicas[RT_ROLE_EMBEDDING_SERVER] = servers - 1;
        if (ctl_plan_sum(&s.question, &plan) == 0) { /* traffic alone is no error */
            assert_true(plan.owner_rows > s.question.owner_rate);
            ctl_plan_release(&plan);
        }
    }
}

/* A hop carries what a run of the synthetic job was seen to send: bytes_per_sample of its summary, by hand. */
static void hops(void **state)
{
    struct sheet s;
    struct ctl_plan plan;

    (void)state;
    sheet_init(&s);
    s.job.n_tables = s.job.n_features = 2;
    s.job.data.batch_size = 65535; /* frames are nothing beside it */
    s.ids[1] = 3;
    s.question.dense_parameters = 1000000;
    s.question.replicas[RT_ROLE_TRAINER] = 4;
    plan = sum(&s);
    CLOSE(plan.bytes_per_sample[CTL_HOP_data_compose_to_middleware], 4 * 8 + 4, 0.01);
    CLOSE(plan.bytes_per_sample[CTL_HOP_data_compose_to_trainer], 14 * 4, 0.01);
    CLOSE(plan.bytes_per_sample[CTL_HOP_middleware_to_embedding_server], 2 * (2 * 8 + 64), 0.05);
    CLOSE(plan.bytes_per_sample[CTL_HOP_embedding_server_to_middleware], 2 * 64, 0.05);
    CLOSE(plan.bytes_per_sample[CTL_HOP_middleware_to_trainer], 2 * 64, 0.01);
    CLOSE(plan.bytes_per_sample[CTL_HOP_trainer_to_trainer], 1.5 * 4e6 / 65535, 1e-6);
    assert_int_equal(plan.process[RT_ROLE_TRAINER].links, 2 + 1 + 2 * 3 + plan.owners);
    assert_int_equal(plan.process[RT_ROLE_DATA_COMPOSE].links, 2 + 4);
    ctl_plan_release(&plan);
}

/* Each path has a type of its own; a sequence is its different rows, which of them stands where, and its length; a hashed
 * id is several rows. Over all servers, owners and padding. */
static void hops_by_type(void **state)
{
    struct sheet s;
    struct ctl_plan plan;

    (void)state;
    sheet_init(&s);
    s.job.n_tables = s.job.n_features = 2;
    s.job.data.batch_size = 65535;
    s.ids[1] = 4;
    s.feature[1].pooling = RT_POOL_NONE;
    s.table[1].hash_functions = 3;
    s.job.global.wire = (struct rt_wire_conf){.rows = WIRE_BF16, .embeddings = WIRE_F16};
    plan = sum(&s);
    CLOSE(plan.rows_per_sample, 0.5 + 2 * 3, 1e-9);
    CLOSE(plan.bytes_per_sample[CTL_HOP_middleware_to_embedding_server], 6.5 * (2 * 8 + 64), 0.05);
    CLOSE(plan.bytes_per_sample[CTL_HOP_embedding_server_to_middleware], 6.5 * 32, 0.05);
    CLOSE(plan.bytes_per_sample[CTL_HOP_middleware_to_trainer], 32 + 2 * 32 + 5 * 4, 0.01);
    CLOSE(plan.bytes_per_sample[CTL_HOP_trainer_to_middleware], 64 + 2 * 64, 0.01);
    ctl_plan_release(&plan);
}

/* Sums in float32: of a hashed table's ids in the middleware, of a sequence's 16-bit gradients in the trainer. */
static void sums_take_memory(void **state)
{
    struct sheet s;
    struct ctl_plan plain, hashed, half;
    double window = 8 * 1024, pooled_gradient = 16 * (4 - 2), sequence_gradients = 2 * 16 * (4 - 2);

    (void)state;
    sheet_init(&s);
    s.job.n_tables = s.job.n_features = 2;
    s.ids[1] = 4;
    s.feature[1].pooling = RT_POOL_NONE;
    plain = sum(&s);
    s.table[1].hash_functions = 1; /* as many rows as ids */
    hashed = sum(&s);
    s.job.global.wire.gradients = WIRE_F16;
    half = sum(&s);
    CLOSE(hashed.process[RT_ROLE_MIDDLEWARE].memory - plain.process[RT_ROLE_MIDDLEWARE].memory,
          window * 1.25 * 4 * 0.5 * 16 * sizeof(float), 1e-6);
    CLOSE(half.process[RT_ROLE_TRAINER].memory - plain.process[RT_ROLE_TRAINER].memory,
          1024 * (256 * 16 * sizeof(float) - 4 * (pooled_gradient + sequence_gradients)), 1e-6);
    ctl_plan_release(&plain);
    ctl_plan_release(&hashed);
    ctl_plan_release(&half);
}

static void amounts_read(void **state)
{
    static const struct {
        const char *text;
        bool bytes, good;
        double want;
    } row[] = {
        {"20M", false, true, 20e6},  {"1.5e9", false, true, 1.5e9},
        {"1", false, true, 1},       {"0.5", false, true, 0.5},
        {"2TB", true, true, 2e12},   {"512GiB", true, true, 512.0 * (1 << 30)},
        {"1Ki", false, true, 1024},  {"3k", false, true, 3000},
        {"3K", false, true, 3000},   {"7B", true, true, 7},
        {"1e18", false, true, 1e18}, {"1e19", false, false, 0},
        {"20MB", false, false, 0},   {"", false, false, 0},
        {"-1", false, false, 0},     {" 1", false, false, 0},
        {"nan", false, false, 0},    {"inf", false, false, 0},
        {"0x10", false, false, 0},   {"1Mx", false, false, 0},
        {"M", false, false, 0},      {"1 M", false, false, 0},
        {"1iB", true, false, 0},     {"..", false, false, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        double got = 0;

        if (ctl_amount_parse(row[i].text, row[i].bytes, &got) != row[i].good || got != row[i].want)
            fail_msg("'%s': %g", row[i].text, got);
    }
}

static void amounts_written(void **state)
{
    static const struct {
        double value;
        const char *unit, *want;
    } row[] = {
        {0, "B", "0 B"},       {768, "", "768"},           {999.4, "", "999"},
        {999.6, "", "1.00 k"}, {23.02e12, "B", "23.0 TB"}, {156.25e9, "", "156 G"},
        {1.5, "B", "1.50 B"},  {9.996, "", "10.0"},        {99.96, "", "100"},
        {1e18, "", "1000 P"},
    };
    char text[CTL_AMOUNT_MAX];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        if (strcmp(ctl_amount(row[i].value, row[i].unit, text), row[i].want) != 0)
            fail_msg("%g: '%s'", row[i].value, text);
}

/* JSON has what the page has. */
static void json(void **state)
{
    struct sheet s;
    struct ctl_plan plan;
    json_t *object, *table;

    (void)state;
    sheet_init(&s);
    plan = sum(&s);
    object = ctl_plan_json(&s.question, &plan);
    assert_non_null(object);
    table = json_object_get(json_object_get(object, "tables"), "items");
    assert_int_equal(json_integer_value(json_object_get(table, "rows")), 1000000);
    assert_int_equal(json_integer_value(json_object_get(object, "owners")), 4);
    assert_true(json_is_null(json_object_get(object, "bytes_per_second")));
    json_decref(object);
    ctl_plan_release(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scale_on_paper), cmocka_unit_test(capacities),
        cmocka_unit_test(needs),          cmocka_unit_test(fullest),
        cmocka_unit_test(refusals),       cmocka_unit_test(hops),
        cmocka_unit_test(hops_by_type),   cmocka_unit_test(sums_take_memory),
        cmocka_unit_test(amounts_read),   cmocka_unit_test(amounts_written),
        cmocka_unit_test(json),           cmocka_unit_test(least),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
