/* trainer/back.c -- see back.h. */
#include "trainer/back.h"
#include "trainer/state.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/store.h"
#include "runtime/wire/checkpoint.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define HEAR_NS  RT_S          /* whoever has not answered by then is found when it is met again */
#define PAUSE_NS (100 * RT_MS) /* in which those who leave do */
#define TRIES    3u            /* to read a folder in which something is renamed meanwhile */

struct ask {
    struct tr_trainer *trainer;
    uint64_t round;
};

static bool is_exact(const struct tr_trainer *trainer)
{
    return trainer->job->global.exact;
}

bool tr_back_is_on(const struct tr_trainer *trainer)
{
    return trainer->back.state != TR_BACK_NONE;
}

/* Has this rank worked with what it began with? */
static bool has_begun(const struct tr_trainer *trainer)
{
    return trainer->group ? trainer->group->was_formed : trainer->owners.agreed;
}

bool tr_back_may_work(const struct tr_trainer *trainer)
{
    return !tr_back_is_on(trainer) && (!is_exact(trainer) || has_begun(trainer));
}

/* ---- leaving, or staying ---- */

/* Has this rank just what that checkpoint has? */
static bool stays(const struct tr_trainer *trainer, uint64_t attempt)
{
    const struct tr_back *back = &trainer->back;
    return is_exact(trainer) && !has_begun(trainer) && back->base == attempt &&
           trainer->imports == back->base_imports;
}

/* Once for each reason: whoever does not hear of it is asked ten times a second. */
static void say_stays(struct tr_back *back)
{
    char clean[2 * WIRE_TEXT_MAX];
    if (strcmp(back->why, back->said) == 0)
        return;
    snprintf(back->said, sizeof back->said, "%s", back->why);
    rt_log_escape(back->why, clean, sizeof clean);
    rt_log(RT_LOG_WARN, "sends_back to=\"%s\" reason=\"%s\"", back->name, clean);
}

static void leave(struct tr_trainer *trainer, const char *why, uint64_t attempt, const char *name)
{
    char clean[2 * WIRE_TEXT_MAX];
    trainer->back.state = TR_BACK_ENDS;
    rt_log_escape(why, clean, sizeof clean);
    rt_log(RT_LOG_WARN, "goes_back step=%" PRIu64 " to=\"%s\" reason=\"%s\"", trainer->step, name,
           clean);
    tr_fail(trainer,
            RT_FAIL(RT_EBACK, "%s; all roles go back to %s%s, and this one is to be started again",
                    clean, attempt ? "the checkpoint " : "the beginning", name));
}

/* ---- trainer/0: who has heard ---- */

