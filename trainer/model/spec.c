/* trainer/model/spec.c -- a list of layers in an arena. */
#include "trainer/model/spec.h"

#include <string.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#define SPEC_BYTES_MAX (64u << 20)

int tr_spec_create(const char *file, struct tr_spec **out)
{
    struct rt_arena *arena = NULL;
    int err = rt_arena_create(SPEC_BYTES_MAX, &arena);
    if (err)
        return err;
    struct tr_spec *spec = rt_arena_array(arena, struct tr_spec, 1);
    if (spec) {
        spec->arena = arena;
        spec->file = rt_arena_strdup(arena, file);
        spec->layer = rt_arena_array(arena, struct tr_layer_spec, TR_LAYERS_MAX);
    }
    if (!spec || !spec->file || !spec->layer) {
        rt_arena_destroy(arena);
        return RT_FAIL(RT_ENOMEM, "%s: no memory for the model's description", file);
    }
    *out = spec;
    return 0;
}

void tr_spec_destroy(struct tr_spec *spec)
{
    if (spec)
        rt_arena_destroy(spec->arena);
}

static int copy_words(struct tr_spec *spec, const char *const *words, uint32_t n, const char *where,
                      struct tr_words *out)
{
    if (n > TR_WORDS_MAX)
        return RT_FAIL(RT_EUSAGE, "%s: expected at most %u items, got %u", where, TR_WORDS_MAX, n);
    out->word = rt_arena_array(spec->arena, const char *, n ? n : 1);
    for (uint32_t i = 0; out->word && i < n; i++) {
        out->word[i] = rt_arena_strdup(spec->arena, words[i]);
        if (!out->word[i])
            return RT_FAIL(RT_ENOMEM, "%s: no memory for %u items", where, n);
    }
    out->n = n;
    out->where = rt_arena_strdup(spec->arena, where);
    return out->word && out->where ? 0 : RT_FAIL(RT_ENOMEM, "%s: no memory for %u items", where, n);
}

static bool good_name(const char *name)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-");
    return n && n <= TR_NAME_MAX && !name[n];
}

int tr_spec_layer(struct tr_spec *spec, const char *name, const char *type,
                  const char *const *inputs, uint32_t n_inputs, const char *where)
{
    if (spec->n_layers == TR_LAYERS_MAX)
        return RT_FAIL(RT_EUSAGE, "%s: expected at most %u layers", where, TR_LAYERS_MAX);
    if (!good_name(name))
        return RT_FAIL(RT_EUSAGE,
                       "%s: layer name '%.80s': expected 1 to %u letters, digits, _ or -", where,
                       name, TR_NAME_MAX);
    struct tr_layer_spec *layer = &spec->layer[spec->n_layers];
    *layer = (struct tr_layer_spec){.n_options = 0};
    layer->name = rt_arena_strdup(spec->arena, name);
    layer->type = rt_arena_strdup(spec->arena, type);
    layer->where = rt_arena_strdup(spec->arena, where);
    if (!layer->name || !layer->type || !layer->where)
        return RT_FAIL(RT_ENOMEM, "%s: no memory for layer '%s'", where, name);
    int err = copy_words(spec, inputs, n_inputs, where, &layer->inputs);
    if (!err)
        spec->n_layers++;
    return err;
}

int tr_spec_option(struct tr_spec *spec, const char *key, const char *const *words, uint32_t n,
                   const char *where)
{
    struct tr_layer_spec *layer = &spec->layer[spec->n_layers - 1];
    if (layer->n_options == TR_OPTIONS_MAX)
        return RT_FAIL(RT_EUSAGE, "%s: layer '%s': expected at most %u options", where, layer->name,
                       TR_OPTIONS_MAX);
    struct tr_option *option = &layer->option[layer->n_options];
    option->key = rt_arena_strdup(spec->arena, key);
    if (!option->key)
        return RT_FAIL(RT_ENOMEM, "%s: no memory for layer '%s'", where, layer->name);
    int err = copy_words(spec, words, n, where, &option->value);
    if (!err)
        layer->n_options++;
    return err;
}

void tr_spec_list(struct tr_spec *spec)
{
    struct tr_layer_spec *layer = &spec->layer[spec->n_layers - 1];

    layer->option[layer->n_options - 1].value.list = true;
}
