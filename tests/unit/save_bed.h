/* tests/unit/save_bed.h -- owners on the test's loop, with rows and state that follow from the ids, and saves of them. What fails, fails
 * the test. One bed in a process. Thread: the test's. */
#ifndef TESTS_SAVE_BED_H
#define TESTS_SAVE_BED_H

#include "embedding_server/load.h"
#include "embedding_server/serve.h"
#include "runtime/net/loop.h"
#include "tests/lib/temp.h"

#define SAVE_BED_OWNERS 4u
#define SAVE_BED_ROWS   5000u              /* of WIDE and of HALF */
#define SAVE_BED_PART   ((size_t)16 << 10) /* bytes: some dozens of parts */

enum { SAVE_BED_WIDE, SAVE_BED_HALF, SAVE_BED_NONE, SAVE_BED_TABLES };

struct save_bed {
    char dir[TEMP_PATH_MAX];
    struct rt_job job;
    struct rt_loop *loop;
    struct rt_shard_map shards;
    struct ebs_owner *owner[SAVE_BED_OWNERS];
    uint32_t owners;
    size_t part;     /* bytes; 0: SAVE_BED_PART */
    uint64_t memory; /* of an owner; 0: any */
    const char *id;  /* of the save */
    bool with_state;
    struct rt_save save[SAVE_BED_OWNERS];
    struct rt_timer look;
};
extern struct save_bed save_bed;
/* Float32 with Adagrad, bfloat16 with SGD, and one without rows. A test that changes them puts them back. */
extern struct rt_table_conf save_bed_table[SAVE_BED_TABLES];

/* A new folder. */
int save_bed_folder(void **state);
/* So many owners without rows, and their end. */
void save_bed_open(uint32_t n);
void save_bed_close(void);
/* The rows: ids by number, the float32 values of one, n floats of its state, and whose it is. */
uint64_t save_bed_id(uint32_t i);
void save_bed_row(int table, uint64_t id, float *out);
void save_bed_state(uint64_t id, uint32_t n, float *out);
uint32_t save_bed_owner_of(uint64_t id);
void save_bed_fill(void);
/* Every id's row is at its owner, which has no other, and nobody else has one. */
void save_bed_check_rows(void);
/* n floats of the state of WIDE's first rows are those of their ids; fresh: 0. */
void save_bed_check_state(uint32_t rows, uint32_t n, bool fresh);
/* All owners save, to the end: what came of it stands in save[]. */
void save_bed_save(const char *dir);
/* So many owners are filled, and save to the bed's folder. */
void save_bed_save_of(uint32_t owners);

#endif
