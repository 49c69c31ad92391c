/* trainer/save.h -- the dense network on disk (runtime/job/save.h): its tensors by name, as torch.nn has them; the layers.
 *
 * The notes of dense.safetensors are `step`, `save`, and for each standardized column `standardize.COLUMN`: mean and
 * deviation over the training files, which whoever makes a score needs. Touch: any one thread, no step running. */
#ifndef TR_SAVE_H
#define TR_SAVE_H

#include "runtime/job/job.h"
#include "runtime/job/save.h"
#include "runtime/wire/batch.h"

struct tr_model;

struct tr_saved {
    const struct rt_job *job;
    struct tr_model *model;
    uint64_t step;
    const struct wire_statistics *statistics; /* [n_statistics] */
    uint32_t n_statistics;
};
/* dense.safetensors and model.yml into save->dir; counts them. RT_EFILE, RT_ENOMEM. */
int tr_save_dense(const struct tr_saved *what, struct rt_save *save);

/* The tensors of DIR/dense.safetensors into the model. RT_EFILE, RT_EDATA; RT_EUSAGE names the tensor that is
 * missing, is too many, or has another shape or type. The model is as before then. */
int tr_load_dense(const char *dir, struct tr_model *model);

/* Warn of each standardized column whose mean or deviation is not that of the saved model: its weights have learnt from other
 * values than this job gives them. Columns that the file does not tell of are none. @return how many. Reads the file's header. */
uint32_t tr_compare_statistics(const char *dir, const struct wire_statistics *statistics,
                               uint32_t n);

/* model.yml that needs no other file: layers, parameters filled in, optimizer, schedule, precision. The caller's. */
int tr_job_model_text(const struct rt_job *job, char **out);

#endif
