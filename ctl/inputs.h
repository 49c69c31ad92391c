/* ctl/inputs.h -- what `saffron local` was given, looked at before anything is made or started. */
#ifndef CTL_INPUTS_H
#define CTL_INPUTS_H

#include "ctl/options.h"
#include "runtime/job/job.h"

/* Loads the job as the roles will, with one loop each where it does not say how many (that becomes a --set of theirs too), has its
 * model checked, and looks at the files that options name. *job: the caller's, after an error too. RT_EUSAGE, RT_EFILE. */
int ctl_inputs_check(struct ctl_options *options, struct rt_job **job);

#endif
