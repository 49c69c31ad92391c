/* trainer/agree.h -- are all ranks' dense weights the same bits?
 *
 * In `full` and `hybrid` they are, by how a step is made; a bit that changed in one rank's memory, or a core that computes wrongly, would
 * be trained on with for ever. So after each step that `guard.digest_every` divides a rank's step thread makes the digest of its
 * weights (XXH3-64), the rank's next headers carry it, and a round has those of all: every rank compares the same ones. All know a
 * step's digests two steps later at the latest, for a header is sent while the step before it is computed, at the earliest.
 *
 * Before a checkpoint is cut there is one more: a rank that makes no step, or hears in a round that rank 0 makes none, as in a hold, has
 * its step thread make the digest of the weights as they are, and its next header waits for that. The cut waits for all of them, or
 * TR_AGREE_WAIT_NS: where a rank has no header to send, for it waits for data. So no checkpoint is made of weights that are known, or
 * could have been known, to differ.
 *
 * Where they differ nobody can say whose are right, even by majority only likely; and rows have learnt from both. So all ranks end,
 * with one error that names them, and no checkpoint is made any more: started again, all go on from the newest one. What must not be is
 * that one lives on: it would be the most advanced rank of the group that forms then, and give its weights to all others. So:
 *
 *   rank 0   knows first, for it gathers the rounds. It forms no group any more; whoever joins, an old rank or one that was started anew,
 *            waits. It tells every rank of the group whose weights differ that this is so (JoinGroup with `differs`), as soon as it
 *            reaches it, again until that one has answered or has come back with a higher incarnation; then it ends, as the last one.
 *            There is no limit to that: a rank that is cut off is the one that has not heard, and without it no group could form either.
 *   others   know by the round or are told. They make no step, join no group and give no weights. They end when rank 0 has told them,
 *            for then it need not wait for them; or after TR_AGREE_LEAVE_NS.
 *
 * Rank 0 is where the knowledge is: where it is killed before all have it, and just then another is cut off, that one's weights live on
 * and the next comparison finds nothing. Touch: loop thread, but for `made`. */
#ifndef TR_AGREE_H
#define TR_AGREE_H

#include "runtime/net/rpc.h"
#include "runtime/wire/step.h"

struct tr_trainer;

#define TR_AGREE_WAIT_NS  (1000000000ull)
#define TR_AGREE_LEAVE_NS (5 * 1000000000ull)

struct tr_agree {
    uint64_t digested, digest; /* as in a header: ours */
    uint64_t made;             /* Touched by: the step thread, while it optimizes or makes it */
    uint64_t
        agreed;   /* 1 + the latest step at which all ranks' were the same; 0: none in this group */
    bool paused;  /* rank 0 makes no step, as the latest round says */
    bool differs; /* no step is made any more */
    bool told;    /* by rank 0; at rank 0: it has said whom it waits for */
    uint64_t differs_ns; /* since when it is known here */
    struct rt_timer leaving;
    char text[512]; /* what is said then */
};

void tr_agree_make(
    struct tr_trainer *trainer); /* the step thread: the weights are those of trainer->step */
void tr_agree_made(struct tr_trainer *trainer); /* the loop thread, after it */
/* The weights rest, and their digest is not known: the next header waits until it is made, by tr_agree_make_now() on the step
 * thread and tr_agree_made_now() after it. */
bool tr_agree_wants(struct tr_trainer *trainer);
void tr_agree_make_now(void *trainer);
void tr_agree_made_now(struct tr_trainer *trainer);
void tr_agree_tell(const struct tr_trainer *trainer, struct wire_step_header *header);
/* All headers of a round. Where digests differ the job has failed: soon tr_fail(), RT_EDATA. */
void tr_agree_take(struct tr_trainer *trainer, const struct wire_step_headers *headers);
/* Rank 0 says that they differ in the group of that epoch. */
void tr_agree_hear(struct tr_trainer *trainer, uint64_t group_epoch, const char *text);
void tr_agree_forget(struct tr_trainer *trainer); /* a group forms: weights may be others */
/* Rank 0, in a hold: is it known whether all have the same weights, at this step? */
bool tr_agree_is_known(const struct tr_trainer *trainer);
/* And may a checkpoint be made of them, when nothing else has been waited for since `quiet_ns`? */
bool tr_agree_may_cut(const struct tr_trainer *trainer, uint64_t quiet_ns);
void tr_agree_release(struct tr_trainer *trainer);

#endif
