/* trainer/owners.c -- see owners.h. */
#include "trainer/state.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/shard.h"
#include "runtime/wire/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define RANGES_LOGGED 8u
#define TICK_NS       RT_MS
#define SKIP_NS       (200 * RT_MS)
#define PAUSE_NS      (2000 * RT_MS)
#define STEPS_NS      (1000 * RT_MS)

/* ---- who they are ---- */

static void make(struct tr_trainer *trainer, uint32_t servers, uint32_t workers)
{
    struct tr_owners *owners = &trainer->owners;
    owners->servers = servers;
    owners->workers = workers;
    owners->n = servers * workers;
    owners->at = rt_xcalloc(owners->n, sizeof *owners->at);
    for (uint32_t k = 0; k < owners->n; k++)
        owners->at[k] = (struct tr_owner){
            .trainer = trainer,
            .number = k,
            .peer = rt_rpc_peer(trainer->rpc, RT_ROLE_EMBEDDING_SERVER, k / workers, k % workers)};
}

void tr_trainer_on_server(struct tr_trainer *trainer, uint32_t index, uint32_t replicas,
                          const char *const *address, uint32_t n, uint64_t incarnation)
{
    struct tr_owners *owners = &trainer->owners;
    bool wanted = trainer->conf.checkpoint_dir || trainer->job->global.mode == RT_MODE_FULL;
    if (!wanted || trainer->conf.self.index != 0)
        return;
    bool fits =
        replicas > 0 && index < replicas && n > 0 && (uint64_t)replicas * n <= RT_OWNERS_MAX;
    if (!fits || (owners->n > 0 && (owners->servers != replicas || owners->workers != n))) {
        rt_log(RT_LOG_WARN,
               "hello_ignored role=embedding_server index=%u replicas=%u loops=%u expected=%u",
               index, replicas, n, owners->servers);
        return;
    }
    if (owners->n == 0)
        make(trainer, replicas, n);
    for (uint32_t w = 0; w < n; w++)
        rt_peer_set_address(owners->at[index * n + w].peer, address[w], incarnation);
}

/* Its hello is said again and again. */
void tr_trainer_on_server_leaving(struct tr_trainer *trainer, uint32_t index, uint64_t incarnation)
{
    struct tr_owners *owners = &trainer->owners;
    if (!trainer->conf.checkpoint_dir || index >= owners->servers)
        return;
    struct tr_owner *owner = &owners->at[index * owners->workers];
    if (owner->leaving >= incarnation)
        return;
    for (uint32_t w = 0; w < owners->workers; w++)
        owner[w].leaving = incarnation;
    owners->leaving_ns = rt_io_now(trainer->io);
    rt_log(RT_LOG_INFO, "server_leaves index=%u step=%" PRIu64, index, trainer->step);
    tr_checkpoint_look(trainer);
}

bool tr_owner_leaves(const struct tr_owner *owner)
{
    return owner->leaving > 0 && rt_peer_is_up(owner->peer) &&
           rt_peer_incarnation(owner->peer) == owner->leaving;
}

static bool in_time_to_leave(const struct tr_trainer *trainer)
{
    return rt_io_now(trainer->io) - trainer->owners.leaving_ns < TR_OWNERS_LEAVE_NS;
}

bool tr_owners_leave(const struct tr_trainer *trainer)
{
    const struct tr_owners *owners = &trainer->owners;
    bool leave = false;
    for (uint32_t k = 0; k < owners->n; k++)
        leave = leave || tr_owner_leaves(&owners->at[k]);
    return leave && in_time_to_leave(trainer);
}

bool tr_owners_go(const struct tr_trainer *trainer)
{
    const struct tr_owners *owners = &trainer->owners;
    bool go = false;
    for (uint32_t k = 0; k < owners->n; k++)
        go = go ||
             (tr_owner_leaves(&owners->at[k]) && owners->at[k].let_go == owners->at[k].leaving);
    return go && in_time_to_leave(trainer);
}

