/* runtime/conf/option.c -- the option table at work.
 *
 * Every value, be it a default, a line of a file or an environment variable, takes the same way: a scalar
 * node with a place to blame, converted by node.c into the field that the table names. A default that its
 * own entry refuses is a bug of ours and ends the process. */
#include "runtime/conf/option.h"
#include "runtime/conf/tree.h"
#include "runtime/conf/yaml.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <float.h>
#include <stdio.h>
#include <string.h>

#define KEY_MAX     128 /* bytes of a dotted key */
#define OPTIONS_MAX 256 /* entries of one table */

struct load {
    const struct rt_option *table;
    size_t n;
    char *fields; /* the struct that is filled */
    struct rt_arena *arena;
    char base[2 * KEY_MAX]; /* path of the map from its root, with a dot behind; or "" */
};

/* ---- one value ---- */

static bool unbounded(const struct rt_option *option)
{
    return option->min == 0 && option->max == 0;
}

static uint64_t u64_max(const struct rt_option *option)
{
    uint64_t most = option->type == RT_OPT_U32 ? UINT32_MAX : UINT64_MAX;

    return unbounded(option) || option->max >= (double)most ? most : (uint64_t)option->max;
}

static int set_str(struct rt_arena *arena, const struct rt_option *option,
                   const struct rt_node *node, const char **out)
{
    const char *text;
    int err;

    if (rt_node_is_null(node))
        return 0;
    err = rt_node_str(node, &text);
    if (!err && arena) {
        text = rt_arena_strdup(arena, text);
        if (!text)
            return RT_FAIL(RT_ENOMEM, "option %s: out of memory", option->key);
    }
    if (!err)
        *out = text;
    return err;
}

static int set_value(const struct load *load, const struct rt_option *option,
                     const struct rt_node *node)
{
    void *field = load->fields + option->offset;

    switch (option->type) {
    case RT_OPT_BOOL:
        return rt_node_bool(node, field);
    case RT_OPT_U32:
        return rt_node_u32(node, (uint32_t)option->min, (uint32_t)u64_max(option), field);
    case RT_OPT_U64:
        return rt_node_u64(node, (uint64_t)option->min, u64_max(option), field);
    case RT_OPT_F64:
        return rt_node_f64(node, unbounded(option) ? -DBL_MAX : option->min,
                           unbounded(option) ? DBL_MAX : option->max, field);
    case RT_OPT_STR:
        return set_str(load->arena, option, node, field);
    case RT_OPT_ENUM:
        return rt_node_choice(node, option->choices, field);
    case RT_OPT_NODE:
        *(const struct rt_node **)field = rt_node_is_null(node) ? NULL : node;
        return 0;
    }
    rt_assert(!"an option type");
    return RT_EUSAGE;
}

static void set_zero(const struct load *load, const struct rt_option *option)
{
    static const size_t size[] = {
        [RT_OPT_BOOL] = sizeof(bool),         [RT_OPT_U32] = sizeof(uint32_t),
        [RT_OPT_U64] = sizeof(uint64_t),      [RT_OPT_F64] = sizeof(double),
        [RT_OPT_STR] = sizeof(const char *),  [RT_OPT_ENUM] = sizeof(uint32_t),
        [RT_OPT_NODE] = sizeof(const void *),
    };

    memset(load->fields + option->offset, 0, size[option->type]);
}

/* `text` as the option's value; `source` stands where file and line would. */
static int set_text(const struct load *load, const struct rt_option *option, const char *text,
                    const char *source)
{
    struct rt_node node = {
        .kind = RT_NODE_SCALAR, .file = source, .key = option->key, .text = text};

    node.quoted = option->type == RT_OPT_STR; /* "" and "null" are texts here */
    rt_assert(option->type != RT_OPT_NODE);
    return set_value(load, option, &node);
}

