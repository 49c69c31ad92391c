/* trainer/model/model.h -- the dense network of one rank: forward, backward, and its parameters as
 * one flat vector. Pure computation: no network, no file, no clock.
 *
 *     struct tr_model_conf conf = {.seed = 1, .samples_max = 1024, .threads = 1};
 *     err = tr_model_create(spec, &inputs, &conf, &model);          // spec.h; parse.h reads it from YAML
 *     err = tr_model_train(model, &batch, global_samples, feature_grad, &out);  // loss_sum, gradients
 *     if (!out.finite) ... drop the batch ...
 *     err = tr_optimizer_step(optimizer, lr, grads, params);        // trainer/optimizer.h
 *
 * Heads: a model has one loss or several, each with its label; what is minimized is their sum, each times its weight. The
 * first one is what a model with one has: what is said of "the loss" of a job is of it.
 * Shapes: `dense` is [samples][n_dense], feature f is [samples][feature_dim[f]], `labels` is
 * [samples][n_labels]; row-major, without gaps; float32, but features and their gradients may be 16 bits wide in the
 * caller's memory (conf). Every layer's output is one tensor [samples][rows][columns], of one row unless it comes of a
 * sequence. A feature that is a sequence comes as its different rows and which of them stands where; layers see
 * [samples][longest][feature_dim[f]], zeros after the last, and NAME.mask, [samples][longest] of 1 and 0.
 * Slices: a batch passes through the network 128 samples (per thread; 512 of large networks) at a time, forward and backward, so
 * that activations never leave the cache and need memory for one slice only; 512 where the parameters are more than 2^18, and would
 * leave it instead (model.c). At 4096 samples, DLRM with 26
 * features of dim 16: 8.3 us a sample instead of 13.1 (2 GHz AVX-512 core, one thread). 16-bit features are
 * widened, and gradients narrowed, a slice at a time as well; float32 ones are read and written where they are.
 * A model with a layer that looks at all samples (batchnorm, dice) has one slice, the batch.
 * Memory: all of it is allocated in create; a step allocates nothing of ours, whatever its batch size
 * (oneDNN's products take packing space from malloc).
 * Determinism: same machine class, thread count, parameters and batch give the same bits.
 * Touch: the step thread (create and destroy: any one thread, no step running). */
#ifndef TR_MODEL_H
#define TR_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "trainer/backend/real.h"

#define TR_SAMPLES_MAX (1u << 20)   /* samples of a batch */
#define TR_WIDTH_MAX   (1u << 20)   /* width of a tensor */
#define TR_PARAMS_MAX  (1ull << 31) /* parameters of a model */
#define TR_HEADS_MAX   16u          /* losses of a model */

struct tr_spec;
struct tr_model;
struct tr_gpu;
struct tr_cuda;

/* What a batch brings, from data.yml and embedding.yml; names are copied. Width-0 lists are legal. */
struct tr_model_inputs {
    const char *const *dense; /* [n_dense] column names */
    uint32_t n_dense;
    const char *const *feature;  /* [n_features] names */
    const uint32_t *feature_dim; /* [n_features] width of each, of a sequence of one of its rows */
    /* [n_features] the longest sequence, 0: pooled; NULL: all are. The width is this times feature_dim. */
    const uint32_t *feature_length;
    uint32_t n_features;
    const char *const *label; /* [n_labels] */
    uint32_t n_labels;
    /* [n_labels] labels are 0..n-1; 0: any number; NULL: all are 0 or 1. The caller's word for it: no pass checks labels. */
    const uint32_t *label_classes;
};