bool tr_owners_up(const struct tr_trainer *trainer, char *waiting, size_t size)
{
    const struct tr_owners *owners = &trainer->owners;
    for (uint32_t k = 0; k < owners->n; k++) {
        if (rt_peer_is_up(owners->at[k].peer))
            continue;
        if (waiting)
            snprintf(waiting, size, "a connection to %s", rt_peer_name(owners->at[k].peer));
        return false;
    }
    if (owners->n == 0 && waiting)
        snprintf(waiting, size, "a hello of embedding_server/0");
    return owners->n > 0;
}

/* ---- what they have lost ---- */

/* A few ranges in words: the first sequence of a split, and how many. */
static void log_loss(const struct tr_owner *owner, const struct wire_tell_ledger_reply *reply)
{
    struct rt_strbuf text;
    rt_strbuf_init(&text);
    for (uint32_t i = 0; i < reply->n_ranges && i < RANGES_LOGGED; i++)
        rt_strbuf_addf(&text, "%s%u:%" PRIu64 "+%u", i ? " " : "", rt_batch_split(reply->first[i]),
                       rt_batch_sequence(reply->first[i]), reply->count[i]);
    rt_log(RT_LOG_WARN,
           "updates_lost owner=%s batches=%" PRIu64
           " ranges=%u first=\"%s\" reason=\"it was started "
           "anew, and its checkpoint is older\"",
           rt_peer_name(owner->peer), reply->lost, reply->n_ranges, text.text ? text.text : "");
    rt_strbuf_release(&text);
}

/* ---- are they of our line? ---- */

/* It is there, and has been told. */
static bool is_settled(const struct tr_owner *owner)
{
    return rt_peer_is_up(owner->peer) && !owner->due && !owner->telling &&
           owner->incarnation == rt_peer_incarnation(owner->peer);
}

bool tr_owners_agree(const struct tr_trainer *trainer)
{
    const struct tr_owners *owners = &trainer->owners;
    bool agree = owners->n > 0;
    for (uint32_t k = 0; k < owners->n; k++)
        agree = agree && is_settled(&owners->at[k]);
    return agree;
}

/* Steps are made with the same bits again only if nothing of them is there yet: all are to have just what is finished. And where a job has
 * just begun from a checkpoint, trainers can still go to the one that an owner had to take. */
static bool compares(const struct tr_trainer *trainer)
{
    const struct tr_back *back = &trainer->back;
    return trainer->job->global.exact ||
           (back->base && trainer->step == back->base_step && !trainer->owners.compared);
}

bool tr_owners_awaited(const struct tr_trainer *trainer)
{
    bool leads = trainer->conf.self.index == 0;
    return leads && !trainer->job->global.exact && compares(trainer) && !tr_owners_agree(trainer);
}

static void differs(struct tr_trainer *trainer, struct tr_owner *owner,
                    const struct wire_tell_ledger_reply *reply)
{
    char why[160];
    if (reply->lost > 0)
        snprintf(why, sizeof why, "%s lacks %" PRIu64 " batches that trainers have",
                 rt_peer_name(owner->peer), reply->lost);
    else if (reply->ahead)
        snprintf(why, sizeof why, "%s has batches that trainers have not",
                 rt_peer_name(owner->peer));
    else
        snprintf(why, sizeof why, "of %s and trainers only one has the model that was imported",
                 rt_peer_name(owner->peer));
    owner->due = true;
    tr_back_begin(trainer, reply->step, why);
}

/* ---- TellLedger ---- */

static void agreed(struct tr_trainer *trainer)
{
    struct tr_owners *owners = &trainer->owners;
    if (!tr_owners_agree(trainer))
        return;
    owners->agreed = owners->compared = true;
    if (!trainer->group)
        tr_back_together(trainer);
}

