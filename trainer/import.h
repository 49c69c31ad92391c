/* trainer/import.h -- a saved model into a job that trains: the dense network's part, and the pause in which rows change.
 *
 *   CHECK  the model's dense files are read into memory beside the weights     -tr_import_checked-> checked
 *   HOLD   the group makes no step; quiet when nothing that was stepped is on its way to an owner
 *          and all ranks know of the import: a rank 0 that dies from here on is missed
 *   LOAD   embedding servers change rows from here on; batches that were looked up wait
 *   TAKE   the weights are replaced, what was looked up goes back, the group forms again: other ranks fetch the weights
 *          from this one, for a rank with fewer imports is behind
 *
 * Each rank knows by rank 0's headers, and when the group forms, how many imports the weights must have to go with the rows.
 * A rank 0 that comes back with nothing asks them all: if one knows of more imports than any has taken, the job ends.
 *
 * The operator's command walks through these, asking again and again (ctl/import.c), and tells the servers. If it is gone for
 * TR_IMPORT_LEASE_NS the job goes on as it was, or ends, from LOAD on: then rows are of two models. Rank 0 alone;
 * it decides on rounds. Touch: the loop thread; tr_import_check() the step thread. */
#ifndef TR_IMPORT_H
#define TR_IMPORT_H

#include "runtime/net/io.h"
#include "runtime/wire/member.h"

#include <stdbool.h>
#include <stdint.h>

struct tr_group;
struct tr_loaded;
struct tr_trainer;

#define TR_IMPORT_LEASE_NS (15 * 1000000000ull)

struct tr_import {
    uint64_t number; /* 0: there was none */
    uint32_t stage;  /* enum wire_import_stage */
    bool fresh;
    char dir[WIRE_TEXT_MAX + 1];
    bool due, reading; /* to be read, or being read */
    bool failed;
    char error[1024]; /* why */
    struct tr_loaded *loaded;
    struct tr_loaded *read; /* Touched by: the step thread while reading; and so is its error */
    char read_error[1024];
    uint64_t asked_ns;
    struct rt_timer lease;
};

/* Is this stage done? Of HOLD: quiet. */
bool tr_import_done(const struct tr_trainer *trainer);
bool tr_import_holds(const struct tr_import *import);
/* Do all ranks know that one is under way? Where none is, yes. */
bool tr_import_is_known(const struct tr_trainer *trainer);
/* Models that the weights must have taken to go with the rows; above trainer->imports from HOLD until the weights are here. */
uint64_t tr_import_due(const struct tr_trainer *trainer);
/* At rank 0, when the group forms; imports: the most that any rank has taken. RT_EFILE: rows may be of a model whose weights died. */
int tr_import_check_seats(const struct tr_group *group, uint64_t imports);
bool tr_import_reads(struct tr_import *import); /* is it to be read now? Once. */
void tr_import_check(struct tr_trainer *trainer);
void tr_import_checked(struct tr_trainer *trainer);
void tr_import_release(struct tr_trainer *trainer);

#endif
