/* tests/unit/test_job.c -- the four files of a job: good ones, one table of bad ones, hashes, rewriting. */
#include "runtime/job/job.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/wire/member.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

static char dir[TEMP_PATH_MAX];

static const char global_yml[] = "mode: hybrid\nstaleness: 3\nseed: 7\n";
static const char embedding_yml[] =
    "defaults: {dim: 8, optimizer: {type: sgd, learning_rate: 0.5}}\n"
    "tables: {user: {}, item: {dim: 4}}\n"
    "features: {user: {}, item: {}, other: {table: item, pooling: mean}}\n";
static const char data_yml[] =
    "format: tsv\nheader: false\nbatch_size: 32\n"
    "train: ['part-*.tsv']\ntest: [test.tsv]\n"
    "columns:\n"
    "  y: label\n"
    "  age: {kind: dense, transform: log1p, standardize: true, missing: 2}\n"
    "  user: feature\n"
    "  c3: {kind: feature, feature: item}\n"
    "  c4: {kind: feature, feature: other}\n"
    "  rest: ignore\n";
static const char model_yml[] = "use: mlp\noptimizer: {type: adam}\n";

static void put(const char *name, const char *text)
{
    char *path = rt_path_join(dir, name);
    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
    rt_free(path);
}

static int setup(void **state)
{
    (void)state;
    temp_folder(dir);
    char *models = rt_path_join(dir, "models");
    assert_int_equal(rt_mkdir_all(models), 0);
    rt_free(models);
    put("global.yml", global_yml);
    put("embedding.yml", embedding_yml);
    put("data.yml", data_yml);
    put("model.yml", model_yml);
    put("models/mlp.yml", "layers: []\n");
    put("models/other.yml", "layers: [{}]\n");
    put("part-2.tsv", "2\n");
    put("part-1.tsv", "1\n");
    put("test.tsv", "3\n");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    char *command[] = {"rm", "-rf", dir, NULL};
    if (fork() == 0)
        execvp("rm", command);
    return 0;
}

static int load(const char *const *set, size_t n, struct rt_job **out)
{
    struct rt_job_source source = {.folder = dir, .set = set, .n_set = n};
    return rt_job_load(&source, out);
}

static void test_good(void **state)
{
    (void)state;
    struct rt_job *job;
    assert_int_equal(load(NULL, 0, &job), 0);
    assert_int_equal(job->global.staleness, 3);
    assert_int_equal(job->global.seed, 7);
    assert_int_equal(job->n_tables, 2);
    assert_int_equal(job->table[0].dim, 8);
    assert_int_equal(job->table[1].dim, 4);
    assert_int_equal(job->table[1].optimizer.kind, RT_OPT_SGD);
    assert_true(job->table[1].optimizer.learning_rate == 0.5);
    assert_int_equal(job->n_features, 3);
    assert_int_equal(job->feature[2].table, 1);
    assert_int_equal(job->feature[2].pooling, RT_POOL_MEAN);
    assert_int_equal(job->data.n_columns, 6);
    assert_int_equal(job->data.n_dense, 1);
    assert_string_equal(job->dense[0], "age");
    assert_true(job->data.column[1].missing == 2 && job->data.column[1].standardize);
    assert_int_equal(job->data.n_train, 2);
    assert_non_null(strstr(job->data.train[0], "part-1.tsv"));
    assert_int_equal(job->data.n_test, 1);
    assert_string_equal(job->model_name, "mlp");
    rt_job_destroy(job);
}

