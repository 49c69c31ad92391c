/* trainer/save.h -- the dense network to disk (runtime/job/save.h): its tensors by name, as torch.nn has them; the layers; the
 * optimizer's state. Back: load.h.
 *
 * The notes of dense.safetensors are `step`, `save`, `state` ("true": dense_state.safetensors belongs to it), and for each
 * standardized column `standardize.COLUMN`: mean and deviation over the training files, which whoever makes a score needs. Those of
 * dense_state.safetensors are `optimizer`, `optimizer_steps`, `step` and `save`. Touch: any one thread, no step running. */
#ifndef TR_SAVE_H
#define TR_SAVE_H

#include "runtime/job/job.h"
#include "runtime/job/save.h"
#include "runtime/wire/batch.h"

struct rt_tensor;
struct tr_model;
struct tr_optimizer;
struct tr_param;

#define TR_NOTE_STEP            "step"
#define TR_NOTE_OPTIMIZER_STEPS "optimizer_steps"
#define TR_NOTE_STATE           "state"

struct tr_saved {
    const struct rt_job *job;
    const struct tr_model *model;         /* of which names and shapes are told, */
    const struct tr_optimizer *optimizer; /* and here the kind and slots */
    const float *param,
        *state; /* as tr_model_params(), tr_optimizer_state(); state: if save->with_state */
    uint64_t step, optimizer_steps;           /* in these weights; of the optimizer */
    const struct wire_statistics *statistics; /* [n_statistics] */
    uint32_t n_statistics;
};
/* As they are now. @optimizer: NULL: no state will be saved. Statistics: none. */
struct tr_saved tr_saved_now(const struct rt_job *job, struct tr_model *model,
                             struct tr_optimizer *optimizer, uint64_t step);
/* dense.safetensors and model.yml into save->dir, and dense_state.safetensors; counts them. RT_EFILE, RT_ENOMEM. */
int tr_save_dense(const struct tr_saved *what, struct rt_save *save);
/* What a tensor of the model is in a file, but for its data; `name` stays the caller's. */
void tr_tensor_of(const struct tr_param *param, const char *name, struct rt_tensor *out);

/* model.yml that needs no other file: layers, parameters filled in, optimizer, schedule, precision. The caller's. */
int tr_job_model_text(const struct rt_job *job, char **out);

#endif
