/* trainer/agree.c -- see agree.h. */
#include "trainer/agree.h"
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/log.h"

#include <inttypes.h>
#include <stdio.h>

#define LOOK_NS (20 * 1000000ull)
#define TELL_NS (1000000000ull) /* whoever has not answered by then is told again */

/* Ranks of mode `async` have weights of their own; and with digest_every 0 nobody compares. */
static bool is_one(const struct tr_trainer *trainer)
{
    return trainer->conf.world > 1 && trainer->job->global.mode != RT_MODE_ASYNC &&
           trainer->job->global.guard.digest_every > 0;
}

static bool is_due(const struct tr_trainer *trainer)
{
    uint32_t every = trainer->job->global.guard.digest_every;
    return is_one(trainer) && trainer->step % every == 0;
}

void tr_agree_make_now(void *arg)
{
    struct tr_trainer *trainer = arg;
    trainer->agree.made = tr_trainer_digest(trainer);
}

void tr_agree_made_now(struct tr_trainer *trainer)
{
    trainer->agree.digested = trainer->step + 1;
    trainer->agree.digest = trainer->agree.made;
}

void tr_agree_make(struct tr_trainer *trainer)
{
    if (is_due(trainer))
        tr_agree_make_now(trainer);
}

void tr_agree_made(struct tr_trainer *trainer)
{
    if (is_due(trainer))
        tr_agree_made_now(trainer);
}

bool tr_agree_wants(struct tr_trainer *trainer)
{
    const struct tr_agree *agree = &trainer->agree;
    bool stepping = trainer->step_open && trainer->step_kind == TR_SHARED;
    return is_one(trainer) && agree->digested != trainer->step + 1 && !stepping &&
           (agree->paused || !tr_phase_may_step(trainer));
}

void tr_agree_tell(const struct tr_trainer *trainer, struct wire_step_header *header)
{
    if (!is_one(trainer))
        return;
    header->digested = trainer->agree.digested;
    header->digest = trainer->agree.digest;
}

/* ---- they differ ---- */

/* The rank whose digest more than half of all have; NULL: there is none. */
static const struct wire_step_header *find_majority(const struct wire_step_headers *headers,
                                                    uint32_t *n)
{
    for (uint32_t r = 0; r < headers->n_ranks; r++) {
        *n = 0;
        for (uint32_t k = 0; k < headers->n_ranks; k++)
            *n += headers->header[k].digest == headers->header[r].digest;
        if (*n > headers->n_ranks / 2)
            return &headers->header[r];
    }
    return NULL;
}

/* The first rank that has another digest than `than`. */
static uint32_t find_other(const struct wire_step_headers *headers,
                           const struct wire_step_header *than)
{
    uint32_t r = 0;
    while (headers->header[r].digest == than->digest)
        r++;
    return r;
}

/* RT_EDATA, by name. */
static int complain(const struct wire_step_headers *headers)
{
    uint32_t n = 0;
    const struct wire_step_header *most = find_majority(headers, &n);
    const struct wire_step_header *than = most ? most : &headers->header[0];
    uint32_t other = find_other(headers, than);
    if (most)
        return RT_FAIL(RT_EDATA,
                       "dense weights differ after step %" PRIu64 ": trainer/%u has digest "
                       "%016" PRIx64 ", %u of %u trainers have %016" PRIx64
                       ": memory or a computation has changed some; start all trainers again, they "
                       "go on from the newest checkpoint",
                       most->digested - 1, other, headers->header[other].digest, n,
                       headers->n_ranks, most->digest);
    return RT_FAIL(RT_EDATA,
                   "dense weights differ after step %" PRIu64 ": trainer/%u has digest "
                   "%016" PRIx64 ", trainer/0 has %016" PRIx64
                   ", and no digest is that of most: memory or a computation has changed some; "
                   "start all trainers again, they go on from the newest checkpoint",
                   than->digested - 1, other, headers->header[other].digest, than->digest);
}

/* ---- they differ: who knows ---- */

static void on_told(void *arg, int err, const struct rt_frame *reply)
{
    struct tr_seat *seat = arg;
    (void)reply;
    seat->telling = false;
    if (!err)
        seat->unaware = 0;
}

static void tell(struct tr_trainer *trainer, struct tr_seat *seat, struct rt_peer *peer)
{
    const struct wire_join_group end = {
        .group_epoch = trainer->group->epoch, .invite = true, .differs = trainer->agree.text};
    struct rt_outgoing out;
    if (wire_join_group_pack(&end, &trainer->out) != 0)
        return;
    out = (struct rt_outgoing){.message = trainer->out.data, .message_size = trainer->out.size};
    seat->telling = rt_rpc_call(peer, WIRE_JOIN_GROUP, &out, TELL_NS, on_told, seat) == 0;
}

