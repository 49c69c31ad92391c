/* embedding_server/cut.h -- an owner's part of a checkpoint: its rows of one instant, to DIR/NAME/rows.OWNER, while it serves.
 *
 *   (none) -ebs_serve_cut-> WRITING -finish-> DONE -ebs_serve_end_cut-> DONE, kept; or (none), its file removed
 *                           WRITING -fail---> FAILED, its file removed
 *   any    -ebs_serve_cut of a newer attempt, ebs_serve_end_cut, ebs_cut_stop-> (none), its file removed
 *
 * While it is WRITING (cut_write.c; a job is of the io's worker, the rest of the loop, in slices of half a millisecond):
 *   job: the file's head, removed ids, policies -> rows and sketches collected into a buffer, a full block is a job -> job: END, fsync
 *
 * Cut makes the instant in no time (table_cut.h). From then on no row changes before it was copied to the buffer, if it is of the cut.
 * So before an application changes a row there must be room for all that it can have copied, of all of its tables; else it waits until a
 * block is on its way to the file, as a job of the turn (turn.h), in pieces of at most a fourth of the buffer. Rows are collected into
 * half of the buffer only. No other row is copied: a cut takes global.checkpoint.buffer for each owner, or room for some hundred of the
 * longest rows where that is more, and some thousand bytes of each table (policies, sums). Lookups never wait for that. Nothing of a disk
 * is done by the loop: a folder that is not there is told by AwaitCut. Where rows change without asking for room (an import), and there is
 * none, the attempt has failed and the rows change. It has failed, too, when the worker has ended no job for EBS_CUT_STILL_NS: a disk that
 * stands still is not waited for. One that goes on may take as long as it takes: who awaits the cut has no deadline of his own for that.
 *
 * What the worker is at, or has before it, when its attempt is given up or has failed, keeps it until it comes back; the buffer too, if a
 * block of it is being written. No cut is begun behind a job that has taken EBS_CUT_LEFT_NS of that, or behind two: so while a disk stands
 * still there is one buffer, and updates do not wait for a file that cannot be written.
 *
 * What was kept last (EndCut) is what an increment can go on from. An attempt that was begun and not kept leaves no way to tell what changed since:
 * then the next must be a full one. Touch: owner thread only. */
#ifndef EBS_CUT_H
#define EBS_CUT_H

#include "embedding_server/gather.h"
#include "embedding_server/rowbuf.h"

#define EBS_CUT_STILL_NS (600 * 1000000000ull)
#define EBS_CUT_LEFT_NS  1000000000ull

struct ebs_owner;
struct ebs_cut; /* one attempt; cut_write.h */

/* What struct ebs_owner has of it. */
struct ebs_cutter {
    struct ebs_cut *cut;      /* the latest attempt; NULL: none, or it was given up */
    struct ebs_cut *given_up; /* whose jobs have not come back */
    uint64_t latest;          /* attempt: an older one is over */
    uint64_t kept;            /* attempt that the rows marked have changed since; 0: none */
    uint64_t step,
        step_attempt; /* the last step of which something was applied; attempt at it (gather.h) */
    struct rt_timer next, look; /* the next slice; whether the worker goes on */
    uint32_t let_go;            /* the table of the next slice, of a cut that was dropped */
};

void ebs_serve_cut(void *ctx, struct rt_call *call, const struct rt_frame *request);
void ebs_serve_await_cut(void *ctx, struct rt_call *call, const struct rt_frame *request);
void ebs_serve_end_cut(void *ctx, struct rt_call *call, const struct rt_frame *request);
void ebs_cut_stop(struct ebs_owner *owner); /* the loop has ended */

/* What Cut does. RT_EUSAGE, RT_ESTALE, RT_ENOTREADY, RT_ENOMEM: nothing has begun; one before it may be given up. */
struct wire_cut;
int ebs_cut_make(struct ebs_owner *owner, const struct wire_cut *m);

/* Something of a step was applied. */
void ebs_cut_applied(struct ebs_owner *owner, const struct ebs_part *part);

/* May these parts be applied at once: there is room for all rows that they can have copied. */
bool ebs_cut_admits(const struct ebs_owner *owner, struct ebs_part *const *part, size_t n);
/* May a piece of a job begin; with `rows`, one that changes rows? If not, ebs_turn_go_on() is called when it may be. */
bool ebs_cut_admits_piece(const struct ebs_owner *owner, bool rows);

#endif