static void test_hashes(void **state)
{
    (void)state;
    static const struct {
        const char *set;
        bool config, plan; /* must differ from the plain job */
        int part;          /* the one part that must differ; -1: none */
    } row[] = {
        {"embedding.defaults.optimizer.learning_rate=0.1", false, false, -1},
        {"global.staleness=9", false, false, -1},
        {"embedding.defaults.dim=16", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.initializer.std=0.5", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.dtype=bfloat16", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.optimizer.weight_bound=2", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.admission.type=count", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.eviction.rows=9", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.ttl_seconds=60", true, false, WIRE_PART_EMBEDDING},
        {"embedding.tables.item.hash={functions: 2, rows: 100}", true, false, WIRE_PART_EMBEDDING},
        {"embedding.features.user.pooling=none", true, false, WIRE_PART_EMBEDDING},
        {"embedding.features.user.truncate=head", true, false, WIRE_PART_EMBEDDING},
        {"global.wire.dtype=bfloat16", true, false, WIRE_PART_GLOBAL},
        {"global.wire.rows=float16", true, false, WIRE_PART_GLOBAL},
        {"global.wire.row_gradients=float16", true, false, WIRE_PART_GLOBAL},
        {"global.wire.embeddings=float16", true, false, WIRE_PART_GLOBAL},
        {"global.wire.gradients=float16", true, false, WIRE_PART_GLOBAL},
        {"global.wire.rows=float32", false, false, -1},
        {"global.wire.compression=lz4", true, false, WIRE_PART_GLOBAL},
        {"global.link={heartbeat_ms: 50, dead_ms: 200, credit: 1048576}", false, false, -1},
        {"data.format=binary", true, true, WIRE_PART_DATA},
        {"data.columns.user={weight_separator: ':'}", true, true, WIRE_PART_DATA},
        {"global.embedding_server={memory: 1048576, pin: true}", false, false, -1},
        {"data.batch_size=64", true, true, WIRE_PART_DATA},
        {"global.seed=8", true, true, WIRE_PART_GLOBAL},
        {"data.train=['part-1.tsv']", true, true, WIRE_PART_FILES},
        {"data.epochs=3", false, false, -1},
        {"data.columns.user={separator: ','}", true, true, WIRE_PART_DATA},
        {"data.columns.user={integer: true}", true, true, WIRE_PART_DATA},
        {"data.columns.user={min_frequency: 2}", true, true, WIRE_PART_DATA},
        {"data.columns.user={missing: none}", true, true, WIRE_PART_DATA},
        {"data.columns.age.clip=[0, 9]", true, true, WIRE_PART_DATA},
        {"model.use=other", true, false, WIRE_PART_MODEL},
        {"model.params={top: [8, 1]}", true, false, WIRE_PART_MODEL},
        {"model.optimizer.type=adagrad", true, false, WIRE_PART_MODEL},
        {"model.optimizer.weight_decay=0.1", true, false, WIRE_PART_MODEL},
        {"model.optimizer.layers={top: {lr_factor: 0.5}}", true, false, WIRE_PART_MODEL},
        {"model.optimizer.learning_rate=0.1", false, false, -1},
        {"model.schedule={warmup: 10}", true, false, WIRE_PART_MODEL},
        {"model.precision=bfloat16", true, false, WIRE_PART_MODEL},
        {"model.precision=float32", false, false, -1},
        {"data.frequency_memory=99999", false, false, -1},
    };
    struct rt_job *plain;
    assert_int_equal(load(NULL, 0, &plain), 0);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_job *job;
        if (load(&row[i].set, 1, &job) != 0)
            fail_msg("%s: %s", row[i].set, rt_err_text());
        if ((job->config_hash != plain->config_hash) != row[i].config ||
            (job->plan_hash != plain->plan_hash) != row[i].plan)
            fail_msg("%s: config or plan hash is wrong", row[i].set);
        for (int part = 0; part < WIRE_PART_COUNT; part++) {
            if ((job->part_hash[part] != plain->part_hash[part]) != (part == row[i].part))
                fail_msg("%s: the hash of %s is wrong", row[i].set,
                         wire_job_part_name((enum wire_job_part)part));
        }
        rt_job_destroy(job);
    }
    rt_job_destroy(plain);
}

