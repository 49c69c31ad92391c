/* trainer/form.c -- how ranks become a group, at the start and whenever one of them came back without state.
 *
 * Every rank calls rank 0 with JoinGroup {highest group epoch it knows, step of its weights, its phase and
 * ledger}; when all have, rank 0 answers {new group epoch, the most advanced rank, merged ledger}. Nobody goes
 * on with fewer than all. A rank whose weights are older fetches those of the most advanced (fetch.c; never the other
 * way round: what was committed somewhere stays committed), and what that step owes is pushed: a batch whose
 * gradients are still here at once, one that died with its rank after it was run again with dense
 * weight zero (step.c), for which the list of what is owed has the step, its samples and its place.
 *
 * What a rank says counts when the group forms with it, and what the group knows counts at a rank when the weights are
 * there: till then neither is in its ledger or its phase. A rank may be lost with weights that nobody else has, and those
 * who had only heard of them would take batches for stepped that are in no weights, and wait in an epoch that has to
 * be made again. So a rank that was never in the group is told no phase and no end of an epoch either.
 *
 * Ledgers are merged, not replaced: each rank may have heard of a batch finished that the others have not,
 * and all that any of them says did happen. In mode `async` weights differ between ranks anyway: only a rank
 * that has none yet fetches, and the first thing that the new group does is an average. */
#include "trainer/group.h"

#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "trainer/state.h"

#include <inttypes.h>
#include <string.h>

#define INCARNATION_MAX                                                                            \
    ((uint64_t)1 << (63 - TR_ATTEMPT_BITS)) /* the year 2248, and room for the epoch */

struct ask {
    struct tr_group *group;
    uint64_t serial;
};

/* ---- state that every rank tells: phase and ledger ---- */

static struct wire_await_phase_reply own_phase(const struct tr_trainer *trainer)
{
    return (struct wire_await_phase_reply){.phase = trainer->phase,
                                           .kind = trainer->kind,
                                           .epoch = trainer->epoch,
                                           .pass = trainer->pass,
                                           .epoch_over = !trainer->epoch_open};
}

/* The phase, with that ledger and our statistics. */
static int pack_state(struct tr_trainer *trainer, struct wire_await_phase_reply state,
                      const struct rt_ledger *of)
{
    struct wire_split_ledger *ledger = NULL;
    rt_arena_reset(trainer->scratch);
    int err = rt_ledger_export(of, trainer->scratch, &ledger, &state.n_ledger);
    state.ledger = ledger;
    state.n_statistics = trainer->n_statistics;
    state.statistics = trainer->statistics;
    return err ? err : wire_await_phase_reply_pack(&state, &trainer->group->last);
}

/* Add what a rank told, or we know ourselves, to what all know. */
static int add_state(struct tr_trainer *trainer, const uint8_t *data, size_t size,
                     struct wire_await_phase_reply *all, struct rt_ledger *ledger)
{
    struct wire_await_phase_reply state;
    rt_arena_reset(trainer->scratch);
    int err = wire_await_phase_reply_unpack(data, size, trainer->scratch, &state);
    if (!err)
        err = rt_ledger_merge(ledger, state.ledger, state.n_ledger);
    if (!err)
        err = tr_phase_take_statistics(trainer, state.statistics, state.n_statistics);
    if (!err && state.phase > all->phase) {
        all->phase = state.phase;
        all->kind = state.kind;
        all->epoch = state.epoch;
        all->pass = state.pass;
        all->epoch_over = state.epoch_over;
    }
    return err;
}

/* What all ranks know, as one. It becomes ours as it becomes theirs: by the reply. */
static int pack_all(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    struct wire_await_phase_reply all = own_phase(trainer);
    struct rt_ledger *ledger = NULL;
    int err = rt_ledger_create(RT_BATCH_WINDOW, &ledger);
    if (!err)
        err = pack_state(trainer, all, trainer->ledger);
    if (!err)
        err = add_state(trainer, group->last.data, group->last.size, &all, ledger);
    for (uint32_t r = 1; r < group->world && !err; r++)
        err = add_state(trainer, group->seat[r].state, group->seat[r].state_size, &all, ledger);
    if (!err)
        err = pack_state(trainer, all, ledger);
    rt_ledger_destroy(ledger);
    return err;
}

