/* trainer/model/parse.c -- model.yml and model files to a tr_spec.
 *
 * Every value of a layer is a scalar or a list of scalars and becomes a list of words. A plain scalar
 * that begins with `$` is replaced by the parameter of that name: the value in model.yml's `params:` if
 * there is one, else the default in the model file. A parameter that is a list is spliced, so
 * `sizes: [$hidden, 1]` works. Parameters do not refer to parameters: a model file should be readable
 * in one pass, and nothing can go round in circles.
 * Words remember where they were written, so a bad size given in model.yml is complained about there. */
#include "trainer/model/parse.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "trainer/model/spec.h"

#define PARAMS_MAX 64u
#define WHERE_MAX  300u

struct params {
    const char *name[PARAMS_MAX];
    const struct rt_node *value[PARAMS_MAX];
    bool used[PARAMS_MAX];
    size_t n;
};

struct parse {
    struct params params;
    const char *word[TR_WORDS_MAX]; /* of the value being read */
    uint32_t n_words;
    bool list; /* it is written as a list */
    struct tr_spec *spec;
};

/* ---- parameters ---- */

static int read_params(const struct rt_node *file_root, const struct rt_node *override,
                       struct params *params)
{
    const struct rt_node *defaults = rt_node_get(file_root, "params");
    int err = rt_node_want_map(defaults);
    if (err)
        return err;
    if (defaults && rt_node_count(defaults) > PARAMS_MAX)
        return rt_node_fail(defaults, "expected at most %u parameters, got %zu", PARAMS_MAX,
                            rt_node_count(defaults));
    params->n = defaults ? rt_node_count(defaults) : 0;
    for (size_t i = 0; i < params->n; i++) {
        params->name[i] = rt_node_key_at(defaults, i);
        const struct rt_node *ours = rt_node_get(override, params->name[i]);
        params->value[i] = ours && !rt_node_is_null(ours) ? ours : rt_node_at(defaults, i);
    }
    return rt_node_known_keys(override, params->name, params->n);
}

static int find_param(struct params *params, const struct rt_node *node,
                      const struct rt_node **value)
{
    const char *name = rt_node_text(node) + 1;
    for (size_t i = 0; i < params->n; i++) {
        if (strcmp(params->name[i], name) == 0) {
            params->used[i] = true;
            *value = params->value[i];
            return 0;
        }
    }
    const char *near = rt_nearest(name, params->name, params->n);
    return rt_node_fail(node, "`params:` has no '%.80s'%s%s%s", name,
                        near ? " (did you mean '$" : "", near ? near : "", near ? "'?)" : "");
}

static int check_used(const struct params *params)
{
    for (size_t i = 0; i < params->n; i++)
        if (!params->used[i])
            return rt_node_fail(params->value[i], "no layer uses this parameter ($%s)",
                                params->name[i]);
    return 0;
}

/* ---- values to words ---- */

static bool is_param(const struct rt_node *node)
{
    return rt_node_kind(node) == RT_NODE_SCALAR && !rt_node_quoted(node) &&
           rt_node_text(node)[0] == '$';
}

static int add_word(struct parse *parse, const struct rt_node *node)
{
    const char *word = NULL;
    int err = rt_node_str(node, &word);
    if (err)
        return err;
    if (parse->n_words == TR_WORDS_MAX)
        return rt_node_fail(node, "expected at most %u items", TR_WORDS_MAX);
    parse->word[parse->n_words++] = word;
    return 0;
}

/* A scalar, or a list of scalars. */
static int add_plain(struct parse *parse, const struct rt_node *node)
{
    if (rt_node_kind(node) == RT_NODE_SCALAR)
        return add_word(parse, node);
    int err = rt_node_want_list(node);
    for (size_t i = 0; !err && i < rt_node_count(node); i++)
        err = add_word(parse, rt_node_at(node, i));
    return err;
}

static int add_item(struct parse *parse, const struct rt_node *node)
{
    const struct rt_node *value = NULL;
    if (!is_param(node))
        return add_word(parse, node);
    int err = find_param(&parse->params, node, &value);
    return err ? err : add_plain(parse, value);
}

/* Fills parse->word; `where` gets the place of the value, which for `$name` alone is the parameter's. */
static int read_words(struct parse *parse, const struct rt_node *node, char *where)
{
    const struct rt_node *value = node;
    int err = 0;
    parse->n_words = 0;
    if (rt_node_kind(node) == RT_NODE_LIST)
        for (size_t i = 0; !err && i < rt_node_count(node); i++)
            err = add_item(parse, rt_node_at(node, i));
    else if (is_param(node))
        err = find_param(&parse->params, node, &value);
    if (!err && rt_node_kind(node) != RT_NODE_LIST)
        err = add_plain(parse, value);
    parse->list = rt_node_kind(value) == RT_NODE_LIST;
    rt_node_where(value, where, WHERE_MAX);
    return err;
}

