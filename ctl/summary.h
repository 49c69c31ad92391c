/* ctl/summary.h -- what a run came to: summary.json for programs, a short table for people. */
#ifndef CTL_SUMMARY_H
#define CTL_SUMMARY_H

#include "ctl/child.h"
#include "ctl/restore.h"
#include "ctl/view.h"
#include "runtime/job/job.h"

struct ctl_summary {
    const struct rt_job *job;
    const struct ctl_snapshot *final; /* the last round of answers; may be empty */
    double cpu_seconds[RT_ROLE_COUNT];
    uint64_t peak_rss_bytes[RT_ROLE_COUNT];
    uint32_t restarts[RT_ROLE_COUNT];
    const struct ctl_restorable *checkpoint; /* the newest there is; NULL: not known */
    const char *error;                       /* NULL: the run was a success */
};

/* Replace DIR/summary.json. Fields are those of the README's table; what is not known is null. */
int ctl_summary_write(const struct ctl_summary *summary, const char *run_dir);
void ctl_summary_print(const struct ctl_summary *summary, const char *run_dir);

#endif
