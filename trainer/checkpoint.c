/* trainer/checkpoint.c -- see checkpoint.h. */
#include "trainer/checkpoint.h"
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"
#include "runtime/wire/checkpoint.h"
#include "runtime/wire/member.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define TICK_NS RT_MS       /* HOLDING: between two looks whether it is quiet */
#define LOOK_NS RT_S        /* WRITING: whether something has moved */
#define VOID_NS (10 * RT_S) /* between two lines of the log about voids */

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

bool tr_checkpoint_stays(const struct tr_checkpoint *checkpoint)
{
    return checkpoint->stays;
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

/* One that is not known yet to be told to stop does not hear that it may: no step waits for it to go. */
static void end_cut(struct tr_trainer *trainer, struct tr_owner *owner, bool keep)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    bool leaves = tr_owner_leaves(owner);
    bool may = keep && checkpoint->stays && (checkpoint->draining || leaves);
    const struct wire_end_cut message = {checkpoint->now.attempt, keep, may};
    if (!rt_peer_is_up(owner->peer) || wire_end_cut_pack(&message, &trainer->out) != 0)
        return;
    if (may && leaves)
        owner->let_go = owner->leaving;
    struct rt_outgoing out = {.message = trainer->out.data, .message_size = trainer->out.size};
    (void)rt_rpc_call(owner->peer, WIRE_END_CUT, &out, 0, on_ended, NULL);
}

/* Those that have heard of it. */
static void end_cuts(struct tr_trainer *trainer, bool keep)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (checkpoint->now.attempt == 0 || RT_FAILPOINT_FAILS("P11.end")) /* it was not begun */
        return;
    for (uint32_t k = 0; k < trainer->owners.n && checkpoint->cut; k++) {
        if (checkpoint->cut[k] != CUT_NONE)
            end_cut(trainer, &trainer->owners.at[k], keep);
        checkpoint->cut[k] = CUT_NONE;
    }
}

/* One that is told to stop when the stay has begun has lost nothing either: it hears that it may go too. Not one that came after the
 * cut: it does not know the attempt, and has another checkpoint made when steps go on. */
void tr_checkpoint_let_leave(struct tr_trainer *trainer)
{
    const struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (!checkpoint->stays || checkpoint->now.attempt != checkpoint->last_attempt)
        return;
    for (uint32_t k = 0; k < trainer->owners.n; k++) {
        struct tr_owner *owner = &trainer->owners.at[k];
        if (tr_owner_leaves(owner) && owner->let_go != owner->leaving &&
            owner->leaving == checkpoint->cut_by[k])
            end_cut(trainer, owner, true);
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

void tr_checkpoint_keep_outcome(struct tr_checkpoint *checkpoint)
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
    tr_checkpoint_keep_outcome(checkpoint);
    checkpoint->state = TR_CHECKPOINT_IDLE;
    tr_pump(trainer);
}

/* With `checkpoint.every_steps` and a full disk there may be many in a second. */
static void log_void(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct tr_checkpoint_told *now = &checkpoint->now;
    bool last = checkpoint->draining; /* nobody would tell of it later */
    if (!last && checkpoint->voided > 1 && now_ns(trainer) - checkpoint->void_told_ns < VOID_NS) {
        checkpoint->void_untold++;
        return;
    }
    rt_log(RT_LOG_WARN,
           "checkpoint_void name=%s step=%" PRIu64 " seconds=%.3f untold=%" PRIu64 " reason=\"%s\"",
           now->name, now->step, now->seconds, checkpoint->void_untold, now->error);
    checkpoint->void_told_ns = now_ns(trainer);
    checkpoint->void_untold = 0;
}

static void count_void(struct tr_trainer *trainer, const char *why)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct tr_checkpoint_told *now = &checkpoint->now;
    snprintf(now->error, sizeof now->error, "%s", why);
    now->state = TR_CHECKPOINT_FAILED;
    now->seconds = (double)(now_ns(trainer) - checkpoint->began_ns) * 1e-9;
    checkpoint->is_full = true;
    checkpoint->tried_ns = now_ns(trainer); /* a pause in vain is followed by training */
    checkpoint->tried_step = trainer->step;
    checkpoint->voided++;
    log_void(trainer);
    checkpoint->voided_in_row++;
    tr_set(&trainer->metric.checkpoints_void, checkpoint->voided);
    tr_set(&trainer->metric.checkpoints_void_in_row, checkpoint->voided_in_row);
}

