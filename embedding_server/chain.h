/* embedding_server/chain.h -- one owner's rows out of a checkpoint: of its full one, then of the increments that go on from it.
 *
 * Only files whose shards overlap the owner's are opened, and of their rows those of its own shards are put, so a checkpoint is
 * read by any number of owners. Ids that an increment removes go before its rows come. A row's `touched` is a tick of its owner's
 * clock then, which goes on through the increments: it keeps the age that it had at the last cut, on the clock here (policy.h).
 *
 * Rows are put while their file is read, for each block is checked before it is told; that the file is whole is known at its
 * end, and all of it when this returns: on an error the tables are to be cleared. Touch: one thread, before the owner's loop runs;
 * of several owners at the same time. */
#ifndef EBS_CHAIN_H
#define EBS_CHAIN_H

#include "embedding_server/owner.h"
#include "runtime/checkpoint/manifest.h"
#include "runtime/checkpoint/rowfile.h"

struct ebs_chain {
    const char *dir;
    const struct rt_job *job;
    const struct rt_manifest *const *manifest; /* [n] the full one first */
    size_t n;
};

/* What an owner has read, of each checkpoint: of files that begin in its shards, so that owners' sums count each file once. */
struct ebs_chain_sum {
    uint64_t files;
    struct rt_rowfile_table *table; /* [n_tables] */
};
struct ebs_chain_loaded {
    struct ebs_chain_sum *sum; /* [chain->n] zeroed, the caller's */
    uint64_t left_out;         /* rows for which a table that may evict had no room */
    uint64_t bytes;            /* of files */
    bool counts_left_out;      /* of admission: a sketch was of another size (policy.h) */
    bool shifted;              /* ticks were: rows are not byte by byte as their files have them */
};

/* RT_EDATA, RT_EFILE, RT_EUSAGE name the file, where in it, and why it is not believed; RT_ELIMIT, RT_EFULL, RT_ENOMEM: this
 * server has no room. @out: added to. */
int ebs_chain_load(const struct ebs_chain *chain, struct ebs_owner *owner,
                   struct ebs_chain_loaded *out);

#endif
