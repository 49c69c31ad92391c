/* trainer/model/device_impl.h -- the inside of a model on a device: device.c (memory), slot.c (what batches bring), device_pass.c (passes). */
#ifndef TR_DEVICE_IMPL_H
#define TR_DEVICE_IMPL_H

#include "trainer/backend/gpu.h"
#include "trainer/model/device.h"

#define TR_DEVICE_SLOTS 2u
#define TR_DEVICE_RECORDINGS                                                                       \
    16u /* of a slot: shapes of batches, trained or scored; others run as they are */

/* A vector at both places. */
struct tr_mirror {
    tr_real *host, *device;
    bool old, written; /* the host's is older; may have been written to */
};

/* A feature that is a sequence, in a slot; arrays as in tr_cuda_places(). */
struct tr_slot_sequence {
    void *row;                                   /* [samples_max * length][dim] */
    uint32_t *index, *begin, *row_begin, *place; /* the device's */
    uint32_t *begin_host, *row_begin_host, *place_host;
    uint32_t *rows; /* the device's, of the slot's numbers */
};

/* What is done with a batch; each has a recording of its own. */
struct tr_shape {
    uint32_t samples;
    bool trains, weighted, scored, logits;
    const void *optimizer; /* whose step goes with it */
};

struct tr_played {
    struct tr_shape shape;
    bool warm; /* was run as it is */
    struct tr_gpu_recording *recording;
};

struct tr_slot {
    tr_real *dense, *labels,
        *weight;                   /* of the device, as all that follows if nothing else is said */
    void **feature;                /* [n_features] the host's array */
    struct tr_cuda_feature *table; /* [n_pooled] what is widened to where */
    struct tr_slot_sequence *sequence; /* [n_features] */
    char *numbers, *numbers_host;      /* struct tr_now; keys [n_layers]; rows [n_features] */
    uint64_t ticket;                   /* of the batch whose inputs are here; 0: of none */
    struct tr_gpu_mark *here;          /* they are */
    struct tr_cuda_gradients gradients;
    void **grad_out;            /* [n_features] the host's array: as it is sent */
    void *outcome;              /* the host's copy of gradients.outcome */
    struct tr_gpu_mark *landed; /* it is in the host's memory */
    struct tr_played played[TR_DEVICE_RECORDINGS];
    uint32_t n_played;
};

struct tr_device {
    const struct tr_gpu *gpu;
    struct tr_cuda *cuda;
    struct tr_model *model;
    struct tr_mirror params, grads;
    struct tr_gpu_mark *computed, *fetched;
    struct tr_cuda_spans spans;
    void **sum; /* [n_features] of a sequence's rows; NULL: summed where it is sent */
    double *loss, *loss_there; /* [TR_HEADS_MAX] the host's copy; the device's */
    tr_real *score, *logit;    /* [samples_max][score_columns], [samples_max] */
    struct tr_slot slot[TR_DEVICE_SLOTS];
    struct tr_slot *landing;      /* whose gradients are on their way to the host; NULL: none are */
    uint32_t n_pooled, width_max; /* features that are no sequences */
    const struct tr_rider *rider; /* of the pass that is being made */
    uint32_t turn;                /* the slot that the next batch gets */
    uint64_t tickets;
};

/* The offsets of what a slot's numbers are made of. */
static inline size_t tr_numbers_keys(void)
{
    return sizeof(struct tr_now);
}
size_t tr_numbers_rows(const struct tr_device *device);

int tr_slot_make(struct tr_device *device, struct tr_slot *slot);
void tr_slot_release(struct tr_device *device, struct tr_slot *slot);
/* Queue the copies of what a batch brings; `here` is marked behind them. */
int tr_slot_fill(struct tr_device *device, struct tr_slot *slot, const struct tr_batch_view *batch);
/* The slot that has the batch; NULL: none has. */
struct tr_slot *tr_slot_staged(struct tr_device *device, const struct tr_batch_view *batch);
/* The slot that has the batch, or has it now. */
int tr_slot_of(struct tr_device *device, const struct tr_batch_view *batch, struct tr_slot **out);

/* What was written to the parameters' mirror goes to the device, before a pass. */
int tr_device_close_params(struct tr_device *device);

#endif
