/* trainer/model/build.h -- struct tr_model, and making its layers from a tr_spec. Private to
 * trainer/model/. */
#ifndef TR_BUILD_H
#define TR_BUILD_H

#include "trainer/model/device.h"
#include "trainer/model/layer.h"
#include "trainer/model/model.h"
#include "trainer/model/sequence.h"

/* Initial values are uniform in [middle - bound, middle + bound). */
struct tr_start {
    double middle, bound;
};

#define TR_SLICE_SAMPLES 128u /* per thread, where weights stay in a cache from slice to slice */

struct tr_model {
    struct rt_arena *arena; /* names, values, layers and their states */
    struct tr_backend backend;
    uint32_t samples_max;
    float gradient_max, feature_gradient_max;
    bool whole_batch;                           /* a layer looks at all samples */
    uint32_t slice;                             /* samples that go through all layers at a time */
    uint32_t feature_dtype, feature_grad_dtype; /* outside; inside all is float32 */

    uint32_t n_dense, n_features, n_labels;
    struct tr_value dense; /* all columns, the caller's memory, as all inputs without gaps */
    struct tr_value
        *dense_column;        /* [n_dense], copied out in each forward where a layer reads one */
    struct tr_value *feature; /* [n_features], the caller's memory; a slice of ours if 16 bits */
    tr_real **feature_space;  /* [n_features] a slice's gradients before they are narrowed */
    struct tr_sequence *sequence; /* [n_features] */
    bool *unfit;                  /* [n_features] its gradients of this batch are not finite */
    struct tr_value *label;       /* [n_labels] */
    uint32_t *label_classes;      /* [n_labels] 0: any number */

    struct tr_layer *layer; /* [n_layers] in order */
    uint32_t n_layers;
    struct tr_head head[TR_HEADS_MAX]; /* [n_heads] of the losses, in order */
    uint32_t n_heads, score_columns;

    struct tr_param *tensor; /* [n_tensors] */
    struct tr_start *start;  /* [n_tensors] */
    size_t n_tensors;
    size_t count;            /* floats in params and in grads */
    tr_real *params, *grads; /* one allocation each */
    tr_real *memory;         /* activations, their gradients, scratch: one allocation */

    bool on_gpu; /* these are a GPU's, and `device` has what it takes to use them */
    struct tr_device *device;

    /* Threads that have a part of a batch each (train.c). */
    uint32_t n_lanes;       /* 1: the caller's alone */
    struct tr_model **lane; /* [n_lanes] from 1 on: copies, with these parameters */
    struct tr_lanes *lanes; /* their threads */
    struct tr_part *part;   /* [n_lanes] of the batch at hand */
    bool is_lane;           /* a copy: the parameters are another's */
};

/* What a name in `inputs` may stand for. */
struct tr_known {
    const char *name;
    struct tr_value *value; /* NULL: left out */
    bool loss;
};

/* A model under construction. */
struct tr_build {
    struct tr_model *model;
    const struct tr_spec *spec;
    const struct tr_layer_spec *now; /* being built */
    const char *where; /* what a complaint is about: the layer, or one of its options */
    struct tr_layer *layer;
    struct tr_known known[TR_LAYERS_MAX];
    uint32_t n_known;
    struct tr_value *in[TR_LAYER_INPUTS_MAX];
    uint32_t n_in;
    size_t n_tensors_max;
};

/* Everything but the memory: names, layers, tensors, sizes. model->arena, samples_max and slice are set. */
int tr_build_model(struct tr_model *model, const struct tr_spec *spec,
                   const struct tr_model_inputs *inputs);

/* What train.c needs for model->n_lanes threads. RT_ENOMEM. */
int tr_parts_create(struct tr_model *model);
void tr_parts_destroy(struct tr_model *model);

#endif
