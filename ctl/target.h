/* ctl/target.h -- which running job a command is about: its NATS and its name, or a run directory that knows both. */
#ifndef CTL_TARGET_H
#define CTL_TARGET_H

#include "ctl/rundir.h"
#include "runtime/member/member.h"

#include <argp.h>

struct ctl_target {
    const char *run_dir; /* NULL: not given */
    struct ctl_run run;  /* replicas: 0 where they are not known */
};

/* Reads the command line, --nats, --job, --run-dir; prints its complaint and exits 2, or --help and exits 0, as argp does.
 * RT_EUSAGE when that names no job. */
int ctl_target_find(int argc, char **argv, const char *doc, struct ctl_target *out);

/* The same for a command with options of its own: this argp is a child of its, with the target as input, between begin and
 * end; RT_EUSAGE. */
extern const struct argp ctl_target_argp;
void ctl_target_begin(struct ctl_target *out);
int ctl_target_end(struct ctl_target *target);

/* How many there are of a role, if that is not known: its first answer tells. Blocking, half a second at most. */
int ctl_target_count(struct ctl_target *target, struct rt_control_client *client,
                     enum rt_role role);

/* Says on standard error why it was not done, or that nobody is there; returns the exit status. */
int ctl_target_complain(int err);
int ctl_target_nobody(const struct ctl_target *target);

#endif
