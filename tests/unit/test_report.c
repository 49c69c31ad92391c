/* tests/unit/test_report.c -- what a server tells of its tables: its status and its page, over two owners.
 *
 * The owners' tables are updated directly, the owners count, and then every number has three witnesses: the tables
 * themselves, the status and the page. */
#include "embedding_server/report.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/net/loop.h"
#include "runtime/wire/member.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define OWNERS 2
#define IDS    5000
#define DIM    8

static const struct rt_table_conf tables[] = {
    {.name = "plain", .dim = DIM, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1}},
    {.name = "counted \"x\"",
     .dim = DIM,
     .dtype = WIRE_BF16,
     .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1},
     .admission = {.kind = RT_ADMIT_COUNT, .count = 2, .sketch_bytes = 1 << 20}},
    {.name = "small",
     .dim = DIM,
     .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 1, .eps = 1e-10},
     .eviction = {.kind = RT_EVICT_LRU, .rows = 1000},
     .ttl_seconds = 60},
    {.name = "full",
     .dim = DIM,
     .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1},
     .admission = {.kind = RT_ADMIT_PROBABILITY, .probability = 0.5},
     .eviction = {.rows = 1000}},
    {.name = "empty", .dim = DIM, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1}},
};

struct server {
    struct rt_loop *loop;
    struct rt_job job;
    struct ebs_owner *owner[OWNERS];
    struct rt_metrics *metrics;
    struct ebs_report *report;
};

static void begin(struct server *server, const struct rt_table_conf *table, uint32_t n,
                  uint64_t memory)
{
    struct ebs_owner_conf conf = {
        .greeting = &wire_greeting, .listen = "tcp:127.0.0.1:0", .memory = memory};
    struct rt_shard_map shards;

    memset(server, 0, sizeof(*server));
    server->job = (struct rt_job){.table = table, .n_tables = n, .global = {.seed = 1}};
    assert_int_equal(rt_shard_map_init(&shards, 1, OWNERS), 0);
    assert_int_equal(rt_loop_create(&(struct rt_loop_conf){.name = "test", .pool_budget = 1 << 20},
                                    &server->loop),
                     0);
    conf.io = rt_loop_io(server->loop);
    conf.job = &server->job;
    conf.shards = &shards;
    server->metrics = rt_metrics_create();
    server->report = ebs_report_create(&server->job, server->metrics);
    for (uint32_t o = 0; o < OWNERS; o++) {
        conf.owner = o;
        conf.identity = (struct rt_identity){.job = "test",
                                             .role = RT_ROLE_EMBEDDING_SERVER,
                                             .loop = o,
                                             .incarnation = 5,
                                             .wire_version = RT_WIRE_VERSION};
        if (ebs_owner_create(&conf, &server->owner[o]) != 0)
            fail_msg("%s", rt_err_text());
        ebs_owner_register(server->owner[o], server->metrics);
        ebs_report_add(server->report, server->owner[o]);
    }
}

static void end(struct server *server)
{
    for (uint32_t o = 0; o < OWNERS; o++)
        ebs_owner_destroy(server->owner[o]);
    ebs_report_destroy(server->report);
    rt_metrics_destroy(server->metrics);
    rt_loop_destroy(server->loop);
}

/* `updates` of a thousand ids each, the second owner's table with half as many ids. */
static void train(struct server *server, uint32_t table, int updates)
{
    static float grad[1000 * DIM];
    static uint64_t id[1000];

    for (uint32_t o = 0; o < OWNERS; o++) {
        for (int u = 0; u < updates; u++) {
            struct ebs_update update = {.id = id, .grad = grad, .n = 1000 / (o + 1), .lr = 1};
            struct ebs_applied applied = {0};

            for (size_t i = 0; i < update.n; i++)
                id[i] = (uint64_t)u * 1000 + i;
            update.draw = update.step = (uint64_t)u + 1;
            ebs_table_tick(server->owner[o]->table[table], 1000);
            ebs_table_apply(server->owner[o]->table[table], &update, &applied);
        }
        ebs_count_table(server->owner[o], table);
    }
}

static json_int_t number(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    if (!json_is_integer(value))
        fail_msg("%s: expected an integer", key);
    return json_integer_value(value);
}

/* The page's value of a series; it must be there. */
static double on_page(const char *page, const char *fmt, ...)
{
    char series[256];
    const char *at;
    va_list args;

    va_start(args, fmt);
    series[0] = '\n';
    vsnprintf(series + 1, sizeof(series) - 1, fmt, args);
    va_end(args);
    at = strstr(page, series);
    if (!at)
        fail_msg("no%s on the page", series);
    return strtod(at + strlen(series), NULL);
}

