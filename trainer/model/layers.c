/* trainer/model/layers.c -- the table of layer types. */
#include "trainer/model/layers.h"

#include <string.h>

#include "runtime/base/assert.h"

/* clang-format off */
static const struct tr_layer_type *const types[] = {
    &tr_layer_activation,
    &tr_layer_add,
    &tr_layer_attention, /* of the kind that its option says */
    &tr_layer_batchnorm,
    &tr_layer_bce,
    &tr_layer_concat,
    &tr_layer_cross,
    &tr_layer_cross_v1,
    &tr_layer_dot_interaction,
    &tr_layer_dropout,
    &tr_layer_fm,
    &tr_layer_gate,
    &tr_layer_layernorm,
    &tr_layer_linear,
    &tr_layer_masked_pool,
    &tr_layer_mean,
    &tr_layer_mlp,
    &tr_layer_mse,
    &tr_layer_mul,
    &tr_layer_reshape,
    &tr_layer_slice,
    &tr_layer_softmax,
    &tr_layer_softmax_ce,
    &tr_layer_sum,
};
/* clang-format on */

const struct tr_layer_type *tr_layer_type_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        if (strcmp(types[i]->name, name) == 0)
            return types[i];
    return NULL;
}

const char *const *tr_layer_type_names(size_t *n)
{
    static const char *names[ARRAY_LEN(types)];
    for (size_t i = 0; i < ARRAY_LEN(types); i++)
        names[i] = types[i]->name;
    *n = ARRAY_LEN(types);
    return names;
}