static const struct {
    const char *set, *want;
} bad[] = {
    {"global.stalenes=1", "unknown key 'stalenes' (did you mean 'staleness'?)"},
    {"global.staleness=none", "staleness: expected an integer in 1..1024, got 'none'"},
    {"global.exact=true", "expected `mode: full` beside `exact: true`"},
    {"global.wire.dtype=float8", "wire.dtype: expected float32|float16|bfloat16, got 'float8'"},
    {"model.precision=float16", "precision: expected float32|bfloat16, got 'float16'"},
    {"global.wire.rows=float8", "wire.rows: expected dtype|float32|float16|bfloat16"},
    {"global.wire.compression=zstd", "none|lz4"},
    {"global.link.dead_ms=1999", "dead_ms of at least twice heartbeat_ms, got 1999 and 1000"},
    {"global.link.heartbeat_ms=9", "expected an integer in 10..60000"},
    {"global.link.credit=1", "expected an integer in 1048576.."},
    {"embedding.tables.item.hash={functions: 2}",
     "table item: expected `functions` and `rows`, both or neither, got 2 and 0"},
    {"embedding.tables.item.hash={rows: 9}", "both or neither, got 0 and 9"},
    {"embedding.tables.item.hash={functions: 9, rows: 9}", "expected an integer in 0..8"},
    {"embedding.features.user.truncate=middle", "refuse|head|tail"},
    {"globl.seed=1", "'globl' is none of global, embedding, data, model"},
    {"seed=1", "expected FILE.key.path=value"},
    {"embedding.features.user.table=itm", "there is no table 'itm' (did you mean 'item'?)"},
    {"embedding.features.user.pooling=max", "sum|mean|sqrtn|none"},
    {"embedding.tables.user.dim=0", "expected an integer in 1..1024"},
    {"embedding.tables.user.initializer={type: uniform, low: 1, high: 0}", "expected low <= high"},
    {"data.columns.user={kind: feature, feature: usr}", "no feature 'usr' (did you mean 'user'?)"},
    {"data.columns.user=ignore",
     "every feature of embedding.yml to have a column, 'user' has none"},
    {"data.columns.y=ignore", "expected 1..256 `label` columns, got 0"},
    {"data.columns.y={kind: label, classes: 1}", "expected an integer in 2..65536"},
    {"data.columns.age={kind: dense, classes: 3}",
     "goes with kind label, this column is kind dense"},
    {"data.columns.age={kind: dense, real: true}",
     "goes with kind label, this column is kind dense"},
    {"data.columns.age=densee", "feature|dense|label"},
    {"data.columns.age={kind: dense, separator: '|'}",
     "columns.age.separator: goes with kind feature, this column is kind dense"},
    {"data.columns.age={kind: weight, clip: [0, 1]}", "columns.age.clip: goes with kind dense"},
    {"data.columns.y={kind: label, missing: 0}", "goes with kind feature or dense"},
    {"data.columns.user={kind: feature, standardize: true}", "goes with kind dense"},
    {"data.columns.age={kind: dense, integer: true}", "goes with kind feature or group"},
    {"data.columns.age={kind: dense, clip: [2, 1]}", "clip: expected low <= high, got 2 and 1"},
    {"data.columns.age={kind: dense, clip: [1]}", "expected [low, high], got 1 values"},
    {"data.columns.age={kind: dense, clip: 3}", "columns.age.clip: expected a list"},
    {"data.columns.age={kind: dense, missing: id}", "missing: expected a number"},
    {"data.columns.user={separator: '||'}", "expected one character that can stand in a field"},
    {"data.columns.user={separator: ''}", "expected one character"},
    {"data.columns.user={separator: '-', integer: true}", "'-' can be part of an integer"},
    {"data.columns.user={weight_separator: '1'}", "in a field and in no number, got '1'"},
    {"data.columns.user={weight_separator: ''}", "expected one character"},
    {"data.columns.user={separator: '|', weight_separator: '|'}",
     "expected a separator beside it that is another one and in no number, got '|'"},
    {"data.columns.user={separator: '.', weight_separator: ':'}", "another one and in no"},
    {"data.columns.age={kind: dense, weight_separator: ':'}",
     "columns.age.weight_separator: goes with kind feature"},
    {"data.columns.user={missing: 0}", "missing: expected id, none or bad, got '0'"},
    {"data.columns.user={missing: id, integer: true}", "expected none or bad, got 'id'"},
    {"data.columns.user={min_frequency: 0}", "expected an integer in 1..1000000000, got '0'"},
    {"data.columns={y: label, a: weight, b: weight}", "at most one column of kind weight"},
    {"data.columns={y: label, a: group, b: group}", "at most one column of kind group"},
    {"data.columns={y: label, a: key, b: key}", "at most one column of kind key"},
    {"data.frequency_memory=1", "expected an integer in 65536"},
    {"data.train=['none-*.gz']", "no file matches"},
    {"data.batch_size=70000", "expected an integer in 1..65535"},
    {"data.splits=8193", "expected an integer in 1..8192"},
    {"model.use=nothing", "there is no model file"},
    {"model.optimiser=1", "did you mean 'optimizer'?"},
};

static void test_bad(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        struct rt_job *job = NULL;
        int err = load(&bad[i].set, 1, &job);
        if (err != RT_EUSAGE || !strstr(rt_err_text(), bad[i].want))
            fail_msg("--set %s: got %d '%s', want RT_EUSAGE '%s'", bad[i].set, err, rt_err_text(),
                     bad[i].want);
        assert_null(job);
    }
}

