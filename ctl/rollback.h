/* ctl/rollback.h -- `saffron rollback`: a job goes back to a checkpoint, and what is newer is set aside. */
#ifndef CTL_ROLLBACK_H
#define CTL_ROLLBACK_H

/* argv[0] is what --help calls the command. Returns the exit status. */
int ctl_rollback(int argc, char **argv);

#endif
