/* trainer/group.c -- rounds: before a step, every rank learns what every rank brings.
 *
 * A star. Ranks above 0 send their header to rank 0 as one long call; rank 0 answers all of them with all
 * headers when every one is in and there is something to do: a batch to step, batches finished to be told,
 * weights to be averaged. A gather over a tree or a ring would save rank 0 some messages of 100 bytes and
 * cost latency; with a thousand ranks the star is 100 KB a step.
 *
 *   OUT -batch ready-> IN_BATCH -round-> OUT      OUT -nothing to come-> IN_NOTHING -round-> OUT
 *   IN_NOTHING -batch ready-> IN_BATCH            IN_NOTHING -something will come-> WITHDRAWING -reply-> OUT
 *
 * The header of the next round is sent while this one's step is computed, so its way is not waited
 * for. A link that breaks loses calls, not rounds: the header is sent again, and rank 0 keeps the answer of
 * the latest round for who asks again. The ledger's copies move with the headers: what a rank has finished
 * is in its next one (finished.c). A rank that joins with nothing only does so where phase.c says that nothing can come
 * before the others go on: a batch that was sent back to data-compose is waited for, because a step
 * without it would make the group's steps depend on when links broke. */
#include "trainer/group.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "trainer/header.h"
#include "trainer/state.h"

#include <inttypes.h>
#include <string.h>

#define AGAIN_NS (5 * 1000000ull)

struct ask {
    struct tr_group *group;
    uint64_t serial;
};

/* ---- a round is complete ---- */

/* Our batch is not in a header any more: it is the next to be entered. */
static void leave(struct tr_group *group)
{
    if (!group->entered)
        return;
    tr_batch_to(group->entered, TR_READY);
    tr_fifo_unpop(&group->trainer->ready, group->entered);
    group->entered = NULL;
    tr_part_idle(group->trainer);
}

/* What the rank has done by this header. A sum of another epoch is none of this one's. */
static void take_counts(struct tr_group *group, uint32_t rank, const struct wire_step_header *h)
{
    struct wire_rank_counts *counts = &group->counts[rank], *carried = &group->trainer->carried;
    if (group->self == 0 && rank != 0 && h->counts.batches_trained < counts->batches_trained) {
        carried->samples_trained += counts->samples_trained; /* it was started anew */
        carried->samples_dropped += counts->samples_dropped;
        carried->batches_trained += counts->batches_trained;
        carried->batches_dropped += counts->batches_dropped;
    }
    *counts = h->counts;
    if (h->phase != group->trainer->phase) {
        counts->epoch_loss_sum = 0;
        counts->epoch_samples = 0;
    }
}

static void take_round(struct tr_group *group, const struct wire_step_headers *headers)
{
    const struct wire_step_header *own = &headers->header[group->self];
    rt_assert(!group->gathered);
    for (uint32_t r = 0; r < group->world; r++) {
        const struct wire_step_header *h = &headers->header[r];
        group->next.share[r] =
            (struct tr_share){h->has_batch, h->samples, h->batch_id, h->unaveraged};
        if (r != group->self)
            tr_group_take_news(group, h);
        take_counts(group, r, h);
    }
    group->next.learning_rate = headers->header[0].learning_rate;
    group->trainer->imports_due = headers->header[0].imports_due;
    tr_agree_take(group->trainer, headers);
    rt_assert(own->n_finished <= group->n_news);
    group->n_news -= own->n_finished;
    if (group->n_news > 0)
        memmove(group->news, group->news + own->n_finished, group->n_news * sizeof *group->news);
    if (!own->has_batch)
        leave(group);
    group->gathered = true;
    group->round++;
    group->serial++;
    group->standing = TR_OUT;
    group->sent = false;
}

bool tr_group_begin(struct tr_group *group)
{
    if (!group->gathered)
        return false;
    struct tr_round round = group->current;
    group->current = group->next;
    group->next = round;
    group->gathered = false;
    return true;
}

/* ---- rank 0 ---- */

static void leave_seat(struct tr_seat *seat, int err, const char *why)
{
    if (seat->call)
        rt_call_fail(seat->call, err, why);
    seat->call = NULL;
    seat->in = false;
    rt_free((void *)seat->header.finished);
    seat->header.finished = NULL;
}

/* All are in and there is something to do. Where a rank is paused or in another phase, news only: then the
 * batches are left out. */
