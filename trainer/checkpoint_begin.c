/* trainer/checkpoint_begin.c -- when a checkpoint is begun: by time, by steps, by an operator's word, as the last of a process, or of an
 * embedding server.
 *
 * One that is due by itself and cannot begin is due later. An operator's waits, says for what, and fails with that when
 * TR_CHECKPOINT_ASKED_NS have passed. The last one waits TR_CHECKPOINT_LAST_NS at most, but not for an owner that is away: who is
 * to stop has no time for that. One that was begun and failed is tried again, each second, as long as there is time to write it
 * (TR_CHECKPOINT_TRIES_NS); then an owner that went away meanwhile is waited for. Where there is none in the end, the log says why. */
#include "trainer/checkpoint.h"
#include "trainer/state.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/wire/member.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define WAIT_NS  (200 * RT_MS) /* between two looks whether one that is wanted can begin */
#define AGAIN_NS RT_S /* between one that failed and the next, of those that cannot be due later */

static uint64_t now_ns(const struct tr_trainer *trainer)
{
    return rt_io_now(trainer->io);
}

static bool has_own_weights(const struct tr_trainer *trainer)
{
    return trainer->conf.world > 1 && trainer->job->global.mode == RT_MODE_ASYNC;
}

/* ---- when ---- */

/* Steps or an import since the latest one. */
static bool has_news(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    return trainer->step != checkpoint->last_step || trainer->imports != checkpoint->last_imports;
}

/* The latest failed just now. */
static bool rests(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    return checkpoint->voided_in_row > 0 && !checkpoint->refused &&
           now_ns(trainer) - checkpoint->tried_ns < AGAIN_NS;
}

static bool is_due(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct rt_checkpoint_conf *conf = &trainer->job->global.checkpoint;
    if (checkpoint->asked || checkpoint->refused)
        return true;
    if (!has_news(trainer))
        return false;
    if (tr_owners_leave(trainer) && !rests(trainer))
        return true;
    bool by_time = conf->every_s && now_ns(trainer) - checkpoint->tried_ns >= conf->every_s * RT_S;
    return by_time ||
           (conf->every_steps && trainer->step >= checkpoint->tried_step + conf->every_steps);
}

/* There is training to be saved; it does nothing for a job that is done, or that only evaluates. */
static bool trains(const struct tr_trainer *trainer)
{
    return trainer->job->data.epochs > 0 && trainer->kind != WIRE_PHASE_DONE;
}

/* The group has to be there, and every owner: what could not be cut is not begun. Else `waits` says for what. */
static bool can_begin(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    char *waits = checkpoint->waits;
    size_t size = sizeof checkpoint->waits;
    waits[0] = '\0';
    if (trainer->kind == WIRE_PHASE_STATISTICS)
        snprintf(waits, size, "the statistics of the data");
    else if (tr_import_holds(&trainer->import))
        snprintf(waits, size, "the end of an import");
    else if (tr_back_is_on(trainer))
        snprintf(waits, size, "the roles, which go back to a checkpoint");
    else if (trainer->group && trainer->group->state != TR_FORMED)
        snprintf(waits, size, "the trainers, which form a group");
    else
        (void)tr_owners_up(trainer, waits, size);
    return waits[0] == '\0';
}

/* Where one was given up at this step, an owner may be removing its file still. */
static void name_it(const struct tr_trainer *trainer, char name[64])
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    int n = snprintf(name, 64, "step-%09" PRIu64, trainer->step);
    if (checkpoint->n_before > 0 && strncmp(checkpoint->before[0].name, name, (size_t)n) == 0)
        snprintf(name + n, 64 - (size_t)n, "-%" PRIu64, checkpoint->voided);
}

static void begin(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct tr_checkpoint_told *now = &checkpoint->now;
    *now = (struct tr_checkpoint_told){
        .number = checkpoint->asked, .state = TR_CHECKPOINT_WORKS, .step = trainer->step};
    if (checkpoint->asked)
        snprintf(now->name, sizeof now->name, "%s", checkpoint->asked_name);
    else
        name_it(trainer, now->name);
    checkpoint->asked = 0;
    checkpoint->refused = false;
    checkpoint->drain_tried = checkpoint->draining;
    checkpoint->tried_ns = checkpoint->began_ns = now_ns(trainer);
    checkpoint->tried_step = trainer->step;
    snprintf(checkpoint->job.name, sizeof checkpoint->job.name, "%s", now->name);
    tr_checkpoint_open(trainer);
}

/* ---- what is not begun ---- */