/* The attempt is void. Steps go on; its folder goes when the disk thread is free. */
void tr_checkpoint_give_up(struct tr_trainer *trainer, const char *why)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    count_void(trainer, why);
    rt_timer_stop(trainer->io, &checkpoint->timer);
    checkpoint->stays = false;
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
        tr_checkpoint_give_up(trainer, checkpoint->job.text);
    else
        return true;
    return false;
}

/* ---- publishing ---- */

/* The manifest may be there, and nobody knows whether it stays: as if it were void, but that nothing is removed, neither it nor those
 * before it. Owners hear nothing: their files stay, and they want a full one next too. */
static void doubted(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    count_void(trainer, checkpoint->job.text);
    memset(checkpoint->cut, CUT_NONE, trainer->owners.n * sizeof *checkpoint->cut);
    let_go(trainer);
    ended(trainer);
}

static void published(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct tr_checkpoint_told *now = &checkpoint->now;
    if (!job_done(trainer))
        return;
    RT_FAILPOINT("P11.published");
    snprintf(now->name, sizeof now->name, "%s", checkpoint->job.name);
    if (checkpoint->job.doubted) {
        doubted(trainer);
        return;
    }
    checkpoint->last_attempt = now->attempt;
    checkpoint->last_step = now->step;
    snprintf(checkpoint->last_name, sizeof checkpoint->last_name, "%s", now->name);
    checkpoint->last_imports = checkpoint->snapshot.manifest.imports;
    if (now->number ==
        0) /* one that an operator asked for stays, and is none of those that are counted */
        checkpoint->since_full = now->base ? checkpoint->since_full + 1 : 0;
    checkpoint->is_full = false;
    checkpoint->published++;
    checkpoint->published_ns = now_ns(trainer);
    checkpoint->durable_ns = (int64_t)checkpoint->cut_ns;
    checkpoint->voided_in_row = 0;
    tr_count_durable(trainer);
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
           " seconds=%.3f held_ms=%.3f%s",
           now->name, now->step, now->base == 0, now->rows, now->bytes, now->seconds,
           now->held_seconds * 1e3, now->suspect ? " suspect=1" : "");
    end_cuts(trainer, true);
    checkpoint->state = TR_CHECKPOINT_ENDING;
    start_job(trainer, tr_checkpoint_remove_old, ended);
}

/* Some steps may have been made between its beginning and its cut, of which it is. Not where an owner may still be removing the file
 * of an attempt that had this name. */
static void choose_final_name(struct tr_checkpoint *checkpoint)
{
    const struct tr_checkpoint_told *now = &checkpoint->now;
    char *final = checkpoint->job.final;
    int n = snprintf(final, sizeof checkpoint->job.final, "step-%09" PRIu64, now->step);
    bool was_tried =
        checkpoint->n_before > 0 && strncmp(checkpoint->before[0].name, final, (size_t)n) == 0;
    if (now->number > 0 || now->step == checkpoint->tried_step || was_tried)
        snprintf(final, sizeof checkpoint->job.final, "%s", checkpoint->job.name);
}

static void publish(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    struct rt_manifest *manifest = &checkpoint->snapshot.manifest;
    choose_final_name(checkpoint);
    manifest->name = checkpoint->job.name;
    manifest->named = checkpoint->now.number > 0;
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
        tr_checkpoint_give_up(trainer, rt_err_text());
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
    RT_FAILPOINT("P11.all_cut");
    checkpoint->stays = checkpoint->draining || tr_owners_leave(trainer);
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
    tr_checkpoint_give_up(trainer, rt_err_text());
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

/* This is the instant. Owners flip while the dense network is copied. */
void tr_checkpoint_cut(struct tr_trainer *trainer)
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
    checkpoint->now.suspect = tr_alarm_of_any(trainer);
    checkpoint->cut_ns = now_ns(trainer);
    int err = cut_all(trainer);
    RT_FAILPOINT("P11.cut_asked");
    if (!err)
        err = tr_snapshot_take(trainer, owners, &checkpoint->snapshot);
    if (err)
        tr_checkpoint_give_up(trainer, rt_err_text());
    else
        rt_timer_start(trainer->io, &checkpoint->timer,
                       trainer->job->global.checkpoint.cut_timeout_ms * RT_MS);
}

