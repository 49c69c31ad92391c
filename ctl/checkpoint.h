/* ctl/checkpoint.h -- `saffron checkpoint`: have a running job make one now. */
#ifndef CTL_CHECKPOINT_H
#define CTL_CHECKPOINT_H

/* argv[0] is what --help calls the command. Returns the exit status. */
int ctl_checkpoint(int argc, char **argv);

#endif
