/* trainer/owners.h -- trainer/0 and the owners of rows: where they are, for checkpoints, and what those that came back have lost.
 *
 * Only at rank 0, and with a checkpoint folder or in mode `full`: there an owner that was started anew waits for what is finished already,
 * and rows wait for it, until it is told. An owner that was started anew has the rows and the filter of a checkpoint, or
 * none; the ledger knows what the group has finished since. It is told (TellLedger), and what it lacks is the loss: logged and
 * counted, once, for from then on it counts as applied. That is when it is quiet (hold.h), and no step is made until it has
 * answered: a batch that the one before it had acked, and another owner not yet, would be finished later and be lost without a word. One that
 * is met for the first time is told as well, for it may have come back while nobody was here; one that has lived on lacks nothing.
 *
 * Mode `exact` compares: an owner has to have applied just what is finished, or the job goes back (back.h). All owners are
 * compared before anything is looked up, with or without a checkpoint folder, and again when they have come back; an evaluation, and an epoch, end
 * only while all are there. Other modes compare too where we have just gone on from a checkpoint and made no step.
 *
 * One that is told to stop says so in its hello, and stays a while: a checkpoint is made at once, and no step after it before that one has
 * gone (checkpoint.h), so it comes back with all that it had.
 *
 * The job is not done before all have been told: the loss of one that is away then would be told by nobody, for who ends with the job
 * hears nothing of it. One that does not come back is waited for TR_OWNERS_LAST_NS. Touch: loop thread. */
#ifndef TR_OWNERS_H
#define TR_OWNERS_H

#include "runtime/net/rpc.h"
#include "runtime/wire/method.h"

struct tr_trainer;

#define TR_OWNERS_LAST_NS  (300 * 1000000000ull) /* a server may have to restore much */
#define TR_OWNERS_LEAVE_NS (30 * 1000000000ull)  /* by then it has ended, or was ended */

struct tr_owner {
    struct tr_trainer *trainer;
    uint32_t number; /* of all owners */
    struct rt_peer *peer;
    uint64_t incarnation; /* that we know; 0: none yet */
    bool due, telling;    /* the ledger is to be told, is on its way */
    bool strange, early;  /* exact: not compared since it came; what is on its way was not all */
    bool asked;           /* what is on its way is of one step only */
    uint64_t leaving;     /* incarnation that is told to stop, as its hello says; 0: none was yet */
    uint64_t
        let_go; /* incarnation that was told that it may go: all that it has is in a checkpoint */
};

struct tr_owners {
    uint32_t servers, workers, n; /* n: of all owners; 0: nobody has said hello yet */
    struct tr_owner *at;          /* [n] */
    bool agreed;           /* all of them had what we have, once in this life: mode `exact` */
    bool compared;         /* other modes: what is missing from now on is told as lost */
    uint64_t lost;         /* batches that owners have said are lost, owner by owner */
    uint64_t skipped_ns;   /* when owners last heard which batches of an open step are finished */
    uint64_t paused_ns;    /* since when the group makes no step for them; 0: it does */
    uint64_t steps_ns;     /* and until when it makes some, after a pause that was in vain */
    uint64_t last_ns;      /* since when the job is done but for those not told; 0: it is not */
    bool last_over;        /* they were waited for in vain */
    uint64_t leaving_ns;   /* when one was heard to be told to stop, the latest */
    struct rt_timer timer; /* while one is to be told: between two looks whether it is quiet */
    struct wire_out out;
};

/* Is there one, and are all of them reached? `waiting` (may be NULL) names one that is not. */
bool tr_owners_up(const struct tr_trainer *trainer, char *waiting, size_t size);
/* The ledger, packed, into trainer->owners.out. RT_ENOMEM, RT_ELIMIT. */
int tr_owners_pack_ledger(struct tr_trainer *trainer);
void tr_owners_peer_up(struct tr_trainer *trainer, struct rt_peer *peer);
/* Is one that is there to be told, or being told? Then no step may begin, for two seconds; then a second of steps: a batch that was
 * stepped with a rank that is lost comes again behind others, which need steps. */
bool tr_owners_hold(const struct tr_trainer *trainer);
/* We have just gone on from a checkpoint, and not all have been compared: then no step may begin either. */
bool tr_owners_awaited(const struct tr_trainer *trainer);
/* Are all there, with what we have? */
bool tr_owners_agree(const struct tr_trainer *trainer);
/* All training is made: may the job be done, for all have been told, or have been waited for? Calls tr_phase_again() if not. */
bool tr_owners_settled(struct tr_trainer *trainer);
/* Are they waited for? */
bool tr_owners_are_last(const struct tr_trainer *trainer);
/* Is it there, and told to stop? */
bool tr_owner_leaves(const struct tr_owner *owner);
/* Is any, and waits for a checkpoint? For TR_OWNERS_LEAVE_NS at most. */
bool tr_owners_leave(const struct tr_trainer *trainer);
/* Is any still there that may go? As long. */
bool tr_owners_go(const struct tr_trainer *trainer);
void tr_owners_ask_again(struct tr_trainer *trainer); /* all are to be told */
void tr_owners_look(struct tr_trainer *trainer);      /* those that are due, before long */
void tr_owners_pump(struct tr_trainer *trainer);      /* tell what is due */
void tr_owners_release(struct tr_trainer *trainer);

#endif
