/* embedding_server/load.h -- rows of a saved model (saved.h) into tables: those that a server begins with, or has.
 *
 * Each row goes to the owner that has its shard, if it is one of this server: so a model may be saved by any number of servers
 * and loaded by any other. Rows are converted to the table's dtype, to the nearest, and admitted; they have the state that was saved
 * with them, or that of new ones. Counts of policies begin anew. */
#ifndef EBS_LOAD_H
#define EBS_LOAD_H

#include "embedding_server/owner.h"

struct ebs_saved_piece;

struct ebs_loaded {
    uint64_t rows, files; /* of this server's owners; read */
    uint64_t with_state;  /* of the rows */
    uint64_t left_out;    /* rows for which a table that may evict had no room */
};

/* Into the owners of one server: [n]. @fresh: optimizers begin anew, whatever was saved. What ebs_saved_next() says;
 * RT_ELIMIT, RT_EFULL, RT_ENOMEM: a table has no room for its rows; one with an eviction policy keeps those that came first.
 * Some may be there already then. Touch: one thread, before any owner's loop runs. */
int ebs_load(const char *dir, bool fresh, struct ebs_owner *const *owner, uint32_t n,
             struct ebs_loaded *out);

/* A piece's rows, added to *out; those of other owners are passed over. Touch: the thread of these owners. */
int ebs_load_piece(const struct ebs_saved_piece *piece, struct ebs_owner *const *owner, uint32_t n,
                   struct ebs_loaded *out);

#endif