/* The operator's. */
static void refuse_asked(struct tr_checkpoint *checkpoint, const char *why)
{
    checkpoint->now =
        (struct tr_checkpoint_told){.number = checkpoint->asked, .state = TR_CHECKPOINT_FAILED};
    snprintf(checkpoint->now.name, sizeof checkpoint->now.name, "%s", checkpoint->asked_name);
    snprintf(checkpoint->now.error, sizeof checkpoint->now.error, "%s", why);
    checkpoint->asked = 0;
    checkpoint->waits[0] = '\0';
    rt_log(RT_LOG_WARN, "checkpoint_refused name=%s reason=\"%s\"", checkpoint->now.name, why);
    tr_checkpoint_keep_outcome(checkpoint);
}

static void log_no_last(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool waits = checkpoint->waits[0] != '\0';
    rt_log(RT_LOG_WARN,
           "no_last_checkpoint step=%" PRIu64 " saved_step=%" PRIu64 " reason=\"%s%s\"",
           trainer->step, checkpoint->last_step, waits ? "it waits for " : "",
           waits ? checkpoint->waits : checkpoint->before[0].error);
}

static void check_asked(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    char why[256];
    if (!trains(trainer)) {
        refuse_asked(checkpoint, "the job was done before it could begin: its model is there to be "
                                 "exported");
    } else if (checkpoint->waits[0] &&
               now_ns(trainer) - checkpoint->asked_ns >= TR_CHECKPOINT_ASKED_NS) {
        snprintf(why, sizeof why, "it could not begin within %d s: it waits for %s",
                 (int)(TR_CHECKPOINT_ASKED_NS / RT_S), checkpoint->waits);
        refuse_asked(checkpoint, why);
    }
}

/* The last one has ended, or there is none to be made, or none can be. */
static void check_drained(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (checkpoint->drained)
        return;
    bool worth = trains(trainer) && (checkpoint->refused || has_news(trainer));
    bool tried = checkpoint->drain_tried, can = worth && can_begin(trainer);
    bool in_time = now_ns(trainer) - checkpoint->draining_ns <
                   (tried ? TR_CHECKPOINT_TRIES_NS : TR_CHECKPOINT_LAST_NS);
    bool waits = worth && in_time && (tried || can || tr_owners_up(trainer, NULL, 0));
    if (can && !(tried && (rests(trainer) || !in_time))) {
        begin(trainer);
        return;
    }
    if (waits)
        return;
    if (worth)
        log_no_last(trainer);
    checkpoint->drained = true;
    if (trainer->conf.drained)
        trainer->conf.drained(trainer->conf.ctx);
}

/* Whoever was told that it may go has gone. */
static bool is_stay_over(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    return checkpoint->stays && !checkpoint->draining && !tr_owners_go(trainer);
}

void tr_checkpoint_look(struct tr_trainer *trainer)
{
    rt_timer_start(trainer->io, &trainer->checkpoint.wait, WAIT_NS);
    tr_pump(trainer);
}

static void on_wait(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool waits = checkpoint->asked > 0 || checkpoint->draining || checkpoint->stays ||
                 tr_owners_leave(trainer);
    if (trainer->closing || !waits)
        return;
    rt_timer_start(trainer->io, &checkpoint->wait, WAIT_NS);
    tr_pump(trainer);
}

/* ---- pump ---- */

static void begin_what_is_due(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (checkpoint->draining) {
        check_drained(trainer);
        return;
    }
    if (trainer->agree.differs) /* all of it ends */
        return;
    if (is_due(trainer) && trains(trainer) && can_begin(trainer))
        begin(trainer);
    else if (checkpoint->asked)
        check_asked(trainer);
}

/* Nothing is on its way, and all ranks have the same weights (agree.h). */
static bool may_cut(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!tr_hold_is_still(trainer) || tr_owners_hold(trainer)) /* one may lack what is finished */
        return false;
    if (checkpoint->quiet_ns == 0)
        checkpoint->quiet_ns = now_ns(trainer);
    return tr_agree_may_cut(trainer, checkpoint->quiet_ns);
}

void tr_checkpoint_pump(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!trainer->conf.checkpoint_dir || trainer->conf.self.index != 0 || trainer->closing)
        return;
    bool before =
        checkpoint->state == TR_CHECKPOINT_HOLDING || checkpoint->state == TR_CHECKPOINT_CUTTING;
    if (before && trainer->group && trainer->group->state != TR_FORMED)
        tr_checkpoint_give_up(trainer, "the group of the trainers forms again");
    else if (checkpoint->state == TR_CHECKPOINT_HOLDING && may_cut(trainer))
        tr_checkpoint_cut(trainer);
    else if (checkpoint->state == TR_CHECKPOINT_IDLE)
        begin_what_is_due(trainer);
    if (checkpoint->state == TR_CHECKPOINT_IDLE)
        tr_checkpoint_let_leave(trainer);
    if (checkpoint->state == TR_CHECKPOINT_IDLE && is_stay_over(trainer)) {
        checkpoint->stays = false;
        tr_phase_check(trainer);
        tr_pump(trainer);
    }
}