static bool worth_a_round(struct tr_group *group)
{
    bool together = true, batch = false, news = group->must_average;
    for (uint32_t r = 0; r < group->world; r++) {
        const struct wire_step_header *h = &group->seat[r].header;
        if (!group->seat[r].in)
            return false;
        together = together && !h->paused && h->phase == group->seat[0].header.phase;
        batch = batch || h->has_batch;
        news = news || h->n_finished > 0 || h->unaveraged > 0;
    }
    if (!together && !news)
        news = tr_hold_take_news(group->trainer);
    for (uint32_t r = 0; r < group->world && news && !together; r++) {
        group->seat[r].header.has_batch = false;
        group->seat[r].header.samples = 0;
    }
    return news || (batch && together);
}

static int pack_round(struct tr_group *group, struct wire_step_headers *headers)
{
    struct tr_trainer *trainer = group->trainer;
    rt_arena_reset(trainer->scratch);
    struct wire_step_header *header =
        rt_arena_array(trainer->scratch, struct wire_step_header, group->world);
    if (!header)
        return RT_FAIL(RT_ENOMEM, "no memory for the headers of %u ranks", group->world);
    for (uint32_t r = 0; r < group->world; r++)
        header[r] = group->seat[r].header;
    *headers = (struct wire_step_headers){group->epoch, group->round, group->world, header};
    return wire_step_headers_pack(headers, &group->last);
}

/* true: the round is complete, and all have it. */
static bool try_round(struct tr_group *group)
{
    struct wire_step_headers headers;
    if (group->gathered || !worth_a_round(group))
        return false;
    int err = pack_round(group, &headers);
    if (err) {
        tr_fail(group->trainer, err);
        return false;
    }
    for (uint32_t r = 1; r < group->world; r++) {
        if (group->seat[r].call)
            rt_call_reply(group->seat[r].call,
                          &(struct rt_outgoing){.message = group->last.data,
                                                .message_size = group->last.size});
        group->seat[r].call = NULL;
    }
    take_round(group, &headers);
    for (uint32_t r = 0; r < group->world; r++)
        leave_seat(&group->seat[r], 0, "");
    return true;
}

static void seat_header(struct tr_group *group, uint32_t rank, const struct wire_step_header *h)
{
    struct tr_seat *seat = &group->seat[rank];
    uint64_t *finished = rt_xcalloc(h->n_finished + 1, sizeof *finished);
    if (h->n_finished > 0)
        memcpy(finished, h->finished, h->n_finished * sizeof *finished);
    leave_seat(seat, RT_ESTALE, "the header was sent again");
    seat->header = *h;
    seat->header.finished = finished;
    seat->in = true;
}

static int check_header(const struct tr_group *group, const struct rt_identity *from,
                        const struct wire_step_header *h)
{
    struct tr_header_rules rules = tr_group_rules(group);
    if (group->self != 0 || from->index == 0 || from->index >= group->world)
        return RT_FAIL(RT_EPROTO, "StepHeader of rank %u of %u, at rank %u", from->index,
                       group->world, group->self);
    if (group->state != TR_FORMED || h->group_epoch != group->epoch)
        return RT_FAIL(RT_ENOTREADY, "StepHeader of group epoch %" PRIu64 ", here is %" PRIu64 "%s",
                       h->group_epoch, group->epoch,
                       group->state == TR_FORMED ? "" : ", and it forms again");
    if (h->round != group->round && h->round + 1 != group->round)
        return RT_FAIL(RT_EPROTO, "StepHeader of round %" PRIu64 ", expected %" PRIu64, h->round,
                       group->round);
    return tr_header_check(&rules, from->index, h);
}

static void answer_withdrawn(struct tr_group *group, struct rt_call *call)
{
    struct wire_step_headers none = {.group_epoch = group->epoch, .round = group->round};
    int err = wire_step_headers_pack(&none, &group->trainer->out);
    if (err)
        rt_call_fail(call, err, rt_err_text());
    else
        rt_call_reply(call, &(struct rt_outgoing){.message = group->trainer->out.data,
                                                  .message_size = group->trainer->out.size});
}

