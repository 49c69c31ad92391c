/* ctl/ranks.h -- `saffron ranks`: a trainer's processes of one host, in a container. */
#ifndef CTL_RANKS_H
#define CTL_RANKS_H

#include <stddef.h>

#define CTL_DEVICE_MAX 128

/* NPROC_PER_NODE times PROGRAM; see ranks.c. Exit status: that of the first that failed. */
int ctl_ranks(int argc, char **argv);

/* Which GPU process `rank` of `n` shall see: an entry of `list`, the value of CUDA_VISIBLE_DEVICES; its own number
 * where that is NULL; "" where the list is empty, for none. RT_EUSAGE where it has fewer than n entries. */
int ctl_ranks_device(const char *list, unsigned rank, unsigned n, char out[CTL_DEVICE_MAX]);

#endif