/* The four paths take `dtype`, or what they say themselves; sequences are as wide as they are long. */
static void test_new_values(void **state)
{
    (void)state;
    const char *set[] = {"global.wire={dtype: bfloat16, gradients: float16, rows: float32}",
                         "global.link={heartbeat_ms: 50, dead_ms: 200}",
                         "embedding.features.other={table: item, pooling: none, max_length: 20}",
                         "embedding.features.user={truncate: tail}",
                         "embedding.tables.item.hash={functions: 3, rows: 1000}",
                         "data.columns.user={separator: '|', weight_separator: ':'}"};
    struct rt_job *job;
    if (load(set, ARRAY_LEN(set), &job) != 0)
        fail_msg("%s", rt_err_text());
    const struct rt_wire_conf *wire = &job->global.wire;
    assert_int_equal(wire->rows, WIRE_F32);
    assert_int_equal(wire->row_gradients, WIRE_BF16);
    assert_int_equal(wire->embeddings, WIRE_BF16);
    assert_int_equal(wire->gradients, WIRE_F16);
    assert_int_equal(wire->compression, RT_COMPRESS_NONE);
    assert_int_equal(job->global.heartbeat_ms, 50);
    assert_int_equal(job->global.dead_ms, 200);
    assert_int_equal(job->global.credit, 256u << 20);
    assert_int_equal(job->feature[2].pooling, RT_POOL_NONE);
    assert_int_equal(job->feature[0].truncate, RT_TRUNCATE_TAIL);
    assert_int_equal(job->feature[1].truncate, RT_TRUNCATE_REFUSE);
    assert_int_equal(job->table[0].hash_functions, 0);
    assert_int_equal(job->table[1].hash_functions, 3);
    assert_int_equal(job->table[1].hash_rows, 1000);
    assert_int_equal(job->data.column[2].weight_separator, ':');
    assert_int_equal(job->data.column[3].weight_separator, 0);
    rt_job_destroy(job);
}

/* A sample of two hashed lists: 2 x 256 + 3 x 256 rows of 2^20. */
static void test_hashed_rows(void **state)
{
    static const char *const set[] = {
        "embedding.defaults.hash={functions: 2, rows: 50}",
        "embedding.tables.item={hash: {functions: 3, rows: 50}}",
        "data.columns={y: label, user: {separator: '|'}, item: {separator: '|'}, other: feature}",
        "data.batch_size=818"};
    const char *less[] = {set[0], set[1], set[2], "data.batch_size=817"};
    struct rt_job *job = NULL;

    (void)state;
    assert_int_equal(load(set, ARRAY_LEN(set), &job), RT_EUSAGE);
    if (!strstr(rt_err_text(), "batch_size: expected at most 817, got 818: a sample may take 1283 "
                               "rows, hashed tables counted, and a batch 1048576"))
        fail_msg("%s", rt_err_text());
    assert_int_equal(load(less, ARRAY_LEN(less), &job), 0);
    rt_job_destroy(job);
}

/* Seventeen lists of 65,535 each: no batch has room for one such sample. */
static void test_sample_of_too_many_ids(void **state)
{
    char features[1024] = "embedding.features={", columns[1024] = "data.columns={y: label";
    const char *set[] = {features, columns};
    struct rt_job *job = NULL;

    (void)state;
    for (int i = 0; i < 17; i++) {
        size_t f = strlen(features), c = strlen(columns);
        snprintf(features + f, sizeof features - f, "%sf%d: {table: user, max_length: 65535}",
                 i ? ", " : "", i);
        snprintf(columns + c, sizeof columns - c, ", f%d: {separator: '|'}", i);
    }
    snprintf(features + strlen(features), 2, "}");
    snprintf(columns + strlen(columns), 2, "}");
    assert_int_equal(load(set, ARRAY_LEN(set), &job), RT_EUSAGE);
    if (!strstr(rt_err_text(), "columns: a sample may have 1114095 ids (max_length of lists), "
                               "expected at most 1048576"))
        fail_msg("%s", rt_err_text());
}