/* ---- layers ---- */

static int parse_head(struct parse *parse, const struct rt_node *map)
{
    const struct rt_node *name = NULL, *type = NULL, *inputs = NULL;
    const char *name_text = NULL, *type_text = NULL;
    char where[WHERE_MAX];
    int err = rt_node_need(map, "name", &name);
    if (!err)
        err = rt_node_str(name, &name_text);
    if (!err)
        err = rt_node_need(map, "type", &type);
    if (!err)
        err = rt_node_str(type, &type_text);
    if (!err)
        err = rt_node_need(map, "inputs", &inputs);
    if (!err)
        err = read_words(parse, inputs, where);
    if (err)
        return err;
    return tr_spec_layer(parse->spec, name_text, type_text, parse->word, parse->n_words,
                         rt_node_where(name, where, sizeof where));
}

static int parse_layer(struct parse *parse, const struct rt_node *map)
{
    int err = rt_node_want_map(map);
    if (!err)
        err = parse_head(parse, map);
    for (size_t i = 0; !err && i < rt_node_count(map); i++) {
        const char *key = rt_node_key_at(map, i);
        char where[WHERE_MAX];
        if (strcmp(key, "name") == 0 || strcmp(key, "type") == 0 || strcmp(key, "inputs") == 0)
            continue;
        err = read_words(parse, rt_node_at(map, i), where);
        if (!err)
            err = tr_spec_option(parse->spec, key, parse->word, parse->n_words, where);
        if (!err && parse->list)
            tr_spec_list(parse->spec);
    }
    return err;
}

static int parse_layers(struct parse *parse, const struct rt_node *file_root)
{
    const struct rt_node *layers = NULL;
    int err = rt_node_need(file_root, "layers", &layers);
    if (!err)
        err = rt_node_want_list(layers);
    for (size_t i = 0; !err && i < rt_node_count(layers); i++)
        err = parse_layer(parse, rt_node_at(layers, i));
    return err ? err : check_used(&parse->params);
}

/* "dir/dlrm.yml:7" -> "dir/dlrm.yml" */
static void file_of(const struct rt_node *node, char *file, size_t size)
{
    rt_node_where(node, file, size);
    char *colon = strrchr(file, ':');
    if (colon)
        *colon = '\0';
}

/* What model.yml says beside the layers it may hold itself would do nothing elsewhere. */
static int check_keys(const struct rt_node *file_root, bool is_model_yml)
{
    static const char *const known[] = {"params",    "layers",   "use",
                                        "optimizer", "schedule", "precision"};
    int err = rt_node_known_keys(file_root, known, ARRAY_LEN(known));
    for (size_t i = 2; !err && !is_model_yml && i < ARRAY_LEN(known); i++) {
        const struct rt_node *node = rt_node_get(file_root, known[i]);
        if (node)
            err = rt_node_fail(node, "belongs in model.yml, this is the model file it names");
    }
    return err;
}

int tr_parse_model(const struct rt_node *file_root, bool is_model_yml, const struct rt_node *params,
                   struct tr_spec **out)
{
    int err = check_keys(file_root, is_model_yml);
    if (err)
        return err;
    struct parse *parse = rt_xcalloc(1, sizeof *parse);
    char file[WHERE_MAX];
    file_of(file_root, file, sizeof file);
    err = read_params(file_root, params, &parse->params);
    if (!err)
        err = tr_spec_create(file, &parse->spec);
    if (!err)
        err = parse_layers(parse, file_root);
    if (err)
        tr_spec_destroy(parse->spec);
    else
        *out = parse->spec;
    rt_free(parse);
    return err;
}

void tr_parse_document(struct rt_strbuf *out)
{
    static const char *const row[] = {
        "use` | a name or a path |  | `<job>/models/NAME.yml`, else `configs/models/NAME.yml`",
        "params.NAME` | scalar or list | the model file's | replaces a parameter of the model file",
        "layers` | list |  | the layers themselves, instead of `use:` (trainer/model/spec.h)",
        "precision` | float32 \\| bfloat16 | float32 | of what the layers' matrix products "
        "multiply; "
        "weights, sums and all else are float32 (own-model.md)",
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        rt_strbuf_addf(out, "| `model.%s |\n", row[i]);
}
