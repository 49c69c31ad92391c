/* ctl/nats.h -- the nats-server of a local run: loopback, a free port, kept for the run's whole life. */
#ifndef CTL_NATS_H
#define CTL_NATS_H

#include "ctl/child.h"
#include "ctl/progress.h"

#include <uv.h>

struct ctl_nats_conf {
    uv_loop_t *loop;
    const char *run_dir;
    struct ctl_progress *progress;
    void *ctx;
    /* It cannot be kept up; `why` is the callee's. */
    void (*failed)(void *ctx, int exit_code, char *why);
};

struct ctl_nats {
    struct ctl_nats_conf conf;
    struct ctl_child child;
    char url[64];
    uv_timer_t again;
    uint64_t started_ns;
    uint32_t quick; /* ends in a row that came soon after its start */
    bool stopping;
};

/* Starts it and waits until it answers. Zero-initialise `nats`; at last, with the loop's handles closed,
 * ctl_child_release(&nats->child). */
int ctl_nats_start(struct ctl_nats *nats, const struct ctl_nats_conf *conf);
/* After SIGCHLD: if it has ended it is started again, however often somebody kills it. One that cannot stay up is a failure. */
void ctl_nats_reap(struct ctl_nats *nats);
void ctl_nats_stop(struct ctl_nats *nats); /* not started again from now on */

#endif
