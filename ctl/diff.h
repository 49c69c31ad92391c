/* ctl/diff.h -- `saffron diff`: what two checkpoints differ in. */
#ifndef CTL_DIFF_H
#define CTL_DIFF_H

/* argv[0] is what --help calls the command. Returns the exit status: 0 equal, 1 different, 2 an error. */
int ctl_diff(int argc, char **argv);

#endif
