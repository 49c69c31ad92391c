/* trainer/backend/cuda/step.h -- what a step does on the device beside the layers: inputs into their places, results out of theirs, whether it is
 * finite, and the optimizer.
 *
 * In the order of a step:
 *     tr_cuda_widen, tr_cuda_sequence_expand     what came, to what layers read
 *     (forward, backward)
 *     tr_cuda_scores                             what heads scored
 *     tr_cuda_finite                             gradients, losses: is the step one?
 *     tr_cuda_narrow, tr_cuda_sequence_sums      gradients of features, as they are sent
 *     tr_cuda_optimizer_queue                    skipped on the device, if it is none
 *
 * All is queued on `compute`, and allocates nothing but in create and init; what comes of it is left in the device's memory (struct
 * tr_cuda_outcome, struct tr_cuda_stepped) for the host to fetch when it likes. Pointers are to memory of the device where nothing else is
 * said; what is called [n] is without gaps. The formulas, and all bits but those of norms, are the CPU's: trainer/optimizer.c,
 * trainer/model/{train,settle,sequence}.c. Return: 0, RT_EBACKEND, RT_ENOMEM. Touch: the step thread. */
#ifndef TR_CUDA_STEP_H
#define TR_CUDA_STEP_H

#ifdef __cplusplus
extern "C" {
#endif

#include "runtime/base/half.h"
#include "trainer/backend/backend.h"
#include "trainer/model/model.h"
#include "trainer/optimizer.h"
#include "trainer/optimizer_rates.h"

/* ---- spans of the flat vectors, cut so that a block has a chunk ---- */

#define TR_CUDA_CHUNK 2048u /* elements; cut where the vector's index is a multiple of it */

struct tr_cuda_chunk {
    uint64_t begin;
    uint32_t count, span;
};

/* Both tables are the device's. */
struct tr_cuda_spans {
    uint32_t n_spans, n_chunks;
    const struct tr_span *span;
    const struct tr_cuda_chunk *chunk; /* [n_chunks] in the order of the spans */
    const uint32_t *first;             /* [n_spans + 1] of a span's chunks */
};

/* span[n_spans]: the host's, as in tr_optimizer_create_spans(); copied. Waits for the copy. */
int tr_cuda_spans_init(struct tr_cuda *cuda, const struct tr_span *span, size_t n_spans,
                       struct tr_cuda_spans *out);

/* ---- the optimizer ---- */

struct tr_cuda_optimizer; /* optimizer.cu */

/* What came of a step. */
struct tr_cuda_stepped {
    double grad_norm; /* before clipping, as tr_optimizer_grad_norm(); to 1e-12 of it */
    float grad_scale; /* of clipping */
    uint32_t stepped; /* 0: nothing was changed */
};

/* State for n parameters, as it is before the first step. conf is one that tr_optimizer_create() takes. */
int tr_cuda_optimizer_create(struct tr_cuda *cuda, const struct tr_optimizer_conf *conf, size_t n,
                             const struct tr_span *span, size_t n_spans,
                             struct tr_cuda_optimizer **out);
void tr_cuda_optimizer_destroy(struct tr_cuda_optimizer *optimizer); /* NULL is legal */

/* Queue a step: of what is in *rates when it runs, grads[n] and params[n], both 16-byte aligned. It is skipped where *finite is 0 (NULL: it counts as 1),
 * and where the gradients' squares have no finite sum. The host counts steps, and takes back one that was skipped. */
int tr_cuda_optimizer_queue(struct tr_cuda_optimizer *optimizer, struct tr_backend *backend,
                            const struct tr_optimizer_rates *rates, const float *grads,
                            float *params, const uint32_t *finite);

/* Queue the state's start. */
int tr_cuda_optimizer_reset(struct tr_cuda_optimizer *optimizer, struct tr_backend *backend);

/* State [n] of a slot, in the order of tr_optimizer_state(); NULL: there are not so many. For copies to and from the host. */
float *tr_cuda_optimizer_slot(struct tr_cuda_optimizer *optimizer, size_t slot);
const struct tr_cuda_stepped *tr_cuda_optimizer_stepped(
    const struct tr_cuda_optimizer *optimizer); /* of the latest */

/* ---- is it finite? ---- */

/* Of all gradients of a step. [0] of what the host fetches; behind it uint32_t unfit[n] and float scale[n] of struct tr_cuda_gradients. */
struct tr_cuda_outcome {
    uint64_t saturated; /* as struct tr_forward_out */
    uint32_t finite;    /* 1 or 0; for tr_cuda_optimizer_queue() */
    uint32_t reserved;
};

/* A feature's. */
struct tr_cuda_gradient {
    const float *grad; /* [samples][width], 16-byte aligned; NULL: no layer has one */
    void *
        out; /* where tr_cuda_narrow() writes them, 8-byte aligned (float32: 16); NULL: nowhere, for it is a sequence */
    uint32_t width;
};

struct tr_cuda_gradients {
    uint32_t n, samples_max, width_max, dtype;
    float limit,
        gradient_max; /* the largest of a feature and of a parameter that counts as finite */
    uint32_t chunks;  /* of 128 samples, in samples_max */
    const struct tr_cuda_gradient *of;
    uint32_t *magnitude;             /* [n][chunks] the largest of each, as bits */
    struct tr_cuda_outcome *outcome; /* and behind it: */
    uint32_t *unfit;                 /* [n] 1: tr_model_feature_is_unfit() */
    float *scale;         /* [n] struct tr_feature_grad's, of features that are narrowed */
    size_t outcome_bytes; /* of all three */
};

/* of[n]: the host's table, of pointers to the device; copied. Set before: n, samples_max, dtype (enum rt_dtype of what is
 * sent), limit, gradient_max; 0: FLT_MAX. Waits for the copy. */
int tr_cuda_gradients_init(struct tr_cuda *cuda, const struct tr_cuda_gradient *of,
                           struct tr_cuda_gradients *gradients);

/* Gradients of features and of parameters (spans of `grads`) within their limits, and loss_sum[n_losses] finite: outcome->finite. Sets unfit,
 * magnitudes for tr_cuda_narrow(), and clears saturated. Running averages may be up to FLT_MAX / 2. */
int tr_cuda_finite(struct tr_backend *backend, const struct tr_cuda_gradients *gradients,
                   uint32_t samples, const struct tr_cuda_spans *spans, const float *grads,
                   const double *loss_sum, uint32_t n_losses);

/* ---- features ---- */

struct tr_cuda_feature {
    const void
        *from; /* [samples][width], 8-byte aligned (float32: 16), or values one by one, slower */
    float *to; /* NULL: no layer reads it */
    uint32_t width;
};

/* of[n]: a table in the device's memory, read when it runs. float32 is copied. */
int tr_cuda_widen(struct tr_backend *backend, uint32_t dtype, const struct tr_cuda_feature *of,
                  uint32_t n, uint32_t samples, uint32_t width_max);

/* After tr_cuda_finite() of the same samples: all pooled features' gradients to `out`, times a scale as struct tr_feature_grad has it, which goes to
 * gradients->scale. Zeros where no layer has one. */
int tr_cuda_narrow(struct tr_backend *backend, const struct tr_cuda_gradients *gradients,
                   uint32_t samples);

/* ---- sequences ---- */

struct tr_cuda_sequence {
    uint32_t samples, length, dim, dtype; /* length: the most places of a sample */
    const void *row;                      /* [rows][dim] of dtype */
    const uint32_t *index;                /* which of them, by place: struct tr_sequence_view */
    const uint32_t *begin;                /* [samples + 1] where a sample's are in the index */
    float *to;   /* [samples][length][dim], zeros behind a sample's last; NULL: no layer reads it */
    float *mask; /* [samples][length] of 1 and 0; NULL: no layer reads it */
};
int tr_cuda_sequence_expand(struct tr_backend *backend, const struct tr_cuda_sequence *op);

/* Gradients by row: of its places, in ascending order, added in float32; then narrowed, the largest of all choosing the scale. */
struct tr_cuda_sums {
    uint32_t dim, rows_max, dtype;
    const uint32_t *rows;              /* one number, at most rows_max */
    const uint32_t *row_begin, *place; /* tr_cuda_places() */
    const float *grad;                 /* [samples][length][dim]; NULL: zeros */
    float *sum;                        /* [rows_max][dim]; of float32 it is `out` */
    void *out;                         /* [rows_max][dim] of dtype */
    float *scale;                      /* set */
    uint64_t *saturated;               /* += those that bfloat16 is too small for */
};
int tr_cuda_sequence_sums(struct tr_backend *backend, const struct tr_cuda_sums *op);

/* The host's, for all of these: a batch's places by row, sorted by counting. Place p of sample s is s * longest + p.
 * @index @length: struct tr_sequence_view   @begin: [samples + 1]  @row_begin: [rows + 1]  @place: [sum of lengths], row by row, ascending in each */
void tr_cuda_places(const struct tr_sequence_view *view, uint32_t samples, uint32_t longest,
                    uint32_t *begin, uint32_t *row_begin, uint32_t *place);

/* ---- scores ---- */

/* A loss: struct tr_head, and where its layer has what. */
struct tr_cuda_head {
    const struct tr_head *head; /* the host's */
    const float *y;             /* [samples][y_stride] what it scores */
    const float *label;         /* [samples][label_stride]; of one that is wide */
    uint32_t y_stride, label_stride;
};

struct tr_cuda_scoring {
    uint32_t samples, n_heads, columns; /* columns: tr_model_score_columns() */
    const struct tr_cuda_head *head;    /* [n_heads] the host's */
    const float *in;                    /* [samples][in_stride] what the first head takes */
    uint32_t in_stride;
    float *score; /* [samples][columns]; NULL: not wanted */
    float *logit; /* [samples] the first column of `in`; NULL: not wanted */
};
int tr_cuda_scores(struct tr_backend *backend, const struct tr_cuda_scoring *op);

#ifdef __cplusplus
}
#endif

#endif
