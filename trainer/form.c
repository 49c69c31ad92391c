/* trainer/form.c -- how ranks become a group, at the start and whenever one of them came back without state.
 *
 * Every rank calls rank 0 with JoinGroup {highest group epoch it knows, step of its weights, its phase and
 * ledger}; when all have, rank 0 answers {new group epoch, the most advanced rank, merged ledger}. Nobody goes
 * on with fewer than all. A rank whose weights are older fetches those of the most advanced (never the other
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

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "trainer/state.h"

#include <inttypes.h>
#include <string.h>

#define PART_ELEMENTS (2u << 20) /* 8 MiB, but for tests */
#define AGAIN_NS      (5 * 1000000ull)
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
                                           .pass = trainer->pass};
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
static int take_state(struct tr_trainer *trainer, const uint8_t *data, size_t size)
{
    struct wire_await_phase_reply state;
    int err = wire_await_phase_reply_unpack(data, size, trainer->scratch, &state);
    if (!err)
        err = rt_ledger_merge(trainer->ledger, state.ledger, state.n_ledger);
    return err ? err : tr_phase_adopt(trainer, &state);
}

/* ---- the group is there ---- */

static void join_done(struct tr_group *group)
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

static void fetch(struct tr_group *group);

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

void tr_form_forget(struct tr_group *group)
{
    rt_free(group->fetched);
    group->fetched = NULL;
    rt_free(group->fetched_owed);
    group->fetched_owed = NULL;
    group->n_fetched_owed = 0;
    rt_free(group->heard);
    group->heard = NULL;
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
        err = take_state(trainer, reply->state, reply->state_size);
        if (!err)
            join_done(group);
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
    fetch(group);
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
        fetch(group);
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

/* ---- fetching the dense state ---- */

static size_t part_elements(const struct tr_trainer *trainer)
{
    return trainer->conf.state_part ? trainer->conf.state_part : PART_ELEMENTS;
}

static size_t state_elements(struct tr_trainer *trainer, float **state, size_t *n_state)
{
    *state = tr_optimizer_state(trainer->optimizer, n_state);
    return tr_model_count(trainer->model) + *n_state;
}

/* What the steps of the weights that come still owe: it counts with them. */
static int keep_owed(struct tr_group *group, const struct wire_fetch_state_reply *reply)
{
    size_t bytes = reply->n_owed * sizeof *group->fetched_owed;
    rt_free(group->fetched_owed);
    group->fetched_owed = rt_try_malloc(bytes + 1);
    group->n_fetched_owed = group->fetched_owed ? reply->n_owed : 0;
    if (!group->fetched_owed)
        return RT_FAIL(RT_ENOMEM, "no memory for %u batches that are owed", reply->n_owed);
    if (bytes > 0)
        memcpy(group->fetched_owed, reply->owed, bytes);
    return 0;
}

static int take_part(struct tr_group *group, const struct wire_fetch_state_reply *reply,
                     const struct rt_buf *payload)
{
    float *state;
    size_t n_state, elements = state_elements(group->trainer, &state, &n_state);
    size_t most = part_elements(group->trainer), at = (size_t)reply->part * most;
    size_t n = elements - (at < elements ? at : elements);
    n = n < most ? n : most;
    if (reply->elements != elements || at != group->n_fetched ||
        (payload ? payload->size : 0) != n * sizeof(float))
        return RT_FAIL(RT_EPROTO,
                       "FetchState reply: part %u of %zu elements with %zu bytes, expected part "
                       "%zu of %zu elements",
                       reply->part, (size_t)reply->elements, payload ? payload->size : 0,
                       group->n_fetched / most, elements);
    if (!group->fetched)
        group->fetched = rt_try_malloc((elements + 1) * sizeof(float));
    if (!group->fetched)
        return RT_FAIL(RT_ENOMEM, "no memory for a state of %zu elements", elements);
    if (n > 0)
        memcpy(group->fetched + at, payload->data, n * sizeof(float));
    group->n_fetched += n;
    return reply->part == 0 ? keep_owed(group, reply) : 0;
}

/* All parts are here: ours is replaced at once, never half. */
static void adopt(struct tr_group *group, const struct wire_fetch_state_reply *reply)
{
    struct tr_trainer *trainer = group->trainer;
    size_t n = tr_model_count(trainer->model), n_state;
    float *state = tr_optimizer_state(trainer->optimizer, &n_state);
    RT_FAILPOINT("P12.adopts");
    memcpy(tr_model_params(trainer->model), group->fetched, n * sizeof(float));
    if (n_state > 0)
        memcpy(state, group->fetched + n, n_state * sizeof(float));
    tr_optimizer_set_steps(trainer->optimizer, reply->optimizer_steps);
    trainer->step = reply->step;
    trainer->steps_before = reply->steps_before;
    rt_arena_reset(trainer->scratch);
    int err = take_state(trainer, group->heard, group->heard_size);
    for (uint32_t i = 0; i < group->n_fetched_owed; i++)
        tr_group_owe(group, &group->fetched_owed[i]);
    tr_form_forget(group);
    if (trainer->imports != group->leader_imports) { /* what was looked up are rows of before it */
        trainer->imports = group->leader_imports;
        tr_alarm_reset(trainer);
        tr_feed_return(trainer);
    }
    if (err)
        tr_fail(trainer, err);
    else
        join_done(group);
}

static void fetch_again(void *arg)
{
    struct tr_group *group = arg;
    if (group->state != TR_FETCHING)
        return;
    group->sent = false;
    fetch(group);
}

static void on_state(void *arg, int err, const struct rt_frame *frame)
{
    struct ask *ask = arg;
    struct tr_group *group = ask->group;
    struct tr_trainer *trainer = group->trainer;
    bool latest = ask->serial == group->serial;
    struct wire_fetch_state_reply reply;
    rt_free(ask);
    if (trainer->closing || !latest || group->state != TR_FETCHING)
        return;
    if (err == RT_ENOTREADY || err == RT_EFULL) {
        group->again =
            (struct rt_timer){.fire = fetch_again, .arg = group, .impl = group->again.impl};
        rt_timer_start(trainer->io, &group->again, AGAIN_NS);
        return;
    }
    group->sent = false;
    if (err == RT_EPEER || err == RT_ECANCELED || err == RT_EDEADLINE)
        return; /* again when the link is up */
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_fetch_state_reply_unpack(frame->message, frame->header.message_size,
                                            trainer->scratch, &reply);
    if (!err)
        err = take_part(group, &reply, frame->payload);
    if (err)
        tr_group_break(group, rt_err_text());
    else if (reply.part + 1 == reply.parts)
        adopt(group, &reply);
    tr_pump(trainer);
}

static void fetch(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    struct wire_fetch_state request = {
        .group_epoch = group->epoch, .part = (uint32_t)(group->n_fetched / part_elements(trainer))};
    struct rt_peer *peer = tr_rank(trainer, group->leader);
    if (group->sent || !peer || wire_fetch_state_pack(&request, &trainer->out) != 0)
        return;
    struct ask *ask = rt_xmalloc(sizeof *ask);
    *ask = (struct ask){group, ++group->serial};
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    group->sent = rt_rpc_call(peer, WIRE_FETCH_STATE, &out, 0, on_state, ask) == 0;
    if (!group->sent)
        rt_free(ask);
}

/* ---- giving the dense state ---- */

static struct wire_owed *list_owed(struct tr_group *group, uint32_t *n)
{
    struct wire_owed *list =
        rt_arena_array(group->trainer->scratch, struct wire_owed, group->owed.count);
    uint64_t key, value;
    *n = 0;
    for (size_t at = 0; list && rt_map_next(&group->owed, &at, &key, &value);)
        list[(*n)++] = *(struct wire_owed *)(uintptr_t)value;
    return list;
}

/* Elements [at, at + n) of parameters | optimizer state. */
static struct rt_buf *copy_part(struct tr_trainer *trainer, size_t at, size_t n)
{
    struct rt_buf *buf = rt_io_buf(trainer->io, n * sizeof(float));
    size_t n_params = tr_model_count(trainer->model), n_state;
    const float *params = tr_model_params(trainer->model);
    const float *state = tr_optimizer_state(trainer->optimizer, &n_state);
    for (size_t i = 0; buf && i < n; i++)
        ((float *)(void *)buf->data)[i] =
            at + i < n_params ? params[at + i] : state[at + i - n_params];
    if (buf)
        buf->size = n * sizeof(float);
    return buf;
}

/* Nothing can change while somebody fetches: it takes all ranks to make a step. */
static int give_part(struct tr_group *group, struct rt_call *call,
                     const struct wire_fetch_state *request)
{
    struct tr_trainer *trainer = group->trainer;
    float *state;
    size_t n_state, elements = state_elements(trainer, &state, &n_state);
    size_t most = part_elements(trainer), parts = elements / most + 1;
    size_t at = (size_t)request->part * most;
    if (group->state != TR_FORMED || request->group_epoch != group->epoch)
        return RT_FAIL(RT_ENOTREADY, "FetchState of group epoch %" PRIu64 ", here is %" PRIu64,
                       request->group_epoch, group->epoch);
    if (request->part >= parts || parts > WIRE_PARTS_MAX)
        return RT_FAIL(RT_EPROTO, "FetchState: part %u of %zu", request->part, parts);
    struct wire_fetch_state_reply reply = {.step = trainer->step,
                                           .part = request->part,
                                           .parts = (uint32_t)parts,
                                           .elements = elements,
                                           .optimizer_steps =
                                               tr_optimizer_steps(trainer->optimizer),
                                           .steps_before = trainer->steps_before};
    if (request->part == 0) {
        rt_arena_reset(trainer->scratch);
        reply.owed = list_owed(group, &reply.n_owed);
    }
    size_t n = elements - at < most ? elements - at : most;
    struct rt_buf *buf = copy_part(trainer, at, n);
    int err = buf ? wire_fetch_state_reply_pack(&reply, &trainer->out)
                  : RT_FAIL(RT_EFULL, "no payload memory for a part of the state");
    if (!err) {
        struct rt_piece piece = {buf->data, buf->size, buf};
        rt_call_reply(call, &(struct rt_outgoing){.message = trainer->out.data,
                                                  .message_size = trainer->out.size,
                                                  .pieces = &piece,
                                                  .n_pieces = n > 0});
    }
    rt_buf_unref(buf);
    return err;
}

void tr_form_serve_fetch(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct wire_fetch_state fetch_state;
    rt_arena_reset(trainer->scratch);
    int err = wire_fetch_state_unpack(request->message, request->header.message_size,
                                      trainer->scratch, &fetch_state);
    RT_FAILPOINT("P12.lends");
    if (!err)
        err = give_part(trainer->group, call, &fetch_state);
    if (err)
        rt_call_fail(call, err, rt_err_text());
}
