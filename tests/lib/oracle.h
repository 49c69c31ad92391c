/* tests/lib/oracle.h -- a job whose rows count: after it, each row tells how often its gradients were applied.
 *
 * The network is one linear layer over features and a dense column of 1e6, with learning rate 0; every label is 0. So
 * the logit is beyond what float32 tells from infinity, its sigmoid is 1, and the gradient of each sample at a feature
 * is the layer's constant weights over the samples of the step. Tables are plain SGD from 0:
 *   row   an id of its own for each row of the data, and a clip below any gradient: each application moves the row by
 *         exactly CLIP, whatever the step; so its norm / CLIP is how often the row of the data was trained
 *   user  few ids, many of one batch: with steps of one size (one rank, or `async`) norm / unit is a count too, of
 *   item  occurrences; the unit is that of most rows of the table
 * What is expected is counted from the data file. Nothing of the product computes it: rows are asked for by LookupRows,
 * as a middleware would.
 *
 * The job's seed is one whose weight at the dense column is positive; with another the sigmoid would be 0, and all rows
 * lost. Two owners per server. */
#ifndef TEST_ORACLE_H
#define TEST_ORACLE_H

#include "runtime/job/job.h"
#include "runtime/net/io.h"

struct oracle_shape {
    unsigned
        rows; /* a multiple of splits * block_rows, and that of batch_size: no batch is short */
    unsigned users, items, splits, block_rows, batch_size;
};

/* The job's four files and train.tsv, in a folder that is there. The test fails when they cannot be written. */
void oracle_write(const char *dir, const struct oracle_shape *shape);

struct oracle_conf {
    struct rt_io *io;
    const struct rt_job *job; /* loaded from the folder */
    uint32_t servers, workers;
    const char *const *address; /* [servers * workers] of owners, in order */
    uint64_t incarnation;       /* of the servers; 0: not known */
    bool steps_are_equal;       /* count `user` and `item` too */
    const uint32_t
        *declared; /* [rows] of the data: applications that were told to be lost; NULL: none */
    void (*done)(void *arg);
    void *arg;
};

/* Applications that are missing beyond those declared, and too many, over all rows; what is neither (a fraction) is in `odd`. there:
 * of those declared lost, which are not. */
struct oracle_result {
    uint64_t rows, expected, lost, doubled, odd, there;
    char first[200]; /* of the rows that are wrong, in words; "": none */
};

struct oracle;
/* Ask all owners; done() is called once all have answered. */
void oracle_start(const struct oracle_conf *conf, struct oracle **out);
void oracle_result(const struct oracle *oracle, struct oracle_result *out);
void oracle_destroy(struct oracle *oracle); /* NULL is legal */

#endif
