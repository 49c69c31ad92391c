/* runtime/conf/yaml.c -- from bytes to the tree, and --set into it.
 *
 * libyaml's events drive it, not its document API: an anchor, a tag or a level too deep is seen (with its
 * line) before anything was built from it, and nothing is held twice. The innermost open list or map is the
 * whole state of the builder, so there is no recursion over what a file says.
 *
 * Duplicate keys are found with one map for the whole load, keyed by hash(map's address, key), so a map of
 * 50,000 keys costs no more than its bytes. */
#include "runtime/conf/yaml.h"
#include "runtime/conf/tree.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"

#include <stdio.h>
#include <string.h>
#include <yaml.h>

#define TREE_BYTES_MAX ((size_t)64 << 20)
#define CHILDREN_FIRST 4
#define SET_NAME       "--set"

struct rt_yaml {
    struct rt_arena *arena;
    struct rt_node *root;
    size_t nodes;
};

struct build {
    struct rt_yaml *yaml;
    const char *name; /* in the arena */
    bool lines;       /* false: what --set says has no lines */
    yaml_parser_t parser;
    struct rt_node *root; /* NULL until the document's content begins */
    struct rt_node *open; /* innermost list or map */
    const char *key;      /* NULL: a map's next scalar is a key */
    int key_line;
    unsigned depth, documents;
    struct rt_map keys; /* hash(map, key) -> line */
};

static int complain(const struct build *build, int code, size_t line, const char *what)
{
    if (build->lines)
        return RT_FAIL(code, "%s:%zu: %s", build->name, line, what);
    return RT_FAIL(code, "%s: %s", build->name, what);
}

static int no_memory(const char *name)
{
    return RT_FAIL(RT_ENOMEM, "%s: out of memory", name);
}

/* ---- building ---- */

static int append(struct rt_yaml *yaml, struct rt_node *parent, struct rt_node *child)
{
    if (parent->count == parent->capacity) {
        size_t capacity = parent->capacity ? 2 * parent->capacity : CHILDREN_FIRST;
        struct rt_node **wider = rt_arena_array(yaml->arena, struct rt_node *, capacity);

        if (!wider)
            return no_memory(child->file);
        if (parent->count)
            memcpy(wider, parent->child, parent->count * sizeof(struct rt_node *));
        parent->child = wider;
        parent->capacity = capacity;
    }
    child->parent = parent;
    child->index = parent->count;
    parent->child[parent->count++] = child;
    return 0;
}

static struct rt_node *node_new(struct rt_yaml *yaml, enum rt_node_kind kind, const char *file)
{
    struct rt_node *node = rt_arena_calloc(yaml->arena, 1, sizeof(*node));

    if (!node)
        return NULL;
    node->kind = kind;
    node->file = file;
    node->text = "";
    return node;
}

/* A node of the document, in its place. */
static int place(struct build *build, enum rt_node_kind kind, size_t line, struct rt_node **out)
{
    struct rt_node *node;

    if (build->yaml->nodes++ >= RT_YAML_NODES_MAX)
        return complain(build, RT_ELIMIT, line, "more than 100000 values");
    node = node_new(build->yaml, kind, build->name);
    if (!node)
        return no_memory(build->name);
    node->line = build->lines ? (int)line : 0;
    *out = node;
    if (!build->open) {
        build->root = node;
        return 0;
    }
    if (build->open->kind == RT_NODE_MAP) {
        if (kind != RT_NODE_SCALAR && build->lines)
            node->line = build->key_line; /* "tables:", not the first thing below it */
        node->key = build->key;
        build->key = NULL;
    }
    return append(build->yaml, build->open, node);
}

static bool is_key(const struct build *build)
{
    return build->open && build->open->kind == RT_NODE_MAP && !build->key;
}