/* The first rank that may not know; the world: all do. Those that can be reached are told. */
static uint32_t tell_all(struct tr_trainer *trainer)
{
    uint32_t first = trainer->conf.world;
    for (uint32_t r = trainer->conf.world - 1; r > 0; r--) {
        struct tr_seat *seat = &trainer->group->seat[r];
        struct rt_peer *peer = tr_rank(trainer, r);
        if (rt_peer_incarnation(peer) > seat->unaware)
            seat->unaware = 0;
        if (seat->unaware == 0)
            continue;
        first = r;
        if (!seat->telling && rt_peer_is_up(peer))
            tell(trainer, seat, peer);
    }
    return first;
}

/* May rank 0 leave? */
static bool all_know(struct tr_trainer *trainer, bool late)
{
    struct tr_agree *agree = &trainer->agree;
    uint32_t rank = tell_all(trainer);
    if (rank < trainer->conf.world && late && !agree->told) {
        agree->told = true;
        rt_log(RT_LOG_WARN, "weights_differ_untold rank=%u", rank);
    }
    return rank == trainer->conf.world;
}

static void look(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_agree *agree = &trainer->agree;
    bool late = rt_io_now(trainer->io) - agree->differs_ns >= TR_AGREE_LEAVE_NS;
    bool leaves = trainer->conf.self.index == 0 ? all_know(trainer, late) : late || agree->told;
    if (leaves)
        tr_fail(trainer, RT_FAIL(RT_EDATA, "%s", agree->text));
    else
        rt_timer_start(trainer->io, &agree->leaving, LOOK_NS);
}

static void begin_to_end(struct tr_trainer *trainer, const char *text)
{
    struct tr_agree *agree = &trainer->agree;
    rt_log_escape(text, agree->text, sizeof agree->text);
    agree->differs = true;
    agree->differs_ns = rt_io_now(trainer->io);
    agree->leaving = (struct rt_timer){.fire = look, .arg = trainer, .impl = agree->leaving.impl};
    rt_timer_start(trainer->io, &agree->leaving, LOOK_NS);
}

static void end(struct tr_trainer *trainer, const struct wire_step_headers *headers)
{
    struct tr_group *group = trainer->group;
    if (trainer->agree.differs)
        return;
    (void)complain(headers);
    begin_to_end(trainer, rt_err_text());
    if (group->self != 0)
        return;
    rt_log(RT_LOG_ERROR, "weights_differ reason=\"%s\"", trainer->agree.text);
    for (uint32_t r = 1; r < group->world; r++)
        group->seat[r].unaware = group->incarnation[r];
}

/* Who was started anew is in no group, and has none of those weights. */
void tr_agree_hear(struct tr_trainer *trainer, uint64_t group_epoch, const char *text)
{
    if (group_epoch != trainer->group->epoch)
        return;
    if (!trainer->agree.differs)
        begin_to_end(trainer, text);
    trainer->agree.told = true; /* it ends when the answer is on its way */
}

/* ---- rounds ---- */

static void compare(struct tr_trainer *trainer, const struct wire_step_headers *headers)
{
    const struct wire_step_header *first = &headers->header[0];
    bool same = true;
    if (first->digested == 0)
        return;
    for (uint32_t r = 1; r < headers->n_ranks; r++) {
        if (headers->header[r].digested != first->digested) /* a later round has all */
            return;
        same = same && headers->header[r].digest == first->digest;
    }
    if (same)
        trainer->agree.agreed = first->digested;
    else
        end(trainer, headers);
}

void tr_agree_take(struct tr_trainer *trainer, const struct wire_step_headers *headers)
{
    if (!is_one(trainer))
        return;
    trainer->agree.paused = headers->header[0].paused;
    compare(trainer, headers);
    if (tr_checkpoint_holds(&trainer->checkpoint) && !tr_agree_is_known(trainer))
        tr_hold_ask_news(trainer); /* of this pause the others have heard just now */
}

bool tr_agree_is_known(const struct tr_trainer *trainer)
{
    return !is_one(trainer) || trainer->agree.agreed == trainer->step + 1;
}

bool tr_agree_may_cut(const struct tr_trainer *trainer, uint64_t quiet_ns)
{
    return !trainer->agree.differs &&
           (tr_agree_is_known(trainer) || rt_io_now(trainer->io) - quiet_ns >= TR_AGREE_WAIT_NS);
}

void tr_agree_forget(struct tr_trainer *trainer)
{
    struct tr_agree *agree = &trainer->agree;
    agree->digested = agree->agreed = 0;
    agree->paused = false;
}

void tr_agree_release(struct tr_trainer *trainer)
{
    rt_timer_stop(trainer->io, &trainer->agree.leaving);
}
