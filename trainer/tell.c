/* trainer/tell.c -- TellPhase: rank 0 tells every other rank of a phase before a composer hears of it.
 *
 * A long call, answered when the rank is in the phase, no step is under way and what it has stepped is finished
 * (during training there is nothing to wait for). It is idempotent: a connection that breaks, or a rank that was started anew, is told
 * again.
 *
 * With the phase goes rank 0's ledger. An epoch is over when that has all of its batches, the latest of its own among
 * them, which the others hear of in a round; were it lost before that round, ranks that are in the next epoch by its
 * word would wait for a batch that nobody brings any more. An evaluation cannot go on without the scores of a rank that has forgotten
 * them: it is begun again, as another phase. One whose scores are all here is told of this one, and has nothing to do in it. */
#include "trainer/state.h"

#include "runtime/base/err.h"

/* The rank is in the phase, and is still the one that said so. */
static bool is_told(struct tr_trainer *trainer, uint32_t rank)
{
    const struct tr_other *other = &trainer->other[rank];
    return other->told == trainer->phase &&
           other->incarnation == rt_peer_incarnation(tr_rank(trainer, rank));
}

bool tr_tell_done(struct tr_trainer *trainer)
{
    for (uint32_t r = 1; r < trainer->conf.world; r++)
        if (!is_told(trainer, r))
            return false;
    return true;
}

static void on_told(void *arg, int err, const struct rt_frame *reply)
{
    struct tr_other *other = arg;
    struct tr_trainer *trainer = other->trainer;
    uint64_t phase = other->telling;
    (void)reply;
    if (trainer->closing)
        return;
    other->telling = 0;
    if (!err) {
        other->told = phase;
    } else if (tr_feed_lost(err) || err == RT_ESTALE) {
        other->refused = true;
        tr_phase_again(trainer);
    } else {
        tr_fail(trainer, rt_fail_prefix(err, "trainer/%u refuses a phase: ",
                                        (unsigned)(other - trainer->other)));
    }
    tr_phase_check(trainer);
    tr_pump(trainer);
}

static int tell(struct tr_trainer *trainer, uint32_t rank)
{
    struct tr_other *other = &trainer->other[rank];
    struct rt_peer *peer = tr_rank(trainer, rank);
    struct wire_split_ledger *ledger = NULL;
    struct wire_tell_phase phase = {
        .phase = trainer->phase,
        .kind = trainer->kind,
        .epoch = trainer->epoch,
        .pass = trainer->pass,
        .epoch_over = trainer->tell_over,
        .n_statistics = trainer->n_statistics,
        .statistics = trainer->statistics,
        .composers = trainer->composers,
    };
    rt_arena_reset(trainer->scratch);
    int err = rt_ledger_export(trainer->ledger, trainer->scratch, &ledger, &phase.n_ledger);
    phase.ledger = ledger;
    if (!err)
        err = wire_tell_phase_pack(&phase, &trainer->out);
    if (err)
        return err;
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    err = rt_rpc_call(peer, WIRE_TELL_PHASE, &out, 0, on_told, other);
    if (!err) {
        other->told = 0; /* what an earlier incarnation was told is not what this one is */
        other->telling = trainer->phase;
        other->incarnation = rt_peer_incarnation(peer);
    }
    return err;
}

/* A rank that was told of this evaluation is another one now, and what it had scored is gone. @return the world: there is none */
static uint32_t find_lost(struct tr_trainer *trainer)
{
    uint32_t r = trainer->kind == WIRE_PHASE_EVALUATE ? 1 : trainer->conf.world;
    for (; r < trainer->conf.world; r++) {
        const struct tr_other *other = &trainer->other[r];
        if (other->told == trainer->phase && !is_told(trainer, r) && !other->scored &&
            rt_peer_is_up(tr_rank(trainer, r)))
            return r;
    }
    return trainer->conf.world;
}

static int tell_all(struct tr_trainer *trainer)
{
    for (uint32_t r = 1; r < trainer->conf.world; r++) {
        struct tr_other *other = &trainer->other[r];
        struct rt_peer *peer = tr_rank(trainer, r);
        if (is_told(trainer, r) || other->telling || other->refused || !rt_peer_is_up(peer))
            continue;
        int err = tell(trainer, r);
        if (err && !tr_feed_lost(err))
            return err;
        if (err)
            tr_phase_again(trainer);
    }
    return 0;
}

/* The weights are what they will be evaluated as, or end as. In `async` steps that are not averaged yet are now:
 * nobody may make another. */
static bool is_at_rest(const struct tr_trainer *trainer)
{
    return trainer->kind == WIRE_PHASE_TRAIN ||
           (!tr_phase_owes(trainer) && tr_step_settled(trainer));
}

/* What rank 0 is owed. */
static void answer(struct tr_trainer *trainer)
{
    struct rt_call *call = trainer->tell_call;
    if (!call || !is_at_rest(trainer))
        return;
    trainer->tell_call = NULL;
    rt_call_reply(call, &(struct rt_outgoing){0});
    tr_phase_told(trainer);
}

void tr_tell_pump(struct tr_trainer *trainer)
{
    if (trainer->conf.self.index != 0) {
        answer(trainer);
        return;
    }
    if (trainer->conf.world > 1 && trainer->composers == 0) /* they say how many they are */
        return;
    if (trainer->group && !trainer->group->was_formed) /* it may be another phase */
        return;
    if (trainer->job->global.exact && trainer->group && trainer->group->state != TR_FORMED)
        return; /* who came back sends all back */
    if (trainer->kind == WIRE_PHASE_DONE && !trainer->told && !tr_owners_settled(trainer))
        return; /* and nobody is done before */
    uint32_t lost = find_lost(trainer);
    if (lost < trainer->conf.world) { /* and all are told of that */
        tr_phase_evaluate_again(trainer, lost);
        return;
    }
    int err = tell_all(trainer);
    if (err)
        tr_fail(trainer, err);
    else if (tr_tell_done(trainer))
        tr_phase_told(trainer);
}

void tr_tell_serve(void *ctx, struct rt_call *call, const struct rt_frame *frame)
{
    struct tr_trainer *trainer = ctx;
    struct wire_tell_phase phase;
    rt_arena_reset(trainer->scratch);
    int err = wire_tell_phase_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                     &phase);
    uint32_t from = rt_call_from(call)->index;
    if (!err && (from != 0 || trainer->conf.self.index == 0))
        err = RT_FAIL(RT_EPROTO, "TellPhase: from trainer/%u to trainer/%u, expected from 0 only",
                      from, trainer->conf.self.index);
    if (!err && phase.composers > TR_COMPOSERS_MAX)
        err = RT_FAIL(RT_ELIMIT, "TellPhase: %u composers, at most %u", phase.composers,
                      TR_COMPOSERS_MAX);
    if (!err)
        err = tr_form_check_formed(trainer->group, "TellPhase");
    if (!err)
        err = rt_ledger_merge(trainer->ledger, phase.ledger, phase.n_ledger);
    if (!err)
        err = tr_phase_enter(trainer, &phase);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    if (trainer->tell_call)
        rt_call_fail(trainer->tell_call, RT_ESTALE, "told again");
    trainer->tell_call = call;
    tr_phase_check(trainer);
    tr_pump(trainer);
}
