/* ctl/rundir.h -- the folder of one run, and what is in it: summary.json, config/, logs/, pids/,
 * quarantine/, model/, and local.json (who supervises it, for `saffron status` and `saffron stop`). */
#ifndef CTL_RUNDIR_H
#define CTL_RUNDIR_H

#include "runtime/base/role.h"

#include <stdbool.h>
#include <stdint.h>

/* Make it. `wanted` NULL: runs/JOB-TIME. It may hold an earlier run only with `again`: then its summary goes, its model is set aside
 * as model.1, model.2 ..., and all else stays. RT_EUSAGE: it holds a run, or one that goes on. *out: caller frees. *lock: a
 * descriptor that says that this run goes on; to be closed at its end. */
int ctl_rundir_create(const char *wanted, const char *job_name, bool again, char **out, int *lock);

struct ctl_run {
    char job[128], nats[256];
    long pid;                         /* of `saffron local` */
    uint32_t replicas[RT_ROLE_COUNT]; /* 0: not known */
};
/* How to reach a run: written when it starts, read by the other commands. */
int ctl_rundir_write(const char *dir, const struct ctl_run *run);
int ctl_rundir_read(const char *dir, struct ctl_run *out);

#endif