struct tr_model_conf {
    uint64_t seed;          /* global.seed: initial parameters are a pure function of it */
    uint32_t samples_max;   /* largest batch, training or evaluation; 1..TR_SAMPLES_MAX */
    int threads;            /* that share a batch (train.c), trainer.threads; 0 means 1 */
    const char *backend;    /* NULL or "onednn" (default), "reference" (plain C, for tests) */
    uint32_t precision;     /* of matrix products: RT_DTYPE_F32 (0), RT_DTYPE_BF16: backend.h */
    uint32_t feature_dtype; /* enum rt_dtype (half.h) of what a batch brings; 0: float32 */
    uint32_t feature_grad_dtype; /* and of the gradients that are wanted */
    /* The GPU that it lies on (backend/gpu.h), open as long as the model is there; NULL: it lies in the host's memory. `backend` and `threads` mean
     * nothing there. */
    const struct tr_gpu *gpu;
    struct tr_cuda *cuda;
    /* The largest gradient of a parameter and of a feature that counts as finite; 0: FLT_MAX. */
    float gradient_max, feature_gradient_max;
};

/* Which of a feature's rows stands where, sample after sample. */
struct tr_sequence_view {
    const uint32_t *index;  /* [sum of lengths] each below `rows` */
    const uint32_t *length; /* [samples] each at most feature_length */
    uint32_t rows;          /* different ones */
};

/* Who wants to hear, while a batch is trained, of gradients that are complete: tr_model_grads()[from..] is, and the model neither
 * reads nor writes it until the next batch. From the last slice's backward pass, on its thread; `from` falls from call to call,
 * and what is left at the end is complete then. */
struct tr_settled {
    void (*fn)(void *arg, size_t from);
    void *arg;
};

/* On a GPU: a step of an optimizer that goes with the pass, behind its gradients (tr_optimizer_rider()). prepare() queues what changes from step to step.
 * queue() queues the step itself and is recorded with the pass: it reads what it needs from the device's memory, and does nothing there where *finite
 * is 0. `arg` is the same for the same optimizer. 0 or RT_EBACKEND. */
struct tr_backend;
struct tr_rider {
    int (*prepare)(void *arg);
    int (*queue)(void *arg, struct tr_backend *backend, const float *grads, float *params,
                 const uint32_t *finite);
    void *arg;
};

/* On a GPU: what the caller does while a batch is computed, called once the pass is queued and before anything of it is waited for:
 * tr_model_stage() and tr_model_land(). 0, or an error that is the pass's then. */
struct tr_beside {
    int (*fn)(void *arg);
    void *arg;
};

/* One batch, all memory the caller's. */
struct tr_batch_view {
    uint64_t batch_id;    /* for the trace; 0: it has none */
    uint32_t samples;     /* 1..samples_max */
    const tr_real *dense; /* [samples][n_dense]; may be NULL when n_dense is 0 */
    /* [n_features] -> [samples][feature_dim[f]] of feature_dtype; of a sequence [rows][feature_dim[f]] */
    const void *const *feature;
    const struct tr_sequence_view *sequence; /* [n_features] of those; NULL: none is a sequence */
    const tr_real *labels;                   /* [samples][n_labels] */
    uint64_t
        draw; /* random numbers of dropout are drawn from it: of the seed, the step and the rank */
    const tr_real *weight;            /* [samples], or NULL: every sample weighs 1 */
    const struct tr_settled *settled; /* NULL: nobody */
    const struct tr_rider *rider;     /* NULL: none; the step was made where out.finite is set */
    const struct tr_beside *beside;   /* NULL: nothing */
    bool
        lands_later; /* the caller waits for features' gradients by tr_model_land(); set where out.landing is */
    uint64_t staged; /* tr_model_stage(); 0: its inputs are in the caller's memory alone */
};

/* Where the gradients of a feature go. float16 has too few exponents for gradients: they are multiplied by `scale`, a power
 * of two that is a pure function of the batch. It is chosen by the first 128 samples that have one other than 0, with room
 * for gradients 8,192 times as large; what is larger still becomes the largest float16. Those of a sequence are summed by row
 * before, in float32, and the largest of all of them chooses. */
