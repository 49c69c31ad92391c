/* tests/unit/test_job_policy.c -- keys of a table that are wrong together: each refusal by its words and its place,
 * and beside each the nearest job that is right. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/job.h"
#include "runtime/job/layout.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define SETS_MAX 4

static char dir[TEMP_PATH_MAX];

static void put(const char *name, const char *text)
{
    char *path = rt_path_join(dir, name);

    assert_int_equal(rt_file_write(path, text, strlen(text)), 0);
    rt_free(path);
}

/* The table's eviction stands in line 3 of its file, the defaults' ttl in line 1. */
static int setup(void **state)
{
    (void)state;
    temp_folder(dir);
    put("global.yml", "mode: full\n");
    put("embedding.yml", "defaults: {dim: 8, ttl_seconds: 0}\n"
                         "tables:\n"
                         "  user: {eviction: {type: none}}\n"
                         "  item:\n"
                         "features: {user: {}, item: {}}\n");
    put("data.yml", "format: synthetic\ncolumns: {label: label, user: feature, item: feature}\n");
    put("model.yml", "layers: []\n");
    return 0;
}

static int teardown(void **state)
{
    char *command[] = {"rm", "-rf", dir, NULL};
    pid_t pid = fork();

    (void)state;
    if (pid == 0) {
        execvp("rm", command);
        _exit(1);
    }
    return waitpid(pid, NULL, 0) == pid ? 0 : -1;
}

static int load(const char *const *set, struct rt_job **out)
{
    struct rt_job_source source = {.folder = dir, .set = set};

    while (source.n_set < SETS_MAX && set[source.n_set])
        source.n_set++;
    return rt_job_load(&source, out);
}

#define USER      "embedding.tables.user."
#define EXACT     "global.exact=true"
#define MEMORY    "global.embedding_server.memory="
#define NO_ERROR  NULL
#define OF_ROWS   "which rows there are would depend on the number of servers"
#define NEVER_OUT "nothing would ever be evicted"