/* Of rank 0 for all. The scratch arena is the caller's. */
int tr_form_take(struct tr_trainer *trainer, const uint8_t *data, size_t size)
{
    struct wire_await_phase_reply state;
    int err = wire_await_phase_reply_unpack(data, size, trainer->scratch, &state);
    if (!err)
        err = rt_ledger_merge(trainer->ledger, state.ledger, state.n_ledger);
    return err ? err : tr_phase_adopt(trainer, &state);
}

/* ---- the group is there ---- */

void tr_form_done(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    group->state = TR_FORMED;
    group->was_formed = true;
    tr_back_together(trainer);
    tr_group_forget_finished(group);
    rt_log(RT_LOG_INFO, "group_formed epoch=%" PRIu64 " ranks=%u step=%" PRIu64, group->epoch,
           group->world, trainer->step);
    tr_feed_rejoin(trainer);
    tr_phase_check(trainer);
}

/* In `async` every rank's weights are its own, and as good as the others'. */
static bool is_behind(const struct tr_group *group)
{
    uint64_t step = group->trainer->step;
    bool async = group->trainer->job->global.mode == RT_MODE_ASYNC;
    if (group->trainer->imports != group->leader_imports)
        return group->trainer->imports < group->leader_imports;
    return step < group->leader_step && (!async || step == 0);
}

/* Owners go by the order of these (embedding_server/gather.h), which grow with the group epoch. Where all ranks were lost
 * at once nobody knows a group epoch any more, and they begin anew: so rank 0's incarnation, which has grown, counts
 * more. It is in milliseconds, and no group forms a million times in one. */
static uint64_t number_of_attempts(const struct tr_group *group)
{
    return tr_least_attempt(group->incarnation[0]) + group->epoch;
}

static int check_group(const struct tr_group *group, const struct wire_join_group_reply *reply)
{
    if (reply->n_ranks != group->world || reply->rank >= group->world ||
        reply->group_epoch <= group->epoch || reply->group_epoch > UINT32_MAX)
        return RT_FAIL(RT_EPROTO,
                       "JoinGroup reply: %u ranks, leader %u, group epoch %" PRIu64
                       "; expected %u ranks and an epoch above %" PRIu64 " in 32 bits",
                       reply->n_ranks, reply->rank, reply->group_epoch, group->world, group->epoch);
    if (reply->incarnation[0] > INCARNATION_MAX)
        return RT_FAIL(RT_EPROTO,
                       "JoinGroup reply: incarnation %" PRIu64
                       " of trainer/0, expected milliseconds since 1970, at most %" PRIu64,
                       reply->incarnation[0], INCARNATION_MAX);
    return 0;
}

static uint8_t *copy_of(const uint8_t *data, size_t size)
{
    uint8_t *copy = rt_try_malloc(size + 1);
    if (copy && size > 0)
        memcpy(copy, data, size);
    return copy;
}

int tr_form_check_formed(const struct tr_group *group, const char *what)
{
    if (!group || group->state == TR_FORMED)
        return 0;
    return RT_FAIL(RT_ENOTREADY, "%s: the group forms again", what);
}

int tr_form_check_known(const struct tr_group *group, const char *what)
{
    if (!group || group->was_formed)
        return 0;
    return RT_FAIL(RT_ENOTREADY, "%s: this rank was started anew, and the group has not formed",
                   what);
}

static int take_group(struct tr_group *group, const struct wire_join_group_reply *reply)
{
    struct tr_trainer *trainer = group->trainer;
    int err = check_group(group, reply);
    if (err)
        return err;
    group->epoch = reply->group_epoch;
    tr_set(&trainer->metric.group_epoch, group->epoch);
    group->epoch_known = reply->group_epoch;
    group->round = 1;
    group->serial++;
    group->must_average = trainer->job->global.mode == RT_MODE_ASYNC;
    tr_agree_forget(trainer);
    memcpy(group->incarnation, reply->incarnation, group->world * sizeof *group->incarnation);
    group->attempt = number_of_attempts(group);
    for (uint32_t r = 0; r < group->world; r++)
        group->seat[r].joined = false;
    rt_rpc_set_epochs(trainer->rpc, (uint32_t)group->epoch, 0);
    trainer->collective->ops->form(trainer->collective, group->epoch);
    group->leader = reply->rank;
    group->leader_step = reply->step;
    group->leader_imports = reply->imports;
    trainer->imports_due = reply->imports_due;
    if (!is_behind(group)) {
        err = tr_form_take(trainer, reply->state, reply->state_size);
        if (!err)
            tr_form_done(group);
        return err;
    }
    group->heard = copy_of(reply->state, reply->state_size);
    if (!group->heard)
        return RT_FAIL(RT_ENOMEM, "no memory for the group's ledger of %zu bytes",
                       reply->state_size);
    group->heard_size = reply->state_size;
    group->state = TR_FETCHING;
    group->sent = false;
    group->n_fetched = 0;
    tr_fetch_pump(group);
    return 0;
}

