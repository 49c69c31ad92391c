/* ctl/fold.h -- the rows that a checkpoint stands for: its full one and the increments up to it, put together in memory, a range of
 * shards at a time.
 *
 * Rows are in no order in their files, so each range is a pass over the files that hold some of it: as many passes as the rows take
 * more memory than they may. The files of a pass are read whole, with checksums, and compared with their manifests.
 * Touch: one thread at a time. */
#ifndef CTL_FOLD_H
#define CTL_FOLD_H

#include "ctl/checkpoints.h"
#include "runtime/base/map.h"
#include "runtime/job/layout.h"

/* Bytes of rows, where the command line does not say. */
#define CTL_FOLD_MEMORY       "1GiB"
#define CTL_FOLD_MEMORY_BYTES 1073741824.0

struct ctl_fold_table {
    char *name, *optimizer; /* rt_state_text() */
    uint32_t dim, dtype;
    struct rt_row_layout layout;
    uint64_t n;          /* rows of this range */
    struct rt_map place; /* id -> number of its row */
    uint8_t **block;     /* of rows */
    size_t blocks;
};

struct ctl_fold {
    const struct ctl_checkpoints *from;
    struct ctl_reading *reading; /* NULL: nobody is told */
    size_t *chain, n_chain;      /* in from->list, the full one first */
    struct ctl_fold_table *table;
    uint32_t n_tables;
};

/* Zero-initialise. @from, reading: stay. RT_EDATA where a checkpoint of the chain is missing; RT_EFILE, RT_ENOMEM. */
int ctl_fold_open(const struct ctl_checkpoints *from, size_t which, struct ctl_reading *reading,
                  struct ctl_fold *fold);
void ctl_fold_close(struct ctl_fold *fold);
const struct rt_manifest *ctl_fold_manifest(const struct ctl_fold *fold); /* the last one's */
/* Of the chain's row files that all passes of the map read. */
uint64_t ctl_fold_bytes(const struct ctl_fold *fold, const struct rt_shard_map *map);
uint64_t ctl_fold_memory(const struct ctl_fold *fold); /* about, for the rows of all shards */

/* A range's rows in place of those before. RT_EDATA names file, offset, reason; RT_EFILE, RT_ENOMEM. */
int ctl_fold_take(struct ctl_fold *fold, uint32_t shard_first, uint32_t shard_end);
/* A row as its file has it; row < n. Good until the next range. */
const uint8_t *ctl_fold_row(const struct ctl_fold_table *table, uint64_t row);
const uint8_t *ctl_fold_find(const struct ctl_fold_table *table, uint64_t id); /* NULL: none */
uint64_t ctl_fold_id(const uint8_t *row);

/* --memory of a command; says what is wrong with it, and exits 2. */
void ctl_fold_memory_option(struct argp_state *state, const char *text, double *bytes);

/* Passes over equal ranges of shards, so that `bytes` in all are at most `most` at a time; pass k of map.owners has what owner k would
 * hold. RT_EUSAGE when that would be more than RT_OWNERS_MAX: says how much is needed. */
int ctl_fold_passes(uint64_t bytes, uint64_t most, struct rt_shard_map *map);

#endif
