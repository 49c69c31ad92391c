/* ctl/export.h -- `saffron export`: the model of a running job to disk. */
#ifndef CTL_EXPORT_H
#define CTL_EXPORT_H

/* argv[0] is what --help calls the command. Returns the exit status. */
int ctl_export(int argc, char **argv);

#endif
