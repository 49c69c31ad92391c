/* ctl/inspect.h -- `saffron inspect`: what a checkpoint is, by its manifest. */
#ifndef CTL_INSPECT_H
#define CTL_INSPECT_H

/* argv[0] is what --help calls the command. Returns the exit status. */
int ctl_inspect(int argc, char **argv);

#endif
