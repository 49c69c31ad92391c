/* embedding_server/save.h -- an owner's rows into files while it serves (runtime/job/save.h says which).
 *
 *   ebs_owner_save -> collect, some rows in a turn of the loop, until a part is full or the table at its end
 *                  -> written by the io's worker -> the next part, the next table ... -> rt_save_end
 *
 * A row is whole; of rows that change meanwhile some are older than others, so of a job that trains it is no cut. While it
 * lasts no upkeep moves rows or takes expired ones away. Memory: one part. Touch: the owner's thread. */
#ifndef EBS_SAVE_H
#define EBS_SAVE_H

#include "runtime/job/layout.h"
#include "runtime/job/save.h"
#include "runtime/net/io.h"

#include <stdbool.h>

struct ebs_owner;

/* What struct ebs_owner has of it. */
struct ebs_saver {
    struct rt_save *save; /* NULL: none is under way */
    struct rt_timer next; /* the next piece */
    struct rt_work work;  /* a part is full */
    uint32_t table, part, cursor;
    size_t room, n;               /* rows that the part may have, and has */
    uint64_t *id;                 /* [room] */
    uint8_t *row;                 /* [room][bytes of a row's weights] */
    float *state[RT_STATE_SLOTS]; /* [room][floats of a row] of each slot; NULL: not saved */
    bool is_last;                 /* part of its table */
    int err;                      /* of the worker */
    char text[1024];
};

/* Begin; `save` is WRITING, and none is under way here. */
void ebs_owner_save(struct ebs_owner *owner, struct rt_save *save);
void ebs_save_stop(struct ebs_owner *owner); /* the loop has ended */

#endif
