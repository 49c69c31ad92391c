/* runtime/conf/yaml.h -- a YAML file as a small tree whose every node knows its file and line.
 *
 * The tree and all its text live in one arena and die with rt_yaml_destroy(). A subset of YAML on purpose:
 * one document of scalars, lists and maps; anchors, aliases and tags are refused, so are duplicate keys,
 * NUL characters and anything over the limits. Errors are RT_EUSAGE (what the user wrote), RT_EFILE,
 * RT_ELIMIT or RT_ENOMEM, with a text that begins with `file:line: `. Touch: owner thread. */
#ifndef RT_YAML_H
#define RT_YAML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_YAML_BYTES_MAX (1024 * 1024) /* of one file */
#define RT_YAML_NODES_MAX 100000
#define RT_YAML_DEPTH_MAX 32
#define RT_YAML_KEY_MAX   128 /* bytes */

struct rt_strbuf;
struct rt_yaml;
struct rt_node;

enum rt_node_kind { RT_NODE_SCALAR, RT_NODE_LIST, RT_NODE_MAP };

/* ---- the document ---- */

int rt_yaml_load(const char *path, struct rt_yaml **out);
/* `name` stands for the path in error texts; the text is copied. */
int rt_yaml_parse(const char *name, const char *text, size_t size, struct rt_yaml **out);
void rt_yaml_destroy(struct rt_yaml *yaml); /* NULL is legal */
/* Never NULL: an empty file is an empty map. */
const struct rt_node *rt_yaml_root(const struct rt_yaml *yaml);

/* Put `value` (parsed as YAML: a scalar, [list] or {map}) at a dotted path below the root, `a.b` or
 * `tables.0.dim` for the first list item. Missing maps are made, a present value is replaced. Such nodes show
 * "--set" where a file and line would stand. Nodes got before stay readable. */
int rt_yaml_set(struct rt_yaml *yaml, const char *dotted_path, const char *value);

/* Append the tree as YAML: it reads back as an equal tree. Comments are gone. */
void rt_yaml_write(const struct rt_node *node, struct rt_strbuf *out);

/* Append one line that is the same for trees that mean the same: keys sorted, numbers in one notation,
 * quotes and layout gone. For hashing. */
void rt_yaml_canonical(const struct rt_node *node, struct rt_strbuf *out);
/* A map, without one of its keys. */
void rt_yaml_canonical_without(const struct rt_node *map, const char *key, struct rt_strbuf *out);

/* ---- nodes ---- */

enum rt_node_kind rt_node_kind(const struct rt_node *node);
/* A scalar written as nothing, `~` or `null`. */
bool rt_node_is_null(const struct rt_node *node);
/* Scalar: its text; lists and maps: "". */
const char *rt_node_text(const struct rt_node *node);
/* Written in quotes or as a block (| >): text even if it looks like a number. */
bool rt_node_quoted(const struct rt_node *node);

size_t rt_node_count(const struct rt_node *node); /* items of a list or map; 0 for a scalar */
const struct rt_node *rt_node_at(const struct rt_node *node, size_t i); /* i < count; file order */
const char *rt_node_key_at(const struct rt_node *map, size_t i);        /* i < count */
/* NULL when absent, or when `map` is NULL or no map. */
const struct rt_node *rt_node_get(const struct rt_node *map, const char *key);
/* As rt_node_get() along "a.b.c". */
const struct rt_node *rt_node_find(const struct rt_node *map, const char *dotted_path);

/* ---- values with complaints ----
 *
 * Each takes the node (not the map it is in). NULL: 0, and *out stays what it was, so the default may
 * stand there: `rt_node_u64(rt_node_get(map, "dim"), 1, 4096, &dim)`. A value that does not fit is RT_EUSAGE:
 * `embedding.yml:12: tables[0].dim: expected an integer in 1..4096, got 'abc'`. */

int rt_node_bool(const struct rt_node *node, bool *out);
int rt_node_u32(const struct rt_node *node, uint32_t min, uint32_t max, uint32_t *out);
int rt_node_u64(const struct rt_node *node, uint64_t min, uint64_t max, uint64_t *out);
int rt_node_i64(const struct rt_node *node, int64_t min, int64_t max, int64_t *out);
int rt_node_f64(const struct rt_node *node, double min, double max, double *out); /* finite */
/* *out lives as long as the tree. Any scalar but null is a string. */
int rt_node_str(const struct rt_node *node, const char **out);
/* `choices` as "full|hybrid|async"; *out is the index. */
int rt_node_choice(const struct rt_node *node, const char *choices, uint32_t *out);
/* The node is a list (map), or a complaint. NULL is legal. */
int rt_node_want_list(const struct rt_node *node);
int rt_node_want_map(const struct rt_node *node);
/* The value of a key that must be there. */
int rt_node_need(const struct rt_node *map, const char *key, const struct rt_node **out);
/* Every key of `map` is one of `known`, or a complaint with the nearest. For maps without option table. */
int rt_node_known_keys(const struct rt_node *map, const char *const *known, size_t n);

/* RT_FAIL(RT_EUSAGE) with "file:line: path: " in front. */
int rt_node_fail(const struct rt_node *node, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
/* "global.yml:7" or "--set", cut to `size`; returns `out`. */
const char *rt_node_where(const struct rt_node *node, char *out, size_t size);
/* "tables[0].dim" from the root; "" for the root itself; returns `out`. */
const char *rt_node_path(const struct rt_node *node, char *out, size_t size);

#endif
