/* embedding_server/restore.h -- a server's rows and filters from the newest checkpoint that is whole, before it serves.
 *
 * Checkpoints are tried from the newest on. One is taken if its manifest, those of all that it goes on from, and every file of
 * them that overlaps our shards are good; what is passed over is warned of, with the reason. Every owner's filter becomes the
 * ledger of the one taken: at its cut they were equal. What the group has finished since is told by TellLedger (lost.h).
 * One that goes while it is read, by retention or an operator, is warned of, and the newest that is there then is looked for.
 * Where an owner's rows are those of its own file, byte by byte, its next cut may be an increment to that checkpoint.
 * Servers and trainers choose by the same rule, each for itself, and whoever has to pass over one that is damaged sets it aside
 * (rt_store_set_aside()) when it has taken an older one: so that all who start after it take that one too. Those who started
 * before have the newer one: trainer/0 finds out when it tells the ledger (trainer/back.h). */
#ifndef EBS_RESTORE_H
#define EBS_RESTORE_H

#include "embedding_server/owner.h"

struct ebs_restored {
    char name[64]; /* of the checkpoint; "": there is none, the job is new */
    uint64_t attempt, step;
    uint64_t rows;        /* live, of our owners */
    uint64_t left_out;    /* for which a table that may evict had no room */
    uint64_t bytes;       /* of the files that were read */
    bool counts_left_out; /* ids without rows are counted from zero: of another number of owners */
    uint32_t skipped;     /* checkpoints that were passed over */
};

struct ebs_restore {
    const char *dir; /* the checkpoint folder */
    const struct rt_job *job;
    struct ebs_owner *const *owner; /* [n] of one server, empty */
    uint32_t n;
    void (*begin)(void *ctx, uint32_t owner); /* of each owner's thread; NULL: nothing */
    void *ctx;
};

/* A thread for each owner; returns when all is there. RT_EUSAGE: the checkpoints are of another job, or none of those that
 * are there can be used; RT_EFILE: something is there and cannot be read, so nobody knows, or they went one after the other;
 * RT_ELIMIT, RT_EFULL, RT_ENOMEM: this server has no room for the rows. Touch: one thread, before any owner's loop runs. */
int ebs_restore(const struct ebs_restore *restore, struct ebs_restored *out);

#endif