struct tr_feature_grad {
    void *
        out; /* [samples][feature_dim[f]], of a sequence [rows][feature_dim[f]], of feature_grad_dtype; caller's memory */
    float scale; /* set: value written = gradient * scale; 1 but in float16 */
};

enum tr_head_kind { TR_HEAD_BCE, TR_HEAD_MSE, TR_HEAD_SOFTMAX };

/* A loss, and what it scores. */
struct tr_head {
    const char *name; /* of the loss layer */
    enum tr_head_kind kind;
    uint32_t label;   /* which of a sample's labels */
    uint32_t classes; /* of the label; 0: it is any number */
    /* Of a sample's scores, from column `first` on. bce: the probability of 1; mse: the prediction; softmax_ce: the probability
     * of each class, but where it is wide those of enum tr_wide alone. */
    uint32_t first, columns;
    double weight; /* in the loss that is minimized */
};

/* All probabilities of 65,536 classes would be half a gigabyte for a batch of 2,048, of which metrics want two numbers a sample. */
#define TR_CLASSES_SCORED 64u /* a softmax_ce of more of them is wide */
enum tr_wide {
    TR_WIDE_LABEL, /* the probability of the class that the label names */
    TR_WIDE_CLASS, /* the most probable class; of equal ones the first */
    TR_WIDE_MOST,  /* its probability */
    TR_WIDE_COLUMNS,
};
static inline bool tr_head_is_wide(const struct tr_head *head)
{
    return head->kind == TR_HEAD_SOFTMAX && head->classes > TR_CLASSES_SCORED;
}

struct tr_forward_out {
    tr_real *logit; /* [samples] what the first head takes, of its first input one column; caller's
                     * memory, or NULL when not wanted */
    tr_real *score; /* [samples][tr_model_score_columns()]; or NULL */
    /* Set: sum over the samples and heads of weight * head's weight * loss. The mean loss of
     * a step is the sum of all ranks' loss_sum over the global sample count. */
    double loss_sum;
    double head_loss[TR_HEADS_MAX]; /* set, of each: sum over the samples of weight * loss */
    bool landing; /* set by train: features' gradients are still on their way (lands_later) */
    bool finite;  /* set by train: loss_sum is finite, all gradients are within conf's limits */
    uint64_t
        saturated; /* set by train: finite gradients of features that were too large for 16 bits */
};

/* One named parameter tensor inside the flat vectors. */
struct tr_param {
    const char *name;  /* "top.0.weight": layer, position in the layer, role; unique */
    uint32_t shape[2]; /* weight: [outputs][inputs] as torch.nn.Linear; bias: [outputs][1] */
    uint32_t rank;     /* 2, or 1: then only shape[0] counts */
    size_t offset;     /* first element in the flat vectors; tensors follow without gaps */
    size_t count;      /* elements */
    /* 0: a parameter. Else no loss has a gradient of it: it is a running average of something of each batch. Its place in the
     * vector of gradients holds how far this batch's is from it, times the rank's share of the group's samples; a step moves it
     * by momentum * (the sum over the ranks). Weight decay, clipping and learning rates are not for it. */
    double momentum;
};

/* Check the whole model (names, options, shapes) and build it. RT_EUSAGE names file:line, layer,
 * input, expected and got shape; RT_ENOMEM when it does not fit; RT_EBACKEND from oneDNN.
 * spec and inputs are not kept. */
int tr_model_create(const struct tr_spec *spec, const struct tr_model_inputs *inputs,
                    const struct tr_model_conf *conf, struct tr_model **out);
void tr_model_destroy(struct tr_model *model); /* NULL is legal */

/* Logits, scores and loss of one batch. RT_EBACKEND. */
int tr_model_forward(struct tr_model *model, const struct tr_batch_view *batch,
                     struct tr_forward_out *out);

