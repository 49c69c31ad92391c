/* data_compose/end.c -- what comes no more: EndOfEpoch at the end of a pass, NothingYet in its midst.
 *
 * A group steps when every rank has a batch or knows that none is coming to it, so a rank must not be left to
 * guess. Which rank a batch is for follows from its name, hence a composer can have a row of batches for
 * one rank, fill its window, and stop reading while another rank has nothing of it: that rank waits for a
 * batch, the group for that rank, the batches in the window for the group, and the composer for the
 * window. NothingYet breaks the circle.
 *
 * No deadlock: look at a rank R that the group waits for. Some composer has neither ended at R nor told it
 * NothingYet, or a batch for R is on its way.
 *   - A batch on its way, or one that is looked up, needs no other rank: it becomes ready, or comes again.
 *   - A composer with nothing open for R either reads, and so makes a batch for R, ends, or makes one that
 *     cannot be opened; or it holds such a one, or has no room for the next: then it tells R, here.
 * So R has a batch or joins with weight zero, the step is made, its batches finish, windows get room. What R
 * was told holds until the next TrainBatch of the same composer, which travels on the same connection behind
 * it. What a lost connection takes is told again.
 *
 * `exact` needs more: whether R joins without a batch must not hang on which reply came first. There the
 * batches have turns (turn.h), dealt out by the data alone, and NothingYet holds up to the latest closed
 * turn only. That suffices: what is held for a rank X has a turn of at least X's oldest open batch's +
 * window, so that one's turn is closed, and R lets it pass. Turns are one composer's: with several in `full` a
 * step has batches of different composers' turns, and NothingYet holds until the next batch, as in `hybrid`. So it does
 * where turns are mixed, for the batch that closes a turn may be finished, and R would let nothing pass. (Not in `exact`: there
 * whole turns are finished; a batch that is stepped only, and so comes again, is of one that R has made.) */
#include "data_compose/state.h"

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <string.h>

void dc_end_begin(struct dc_composer *composer)
{
    composer->stage = DC_ENDING;
    composer->end_phase++;
    /* One that is out still is waited for: its answer must not be taken for that of the next. */
    for (uint32_t r = 0; r < composer->world; r++)
        composer->rank[r].end_acked = false;
}

void dc_end_forget(struct dc_composer *composer)
{
    composer->end_phase++;
    for (uint32_t r = 0; r < composer->world; r++)
        composer->rank[r].nothing_told = false;
}

static bool try_later(int err)
{
    return err == RT_EPEER || err == RT_EDEADLINE || err == RT_ECANCELED || err == RT_ENOTREADY;
}

/* ---- EndOfEpoch ---- */

static void on_end(void *arg, int err, const struct rt_frame *reply)
{
    struct dc_rank *rank = arg;
    struct dc_composer *c = rank->composer;

    (void)reply;
    rank->end_out = false;
    if (c->destroying || c->failed)
        return;
    if (rank->end_phase != c->end_phase || c->stage != DC_ENDING) {
        dc_pump(c); /* the one of this phase waited for it */
    } else if (try_later(err)) {
        dc_pause(c);
    } else if (err) {
        dc_fail(c, rt_fail_prefix(err, "EndOfEpoch at %s: ", rt_peer_name(rank->peer)));
    } else {
        rank->end_acked = true;
        dc_pump(c);
    }
}

/* Every split of ours, the empty ones too, with totals since the job's start. */
static uint32_t list_ends(struct dc_composer *c, struct wire_split_ledger *out)
{
    const struct dc_set *set = &c->set[c->evaluate];
    uint64_t passes = dc_pass_now(c)->number + 1;
    uint32_t n = 0;

    for (uint32_t s = c->conf.identity.index; s < c->job->data.splits; s += c->conf.size)
        out[n++] = (struct wire_split_ledger){
            .split = s + (c->evaluate ? RT_SPLIT_EVALUATE : 0),
            .rows_read = passes * set->rows[s],
            .rows_quarantined = passes * set->quarantined[s],
            .end_sequence = passes * set->batches[s],
        };
    return n;
}

static int send_end(struct dc_composer *c, struct dc_rank *rank)
{
    struct wire_split_ledger *ended = rt_xcalloc(c->job->data.splits, sizeof(*ended));
    struct wire_end_of_epoch message = {
        .phase = c->phase,
        .epoch = c->epoch,
        .evaluate = c->evaluate,
        .composer = c->conf.identity.index,
        .n_ended = list_ends(c, ended),
        .ended = ended,
    };
    int err = wire_end_of_epoch_pack(&message, &c->out);

    rt_free(ended);
    if (err)
        return err;
    struct rt_outgoing out = {.message = c->out.data, .message_size = c->out.size};
    rank->end_phase = c->end_phase;
    err = rt_rpc_call(rank->peer, WIRE_END_OF_EPOCH, &out, DC_END_DEADLINE_NS, on_end, rank);
    rank->end_out = err == 0;
    return err;
}

