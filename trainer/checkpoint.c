/* trainer/checkpoint.c -- see checkpoint.h. */
#include "trainer/checkpoint.h"
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/wire/checkpoint.h"
#include "runtime/wire/member.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TICK_NS  RT_MS        /* HOLDING: between two looks whether it is quiet */
#define LATER_NS (50 * RT_MS) /* in an evaluation */
#define LOOK_NS  RT_S         /* WRITING: whether something has moved */

enum { CUT_NONE, CUT_ASKED, CUT_ACKED, CUT_AWAITED, CUT_WRITTEN };

struct ask {
    struct tr_trainer *trainer;
    uint64_t attempt;
    uint32_t owner;
};

static uint64_t now_ns(const struct tr_trainer *trainer)
{
    return rt_io_now(trainer->io);
}

bool tr_checkpoint_holds(const struct tr_checkpoint *checkpoint)
{
    return checkpoint->holds;
}

/* ---- the disk thread ---- */

static void run_job(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint_job *job = &trainer->checkpoint.job;
    job->err = job->run(trainer);
    if (job->err) /* the text belongs to this thread */
        snprintf(job->text, sizeof job->text, "%s", rt_err_text());
}

static void start_job(struct tr_trainer *trainer, int (*run)(struct tr_trainer *),
                      void (*done)(void *))
{
    struct tr_checkpoint_job *job = &trainer->checkpoint.job;
    rt_assert(!job->open);
    job->open = true;
    job->run = run;
    job->text[0] = '\0';
    job->work = (struct rt_work){.run = run_job, .done = done, .arg = trainer, .disk = true};
    rt_io_work(trainer->io, &job->work);
}

/* ---- owners ---- */

static int call_owner(struct tr_trainer *trainer, uint32_t owner, uint16_t method, rt_reply_fn done)
{
    struct ask *ask = rt_xmalloc(sizeof *ask);
    *ask = (struct ask){trainer, trainer->checkpoint.now.attempt, owner};
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    int err = rt_rpc_call(trainer->owners.at[owner].peer, method, &out, 0, done, ask);
    if (err)
        rt_free(ask);
    return err;
}

/* Of the attempt and the state that the answer is for? Frees the ask. */
static struct tr_checkpoint *answered(struct ask *ask, enum tr_checkpoint_state state,
                                      uint32_t *owner)
{
    struct tr_trainer *trainer = ask->trainer;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool is_now =
        !trainer->closing && checkpoint->state == state && checkpoint->now.attempt == ask->attempt;
    *owner = ask->owner;
    rt_free(ask);
    return is_now ? checkpoint : NULL;
}

static void on_ended(void *arg, int err, const struct rt_frame *reply)
{
    (void)arg, (void)err, (void)reply; /* who did not hear it refuses to go on from there */
}

/* Those that have heard of it. */
static void end_cuts(struct tr_trainer *trainer, bool keep)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct wire_end_cut message = {checkpoint->now.attempt, keep};
    if (message.attempt == 0) /* it was not begun */
        return;
    if (wire_end_cut_pack(&message, &trainer->out) != 0)
        return;
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    for (uint32_t k = 0; k < trainer->owners.n && checkpoint->cut; k++) {
        if (checkpoint->cut[k] != CUT_NONE && rt_peer_is_up(trainer->owners.at[k].peer))
            (void)rt_rpc_call(trainer->owners.at[k].peer, WIRE_END_CUT, &out, 0, on_ended, NULL);
        checkpoint->cut[k] = CUT_NONE;
    }
}

/* ---- its end ---- */

static void let_go(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!checkpoint->holds)
        return;
    checkpoint->holds = false;
    trainer->wants_news = false;
    uint64_t held = now_ns(trainer) - checkpoint->held_ns;
    checkpoint->now.held_seconds = (double)held * 1e-9;
    rt_histogram_observe(&trainer->metric.checkpoint_hold_seconds, RT_HISTOGRAM_SECONDS, held);
}

static void keep_outcome(struct tr_checkpoint *checkpoint)
{
    memmove(checkpoint->before + 1, checkpoint->before,
            (TR_CHECKPOINT_KEPT - 1) * sizeof checkpoint->before[0]);
    checkpoint->before[0] = checkpoint->now;
    checkpoint->n_before += checkpoint->n_before < TR_CHECKPOINT_KEPT;
}

static void ended(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    checkpoint->job.open = false;
    if (checkpoint->job.err)
        rt_log(RT_LOG_WARN, "checkpoint_not_removed name=%s reason=\"%s\"", checkpoint->job.name,
               checkpoint->job.text);
    keep_outcome(checkpoint);
    checkpoint->state = TR_CHECKPOINT_IDLE;
    tr_pump(trainer);
}

