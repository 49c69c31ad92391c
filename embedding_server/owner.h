/* embedding_server/owner.h -- one owner: the tables of a range of shards, behind two methods and those of checkpoints.
 *
 *   LookupRows      ids -> weights, as `global.wire.rows` has them; a missing row reads as its initial value. With a step: waits until
 *                   that step is applied (mode `full`).
 *   ApplyGradients  ids and gradients -> ack. Applied exactly once per batch, however often it is asked.
 *   Cut, AwaitCut, EndCut   its part of a checkpoint (cut.h): for trainer/0.
 *   TellLedger, GoBack      what it has lost (lost.h); that it has to begin anew (back.h): for trainer/0.
 *
 * An owner refuses ids outside its shards and requests made by another shard map (RT_EOWNER). It is one
 * event loop's: created before the loop runs or on its thread, everything else on its thread. */
#ifndef EBS_OWNER_H
#define EBS_OWNER_H

#include "runtime/admin/metrics.h"
#include "runtime/job/job.h"
#include "runtime/net/rpc.h"

struct ebs_owner;

struct ebs_owner_conf {
    struct rt_io *io;
    struct rt_identity identity;       /* loop: the worker's number in its process */
    const struct rt_job *job;          /* must outlive the owner */
    const struct rt_shard_map *shards; /* copied */
    uint32_t owner;                    /* our number in the map: index * workers + worker */
    const struct rt_greeting *greeting;
    const char *listen;       /* address to serve on */
    struct rt_credit *budget; /* of the process, for replies that wait; NULL: one of its own */
    uint32_t window;          /* of the filter; 0: RT_BATCH_WINDOW */
    uint64_t memory;          /* bytes that its tables may take; 0: any */
    /* Requests of more rows are done in pieces of so many, one in each turn of the loop; 0: requests that take
     * longer than some 1.5 ms are, and a turn has about 1 ms of them. Tests set it. */
    uint32_t slice_rows;
    size_t
        parts_bytes; /* that wait for their batches' other parts (gather.h); 0: a fourth of the pool. Tests set it. */
    const char *checkpoint_dir; /* outlives the owner; NULL: none, and no checkpoint is made */
    uint64_t cut_still_ns;      /* 0: EBS_CUT_STILL_NS (cut.h). Tests set it. */
    size_t save_bytes; /* of a part of a table (save.h); 0: RT_SAVE_PART_BYTES. Tests set it. */
    void *ctx;
    void (*fenced)(void *ctx, uint64_t held); /* replaced by a newer process; may be NULL */
    /* Its rows are of a generation that is over: the process is to be started again, RT_EBACK, text in rt_err_text(). NULL: it cannot be */
    void (*back)(void *ctx);
};

/* RT_EUSAGE, RT_ENOMEM, or what listening says. */
int ebs_owner_create(const struct ebs_owner_conf *conf, struct ebs_owner **out);
void ebs_owner_destroy(
    struct ebs_owner *owner); /* NULL is legal; pending calls fail, RT_ECANCELED */

const char *ebs_owner_address(const struct ebs_owner *owner); /* what peers connect to */

/* Mode `exact`: nobody knows yet whether its rows are those of the job (back.h). Any thread. */
bool ebs_history_waits(const struct ebs_owner *owner);

/* Numbers for metrics and status. Relaxed atomics: written by the owner's thread, any may read them. */
struct ebs_owner_stats {
    _Atomic uint64_t lookups, rows_looked_up, rows_found;
    _Atomic uint64_t updates, updates_again; /* batches applied; repeats of applied ones */
    _Atomic uint64_t rows_applied, rows_nonfinite;
    _Atomic uint64_t sliced;  /* lookups and applications that were done in pieces */
    _Atomic uint64_t refused; /* requests answered with an error */
    _Atomic uint64_t waiting; /* now: lookups that wait for a step */
    _Atomic uint64_t open;    /* now: batches that wait for parts or ranks */
    _Atomic uint64_t step;    /* last step applied in synchronous mode */
    _Atomic uint64_t lost;    /* batches that it lacked when it was told the ledger */
    _Atomic uint64_t durable_updates, durable_ns; /* `updates` at the last published cut; when */
    _Atomic uint64_t rows;                        /* live, all tables */
    _Atomic uint64_t row_bytes;                   /* id, weights and state of the live rows */
    _Atomic uint64_t memory_bytes;                /* of all tables: the sum of their kinds */
    _Atomic uint64_t budget,
        budget_used; /* bytes that tables may take, 0: any; that were taken of it */
    _Atomic uint64_t
        changed; /* rows that changed since the latest cut, all tables; before the first: all */
    _Atomic uint64_t cut_writing; /* 1: the rows of a cut are being written */
    _Atomic uint64_t cut_open;    /* 1: a cut is neither kept nor given up */
    _Atomic uint64_t cut_lasts;   /* kept, and no step comes before who is told to stop has gone */
    _Atomic uint64_t cut_rows, cut_bytes; /* to checkpoints' files; of those that are whole */
    _Atomic uint64_t cut_waits,
        cut_copies; /* applications that waited for room; rows copied before they changed */
    _Atomic uint64_t cuts_failed;
    _Atomic double cut_seconds; /* of the last one, from the instant to its file on disk */
    struct rt_histogram lookup_rows, lookup_seconds; /* per LookupRows answered */
    struct rt_histogram apply_rows;                  /* per ApplyGradients applied */
    struct rt_histogram apply_seconds;               /* per application; `full`: of a step */
};
/* Of one table, likewise. */
enum ebs_bytes_kind { /* as struct ebs_table_bytes has them */
                      EBS_BYTES_ROWS,
                      EBS_BYTES_INDEX,
                      EBS_BYTES_SLACK,
                      EBS_BYTES_ALLOCATOR,
                      EBS_BYTES_KINDS
};
extern const char *const ebs_bytes_name[EBS_BYTES_KINDS];
struct ebs_table_stats {
    _Atomic uint64_t rows;     /* live */
    _Atomic uint64_t changed;  /* of these, since the latest cut */
    _Atomic uint64_t capacity; /* rows; UINT64_MAX: any number */
    _Atomic uint64_t bytes[EBS_BYTES_KINDS];
    _Atomic uint64_t created, evicted, expired; /* rows, since the start */
    _Atomic uint64_t not_admitted, refused;     /* gradients of ids that have no row */
    _Atomic uint64_t nonfinite;                 /* gradients left out, not finite or huge */
};
const struct ebs_owner_stats *ebs_owner_stats(const struct ebs_owner *owner);
const struct ebs_table_stats *ebs_owner_table_stats(const struct ebs_owner *owner, uint32_t table);
/* All of it for /metrics. The owner outlives the page. Touch: before the loop runs. */
void ebs_owner_register(const struct ebs_owner *owner, struct rt_metrics *metrics);
const struct rt_rpc_stats *ebs_owner_rpc_stats(const struct ebs_owner *owner);

#endif
