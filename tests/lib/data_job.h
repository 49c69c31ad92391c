/* tests/lib/data_job.h -- a struct rt_job for tests of readers, from one line of text. */
#ifndef DATA_JOB_H
#define DATA_JOB_H

#include "runtime/job/job.h"

struct data_job {
    struct rt_job job;
    char text[1024];
    struct rt_column_conf column[64];
    struct rt_feature_conf feature[64];
    const char *dense[64], *label[64];
    uint32_t label_classes[64];
};

/* columns: "label=label age=dense:std fnl=dense:log1p,missing c1=feature c2=feature:c1,list x=ignore": words
 * NAME=KIND, then after a colon, in any order:
 *   dense    log1p, std, missing (value 7), bad, clip (to [-2, 5])
 *   feature  its name; list (of `|`), int, none, bad, freqN (min_frequency N, one digit), weights (after `:`);
 *            head, tail: which part of a longer list its feature loses
 *   group    int
 *   label    real, or a number of classes
 * Features have max_length 4. Batch size 16, blocks and chunks of 32 rows, 8 splits, seed 1, 1 MiB for counts. */
void data_job_init(struct data_job *dj, enum rt_format format, bool header, const char *columns);

#endif
