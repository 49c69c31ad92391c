/* ctl/roles.h -- the role processes of a run: started, watched and, with --restart on-failure, started again.
 *
 *   UP -it ended-> DOWN -after its pause (backoff.h)-> UP
 *   UP -it ended: without --restart (but by RT_EXIT_AGAIN), by exit status 2, or too often-> failed() is called, once and for all
 *
 * One that is started again has the same place in the job, the same command line, log and pid file; its incarnation is higher and
 * its ports are others, which its peers hear of. That it ended with status 0 makes no difference: until the job is done no role has
 * a reason to. Exit status 2 is the user's business, and would come again. RT_EXIT_AGAIN says that what it has in memory is over (an
 * `exact` job goes back to a checkpoint): a whole job does so for one that was killed, so it counts as no failure. Touch: main thread. */
#ifndef CTL_ROLES_H
#define CTL_ROLES_H

#include "ctl/backoff.h"
#include "ctl/child.h"
#include "ctl/options.h"
#include "ctl/poll.h"
#include "ctl/progress.h"
#include "ctl/summary.h"

#include <uv.h>

struct ctl_roles_conf {
    uv_loop_t *loop;
    const struct ctl_options *options;                    /* as all that follows, must stay */
    const char *run_dir, *job_name, *nats_url, *nats_job; /* nats_job: the job's name there */
    const char *checkpoint_dir;                           /* is there */
    struct ctl_progress *progress;
    void *ctx;
    /* The run cannot go on; `why` is the callee's. Once at most, and not from within ctl_roles_start(). */
    void (*failed)(void *ctx, int exit_code, char *why);
    /* One has ended, and will be started again. */
    void (*ended)(void *ctx, enum rt_role role, uint32_t index);
};

struct ctl_role {
    struct ctl_child child;
    enum rt_role role;
    uint32_t index;
    struct ctl_roles *roles;
    struct ctl_backoff backoff, asked; /* asked: of ends by which it asked to be started again */
    uv_timer_t again;
    uint64_t started_ns, ended_ns; /* ended_ns: the last time; 0: never */
    uint32_t restarts;
};

/* Zero-initialise. */
struct ctl_roles {
    struct ctl_roles_conf conf;
    struct ctl_role *at; /* [n], in the order of starting */
    size_t n;
    bool stopping;
};

/* Starts all. After an error some may run. */
int ctl_roles_start(struct ctl_roles *roles, const struct ctl_roles_conf *conf);
/* After SIGCHLD: who has ended? */
void ctl_roles_reap(struct ctl_roles *roles);
/* From now on nobody is started again and no end is a failure. */
void ctl_roles_stop(struct ctl_roles *roles);
void ctl_roles_signal(struct ctl_roles *roles, int signal);
size_t ctl_roles_running(const struct ctl_roles *roles);
bool ctl_roles_all_run(const struct ctl_roles *roles);
struct ctl_role *ctl_roles_find(struct ctl_roles *roles, enum rt_role role, uint32_t index);
/* Answers of processes that have ended since they were asked are taken out. */
void ctl_roles_forget(const struct ctl_roles *roles, struct ctl_snapshot *snapshot);
/* What all processes used, and how often they were started again. */
void ctl_roles_sum(const struct ctl_roles *roles, struct ctl_summary *summary);
void ctl_roles_release(struct ctl_roles *roles); /* none runs; their timers are closed */

#endif
