/* trainer/snapshot.h -- trainer/0's part of a checkpoint at the instant of its cut: all that the manifest says of training, and a
 * copy of the dense network with its optimizer's state, which are written while training goes on. Its memory is kept for the
 * next one. */
#ifndef TR_SNAPSHOT_H
#define TR_SNAPSHOT_H

#include "runtime/checkpoint/manifest.h"
#include "runtime/wire/checkpoint.h"

struct tr_trainer;

enum { TR_DENSE_FILES = 3 }; /* weights, optimizer state, model.yml */

struct tr_snapshot {
    struct rt_manifest manifest; /* but for names, tables and files: tr_snapshot_complete() */
    struct rt_arena *arena;      /* of the ledger */
    float *param,
        *state; /* [tr_model_count()], as tr_optimizer_state(); NULL: none was taken yet */
    uint64_t optimizer_steps;
    struct rt_manifest_file *file;   /* [owners + TR_DENSE_FILES] */
    struct rt_manifest_table *table; /* [n_tables] */
    uint32_t owners;                 /* that there is room for */
};

/* At a quiet moment (hold.h). @owners: of all servers. RT_ENOMEM. */
int tr_snapshot_take(struct tr_trainer *trainer, uint32_t owners, struct tr_snapshot *snapshot);
/* An owner's file is there. RT_EPROTO: it is of other tables than the job's. */
int tr_snapshot_add(const struct tr_trainer *trainer, struct tr_snapshot *snapshot, uint32_t owner,
                    const struct wire_await_cut_reply *reply);
/* Write the dense files into `dir`, with bytes and digests for the manifest. Any one thread; reads the snapshot and what does not
 * change in the trainer. RT_EFILE, RT_ENOMEM. */
int tr_snapshot_write(const struct tr_trainer *trainer, struct tr_snapshot *snapshot,
                      const char *dir, const char *id);
void tr_snapshot_release(struct tr_snapshot *snapshot);

#endif
