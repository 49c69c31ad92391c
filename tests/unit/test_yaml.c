/* tests/unit/test_yaml.c -- what the YAML tree takes, refuses, and how it complains. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "tests/lib/temp.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

static struct rt_yaml *parse(const char *text)
{
    struct rt_yaml *yaml = NULL;
    int err = rt_yaml_parse("t.yml", text, strlen(text), &yaml);

    if (err)
        fail_msg("'%s': %s", text, rt_err_text());
    return yaml;
}

static void expect_error(const char *what, int err, int want, const char *part)
{
    if (err != want)
        fail_msg("%s: got %s (%s), want %s", what, rt_err_name(err), rt_err_text(),
                 rt_err_name(want));
    if (!strstr(rt_err_text(), part))
        fail_msg("%s: got '%s', want '%s'", what, rt_err_text(), part);
}

static void refuses_bad_text(void **state)
{
    static const struct {
        const char *text;
        int err;
        const char *part;
    } row[] = {
        {"a: 1\nb: [1, 2\n", RT_EUSAGE, "t.yml:3: "},
        {"a: 1\n\tb: 2\n", RT_EUSAGE, "t.yml:2: found a tab character"},
        {"a: 1\nb: 2\na: 3\n", RT_EUSAGE, "t.yml:3: key 'a' is already in line 1"},
        {"x: {a: 1, a: 2}", RT_EUSAGE, "t.yml:1: key 'a' is already in line 1"},
        {"a: &x 1", RT_EUSAGE, "t.yml:1: anchors (&) are not supported"},
        {"a: &x [1]", RT_EUSAGE, "anchors (&)"},
        {"a:\n  &x b: 1", RT_EUSAGE, "t.yml:2: anchors (&)"},
        {"a: *x", RT_EUSAGE, "t.yml:1: aliases (*) are not supported"},
        {"a: !!int 1", RT_EUSAGE, "t.yml:1: tags (!) are not supported"},
        {"a: !!map {}", RT_EUSAGE, "tags (!)"},
        {"a: !x [1]", RT_EUSAGE, "tags (!)"},
        {"? [1, 2]\n: 3", RT_EUSAGE, "t.yml:1: a key must be text"},
        {"{{a: 1}: 2}", RT_EUSAGE, "a key must be text"},
        {"'': 1", RT_EUSAGE, "t.yml:1: empty key"},
        {"a: 1\n---\nb: 2", RT_EUSAGE, "t.yml:2: a second document"},
        {"a: \"x\\0y\"", RT_EUSAGE, "t.yml:1: text with a NUL character"},
        {"a: 1\nb: \xff\xfe", RT_EUSAGE, "t.yml:2: "},
        {"a: 1\nb: \x01", RT_EUSAGE, "t.yml:2: control characters are not allowed"},
        {"a: b: c", RT_EUSAGE, "t.yml:1: mapping values are not allowed in this context"},
        {"%YAML 3.0\n---\na: 1", RT_EUSAGE, "t.yml:1: found incompatible YAML document"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = NULL;
        int err = rt_yaml_parse("t.yml", row[i].text, strlen(row[i].text), &yaml);

        expect_error(row[i].text, err, row[i].err, row[i].part);
        assert_null(yaml);
    }
}

/* The time that this thread computed: other programs' work does not count. */
static uint64_t cpu_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * RT_S + (uint64_t)t.tv_nsec;
}

static void refuses_what_is_over_limits(void **state)
{
    size_t size = RT_YAML_BYTES_MAX + 1;
    char *text = malloc(size);
    struct rt_yaml *yaml = NULL;
    uint64_t start;

    (void)state;
    memset(text, '#', size);
    expect_error("bytes", rt_yaml_parse("t.yml", text, size, &yaml), RT_ELIMIT, "1048577 bytes");
    text[5] = '\0';
    expect_error("NUL", rt_yaml_parse("t.yml", text, 10, &yaml), RT_EUSAGE,
                 "NUL character at byte 5");

    start = cpu_ns();
    memset(text, '[', size - 1);
    expect_error("depth", rt_yaml_parse("t.yml", text, size - 1, &yaml), RT_ELIMIT,
                 "deeper than 32");
    for (size_t i = 0; i + 1 < size; i++)
        text[i] = i == 0 ? '[' : i % 2 ? '1' : ',';
    expect_error("nodes", rt_yaml_parse("t.yml", text, size - 1, &yaml), RT_ELIMIT,
                 "more than 100000 values");
    memset(text, 'k', 200);
    memcpy(text + 200, ": 1", 3);
    expect_error("key", rt_yaml_parse("t.yml", text, 203, &yaml), RT_ELIMIT, "a key of more than");
    assert_true(cpu_ns() - start < 3 * RT_S);
    free(text);
}