/* The attempt is void. Steps go on; its folder goes when the disk thread is free. */
static void give_up(struct tr_trainer *trainer, const char *why)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct tr_checkpoint_told *now = &checkpoint->now;
    snprintf(now->error, sizeof now->error, "%s", why);
    now->state = TR_CHECKPOINT_FAILED;
    now->seconds = (double)(now_ns(trainer) - checkpoint->began_ns) * 1e-9;
    rt_log(RT_LOG_WARN, "checkpoint_void name=%s step=%" PRIu64 " seconds=%.3f reason=\"%s\"",
           now->name, now->step, now->seconds, now->error);
    checkpoint->is_full = true;
    checkpoint->voided++;
    tr_set(&trainer->metric.checkpoints_void, checkpoint->voided);
    rt_timer_stop(trainer->io, &checkpoint->timer);
    let_go(trainer);
    end_cuts(trainer, false);
    checkpoint->state = TR_CHECKPOINT_ENDING;
    if (!checkpoint->job.open)
        start_job(trainer, tr_checkpoint_remove_void, ended);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

/* A job of the disk thread is done. false: it was given up meanwhile, or now. */
static bool job_done(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    checkpoint->job.open = false;
    if (checkpoint->state == TR_CHECKPOINT_ENDING)
        start_job(trainer, tr_checkpoint_remove_void, ended);
    else if (checkpoint->job.err)
        give_up(trainer, checkpoint->job.text);
    else
        return true;
    return false;
}

/* ---- publishing ---- */

static void published(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct tr_checkpoint_told *now = &checkpoint->now;
    if (!job_done(trainer))
        return;
    checkpoint->last_attempt = now->attempt;
    checkpoint->last_step = now->step;
    snprintf(checkpoint->last_name, sizeof checkpoint->last_name, "%s", now->name);
    checkpoint->since_full = now->base ? checkpoint->since_full + 1 : 0;
    checkpoint->is_full = false;
    checkpoint->published++;
    checkpoint->published_ns = now_ns(trainer);
    now->state = TR_CHECKPOINT_DONE;
    now->seconds = (double)(checkpoint->published_ns - checkpoint->began_ns) * 1e-9;
    tr_set(&trainer->metric.checkpoints, checkpoint->published);
    tr_set(&trainer->metric.checkpoint_bytes, now->bytes);
    tr_set_real(&trainer->metric.checkpoint_time,
                (double)trainer->io->ops->wall_ms(trainer->io) * 1e-3);
    rt_histogram_observe(&trainer->metric.checkpoint_seconds, RT_HISTOGRAM_SECONDS,
                         checkpoint->published_ns - checkpoint->began_ns);
    rt_log(RT_LOG_INFO,
           "checkpoint name=%s step=%" PRIu64 " full=%d rows=%" PRIu64 " bytes=%" PRIu64
           " seconds=%.3f held_ms=%.3f",
           now->name, now->step, now->base == 0, now->rows, now->bytes, now->seconds,
           now->held_seconds * 1e3);
    end_cuts(trainer, true);
    checkpoint->state = TR_CHECKPOINT_ENDING;
    start_job(trainer, tr_checkpoint_remove_old, ended);
}

static void publish(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct rt_manifest *manifest = &checkpoint->snapshot.manifest;
    manifest->name = checkpoint->now.name;
    manifest->attempt = checkpoint->now.attempt;
    manifest->base = checkpoint->now.base;
    manifest->base_name = checkpoint->now.base ? checkpoint->last_name : "";
    for (uint32_t i = 0; i < manifest->n_files; i++)
        checkpoint->now.bytes += manifest->file[i].bytes;
    for (uint32_t t = 0; t < manifest->n_tables; t++)
        checkpoint->now.rows += manifest->table[t].rows;
    rt_timer_stop(trainer->io, &checkpoint->timer);
    checkpoint->state = TR_CHECKPOINT_PUBLISHING;
    start_job(trainer, tr_checkpoint_write_manifest, published);
}

/* ---- writing ---- */

static void check_written(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    checkpoint->moved_ns = now_ns(trainer);
    if (checkpoint->n_written == trainer->owners.n && checkpoint->dense_written)
        publish(trainer);
}

static void dense_written(void *arg)
{
    struct tr_trainer *trainer = arg;
    if (!job_done(trainer))
        return;
    trainer->checkpoint.dense_written = true;
    check_written(trainer);
}

