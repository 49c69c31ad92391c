/* embedding_server/turn.h -- requests that would hold the loop for too long, worked on a piece at a time.
 *
 * Sockets and small requests get in between: a turn of the loop has at most about 1 ms of it. Large lookups
 * take turns with one another and with the application under way; of these there is one at a time, the others
 * queue in the order in which they were complete. The tables' upkeep is done in the same way.
 *
 *   lookup: ebs_turn_add_lookup -> pieces -> answered         its asker is gone: dropped
 *   job:    ebs_turn_add_job -> queued -> begun -> pieces -> ebs_apply_finish        whoever is gone
 *
 * What a lookup sees. In hybrid and asynchronous mode a lookup may see a batch whose application is under way in some
 * rows and not in others, as it may see one of two batches and not the other. A step of the group (`synchronous`)
 * is seen whole or not at all: its values change when the large lookups that came before have been answered,
 * and lookups that come from then on wait until it is applied.
 *
 * While a checkpoint is written a job waits before each piece until there is room for the rows that are copied before they change
 * (cut.h); lookups go on, but for those that wait for the step that is half applied.
 *
 * A batch that comes again while it is queued or under way joins it: it is answered when that has come to its
 * end, and is never applied beside it.
 * Touch: owner thread only. */
#ifndef EBS_TURN_H
#define EBS_TURN_H

#include "embedding_server/apply.h"
#include "runtime/base/map.h"

#define EBS_LOOKUPS_MAX 256u  /* large lookups under way */
#define EBS_JOBS_MAX    256u  /* large applications queued */
#define EBS_JOINED_MAX  1024u /* repeats that wait for one application */

struct ebs_owner;

/* A lookup and how far its answer is. The arrays are the request's; those of a large one are its own. */
struct ebs_lookup {
    struct ebs_lookup *next;
    struct rt_call *call;
    struct rt_buf *payload; /* the ids */
    struct rt_buf *rows;    /* the answer; size: bytes so far */
    const uint32_t *table, *n_ids;
    const uint64_t *const *id; /* [n_tables] -> [n_ids[t]] */
    uint32_t n_tables, at_table, at_row;
    size_t made; /* bytes of the answer */
    uint64_t found, took_ns;
    bool with_crc; /* `crc` is taken of the answer as it is made */
    uint32_t crc;
};

/* A part of a batch that came while the batch was under way; it has no rows here. */
struct ebs_joined {
    struct ebs_joined *next;
    struct ebs_part part;
};

/* A large application. */
struct ebs_job {
    struct ebs_job *next;
    struct ebs_ready ready;
    struct ebs_joined *joined, **joined_end;
    size_t n_joined;
    uint64_t took_ns;
    bool synchronous;
    bool waited; /* for room in a cut's buffer; counted */
};

struct ebs_turn {
    struct rt_timer next;       /* the next piece */
    struct ebs_applier applier; /* of the first job */
    struct ebs_lookup *lookup, **lookup_end;
    struct ebs_job *job, **job_end; /* the first is under way */
    struct rt_map busy;             /* batch -> its job */
    size_t n_lookups, n_jobs;
    bool begun;        /* the first job */
    bool synchronous;  /* a job of the group's steps is here; there is only one of those */
    bool closed;       /* its values change, or are about to: lookups wait */
    bool job_was_last; /* whose turn it was */
    struct rt_timer upkeep;
    uint32_t upkeep_table;
    bool upkeep_more;
};

void ebs_turn_start(struct ebs_owner *owner); /* tables are there; begins their upkeep */
void ebs_turn_stop(struct ebs_owner *owner);  /* what is here fails with RT_ECANCELED */

/* Go on with it in pieces: call, payload (another reference) and rows are the turn's from now on.
 * RT_EFULL, RT_ENOMEM: they are not. */
int ebs_turn_add_lookup(struct ebs_owner *owner, const struct ebs_lookup *lookup);

/* Apply it in pieces. Takes *ready; on an error it stays the caller's. RT_EFULL, RT_ENOMEM. */
int ebs_turn_add_job(struct ebs_owner *owner, struct ebs_ready *ready);

/* The job that a batch is in; NULL: none. */
struct ebs_job *ebs_turn_job_of(const struct ebs_owner *owner, uint64_t batch_id);
/* Let a part of it, come again, wait for it. Takes its call; on an error it stays the caller's.
 * RT_EDIGEST, RT_EFULL, RT_ENOMEM. */
int ebs_turn_join(struct ebs_job *job, const struct ebs_part *part);

/* What the job under way waited for may be there: room for rows of a cut (cut.h). */
void ebs_turn_go_on(struct ebs_owner *owner);

/* Frees a job that is not in the turn any more and has no calls. */
void ebs_job_free(struct ebs_job *job);

#endif