static void many_keys_are_quick(void **state)
{
    struct rt_strbuf sb;
    struct rt_yaml *yaml;
    uint64_t start = cpu_ns();

    (void)state;
    rt_strbuf_init(&sb);
    for (unsigned i = 0; i < 60000; i++)
        rt_strbuf_addf(&sb, "k%u: %u\n", i, i);
    yaml = parse(sb.text);
    assert_int_equal(rt_node_count(rt_yaml_root(yaml)), 60000);
    rt_yaml_destroy(yaml);
    rt_strbuf_addf(&sb, "k7: 1\n");
    expect_error("duplicate", rt_yaml_parse("t.yml", sb.text, sb.len, &yaml), RT_EUSAGE,
                 "t.yml:60001: key 'k7' is already in line 8");
    rt_strbuf_release(&sb);
    assert_true(cpu_ns() - start < 3 * RT_S);
}

static void tree_knows_its_places(void **state)
{
    struct rt_yaml *yaml = parse("# job\n"
                                 "tables:\n"
                                 "  - name: user\n"
                                 "    dim: 16\n"
                                 "  - name: \"item\"\n"
                                 "wire:\n"
                                 "  rows: float32\n"
                                 "none:\n"
                                 "tilde: ~\n"
                                 "text: |\n"
                                 "  two\n"
                                 "  lines\n");
    const struct rt_node *root = rt_yaml_root(yaml), *dim, *tables;
    char out[64];

    (void)state;
    assert_int_equal(rt_node_kind(root), RT_NODE_MAP);
    assert_int_equal(rt_node_count(root), 5);
    assert_string_equal(rt_node_key_at(root, 0), "tables");
    tables = rt_node_get(root, "tables");
    assert_int_equal(rt_node_kind(tables), RT_NODE_LIST);
    assert_string_equal(rt_node_where(tables, out, sizeof(out)), "t.yml:2");
    dim = rt_node_get(rt_node_at(tables, 0), "dim");
    assert_string_equal(rt_node_text(dim), "16");
    assert_false(rt_node_quoted(dim));
    assert_string_equal(rt_node_where(dim, out, sizeof(out)), "t.yml:4");
    assert_string_equal(rt_node_path(dim, out, sizeof(out)), "tables[0].dim");
    assert_string_equal(rt_node_path(dim, out, 5), "tabl");
    assert_string_equal(rt_node_path(root, out, sizeof(out)), "");
    assert_true(rt_node_quoted(rt_node_get(rt_node_at(tables, 1), "name")));
    assert_string_equal(rt_node_text(rt_node_find(root, "wire.rows")), "float32");
    assert_null(rt_node_find(root, "wire.row"));
    assert_null(rt_node_find(root, "wir.rows"));
    assert_null(rt_node_find(root, "none.x"));
    assert_null(rt_node_get(NULL, "x"));
    assert_true(rt_node_is_null(rt_node_get(root, "none")));
    assert_true(rt_node_is_null(rt_node_get(root, "tilde")));
    assert_string_equal(rt_node_text(rt_node_get(root, "text")), "two\nlines\n");
    rt_yaml_destroy(yaml);

    yaml = parse("# nothing\n");
    assert_int_equal(rt_node_kind(rt_yaml_root(yaml)), RT_NODE_MAP);
    assert_int_equal(rt_node_count(rt_yaml_root(yaml)), 0);
    rt_yaml_destroy(yaml);
    rt_yaml_destroy(NULL);
}