static void on_file(void *arg, int err, const struct rt_frame *frame)
{
    struct ask *ask = arg;
    struct tr_trainer *trainer = ask->trainer;
    struct wire_await_cut_reply reply;
    uint32_t owner;
    struct tr_checkpoint *checkpoint = answered(ask, TR_CHECKPOINT_WRITING, &owner);
    if (!checkpoint)
        return;
    if (err == RT_EPEER || err == RT_ECANCELED || err == RT_EDEADLINE) {
        checkpoint->cut[owner] = CUT_ACKED; /* asked again when the link is up */
        return;
    }
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_await_cut_reply_unpack(frame->message, frame->header.message_size,
                                          trainer->scratch, &reply);
    if (!err && reply.attempt != checkpoint->now.attempt)
        err = RT_FAIL(RT_EPROTO, "AwaitCut reply of attempt %" PRIu64 ", expected %" PRIu64,
                      reply.attempt, checkpoint->now.attempt);
    if (!err)
        err = tr_snapshot_add(trainer, &checkpoint->snapshot, owner, &reply);
    if (err) {
        rt_fail_prefix(err, "%s: ", rt_peer_name(trainer->owners.at[owner].peer));
        give_up(trainer, rt_err_text());
        return;
    }
    checkpoint->cut[owner] = CUT_WRITTEN;
    checkpoint->n_written++;
    check_written(trainer);
}

static void await_file(struct tr_trainer *trainer, uint32_t owner)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct wire_await_cut message = {checkpoint->now.attempt};
    if (checkpoint->cut[owner] != CUT_ACKED || wire_await_cut_pack(&message, &trainer->out) != 0)
        return;
    if (call_owner(trainer, owner, WIRE_AWAIT_CUT, on_file) == 0)
        checkpoint->cut[owner] = CUT_AWAITED;
}

static void all_cut(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!checkpoint->draining)
        let_go(trainer);
    checkpoint->state = TR_CHECKPOINT_WRITING;
    checkpoint->moved_ns = now_ns(trainer);
    rt_timer_start(trainer->io, &checkpoint->timer, LOOK_NS);
    for (uint32_t k = 0; k < trainer->owners.n; k++)
        await_file(trainer, k);
    start_job(trainer, tr_checkpoint_write_dense, dense_written);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

/* ---- cutting ---- */

/* An owner that cannot go on from the one before has no fault: a full one follows. */
static void refused(struct tr_trainer *trainer, uint32_t owner, int err)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool lost = err == RT_EPEER || err == RT_ECANCELED || err == RT_EDEADLINE;
    checkpoint->refused = !lost && checkpoint->now.base > 0;
    rt_fail_prefix(err, "%s: ", rt_peer_name(trainer->owners.at[owner].peer));
    give_up(trainer, rt_err_text());
}

static void on_cut(void *arg, int err, const struct rt_frame *frame)
{
    struct ask *ask = arg;
    struct tr_trainer *trainer = ask->trainer;
    struct wire_cut_reply reply;
    uint32_t owner;
    struct tr_checkpoint *checkpoint = answered(ask, TR_CHECKPOINT_CUTTING, &owner);
    if (!checkpoint)
        return;
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_cut_reply_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                    &reply);
    if (err) {
        refused(trainer, owner, err);
        return;
    }
    checkpoint->cut[owner] = CUT_ACKED;
    if (++checkpoint->n_cut == trainer->owners.n)
        all_cut(trainer);
}

static int cut_all(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    int err = tr_owners_pack_ledger(trainer);
    const struct wire_cut message = {.attempt = checkpoint->now.attempt,
                                     .step = trainer->step,
                                     .name = checkpoint->now.name,
                                     .base = checkpoint->now.base,
                                     .age = tr_age(trainer, trainer->step),
                                     .ledger = trainer->owners.out.data,
                                     .ledger_size = trainer->owners.out.size};
    if (!err)
        err = wire_cut_pack(&message, &trainer->out);
    for (uint32_t k = 0; k < trainer->owners.n && !err; k++) {
        err = call_owner(trainer, k, WIRE_CUT, on_cut);
        checkpoint->cut[k] = err ? CUT_NONE : CUT_ASKED;
        checkpoint->cut_by[k] = rt_peer_incarnation(trainer->owners.at[k].peer);
    }
    return err;
}