static int set_defaults(const struct load *load)
{
    for (size_t i = 0; i < load->n; i++) {
        const struct rt_option *option = &load->table[i];
        int err;

        set_zero(load, option);
        if (!option->def)
            continue;
        err = set_text(load, option, option->def, "default");
        rt_assert(err == 0 || err == RT_ENOMEM);
        if (err)
            return err;
    }
    return 0;
}

/* ---- a map ---- */

static int load_group(const struct load *load, const struct rt_node *node, const char *path);

static const struct rt_option *find(const struct rt_option *table, size_t n, const char *key)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(table[i].key, key) == 0)
            return &table[i];
    }
    return NULL;
}

/* Some key goes on after `path` and a dot. */
static bool is_group(const struct load *load, const char *path)
{
    size_t len = strlen(path);

    for (size_t i = 0; i < load->n; i++) {
        if (strncmp(load->table[i].key, path, len) == 0 && load->table[i].key[len] == '.')
            return true;
    }
    return false;
}

/* The key whose last part is what the path ends in: right name, wrong group. NULL: none. */
static const char *same_last_part(const struct load *load, const char *path)
{
    const char *dot = strrchr(path, '.');
    const char *last = dot ? dot + 1 : path;

    for (size_t i = 0; i < load->n; i++) {
        const char *key = load->table[i].key;
        const char *key_dot = strrchr(key, '.');

        if (strcmp(key_dot ? key_dot + 1 : key, last) == 0)
            return key;
    }
    return NULL;
}

static int unknown_key(const struct load *load, const struct rt_node *node, const char *path)
{
    const char *word[2 * OPTIONS_MAX];
    char group[OPTIONS_MAX][KEY_MAX];
    char where[320], full[256], hint[512] = "";
    const char *same = same_last_part(load, path);
    size_t n = 0;

    for (size_t i = 0; i < load->n; i++) {
        word[n++] = load->table[i].key;
        snprintf(group[i], KEY_MAX, "%.*s", (int)strcspn(load->table[i].key, "."),
                 load->table[i].key);
        word[n++] = group[i];
    }
    if (same)
        snprintf(hint, sizeof(hint), " (did you mean '%s%s'?)", load->base, same);
    return RT_FAIL(RT_EUSAGE, "%s: unknown key '%s'%s", rt_node_where(node, where, sizeof(where)),
                   rt_node_path(node, full, sizeof(full)),
                   same ? hint : rt_did_you_mean(path, word, n, load->base, hint, sizeof(hint)));
}

/* `prefix`: path of `map` below the one that was given; "" for that one. */
static int load_map(const struct load *load, const struct rt_node *map, const char *prefix)
{
    int err = 0;

    for (size_t i = 0; i < rt_node_count(map) && !err; i++) {
        const struct rt_node *node = rt_node_at(map, i);
        const char *key = rt_node_key_at(map, i);
        const struct rt_option *option;
        char path[KEY_MAX];
        int len = snprintf(path, sizeof(path), "%s%s%s", prefix, *prefix ? "." : "", key);

        if (len >= (int)sizeof(path))
            return unknown_key(load, node, path);
        option = find(load->table, load->n, path);
        if (strchr(key, '.') && (option || is_group(load, path)))
            err = rt_node_fail(node, "a dotted key: write it as maps inside each other");
        else if (option)
            err = set_value(load, option, node);
        else if (!is_group(load, path))
            err = unknown_key(load, node, path);
        else if (!rt_node_is_null(node))
            err = load_group(load, node, path);
    }
    return err;
}

static int load_group(const struct load *load, const struct rt_node *node, const char *path)
{
    int err = rt_node_want_map(node);

    return err ? err : load_map(load, node, path);
}

int rt_options_load(const struct rt_option *table, size_t n, const struct rt_node *map,
                    void *out_struct, struct rt_arena *arena)
{
    struct load load = {.table = table, .n = n, .fields = out_struct, .arena = arena};
    int err;

    rt_assert(n <= OPTIONS_MAX);
    err = set_defaults(&load);
    return err ? err : rt_options_overlay(table, n, map, out_struct, arena);
}