enum getter { BOOL, U32, U64, I64, F64, STR, CHOICE, LIST, MAP };

/* The value as text, or the error. */
static int get(const struct rt_node *node, enum getter getter, char *out, size_t size)
{
    bool truth = false;
    uint32_t u32 = 0;
    uint64_t u64 = 0;
    int64_t i64 = 0;
    double f64 = 0;
    const char *str = "";
    int err = 0;

    switch (getter) {
    case BOOL:
        err = rt_node_bool(node, &truth);
        snprintf(out, size, "%d", truth);
        break;
    case U32:
        err = rt_node_u32(node, 1, 1024, &u32);
        snprintf(out, size, "%u", u32);
        break;
    case U64:
        err = rt_node_u64(node, 0, UINT64_MAX, &u64);
        snprintf(out, size, "%llu", (unsigned long long)u64);
        break;
    case I64:
        err = rt_node_i64(node, INT64_MIN, INT64_MAX, &i64);
        snprintf(out, size, "%lld", (long long)i64);
        break;
    case F64:
        err = rt_node_f64(node, -10, 10, &f64);
        snprintf(out, size, "%g", f64);
        break;
    case STR:
        err = rt_node_str(node, &str);
        snprintf(out, size, "%s", str);
        break;
    case CHOICE:
        err = rt_node_choice(node, "full|hybrid|async", &u32);
        snprintf(out, size, "%u", u32);
        break;
    case LIST:
        err = rt_node_want_list(node);
        snprintf(out, size, "list");
        break;
    case MAP:
        err = rt_node_want_map(node);
        snprintf(out, size, "map");
        break;
    }
    return err;
}

static const struct {
    const char *value;
    enum getter getter;
    const char *want; /* NULL: part is in the error */
    const char *part;
} value_row[] = {
    {"true", BOOL, "1", NULL},
    {"false", BOOL, "0", NULL},
    {"yes", BOOL, NULL, "t.yml:1: k: expected true or false, got 'yes'"},
    {"\"true\"", BOOL, NULL, "got '\"true\"'"},
    {"1024", U32, "1024", NULL},
    {"1025", U32, NULL, "t.yml:1: k: expected an integer in 1..1024, got '1025'"},
    {"0", U32, NULL, "got '0'"},
    {"-1", U32, NULL, "got '-1'"},
    {"+1", U32, NULL, "got '+1'"},
    {"1.0", U32, NULL, "got '1.0'"},
    {"010", U32, NULL, "got '010'"},
    {"abc", U32, NULL, "got 'abc'"},
    {"\"8\"", U32, NULL, "got '\"8\"'"},
    {"", U32, NULL, "got nothing"},
    {"[8]", U32, NULL, "got a list"},
    {"{a: 8}", U32, NULL, "got a map"},
    {"18446744073709551615", U64, "18446744073709551615", NULL},
    {"18446744073709551616", U64, NULL, "expected an integer of at least 0, got '1844674407370"},
    {"99999999999999999999999", U64, NULL, "got '9999"},
    {"-9223372036854775808", I64, "-9223372036854775808", NULL},
    {"9223372036854775807", I64, "9223372036854775807", NULL},
    {"9223372036854775808", I64, NULL, "expected an integer, got"},
    {"-", I64, NULL, ""},
    {"1e-3", F64, "0.001", NULL},
    {"-2", F64, "-2", NULL},
    {".5", F64, "0.5", NULL},
    {"10.5", F64, NULL, "expected a number in -10..10, got '10.5'"},
    {"nan", F64, NULL, "got 'nan'"},
    {"inf", F64, NULL, "got 'inf'"},
    {"1e999", F64, NULL, "got '1e999'"},
    {"0x10", F64, NULL, "got '0x10'"},
    {"1.2.3", F64, NULL, "got '1.2.3'"},
    {"hello", STR, "hello", NULL},
    {"12", STR, "12", NULL},
    {"''", STR, "", NULL},
    {"", STR, NULL, "expected text, got nothing"},
    {"[a]", STR, NULL, "expected text, got a list"},
    {"hybrid", CHOICE, "1", NULL},
    {"'async'", CHOICE, "2", NULL},
    {"hybri", CHOICE, NULL, "expected full|hybrid|async, got 'hybri'"},
    {"hybrid|async", CHOICE, NULL, "got 'hybrid|async'"},
    {"", CHOICE, NULL, "got nothing"},
    {"\"a\\nb\"", CHOICE, NULL, "got '\"a\\x0ab\"'"},
    {"[]", LIST, "list", NULL},
    {"x", LIST, NULL, "expected a list, got 'x'"},
    {"{}", MAP, "map", NULL},
    {"[]", MAP, NULL, "expected a map, got a list"},
};

