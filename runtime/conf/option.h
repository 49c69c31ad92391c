/* runtime/conf/option.h -- one table per module says its keys, types, ranges, defaults and help.
 *
 *     static const struct rt_option option[] = {
 *         {"staleness", RT_OPT_U32, offsetof(struct job_global, staleness), "8", 1, 1024, NULL,
 *          "permits per trainer rank: lookups sent whose gradients are not yet acked"},
 *         {"mode", RT_OPT_ENUM, offsetof(struct job_global, mode), "hybrid", 0, 0, "full|hybrid|async", "..."},
 *         {"wire", RT_OPT_NODE, offsetof(struct job_global, wire), NULL, 0, 0, NULL, "read elsewhere"},
 *     };
 *
 * Loading, checking, --help and docs/config.md all come from it. Keys are dotted: "wire.rows" is the key
 * `rows` inside the map `wire`. */
#ifndef RT_OPTION_H
#define RT_OPTION_H

#include <stddef.h>

struct rt_arena;
struct rt_node;
struct rt_strbuf;

enum rt_option_type {
    RT_OPT_BOOL, /* bool: true | false */
    RT_OPT_U32,  /* uint32_t */
    RT_OPT_U64,  /* uint64_t */
    RT_OPT_F64,  /* double, finite */
    RT_OPT_STR,  /* const char *, in the arena; null in the file leaves the default */
    RT_OPT_ENUM, /* uint32_t: index into choices */
    RT_OPT_NODE, /* const struct rt_node *: any value, read elsewhere; NULL when absent or null */
};

struct rt_option {
    const char *key;
    enum rt_option_type type;
    size_t offset;   /* of the field in the struct that is filled */
    const char *def; /* as a user would write it; NULL: zero, NULL */
    double min, max; /* numbers, both inclusive; both 0: whatever the type holds */
    const char *choices;
    const char *help; /* one line */
};

/* Fill `out_struct` with the defaults, then with what `map` says (NULL: nothing). The first complaint ends it:
 *   global.yml:7: unknown key 'stalenes' (did you mean 'staleness'?)
 *   global.yml:7: staleness: expected an integer in 1..1024, got 'abc'
 * RT_EUSAGE, RT_ENOMEM. Strings go to `arena`; NULL: they live as long as the table and the tree. */
int rt_options_load(const struct rt_option *table, size_t n, const struct rt_node *map,
                    void *out_struct, struct rt_arena *arena);

/* The same without the defaults: what `map` does not say stays as it is. For layered settings. */
int rt_options_overlay(const struct rt_option *table, size_t n, const struct rt_node *map,
                       void *out_struct, struct rt_arena *arena);

/* One value from elsewhere, as an environment variable: `source` ("SAFFRON_BIND") begins the error text. */
int rt_options_set(const struct rt_option *table, size_t n, const char *key, const char *text,
                   const char *source, void *out_struct, struct rt_arena *arena);

/* Rows of a markdown table: | key | value | default | meaning |, `prefix` ("global.") before each key. */
void rt_options_help(const struct rt_option *table, size_t n, const char *prefix,
                     struct rt_strbuf *out);
/* The same for --help: two lines per key. */
void rt_options_help_plain(const struct rt_option *table, size_t n, const char *prefix,
                           struct rt_strbuf *out);

#endif
