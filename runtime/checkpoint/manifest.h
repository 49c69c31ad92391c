/* runtime/checkpoint/manifest.h -- what a checkpoint is: DIR/NAME/manifest.json, written when all that it names is on disk.
 *
 * JSON, for people too; its last key `digest` is XXH3-64 of the text before it, so one that was changed or torn is not believed.
 * Counts are numbers below 2^63; hashes, digests and the seed are texts of 16 hex digits, a bitmap of the ledger is hex as well.
 * Any thread. */
#ifndef RT_MANIFEST_H
#define RT_MANIFEST_H

#include "runtime/base/strbuf.h"
#include "runtime/job/job.h"
#include "runtime/wire/batch.h"

#define RT_MANIFEST_NAME       "manifest.json"
#define RT_MANIFEST_VERSION    2u /* that is written; 1 is read too */
#define RT_MANIFEST_BYTES_MAX  ((size_t)64 << 20)
#define RT_MANIFEST_OTHERS_MAX 64u /* files that are no owner's */

struct rt_manifest_table {
    const char *name;
    uint64_t rows, removed, digest; /* of this checkpoint's files together */
    uint64_t live;                  /* rows at the cut, here or in what it is based on */
};

struct rt_manifest_file {
    const char *name;       /* in the folder: a token */
    uint64_t bytes, digest; /* XXH3-64 of all its bytes */
    bool is_rows;           /* of an owner: */
    uint32_t owner, shard_first, shard_end;
    bool knows_live; /* of one that was read: not in version 1 */
    /* Of an owner: rows that it had at the cut, here or in what this is based on; id, marks, weights, state of them. */
    uint64_t live, live_bytes;
};

struct rt_manifest {
    const char *name;          /* of the checkpoint */
    uint64_t attempt, base;    /* base 0: full; else the attempt that it goes on from */
    const char *base_name;     /* "" of a full one */
    uint64_t made_ms;          /* wall clock */
    const char *job, *version; /* version: of the program */
    uint64_t config_hash, plan_hash, part_hash[WIRE_PART_COUNT];
    uint64_t row_job; /* rt_rowfile_job() */
    uint64_t seed;
    const char *mode;
    bool exact;
    const char *cpu; /* its class: of `exact` */
    uint64_t
        run; /* drawn when the job began, kept by all that go on from it; 0: not known (version 1) */
    bool anew;  /* the run began by --restore=none, whatever was there */
    bool named; /* an operator asked for this one: retention leaves it */
    uint32_t world, splits, threads;
    uint32_t owners;
    uint64_t generation;
    /* Where training is. */
    uint64_t step, age; /* age: steps in the weights, >= step */
    uint64_t imports;
    uint64_t epoch, pass,
        phase;              /* of the training phase that the cut is in, or after which it is */
    double learning_factor; /* the operator's */
    uint64_t samples_trained, samples_dropped, batches_trained, batches_dropped; /* of all ranks */
    double epoch_loss_sum; /* of the first head, for the epoch's mean */
    uint64_t epoch_samples;
    uint64_t train_ms; /* spent in training, of all that this goes on from too; rank 0's */
    bool suspect;      /* made while the loss or the gradients stood above what was usual */
    uint32_t n_ledger;
    const struct wire_split_ledger *ledger; /* stepped = finished */
    uint32_t n_statistics;
    const struct wire_statistics *statistics;
    uint32_t n_tables, n_files;
    const struct rt_manifest_table *table;
    const struct rt_manifest_file *file; /* row files by owner, then dense.safetensors ... */
    struct rt_arena *arena;              /* of one that was read: all of it */
};

void rt_manifest_write(const struct rt_manifest *manifest, struct rt_strbuf *out);
/* RT_EDATA names path, byte or key, what was expected and what is there; RT_EUSAGE: a version that is not ours; RT_ENOMEM. */
int rt_manifest_parse(const char *path, const char *text, size_t size, struct rt_manifest **out);
int rt_manifest_read(const char *dir, const char *name,
                     struct rt_manifest **out); /* RT_EFILE: it is not there, or nobody knows */
void rt_manifest_destroy(struct rt_manifest *manifest); /* one that was read; NULL is legal */

/* Is it of this job? RT_EUSAGE says what differs: name, file of the configuration, data; with a learning rate or `checkpoint.*`
 * changed it is. Ranks, threads and CPU, which `exact` wants to be the same, are for who knows them to compare. */
int rt_manifest_check_job(const struct rt_manifest *manifest, const struct rt_job *job);

#endif