static int take_key(struct build *build, const char *text, size_t line)
{
    uint64_t hash = rt_hash_bytes_seed(text, strlen(text), (uint64_t)(uintptr_t)build->open);
    uint64_t before;
    char shown[80], what[160];

    if (!*text)
        return complain(build, RT_EUSAGE, line, "empty key");
    if (strlen(text) > RT_YAML_KEY_MAX)
        return complain(build, RT_ELIMIT, line, "a key of more than 128 bytes");
    if (rt_map_get(&build->keys, hash, &before)) {
        snprintf(what, sizeof(what), "key '%s' is already in line %d",
                 rt_log_escape(text, shown, sizeof(shown)), (int)before);
        return complain(build, RT_EUSAGE, line, what);
    }
    if (rt_map_put(&build->keys, hash, line) != 0)
        return no_memory(build->name);
    build->key = text;
    build->key_line = (int)line;
    return 0;
}

static int on_scalar(struct build *build, const yaml_event_t *event, size_t line)
{
    const char *value = (const char *)event->data.scalar.value;
    struct rt_node *node;
    char *text;
    int err;

    if (event->data.scalar.anchor)
        return complain(build, RT_EUSAGE, line, "anchors (&) are not supported");
    if (event->data.scalar.tag)
        return complain(build, RT_EUSAGE, line, "tags (!) are not supported");
    if (strlen(value) != event->data.scalar.length)
        return complain(build, RT_EUSAGE, line, "text with a NUL character");
    text = rt_arena_strdup(build->yaml->arena, value);
    if (!text)
        return no_memory(build->name);
    if (is_key(build))
        return take_key(build, text, line);
    err = place(build, RT_NODE_SCALAR, line, &node);
    if (err)
        return err;
    node->text = text;
    node->quoted = event->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
    return 0;
}

static int on_open(struct build *build, enum rt_node_kind kind, const yaml_char_t *anchor,
                   const yaml_char_t *tag, size_t line)
{
    struct rt_node *node;
    int err;

    if (anchor)
        return complain(build, RT_EUSAGE, line, "anchors (&) are not supported");
    if (tag)
        return complain(build, RT_EUSAGE, line, "tags (!) are not supported");
    if (is_key(build))
        return complain(build, RT_EUSAGE, line, "a key must be text, not a list or a map");
    if (build->depth++ >= RT_YAML_DEPTH_MAX)
        return complain(build, RT_ELIMIT, line, "nested deeper than 32 levels");
    err = place(build, kind, line, &node);
    if (!err)
        build->open = node;
    return err;
}

static int on_event(struct build *build, const yaml_event_t *event)
{
    size_t line = event->start_mark.line + 1;

    switch (event->type) {
    case YAML_DOCUMENT_START_EVENT:
        if (build->documents++)
            return complain(build, RT_EUSAGE, line, "a second document (---) in one file");
        return 0;
    case YAML_ALIAS_EVENT:
        return complain(build, RT_EUSAGE, line, "aliases (*) are not supported");
    case YAML_SCALAR_EVENT:
        return on_scalar(build, event, line);
    case YAML_SEQUENCE_START_EVENT:
        return on_open(build, RT_NODE_LIST, event->data.sequence_start.anchor,
                       event->data.sequence_start.tag, line);
    case YAML_MAPPING_START_EVENT:
        return on_open(build, RT_NODE_MAP, event->data.mapping_start.anchor,
                       event->data.mapping_start.tag, line);
    case YAML_SEQUENCE_END_EVENT:
    case YAML_MAPPING_END_EVENT:
        build->open = build->open->parent;
        build->depth--;
        return 0;
    default:
        return 0;
    }
}

/* What libyaml had to say. Its reader gives an offset, the rest a line. */
static int parser_failed(const struct build *build, const char *text)
{
    const yaml_parser_t *parser = &build->parser;
    size_t line = parser->problem_mark.line + 1;
    const char *problem = parser->problem ? parser->problem : "not YAML";
    char what[256];

    if (parser->error == YAML_MEMORY_ERROR)
        return no_memory(build->name);
    if (parser->error == YAML_READER_ERROR) {
        line = 1;
        for (size_t i = 0; i < parser->problem_offset; i++)
            line += text[i] == '\n';
    }
    snprintf(what, sizeof(what), "%s%s%s", problem, parser->context ? " " : "",
             parser->context ? parser->context : "");
    return complain(build, RT_EUSAGE, line, what);
}

