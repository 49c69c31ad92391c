/* runtime/conf/tree.h -- the node as the files of this folder see it. Everyone else uses yaml.h. */
#ifndef RT_CONF_TREE_H
#define RT_CONF_TREE_H

#include "runtime/conf/yaml.h"

struct rt_node {
    enum rt_node_kind kind;
    bool quoted;
    int line; /* 0: `file` alone says where ("--set", an environment variable) */
    const char *file;
    const char *key;  /* inside a map; NULL in a list and for the root */
    const char *text; /* of a scalar; "" otherwise */
    struct rt_node *parent;
    size_t index; /* place among the parent's children */
    struct rt_node **child;
    size_t count, capacity;
};

/* What a plain text is. Integers are decimal without leading zeros or '+'. */
bool rt_text_u64(const char *text, uint64_t *out);
bool rt_text_i64(const char *text, int64_t *out);
bool rt_text_f64(const char *text, double *out); /* finite */
bool rt_text_bool(const char *text, bool *out);
bool rt_text_null(const char *text);

/* Index of `word` in "a|b|c", or -1. */
int rt_choice_index(const char *choices, const char *word);

/* " (did you mean 'x'?)", x = `prefix` and the entry of `words` nearest to `word`; "" when none is near. */
const char *rt_did_you_mean(const char *word, const char *const *words, size_t n,
                            const char *prefix, char *out, size_t size);

/* "expected <want>, got <node>" as a complaint about the node. */
int rt_node_expected(const struct rt_node *node, const char *want);

#endif
