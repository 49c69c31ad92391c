/* tests/unit/test_option.c -- the option table: defaults, files, complaints, help. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/option.h"
#include "runtime/conf/yaml.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

struct fields {
    bool exact;
    uint32_t mode, staleness, workers, port;
    uint64_t rows, seed;
    double rate, free_number;
    const char *name, *note;
    const struct rt_node *tables;
};

#define AT(field) offsetof(struct fields, field)

static const struct rt_option option[] = {
    {"exact", RT_OPT_BOOL, AT(exact), "true", 0, 0, NULL, "same bits each run"},
    {"mode", RT_OPT_ENUM, AT(mode), "hybrid", 0, 0, "full|hybrid|async", "how steps are made"},
    {"staleness", RT_OPT_U32, AT(staleness), "8", 1, 1024, NULL, "permits"},
    {"embedding_server.workers", RT_OPT_U32, AT(workers), "2", 1, 256, NULL, "owners"},
    {"embedding_server.port", RT_OPT_U32, AT(port), NULL, 0, 65535, NULL, "base port"},
    {"limits.rows", RT_OPT_U64, AT(rows), "1000", 1, 0x1p64, NULL, "rows at most"},
    {"seed", RT_OPT_U64, AT(seed), NULL, 0, 0, NULL, "of every draw"},
    {"rate", RT_OPT_F64, AT(rate), "0.1", 0, 10, NULL, "learning rate"},
    {"free_number", RT_OPT_F64, AT(free_number), NULL, 0, 0, NULL, "any"},
    {"name", RT_OPT_STR, AT(name), "job", 0, 0, NULL, "of the job"},
    {"note", RT_OPT_STR, AT(note), NULL, 0, 0, NULL, "free text"},
    {"tables", RT_OPT_NODE, AT(tables), NULL, 0, 0, NULL, "read elsewhere"},
};

static int load(const char *text, struct rt_yaml **yaml, struct fields *out, struct rt_arena *arena)
{
    int err = rt_yaml_parse("global.yml", text, strlen(text), yaml);

    if (err)
        return err;
    return rt_options_load(option, ARRAY_LEN(option), rt_yaml_root(*yaml), out, arena);
}

static void defaults_without_a_file(void **state)
{
    struct fields f = {0};

    (void)state;
    memset(&f, 0xff, sizeof(f));
    assert_int_equal(rt_options_load(option, ARRAY_LEN(option), NULL, &f, NULL), 0);
    assert_true(f.exact);
    assert_int_equal(f.mode, 1);
    assert_int_equal(f.staleness, 8);
    assert_int_equal(f.workers, 2);
    assert_int_equal(f.port, 0);
    assert_int_equal(f.rows, 1000);
    assert_int_equal(f.seed, 0);
    assert_true(f.rate == 0.1);
    assert_true(f.free_number == 0);
    assert_string_equal(f.name, "job");
    assert_null(f.note);
    assert_null(f.tables);
}

static void a_file_overrides(void **state)
{
    struct rt_arena *arena = NULL;
    struct rt_yaml *yaml = NULL;
    struct fields f = {0};

    (void)state;
    assert_int_equal(rt_arena_create(4096, &arena), 0);
    assert_int_equal(
        load("mode: async\nexact: false\nlimits: {rows: 18446744073709551615}\n"
             "embedding_server:\n  workers: 256\n  port: 0\nseed: 18446744073709551615\n"
             "rate: 1e-3\nfree_number: -1e300\nname: ~\nnote: 12\ntables: [a, b]\n",
             &yaml, &f, arena),
        0);
    assert_int_equal(f.mode, 2);
    assert_false(f.exact);
    assert_int_equal(f.staleness, 8);
    assert_int_equal(f.workers, 256);
    assert_true(f.rows == UINT64_MAX);
    assert_true(f.seed == UINT64_MAX);
    assert_true(f.rate == 1e-3);
    assert_true(f.free_number == -1e300);
    assert_int_equal(rt_node_count(f.tables), 2);
    rt_yaml_destroy(yaml); /* the strings are in the arena */
    assert_string_equal(f.name, "job");
    assert_string_equal(f.note, "12");
    rt_arena_destroy(arena);
}