/* ---- rank 0 ---- */

static bool all_joined(struct tr_group *group)
{
    for (uint32_t r = 0; r < group->world; r++) {
        struct tr_seat *seat = &group->seat[r];
        if (seat->join_call && !rt_call_alive(seat->join_call)) { /* it comes again */
            rt_call_fail(seat->join_call, RT_EPEER, "gone");
            seat->join_call = NULL;
            seat->joined = false;
        }
        if (!seat->joined)
            return false;
    }
    return true;
}

uint64_t tr_form_digest(const struct tr_trainer *trainer)
{
    size_t count;
    const float *state = tr_optimizer_state(trainer->optimizer, &count);
    uint64_t digest =
        rt_hash_bytes_seed(tr_model_params(trainer->model),
                           tr_model_count(trainer->model) * sizeof(float), trainer->steps_before);
    return state ? rt_hash_bytes_seed(state, count * sizeof(float), digest) : digest;
}

/* 0: it was in a group, and its weights may be an average by now, or have made steps. */
static uint64_t digest_to_tell(const struct tr_group *group)
{
    return group->was_formed ? 0 : group->begins_with;
}

/* Ranks that begin with other weights would train on with them, and only the end would tell. */
static int check_starts(const struct tr_group *group, uint32_t leader)
{
    const struct tr_seat *first = &group->seat[leader];
    for (uint32_t r = 0; r < group->world; r++) {
        const struct tr_seat *seat = &group->seat[r];
        if (tr_seat_is_as_far(seat, first) && first->digest && seat->digest &&
            seat->digest != first->digest)
            return RT_FAIL(RT_EUSAGE,
                           "trainer/%u begins with other dense weights or optimizer state than "
                           "trainer/%u: digests %016" PRIx64 " and %016" PRIx64
                           ", expected one --init-from for all",
                           r, leader, seat->digest, first->digest);
    }
    return 0;
}

/* How many steps weights have made goes with them: rates, draws and Adam's corrections are of that number. */
static int check_ages(const struct tr_group *group, uint32_t leader)
{
    const struct tr_seat *first = &group->seat[leader];
    for (uint32_t r = 0; r < group->world; r++) {
        const struct tr_seat *seat = &group->seat[r];
        if (tr_seat_is_as_far(seat, first) && seat->steps_before != first->steps_before)
            return RT_FAIL(RT_EUSAGE,
                           "trainer/%u begins with weights that have made %" PRIu64
                           " steps, those of trainer/%u have made %" PRIu64
                           ": expected one --init-from for all",
                           r, seat->steps_before, leader, first->steps_before);
    }
    return 0;
}

/* Has another rank been in a group in its life? */
static bool has_lived_on(const struct tr_group *group)
{
    bool has = false;
    for (uint32_t r = 1; r < group->world; r++)
        has = has || group->seat[r].digest == 0;
    return has;
}

static int pack_group(struct tr_group *group, struct wire_join_group_reply *reply)
{
    for (uint32_t r = 0; r < group->world; r++) {
        const struct tr_seat *seat = &group->seat[r];
        bool more = seat->imports > reply->imports ||
                    (seat->imports == reply->imports && seat->step > reply->step);
        if (r == 0 || more) {
            reply->rank = r;
            reply->step = seat->step;
            reply->imports = seat->imports;
        }
        if (seat->group_epoch > group->epoch_known)
            group->epoch_known = seat->group_epoch;
    }
    int err = tr_import_check_seats(group, reply->imports);
    if (!err)
        err = check_starts(group, reply->rank);
    if (!err)
        err = check_ages(group, reply->rank);
    if (err)
        return err;
    uint64_t due = tr_import_due(group->trainer);
    reply->imports_due = due > reply->imports ? due : reply->imports;
    reply->group_epoch = group->epoch_known + 1;
    reply->n_ranks = group->world;
    reply->incarnation = group->incarnation;
    err = pack_all(group);
    reply->state = group->last.data;
    reply->state_size = group->last.size;
    return err ? err : wire_join_group_reply_pack(reply, &group->formed);
}

