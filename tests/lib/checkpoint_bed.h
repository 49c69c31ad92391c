/* tests/lib/checkpoint_bed.h -- a job of three tables in memory, and whole checkpoints of it on disk, for tests.
 *
 * What a row holds follows from its table, id and attempt, so a reader can tell it from every other. */
#ifndef TEST_CHECKPOINT_BED_H
#define TEST_CHECKPOINT_BED_H

#include "runtime/checkpoint/rowfile.h"
#include "runtime/checkpoint/store.h"

#define CHECKPOINT_BED_TABLES 3
#define CHECKPOINT_BED_ROW    512 /* bytes of the largest row */

/* Of float32 with Adagrad; of odd bfloat16 with Adam and LFU, so that rows have marks and padding; of float16 with SGD and TTL. */
extern const struct rt_job checkpoint_bed_job;

/* Of `layout` as a row of the table has it. */
void checkpoint_bed_row(uint32_t table, uint64_t id, uint64_t attempt, uint8_t *row);
/* The i-th id of every table. */
uint64_t checkpoint_bed_id(uint32_t i);

struct checkpoint_spec {
    const char *name;
    uint64_t attempt, base;
    const char *base_name; /* NULL: none */
    const char *begun_as;  /* and renamed before it is published; NULL: not */
    uint32_t owners;
    uint32_t rows;    /* of each table, of all owners */
    uint32_t removed; /* an increment's */
    uint32_t dense;   /* bytes of dense.safetensors' tensor */
    uint64_t run;
    bool anew, named;
};

/* An owner's file of it. RT_EFILE, RT_ENOMEM. */
int checkpoint_bed_rows(const char *path, const struct checkpoint_spec *spec, uint32_t owner,
                        struct rt_rowfile_table sum[CHECKPOINT_BED_TABLES],
                        struct rt_manifest_file *out);
/* Begin, the owners' files, dense.safetensors, model.yml, publish. */
int checkpoint_bed_write(const char *dir, const struct checkpoint_spec *spec);

/* A manifest of it without files; memory is the bed's until the next call. */
struct rt_manifest checkpoint_bed_manifest(const struct checkpoint_spec *spec);

#endif