static void getters_check_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(value_row); i++) {
        char text[128], out[64], what[160];
        struct rt_yaml *yaml;
        int err;

        snprintf(text, sizeof(text), "k: %s", value_row[i].value);
        snprintf(what, sizeof(what), "row %zu '%s'", i, value_row[i].value);
        if (strcmp(value_row[i].value, "-") == 0)
            snprintf(text, sizeof(text), "k: '-'");
        yaml = parse(text);
        err = get(rt_node_get(rt_yaml_root(yaml), "k"), value_row[i].getter, out, sizeof(out));
        if (!value_row[i].want)
            expect_error(what, err, RT_EUSAGE, value_row[i].part);
        else if (err || strcmp(out, value_row[i].want) != 0)
            fail_msg("%s: got %s (%s)", what, out, rt_err_text());
        rt_yaml_destroy(yaml);
    }
}

static void absent_values_keep_the_default(void **state)
{
    uint32_t u32 = 7;
    const char *str = "kept";
    double f64 = 0.5;
    bool truth = true;

    (void)state;
    assert_int_equal(rt_node_u32(NULL, 100, 200, &u32), 0);
    assert_int_equal(u32, 7);
    assert_int_equal(rt_node_str(NULL, &str), 0);
    assert_string_equal(str, "kept");
    assert_int_equal(rt_node_f64(NULL, 1, 2, &f64), 0);
    assert_true(f64 == 0.5);
    assert_int_equal(rt_node_bool(NULL, &truth), 0);
    assert_true(truth);
    assert_int_equal(rt_node_want_map(NULL), 0);
}

static void keys_that_must_and_may_be(void **state)
{
    static const char *const known[] = {"name", "dim", "dtype"};
    struct rt_yaml *yaml = parse("tables:\n- name: a\n  dmi: 4\n- 5\n");
    const struct rt_node *tables = rt_node_get(rt_yaml_root(yaml), "tables"), *out;

    (void)state;
    assert_int_equal(rt_node_need(rt_node_at(tables, 0), "name", &out), 0);
    expect_error("need", rt_node_need(rt_node_at(tables, 0), "dim", &out), RT_EUSAGE,
                 "t.yml:2: tables[0]: missing key 'dim'");
    expect_error("need in a scalar", rt_node_need(rt_node_at(tables, 1), "dim", &out), RT_EUSAGE,
                 "t.yml:4: tables[1]: expected a map, got '5'");
    expect_error("known", rt_node_known_keys(rt_node_at(tables, 0), known, 3), RT_EUSAGE,
                 "t.yml:3: unknown key 'tables[0].dmi' (did you mean 'tables[0].dim'?)");
    assert_int_equal(rt_node_known_keys(NULL, known, 3), 0);
    rt_yaml_destroy(yaml);
    yaml = parse("dim: 1\ndtyp: 2\n");
    expect_error("near", rt_node_known_keys(rt_yaml_root(yaml), known, 3), RT_EUSAGE,
                 "t.yml:2: unknown key 'dtyp' (did you mean 'dtype'?)");
    rt_yaml_destroy(yaml);
}

