/* runtime/process/place.h -- where a process stands: its ports and its folders, from flags and job. */
#ifndef RT_PLACE_H
#define RT_PLACE_H

#include "runtime/base/role.h"
#include "runtime/job/job.h"
#include "runtime/process/flags.h"

/* First port of the data plane, one for each event loop; the admin page's. 0: any that is free. */
uint32_t rt_place_port(const struct rt_flags *flags, const struct rt_job *job, enum rt_role role);
uint32_t rt_place_admin_port(const struct rt_flags *flags, const struct rt_job *job);

/* The folders that it was given can be used: RT_EUSAGE names the variable and the folder. make: the run
 * directory is made where it is missing. */
int rt_place_check(const struct rt_flags *flags, enum rt_role role, bool make);

/* Does it go on from a checkpoint, if there is one? --restore=none is obeyed until the run that begins so has one of its own. */
bool rt_place_restores(const struct rt_flags *flags);

/* For --describe: lines on standard output. */
void rt_place_print(const struct rt_flags *flags, const struct rt_job *job, enum rt_role role);

#endif