static void on_told(void *arg, int err, const struct rt_frame *frame)
{
    struct tr_owner *owner = arg;
    struct tr_trainer *trainer = owner->trainer;
    struct wire_tell_ledger_reply reply;
    if (trainer->closing)
        return;
    bool whole = !owner->asked;
    owner->telling = owner->asked = false;
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_tell_ledger_reply_unpack(frame->message, frame->header.message_size,
                                            trainer->scratch, &reply);
    if (!whole) { /* it is told again, or all of it */
        return;
    } else if (tr_feed_lost(err) || err == RT_ENOTREADY) { /* when it is up again */
        owner->due = true;
    } else if (err) {
        tr_fail(trainer, rt_fail_prefix(err, "TellLedger at %s: ", rt_peer_name(owner->peer)));
    } else if (reply.differs) {
        differs(trainer, owner, &reply);
        return;
    } else if (trainer->job->global.exact && (reply.lost > 0 || reply.ahead)) {
        tr_fail(trainer, RT_FAIL(RT_EUSAGE,
                                 "TellLedger at %s: it does not know `check`: in mode `exact` it "
                                 "is to be of the same version of Saffron as trainer/0",
                                 rt_peer_name(owner->peer)));
    } else if (reply.lost > 0) {
        log_loss(owner, &reply);
        trainer->owners.lost += reply.lost;
        tr_set(&trainer->metric.updates_lost, trainer->owners.lost);
    }
    if (!err) {
        owner->strange = false;
        owner->due |= owner->early;
    }
    agreed(trainer);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

int tr_owners_pack_ledger(struct tr_trainer *trainer)
{
    struct wire_split_ledger *ledger = NULL;
    struct wire_await_phase_reply state = {.phase = trainer->phase,
                                           .kind = WIRE_PHASE_TRAIN,
                                           .epoch = trainer->epoch,
                                           .pass = trainer->pass};
    rt_arena_reset(trainer->scratch);
    int err = rt_ledger_export(trainer->ledger, trainer->scratch, &ledger, &state.n_ledger);
    state.ledger = ledger;
    return err ? err : wire_await_phase_reply_pack(&state, &trainer->owners.out);
}

/* Since the checkpoint that we went on from: then rows of it are not what goes with our weights. */
static bool has_imported(const struct tr_trainer *trainer)
{
    return trainer->imports != trainer->back.base_imports ||
           (!trainer->import.failed && trainer->import.stage == WIRE_IMPORT_LOAD);
}

static int tell(struct tr_trainer *trainer, struct tr_owner *owner)
{
    struct tr_owners *owners = &trainer->owners;
    int err = tr_owners_pack_ledger(trainer);
    const struct wire_tell_ledger message = {.ledger = owners->out.data,
                                             .ledger_size = owners->out.size,
                                             .step = owner->early ? 0 : trainer->step,
                                             .attempt =
                                                 tr_least_attempt(trainer->conf.self.incarnation),
                                             .check = compares(trainer),
                                             .imported = has_imported(trainer)};
    if (!err)
        err = wire_tell_ledger_pack(&message, &trainer->out);
    if (err)
        return err;
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    err = rt_rpc_call(owner->peer, WIRE_TELL_LEDGER, &out, 0, on_told, owner);
    owner->telling = err == 0;
    return err;
}

/* The oldest step of which batches are not finished, and which: by their places. A rank whose batch is finished may have told that in
 * the header of a round that waits for the others'. */
static void list_owed(struct tr_group *group, struct wire_tell_ledger *out, bool *is_owed)
{
    uint64_t key, value;
    for (size_t at = 0; rt_map_next(&group->owed, &at, &key, &value);) {
        const struct wire_owed *owed = (const struct wire_owed *)(uintptr_t)value;
        bool older = out->step == 0 || owed->step < out->step;
        bool fits = owed->place < group->world && owed->among <= group->world;
        if (!fits || (!older && owed->step != out->step) || tr_group_has_heard(group, key))
            continue;
        if (older)
            memset(is_owed, 0, group->world * sizeof *is_owed);
        is_owed[owed->place] = true;
        out->step = owed->step;
        out->among = owed->among;
        out->attempt = owed->attempt;
    }
}

/* Mode `full`: an owner that came back waits for all batches of a step, and those that are finished are not sent again; until it
 * has applied the others it is not quiet. Which are finished follows from those that are not. Where all are, it hears that
 * the next step is to come: a lookup may wait for the latest one there, and its rank's header, without which it is never quiet, for
 * the lookup. false: there is no such step. */
static bool list_finished(struct tr_trainer *trainer, struct wire_tell_ledger *out)
{
    uint32_t *place = rt_arena_array(trainer->scratch, uint32_t, trainer->conf.world);
    bool *is_owed = rt_arena_array(trainer->scratch, bool, trainer->conf.world);
    *out = (struct wire_tell_ledger){.place = place};
    if (!place || !is_owed)
        return false;
    list_owed(trainer->group, out, is_owed);
    if (out->step == 0 && tr_step_settled(trainer)) {
        out->step = trainer->step + 1;
        return trainer->step > 0;
    }
    for (uint32_t r = 0; r < out->among; r++)
        if (!is_owed[r])
            place[out->n_places++] = r;
    return out->n_places > 0;
}

static bool is_due(const struct tr_owner *owner)
{
    return owner->due && rt_peer_is_up(owner->peer);
}

/* `exact`: nothing else is told to an owner whose rows may be of another line. */
static bool must_compare(const struct tr_trainer *trainer, const struct tr_owner *owner)
{
    return owner->strange && trainer->job->global.exact;
}

static void tell_finished(struct tr_trainer *trainer)
{
    struct tr_owners *owners = &trainer->owners;
    struct wire_tell_ledger message;
    rt_arena_reset(trainer->scratch);
    if (trainer->job->global.mode != RT_MODE_FULL || !trainer->group || tr_back_is_on(trainer) ||
        trainer->group->state != TR_FORMED || !list_finished(trainer, &message) ||
        wire_tell_ledger_pack(&message, &trainer->out) != 0)
        return;
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    for (uint32_t k = 0; k < owners->n; k++) {
        struct tr_owner *owner = &owners->at[k];
        if (is_due(owner) && !owner->telling && !must_compare(trainer, owner))
            owner->telling = owner->asked =
                rt_rpc_call(owner->peer, WIRE_TELL_LEDGER, &out, 0, on_told, owner) == 0;
    }
}

static bool is_wanted(const struct tr_owners *owners)
{
    for (uint32_t k = 0; k < owners->n; k++)
        if (owners->at[k].telling || is_due(&owners->at[k]))
            return true;
    return false;
}

bool tr_owners_hold(const struct tr_trainer *trainer)
{
    const struct tr_owners *owners = &trainer->owners;
    bool steps = rt_io_now(trainer->io) < owners->steps_ns;
    for (uint32_t k = 0; k < owners->n; k++)
        if (owners->at[k].telling || (is_due(&owners->at[k]) && !steps))
            return true;
    return false;
}

/* A pause does not last for ever: owners.h. */
static void take_turns(struct tr_trainer *trainer)
{
    struct tr_owners *owners = &trainer->owners;
    uint64_t now = rt_io_now(trainer->io);
    if (!tr_owners_hold(trainer)) {
        owners->paused_ns = 0;
    } else if (owners->paused_ns == 0) {
        owners->paused_ns = now;
    } else if (now - owners->paused_ns >= PAUSE_NS) {
        owners->steps_ns = now + STEPS_NS;
        owners->paused_ns = 0;
    }
}

static void on_tick(void *arg)
{
    struct tr_trainer *trainer = arg;
    take_turns(trainer);
    if (!is_wanted(&trainer->owners))
        return;
    rt_timer_start(trainer->io, &trainer->owners.timer, TICK_NS);
    uint64_t now = rt_io_now(trainer->io);
    if (now - trainer->owners.skipped_ns >= SKIP_NS) {
        trainer->owners.skipped_ns = now;
        tell_finished(trainer);
    }
    tr_hold_ask_news(trainer);
    tr_pump(trainer);
}

/* Not before the group has formed: another rank may know of more. In phases without steps all is finished that was stepped. */
static bool is_time(struct tr_trainer *trainer)
{
    if (trainer->job->global.exact && !tr_back_may_work(trainer)) /* nothing is under way yet */
        return true;
    if (trainer->group && trainer->group->state != TR_FORMED)
        return false;
    return trainer->kind != WIRE_PHASE_TRAIN || tr_hold_is_quiet(trainer);
}

/* In `exact` one that came back is compared at once, for it serves nobody before; and again when it is quiet, for another may have acked what
 * the one before it had acked too, and it has not. */
void tr_owners_pump(struct tr_trainer *trainer)
{
    struct tr_owners *owners = &trainer->owners;
    if (trainer->closing || tr_back_is_on(trainer))
        return;
    bool time = is_time(trainer);
    for (uint32_t k = 0; k < owners->n; k++) {
        struct tr_owner *owner = &owners->at[k];
        bool may = time || must_compare(trainer, owner);
        if (!is_due(owner) || owner->telling || !may)
            continue;
        owner->early = !time;
        int err = tell(trainer, owner);
        owner->due = err != 0;
        if (err && !tr_feed_lost(err))
            tr_fail(trainer, err);
    }
}

/* ---- the end of the job ---- */

static void warn_not_told(const struct tr_owners *owners)
{
    for (uint32_t k = 0; k < owners->n; k++)
        if (!is_settled(&owners->at[k]))
            rt_log(
                RT_LOG_WARN,
                "loss_not_known owner=%s seconds=%d reason=\"the job is done, and it has not come "
                "back to say what it has lost\"",
                rt_peer_name(owners->at[k].peer), (int)(TR_OWNERS_LAST_NS / RT_S));
}

bool tr_owners_are_last(const struct tr_trainer *trainer)
{
    return trainer->owners.last_ns > 0 && !trainer->owners.last_over && !tr_owners_agree(trainer);
}

/* Where nothing was trained nothing can be lost. */
bool tr_owners_settled(struct tr_trainer *trainer)
{
    struct tr_owners *owners = &trainer->owners;
    uint64_t now = rt_io_now(trainer->io);
    bool concerns = owners->n > 0 && trainer->job->data.epochs > 0 && !trainer->is_over;
    if (!concerns || owners->last_over || tr_owners_agree(trainer))
        return true;
    bool can_tell = !trainer->group || trainer->group->state == TR_FORMED;
    if (owners->last_ns > 0 && !can_tell) /* it is no owner that all wait for */
        owners->last_ns = now;
    if (owners->last_ns == 0) {
        owners->last_ns = now;
        rt_log(RT_LOG_INFO, "done_waits reason=\"an embedding server is away, or has not been told "
                            "what is finished\"");
    }
    if (now - owners->last_ns >= TR_OWNERS_LAST_NS) {
        owners->last_over = true;
        warn_not_told(owners);
        return true;
    }
    tr_phase_again(trainer);
    return false;
}

void tr_owners_look(struct tr_trainer *trainer)
{
    struct tr_owners *owners = &trainer->owners;
    owners->timer = (struct rt_timer){.fire = on_tick, .arg = trainer, .impl = owners->timer.impl};
    rt_timer_start(trainer->io, &owners->timer, TICK_NS);
}

void tr_owners_ask_again(struct tr_trainer *trainer)
{
    for (uint32_t k = 0; k < trainer->owners.n; k++)
        trainer->owners.at[k].due = true;
    tr_owners_look(trainer);
}

void tr_owners_peer_up(struct tr_trainer *trainer, struct rt_peer *peer)
{
    struct tr_owners *owners = &trainer->owners;
    struct tr_owner *owner =
        &owners->at[rt_peer_index(peer) * owners->workers + rt_peer_loop(peer)];
    uint64_t now = rt_peer_incarnation(peer);
    owner->strange |= owner->incarnation != now;
    owner->due |= owner->incarnation != now;
    owner->incarnation = now;
    if (owner->due)
        tr_owners_look(trainer);
    agreed(trainer); /* the last of them may have answered while this one was away */
    tr_checkpoint_owner_up(trainer, owner->number);
}

void tr_owners_release(struct tr_trainer *trainer)
{
    rt_timer_stop(trainer->io, &trainer->owners.timer);
    wire_out_release(&trainer->owners.out);
    rt_free(trainer->owners.at);
}