static void set_changes_the_tree(void **state)
{
    static const struct {
        const char *before, *path, *value, *want; /* want: canonical text */
    } row[] = {
        {"", "a", "1", "{\"a\":1}"},
        {"a: 5", "a", "1", "{\"a\":1}"},
        {"a: 5", "b.c.d", "x", "{\"a\":5,\"b\":{\"c\":{\"d\":\"x\"}}}"},
        {"a: {b: 1, c: 2}", "a.c", "[1, {x: 2}]", "{\"a\":{\"b\":1,\"c\":[1,{\"x\":2}]}}"},
        {"a:", "a.b", "true", "{\"a\":{\"b\":true}}"},
        {"t: [{d: 1}, {d: 2}]", "t.1.d", "9", "{\"t\":[{\"d\":1},{\"d\":9}]}"},
        {"t: [1, 2]", "t.0", "{}", "{\"t\":[{},2]}"},
        {"a: 1", "a", "", "{\"a\":null}"},
        {"a: 1", "a", "'1'", "{\"a\":\"1\"}"},
        {"a: {b: 1}", "a", "2", "{\"a\":2}"},
    };
    struct rt_strbuf sb;

    (void)state;
    rt_strbuf_init(&sb);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = parse(row[i].before);

        if (rt_yaml_set(yaml, row[i].path, row[i].value) != 0)
            fail_msg("%s=%s: %s", row[i].path, row[i].value, rt_err_text());
        rt_strbuf_reset(&sb);
        rt_yaml_canonical(rt_yaml_root(yaml), &sb);
        if (strcmp(sb.text, row[i].want) != 0)
            fail_msg("%s=%s: got %s", row[i].path, row[i].value, sb.text);
        rt_yaml_destroy(yaml);
    }
    rt_strbuf_release(&sb);
}

static void set_refuses(void **state)
{
    static const struct {
        const char *before, *path, *value, *part;
    } row[] = {
        {"a: 5", "a.b", "1", "t.yml:1: a: --set: expected a map or a list to go into"},
        {"t: [1]", "t.1", "1", "t.yml:1: t: --set: expected an index below 1, got '1'"},
        {"t: [1]", "t.x.y", "1", "got 'x'"},
        {"", "", "1", "--set: a path is KEY.KEY"},
        {"", "a..b", "1", "--set: a path is KEY.KEY"},
        {"", "a.", "1", "--set: a path is KEY.KEY"},
        {"", ".a", "1", "--set: a path is KEY.KEY"},
        {"", "a.b: c", "1", "--set: a path is KEY.KEY"},
        {"", "a.\xff\xff", "1", "--set: "}, /* no UTF-8: no file could say it */
        {"", "a", "[1", "--set: "},
        {"", "a", "*x", "--set: aliases"},
        {"5", "a", "1", "--set: expected a map"},
        {"", "a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a", "1",
         "at most 32 keys"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = parse(row[i].before);

        expect_error(row[i].path, rt_yaml_set(yaml, row[i].path, row[i].value), RT_EUSAGE,
                     row[i].part);
        rt_yaml_destroy(yaml);
    }
}

static void set_values_name_their_source(void **state)
{
    struct rt_yaml *yaml = parse("staleness: 4\n");
    uint32_t out = 0;

    (void)state;
    assert_int_equal(rt_yaml_set(yaml, "staleness", "abc"), 0);
    expect_error("set", rt_node_u32(rt_node_get(rt_yaml_root(yaml), "staleness"), 1, 9, &out),
                 RT_EUSAGE, "--set: staleness: expected an integer in 1..9, got 'abc'");
    rt_yaml_destroy(yaml);
}

static void canonical_text_ignores_layout(void **state)
{
    static const struct {
        const char *text, *want;
    } row[] = {
        {"b: 1\na: [x, 'y', 0.10, 1e0]\n", "{\"a\":[\"x\",\"y\",0.10000000000000001,1],\"b\":1}"},
        {"{a: ['x', \"y\", 1e-1, 1.0], b: 1}",
         "{\"a\":[\"x\",\"y\",0.10000000000000001,1],\"b\":1}"},
        {"a: -0.0\nb: -3\nc: '3'\nd: ~\n", "{\"a\":0,\"b\":-3,\"c\":\"3\",\"d\":null}"},
    };
    struct rt_strbuf sb;

    (void)state;
    rt_strbuf_init(&sb);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = parse(row[i].text);

        rt_strbuf_reset(&sb);
        rt_yaml_canonical(rt_yaml_root(yaml), &sb);
        if (strcmp(sb.text, row[i].want) != 0)
            fail_msg("row %zu: got %s", i, sb.text);
        rt_yaml_destroy(yaml);
    }
    rt_strbuf_release(&sb);
}

