/* ctl/child.h -- a process that `saffron local` starts and answers for.
 *
 * Each has a process group of its own (Ctrl-C reaches the supervisor alone), a log file, a pid file, and
 * dies with the supervisor whatever happens to it (PR_SET_PDEATHSIG). Touch: main thread. */
#ifndef CTL_CHILD_H
#define CTL_CHILD_H

#include "runtime/base/role.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define CTL_CHILD_ARGS_MAX   600
#define CTL_CHILD_NO_PROGRAM 127 /* exit status when the program could not be executed */

/* Zero-initialise, fill what is above the line, start; release when it has ended. */
struct ctl_child {
    char name[48];             /* "trainer/0", "nats" */
    char *log_path, *pid_path; /* owned */
    char *argv[CTL_CHILD_ARGS_MAX +
               1]; /* owned; argv[0] is the program, looked up in PATH without '/' */
    int argc;
    /* ---- */
    pid_t pid;      /* 0: not running */
    off_t log_from; /* where this start's part of the log begins */
    int status;     /* as wait4 tells, once it has ended */
    double cpu_s;   /* user + system, summed over restarts */
    uint64_t peak_rss_bytes;
};

void ctl_child_arg(struct ctl_child *child, const char *text); /* copies */
int ctl_child_start(struct ctl_child *child);
/* True when it has ended since the last call; its status, cpu_s and peak_rss_bytes are then set. */
bool ctl_child_reap(struct ctl_child *child);
void ctl_child_signal(struct ctl_child *child,
                      int signal); /* to its group; nothing when not running */
/* "killed by signal 9 (Killed)", "exited with status 1". */
void ctl_child_how(const struct ctl_child *child, char *out, size_t size);
void ctl_child_release(struct ctl_child *child);

/* The last ERROR line of a log, from byte `from` on, without its stamp, else its last line; "" when there is none.
 * Returns whether it is an ERROR. */
bool ctl_log_last_error(const char *path, off_t from, char *out, size_t size);

#endif
