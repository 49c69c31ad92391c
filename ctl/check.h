/* ctl/check.h -- what only a role can tell of a job's files, asked before anything is started. */
#ifndef CTL_CHECK_H
#define CTL_CHECK_H

#include "ctl/child.h"
#include "ctl/options.h"

/* The flags that every role must be given alike: files, data, model, every --set. */
void ctl_job_args(const struct ctl_options *options, struct ctl_child *child);

/* `saffron-trainer --describe` with them, to its end: builds the model and starts nothing. RT_EUSAGE with the
 * trainer's own line: layers, inputs, shapes, optimizer. */
int ctl_check_model(const struct ctl_options *options);
/* Dense parameters of the model, as it tells them there; 0: it does not, as where the job's data is not there. */
uint64_t ctl_ask_dense(const struct ctl_options *options);

#endif