static void bad_files_are_named(void **state)
{
    static const struct {
        const char *text, *want; /* the whole error text */
    } row[] = {
        {"\n\nstalenes: 4", "global.yml:3: unknown key 'stalenes' (did you mean 'staleness'?)"},
        {"staleness: abc", "global.yml:1: staleness: expected an integer in 1..1024, got 'abc'"},
        {"staleness: 1025", "global.yml:1: staleness: expected an integer in 1..1024, got '1025'"},
        {"staleness: 0", "global.yml:1: staleness: expected an integer in 1..1024, got '0'"},
        {"staleness:", "global.yml:1: staleness: expected an integer in 1..1024, got nothing"},
        {"limits: {rows: 0}",
         "global.yml:1: limits.rows: expected an integer of at least 1, got '0'"},
        {"exact: yes", "global.yml:1: exact: expected true or false, got 'yes'"},
        {"mode: asynch", "global.yml:1: mode: expected full|hybrid|async, got 'asynch'"},
        {"rate: 11", "global.yml:1: rate: expected a number in 0..10, got '11'"},
        {"free_number: x", "global.yml:1: free_number: expected a number, got 'x'"},
        {"name: [a]", "global.yml:1: name: expected text, got a list"},
        {"embedding_server:\n  worker: 1", "global.yml:2: unknown key 'embedding_server.worker' "
                                           "(did you mean 'embedding_server.workers'?)"},
        {"embeding_server:\n  workers: 1",
         "global.yml:1: unknown key 'embeding_server' (did you mean 'embedding_server'?)"},
        {"workers: 1",
         "global.yml:1: unknown key 'workers' (did you mean 'embedding_server.workers'?)"},
        {"embedding_server: 5", "global.yml:1: embedding_server: expected a map, got '5'"},
        {"embedding_server.workers: 5",
         "global.yml:1: embedding_server.workers: a dotted key: write "
         "it as maps inside each other"},
        {"zzz: 5", "global.yml:1: unknown key 'zzz'"},
        {"seed: {a: 1}", "global.yml:1: seed: expected an integer of at least 0, got a map"},
        {"[a]", "global.yml:1: expected a map, got a list"},
        {"a\\b: 5", "global.yml:1: unknown key 'a\\b'"},
        {"\"a\\tb\": 5", "global.yml:1: unknown key 'a\\x09b'"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = NULL;
        struct fields f = {0};
        int err = load(row[i].text, &yaml, &f, NULL);

        if (err != RT_EUSAGE || strcmp(rt_err_text(), row[i].want) != 0)
            fail_msg("'%s': %s, '%s'", row[i].text, rt_err_name(err), rt_err_text());
        rt_yaml_destroy(yaml);
    }
}

static void long_unknown_keys_are_cut_not_written_over(void **state)
{
    struct rt_yaml *yaml = NULL;
    struct fields f = {0};
    char text[160];

    (void)state;
    memset(text, 'k', 128);
    memcpy(text + 128, ": 1", 4);
    assert_int_equal(load(text, &yaml, &f, NULL), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "unknown key 'kkk"));
    rt_yaml_destroy(yaml);
}

static void a_map_inside_a_file_keeps_its_path(void **state)
{
    static const char text[] = "a: 1\noptimizer:\n  kind: {stalenes: 1}\n";
    struct rt_yaml *yaml = NULL;
    struct fields f = {0};
    const struct rt_node *map;

    (void)state;
    assert_int_equal(rt_yaml_parse("model.yml", text, sizeof(text) - 1, &yaml), 0);
    map = rt_node_find(rt_yaml_root(yaml), "optimizer.kind");
    assert_int_equal(rt_options_load(option, ARRAY_LEN(option), map, &f, NULL), RT_EUSAGE);
    assert_string_equal(rt_err_text(), "model.yml:3: unknown key 'optimizer.kind.stalenes' "
                                       "(did you mean 'optimizer.kind.staleness'?)");
    rt_yaml_destroy(yaml);
}

static void one_value_from_the_environment(void **state)
{
    struct fields f = {0};
    size_t n = ARRAY_LEN(option);

    (void)state;
    assert_int_equal(rt_options_load(option, n, NULL, &f, NULL), 0);
    assert_int_equal(rt_options_set(option, n, "staleness", "9", "SAFFRON_X", &f, NULL), 0);
    assert_int_equal(f.staleness, 9);
    assert_int_equal(
        rt_options_set(option, n, "embedding_server.workers", "x", "SAFFRON_X", &f, NULL),
        RT_EUSAGE);
    assert_string_equal(rt_err_text(),
                        "SAFFRON_X: embedding_server.workers: expected an integer in "
                        "1..256, got 'x'");
    assert_int_equal(f.workers, 2);
    assert_int_equal(rt_options_set(option, n, "name", "", "SAFFRON_X", &f, NULL), 0);
    assert_string_equal(f.name, "");
}

static void help_comes_from_the_table(void **state)
{
    struct rt_strbuf sb;

    (void)state;
    rt_strbuf_init(&sb);
    rt_options_help(option, 3, "global.", &sb);
    assert_string_equal(
        sb.text, "| `global.exact` | true \\| false | true | same bits each run |\n"
                 "| `global.mode` | full \\| hybrid \\| async | hybrid | how steps are made |\n"
                 "| `global.staleness` | integer in 1..1024 | 8 | permits |\n");
    rt_strbuf_reset(&sb);
    rt_options_help_plain(option + 4, ARRAY_LEN(option) - 4, "", &sb);
    assert_non_null(strstr(sb.text, "  embedding_server.port  (integer in 0..65535; default 0)\n"
                                    "      base port\n"));
    assert_non_null(strstr(sb.text, "  limits.rows  (integer, at least 1; default 1000)\n"));
    assert_non_null(strstr(sb.text, "  seed  (integer; default 0)\n"));
    assert_non_null(strstr(sb.text, "  note  (text; default none)\n"));
    assert_non_null(strstr(sb.text, "  tables  (list or map; default none)\n"));
    rt_strbuf_release(&sb);
}

static void every_allocation_may_fail(void **state)
{
    int failures = 0;

    (void)state;
    for (int nth = 0;; nth++) {
        struct rt_arena *arena = NULL;
        struct rt_yaml *yaml = NULL;
        struct fields f = {0};
        int err;

        rt_fault_alloc(nth);
        err = rt_arena_create(4096, &arena);
        if (!err)
            err = load("name: a\nnote: b\nlimits: {rows: 5}\n", &yaml, &f, arena);
        rt_yaml_destroy(yaml);
        rt_arena_destroy(arena);
        if (!rt_fault_hit()) {
            assert_int_equal(err, 0);
            break;
        }
        assert_int_equal(err, RT_ENOMEM);
        failures++;
    }
    rt_fault_alloc(-1);
    assert_true(failures > 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_without_a_file),
        cmocka_unit_test(a_file_overrides),
        cmocka_unit_test(bad_files_are_named),
        cmocka_unit_test(long_unknown_keys_are_cut_not_written_over),
        cmocka_unit_test(a_map_inside_a_file_keeps_its_path),
        cmocka_unit_test(one_value_from_the_environment),
        cmocka_unit_test(help_comes_from_the_table),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
