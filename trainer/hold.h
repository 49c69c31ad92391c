/* trainer/hold.h -- the pause of the group that an import, a checkpoint, and an owner that came back need: rank 0 makes no step,
 * and so nobody does.
 *
 * Quiet is the moment when nothing that was stepped is on its way to an owner: what is stepped is finished, at all ranks, and
 * rank 0's ledger has it. Batches may be looked up all the while. Another rank that waits with its batch in a header tells what
 * it has finished in its next one: a round without a step makes it send that (tr_hold_ask_news). Touch: loop thread. */
#ifndef TR_HOLD_H
#define TR_HOLD_H

#include <stdbool.h>

struct tr_trainer;

bool tr_hold_is_on(const struct tr_trainer *trainer);    /* no step may begin here */
bool tr_hold_is_quiet(const struct tr_trainer *trainer); /* in training */
/* Quiet, or in an evaluation that all ranks have entered: they have settled what they had stepped, and score. */
bool tr_hold_is_still(struct tr_trainer *trainer);
/* A round without a step is wanted, unless it is quiet by then. */
void tr_hold_ask_news(struct tr_trainer *trainer);
bool tr_hold_wants_news(const struct tr_trainer *trainer);
bool tr_hold_take_news(struct tr_trainer *trainer); /* once for each time that it was asked for */

#endif