static void writes_readable_text(void **state)
{
    const char *text = "mode: hybrid\n"
                       "note: \"a: b # c\"\n"
                       "version: \"1.0\"\n"
                       "none: null\n"
                       "sizes: [512, 256]\n"
                       "numbers: [-.5, .5, \"-.5\", -0]\n"
                       "empty: {}\n"
                       "tables:\n"
                       "  - name: user\n"
                       "    dim: 16\n"
                       "  - - a: 1\n"
                       "    - [2, 3]\n";
    struct rt_yaml *yaml = parse(text);
    struct rt_strbuf sb;

    (void)state;
    rt_strbuf_init(&sb);
    rt_yaml_write(rt_yaml_root(yaml), &sb);
    assert_string_equal(sb.text, text);
    rt_strbuf_release(&sb);
    rt_yaml_destroy(yaml);
}

/* ---- random trees: written, read back, the same ---- */

struct chance {
    uint64_t key, at;
};

static uint64_t below(struct chance *chance, uint64_t n)
{
    return rt_below(rt_draw(chance->key, chance->at++), n);
}

/* A double-quoted YAML scalar of awkward characters, at times a plain word or number. */
static void random_scalar(struct chance *chance, struct rt_strbuf *out)
{
    static const char *const piece[] = {
        "a",    "-", ":", " ",       "#",     "\\n", "\\t", "'",   "\\\"", "\\\\", ",",
        "[",    "}", "é", "\\u2028", "\\x7f", "1",   ".",   "\\N", "日",   "~",    "null",
        "true", "&", "*", "!",       "%",     "@",   "|",   ">",   "?"};
    static const char *const plain[] = {"a", "-1", "1.5e3", "true", "~", "null", "0", "x/y.z", ""};

    if (below(chance, 2)) {
        rt_strbuf_addf(out, "%s", plain[below(chance, ARRAY_LEN(plain) - 1)]);
        return;
    }
    rt_strbuf_addf(out, "\"");
    for (uint64_t n = below(chance, 6); n > 0; n--)
        rt_strbuf_addf(out, "%s", piece[below(chance, ARRAY_LEN(piece))]);
    rt_strbuf_addf(out, "\"");
}

static void random_tree(struct chance *chance, unsigned depth, struct rt_strbuf *out)
{
    uint64_t kind = depth < 5 ? below(chance, 3) : 0;
    uint64_t n = below(chance, 20) == 0 ? 20 : below(chance, 5);

    if (kind == 0) {
        random_scalar(chance, out);
        return;
    }
    rt_strbuf_addf(out, kind == 1 ? "[" : "{");
    for (uint64_t i = 0; i < n; i++) {
        if (i)
            rt_strbuf_addf(out, ", ");
        if (kind == 2)
            rt_strbuf_addf(out, "%s%llu%s: ", i % 2 ? "\"k \\n" : "k", (unsigned long long)i,
                           i % 2 ? "\"" : "");
        random_tree(chance, depth + 1, out);
    }
    rt_strbuf_addf(out, kind == 1 ? "]" : "}");
}

static void written_trees_read_back_equal(void **state)
{
    struct chance chance = {.key = rt_wall_ms()};
    struct rt_strbuf text, written, want, got;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)chance.key);
    rt_strbuf_init(&text);
    rt_strbuf_init(&written);
    rt_strbuf_init(&want);
    rt_strbuf_init(&got);
    for (int i = 0; i < 2000; i++) {
        struct rt_yaml *first, *second;

        rt_strbuf_reset(&text);
        rt_strbuf_reset(&written);
        rt_strbuf_reset(&want);
        rt_strbuf_reset(&got);
        rt_strbuf_addf(&text, "root: ");
        random_tree(&chance, 0, &text);
        first = parse(text.text);
        rt_yaml_canonical(rt_yaml_root(first), &want);
        rt_yaml_write(rt_yaml_root(first), &written);
        second = parse(written.text);
        rt_yaml_canonical(rt_yaml_root(second), &got);
        if (strcmp(want.text, got.text) != 0)
            fail_msg("tree %d:\n%s\n%s\n%s\n%s", i, text.text, written.text, want.text, got.text);
        rt_yaml_destroy(first);
        rt_yaml_destroy(second);
    }
    rt_strbuf_release(&text);
    rt_strbuf_release(&written);
    rt_strbuf_release(&want);
    rt_strbuf_release(&got);
}