void tr_group_serve_header(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct tr_group *group = trainer->group;
    uint32_t rank = rt_call_from(call)->index;
    struct wire_step_header h;
    rt_arena_reset(trainer->scratch);
    int err = wire_step_header_unpack(request->message, request->header.message_size,
                                      trainer->scratch, &h);
    if (!err)
        err = check_header(group, rt_call_from(call), &h);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
    } else if (h.round != group->round) { /* it has not heard: the round is complete */
        rt_call_reply(call, &(struct rt_outgoing){.message = group->last.data,
                                                  .message_size = group->last.size});
    } else if (!h.has_batch && !h.ended) {
        leave_seat(&group->seat[rank], RT_ESTALE, "the header was taken back");
        answer_withdrawn(group, call);
    } else {
        seat_header(group, rank, &h);
        group->seat[rank].epoch_heard = group->epoch;
        group->seat[rank].call = call;
        if (try_round(group))
            tr_pump(trainer);
    }
}

/* ---- our own header ---- */

static int check_round(const struct tr_group *group, const struct wire_step_headers *m)
{
    const struct wire_step_header *own = m->n_ranks > group->self ? &m->header[group->self] : NULL;
    struct tr_header_rules rules = tr_group_rules(group);
    if (m->group_epoch != group->epoch || m->round != group->round)
        return RT_FAIL(RT_EPROTO,
                       "StepHeaders of round %" PRIu64 ".%" PRIu64 ", expected %" PRIu64
                       ".%" PRIu64,
                       m->group_epoch, m->round, group->epoch, group->round);
    if (m->n_ranks == 0 && group->standing == TR_WITHDRAWING)
        return 0;
    if (m->n_ranks != group->world || own->n_finished > group->n_news ||
        (own->has_batch && (!group->entered || own->batch_id != group->entered->id)))
        return RT_FAIL(RT_EPROTO, "StepHeaders of %u ranks do not go with what rank %u sent",
                       m->n_ranks, group->self);
    /* A header that was under way on a lost connection came after the one that took its place: by its count the average
     * would not be one. The others cannot complete it without us. */
    if (own->unaveraged != group->unaveraged)
        return RT_FAIL(RT_EPROTO,
                       "StepHeaders with %" PRIu64 " samples of rank %u to be averaged, it has "
                       "%" PRIu64,
                       own->unaveraged, group->self, group->unaveraged);
    int err = 0;
    for (uint32_t r = 0; r < m->n_ranks && !err; r++)
        err = tr_header_check(&rules, r, &m->header[r]);
    return err;
}

/* Rank 0 is forming still, perhaps it fetches a large state: to form again would only make it begin anew. If it
 * has broken up, it says so (tr_form_invite). */
static void send_again(void *arg)
{
    struct tr_group *group = arg;
    if (group->state != TR_FORMED || group->gathered || group->standing == TR_OUT)
        return;
    group->sent = false;
    tr_pump(group->trainer);
}

static void on_round(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *ask = arg;
    struct tr_group *group = ask->group;
    struct tr_trainer *trainer = group->trainer;
    bool latest = ask->serial == group->serial;
    struct wire_step_headers headers;
    rt_free(ask);
    if (trainer->closing || group->state != TR_FORMED)
        return;
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_step_headers_unpack(reply->message, reply->header.message_size, trainer->scratch,
                                       &headers);
    /* An older header's answer counts too when it brings this round: it was complete before the later came. */
    if (!err && !latest &&
        (headers.n_ranks == 0 || headers.round != group->round ||
         headers.group_epoch != group->epoch || group->gathered))
        return;
    if (!err)
        err = check_round(group, &headers);
    if (err && !latest)
        return;
    if (err == RT_EPEER || err == RT_ECANCELED || err == RT_EDEADLINE || err == RT_EFULL) {
        group->sent = false; /* again when the link is up */
        return;
    }
    if (err == RT_ENOTREADY) {
        group->again =
            (struct rt_timer){.fire = send_again, .arg = group, .impl = group->again.impl};
        rt_timer_start(trainer->io, &group->again, AGAIN_NS);
        return;
    }
    if (err) {
        tr_group_break(group, rt_err_text());
    } else if (headers.n_ranks == 0) {
        group->standing = TR_OUT;
        group->sent = false;
    } else {
        take_round(group, &headers);
    }
    tr_pump(trainer);
}