static void asked_again(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_back *back = &trainer->back;
    if (back->state != TR_BACK_PAUSING)
        return;
    back->state = TR_BACK_NONE;
    tr_owners_ask_again(trainer);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

static void heard(struct tr_trainer *trainer)
{
    struct tr_back *back = &trainer->back;
    if (!stays(trainer, back->attempt)) {
        leave(trainer, back->why, back->attempt, back->name);
        return;
    }
    say_stays(back);
    back->state = TR_BACK_PAUSING;
    back->timer = (struct rt_timer){.fire = asked_again, .arg = trainer, .impl = back->timer.impl};
    rt_timer_start(trainer->io, &back->timer, PAUSE_NS);
}

static void on_heard(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *ask = arg;
    struct tr_trainer *trainer = ask->trainer;
    bool is_now = !trainer->closing && trainer->back.state == TR_BACK_TELLING &&
                  trainer->back.round == ask->round;
    (void)err, (void)reply; /* who ends by it may not come to answer */
    rt_free(ask);
    if (is_now && --trainer->back.pending == 0)
        heard(trainer);
}

static void tell(struct tr_trainer *trainer, struct rt_peer *peer, uint16_t method)
{
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    if (!rt_peer_is_up(peer))
        return;
    struct ask *ask = rt_xmalloc(sizeof *ask);
    *ask = (struct ask){trainer, trainer->back.round};
    if (rt_rpc_call(peer, method, &out, HEAR_NS, on_heard, ask) == 0)
        trainer->back.pending++;
    else
        rt_free(ask);
}

/* In the modes in which rows may be ahead, owners have nothing to go back for. */
static void tell_all(struct tr_trainer *trainer)
{
    struct tr_back *back = &trainer->back;
    const struct wire_go_back message = {back->attempt, back->name, back->why};
    back->state = TR_BACK_TELLING;
    back->round++;
    back->pending = 0;
    if (wire_go_back_pack(&message, &trainer->out) == 0) {
        for (uint32_t r = 1; r < trainer->conf.world; r++)
            tell(trainer, tr_rank(trainer, r), WIRE_GO_BACK);
        for (uint32_t k = 0; k < trainer->owners.n && is_exact(trainer); k++)
            tell(trainer, trainer->owners.at[k].peer, WIRE_GO_BACK_ROWS);
    }
    if (back->pending == 0)
        heard(trainer);
}

/* ---- trainer/0: where to ---- */

/* The newest that is whole by its manifest: what else is wrong with one, who finds out sets it aside. */
static int find_once(struct tr_trainer *trainer)
{
    struct tr_back *back = &trainer->back;
    const char *dir = trainer->conf.checkpoint_dir;
    struct rt_manifest *manifest = NULL;
    char *newest = NULL;
    if (!dir || (!trainer->conf.restore && rt_store_begun_anew(dir) == 0))
        return 0; /* as whoever is started again would see it */
    int err = rt_store_choose(dir, "latest", trainer->job, &newest);
    if (err == RT_EUSAGE) /* there is none */
        return 0;
    if (!err)
        err = rt_manifest_read(dir, newest, &manifest);
    if (!err) {
        back->attempt = manifest->attempt;
        back->step = manifest->step;
        snprintf(back->name, sizeof back->name, "%s", newest);
    }
    rt_manifest_destroy(manifest);
    rt_free(newest);
    return err;
}

/* One may be set aside by who finds out while we look at it. */
static int find(struct tr_trainer *trainer)
{
    int err = RT_EFILE;
    for (uint32_t tries = 0; err == RT_EFILE && tries < TRIES; tries++)
        err = find_once(trainer);
    return err;
}

static void choose(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_back *back = &trainer->back;
    back->attempt = back->step = 0;
    back->name[0] = '\0';
    back->err = find(trainer);
    bool counts = is_exact(trainer) && !back->counted && trainer->conf.checkpoint_dir;
    back->next = back->known;
    if (!back->err && counts) {
        back->next.number++;
        back->next.went_back++;
        back->next.steps_again += back->reached > back->step ? back->reached - back->step : 0;
        if (rt_generation_write(trainer->conf.checkpoint_dir, &back->next) !=
            0) /* it only counts */
            rt_log(RT_LOG_WARN, "generation_not_kept reason=\"%s\"", rt_err_text());
    }
    if (back->err) /* the text belongs to this thread */
        snprintf(back->text, sizeof back->text, "%s", rt_err_text());
}

static void chosen(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_back *back = &trainer->back;
    if (trainer->closing)
        return;
    if (back->err && is_exact(trainer)) {
        tr_fail(trainer, RT_FAIL(back->err, "%s", back->text));
        return;
    }
    if (back->err)
        rt_log(RT_LOG_WARN, "checkpoints_not_compared reason=\"%s\"", back->text);
    if (!is_exact(trainer) && (back->err || back->attempt >= back->base)) { /* the loss is told */
        back->state = TR_BACK_NONE;
        trainer->owners.compared = true;
        tr_owners_look(trainer);
        tr_pump(trainer);
        return;
    }
    back->known = back->next;
    back->counted = true;
    trainer->generation = back->known.number;
    tr_set(&trainer->metric.generation, trainer->generation);
    tr_set(&trainer->metric.went_back, back->known.went_back);
    tr_set(&trainer->metric.steps_again, back->known.steps_again);
    tell_all(trainer);
}

void tr_back_begin(struct tr_trainer *trainer, uint64_t reached, const char *why)
{
    struct tr_back *back = &trainer->back;
    if (trainer->closing || tr_back_is_on(trainer))
        return;
    back->state = TR_BACK_CHOOSING;
    back->reached = reached > trainer->step ? reached : trainer->step;
    snprintf(back->why, sizeof back->why, "%s%s", is_exact(trainer) ? "`exact`: " : "", why);
    tr_checkpoint_stop(trainer);
    back->work = (struct rt_work){.run = choose, .done = chosen, .arg = trainer, .disk = true};
    rt_io_work(trainer->io, &back->work); /* behind a manifest that is being published */
}

void tr_back_together(struct tr_trainer *trainer)
{
    trainer->back.counted = false;
}

/* ---- are the ranks of one line? ---- */

/* Who was started anew beside ranks that have lived on has lost what its last batches were made of, and would make other gradients of them
 * now; so nobody takes over another's weights. @return that rank, or the world: there is none. A rank that has not heard that the
 * group had formed is as far as the others, at the beginning of training. */
static uint32_t find_lost(const struct tr_group *group)
{
    bool lived = group->was_formed, at_work = lived && group->trainer->kind != WIRE_PHASE_EVALUATE;
    const struct tr_seat *first = &group->seat[0];
    for (uint32_t r = 0; r < group->world; r++) {
        lived = lived || group->seat[r].digest == 0;
        if (group->seat[r].step > first->step)
            first = &group->seat[r];
    }
    for (uint32_t r = 0; r < group->world; r++) {
        const struct tr_seat *seat = &group->seat[r];
        if (seat->digest && !(tr_seat_is_as_far(seat, first) && (at_work || !lived)))
            return r;
    }
    return group->world;
}

bool tr_back_may_form(struct tr_group *group)
{
    struct tr_trainer *trainer = group->trainer;
    uint64_t reached = 0;
    char why[64];
    if (!is_exact(trainer))
        return true;
    uint32_t lost = find_lost(group);
    if (lost == group->world)
        return group->was_formed || tr_owners_agree(trainer);
    for (uint32_t r = 0; r < group->world; r++)
        reached = group->seat[r].step > reached ? group->seat[r].step : reached;
    snprintf(why, sizeof why, "trainer/%u was started anew", lost);
    tr_back_begin(trainer, reached, why);
    return false;
}

/* ---- the other ranks ---- */

void tr_back_serve(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct wire_go_back m;
    rt_arena_reset(trainer->scratch);
    int err =
        wire_go_back_unpack(request->message, request->header.message_size, trainer->scratch, &m);
    if (!err && (rt_call_from(call)->index != 0 || trainer->conf.self.index == 0))
        err = RT_FAIL(RT_EPROTO, "GoBack: from trainer/%u to trainer/%u, expected from 0 only",
                      rt_call_from(call)->index, trainer->conf.self.index);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    if (!stays(trainer, m.attempt) && !tr_back_is_on(trainer))
        leave(trainer, m.why, m.attempt, m.name);
}

/* ---- life ---- */

void tr_back_init(struct tr_trainer *trainer)
{
    struct tr_back *back = &trainer->back;
    if (trainer->conf.checkpoint_dir && trainer->conf.self.index == 0)
        rt_generation_read(trainer->conf.checkpoint_dir, &back->known);
    trainer->generation = back->known.number;
}

void tr_back_release(struct tr_trainer *trainer)
{
    rt_timer_stop(trainer->io, &trainer->back.timer);
}
