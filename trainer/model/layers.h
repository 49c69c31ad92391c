/* trainer/model/layers.h -- the layer types there are, one file each (layer_<name>.c; sum and mean are one). */
#ifndef TR_LAYERS_H
#define TR_LAYERS_H

#include "trainer/model/layer.h"

extern const struct tr_layer_type tr_layer_activation;
extern const struct tr_layer_type tr_layer_add;
extern const struct tr_layer_type tr_layer_attention;
extern const struct tr_layer_type tr_layer_attention_din;  /* what `attention` becomes */
extern const struct tr_layer_type tr_layer_attention_self; /* by its kind */
extern const struct tr_layer_type tr_layer_batchnorm;
extern const struct tr_layer_type tr_layer_bce;
extern const struct tr_layer_type tr_layer_concat;
extern const struct tr_layer_type tr_layer_cross;
extern const struct tr_layer_type tr_layer_cross_v1;
extern const struct tr_layer_type tr_layer_dot_interaction;
extern const struct tr_layer_type tr_layer_dropout;
extern const struct tr_layer_type tr_layer_fm;
extern const struct tr_layer_type tr_layer_gate;
extern const struct tr_layer_type tr_layer_layernorm;
extern const struct tr_layer_type tr_layer_linear;
extern const struct tr_layer_type tr_layer_masked_pool;
extern const struct tr_layer_type tr_layer_mean;
extern const struct tr_layer_type tr_layer_mlp;
extern const struct tr_layer_type tr_layer_mse;
extern const struct tr_layer_type tr_layer_mul;
extern const struct tr_layer_type tr_layer_reshape;
extern const struct tr_layer_type tr_layer_slice;
extern const struct tr_layer_type tr_layer_softmax;
extern const struct tr_layer_type tr_layer_softmax_ce;
extern const struct tr_layer_type tr_layer_sum;

/* The key of a dropout layer's random numbers in a step. */
uint64_t tr_dropout_key(const struct tr_layer *layer, uint64_t draw);

#endif
