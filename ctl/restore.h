/* ctl/restore.h -- the checkpoints of a local run: which one it goes on from, and which is the last.
 *
 * Roles take the newest one that is whole. So the one that the user wants is made the newest: those behind it are set aside. It is
 * read as a whole before anything is started, so that what is wrong with it is said at once. Touch: main thread. */
#ifndef CTL_RESTORE_H
#define CTL_RESTORE_H

#include "ctl/progress.h"
#include "runtime/job/job.h"

/* Zero-initialise; name is freed by ctl_restorable_release(). */
struct ctl_restorable {
    char *name; /* NULL: none */
    uint64_t step, age;
    bool suspect; /* its manifest says so */
};
void ctl_restorable_release(struct ctl_restorable *checkpoint);

/* @which: a name, or `latest`: the newest that is good; says which it passes over, and why. Changes nothing. RT_EUSAGE: there is none
 * (tells those that there are), it is of another job, or damaged; RT_ENOMEM. */
int ctl_restore_choose(const char *dir, const char *which, const struct rt_job *job,
                       struct ctl_progress *progress, struct ctl_restorable *out);
/* Set aside what is newer, and say so. RT_EUSAGE: another process writes there; RT_EFILE. */
int ctl_restore_go_back(const char *dir, const struct ctl_restorable *to,
                        struct ctl_progress *progress);
/* Nobody else makes checkpoints there. RT_EUSAGE: somebody does, and who; RT_EFILE. */
int ctl_restore_check_free(const char *dir);
/* The newest one there is; none where there is none, or the folder cannot be read. */
void ctl_restore_newest(const char *dir, struct ctl_restorable *out);

#endif
