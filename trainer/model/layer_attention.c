/* trainer/model/layer_attention.c -- `attention`: option `kind` says which, and from there on it is a layer of that type:
 * `self` (layer_attention_self.c) or `din` (layer_attention_din.c). */
#include "runtime/base/assert.h"
#include "trainer/model/layers.h"

static int attention_build(struct tr_build *build, struct tr_layer *layer)
{
    static const char *const names[] = {"self", "din"};
    static const struct tr_layer_type *const kinds[] = {&tr_layer_attention_self,
                                                        &tr_layer_attention_din};
    _Static_assert(ARRAY_LEN(names) == ARRAY_LEN(kinds), "a name for each");
    uint32_t kind = 0;
    int err = tr_build_choice(build, "kind", names, ARRAY_LEN(names), &kind);
    if (err)
        return err;
    layer->type = kinds[kind];
    err = tr_build_options(build, layer->type);
    return err ? err : layer->type->build(build, layer);
}

/* Those of all kinds. */
static const char *const options[] = {"kind",       "heads",   "size",     "bias",
                                      "scale",      "project", "residual", "sizes",
                                      "activation", "softmax", NULL};

const struct tr_layer_type tr_layer_attention = {
    .name = "attention",
    .options = options,
    .build = attention_build,
};
