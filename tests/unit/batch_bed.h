/* tests/unit/batch_bed.h -- a folder for files of data, an io, and a batcher's pass over such files to its end. What fails, fails the test.
 * One bed in a process. Thread: the test's. */
#ifndef TESTS_BATCH_BED_H
#define TESTS_BATCH_BED_H

#include "data_compose/batch.h"
#include "tests/lib/data_job.h"
#include "tests/lib/temp.h"

struct batch_bed {
    char dir[TEMP_PATH_MAX];
    struct rt_io *io;
};
extern struct batch_bed batch_bed;

/* Tear-down removes the folder, which is to be empty but for quarantine/. */
int batch_bed_set_up(void **state);
int batch_bed_tear_down(void **state);

/* A batcher of its own, with a parser of its own: conf->feed.parser is set. */
struct dc_batcher *batch_bed_open(struct dc_batcher_conf *conf);
void batch_bed_close(struct dc_batcher *batcher, struct dc_batcher_conf *conf);
/* All of its batches: each is looked at (NULL: none is) and freed. Return: what its last turn returned. */
int batch_bed_pass(struct dc_batcher *batcher,
                   void (*look)(void *arg, const struct dc_batch *batch), void *arg);

#endif
