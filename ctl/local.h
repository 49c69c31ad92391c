/* ctl/local.h -- `saffron local`: a whole job as processes of this machine, from start to summary. */
#ifndef CTL_LOCAL_H
#define CTL_LOCAL_H

/* argv[0] is what --help calls the command. Returns the exit status. */
int ctl_local(int argc, char **argv);

#endif
