/* runtime/process/told.h -- the job that a process was told to do: loaded, and told again. */
#ifndef RT_TOLD_H
#define RT_TOLD_H

#include "runtime/job/job.h"
#include "runtime/process/flags.h"

/* The four files, as the flags name and change them. */
int rt_told_load(const struct rt_flags *flags, struct rt_job **out);

/* Which job it is: two lines of the log; for --describe, two lines on standard output. */
void rt_told_log(const struct rt_job *job);
void rt_told_print(const struct rt_job *job);

#endif