/* ---- the operator ---- */

static bool is_known(const struct tr_checkpoint *checkpoint, uint64_t number)
{
    bool known = checkpoint->asked == number ||
                 (checkpoint->state != TR_CHECKPOINT_IDLE && checkpoint->now.number == number);
    for (uint32_t i = 0; i < checkpoint->n_before && !known; i++)
        known = checkpoint->before[i].number == number;
    return known;
}

int tr_trainer_checkpoint(struct tr_trainer *trainer, const struct wire_control_request *request)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (trainer->conf.self.index != 0)
        return RT_FAIL(RT_EUSAGE, "a checkpoint is made by trainer/0");
    if (has_own_weights(trainer))
        return RT_FAIL(RT_EUSAGE, "no checkpoint in mode `async` with several trainers: each has "
                                  "weights of its own");
    if (!trainer->conf.checkpoint_dir)
        return RT_FAIL(RT_EUSAGE,
                       "this job has no folder for checkpoints: give --checkpoint-dir or "
                       "SAFFRON_CHECKPOINT_DIR to all of its processes");
    if (!(request->number >= 1 && request->number < 0x1p53))
        return RT_FAIL(RT_EUSAGE,
                       "the number of a checkpoint: expected a whole one from 1 on, got %g",
                       request->number);
    if (!wire_is_token(request->text))
        return RT_FAIL(RT_EUSAGE, "the name of a checkpoint: expected 1 to 63 of A-Z a-z 0-9 _ -");
    if (is_known(checkpoint, (uint64_t)request->number))
        return 0;
    if (trainer->kind == WIRE_PHASE_DONE)
        return RT_FAIL(RT_EUSAGE, "the job is done: its model is there to be exported");
    if (checkpoint->asked || (checkpoint->state != TR_CHECKPOINT_IDLE && checkpoint->now.number))
        return RT_FAIL(RT_EFULL, "checkpoint '%s' is being made already",
                       checkpoint->asked ? checkpoint->asked_name : checkpoint->now.name);
    checkpoint->asked = (uint64_t)request->number;
    checkpoint->asked_ns = now_ns(trainer);
    snprintf(checkpoint->asked_name, sizeof checkpoint->asked_name, "%s", request->text);
    tr_checkpoint_look(trainer);
    return 0;
}

/* ---- the end of the process ---- */

bool tr_trainer_drain(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool works = checkpoint->state != TR_CHECKPOINT_IDLE;
    bool worth = trains(trainer) && has_news(trainer);
    if (!trainer->conf.checkpoint_dir || trainer->conf.self.index != 0)
        return false;
    if (trainer->kind == WIRE_PHASE_DONE && !trainer->told && has_news(trainer)) {
        snprintf(checkpoint->waits, sizeof checkpoint->waits,
                 "embedding servers that are to hear that all is trained");
        log_no_last(trainer);
    }
    if (!works && !worth)
        return false;
    if (!works && !can_begin(trainer) && !tr_owners_up(trainer, NULL, 0)) {
        log_no_last(trainer);
        return false;
    }
    checkpoint->draining = true;
    checkpoint->drain_tried = works;
    checkpoint->draining_ns = now_ns(trainer);
    tr_checkpoint_look(trainer);
    return true;
}

bool tr_trainer_is_needed(struct tr_trainer *trainer)
{
    const struct rt_peer *first = tr_rank(trainer, 0);
    return trainer->conf.checkpoint_dir && trains(trainer) && first && rt_peer_is_up(first);
}

const struct tr_checkpoint *tr_trainer_checkpoints(const struct tr_trainer *trainer)
{
    return &trainer->checkpoint;
}

void tr_checkpoint_begin_init(struct tr_trainer *trainer)
{
    trainer->checkpoint.wait = (struct rt_timer){.fire = on_wait, .arg = trainer};
    if (!trainer->conf.checkpoint_dir || !has_own_weights(trainer))
        return;
    trainer->conf.checkpoint_dir = NULL;
    if (trainer->conf.self.index == 0)
        rt_log(RT_LOG_WARN, "no_checkpoints reason=\"mode async with several trainers: each has "
                            "weights of its own\"");
}