static int send_mine(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    int err = wire_step_header_pack(&group->mine, &trainer->out);
    if (err)
        return err;
    struct ask *ask = rt_xmalloc(sizeof *ask);
    *ask = (struct ask){group, group->serial};
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    err = rt_rpc_call(tr_rank(trainer, 0), WIRE_STEP_HEADER, &out, 0, on_round, ask);
    if (err)
        rt_free(ask);
    return err;
}

/* Tell rank 0 where we stand. */
static void stand(struct tr_group *group, enum tr_standing standing)
{
    struct tr_trainer *trainer = group->trainer;
    const struct tr_batch *batch = standing == TR_IN_BATCH ? group->entered : NULL;
    group->standing = standing;
    group->serial++;
    group->n_told = tr_group_news_to_tell(group);
    group->mine = (struct wire_step_header){
        .group_epoch = group->epoch,
        .round = group->round,
        .step = trainer->step + 1,
        .has_batch = batch != NULL,
        .batch_id = batch ? batch->id : 0,
        .samples = batch ? batch->head.samples : 0,
        .ended = standing == TR_IN_NOTHING,
        .n_finished = standing == TR_WITHDRAWING ? 0 : (uint32_t)group->n_told,
        .finished = group->news,
        .learning_rate = trainer->learning_factor,
        .phase = trainer->phase,
        .paused = standing == TR_IN_NOTHING && !tr_phase_may_step(trainer),
        .unaveraged = group->unaveraged,
        .imports_due = tr_import_due(trainer),
        .counts = tr_own_counts(trainer),
    };
    tr_agree_tell(trainer, &group->mine);
    if (group->self != 0) {
        group->sent = send_mine(group) == 0;
        return;
    }
    group->sent = true;
    if (standing == TR_WITHDRAWING) {
        leave_seat(&group->seat[0], 0, "");
        group->standing = TR_OUT;
        return;
    }
    seat_header(group, 0, &group->mine);
    try_round(group);
}

/* Does what rank 0 has of us still hold? */
static bool is_news(const struct tr_group *group)
{
    const struct wire_step_header *mine = &group->mine;
    struct tr_trainer *trainer = group->trainer;
    return mine->phase != trainer->phase || mine->paused != !tr_phase_may_step(trainer) ||
           group->n_told < tr_group_news_to_tell(group) || tr_hold_wants_news(trainer) ||
           mine->imports_due != tr_import_due(trainer);
}

static void pump_async(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    /* A header full of news is sent at once: of what a round cannot take there would be more after each, until the
     * other ranks' ledgers are too far behind. */
    bool due = group->must_average || group->local_steps >= trainer->job->global.sync_every ||
               group->n_news >= group->news_max || !tr_phase_may_step(trainer) ||
               tr_phase_has_nothing(trainer);
    if (trainer->step_open) /* its samples will be of this average */
        return;
    if (group->standing == TR_OUT && due)
        stand(group, TR_IN_NOTHING);
    else if (group->standing == TR_OUT)
        return;
    else if (group->standing == TR_IN_NOTHING && !due)
        stand(group, TR_WITHDRAWING); /* a batch has come after all: on with local steps */
    else if (!group->sent || (group->standing == TR_IN_NOTHING && is_news(group)))
        stand(group, group->standing);
}

void tr_group_pump(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    if (group->state != TR_FORMED)
        tr_form_pump(group);
    if (group->state != TR_FORMED || group->gathered)
        return;
    if (trainer->job->global.mode == RT_MODE_ASYNC) {
        pump_async(group);
        return;
    }
    if (tr_agree_wants(trainer)) /* the header takes it along */
        return;
    bool may = tr_phase_may_step(trainer);
    bool nothing = !may || tr_phase_has_nothing(trainer);
    bool can_enter = group->standing == TR_OUT || group->standing == TR_IN_NOTHING;
    if (can_enter && may && !group->entered) {
        group->entered = tr_step_take_ready(trainer, false);
        if (group->entered) {
            tr_batch_to(group->entered, TR_ENTERED);
            tr_part_idle(trainer);
        }
    }
    if (group->entered && group->standing != TR_IN_BATCH)
        stand(group, TR_IN_BATCH);
    else if (group->standing == TR_OUT && nothing)
        stand(group, TR_IN_NOTHING);
    else if (group->standing == TR_IN_NOTHING && !nothing)
        stand(group, TR_WITHDRAWING);
    else if (group->standing == TR_IN_NOTHING && is_news(group))
        stand(group, TR_IN_NOTHING);
    else if (group->standing != TR_OUT && (!group->sent || group->mine.phase != trainer->phase))
        stand(group, group->standing);
}

