/* ctl/verify.h -- `saffron checkpoints` and `saffron verify`: which there are, and whether all of it can be read. */
#ifndef CTL_VERIFY_H
#define CTL_VERIFY_H

/* argv[0] is what --help calls the command. Return the exit status: 1 where one is not whole. */
int ctl_checkpoints(int argc, char **argv);
int ctl_verify(int argc, char **argv);

#endif