static void try_form(struct tr_group *group)
{
    struct wire_join_group_reply reply = {0};
    if (!all_joined(group) || !tr_back_may_form(group))
        return;
    int err = pack_group(group, &reply);
    if (err) {
        tr_fail(group->trainer, err);
        return;
    }
    if (!group->was_formed && has_lived_on(group))
        tr_restore_forget_counts(group->trainer);
    /* Ours first: whoever hears of the new epoch may use it at once. */
    struct rt_outgoing out = {.message = group->formed.data, .message_size = group->formed.size};
    rt_rpc_set_epochs(group->trainer->rpc, (uint32_t)reply.group_epoch, 0);
    for (uint32_t r = 1; r < group->world; r++) {
        if (group->seat[r].join_call)
            rt_call_reply(group->seat[r].join_call, &out);
        group->seat[r].join_call = NULL;
    }
    rt_arena_reset(group->trainer->scratch);
    err = take_group(group, &reply);
    if (err)
        tr_fail(group->trainer, err);
}

static int keep_state(struct tr_trainer *trainer, struct tr_seat *seat,
                      const struct wire_join_group *join)
{
    struct wire_await_phase_reply state;
    int err =
        wire_await_phase_reply_unpack(join->state, join->state_size, trainer->scratch, &state);
    uint8_t *copy = err ? NULL : copy_of(join->state, join->state_size);
    if (!err && !copy)
        err = RT_FAIL(RT_ENOMEM, "no memory for a ledger of %zu bytes", join->state_size);
    if (err)
        return err;
    rt_free(seat->state);
    seat->state = copy;
    seat->state_size = join->state_size;
    return 0;
}

/* epoch: that the rank held when it asked. */
static int serve_join(struct tr_group *group, struct rt_call *call,
                      const struct wire_join_group *join, uint64_t epoch)
{
    const struct rt_identity *from = rt_call_from(call);
    if (group->self != 0 || from->index == 0 || from->index >= group->world)
        return RT_FAIL(RT_EPROTO, "JoinGroup of rank %u of %u, at rank %u", from->index,
                       group->world, group->self);
    bool same = group->incarnation[from->index] == from->incarnation;
    if (group->state != TR_JOINING && same && join->group_epoch < group->epoch) {
        rt_call_reply(call, &(struct rt_outgoing){.message = group->formed.data,
                                                  .message_size = group->formed.size});
        return 0; /* it has not heard that the group was formed */
    }
    if (same && epoch < group->seat[from->index].epoch_heard) /* late, from a lost connection */
        return RT_FAIL(RT_ESTALE, "JoinGroup of group epoch %" PRIu64 ", it has been in %" PRIu64,
                       epoch, group->seat[from->index].epoch_heard);
    if (group->state != TR_JOINING)
        tr_group_break(group, same ? "a rank gives up" : "a rank has started again");
    struct tr_seat *seat = &group->seat[from->index];
    int err = keep_state(group->trainer, seat, join);
    if (err)
        return err;
    if (seat->join_call)
        rt_call_fail(seat->join_call, RT_ESTALE, "JoinGroup was sent again");
    seat->join_call = call;
    seat->joined = true;
    seat->step = join->step;
    seat->digest = join->digest;
    seat->steps_before = join->steps_before;
    seat->imports = join->imports;
    seat->imports_due = join->imports_due;
    seat->group_epoch = join->group_epoch;
    seat->epoch_heard = epoch;
    group->incarnation[from->index] = from->incarnation;
    return 0;
}

/* Of rank 0: to form the group again, or to end. */
static void take_invitation(struct tr_group *group, const struct wire_join_group *join)
{
    if (join->differs[0]) {
        tr_agree_hear(group->trainer, join->group_epoch, join->differs);
        return;
    }
    if (join->group_epoch > group->epoch_over)
        group->epoch_over = join->group_epoch;
    if (join->group_epoch >= group->epoch)
        tr_group_break(group, "rank 0 forms the group again");
}

