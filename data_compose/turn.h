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
 * batch of the turn before was stepped" lets a turn begin, and no clock is needed. Touch: the io's thread. */
#ifndef DC_TURN_H
#define DC_TURN_H

#include <stdbool.h>
#include <stdint.h>

struct dc_turns {
    uint32_t world, window;
    uint64_t base, highest; /* turns count from 1 */
    uint64_t *last;         /* [world] turn of each rank's last batch; 0: none */
    uint64_t *first;        /* [window + 2] by turn: the first batch that was dealt to it */
};

void dc_turns_init(struct dc_turns *turns, uint32_t world, uint32_t window);
void dc_turns_release(struct dc_turns *turns);
/* Deal the next batch of the pass. true: *before is a batch of the turn before its own. */
bool dc_turns_deal(struct dc_turns *turns, uint32_t rank, uint64_t batch_id, uint64_t *before);
/* true: *batch_id is a batch of the latest closed turn. */
bool dc_turns_closed(const struct dc_turns *turns, uint64_t *batch_id);
/* The same of the latest turn that has one. */
bool dc_turns_latest(const struct dc_turns *turns, uint64_t *batch_id);

#endif
