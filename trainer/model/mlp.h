/* trainer/model/mlp.h -- linear layers one after the other, each with its activation: what `linear` and `mlp` are made of.
 * Private to trainer/model/. */
#ifndef TR_MLP_H
#define TR_MLP_H

#include "trainer/model/layer.h"
#include "trainer/model/moments.h"

#define TR_MLP_MAX 32u /* five parameters and five buffers each */

struct tr_mlp_linear {
    uint32_t inputs, outputs;
    enum tr_act_kind act;
    uint32_t w, b, slope; /* in layer->param; TR_MLP_NONE: there is none */
    uint32_t y, dy,
        z; /* in layer->buffer; TR_MLP_NONE: y, dy are the layer's own output, z is not kept */
    struct tr_dice_part dice; /* of this activation */
};
#define TR_MLP_NONE UINT32_MAX

struct tr_mlp {
    uint32_t n;
    uint32_t rows; /* of a sample, each of them an input by itself; 0: the sample is one */
    struct tr_mlp_linear linear[TR_MLP_MAX];
};

/* Append one that takes `inputs` columns; prefix "0." gives parameters "<layer>.0.weight" and so on. `last`: writes the layer's
 * output. Weights start uniform in +-1/sqrt(inputs), as torch.nn.Linear. */
int tr_mlp_add(struct tr_build *build, struct tr_layer *layer, struct tr_mlp *mlp,
               struct tr_mlp_linear linear, const char *prefix, bool last);

/* layer->state is a struct tr_mlp. Its input has pass->samples rows. */
int tr_mlp_forward(struct tr_layer *layer, struct tr_pass *pass);
int tr_mlp_backward(struct tr_layer *layer, struct tr_pass *pass);

#endif