/* The same, and gradients of (sum of weighted losses of this batch) / global_samples. Overwrites
 * tr_model_grads() and the whole of every feature_grad[f].out (zeros for a feature that no layer uses; 16-bit ones are
 * not written from the first slice on that is not finite). global_samples >= 1: the samples of all ranks in this step.
 * feature_grad[n_features] may be NULL: dense gradients only. RT_EBACKEND. */
int tr_model_train(struct tr_model *model, const struct tr_batch_view *batch,
                   uint64_t global_samples, struct tr_feature_grad *feature_grad,
                   struct tr_forward_out *out);

/* On a GPU: begin to copy what the batch brings to it, which goes on while another batch is computed; at most one batch ahead. Its memory stays as it
 * is until the batch was trained or scored; what is written there later is not seen while batch->staged is not 0. Elsewhere: nothing.
 * RT_EBACKEND. */
int tr_model_stage(struct tr_model *model, struct tr_batch_view *batch);

/* On a GPU: the features' gradients of the batch that was trained last with lands_later are in the caller's memory when this returns. The next
 * batch that is trained waits for them first. Elsewhere, and where none are on their way: nothing. RT_EBACKEND. */
int tr_model_land(struct tr_model *model);

/* In the batch that was trained last: a gradient of this feature was not finite, or over conf's limit. */
bool tr_model_feature_is_unfit(const struct tr_model *model, uint32_t feature);

/* The flat vectors, [tr_model_count()] each, 64-byte aligned, owned by the model. The caller may
 * write both (all-reduce in place, optimizer, restore) between steps. On a GPU both are mirrors in the host's memory: that of the parameters is
 * made current when it is asked for, that of the gradients by tr_model_fetch_grads(); both are copied to the GPU before they are used there. (A GPU
 * that fails meanwhile ends the process: nobody may save what is not current.) */
tr_real *tr_model_params(struct tr_model *model);
tr_real *tr_model_grads(struct tr_model *model);
int tr_model_fetch_grads(struct tr_model *model); /* elsewhere: nothing. RT_EBACKEND */
/* The same vectors where the model has them, for an optimizer that is there too; tr_model_stepped() after it. RT_EBACKEND. */
int tr_model_vectors(struct tr_model *model, tr_real **grads, tr_real **params);
void tr_model_stepped(struct tr_model *model);
size_t tr_model_count(const struct tr_model *model); /* parameters; 0 is possible */
const struct tr_param *tr_model_tensors(const struct tr_model *model, size_t *n);

/* [n] in the order of the layers; the model's. */
const struct tr_head *tr_model_heads(const struct tr_model *model, uint32_t *n);
const char *tr_head_kind_name(enum tr_head_kind kind); /* "bce" */
/* Columns of a sample's scores, of all heads. */
uint32_t tr_model_score_columns(const struct tr_model *model);

/* Set every gradient to zero: what a rank without a batch brings to the all-reduce. */
void tr_model_clear_grads(struct tr_model *model);

/* A layer as --describe tells it. */
struct tr_layer_facts {
    const char *name, *type; /* the model's */
    char shape[48];          /* of its output: "[samples][351]" */
    uint32_t n_inputs;
    size_t parameters;
    /* Of a forward pass over one sample: 2 for each multiplication with its addition. Passes over single elements (sums,
     * activations, norms) are left out. */
    uint64_t flops;
    size_t
        bytes; /* parameters and activations of a slice, with their gradients, and what it works in */
};

/* Layers that exist (left-out ones not counted), from the first to the loss; the name of an input. */
uint32_t tr_model_layers(const struct tr_model *model);
void tr_model_layer(const struct tr_model *model, uint32_t i, struct tr_layer_facts *out);
const char *tr_model_layer_input(const struct tr_model *model, uint32_t i, uint32_t k);

/* True when no element is NaN or has a magnitude over max, which is finite. n may be 0. Any thread. */
bool tr_within(const tr_real *value, size_t n, float max);

#endif
