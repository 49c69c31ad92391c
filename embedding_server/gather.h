/* embedding_server/gather.h -- updates that wait for the rest of what they are applied with.
 *
 * An ApplyGradients is one part of a batch. A batch is applied when all its parts are in; in synchronous
 * mode, when the batches of all ranks of its step are in. Until then the parts stand here, each with its payload and
 * the call that is owed an answer.
 *
 *   part: (none) -ebs_gather_add-> waiting -ebs_gather_ready-> taken -ebs_gather_finish-> gone
 *         waiting -ebs_gather_add of the same part-> replaced; its old call is told so
 *         taken   -ebs_gather_keep-> waiting, or gone if its place was taken meanwhile
 *
 * What was taken is the taker's: nothing that arrives here changes it, however long it is worked on. Of a batch that
 * comes again meanwhile the taker must know.
 *
 * A group that has lost all ranks that had made a step makes that step again, perhaps of other batches. What is here of the
 * attempt before must not be applied with those, nor keep them waiting: parts of a step go together only
 * if they are of one attempt, and of a greater one they win. The batch that stood in its place, or the whole step, is
 * forgotten then; its calls, and whoever comes late, are told so with RT_EUNKNOWN, which nobody repeats.
 *
 * Memory: payloads are lent from the loop's pool, whose budget bounds them; batches and steps are at most
 * EBS_OPEN_MAX. Touch: owner thread only. */
#ifndef EBS_GATHER_H
#define EBS_GATHER_H

#include "runtime/net/rpc.h"
#include "runtime/wire/rows.h"

#define EBS_OPEN_MAX  1024u /* batches that wait for parts or ranks */
#define EBS_WORLD_MAX 4096u /* ranks of a group */

/* One ApplyGradients, read and checked. The arrays live in `arena` and in the payload. */
struct ebs_part {
    uint64_t batch_id;
    struct wire_apply_gradients m;
    const uint64_t **id; /* [m.n_tables] -> [m.n_ids[t]] */
    const void **grad;   /* [m.n_tables] -> [m.n_ids[t]][dim] elements of m.dtype */
    struct rt_buf *payload;
    struct rt_call *call;     /* owed one answer; NULL: answered */
    struct rt_arena *arena;   /* owned; NULL: belongs to somebody else */
    uint64_t rows, nonfinite; /* what came of it */
};
/* Frees arena and payload; the call must be answered. */
void ebs_part_release(struct ebs_part *part);

struct ebs_gather;

/* @bytes_max: over that only the oldest of the batches that wait for their parts gets more of them. It must be so
 * far below the pool's budget that one batch fits beside it. */
int ebs_gather_create(size_t bytes_max, struct ebs_gather **out);
void ebs_gather_destroy(struct ebs_gather *gather); /* fails the calls with RT_ECANCELED */

/* Keep a part: its arena, payload reference and call are the gather's now (on an error they are not).
 * RT_EDIGEST: another digest than the batch's other parts. RT_EFULL: later.
 * A batch that comes again cut or placed differently replaces what was there of it, and so does another batch
 * of the same step and rank. */
int ebs_gather_add(struct ebs_gather *gather, struct ebs_part *part);

/* The batch of this rank and step was applied before: the step does not wait for it. */
int ebs_gather_skip(struct ebs_gather *gather, const struct ebs_part *part);

/* Forget steps of attempts below this one: those who made them have gone back. Their calls fail with RT_EUNKNOWN. */
void ebs_gather_drop_before(struct ebs_gather *gather, uint64_t attempt);

/* Forget what waits of a batch, if anything; its calls fail with `err` and `why`. */
void ebs_gather_drop(struct ebs_gather *gather, uint64_t batch_id, int err, const char *why);

/* Parts that can be applied now, in order of rank and part: all of a batch, or all of a step. They are the caller's
 * until ebs_gather_finish() or _keep(), one of which must follow; the gather knows nothing of them meanwhile. */
struct ebs_batch;
struct ebs_ready {
    struct ebs_part **part;   /* [n] */
    struct ebs_batch **batch; /* [n_batches] whose parts they are */
    size_t n, n_batches;
    bool whole_step; /* of the group */
    bool merge;      /* its batches become one update */
    uint64_t step;
};
/* Is a batch complete, that is not of a step; is a step? *out is zero: still waiting. RT_ENOMEM; of a step one
 * batch was sent away with it then, so that it comes again. */
int ebs_gather_ready(struct ebs_gather *gather, uint64_t batch_id, struct ebs_ready *out);
int ebs_gather_step_ready(struct ebs_gather *gather, uint64_t number, struct ebs_ready *out);
/* The lowest number of a step that is complete and at most `through`; false: there is none. */
bool ebs_gather_first_step(const struct ebs_gather *gather, uint64_t through, uint64_t *number);
/* Applied: forget the parts. Calls of them that were not answered fail with `err` and `why`. */
void ebs_gather_finish(struct ebs_gather *gather, struct ebs_ready *ready, int err,
                       const char *why);
/* Not applied: the parts wait again, and each that comes again is a new chance. Their calls must be answered. */
void ebs_gather_keep(struct ebs_gather *gather, struct ebs_ready *ready);

size_t ebs_gather_open(const struct ebs_gather *gather); /* batches waiting */
/* ... of which somebody waits for an answer. Goes through all. */
size_t ebs_gather_awaited(const struct ebs_gather *gather);

#endif
