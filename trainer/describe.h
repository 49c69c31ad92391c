/* trainer/describe.h -- the model and the optimizer that a job's files ask for. */
#ifndef TR_DESCRIBE_H
#define TR_DESCRIBE_H

#include <stdint.h>

struct rt_job;
struct tr_device_of;
struct tr_model;
struct tr_optimizer;
struct tr_schedule;

/* RT_EUSAGE names file:line, layer, input, expected and got shape. *out is the caller's. A batch is finite where
 * the sums over `world` ranks are sure to be, of parameters as of rows: all ranks decide by flags alone. device: NULL for the CPU. */
int tr_job_model(const struct rt_job *job, uint32_t samples_max, uint32_t world,
                 const struct tr_device_of *device, struct tr_model **out);
/* The optimizer of this model; learning rate and schedule are told with each step. *out is the caller's. */
int tr_job_optimizer(const struct rt_job *job, const struct tr_model *model,
                     struct tr_optimizer **out, double *learning_rate,
                     struct tr_schedule *schedule);

/* For `saffron-trainer --describe`: the layers with shapes and parameters on standard output, or the
 * complaint that the trainer would have at its start. Makes the model of a trainer's batches and frees it. */
int tr_describe(const struct rt_job *job);
/* For --describe=dot: the same as a graph in the language of Graphviz, a node for each layer and for each input. */
int tr_describe_picture(const struct rt_job *job);

#endif