static int run_events(struct build *build, const char *text)
{
    bool ended = false;
    int err = 0;

    while (!err && !ended) {
        yaml_event_t event;

        if (!yaml_parser_parse(&build->parser, &event))
            return parser_failed(build, text);
        err = on_event(build, &event);
        ended = event.type == YAML_STREAM_END_EVENT;
        yaml_event_delete(&event);
    }
    return err;
}

/* Parse into yaml's arena; *out is NULL for a text without content. */
static int build_tree(struct rt_yaml *yaml, const char *name, bool lines, const char *text,
                      size_t size, struct rt_node **out)
{
    struct build build = {.yaml = yaml, .name = name, .lines = lines};
    const char *nul = size ? memchr(text, '\0', size) : NULL;
    int err;

    if (size > RT_YAML_BYTES_MAX)
        return RT_FAIL(RT_ELIMIT, "%s: %zu bytes, at most %d", name, size, RT_YAML_BYTES_MAX);
    if (nul)
        return RT_FAIL(RT_EUSAGE, "%s: NUL character at byte %zu", name, (size_t)(nul - text));
    if (!yaml_parser_initialize(&build.parser))
        return no_memory(name);
    rt_map_init(&build.keys);
    yaml_parser_set_encoding(&build.parser, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&build.parser, (const unsigned char *)text, size);
    err = run_events(&build, text);
    yaml_parser_delete(&build.parser);
    rt_map_release(&build.keys);
    if (!err)
        *out = build.root;
    return err;
}

/* ---- documents ---- */

static int parse_whole(struct rt_yaml *yaml, const char *name, const char *text, size_t size)
{
    struct rt_node *root = NULL;
    char *kept;
    int err;

    err = rt_arena_create(TREE_BYTES_MAX, &yaml->arena);
    if (err)
        return err;
    kept = rt_arena_strdup(yaml->arena, name);
    if (!kept)
        return no_memory(name);
    err = build_tree(yaml, kept, true, text, size, &root);
    if (err)
        return err;
    if (!root || rt_node_is_null(root)) {
        root = node_new(yaml, RT_NODE_MAP, kept);
        if (!root)
            return no_memory(name);
        root->line = 1;
    }
    yaml->root = root;
    return 0;
}

int rt_yaml_parse(const char *name, const char *text, size_t size, struct rt_yaml **out)
{
    struct rt_yaml *yaml = rt_try_calloc(1, sizeof(*yaml));
    int err;

    if (!yaml)
        return no_memory(name);
    err = parse_whole(yaml, name, text, size);
    if (err) {
        rt_yaml_destroy(yaml);
        return err;
    }
    *out = yaml;
    return 0;
}

int rt_yaml_load(const char *path, struct rt_yaml **out)
{
    char *text = NULL;
    size_t size;
    int err;

    err = rt_file_read(path, RT_YAML_BYTES_MAX, &text, &size);
    if (err)
        return err;
    err = rt_yaml_parse(path, text, size, out);
    rt_free(text);
    return err;
}

void rt_yaml_destroy(struct rt_yaml *yaml)
{
    if (!yaml)
        return;
    rt_arena_destroy(yaml->arena);
    rt_free(yaml);
}

const struct rt_node *rt_yaml_root(const struct rt_yaml *yaml)
{
    return yaml->root;
}

/* ---- --set ---- */

