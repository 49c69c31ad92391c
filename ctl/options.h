/* ctl/options.h -- what `saffron local` was asked on the command line. */
#ifndef CTL_OPTIONS_H
#define CTL_OPTIONS_H

#include "runtime/base/role.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CTL_SETS_MAX     256 /* --set, and the options that are short for one */
#define CTL_REPLICAS_MAX 64  /* processes of one role that `local` starts */

/* Strings point into argv, but for set[], which ctl_options_release frees. */
struct ctl_options {
    const char *config, *data, *run_dir, *model, *nats, *init_from,
        *predict; /* but for config: NULL when not given */
    uint32_t replicas[RT_ROLE_COUNT];
    uint32_t timeout_s; /* 0: none */
    uint32_t trace;     /* each so-many-th batch; 0: none */
    bool quiet;
    const char *restore; /* name of a checkpoint, or "latest"; NULL: a job that begins */
    bool restart;        /* roles that end before the job does are started again */
    size_t n_set;
    char *set[CTL_SETS_MAX + 2]; /* "data.epochs=2", in the order in which they were given */
};

/* Prints its complaint and exits 2, or --help and exits 0, as argp does. */
void ctl_options_parse(int argc, char **argv, struct ctl_options *out);
/* One more set, from us: there is room for two. Copies. */
void ctl_options_set(struct ctl_options *options, const char *text);
void ctl_options_release(struct ctl_options *options);

/* Decimal digits only, min..max; false otherwise. */
bool ctl_parse_u64(const char *text, uint64_t min, uint64_t max, uint64_t *out);

#endif
