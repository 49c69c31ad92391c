/* embedding_server/load.h -- rows of a saved model (runtime/job/save.h) into the tables that a server begins with.
 *
 * Every part of every table is read once, a piece at a time, and each row goes to the owner that has its shard, if it is one
 * of this server: so a model may be saved by any number of servers and loaded by any other. Rows are converted to the
 * table's dtype, to the nearest; they are as new ones are apart from their weights: optimizer state initial, and admitted.
 * A folder is one save's: `save` and `owners` in the notes of all files are the same, dense.safetensors' too if it is there.
 * Touch: one thread, before any owner's loop runs. */
#ifndef EBS_LOAD_H
#define EBS_LOAD_H

#include "embedding_server/owner.h"

struct ebs_loaded {
    uint64_t rows, files; /* of this server's owners; read */
    uint64_t left_out;    /* rows for which a table that may evict had no room */
};

/* Into the owners of one server: [n]. RT_EFILE, RT_EDATA; RT_EUSAGE names the file, what was expected and what is there;
 * RT_ELIMIT, RT_EFULL, RT_ENOMEM: a table has no room for its rows; one with an eviction policy keeps those that came first. Some may be there already then. */
int ebs_load(const char *dir, struct ebs_owner *const *owner, uint32_t n, struct ebs_loaded *out);

#endif
