/* trainer/model/spec.h -- a model as data: what a model file says, before any shape is known.
 *
 * A model file is a list of layers, each {name, type, inputs, options of its type}:
 *
 *     params: { bottom: [64, 16], top: [256, 128, 1] }     # defaults; model.yml `params:` override
 *     layers:
 *       - { name: bottom, type: mlp, inputs: [dense], sizes: $bottom, last: relu }
 *       - { name: dots, type: dot_interaction, inputs: [bottom, features] }
 *       - { name: both, type: concat, inputs: [bottom, dots] }
 *       - { name: logit, type: mlp, inputs: [both], sizes: $top }
 *       - { name: loss, type: bce, inputs: [logit] }
 *
 * `$name` stands for the value of a parameter, alone or inside a list. An input is the name of an
 * earlier layer, of one dense column or of one feature, or a whole: `dense` (all dense columns as
 * one tensor) or `features` (every feature, each a tensor of its own). After parsing every option
 * is a list of words (a scalar is a list of one), so layer types know nothing of YAML.
 *
 * Touch: one thread, at start. */
#ifndef TR_SPEC_H
#define TR_SPEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TR_LAYERS_MAX  256u
#define TR_OPTIONS_MAX 16u   /* options of one layer */
#define TR_WORDS_MAX   1024u /* words of one option, names in one `inputs` */
#define TR_NAME_MAX    63u   /* bytes of a layer's name: letters, digits, _ and - */

struct tr_words {
    const char **word;
    uint32_t n;
    bool list;         /* written as one, also of one word */
    const char *where; /* "dlrm.yml:12", for messages */
};

struct tr_option {
    const char *key;
    struct tr_words value;
};

struct tr_layer_spec {
    const char *name;
    const char *type;
    struct tr_words inputs;
    struct tr_option option[TR_OPTIONS_MAX];
    uint32_t n_options;
    const char *where;
};

struct tr_spec {
    const char *file; /* for messages about the whole: "dlrm.yml" */
    struct tr_layer_spec *layer;
    uint32_t n_layers;
    struct rt_arena *arena; /* owns all of the above */
};

/* An empty description to add layers to; *out is the caller's. RT_ENOMEM. */
int tr_spec_create(const char *file, struct tr_spec **out);
void tr_spec_destroy(struct tr_spec *spec); /* NULL is legal */

/* Append a layer; all strings are copied. tr_spec_option() sets an option of the newest layer.
 * Checks names and limits (RT_EUSAGE), not meaning: that is tr_model_create's. */
int tr_spec_layer(struct tr_spec *spec, const char *name, const char *type,
                  const char *const *inputs, uint32_t n_inputs, const char *where);
int tr_spec_option(struct tr_spec *spec, const char *key, const char *const *words, uint32_t n,
                   const char *where);
void tr_spec_list(struct tr_spec *spec); /* the option set last is a list */

#endif