static const struct {
    const char *set[SETS_MAX];
    const char *want; /* NULL: the job is right */
} combination[] = {
    {{EXACT}, NO_ERROR},
    {{EXACT, USER "eviction.type=lru", USER "eviction.rows=100"},
     "tables.user.eviction: table user: expected none, and no capacity, beside `exact: "
     "true`: " OF_ROWS},
    {{USER "eviction.type=lru", USER "eviction.rows=100"}, NO_ERROR},
    {{EXACT, USER "eviction.rows=100"}, "expected none, and no capacity, beside `exact: true`"},
    {{EXACT, USER "eviction.bytes=20000"}, "expected none, and no capacity"},
    {{EXACT, USER "ttl_seconds=60"},
     "tables.user.ttl_seconds: table user: expected 0 beside `exact: true`: which rows there "
     "are "
     "would depend on the clock"},
    {{EXACT, "embedding.defaults.ttl_seconds=60"}, "defaults.ttl_seconds: table user: expected 0"},
    {{EXACT, "embedding.defaults.ttl_seconds=60", USER "ttl_seconds=0"},
     "defaults.ttl_seconds: table item: expected 0"},
    {{USER "ttl_seconds=60"}, NO_ERROR},
    {{EXACT, USER "admission.type=count"},
     "tables.user.admission.type: table user: expected always or probability beside `exact: "
     "true`"},
    {{USER "admission.type=count"}, NO_ERROR},
    {{EXACT, USER "admission={type: probability, probability: 0.5}"}, NO_ERROR},
    {{EXACT, MEMORY "1073741824"},
     "embedding_server.memory: expected 0 beside `exact: true`: " OF_ROWS},
    {{MEMORY "1073741824"}, NO_ERROR},
    {{MEMORY "1000"}, "embedding_server.memory: expected 0, or at least 1048576, got 1000"},
    {{USER "eviction.type=lru"},
     "tables.user.eviction: table user: expected `rows`, `bytes` or "
     "global.embedding_server.memory "
     "beside `type: lru`: " NEVER_OUT},
    {{USER "eviction.type=lfu"}, "beside `type: lfu`: " NEVER_OUT},
    {{USER "eviction.type=lfu", MEMORY "1073741824"}, NO_ERROR},
    {{USER "eviction.type=lfu", USER "eviction.bytes=20000"}, NO_ERROR},
    /* a page for the row, one for its bits, one for the index; the table */
    {{USER "eviction={type: lru, bytes: 17407}"},
     "tables.user.eviction.bytes: table user: expected 0, or at least 17408, a row with its pages "
     "and the admission's sketch, got 17407"},
    {{USER "eviction={type: lru, bytes: 17408}"}, NO_ERROR},
    {{USER "eviction={type: lru, bytes: 21503}",
      USER "admission={type: count, sketch_bytes: 4096}"},
     "expected 0, or at least 21504"},
    {{USER "eviction={type: lru, bytes: 21504}",
      USER "admission={type: count, sketch_bytes: 4096}"},
     NO_ERROR},
    {{USER "admission={type: probability, probability: 0}"},
     "tables.user.admission.probability: table user: expected > 0: no id would ever get a row"},
    {{USER "admission.probability=0"}, NO_ERROR},
    {{USER "admission={type: count, count: 0}"}, "count: expected an integer in 1..255, got '0'"},
    {{USER "initializer={type: uniform, low: 1, high: 0}"}, "expected low <= high, got 1 > 0"},
    {{USER "initializer={type: uniform, low: 1, high: 1}"}, NO_ERROR},
    {{USER "initializer={type: xavier_uniform}"},
     "tables.user.initializer: table user: expected `rows` beside `type: xavier_uniform`"},
    {{USER "initializer={type: xavier_uniform, rows: 100}"}, NO_ERROR},
    {{USER "initializer={type: constant, value: 65505}", USER "dtype=float16"},
     "expected values within +-65504, the largest of float16, got up to 65505"},
    {{USER "initializer={type: constant, value: -65504}", USER "dtype=float16"}, NO_ERROR},
    {{USER "initializer={type: constant, value: 65505}", USER "dtype=bfloat16"}, NO_ERROR},
    {{USER "initializer={type: normal, mean: 60000, std: 1000}", USER "dtype=float16"},
     "got up to 68000"},
    {{USER "initializer={type: truncated_normal, mean: 60000, std: 1000}", USER "dtype=float16"},
     NO_ERROR},
    {{USER "initializer={type: uniform, low: -1e39, high: 0}"},
     "the largest of float32, got up to 1e+39"},
    {{USER "initializer={type: xavier_uniform, rows: 1, gain: 1e6}", USER "dtype=float16"},
     "the largest of float16"},
    {{USER "optimizer={type: ftrl, learning_rate: 0}"}, NO_ERROR},
    {{"global.embedding_server.numa_local=true"}, "expected `pin: true` beside `numa_local: true`"},
    {{"global.embedding_server={numa_local: true, pin: true}"}, NO_ERROR},
    {{"global.exact=true", "global.trainer.collective=nccl"},
     "expected auto or ring beside `exact: true`"},
    {{"global.exact=true", "global.trainer.collective=ring"}, NO_ERROR},
    {{"global.trainer.collective=nccl"}, NO_ERROR},
};

static void together(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(combination); i++) {
        struct rt_job *job = NULL;
        int err = load(combination[i].set, &job);

        if (!combination[i].want && err)
            fail_msg("row %zu, %s: %s", i, combination[i].set[0], rt_err_text());
        if (combination[i].want &&
            (err != RT_EUSAGE || !strstr(rt_err_text(), combination[i].want)))
            fail_msg("row %zu, %s: got %d '%s', want RT_EUSAGE '%s'", i, combination[i].set[0], err,
                     err ? rt_err_text() : "", combination[i].want);
        rt_job_destroy(job);
    }
}

/* A complaint names the line where the key stands, whichever place that is. */
static void lines(void **state)
{
    static const struct {
        const char *set[SETS_MAX];
        const char *embedding, *want;
    } row[] = {
        {{EXACT}, "tables:\n  user:\n    ttl_seconds: 5\n  item:\n", "embedding.yml:3: "},
        {{EXACT}, "defaults:\n  ttl_seconds: 5\ntables: {user: , item: }\n", "embedding.yml:2: "},
        {{NULL}, "tables:\n  item:\n  user:\n    eviction: {type: lru}\n", "embedding.yml:4: "},
        {{NULL},
         "tables:\n  item:\n  user:\n    admission: {type: probability,\n      probability: 0}\n",
         "embedding.yml:5: "},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char *text = rt_xasprintf("%sfeatures: {user: {}, item: {}}\n", row[i].embedding);
        struct rt_job *job = NULL;

        put("embedding.yml", text);
        rt_free(text);
        if (load(row[i].set, &job) != RT_EUSAGE || !strstr(rt_err_text(), row[i].want))
            fail_msg("row %zu: got '%s', want '%s'", i, job ? "no error" : rt_err_text(),
                     row[i].want);
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test_setup_teardown(together, setup, teardown),
        cmocka_unit_test_setup_teardown(lines, setup, teardown),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
