/* embedding_server/cut_write.h -- one attempt of a checkpoint, as cut.c and cut_write.c share it; nobody else includes it. */
#ifndef EBS_CUT_WRITE_H
#define EBS_CUT_WRITE_H

#include "embedding_server/cut.h"
#include "embedding_server/table_cut.h"
#include "runtime/checkpoint/rowfile.h"
#include "runtime/net/rpc.h"
#include "runtime/wire/checkpoint.h"

#include <stdatomic.h>

enum ebs_cut_state { EBS_CUT_WRITING, EBS_CUT_DONE, EBS_CUT_FAILED };
enum ebs_cut_job { EBS_CUT_BEGIN, EBS_CUT_BLOCK, EBS_CUT_FINISH, EBS_CUT_DROP };

/* Of a table, at the instant. */
struct ebs_cut_part {
    uint64_t live;
    struct ebs_removed removed;
    uint8_t *policy; /* NULL: none; but for the sketch, which is copied as rows are */
    size_t policy_bytes;
};

/* Touched by: the loop; while `working`, the worker: path, head, part, out, table, block, bytes, digest, ready, dropped,
 * job_err, job_text. */
struct ebs_cut {
    struct ebs_owner *owner;
    struct ebs_cut *next; /* that was given up */
    enum ebs_cut_state state;
    char name[64];
    struct rt_rowfile_head head;
    char *path, *file;
    uint64_t rows; /* of the cut */
    uint64_t began_ns;
    struct ebs_cut_part *part; /* [n_tables] */
    uint32_t n_tables;
    uint32_t at_table;   /* the next to collect */
    uint32_t piece_rows; /* of an application, at most, while it is WRITING */
    size_t piece_bytes;  /* most that a piece of one can have copied */
    uint64_t posted_ns;  /* when the worker was given its job */
    struct ebs_rowbuf buf;
    uint64_t counted;      /* of the buffer's copies */
    struct rt_call *await; /* owed an answer; NULL: nobody asks */
    struct rt_work work;
    bool working;
    enum ebs_cut_job job;
    _Atomic bool is_given_up;
    bool begun, ready, dropped; /* the file: has its head; is on disk; is gone */
    struct ebs_rowbuf_block *block;
    struct rt_rowfile_out out;
    struct rt_rowfile_table *table; /* [n_tables] */
    uint64_t bytes, digest;
    int job_err;
    char job_text[1024];
    int err; /* FAILED: why */
    char text[1024];
};

/* ---- cut_write.c ---- */

/* RT_ENOMEM. Everything that can fail before the instant. */
int ebs_cut_create(struct ebs_owner *owner, const struct wire_cut *m, struct ebs_cut **out);
/* The instant; and writing begins. */
void ebs_cut_begin(struct ebs_cut *cut);
/* It is none of the owner's any more, and goes with its file when its job has come back. Its asker is told so. */
void ebs_cut_give_up(struct ebs_cut *cut, const char *why);
/* The same of one that is DONE, but that its file stays. NULL is legal. */
void ebs_cut_forget(struct ebs_cut *cut);

/* ---- cut.c ---- */

/* WRITING no longer: tell who asks. */
void ebs_cut_tell(struct ebs_cut *cut);

#endif