/* ---- breaking ---- */

void tr_group_reset(struct tr_group *group)
{
    for (uint32_t r = 0; r < group->world; r++)
        leave_seat(&group->seat[r], RT_ENOTREADY, "the group forms again");
    if (group->gathered && group->next.share[group->self].has_batch)
        rt_assert(group->entered);
    leave(group);
    group->gathered = false;
    group->standing = TR_OUT;
    group->sent = false;
    group->serial++;
}

void tr_group_break(struct tr_group *group, const char *why)
{
    struct tr_trainer *trainer = group->trainer;
    if (group->state == TR_JOINING)
        return;
    rt_log(RT_LOG_WARN, "group_breaks epoch=%" PRIu64 " step=%" PRIu64 " reason=\"%s\"",
           group->epoch, trainer->step, why);
    group->state = TR_JOINING;
    tr_group_believe_notes(group);
    tr_group_reset(group);
    tr_fetch_forget(group);
    trainer->collective->ops->abort(trainer->collective);
    for (uint32_t r = 1; r < group->world && group->self == 0; r++)
        tr_form_invite(group, tr_rank(trainer, r));
}

void tr_group_heard(struct tr_group *group, uint32_t rank, uint64_t incarnation)
{
    if (group->state != TR_JOINING && incarnation > group->incarnation[rank])
        tr_group_break(group, "a rank has started again");
}

void tr_group_peer_up(struct tr_group *group, struct rt_peer *peer)
{
    uint32_t rank = rt_peer_index(peer);
    if (rank == (group->self + 1) % group->world) {
        tr_ring_peer_up(group->trainer->collective);
        tr_group_tell_neighbour(group);
    }
    tr_group_heard(group, rank, rt_peer_incarnation(peer));
    if (group->state == TR_JOINING && group->self == 0 && group->epoch > 0)
        tr_form_invite(group, peer);
}

/* ---- life ---- */

int tr_group_create(struct tr_trainer *trainer)
{
    uint32_t world = trainer->conf.world;
    if (world > WIRE_GROUP_MAX)
        return RT_FAIL(RT_EUSAGE, "%u trainers, expected at most %u", world, WIRE_GROUP_MAX);
    struct tr_group *group = rt_xcalloc(1, sizeof *group);
    group->trainer = trainer;
    group->world = world;
    group->self = trainer->conf.self.index;
    group->round = 1;
    group->news_max = tr_header_news_max(world);
    group->begins_with = tr_form_digest(trainer);
    group->seat = rt_xcalloc(world, sizeof *group->seat);
    group->incarnation = rt_xcalloc(world, sizeof *group->incarnation);
    group->counts = rt_xcalloc(world, sizeof *group->counts);
    group->next.share = rt_xcalloc(world, sizeof *group->next.share);
    group->current.share = rt_xcalloc(world, sizeof *group->current.share);
    rt_map_init(&group->owed);
    rt_map_init(&group->noted);
    trainer->group = group;
    return 0;
}

void tr_group_close(struct tr_group *group)
{
    rt_timer_stop(group->trainer->io, &group->again);
    rt_timer_stop(group->trainer->io, &group->tell_again);
    for (uint32_t r = 0; r < group->world; r++) {
        struct tr_seat *seat = &group->seat[r];
        leave_seat(seat, RT_ECANCELED, "trainer is going away");
        if (seat->join_call)
            rt_call_fail(seat->join_call, RT_ECANCELED, "trainer is going away");
        seat->join_call = NULL;
    }
}

void tr_group_destroy(struct tr_group *group)
{
    if (!group)
        return;
    tr_group_forget_owed(group);
    rt_map_release(&group->noted);
    wire_out_release(&group->last);
    wire_out_release(&group->formed);
    for (uint32_t r = 0; r < group->world; r++)
        rt_free(group->seat[r].state);
    tr_fetch_forget(group);
    rt_free(group->next.share);
    rt_free(group->current.share);
    rt_free(group->incarnation);
    rt_free(group->counts);
    rt_free(group->seat);
    rt_free(group->news);
    rt_free(group);
}