/* Batches before their end: those of the rank that were not yet sent once go first. */
static bool all_sent_once(const struct dc_composer *c, uint32_t rank)
{
    for (const struct dc_open *o = c->first; o; o = o->next)
        if (o->rank == rank && o->evaluate == c->evaluate && !o->sent)
            return false;
    return true;
}

static int pump_ends(struct dc_composer *c)
{
    uint32_t acked = 0;

    if (dc_pass_now(c)->held)
        return 0;
    for (uint32_t r = 0; r < c->world; r++) {
        struct dc_rank *rank = &c->rank[r];

        acked += rank->end_acked;
        if (rank->end_acked || rank->end_out || !dc_rank_up(c, r) || !all_sent_once(c, r))
            continue;
        int err = send_end(c, rank);
        if (err)
            return err;
    }
    if (acked == c->world)
        c->stage = DC_WAITING;
    return 0;
}

/* ---- NothingYet ---- */

static void on_nothing(void *arg, int err, const struct rt_frame *reply)
{
    struct dc_rank *rank = arg;
    struct dc_composer *c = rank->composer;

    (void)reply;
    rank->nothing_out = false;
    if (c->destroying || c->failed)
        return;
    if (try_later(err)) {
        rank->nothing_told = false;
        dc_pause(c);
    } else if (err) {
        dc_fail(c, rt_fail_prefix(err, "NothingYet at %s: ", rt_peer_name(rank->peer)));
    } else {
        dc_pump(c); /* it may hold for longer by now */
    }
}

/* Is there something to tell the rank? */
static bool wants_nothing(struct dc_composer *c, uint32_t r, struct wire_nothing_yet *out)
{
    struct dc_pass *pass = dc_pass_now(c);
    bool in_turns = dc_in_turns(c) && (c->job->global.exact || !dc_batcher_mixed(pass->batcher));

    if (c->rank[r].open[false] > 0 || c->rank[r].nothing_out || !dc_rank_up(c, r))
        return false;
    *out = (struct wire_nothing_yet){
        .phase = c->phase, .composer = c->conf.identity.index, .composers = c->conf.size};
    if (in_turns)
        out->has_until = pass->held ? dc_batcher_closed(pass->batcher, &out->until)
                                    : dc_batcher_latest(pass->batcher, &out->until);
    if (in_turns && !out->has_until)
        return false;
    return !c->rank[r].nothing_told || out->has_until != c->rank[r].nothing.has_until ||
           out->until != c->rank[r].nothing.until;
}

static int send_nothing(struct dc_composer *c, struct dc_rank *rank,
                        const struct wire_nothing_yet *message)
{
    if (c->job->global.exact && !dc_pass_now(c)->held)
        return RT_FAIL(RT_ENOMEM,
                       "exact: the payload buffers do not hold data.window %u batches "
                       "for each trainer; make data.window or data.batch_size smaller",
                       c->job->data.window);
    int err = wire_nothing_yet_pack(message, &c->out);
    if (err)
        return err;
    struct rt_outgoing out = {.message = c->out.data, .message_size = c->out.size};
    err = rt_rpc_call(rank->peer, WIRE_NOTHING_YET, &out, DC_END_DEADLINE_NS, on_nothing, rank);
    rank->nothing_out = rank->nothing_told = err == 0;
    rank->nothing = *message;
    return err;
}

/* Only in a training pass: evaluation batches are scored without the other ranks. */
static int pump_nothing(struct dc_composer *c)
{
    struct wire_nothing_yet message;

    if (c->world < 2 || c->evaluate || (!dc_pass_now(c)->held && !c->pool_full))
        return 0;
    for (uint32_t r = 0; r < c->world; r++) {
        if (!wants_nothing(c, r, &message))
            continue;
        int err = send_nothing(c, &c->rank[r], &message);
        if (err)
            return err;
    }
    return 0;
}

int dc_end_pump(struct dc_composer *composer)
{
    if (composer->stage == DC_ENDING)
        return pump_ends(composer);
    return composer->stage == DC_PASS ? pump_nothing(composer) : 0;
}
