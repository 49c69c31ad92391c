/* ctl/import.h -- `saffron import`: a saved model into a running job, while nothing is stepped. */
#ifndef CTL_IMPORT_H
#define CTL_IMPORT_H

int ctl_import(int argc, char **argv); /* exit status */

#endif