/* It is quiet: this is the instant. Owners flip while the dense network is copied. */
static void cut(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    uint32_t owners = trainer->owners.n;
    if (!checkpoint->cut) {
        checkpoint->cut = rt_xcalloc(owners, sizeof *checkpoint->cut);
        checkpoint->cut_by = rt_xcalloc(owners, sizeof *checkpoint->cut_by);
    }
    checkpoint->state = TR_CHECKPOINT_CUTTING;
    checkpoint->n_cut = checkpoint->n_written = 0;
    checkpoint->dense_written = false;
    checkpoint->now.step = trainer->step;
    int err = cut_all(trainer);
    if (!err)
        err = tr_snapshot_take(trainer, owners, &checkpoint->snapshot);
    if (err)
        give_up(trainer, rt_err_text());
    else
        rt_timer_start(trainer->io, &checkpoint->timer,
                       trainer->job->global.checkpoint.cut_timeout_ms * RT_MS);
}

/* ---- time ---- */

static void on_hold_tick(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool trains = trainer->kind == WIRE_PHASE_TRAIN;
    if (!trains) /* an evaluation has begun before it was held */
        checkpoint->held_ns = now_ns(trainer);
    if (trainer->kind == WIRE_PHASE_DONE) {
        give_up(trainer, "training is over");
        return;
    }
    if (now_ns(trainer) - checkpoint->held_ns > TR_CHECKPOINT_HOLD_NS) {
        give_up(trainer, "gradients of steps that were made are not with their owners yet");
        return;
    }
    rt_timer_start(trainer->io, &checkpoint->timer, trains ? TICK_NS : LATER_NS);
    tr_hold_ask_news(trainer);
    tr_pump(trainer);
}

/* Owners whose files are missing can all be asked: each watches its own disk, and says so where it stands still (embedding_server/cut.h). A
 * file of terabytes takes its time. */
static bool owners_write(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    for (uint32_t k = 0; k < trainer->owners.n; k++) {
        bool asked = checkpoint->cut[k] == CUT_AWAITED && rt_peer_is_up(trainer->owners.at[k].peer);
        if (checkpoint->cut[k] != CUT_WRITTEN && !asked)
            return false;
    }
    return checkpoint->n_written < trainer->owners.n;
}

static void on_timer(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (checkpoint->state == TR_CHECKPOINT_WRITING && owners_write(trainer))
        checkpoint->moved_ns = now_ns(trainer);
    if (checkpoint->state == TR_CHECKPOINT_HOLDING)
        on_hold_tick(trainer);
    else if (checkpoint->state == TR_CHECKPOINT_CUTTING)
        give_up(trainer, "an owner has not answered within checkpoint.cut_timeout_ms");
    else if (checkpoint->state != TR_CHECKPOINT_WRITING)
        return;
    else if (now_ns(trainer) - checkpoint->moved_ns > TR_CHECKPOINT_STILL_NS)
        give_up(trainer, "no file has come for ten minutes");
    else
        rt_timer_start(trainer->io, &checkpoint->timer, LOOK_NS);
}

/* ---- the beginning ---- */

static void opened(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!job_done(trainer))
        return;
    struct tr_checkpoint_told *now = &checkpoint->now;
    snprintf(now->name, sizeof now->name, "%s", checkpoint->job.name);
    now->attempt = checkpoint->known_attempt = checkpoint->job.attempt;
    now->base = checkpoint->is_full || now->number > 0 ? 0 : checkpoint->last_attempt;
    if (checkpoint->since_full + 1 >= trainer->job->global.checkpoint.full_every)
        now->base = 0;
    checkpoint->state = TR_CHECKPOINT_HOLDING;
    checkpoint->holds = true;
    checkpoint->held_ns = now_ns(trainer);
    rt_timer_start(trainer->io, &checkpoint->timer, TICK_NS);
    tr_hold_ask_news(trainer);
    tr_pump(trainer);
}

static bool is_due(const struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct rt_checkpoint_conf *conf = &trainer->job->global.checkpoint;
    if (checkpoint->asked || checkpoint->refused)
        return true;
    if (trainer->step == checkpoint->last_step) /* there is nothing new */
        return false;
    bool by_time = conf->every_s && now_ns(trainer) - checkpoint->tried_ns >= conf->every_s * RT_S;
    return by_time ||
           (conf->every_steps && trainer->step >= checkpoint->tried_step + conf->every_steps);
}

/* The group has to be there, and every owner: what could not be cut is not begun. */
static bool can_begin(const struct tr_trainer *trainer)
{
    return trainer->checkpoint.state == TR_CHECKPOINT_IDLE && trainer->kind == WIRE_PHASE_TRAIN &&
           trainer->job->data.epochs > 0 && !tr_import_holds(&trainer->import) &&
           (!trainer->group || trainer->group->state == TR_FORMED) &&
           tr_owners_up(trainer, NULL, 0);
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
    checkpoint->state = TR_CHECKPOINT_OPENING;
    snprintf(checkpoint->job.name, sizeof checkpoint->job.name, "%s", now->name);
    start_job(trainer, tr_checkpoint_open_folder, opened);
}

