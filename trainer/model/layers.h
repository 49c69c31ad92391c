/* trainer/model/layers.h -- the layer types there are, one file each (layer_<name>.c). */
#ifndef TR_LAYERS_H
#define TR_LAYERS_H

#include "trainer/model/layer.h"

extern const struct tr_layer_type tr_layer_bce;
extern const struct tr_layer_type tr_layer_concat;
extern const struct tr_layer_type tr_layer_dot_interaction;
extern const struct tr_layer_type tr_layer_linear;
extern const struct tr_layer_type tr_layer_masked_pool;
extern const struct tr_layer_type tr_layer_mlp;

#endif