static const char *label_of(const char *name)
{
    return strcmp(name, "counted \"x\"") == 0 ? "counted \\\"x\\\"" : name;
}

/* One table: the tables' own words, the status and the page agree. Returns its bytes. */
static json_int_t check_table(const struct server *server, uint32_t t, const json_t *said,
                              const char *page)
{
    static const char *const count[] = {"created", "evicted", "expired", "not_admitted", "refused"};
    const char *name = server->job.table[t].name, *label = label_of(name), *kind;
    json_int_t rows = 0, bytes = 0, sum = 0;
    json_t *value;

    for (uint32_t o = 0; o < OWNERS; o++) {
        struct ebs_table_bytes b = ebs_table_bytes(server->owner[o]->table[t]);

        rows += (json_int_t)ebs_table_rows(server->owner[o]->table[t]);
        sum += (json_int_t)(b.rows + b.index + b.slack + b.allocator);
    }
    assert_string_equal(json_string_value(json_object_get(said, "name")), name);
    assert_int_equal(number(said, "rows"), rows);
    assert_true(on_page(page, "saffron_embedding_server_rows{table=\"%s\"} ", label) ==
                (double)rows);
    json_object_foreach (json_object_get(said, "bytes"), kind, value) {
        bytes += json_integer_value(value);
        assert_true(on_page(page, "saffron_embedding_server_table_bytes{table=\"%s\",kind=\"%s\"} ",
                            label, kind) == (double)json_integer_value(value));
    }
    assert_int_equal(bytes, sum);
    for (size_t i = 0; i < ARRAY_LEN(count); i++)
        assert_true(on_page(page, "saffron_embedding_server_rows_%s_total{table=\"%s\"} ", count[i],
                            label) == (double)number(said, count[i]));
    assert_int_equal(rows,
                     number(said, "created") - number(said, "evicted") - number(said, "expired"));
    if (rows == 0)
        assert_true(json_is_null(json_object_get(said, "bytes_per_row")));
    else
        assert_true(fabs(json_real_value(json_object_get(said, "bytes_per_row")) * (double)rows /
                             (double)bytes -
                         1) < 1e-9);
    assert_true(
        fabs(on_page(page, "saffron_embedding_server_table_bytes_per_row{table=\"%s\"} ", label) *
                 (double)rows -
             (rows ? (double)bytes : 0)) < 1e-6 * (double)bytes);
    return bytes;
}

static void status_and_page_agree(void **state)
{
    struct server server;
    struct rt_strbuf page;
    json_t *status = json_object(), *list, *said;
    json_int_t rows = 0, bytes = 0;
    size_t i;

    (void)state;
    begin(&server, tables, ARRAY_LEN(tables), 64 << 20);
    for (uint32_t t = 0; t + 1 < ARRAY_LEN(tables); t++)
        train(&server, t, IDS / 1000);
    train(&server, 1, 1); /* the counted ids a second time */
    rt_strbuf_init(&page);
    rt_metrics_print(server.metrics, &page);
    ebs_report_status(server.report, status);
    list = json_object_get(status, "tables");
    assert_int_equal(json_array_size(list), ARRAY_LEN(tables));
    json_array_foreach (list, i, said) {
        bytes += check_table(&server, (uint32_t)i, said, page.text);
        rows += number(said, "rows");
    }
    assert_int_equal(number(status, "workers"), OWNERS);
    assert_int_equal(number(status, "rows_total"), rows);
    assert_non_null(json_object_get(status, "rows_refused"));
    assert_int_equal(number(status, "memory_bytes"), bytes);
    assert_int_equal(number(status, "memory_limit"), OWNERS * (64 << 20));
    assert_true(number(status, "memory_limit_used") <= OWNERS * (64 << 20));
    assert_true(fabs(json_real_value(json_object_get(status, "bytes_per_row")) * (double)rows -
                     (double)bytes) < 1e-6 * (double)bytes);

    /* and they are what was done */
    said = json_array_get(list, 0);
    assert_int_equal(number(said, "rows"), IDS + IDS / 2);
    said = json_array_get(list, 1);
    assert_int_equal(number(said, "rows"), 1500);
    assert_int_equal(number(said, "not_admitted"), IDS + IDS / 2);
    said = json_array_get(list, 2);
    assert_int_equal(number(said, "rows"), 1000);
    assert_int_equal(number(said, "evicted"), number(said, "created") - 1000);
    said = json_array_get(list, 3);
    assert_int_equal(number(said, "rows"), 1000);
    assert_true(number(said, "not_admitted") > IDS / 2 && number(said, "refused") > IDS / 4);
    json_decref(status);
    rt_strbuf_release(&page);
    end(&server);
}

