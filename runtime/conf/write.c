/* runtime/conf/write.c -- a tree as YAML again, and as one canonical line.
 *
 * YAML: maps and lists in block form; a short list of simple values stays on one line. A plain value goes
 * out plain when it is made of harmless characters or reads as a number; any other is quoted, which changes
 * nothing, since only what could be a number, a boolean, null or a model's $parameter cares whether it was quoted.
 *
 * The canonical line is JSON-like: {"key":value,...} by key; numbers as integers or with 17 digits. */
#include "runtime/conf/yaml.h"
#include "runtime/conf/tree.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define INDENT       2
#define ONE_LINE_MAX 16 /* items of a list that stays on one line */

/* Could be read as something else than text when it stands without quotes. */
static bool reads_as_value(const char *text)
{
    double number;
    bool truth;

    return rt_text_null(text) || rt_text_bool(text, &truth) || rt_text_f64(text, &number);
}

/* Letters, digits and _ . / + -, so that neither its place nor its neighbours matter. */
static bool harmless(const char *text)
{
    static const char safe[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./+-";

    if (!*text || text[strspn(text, safe)])
        return false;
    /* "-" alone, "---" and "..." mean something in YAML. */
    return text[0] != '-' || (text[1] >= '0' && text[1] <= '9') ? strcmp(text, "...") != 0 : false;
}

/* `$name` as model files have it: quoted it would be a text. */
static bool is_plain_parameter(const struct rt_node *node)
{
    return !node->quoted && node->text[0] == '$' && harmless(node->text + 1);
}

/* Code point of the UTF-8 character at `text` (libyaml has checked it) and its length. */
static uint32_t code_point(const char *text, size_t *len)
{
    const unsigned char *p = (const unsigned char *)text;
    uint32_t point = p[0];

    *len = p[0] < 0x80 ? 1 : p[0] < 0xe0 ? 2 : p[0] < 0xf0 ? 3 : 4;
    if (*len > 1)
        point &= 0xffu >> (*len + 1);
    for (size_t i = 1; i < *len; i++) {
        if ((p[i] & 0xc0) != 0x80) { /* not UTF-8 after all: one byte at a time */
            *len = 1;
            return p[0];
        }
        point = point << 6 | (p[i] & 0x3f);
    }
    return point;
}

/* Control characters, the line breaks of Unicode and the byte order mark. */
static bool needs_escape(uint32_t point)
{
    return point < 0x20 || (point >= 0x7f && point < 0xa0) || point == 0x2028 || point == 0x2029 ||
           point == 0xfeff;
}

static void put_quoted(const char *text, struct rt_strbuf *out)
{
    size_t len;

    rt_strbuf_add(out, "\"", 1);
    for (; *text; text += len) {
        uint32_t point = code_point(text, &len);

        if (point == '"' || point == '\\')
            rt_strbuf_addf(out, "\\%c", (int)point);
        else if (needs_escape(point))
            rt_strbuf_addf(out, "\\u%04x", point);
        else
            rt_strbuf_add(out, text, len);
    }
    rt_strbuf_add(out, "\"", 1);
}

static void put_scalar(const struct rt_node *node, struct rt_strbuf *out)
{
    /* A plain `-.5` is a number, so it must stay plain though it begins with a dash. */
    if (rt_node_is_null(node))
        rt_strbuf_add(out, "null", 4);
    else if (reads_as_value(node->text) ? !node->quoted
                                        : harmless(node->text) || is_plain_parameter(node))
        rt_strbuf_addf(out, "%s", node->text);
    else
        put_quoted(node->text, out);
}

static void put_key(const char *key, struct rt_strbuf *out)
{
    if (harmless(key))
        rt_strbuf_addf(out, "%s", key);
    else
        put_quoted(key, out);
}

static bool fits_one_line(const struct rt_node *list)
{
    if (list->count > ONE_LINE_MAX)
        return false;
    for (size_t i = 0; i < list->count; i++) {
        if (list->child[i]->kind != RT_NODE_SCALAR)
            return false;
    }
    return true;
}

/* Scalars, short lists and what is empty: the ones that stand behind "key: ". */
static bool put_inline(const struct rt_node *node, struct rt_strbuf *out)
{
    if (node->kind == RT_NODE_SCALAR) {
        put_scalar(node, out);
        return true;
    }
    if (node->kind == RT_NODE_MAP && node->count == 0) {
        rt_strbuf_add(out, "{}", 2);
        return true;
    }
    if (node->kind == RT_NODE_MAP || !fits_one_line(node))
        return false;
    rt_strbuf_add(out, "[", 1);
    for (size_t i = 0; i < node->count; i++) {
        if (i)
            rt_strbuf_add(out, ", ", 2);
        put_scalar(node->child[i], out);
    }
    rt_strbuf_add(out, "]", 1);
    return true;
}

static void put_spaces(size_t n, struct rt_strbuf *out)
{
    while (n--)
        rt_strbuf_add(out, " ", 1);
}

/* The children of a map or list, a line each and more. `indented`: the first line has its spaces. */
static void put_block(const struct rt_node *node, size_t indent, bool indented,
                      struct rt_strbuf *out)
{
    for (size_t i = 0; i < node->count; i++) {
        const struct rt_node *child = node->child[i];

        if (i || !indented)
            put_spaces(indent, out);
        if (node->kind == RT_NODE_LIST) {
            rt_strbuf_add(out, "- ", 2);
            if (put_inline(child, out))
                rt_strbuf_add(out, "\n", 1);
            else
                put_block(child, indent + INDENT, true, out);
            continue;
        }
        put_key(child->key, out);
        rt_strbuf_add(out, ": ", 2);
        if (put_inline(child, out)) {
            rt_strbuf_add(out, "\n", 1);
            continue;
        }
        out->text[out->len - 1] = '\n';
        put_block(child, indent + INDENT, false, out);
    }
}

void rt_yaml_write(const struct rt_node *node, struct rt_strbuf *out)
{
    if (put_inline(node, out))
        rt_strbuf_add(out, "\n", 1);
    else
        put_block(node, 0, false, out);
}

/* ---- canonical ---- */

static void put_canonical_scalar(const struct rt_node *node, struct rt_strbuf *out)
{
    int64_t whole;
    uint64_t large;
    double number;
    bool truth;

    if (node->quoted)
        put_quoted(node->text, out);
    else if (rt_text_null(node->text))
        rt_strbuf_add(out, "null", 4);
    else if (rt_text_bool(node->text, &truth))
        rt_strbuf_addf(out, "%s", node->text);
    else if (rt_text_u64(node->text, &large))
        rt_strbuf_addf(out, "%" PRIu64, large);
    else if (rt_text_i64(node->text, &whole))
        rt_strbuf_addf(out, "%" PRId64, whole);
    else if (rt_text_f64(node->text, &number))
        rt_strbuf_addf(out, "%.17g", number == 0 ? 0.0 : number);
    else
        put_quoted(node->text, out);
}

static int by_key(const void *a, const void *b)
{
    const struct rt_node *const *x = a, *const *y = b;

    return strcmp((*x)->key, (*y)->key);
}

/* @without: a key that is left out; NULL: none. */
static void put_canonical_map(const struct rt_node *map, const char *without, struct rt_strbuf *out)
{
    const struct rt_node **sorted = rt_xcalloc(map->count, sizeof(struct rt_node *));
    size_t n = 0;

    for (size_t i = 0; i < map->count; i++)
        if (!without || strcmp(map->child[i]->key, without) != 0)
            sorted[n++] = map->child[i];
    if (n)
        qsort(sorted, n, sizeof(struct rt_node *), by_key);
    rt_strbuf_add(out, "{", 1);
    for (size_t i = 0; i < n; i++) {
        if (i)
            rt_strbuf_add(out, ",", 1);
        put_quoted(sorted[i]->key, out);
        rt_strbuf_add(out, ":", 1);
        rt_yaml_canonical(sorted[i], out);
    }
    rt_strbuf_add(out, "}", 1);
    rt_free(sorted);
}

void rt_yaml_canonical(const struct rt_node *node, struct rt_strbuf *out)
{
    if (node->kind == RT_NODE_SCALAR) {
        put_canonical_scalar(node, out);
        return;
    }
    if (node->kind == RT_NODE_MAP) {
        put_canonical_map(node, NULL, out);
        return;
    }
    rt_strbuf_add(out, "[", 1);
    for (size_t i = 0; i < node->count; i++) {
        if (i)
            rt_strbuf_add(out, ",", 1);
        rt_yaml_canonical(node->child[i], out);
    }
    rt_strbuf_add(out, "]", 1);
}

void rt_yaml_canonical_without(const struct rt_node *map, const char *key, struct rt_strbuf *out)
{
    put_canonical_map(map, key, out);
}
