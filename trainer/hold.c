/* trainer/hold.c -- see hold.h. */
#include "trainer/hold.h"
#include "trainer/state.h"

bool tr_hold_is_on(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    return tr_import_holds(&trainer->import) || tr_checkpoint_holds(checkpoint) ||
           tr_checkpoint_stays(checkpoint) || tr_owners_hold(trainer) ||
           tr_owners_awaited(trainer) || tr_back_is_on(trainer);
}

/* Our header of before the pause may still become a step. */
static bool group_is_quiet(const struct tr_group *group)
{
    return !group ||
           (group->owed.count == 0 && group->standing == TR_IN_NOTHING && group->mine.paused);
}

bool tr_hold_is_quiet(const struct tr_trainer *trainer)
{
    return trainer->kind == WIRE_PHASE_TRAIN && tr_step_settled(trainer) &&
           !tr_phase_owes(trainer) && group_is_quiet(trainer->group);
}

bool tr_hold_is_still(struct tr_trainer *trainer)
{
    bool evaluates = trainer->kind == WIRE_PHASE_EVALUATE && tr_tell_done(trainer) &&
                     !tr_phase_owes(trainer) && group_is_quiet(trainer->group);
    return evaluates || tr_hold_is_quiet(trainer);
}

void tr_hold_ask_news(struct tr_trainer *trainer)
{
    trainer->wants_news = true;
}

bool tr_hold_wants_news(const struct tr_trainer *trainer)
{
    return trainer->wants_news;
}

bool tr_hold_take_news(struct tr_trainer *trainer)
{
    bool known = !tr_checkpoint_holds(&trainer->checkpoint) || tr_agree_is_known(trainer);
    bool quiet = tr_hold_is_quiet(trainer) && tr_import_is_known(trainer) && known;
    bool wants = trainer->wants_news && !quiet;
    trainer->wants_news = false;
    return wants;
}
