/* trainer/load.h -- the dense network of a saved model (save.h), read and checked before anything changes. */
#ifndef TR_LOAD_H
#define TR_LOAD_H

#include "runtime/wire/batch.h"

#include <stdbool.h>

struct tr_model;
struct tr_optimizer;

#define TR_STEPS_MAX 1000000000000000ull /* that a model may have made */

struct tr_loaded {
    float *param;  /* as tr_model_params() */
    float *state;  /* as tr_optimizer_state(); NULL: there is none, or it was not wanted */
    uint64_t step; /* with state: steps in these weights; else 0 */
    uint64_t optimizer_steps; /* likewise, of the optimizer */
};

/* The tensors of DIR/dense.safetensors, and of dense_state.safetensors where there is one; both whole in memory.
 * @fresh: the optimizer is to begin anew. Model and optimizer are read for their names and shapes, and stay as they are.
 * RT_EFILE, RT_EDATA, RT_ENOMEM; RT_EUSAGE names the tensor that is missing, is too many, or has another shape or type, the
 * optimizer that the state is of, or the file of the state that was saved and is not there. Touch: any one thread. */
int tr_load_dense(const char *dir, bool fresh, const struct tr_model *model,
                  struct tr_optimizer *optimizer, struct tr_loaded **out);
/* They are the model's now; without state the optimizer begins anew. Touch: no step running. */
void tr_loaded_take(const struct tr_loaded *loaded, struct tr_model *model,
                    struct tr_optimizer *optimizer);
void tr_loaded_free(struct tr_loaded *loaded); /* NULL is legal */

/* Mean and deviation of the columns that statistics[n] names. RT_EUSAGE: the file tells nothing of one. RT_EFILE, RT_EDATA. */
int tr_load_statistics(const char *dir, struct wire_statistics *statistics, uint32_t n);

/* Warn of each standardized column whose mean or deviation is not that of the saved model: its weights have learnt from other
 * values than this job gives them. Columns that the file does not tell of are none. @return how many. Reads the file's header. */
uint32_t tr_compare_statistics(const char *dir, const struct wire_statistics *statistics,
                               uint32_t n);

#endif
