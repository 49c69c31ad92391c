/* runtime/process/flags.h -- command line and environment of a role's program. A flag wins over its
 * variable. Texts point into argv and the environment. */
#ifndef RT_FLAGS_H
#define RT_FLAGS_H

#include "runtime/base/log.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_SETS_MAX  256
#define RT_LOCAL_MAX 64 /* processes of one host */

struct rt_flags {
    uint32_t index, size;         /* of processes: rank and world of a trainer */
    uint32_t n_local, local_rank; /* processes of this host, and which of them this is */
    const char *job;              /* NULL: the folder's name */
    const char *nats, *bind;
    const char *nats_job;  /* the job's name on NATS; NULL: as it is called */
    const char *advertise; /* NULL: found out when needed */
    const char *config;    /* NULL: all four files are given by their variables */
    const char *path[4];
    bool from_scratch; /* --restore=none */
    const char *data_dir, *models_dir, *model, *run_dir, *checkpoint_dir, *init_from, *predict,
        *gateway;                        /* may be NULL */
    int port, admin_port;                /* -1: not given */
    bool fixed_ports, describe, picture; /* picture: --describe=dot */
    enum rt_log_level log_level;
    uint32_t trace; /* each so-many-th batch; 0: none */
    const char *set[RT_SETS_MAX];
    size_t n_set;
    char *seed_set; /* "global.seed=N" */
};

/* Complains itself, as argp does, and ends the process with status 2; --help and --version with 0.
 * may_be_several: of this role there may be several processes on one host. */
void rt_flags_parse(int argc, char **argv, const char *program, const char *doc,
                    bool may_be_several, struct rt_flags *out);
void rt_flags_release(struct rt_flags *flags);

#endif
