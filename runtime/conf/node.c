/* runtime/conf/node.c -- asking a tree, and saying where it answers wrong.
 *
 * What a plain text means is decided here and not by YAML's resolver: `true` and `false` are the only
 * booleans (so `no` stays a country), integers are decimal, and what was quoted is text. A complaint names
 * file, line, the whole path, what was expected and what was got. */
#include "runtime/conf/yaml.h"
#include "runtime/conf/tree.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/strbuf.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_MAX_BYTES  256
#define WHERE_MAX_BYTES 320
#define SHOWN_MAX       64

/* ---- what a text is ---- */

bool rt_text_u64(const char *text, uint64_t *out)
{
    uint64_t sum = 0;

    if (!*text || (text[0] == '0' && text[1]))
        return false;
    for (; *text; text++) {
        if (*text < '0' || *text > '9' || __builtin_mul_overflow(sum, 10, &sum) ||
            __builtin_add_overflow(sum, (uint64_t)(*text - '0'), &sum))
            return false;
    }
    *out = sum;
    return true;
}

bool rt_text_i64(const char *text, int64_t *out)
{
    bool negative = text[0] == '-';
    uint64_t size;

    if (!rt_text_u64(text + negative, &size) || size > (uint64_t)INT64_MAX + negative)
        return false;
    *out = negative ? (int64_t)(0 - size) : (int64_t)size;
    return true;
}

bool rt_text_f64(const char *text, double *out)
{
    char *end;
    double value;

    if (!*text || text[strspn(text, "0123456789+-.eE")] != '\0')
        return false; /* strtod would take "inf", "nan" and hexadecimal too */
    value = strtod(text, &end);
    if (*end || !isfinite(value))
        return false;
    *out = value;
    return true;
}

bool rt_text_bool(const char *text, bool *out)
{
    bool yes = strcmp(text, "true") == 0;

    if (!yes && strcmp(text, "false") != 0)
        return false;
    *out = yes;
    return true;
}

bool rt_text_null(const char *text)
{
    return !*text || strcmp(text, "~") == 0 || strcmp(text, "null") == 0;
}

int rt_choice_index(const char *choices, const char *word)
{
    size_t len = strlen(word);
    int index = 0;

    for (const char *at = choices;; index++) {
        size_t n = strcspn(at, "|");

        if (n == len && n && memcmp(at, word, n) == 0)
            return index;
        if (!at[n])
            return -1;
        at += n + 1;
    }
}

/* ---- the tree ---- */

enum rt_node_kind rt_node_kind(const struct rt_node *node)
{
    return node->kind;
}

bool rt_node_is_null(const struct rt_node *node)
{
    return node->kind == RT_NODE_SCALAR && !node->quoted && rt_text_null(node->text);
}

const char *rt_node_text(const struct rt_node *node)
{
    return node->text;
}

bool rt_node_quoted(const struct rt_node *node)
{
    return node->quoted;
}

size_t rt_node_count(const struct rt_node *node)
{
    return node->count;
}

const struct rt_node *rt_node_at(const struct rt_node *node, size_t i)
{
    rt_assert(i < node->count);
    return node->child[i];
}

const char *rt_node_key_at(const struct rt_node *map, size_t i)
{
    rt_assert(i < map->count && map->kind == RT_NODE_MAP);
    return map->child[i]->key;
}

/* As rt_node_get(); the key is the first `len` bytes. */
static const struct rt_node *get_n(const struct rt_node *map, const char *key, size_t len)
{
    if (!map || map->kind != RT_NODE_MAP)
        return NULL;
    for (size_t i = 0; i < map->count; i++) {
        const char *have = map->child[i]->key;

        if (strncmp(have, key, len) == 0 && !have[len])
            return map->child[i];
    }
    return NULL;
}

const struct rt_node *rt_node_get(const struct rt_node *map, const char *key)
{
    return get_n(map, key, strlen(key));
}

const struct rt_node *rt_node_find(const struct rt_node *map, const char *dotted_path)
{
    while (map) {
        size_t len = strcspn(dotted_path, ".");

        map = get_n(map, dotted_path, len);
        if (!dotted_path[len])
            break;
        dotted_path += len + 1;
    }
    return map;
}

/* ---- complaints ---- */

const char *rt_node_where(const struct rt_node *node, char *out, size_t size)
{
    if (node->line)
        snprintf(out, size, "%s:%d", node->file, node->line);
    else
        snprintf(out, size, "%s", node->file);
    return out;
}

/* From the root down; how many characters the whole path has. */
static size_t put_path(const struct rt_node *node, char *out, size_t size)
{
    size_t len = node->parent ? put_path(node->parent, out, size) : 0;
    size_t at = len < size ? len : size - 1;
    char shown[SHOWN_MAX];
    int n = 0;

    if (node->key)
        n = snprintf(out + at, size - at, "%s%s", len ? "." : "",
                     rt_log_escape(node->key, shown, sizeof(shown)));
    else if (node->parent)
        n = snprintf(out + at, size - at, "[%zu]", node->index);
    return len + (size_t)n;
}

const char *rt_node_path(const struct rt_node *node, char *out, size_t size)
{
    rt_assert(size > 0);
    out[0] = '\0';
    put_path(node, out, size);
    return out;
}