static void policies_are_told(void **state)
{
    static const struct {
        const char *admission, *eviction, *dtype;
        int capacity, ttl; /* 0: null */
    } row[] = {
        {"always", "none", "float32", 0, 0},    {"count 2", "none", "bfloat16", 0, 0},
        {"always", "lru", "float32", 1000, 60}, {"probability 0.5", "none", "float32", 1000, 0},
        {"always", "none", "float32", 0, 0},
    };
    struct server server;
    json_t *status = json_object();

    (void)state;
    begin(&server, tables, ARRAY_LEN(tables), 0);
    ebs_report_status(server.report, status);
    assert_true(json_is_null(json_object_get(status, "memory_limit")));
    assert_true(json_is_null(json_object_get(status, "bytes_per_row")));
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const json_t *said = json_array_get(json_object_get(status, "tables"), i);
        const json_t *policy = json_object_get(said, "policy");
        const json_t *capacity = json_object_get(policy, "capacity_rows");
        const json_t *ttl = json_object_get(policy, "ttl_seconds");

        assert_string_equal(json_string_value(json_object_get(said, "dtype")), row[i].dtype);
        assert_int_equal(number(said, "dim"), DIM);
        assert_string_equal(json_string_value(json_object_get(policy, "admission")),
                            row[i].admission);
        assert_string_equal(json_string_value(json_object_get(policy, "eviction")),
                            row[i].eviction);
        assert_true(row[i].capacity ? json_integer_value(capacity) == row[i].capacity
                                    : json_is_null(capacity));
        assert_true(row[i].ttl ? json_integer_value(ttl) == row[i].ttl : json_is_null(ttl));
    }
    json_decref(status);
    end(&server);
}

/* A cap that not even empty tables fit under is a mistake, and is told before anything is served. */
static void a_cap_below_empty_tables(void **state)
{
    struct server server;
    struct ebs_owner_conf conf = {
        .greeting = &wire_greeting, .listen = "tcp:127.0.0.1:0", .memory = 100};
    struct rt_shard_map shards;
    struct ebs_owner *owner = NULL;

    (void)state;
    begin(&server, tables, ARRAY_LEN(tables), 0);
    assert_int_equal(rt_shard_map_init(&shards, 1, OWNERS), 0);
    conf.io = rt_loop_io(server.loop);
    conf.job = &server.job;
    conf.shards = &shards;
    assert_int_equal(ebs_owner_create(&conf, &owner), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "table plain: global.embedding_server.memory: a worker's "
                                          "100 bytes do not hold"));
    end(&server);
}

/* As many tables as a job may have, with the longest names: a status still is an answer that can be sent. */
static void many_tables_fit(void **state)
{
    struct rt_table_conf *table = rt_xcalloc(WIRE_TABLES_MAX, sizeof(*table));
    struct server server;
    json_t *status = json_object();
    char *text;

    (void)state;
    for (uint32_t t = 0; t < WIRE_TABLES_MAX; t++) {
        table[t] = tables[0];
        table[t].name = rt_xasprintf("%0*u", 128, t); /* RT_YAML_KEY_MAX */
    }
    begin(&server, table, WIRE_TABLES_MAX, 0);
    ebs_report_status(server.report, status);
    assert_int_equal(json_array_size(json_object_get(status, "tables")), EBS_REPORT_TABLES_MAX);
    assert_int_equal(number(status, "n_tables"), WIRE_TABLES_MAX);
    text = json_dumps(status, JSON_COMPACT);
    assert_true(strlen(text) < WIRE_STATUS_MAX / 2);
    free(text);
    json_decref(status);
    end(&server);
    for (uint32_t t = 0; t < WIRE_TABLES_MAX; t++)
        rt_free((char *)table[t].name);
    rt_free(table);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(status_and_page_agree), cmocka_unit_test(policies_are_told),
        cmocka_unit_test(a_cap_below_empty_tables), cmocka_unit_test(many_tables_fit)};

    return cmocka_run_group_tests(test, NULL, NULL);
}