/* Damaged text is refused with a place, or read; never more than that. */
static void damaged_text_does_no_harm(void **state)
{
    static const char whole[] =
        "tables:\n  - {name: user, dim: 16, init: [0, \"a\\x41\"]}\n"
        "  - name: |\n      block\n    dim: 8 # why\nwire: {rows: ~, x: 'y'}\n";
    static const char junk[] = "\n \t:-[]{},#&*!|>'\"%@`~?\\0a\xc3\xff";
    struct chance chance = {.key = rt_wall_ms()};
    char text[sizeof(whole)];
    unsigned refused = 0;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)chance.key);
    for (int i = 0; i < 4000; i++) {
        size_t size = sizeof(whole) - 1;
        struct rt_yaml *yaml = NULL;

        memcpy(text, whole, sizeof(whole));
        for (uint64_t n = 1 + below(&chance, 4); n > 0; n--)
            text[below(&chance, size)] = junk[below(&chance, sizeof(junk))];
        if (below(&chance, 4) == 0)
            size = below(&chance, size);
        if (rt_yaml_parse("t.yml", text, size, &yaml) != 0) {
            refused++;
            assert_memory_equal(rt_err_text(), "t.yml:", 6);
            assert_null(yaml);
        }
        rt_yaml_destroy(yaml);
    }
    assert_true(refused > 400 && refused < 3900);
}

/* ---- files and faults ---- */

static void loads_files(void **state)
{
    char path[TEMP_PATH_MAX];
    struct rt_yaml *yaml = NULL;
    int fd = temp_file(path);

    (void)state;
    close(fd);
    assert_int_equal(rt_file_write(path, "a: 1\n", 5), 0);
    assert_int_equal(rt_yaml_load(path, &yaml), 0);
    assert_string_equal(rt_node_text(rt_node_get(rt_yaml_root(yaml), "a")), "1");
    rt_yaml_destroy(yaml);
    unlink(path);
    expect_error("absent", rt_yaml_load(path, &yaml), RT_EFILE, path);
}

static int load_and_set(struct rt_yaml **out)
{
    static const char text[] = "a: [1, 2, 3, 4, 5, 6]\nb: {c: d, e: {f: g}}\n";
    int err = rt_yaml_parse("t.yml", text, sizeof(text) - 1, out);

    return err ? err : rt_yaml_set(*out, "b.x.y", "[1, {z: 2}]");
}

static void every_allocation_may_fail(void **state)
{
    int failures = 0;

    (void)state;
    for (int nth = 0;; nth++) {
        struct rt_yaml *yaml = NULL;
        int err;

        rt_fault_alloc(nth);
        err = load_and_set(&yaml);
        rt_yaml_destroy(yaml);
        if (!rt_fault_hit()) {
            assert_int_equal(err, 0);
            break;
        }
        assert_int_equal(err, RT_ENOMEM);
        failures++;
    }
    rt_fault_alloc(-1);
    assert_true(failures > 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_bad_text),
        cmocka_unit_test(refuses_what_is_over_limits),
        cmocka_unit_test(many_keys_are_quick),
        cmocka_unit_test(tree_knows_its_places),
        cmocka_unit_test(getters_check_values),
        cmocka_unit_test(absent_values_keep_the_default),
        cmocka_unit_test(keys_that_must_and_may_be),
        cmocka_unit_test(set_changes_the_tree),
        cmocka_unit_test(set_refuses),
        cmocka_unit_test(set_values_name_their_source),
        cmocka_unit_test(canonical_text_ignores_layout),
        cmocka_unit_test(writes_readable_text),
        cmocka_unit_test(written_trees_read_back_equal),
        cmocka_unit_test(damaged_text_does_no_harm),
        cmocka_unit_test(loads_files),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
