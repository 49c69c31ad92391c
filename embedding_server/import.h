/* embedding_server/import.h -- rows of a saved model into an owner's tables while it serves.
 *
 *   ebs_owner_import -> rows removed, if they are to be replaced, some in a turn of the loop
 *                    -> a piece read by the io's worker -> put by the loop -> the next piece ... -> state DONE or FAILED
 *
 * Each owner reads all of the model and puts the rows of its shards; one that only checks reads it and puts nothing. Nobody may
 * apply gradients meanwhile, which trainer/0 sees to (trainer/import.h). Memory: a piece. Touch: the owner's thread. */
#ifndef EBS_IMPORT_H
#define EBS_IMPORT_H

#include "embedding_server/load.h"
#include "embedding_server/saved.h"
#include "runtime/net/io.h"

#include <stdatomic.h>
#include <stdbool.h>

struct ebs_owner;

enum ebs_import_state { EBS_IMPORT_WORKING, EBS_IMPORT_DONE, EBS_IMPORT_FAILED };

/* One owner's part. Touched by: the loop and its worker while it is WORKING; any thread reads the count, and the error once the
 * state is FAILED. It stays until the state is no longer WORKING, or the loop has ended. */
struct ebs_import {
    const char *dir;
    bool check; /* read only */
    bool fresh, replace;
    _Atomic int state;
    _Atomic uint64_t rows; /* read so far */
    char error[1024];
};

/* What struct ebs_owner has of it. */
struct ebs_importer {
    struct ebs_import *import; /* NULL: none is under way */
    struct rt_timer next;      /* the next rows to remove */
    struct rt_work work;
    struct ebs_saved *saved;
    struct ebs_saved_piece piece;
    struct ebs_loaded loaded;
    uint32_t table; /* whose rows are being removed */
    int more;       /* of the worker: ebs_saved_next() */
    char text[1024];
};

/* Begin; `import` is WORKING, and none is under way here. */
void ebs_owner_import(struct ebs_owner *owner, struct ebs_import *import);
void ebs_import_stop(struct ebs_owner *owner); /* the loop has ended */

#endif
