/* data_compose/turn.c -- see turn.h. */
#include "data_compose/turn.h"

#include "runtime/base/assert.h"
#include "runtime/base/mem.h"

void dc_turns_init(struct dc_turns *turns, uint32_t world, uint32_t window)
{
    *turns = (struct dc_turns){.world = world, .window = window, .base = 1};
    turns->last = rt_xcalloc(world, sizeof(*turns->last));
    turns->first = rt_xcalloc(window + 2, sizeof(*turns->first));
}

void dc_turns_release(struct dc_turns *turns)
{
    rt_free(turns->last);
    rt_free(turns->first);
}

static uint64_t *first_of(const struct dc_turns *turns, uint64_t turn)
{
    return &turns->first[turn % (turns->window + 2)]; /* base - 1 .. base + window - 1 are kept */
}

bool dc_turns_deal(struct dc_turns *turns, uint32_t rank, uint64_t batch_id, bool finished,
                   uint64_t *before)
{
    uint64_t turn = turns->last[rank] + 1;

    if (turn < turns->base)
        turn = turns->base;
    if (turn > turns->base + turns->window - 1)
        turns->base = turn - turns->window + 1;
    turns->last[rank] = turn;
    if (finished)
        turns->done = turn > turns->done ? turn : turns->done;
    else if (turns->undone == 0 || turn < turns->undone)
        turns->undone = turn;
    if (turn > turns->highest) {
        rt_assert(turn == turns->highest + 1); /* no turn is without a batch */
        turns->highest = turn;
        *first_of(turns, turn) = batch_id;
    }
    *before = turn > 1 ? *first_of(turns, turn - 1) : 0;
    return turn > 1;
}

bool dc_turns_mixed(const struct dc_turns *turns)
{
    return turns->undone > 0 && turns->done >= turns->undone;
}

bool dc_turns_closed(const struct dc_turns *turns, uint64_t *batch_id)
{
    *batch_id = turns->base > 1 ? *first_of(turns, turns->base - 1) : 0;
    return turns->base > 1;
}

bool dc_turns_latest(const struct dc_turns *turns, uint64_t *batch_id)
{
    *batch_id = turns->highest > 0 ? *first_of(turns, turns->highest) : 0;
    return turns->highest > 0;
}
