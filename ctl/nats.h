/* ctl/nats.h -- the nats-server of a local run: loopback, a free port, kept for the run's whole life. */
#ifndef CTL_NATS_H
#define CTL_NATS_H

#include "ctl/child.h"

struct ctl_nats {
    struct ctl_child child;
    char url[64];
};

/* Starts it and waits until it answers. Zero-initialise `nats`; ctl_child_release(&nats->child) at last. */
int ctl_nats_start(struct ctl_nats *nats, const char *run_dir);

#endif