/* The child that a path's part names, or NULL. A list's parts are indices. */
static int child_of(const struct rt_node *node, const char *part, struct rt_node **out)
{
    char shown[80];
    uint64_t index;

    *out = NULL;
    if (node->kind == RT_NODE_LIST) {
        if (!rt_text_u64(part, &index) || index >= node->count)
            return rt_node_fail(node, "--set: expected an index below %zu, got '%s'", node->count,
                                rt_log_escape(part, shown, sizeof(shown)));
        *out = node->child[index];
        return 0;
    }
    for (size_t i = 0; i < node->count; i++) {
        if (strcmp(node->child[i]->key, part) == 0)
            *out = node->child[i];
    }
    return 0;
}

/* Put `fresh` at `part` of `node`: instead of `old`, or as a new key. */
static int put_child(struct rt_yaml *yaml, struct rt_node *node, const char *part,
                     const struct rt_node *old, struct rt_node *fresh)
{
    if (old) {
        fresh->key = old->key;
        fresh->parent = node;
        fresh->index = old->index;
        node->child[old->index] = fresh;
        return 0;
    }
    fresh->key = rt_arena_strdup(yaml->arena, part);
    if (!fresh->key)
        return no_memory(SET_NAME);
    return append(yaml, node, fresh);
}

/* The map or list at `part`, made when there is nothing. */
static int step_into(struct rt_yaml *yaml, struct rt_node *node, const char *part,
                     struct rt_node **out)
{
    struct rt_node *child, *fresh;
    int err = child_of(node, part, &child);

    if (err)
        return err;
    if (child && child->kind != RT_NODE_SCALAR) {
        *out = child;
        return 0;
    }
    if (child && !rt_node_is_null(child))
        return rt_node_fail(child, "--set: expected a map or a list to go into, got a value");
    fresh = node_new(yaml, RT_NODE_MAP, SET_NAME);
    if (!fresh)
        return no_memory(SET_NAME);
    *out = fresh;
    return put_child(yaml, node, part, child, fresh);
}

static int bad_path(void)
{
    return RT_FAIL(RT_EUSAGE, "--set: a path is KEY.KEY..., at most %d keys of 1 to %d bytes",
                   RT_YAML_DEPTH_MAX, RT_YAML_KEY_MAX);
}

/* A key of a path must be what a file could say too: text that YAML reads as that very word. */
static int check_key(struct rt_yaml *yaml, const char *key)
{
    struct rt_node *node = NULL;
    size_t size = strlen(key);
    int err;

    if (size == 0 || size > RT_YAML_KEY_MAX)
        return bad_path();
    err = build_tree(yaml, SET_NAME, false, key, size, &node);
    if (err)
        return err;
    return node && node->kind == RT_NODE_SCALAR && strcmp(node->text, key) == 0 ? 0 : bad_path();
}

static int set_at(struct rt_yaml *yaml, char *path, struct rt_node *value)
{
    struct rt_node *node = yaml->root, *old;
    unsigned depth = 0;
    int err;

    if (node->kind == RT_NODE_SCALAR)
        return rt_node_fail(node, "--set: expected a map or a list to go into, got a value");
    for (char *dot; (dot = strchr(path, '.')) != NULL; path = dot + 1) {
        *dot = '\0';
        err = ++depth >= RT_YAML_DEPTH_MAX ? bad_path() : check_key(yaml, path);
        if (!err)
            err = step_into(yaml, node, path, &node);
        if (err)
            return err;
    }
    err = check_key(yaml, path);
    if (!err)
        err = child_of(node, path, &old);
    return err ? err : put_child(yaml, node, path, old, value);
}

int rt_yaml_set(struct rt_yaml *yaml, const char *dotted_path, const char *value)
{
    struct rt_node *node = NULL;
    char *path;
    int err;

    err = build_tree(yaml, SET_NAME, false, value, strlen(value), &node);
    if (err)
        return err;
    if (!node)
        node = node_new(yaml, RT_NODE_SCALAR, SET_NAME);
    path = rt_arena_strdup(yaml->arena, dotted_path);
    if (!node || !path)
        return no_memory(SET_NAME);
    return set_at(yaml, path, node);
}
