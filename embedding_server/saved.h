/* embedding_server/saved.h -- the tables of a saved model (runtime/job/save.h), read as a stream of pieces.
 *
 * Every part of every table once, in the order of the job's tables, some rows at a time; what is read is checked before it is told:
 * names, shapes, numbers of the files, that they are one save's, and that all values are finite. Memory: a piece, whatever
 * the model's size. A folder is one save's: `save` and `owners` in the notes of all files are the same, dense.safetensors'
 * too if it is there. Touch: one thread at a time. */
#ifndef EBS_SAVED_H
#define EBS_SAVED_H

#include "runtime/job/job.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ebs_saved;

struct ebs_saved_piece {
    uint32_t table; /* of the job */
    size_t n;
    const uint64_t *id;
    const float *weight; /* [n][dim], whatever the file has them in */
    const float
        *state; /* [n][rt_state_count()] of the table's optimizer; NULL: it is to begin anew */
    const char *path; /* of the file */
};

/* @fresh: state that is there is left where it is. @dir, job: stay until it is closed. RT_EFILE, RT_EDATA, RT_EUSAGE. */
int ebs_saved_open(const char *dir, const struct rt_job *job, bool fresh, struct ebs_saved **out);
void ebs_saved_close(struct ebs_saved *saved); /* NULL is legal */

/* The next rows, good until the next call. 1: some; 0: that was all; RT_EFILE, RT_EDATA, RT_ENOMEM; RT_EUSAGE names the file,
 * what was expected and what is there: an optimizer of another kind too. */
int ebs_saved_next(struct ebs_saved *saved, struct ebs_saved_piece *out);

uint64_t ebs_saved_files(const struct ebs_saved *saved); /* of tables, that were begun */

#endif