void tr_form_serve_join(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct tr_group *group = trainer->group;
    struct wire_join_group join;
    rt_arena_reset(trainer->scratch);
    int err = wire_join_group_unpack(request->message, request->header.message_size,
                                     trainer->scratch, &join);
    if (!err && join.invite && rt_call_from(call)->index == 0) {
        take_invitation(group, &join);
        rt_call_reply(call, &(struct rt_outgoing){0});
    } else if (!err) {
        err = serve_join(group, call, &join, request->header.group_epoch);
    }
    if (err)
        rt_call_fail(call, err, rt_err_text());
    tr_pump(trainer);
}

static void on_invited(void *arg, int err, const struct rt_frame *reply)
{
    (void)arg, (void)err,
        (void)reply; /* whoever did not hear it asks by itself, or when it is up again */
}

void tr_form_invite(struct tr_group *group, struct rt_peer *peer)
{
    struct wire_join_group invite = {.group_epoch = group->epoch, .invite = true};
    if (!rt_peer_is_up(peer) || wire_join_group_pack(&invite, &group->trainer->out) != 0)
        return;
    struct rt_outgoing out = {.message = group->trainer->out.data,
                              .message_size = group->trainer->out.size};
    (void)rt_rpc_call(peer, WIRE_JOIN_GROUP, &out, 0, on_invited, NULL);
}

/* ---- joining ---- */

static void on_joined(void *arg, int err, const struct rt_frame *frame)
{
    struct ask *ask = arg;
    struct tr_group *group = ask->group;
    struct tr_trainer *trainer = group->trainer;
    bool latest = ask->serial == group->serial;
    struct wire_join_group_reply reply;
    rt_free(ask);
    if (trainer->closing || !latest || group->state != TR_JOINING)
        return;
    if (err) {
        group->sent = false;
        if (err != RT_EPEER && err != RT_ECANCELED && err != RT_EDEADLINE && err != RT_ESTALE)
            tr_fail(trainer, err);
        return;
    }
    rt_arena_reset(trainer->scratch);
    err = wire_join_group_reply_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                       &reply);
    if (!err)
        err = take_group(group, &reply);
    if (err)
        tr_fail(trainer, err);
    else if (group->epoch_over >= group->epoch) /* the invitation went past this reply */
        tr_group_break(group, "rank 0 forms the group again");
    tr_pump(trainer);
}

static int send_join(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    int err = pack_state(trainer, own_phase(trainer), trainer->ledger);
    if (err)
        return err;
    struct wire_join_group join = {.group_epoch = group->epoch_known,
                                   .step = trainer->step,
                                   .digest = digest_to_tell(group),
                                   .steps_before = trainer->steps_before,
                                   .imports = trainer->imports,
                                   .imports_due = tr_import_due(trainer),
                                   .state = group->last.data,
                                   .state_size = group->last.size};
    err = wire_join_group_pack(&join, &trainer->out);
    if (err)
        return err;
    struct ask *ask = rt_xmalloc(sizeof *ask);
    *ask = (struct ask){group, ++group->serial};
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    err = rt_rpc_call(tr_rank(trainer, 0), WIRE_JOIN_GROUP, &out, 0, on_joined, ask);
    if (err)
        rt_free(ask);
    return err;
}

/* Our step must be known: not while one is being computed. */
void tr_form_pump(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    if (tr_back_is_on(trainer))
        return;
    if (group->state == TR_FETCHING) {
        tr_fetch_pump(group);
        return;
    }
    if (trainer->step_open || trainer->agree.differs)
        return;
    if (group->self != 0) {
        if (!group->sent && rt_peer_is_up(tr_rank(trainer, 0)))
            group->sent = send_join(group) == 0;
        return;
    }
    struct tr_seat *seat = &group->seat[0];
    seat->joined = true;
    seat->step = trainer->step;
    seat->imports = trainer->imports;
    seat->imports_due = tr_import_due(trainer);
    seat->digest = digest_to_tell(group);
    seat->steps_before = trainer->steps_before;
    seat->group_epoch = group->epoch;
    group->incarnation[0] = trainer->conf.self.incarnation;
    try_form(group);
}