int rt_options_overlay(const struct rt_option *table, size_t n, const struct rt_node *map,
                       void *out_struct, struct rt_arena *arena)
{
    struct load load = {.table = table, .n = n, .fields = out_struct, .arena = arena};
    size_t len;
    int err = rt_node_want_map(map);

    if (err || !map)
        return err;
    rt_node_path(map, load.base, sizeof(load.base) - 1);
    len = strlen(load.base);
    if (len)
        load.base[len] = '.';
    return load_map(&load, map, "");
}

int rt_options_set(const struct rt_option *table, size_t n, const char *key, const char *text,
                   const char *source, void *out_struct, struct rt_arena *arena)
{
    struct load load = {.table = table, .n = n, .fields = out_struct, .arena = arena};
    const struct rt_option *option = find(table, n, key);

    rt_assert(option != NULL);
    return set_text(&load, option, text, source);
}

/* ---- help ---- */

/* "integer in 1..1024", "full|hybrid" with `between` for the bar. */
static void put_kind(const struct rt_option *option, const char *between, struct rt_strbuf *out)
{
    switch (option->type) {
    case RT_OPT_BOOL:
        rt_strbuf_addf(out, "true%sfalse", between);
        return;
    case RT_OPT_U32:
    case RT_OPT_U64:
        rt_strbuf_addf(out, "integer");
        break;
    case RT_OPT_F64:
        rt_strbuf_addf(out, "number");
        break;
    case RT_OPT_STR:
        rt_strbuf_addf(out, "text");
        return;
    case RT_OPT_ENUM:
        for (const char *c = option->choices; *c; c++) {
            if (*c == '|')
                rt_strbuf_addf(out, "%s", between);
            else
                rt_strbuf_add(out, c, 1);
        }
        return;
    case RT_OPT_NODE:
        rt_strbuf_addf(out, "list or map");
        return;
    }
    if (unbounded(option))
        return;
    if (option->max >= 0x1p53)
        rt_strbuf_addf(out, ", at least %.15g", option->min);
    else if (option->type == RT_OPT_F64)
        rt_strbuf_addf(out, " in %.15g..%.15g", option->min, option->max);
    else
        rt_strbuf_addf(out, " in %.0f..%.0f", option->min, option->max);
}

static void put_default(const struct rt_option *option, struct rt_strbuf *out)
{
    if (option->def)
        rt_strbuf_addf(out, "%s", *option->def ? option->def : "empty");
    else if (option->type == RT_OPT_STR || option->type == RT_OPT_NODE)
        rt_strbuf_addf(out, "none");
    else if (option->type == RT_OPT_BOOL)
        rt_strbuf_addf(out, "false");
    else if (option->type == RT_OPT_ENUM)
        rt_strbuf_add(out, option->choices, strcspn(option->choices, "|"));
    else
        rt_strbuf_addf(out, "0");
}

void rt_options_help(const struct rt_option *table, size_t n, const char *prefix,
                     struct rt_strbuf *out)
{
    for (size_t i = 0; i < n; i++) {
        rt_strbuf_addf(out, "| `%s%s` | ", prefix, table[i].key);
        put_kind(&table[i], " \\| ", out);
        rt_strbuf_addf(out, " | ");
        put_default(&table[i], out);
        rt_strbuf_addf(out, " | %s |\n", table[i].help);
    }
}

void rt_options_help_plain(const struct rt_option *table, size_t n, const char *prefix,
                           struct rt_strbuf *out)
{
    for (size_t i = 0; i < n; i++) {
        rt_strbuf_addf(out, "  %s%s  (", prefix, table[i].key);
        put_kind(&table[i], "|", out);
        rt_strbuf_addf(out, "; default ");
        put_default(&table[i], out);
        rt_strbuf_addf(out, ")\n      %s\n", table[i].help);
    }
}
