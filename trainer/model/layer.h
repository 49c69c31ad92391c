/* trainer/model/layer.h -- what a layer type is. Private to trainer/model/.
 *
 * A new type is one file with a `struct tr_layer_type` and one entry in layers.c.
 *
 *   build (at start)   type->build reads its options, checks its inputs, says the width of its output
 *                      and asks for parameters and buffers with the tr_build_* functions. Nothing is
 *                      allocated yet: after all layers are built the model allocates everything at
 *                      once and fills layer->param[k] and layer->buffer[k], k in order of asking.
 *   forward, backward  plain calls in list order and in reverse; no allocation, no checks.
 *
 * Slices: a batch goes through all layers, forward and backward, in slices of a few hundred samples, so
 * that activations stay in the cache; a sample may not depend on another one of its batch, but where a layer says so in build
 * (tr_build_running): then the batch is one slice. `samples` of a pass are those of the slice.
 *
 * Gradients: before a layer's backward runs, out.grad is complete. It owes every input whose grad is
 * not NULL its share: the first layer to write an input overwrites (tr_value_add() false), later ones
 * add. Gradients of parameters are overwritten in the batch's first slice and added to in the others
 * (pass->add_params). out.grad is the layer's own and may be changed in place. When a layer's backward returns, its own gradients of
 * parameters are complete in this slice; a layer of several parts says so of each (tr_pass_settled).
 *
 * Places: data and grad of a value have one stride; a sample's may lie inside that of a concat that reads it
 * (concat then has nothing to copy). A layer that needs its input without gaps says so in build:
 * in[i]->packed = true; so for its output. A sample's own rows have no gaps between them. */
#ifndef TR_LAYER_H
#define TR_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/backend.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

#define TR_LAYER_PARAMS_MAX  160u
#define TR_LAYER_BUFFERS_MAX 160u
#define TR_LAYER_INPUTS_MAX  4096u /* tensors, after `features` is written out */

/* A tensor [samples][rows][columns]: a layer's output, a feature, dense columns or a label. */
struct tr_value {
    const char *name;
    uint32_t rows, columns;      /* of a sample: 1 row, but of a sequence and what is made of one */
    uint32_t width;              /* rows x columns: those one after the other */
    uint32_t readers;            /* layers that take it */
    bool ours;                   /* a layer's output, in the model's memory */
    bool packed;                 /* its maker or a reader wants stride == width */
    size_t stride;               /* floats from one row to the next, of data and of grad */
    const struct tr_value *home; /* whose rows these rows lie in, from column home_at on; or NULL */
    size_t home_at;
    bool
        trainable; /* a gradient is wanted: features, and layers that depend on one or on parameters */
    tr_real *data;
    tr_real *grad; /* NULL: not wanted */
    bool written;  /* this backward pass has written grad */
};

struct tr_layer_param {
    tr_real *value, *grad;
    size_t count; /* elements of each */
};

struct tr_layer {
    const struct tr_layer_type *type;
    const char *name;
    struct tr_value **in; /* [n_in], widths above 0 */
    uint32_t n_in;
    struct tr_value out;
    struct tr_layer_param param[TR_LAYER_PARAMS_MAX];
    uint32_t n_params, first_param; /* first_param: in tr_model_tensors() */
    const struct tr_head *head;     /* of a loss */
    uint32_t number;                /* of the layers */
    tr_real *buffer[TR_LAYER_BUFFERS_MAX];
    size_t buffer_floats[TR_LAYER_BUFFERS_MAX];
    uint32_t n_buffers;
    uint64_t flops; /* forward, of one sample: tr_build_flops() */
    void *state;    /* the type's own, in the model's arena */
};

struct tr_settling; /* settle.h */

/* One forward and backward over a batch. */
struct tr_pass {
    struct tr_backend *backend;
    uint32_t samples;
    uint32_t first;        /* the slice's first sample is this one of the batch */
    bool training;         /* a backward pass follows */
    uint64_t draw;         /* what random numbers of this step and rank are drawn from: rand.h */
    bool add_params;       /* backward: not the batch's first slice */
    const tr_real *weight; /* [samples] or NULL */
    double share;          /* backward: samples of the batch / global samples */
    double scale;          /* backward of a loss: the head's weight / global samples */
    double loss_sum;       /* forward: set by a loss, without its head's weight */
    /* Of a device's backend, in its memory: where a loss has its loss_sum instead; of each layer, the key of its random numbers. `scale` and
     * `share` are without 1 / global samples there, and samples may be places of sequences: `places` is 0 where there is none. */
    double *sum_at;
    const uint64_t *keys;
    const tr_real *places;
    struct tr_settling *settling; /* backward of the last slice; else NULL */
};

struct tr_build; /* the model under construction: build.c */

struct tr_layer_type {
    const char *name;
    const char *const *options; /* keys it knows, NULL at the end */
    bool loss;         /* a head of the model; its output is the score, which no layer takes */
    bool side_by_side; /* its output is its inputs' rows in order: they may live there */
    int (*build)(struct tr_build *build, struct tr_layer *layer);
    int (*forward)(struct tr_layer *layer, struct tr_pass *pass);
    int (*backward)(struct tr_layer *layer, struct tr_pass *pass);
};

