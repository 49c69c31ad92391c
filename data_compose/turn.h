/* data_compose/turn.h -- which batches of a pass are stepped together: the turns.
 *
 * In `full` every rank has at most one batch in a group step, and a rank that has none joins without. Whose
 * turn it is must follow from the data alone, or two runs of an `exact` job would differ. So the composer
 * deals the batches out to turns as it cuts them:
 *
 *     turn of a batch = max(turn of the batch before it of its rank + 1, base)
 *     base            = the least that keeps every turn in base .. base + window - 1
 *
 * Turns below `base` are closed: no later batch is of one. Every turn up to the highest has a batch, so "a
 * batch of the turn before was stepped" lets a turn begin, and no clock is needed.
 *
 * A pass that is gone on with deals out what is finished too. Where the job has another number of ranks or of composers than before,
 * those batches were not stepped by these turns: one may be finished, and another of its turn, or of a turn before, not. That
 * a batch of a turn was stepped says nothing of the turn then: the turns are mixed. Touch: the io's thread. */
#ifndef DC_TURN_H
#define DC_TURN_H

#include <stdbool.h>
#include <stdint.h>

struct dc_turns {
    uint32_t world, window;
    uint64_t base, highest; /* turns count from 1 */
    uint64_t *last;         /* [world] turn of each rank's last batch; 0: none */
    uint64_t *first;        /* [window + 2] by turn: the first batch that was dealt to it */
    uint64_t done,
        undone; /* the highest turn of a finished batch; the least of one that is not; 0: none */
};

void dc_turns_init(struct dc_turns *turns, uint32_t world, uint32_t window);
void dc_turns_release(struct dc_turns *turns);
/* Deal the next batch of the pass; @finished: it was before the pass began. true: *before is a batch of the turn before its own. */
bool dc_turns_deal(struct dc_turns *turns, uint32_t rank, uint64_t batch_id, bool finished,
                   uint64_t *before);
/* Is a batch finished whose turn is not before that of every one that is not? */
bool dc_turns_mixed(const struct dc_turns *turns);
/* true: *batch_id is a batch of the latest closed turn. */
bool dc_turns_closed(const struct dc_turns *turns, uint64_t *batch_id);
/* The same of the latest turn that has one. */
bool dc_turns_latest(const struct dc_turns *turns, uint64_t *batch_id);

#endif
