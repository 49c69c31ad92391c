/* ctl/finish.h -- the end of a job that goes well: all trainers are done -> the model is in the run directory -> success.
 *
 *   TRAINING -all ranks say done-> SAVING -trainer/0, and who has rows, have written it-> over
 *   SAVING -trainer/0 ended, and is started again-> TRAINING
 *
 * SAVING takes as long as it takes, but not without getting on. The results of the run are the same whether that succeeds or not, but
 * for the error. A trainer/0 that is started again may go back to a checkpoint: then the job is not done, and the model is saved when
 * it is again. Rows that were written meanwhile are the right ones, since each update is applied once. Touch: main thread. */
#ifndef CTL_FINISH_H
#define CTL_FINISH_H

#include "ctl/roles.h"

/* Pointers must stay; zero-initialise the rest. */
struct ctl_finish {
    const struct ctl_options *options;
    const struct rt_job *job;
    const char *run_dir;
    const struct ctl_roles *roles;
    struct ctl_poll *poll;
    struct ctl_progress *progress;
    /* ---- */
    bool saving;
    uint32_t rounds;                /* that some are done and others are not, or do not answer */
    uint64_t saved_bytes, saved_ns; /* of the model, and when that became more */
};

/* A new round of answers. @return whether the run is over: *exit_code, and *error (the caller's) or NULL. */
bool ctl_finish_look(struct ctl_finish *finish, const struct ctl_snapshot *last,
                     const struct ctl_view *view, int *exit_code, char **error);
/* A role has ended and is started again. */
void ctl_finish_not_yet(struct ctl_finish *finish, bool is_first_trainer);

#endif
