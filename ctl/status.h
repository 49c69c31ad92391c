/* ctl/status.h -- `saffron status` and `saffron stop`: ask a running job from outside. */
#ifndef CTL_STATUS_H
#define CTL_STATUS_H

/* argv[0] is what --help calls the command. Return the exit status. */
int ctl_status(int argc, char **argv);
int ctl_stop(int argc, char **argv);

#endif