/* Lists of 255 and of 256 at most, the first of them from two columns, and a single id, of 2^20. */
static void test_ids(void **state)
{
    static const char *const set[] = {
        "embedding.features.user.max_length=255",
        "data.columns={y: label, user: {separator: '|'}, also: {feature: user}, item: {separator: "
        "'|'}, other: feature}",
        "data.batch_size=2049"};
    const char *less[] = {set[0], set[1], "data.batch_size=2048"},
               *more[] = {"data.batch_size=65536"};
    struct rt_job *job = NULL;

    (void)state;
    assert_int_equal(load(set, ARRAY_LEN(set), &job), RT_EUSAGE);
    if (!strstr(rt_err_text(),
                "batch_size: expected at most 2048, got 2049: a sample may have 512 ids "
                "(max_length of lists), and a batch 1048576"))
        fail_msg("%s", rt_err_text());
    assert_int_equal(load(less, ARRAY_LEN(less), &job), 0);
    rt_job_destroy(job);
    assert_int_equal(load(more, ARRAY_LEN(more), &job), RT_EUSAGE);
    if (!strstr(rt_err_text(), "batch_size: expected an integer in 1..65535, got '65536'"))
        fail_msg("%s", rt_err_text());
}

/* A model.yml with layers of its own: the same is covered, and the same is not. */
static void test_hash_of_layers(void **state)
{
    (void)state;
    static const struct {
        const char *model;
        bool same;
    } row[] = {
        {"layers: []\noptimizer: {learning_rate: 0.5}\n", true},
        {"optimizer: {}\nlayers: []\n", true},
        {"optimizer:\nschedule:\nlayers: []\n", true},
        {"layers: [{}]\n", false},
        {"layers: []\nparams: {a: 1}\n", false},
        {"layers: []\noptimizer: {type: adagrad}\n", false},
        {"layers: []\noptimizer: {learning_rate: 0.5, type: adagrad}\n", false},
        {"layers: []\nschedule: {warmup: 10}\n", false},
    };
    struct rt_job *plain;
    put("model.yml", "layers: []\n");
    assert_int_equal(load(NULL, 0, &plain), 0);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_job *job;
        put("model.yml", row[i].model);
        if (load(NULL, 0, &job) != 0)
            fail_msg("%s: %s", row[i].model, rt_err_text());
        if ((job->config_hash == plain->config_hash) != row[i].same)
            fail_msg("%s: config hash is wrong", row[i].model);
        rt_job_destroy(job);
    }
    put("model.yml", model_yml);
    rt_job_destroy(plain);
}

/* What was written stands alone: loaded from elsewhere it is the same job. */
static void test_write(void **state)
{
    (void)state;
    const char *set[] = {"data.batch_size=16"};
    struct rt_job *job, *again;
    assert_int_equal(load(set, 1, &job), 0);
    char *config = rt_path_join(dir, "effective");
    assert_int_equal(rt_mkdir_all(config), 0);
    assert_int_equal(rt_job_write(job, config), 0);
    struct rt_job_source source = {.folder = config, .name = job->name};
    if (rt_job_load(&source, &again) != 0)
        fail_msg("%s", rt_err_text());
    assert_true(again->config_hash == job->config_hash);
    assert_true(again->plan_hash == job->plan_hash);
    assert_int_equal(again->data.batch_size, 16);
    assert_string_equal(again->model_name, "mlp");
    rt_job_destroy(job);
    rt_job_destroy(again);
    rt_free(config);
}

/* Every allocation that the files' sizes decide fails once: an error each time, nothing leaks (ASan). */
static void test_no_memory(void **state)
{
    (void)state;
    int failures = 0;
    for (int64_t nth = 0;; nth++) {
        struct rt_job *job = NULL;
        rt_fault_alloc(nth);
        int err = load(NULL, 0, &job);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (!hit) {
            assert_int_equal(err, 0);
            rt_job_destroy(job);
            break;
        }
        if (err == 0) /* an optional allocation: the job is whole without it */
            rt_job_destroy(job);
        failures++;
    }
    assert_true(failures > 3);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_good),        cmocka_unit_test(test_hashes),
        cmocka_unit_test(test_bad),         cmocka_unit_test(test_new_values),
        cmocka_unit_test(test_hashed_rows), cmocka_unit_test(test_sample_of_too_many_ids),
        cmocka_unit_test(test_ids),         cmocka_unit_test(test_write),
        cmocka_unit_test(test_no_memory),   cmocka_unit_test(test_hash_of_layers)};
    return cmocka_run_group_tests(test, setup, teardown);
}