/* ---- time ---- */

static void on_hold_tick(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    if (trainer->kind == WIRE_PHASE_DONE) {
        tr_checkpoint_give_up(trainer, "training is over");
        return;
    }
    if (now_ns(trainer) - checkpoint->held_ns > TR_CHECKPOINT_HOLD_NS) {
        tr_checkpoint_give_up(trainer,
                              "gradients of steps that were made are not with their owners yet");
        return;
    }
    rt_timer_start(trainer->io, &checkpoint->timer, TICK_NS);
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
        tr_checkpoint_give_up(trainer,
                              "an owner has not answered within checkpoint.cut_timeout_ms");
    else if (checkpoint->state != TR_CHECKPOINT_WRITING)
        return;
    else if (now_ns(trainer) - checkpoint->moved_ns > TR_CHECKPOINT_STILL_NS)
        tr_checkpoint_give_up(trainer, "no file has come for ten minutes");
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
    bool full = checkpoint->is_full || now->number > 0 || !checkpoint->job.has_base;
    now->base = full ? 0 : checkpoint->last_attempt;
    if (checkpoint->since_full + 1 >= trainer->job->global.checkpoint.full_every)
        now->base = 0;
    checkpoint->state = TR_CHECKPOINT_HOLDING;
    checkpoint->holds = true;
    checkpoint->held_ns = now_ns(trainer);
    checkpoint->quiet_ns = 0;
    rt_timer_start(trainer->io, &checkpoint->timer, TICK_NS);
    tr_hold_ask_news(trainer);
    tr_pump(trainer);
}

void tr_checkpoint_open(struct tr_trainer *trainer)
{
    trainer->checkpoint.state = TR_CHECKPOINT_OPENING;
    start_job(trainer, tr_checkpoint_open_folder, opened);
}

/* ---- what happens meanwhile ---- */

void tr_checkpoint_stop(struct tr_trainer *trainer)
{
    enum tr_checkpoint_state state = trainer->checkpoint.state;
    if (state >= TR_CHECKPOINT_OPENING && state <= TR_CHECKPOINT_WRITING)
        tr_checkpoint_give_up(trainer, "the job goes back to the one before");
}

void tr_checkpoint_owner_up(struct tr_trainer *trainer, uint32_t owner)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    const struct rt_peer *peer = trainer->owners.at[owner].peer;
    if (checkpoint->state != TR_CHECKPOINT_WRITING)
        return;
    if (rt_peer_incarnation(peer) != checkpoint->cut_by[owner]) {
        (void)RT_FAIL(RT_EPEER, "%s was started anew", rt_peer_name(peer));
        tr_checkpoint_give_up(trainer, rt_err_text());
        return;
    }
    await_file(trainer, owner);
}

/* ---- life ---- */

void tr_checkpoint_init(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    checkpoint->is_full = true;
    checkpoint->tried_ns = now_ns(trainer);
    checkpoint->durable_ns = (int64_t)checkpoint->tried_ns;
    checkpoint->timer = (struct rt_timer){.fire = on_timer, .arg = trainer};
    tr_checkpoint_begin_init(trainer);
}

void tr_checkpoint_release(struct tr_trainer *trainer)
{
    struct tr_checkpoint *checkpoint = &trainer->checkpoint;
    rt_timer_stop(trainer->io, &checkpoint->timer);
    rt_timer_stop(trainer->io, &checkpoint->wait);
    tr_snapshot_release(&checkpoint->snapshot);
    rt_free(checkpoint->cut);
    rt_free(checkpoint->cut_by);
}