/* The last one has ended, or none can be made. */
static void check_drained(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool worth =
        checkpoint->refused || (!checkpoint->drain_tried && trainer->step != checkpoint->last_step);
    if (can_begin(trainer) && worth)
        begin(trainer);
    else if (trainer->conf.drained)
        trainer->conf.drained(trainer->conf.ctx);
}

/* The operator's did not come to begin. */
static void refuse_asked(struct tr_checkpoint *checkpoint)
{
    checkpoint->now =
        (struct tr_checkpoint_told){.number = checkpoint->asked, .state = TR_CHECKPOINT_FAILED};
    snprintf(checkpoint->now.name, sizeof checkpoint->now.name, "%s", checkpoint->asked_name);
    snprintf(checkpoint->now.error, sizeof checkpoint->now.error,
             "the job was done before it could begin: its model is there to be exported");
    checkpoint->asked = 0;
    keep_outcome(checkpoint);
}

void tr_checkpoint_pump(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!trainer->conf.checkpoint_dir || trainer->conf.self.index != 0 || trainer->closing)
        return;
    if (checkpoint->asked && checkpoint->state == TR_CHECKPOINT_IDLE &&
        trainer->kind == WIRE_PHASE_DONE)
        refuse_asked(checkpoint);
    bool before =
        checkpoint->state == TR_CHECKPOINT_HOLDING || checkpoint->state == TR_CHECKPOINT_CUTTING;
    if (before && trainer->group && trainer->group->state != TR_FORMED)
        give_up(trainer, "the group of the trainers forms again");
    else if (checkpoint->state == TR_CHECKPOINT_HOLDING && tr_hold_is_quiet(trainer))
        cut(trainer);
    else if (checkpoint->draining && checkpoint->state == TR_CHECKPOINT_IDLE)
        check_drained(trainer);
    else if (can_begin(trainer) && is_due(trainer))
        begin(trainer);
}

/* ---- what happens meanwhile ---- */

void tr_checkpoint_owner_up(struct tr_trainer *trainer, uint32_t owner)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct rt_peer *peer = trainer->owners.at[owner].peer;
    if (checkpoint->state != TR_CHECKPOINT_WRITING)
        return;
    if (rt_peer_incarnation(peer) != checkpoint->cut_by[owner]) {
        (void)RT_FAIL(RT_EPEER, "%s was started anew", rt_peer_name(peer));
        give_up(trainer, rt_err_text());
        return;
    }
    await_file(trainer, owner);
}

/* ---- the operator ---- */

static bool has_own_weights(const struct tr_trainer *trainer)
{
    return trainer->conf.world > 1 && trainer->job->global.mode == RT_MODE_ASYNC;
}

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
    snprintf(checkpoint->asked_name, sizeof checkpoint->asked_name, "%s", request->text);
    tr_pump(trainer);
    return 0;
}

bool tr_trainer_drain(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool works = checkpoint->state != TR_CHECKPOINT_IDLE;
    bool worth = can_begin(trainer) && trainer->step != checkpoint->last_step;
    if (!trainer->conf.checkpoint_dir || trainer->conf.self.index != 0 || !(works || worth))
        return false;
    checkpoint->draining = true;
    tr_pump(trainer);
    return true;
}

const struct tr_checkpoint *tr_trainer_checkpoints(const struct tr_trainer *trainer)
{
    return &trainer->checkpoint;
}

/* ---- life ---- */

void tr_checkpoint_init(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    checkpoint->lock = -1;
    checkpoint->is_full = true;
    checkpoint->tried_ns = now_ns(trainer);
    checkpoint->timer = (struct rt_timer){.fire = on_timer, .arg = trainer};
    if (!trainer->conf.checkpoint_dir || !has_own_weights(trainer))
        return;
    trainer->conf.checkpoint_dir = NULL;
    if (trainer->conf.self.index == 0)
        rt_log(RT_LOG_WARN, "no_checkpoints reason=\"mode async with several trainers: each has "
                            "weights of its own\"");
}

void tr_checkpoint_release(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    rt_timer_stop(trainer->io, &checkpoint->timer);
    tr_checkpoint_leave_folder(trainer);
    tr_snapshot_release(&checkpoint->snapshot);
    rt_free(checkpoint->cut);
    rt_free(checkpoint->cut_by);
}