/* NULL for an unknown word; names[] for "did you mean", *n of them. */
const struct tr_layer_type *tr_layer_type_find(const char *name);
const char *const *tr_layer_type_names(size_t *n);

/* ---- for build functions: the layer being built is the build's newest ---- */

/* The k-th parameter tensor of this layer, "<layer>.<role>", initially uniform in [-bound, bound). */
int tr_build_weight(struct tr_build *build, const char *role, uint32_t rows, uint32_t columns,
                    double bound);
int tr_build_bias(struct tr_build *build, const char *role, uint32_t rows, double bound);
int tr_build_constant(struct tr_build *build, const char *role, uint32_t rows, double value);
/* The k-th too, but no parameter: a running average of something of each batch, moved by `momentum` (struct tr_param). How far
 * the batch's is from it, times pass->share, is brought where its gradient would be. All samples of a batch are one slice from then on. */
int tr_build_running(struct tr_build *build, const char *role, uint32_t rows, double value,
                     double momentum);
/* The k-th buffer: floats for each sample of a slice, or floats in all. */
int tr_build_buffer(struct tr_build *build, size_t floats_per_sample);
int tr_build_scratch(struct tr_build *build, size_t floats);
void *tr_build_alloc(struct tr_build *build, size_t count, size_t size); /* zeroed; NULL */
/* So many multiplications with their additions more in a forward pass over one sample; layers of one pass over
 * memory (sums, activations, norms) say nothing. */
void tr_build_flops(struct tr_build *build, uint64_t multiply_adds);
uint32_t tr_build_samples(const struct tr_build *build); /* of the largest slice */

/* Width of the output, 1..TR_WIDTH_MAX or an error; one row, or several. */
int tr_build_output(struct tr_build *build, struct tr_layer *layer, uint64_t width);
int tr_build_rows(struct tr_build *build, struct tr_layer *layer, uint32_t rows, uint32_t columns);

/* Complaint about options that the type does not know: for a type that becomes another by an option. */
int tr_build_options(struct tr_build *build, const struct tr_layer_type *type);

/* Complaints about inputs: there must be one; all must have the first one's shape. */
int tr_build_one_input(const struct tr_build *build, const struct tr_layer *layer);
int tr_build_same_shape(const struct tr_build *build, const struct tr_layer *layer);
/* `mask` must be one for the rows of x. */
int tr_build_mask(const struct tr_build *build, const struct tr_value *x,
                  const struct tr_value *mask);

/* "[samples][16]", or "[samples][20][16]" where there are rows. */
struct tr_shape_text {
    char text[48];
};
struct tr_shape_text tr_shape(const struct tr_value *value);

/* The words of an option, or NULL. Complaints from here on name the option's place (the layer's, if
 * absent), until the next option is asked for. */
const struct tr_words *tr_build_option(struct tr_build *build, const char *key);
/* An option of 1..max integers in 1..TR_WIDTH_MAX; absent is an error. */
int tr_build_sizes(struct tr_build *build, const char *key, uint32_t max, uint32_t *size,
                   uint32_t *n);
/* One word out of choices[n]; absent gives choice 0. */
int tr_build_choice(struct tr_build *build, const char *key, const char *const *choices, uint32_t n,
                    uint32_t *out);
/* An integer in min..max, a number in min..max, true or false; *out stays as it is where the option is absent. */
int tr_build_integer(struct tr_build *build, const char *key, uint32_t min, uint32_t max,
                     uint32_t *out);
int tr_build_real(struct tr_build *build, const char *key, double min, double max, double *out);
int tr_build_flag(struct tr_build *build, const char *key, bool *out);
/* Names of activations, 1 to max of them; *n = 0 where the option is absent. */
int tr_build_acts(struct tr_build *build, const char *key, uint32_t max, enum tr_act_kind *act,
                  uint32_t *n);
/* A loss: its head, of the label that option `label` names (absent: the only one there is), and with the weight of option
 * `weight`. The label must have `classes` values; 0: any may do. */
int tr_build_head(struct tr_build *build, struct tr_layer *layer, enum tr_head_kind kind,
                  uint32_t classes, struct tr_value **label);

/* RT_EUSAGE: "file:line: layer 'x': ...". */
int tr_build_fail(const struct tr_build *build, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

/* Backward: gradients of the layer's k-th and later parameters are complete in this slice (settle.c). */
void tr_pass_settled(const struct tr_pass *pass, const struct tr_layer *layer, uint32_t k);

/* A good stride for rows of `width` floats that are ours to place: whole cache lines, an odd number of them, so
 * that a column of rows spreads over all sets of a cache. */
static inline size_t tr_stride(size_t width)
{
    return width < 16 ? width : ((width + 15) / 16 | 1) * 16;
}

/* Whether to add to value->grad (which is not NULL) instead of overwriting; marks it written. */
static inline bool tr_value_add(struct tr_value *value)
{
    bool add = value->written;
    value->written = true;
    return add;
}

#endif