int rt_node_fail(const struct rt_node *node, const char *fmt, ...)
{
    char where[WHERE_MAX_BYTES], path[PATH_MAX_BYTES], text[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    rt_node_where(node, where, sizeof(where));
    rt_node_path(node, path, sizeof(path));
    return RT_FAIL(RT_EUSAGE, "%s: %s%s%s", where, path, *path ? ": " : "", text);
}

/* How a complaint names what it found: 'abc', '"5"', a list, a map, nothing. */
static const char *got(const struct rt_node *node, char *out, size_t size)
{
    char text[SHOWN_MAX];

    if (node->kind != RT_NODE_SCALAR)
        return node->kind == RT_NODE_LIST ? "a list" : "a map";
    if (rt_node_is_null(node))
        return "nothing";
    rt_log_escape(node->text, text, sizeof(text));
    snprintf(out, size, node->quoted ? "'\"%s\"'" : "'%s'", text);
    return out;
}

int rt_node_expected(const struct rt_node *node, const char *want)
{
    char shown[SHOWN_MAX + 8];

    return rt_node_fail(node, "expected %s, got %s", want, got(node, shown, sizeof(shown)));
}

const char *rt_did_you_mean(const char *word, const char *const *words, size_t n,
                            const char *prefix, char *out, size_t size)
{
    const char *nearest = rt_nearest(word, words, n);

    if (!nearest)
        return "";
    snprintf(out, size, " (did you mean '%s%s'?)", prefix, nearest);
    return out;
}

/* ---- values ---- */

static bool plain(const struct rt_node *node)
{
    return node->kind == RT_NODE_SCALAR && !node->quoted;
}

int rt_node_bool(const struct rt_node *node, bool *out)
{
    if (!node || (plain(node) && rt_text_bool(node->text, out)))
        return 0;
    return rt_node_expected(node, "true or false");
}

int rt_node_u64(const struct rt_node *node, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value;
    char want[96];

    if (!node)
        return 0;
    if (plain(node) && rt_text_u64(node->text, &value) && value >= min && value <= max) {
        *out = value;
        return 0;
    }
    if (max == UINT64_MAX)
        snprintf(want, sizeof(want), "an integer of at least %" PRIu64, min);
    else
        snprintf(want, sizeof(want), "an integer in %" PRIu64 "..%" PRIu64, min, max);
    return rt_node_expected(node, want);
}

int rt_node_u32(const struct rt_node *node, uint32_t min, uint32_t max, uint32_t *out)
{
    uint64_t value = *out;
    int err = rt_node_u64(node, min, max, &value);

    if (!err)
        *out = (uint32_t)value;
    return err;
}

int rt_node_i64(const struct rt_node *node, int64_t min, int64_t max, int64_t *out)
{
    int64_t value;
    char want[96];

    if (!node)
        return 0;
    if (plain(node) && rt_text_i64(node->text, &value) && value >= min && value <= max) {
        *out = value;
        return 0;
    }
    if (max == INT64_MAX && min == INT64_MIN)
        return rt_node_expected(node, "an integer");
    snprintf(want, sizeof(want), "an integer in %" PRId64 "..%" PRId64, min, max);
    return rt_node_expected(node, want);
}

int rt_node_f64(const struct rt_node *node, double min, double max, double *out)
{
    double value;
    char want[96];

    if (!node)
        return 0;
    if (plain(node) && rt_text_f64(node->text, &value) && value >= min && value <= max) {
        *out = value;
        return 0;
    }
    if (max >= DBL_MAX && min <= -DBL_MAX)
        return rt_node_expected(node, "a number");
    if (max >= DBL_MAX)
        snprintf(want, sizeof(want), "a number of at least %g", min);
    else
        snprintf(want, sizeof(want), "a number in %g..%g", min, max);
    return rt_node_expected(node, want);
}

int rt_node_str(const struct rt_node *node, const char **out)
{
    if (!node)
        return 0;
    if (node->kind != RT_NODE_SCALAR || rt_node_is_null(node))
        return rt_node_expected(node, "text");
    *out = node->text;
    return 0;
}

int rt_node_choice(const struct rt_node *node, const char *choices, uint32_t *out)
{
    int index = -1;

    if (!node)
        return 0;
    if (node->kind == RT_NODE_SCALAR)
        index = rt_choice_index(choices, node->text);
    if (index < 0)
        return rt_node_expected(node, choices);
    *out = (uint32_t)index;
    return 0;
}

int rt_node_want_list(const struct rt_node *node)
{
    return !node || node->kind == RT_NODE_LIST ? 0 : rt_node_expected(node, "a list");
}

int rt_node_want_map(const struct rt_node *node)
{
    return !node || node->kind == RT_NODE_MAP ? 0 : rt_node_expected(node, "a map");
}

int rt_node_need(const struct rt_node *map, const char *key, const struct rt_node **out)
{
    const struct rt_node *node = rt_node_get(map, key);

    if (!node)
        return map->kind == RT_NODE_MAP ? rt_node_fail(map, "missing key '%s'", key)
                                        : rt_node_expected(map, "a map");
    *out = node;
    return 0;
}

static bool in_words(const char *word, const char *const *words, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(word, words[i]) == 0)
            return true;
    }
    return false;
}

int rt_node_known_keys(const struct rt_node *map, const char *const *known, size_t n)
{
    char where[WHERE_MAX_BYTES], path[PATH_MAX_BYTES], prefix[PATH_MAX_BYTES + 2], hint[512];
    int err = rt_node_want_map(map);

    if (err || !map)
        return err;
    for (size_t i = 0; i < map->count; i++) {
        const struct rt_node *node = map->child[i];

        if (in_words(node->key, known, n))
            continue;
        rt_node_path(map, path, sizeof(path));
        snprintf(prefix, sizeof(prefix), "%s%s", path, *path ? "." : "");
        rt_node_where(node, where, sizeof(where));
        rt_node_path(node, path, sizeof(path));
        return RT_FAIL(RT_EUSAGE, "%s: unknown key '%s'%s", where, path,
                       rt_did_you_mean(node->key, known, n, prefix, hint, sizeof(hint)));
    }
    return 0;
}
