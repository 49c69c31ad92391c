/* trainer/step.c -- the dense step: forward, backward, all-reduce, commit (design section 5).
 *
 * One thing is under way at a time (trainer->step_open). The step thread owns model and optimizer while it
 * works (compute.c), but for gradients that it has given to the all-reduce; in between, on the loop thread, they are the all-reduce's:
 *
 *   SHARED  a step of the group: forward and backward of our batch, or zeros without one -compute_done->
 *           all-reduce -reduced-> optimizer -optimized-> commit. Two jobs for the step thread. The all-reduce is opened before
 *           the first, and has what gradients are complete while backward goes on to earlier layers (-settled, told-> ready).
 *   ALONE   the group of one, or a local step of mode `async`: all of it in one job -compute_done-> commit
 *   AGAIN   a batch that the group has stepped and whose gradients died with their rank: dense weight zero,
 *           its sparse gradients are pushed as those of its step
 *   SCORE   a batch of the evaluation
 *   READ    the weights as they are between two of these: their digest is made, they are written to disk, or a model to be
 *           imported is read, on the step thread as well (between.c)
 *   AVERAGE mode `async`: an all-reduce of the weights, each rank's by its samples since the last one
 *
 * Gradients are of the mean loss over the group's samples. A step changes nothing when any rank saw a value
 * that is not finite: every rank hears who did, those drop their batch(nonfinite), and the others make
 * the step again without them, at once: the headers are known. So large that a sum over the ranks, or over the ids of
 * batches, could pass RT_GRADIENT_MAX counts as not finite too (describe.c): then sums need no flag of their own. */
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/trace.h"

#include <inttypes.h>
#include <string.h>

/* The all-reduce's row in a batch's trace: it goes on beside what the step thread does. */
#define TRACE_REDUCE 1

/* ---- what comes of a batch ---- */

/* In the dense weights: push. */
static void commit_own(struct tr_trainer *trainer, struct tr_batch *batch)
{
    int err = rt_ledger_stepped(trainer->ledger, batch->id);
    if (err) {
        tr_fail(trainer, err);
        return;
    }
    trainer->epoch_samples += batch->head.samples;
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        trainer->epoch_loss_sum[h] += batch->loss_sum[h];
        trainer->count.head[h].train_loss = tr_epoch_loss(trainer, h);
    }
    trainer->count.train_loss = trainer->count.head[0].train_loss;
    double loss = batch->loss_sum[0] / batch->head.samples;
    bool first = trainer->count.batches_stepped++ == 0;
    trainer->count.loss = first ? loss : 0.98 * trainer->count.loss + 0.02 * loss;
    tr_set_real(&trainer->metric.loss, loss);
    tr_set_real(&trainer->metric.epoch_loss, trainer->count.train_loss);
    tr_alarm_loss(trainer, batch->step, loss);
    tr_board_batch(trainer, batch);
    rt_log(RT_LOG_DEBUG, "stepped step=%" PRIu64 " batch=%016" PRIx64 " samples=%u loss=%.9g",
           batch->step, batch->id, batch->head.samples, loss);
    tr_push_start(batch);
}

static void drop_nonfinite(struct tr_trainer *trainer, struct tr_batch *batch)
{
    tr_nonfinite_count(trainer);
    tr_push_release(batch, "nonfinite");
    tr_finished(trainer, batch->id);
    tr_count_dropped(batch);
    tr_permit_return(&trainer->permits);
    tr_feed_finish(batch, WIRE_DROPPED, "nonfinite");
}

/* One that was being scored when the evaluation started over is of the one that was given up. */
static void finish_scored(struct tr_trainer *trainer, struct tr_batch *batch)
{
    tr_permit_return(&trainer->lookups);
    if (trainer->scoring == trainer->phase)
        tr_feed_finish(batch, WIRE_EVALUATED, NULL);
    else
        tr_feed_finish(batch, WIRE_RETRY, "the evaluation starts over");
}

static void forget_embeddings(struct tr_batch *batch)
{
    rt_buf_unref(batch->embeddings);
    batch->embeddings = NULL;
}

void tr_step_close(struct tr_trainer *trainer)
{
    trainer->stepping = NULL;
    trainer->step_open = false;
}

bool tr_step_failed(struct tr_trainer *trainer)
{
    if (trainer->step_err)
        tr_fail(trainer, RT_FAIL(trainer->step_err, "step %" PRIu64 ": %s", trainer->step,
                                 trainer->step_text));
    return trainer->step_err != 0;
}

/* The first gradients of this step's sum that are ready, ours, are the collective's from now on. */
static void reduce_begins(struct tr_trainer *trainer)
{
    if (trainer->reducing_ns == 0)
        trainer->reducing_ns = rt_io_now(trainer->io);
}

/* By the step thread: gradients from `from` on are complete. */
static void told(void *arg, uint64_t from)
{
    struct tr_trainer *trainer = arg;
    reduce_begins(trainer);
    trainer->collective->ops->ready(trainer->collective, from);
}

void tr_step_work(struct tr_trainer *trainer, void (*run)(void *), void (*done)(void *))
{
    trainer->work = (struct rt_work){.run = run, .done = done, .told = told, .arg = trainer};
    rt_io_work(trainer->io, &trainer->work);
}

/* ---- a step of the group ---- */

static void start_shared(struct tr_trainer *trainer);

/* The group has broken: the step has changed nothing here. Ours is READY again, its gradients are kept: if it
 * turns out that others have committed the step, they are pushed (run_again). */
static void undo_shared(struct tr_trainer *trainer)
{
    struct tr_batch *batch = trainer->stepping;
    trainer->step--;
    tr_step_close(trainer);
    tr_part_idle(trainer);
    if (batch) {
        tr_batch_to(batch, TR_READY);
        tr_fifo_unpop(&trainer->ready, batch);
    }
    tr_pump(trainer);
}

static void commit_shared(struct tr_trainer *trainer)
{
    struct tr_group *group = trainer->group;
    struct wire_owed owed = {.step = trainer->step,
                             .attempt = group->attempt,
                             .samples = trainer->global_samples,
                             .learning_rate = trainer->step_factor};
    for (uint32_t r = 0; r < group->world; r++)
        owed.among += group->current.share[r].has_batch;
    for (uint32_t r = 0; r < group->world; r++) {
        if (!group->current.share[r].has_batch)
            continue;
        owed.batch_id = group->current.share[r].batch_id;
        int err = rt_ledger_stepped(trainer->ledger, owed.batch_id);
        if (err)
            tr_fail(trainer, err);
        tr_group_owe(group, &owed);
        owed.place++;
    }
}

static void optimized(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_batch *batch = trainer->stepping;
    if (tr_step_failed(trainer))
        return;
    tr_part(trainer, TR_PART_COMMIT);
    tr_agree_made(trainer);
    RT_FAILPOINT("P7.optimized");
    commit_shared(trainer);
    RT_FAILPOINT("P7.committed");
    tr_step_close(trainer);
    if (batch) {
        forget_embeddings(batch);
        commit_own(trainer, batch);
    }
    tr_count_step(trainer);
    tr_part_idle(trainer);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

/* Some saw values that are not finite: they drop their batch, the rest goes on without them. */
static void leave_out(struct tr_trainer *trainer, const uint8_t *nonfinite)
{
    struct tr_group *group = trainer->group;
    struct tr_batch *batch = trainer->stepping;
    for (uint32_t r = 0; r < group->world; r++)
        if (nonfinite[r])
            group->current.share[r].has_batch = false;
    trainer->step--;
    if (nonfinite[group->self]) {
        trainer->stepping = NULL;
        drop_nonfinite(trainer, batch);
    }
    start_shared(trainer);
}

/* A batch that is being computed is undone when it is. */
static void reduced(void *arg, int err, const uint8_t *nonfinite)
{
    struct tr_trainer *trainer = arg;
    bool all = true;
    if (trainer->stepping && trainer->reducing_ns)
        rt_trace_span(trainer->stepping->id, TRACE_REDUCE, "all_reduce", trainer->reducing_ns);
    if (err) {
        if (tr_reduce_is_hopeless(err))
            tr_fail(trainer, err);
        tr_group_break(trainer->group, rt_err_text());
        if (!trainer->computing)
            undo_shared(trainer);
        return;
    }
    for (uint32_t r = 0; r < trainer->conf.world; r++)
        all = all && !nonfinite[r];
    if (all) {
        tr_part(trainer, TR_PART_COMPUTE);
        tr_step_work(trainer, tr_optimize, optimized);
    } else {
        leave_out(trainer, nonfinite);
    }
}

static int begin_reduce(struct tr_trainer *trainer)
{
    size_t n = tr_model_count(trainer->model), bucket = trainer->collective->bucket;
    trainer->reducing_ns = 0;
    trainer->unsettled = (n + bucket - 1) / bucket;
    return tr_reduce_begin(trainer, trainer->job->global.wire.all_reduce, reduced);
}

/* All that this rank brings is there. */
static void complete_reduce(struct tr_trainer *trainer)
{
    if (trainer->group->state != TR_FORMED) {
        undo_shared(trainer);
        return;
    }
    tr_part(trainer, TR_PART_REDUCE);
    reduce_begins(trainer);
    trainer->collective->ops->complete(trainer->collective, !trainer->step_finite);
}

/* ---- a job of the step thread is done ---- */

static void close_alone(struct tr_trainer *trainer, struct tr_batch *batch)
{
    struct tr_group *group = trainer->group;
    if (!trainer->step_finite) {
        trainer->step--; /* nothing changed: the step is made again with the next batch */
        drop_nonfinite(trainer, batch);
        return;
    }
    if (group) {
        group->local_steps++;
        group->unaveraged += batch->head.samples;
    }
    commit_own(trainer, batch);
    tr_count_step(trainer);
}

static void compute_done(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_batch *batch = trainer->stepping;
    trainer->computing = false;
    if (tr_step_failed(trainer))
        return;
    tr_beside_done(trainer);
    if (trainer->step_kind == TR_SHARED) {
        batch->computed = trainer->step_finite;
        complete_reduce(trainer);
        return;
    }
    tr_part(trainer, TR_PART_COMMIT);
    tr_step_close(trainer);
    forget_embeddings(batch);
    if (trainer->step_kind == TR_SCORE)
        finish_scored(trainer, batch);
    else if (trainer->step_kind == TR_ALONE)
        close_alone(trainer, batch);
    else if (trainer->step_finite)
        tr_push_start(batch);
    else
        drop_nonfinite(trainer, batch);
    tr_part_idle(trainer);
    tr_pump(trainer);
}

/* ---- starting ---- */

bool tr_step_settled(const struct tr_trainer *trainer)
{
    const struct tr_group *group = trainer->group;
    return !trainer->step_open && (!group || (group->state == TR_FORMED && !group->gathered &&
                                              group->unaveraged == 0 && !group->must_average));
}

/* Not with the last permits, where batches of ours are to come again that were stepped with a rank that is lost: a pause of the
 * group waits for those, and batches that hold permits would wait for its end. */
bool tr_step_may_look_up(const struct tr_trainer *trainer)
{
    const struct tr_group *group = trainer->group;
    if (!group)
        return true;
    if (trainer->job->global.mode != RT_MODE_FULL)
        return group->state == TR_FORMED &&
               trainer->permits.used + tr_group_owes_later(group) < trainer->permits.limit;
    return group->state == TR_FORMED && !trainer->step_open && !group->gathered &&
           group->standing == TR_OUT && !tr_group_owes(group);
}

struct tr_batch *tr_step_next_ready(const struct tr_trainer *trainer, bool evaluate)
{
    struct tr_batch *batch = trainer->ready.head;
    while (batch && (batch->head.evaluate != evaluate ||
                     (!evaluate && rt_ledger_is_stepped(trainer->ledger, batch->id))))
        batch = batch->next; /* one that is stepped is only run again */
    return batch;
}

struct tr_batch *tr_step_take_ready(struct tr_trainer *trainer, bool evaluate)
{
    struct tr_batch *batch = tr_step_next_ready(trainer, evaluate);
    if (batch)
        tr_fifo_remove(&trainer->ready, batch);
    return batch;
}

static void start_batch(struct tr_trainer *trainer, struct tr_batch *batch, enum tr_step_kind kind)
{
    trainer->step_open = true;
    trainer->step_kind = kind;
    trainer->stepping = batch;
    trainer->scoring = trainer->phase;
    trainer->computing = true;
    tr_batch_to(batch, TR_STEPPING);
    tr_beside_choose(trainer, batch, kind == TR_SCORE);
    tr_part(trainer, TR_PART_COMPUTE);
    tr_step_work(trainer, tr_compute, compute_done);
}

/* The factor on all learning rates in this step; `factor` is the operator's. */
static double rate_factor(const struct tr_trainer *trainer, double factor, uint64_t step)
{
    return factor * tr_schedule_factor(&trainer->schedule, tr_age(trainer, step));
}

static void start_alone(struct tr_trainer *trainer, struct tr_batch *batch)
{
    trainer->global_samples = batch->head.samples;
    batch->step = ++trainer->step;
    trainer->step_factor = rate_factor(trainer, trainer->learning_factor, trainer->step);
    batch->attempt = tr_least_attempt(trainer->conf.self.incarnation);
    batch->among = 1;
    batch->learning_rate = trainer->step_factor;
    start_batch(trainer, batch, TR_ALONE);
}

/* The round at hand, or what is left of it. */
static void start_shared(struct tr_trainer *trainer)
{
    struct tr_group *group = trainer->group;
    struct tr_batch *batch = trainer->stepping;
    uint32_t among = 0, place = 0;
    trainer->global_samples = 0;
    for (uint32_t r = 0; r < group->world; r++) {
        const struct tr_share *share = &group->current.share[r];
        if (r == group->self)
            place = among;
        among += share->has_batch;
        trainer->global_samples += share->has_batch ? share->samples : 0;
    }
    if (among == 0) { /* all of it was dropped */
        tr_step_close(trainer);
        tr_part_idle(trainer);
        tr_phase_check(trainer);
        tr_pump(trainer);
        return;
    }
    trainer->step++;
    trainer->step_open = true;
    trainer->step_kind = TR_SHARED;
    trainer->step_factor = rate_factor(trainer, group->current.learning_rate, trainer->step);
    trainer->step_finite = true;
    int err = begin_reduce(trainer);
    if (!err && !batch)
        err = tr_reduce_bring_nothing(trainer);
    if (err) {
        tr_fail(trainer, err);
        return;
    }
    if (!batch) {
        complete_reduce(trainer);
        return;
    }
    batch->step = trainer->step;
    batch->attempt = group->attempt;
    batch->place = place;
    batch->among = among;
    batch->learning_rate = trainer->step_factor;
    batch->computed = false;
    start_batch(trainer, batch, TR_SHARED);
}

/* ---- mode `async`: averages ---- */

static void averaged(void *arg, int err, const uint8_t *nonfinite)
{
    struct tr_trainer *trainer = arg;
    struct tr_group *group = trainer->group;
    (void)nonfinite;
    tr_step_close(trainer);
    tr_part(trainer, TR_PART_COMMIT);
    if (!err)
        err = tr_reduce_take_average(trainer);
    if (tr_reduce_is_hopeless(err))
        tr_fail(trainer, err);
    if (err) {
        tr_group_break(group, rt_err_text());
    } else {
        group->unaveraged = 0;
        group->local_steps = 0;
        group->must_average = false;
        tr_phase_check(trainer);
    }
    tr_part_idle(trainer);
    tr_pump(trainer);
}

/* The first average of a group: all count the same. One that was under way when the group broke may be complete at
 * some ranks and not at others: by samples the former, who have all of it in their weights, would count nothing. */
static void start_average(struct tr_trainer *trainer)
{
    struct tr_group *group = trainer->group;
    size_t n = tr_model_count(trainer->model);
    const float *params = tr_model_params(trainer->model);
    float *sum = tr_model_grads(trainer->model);
    double total = 0, own = 0;
    for (uint32_t r = 0; r < group->world; r++)
        total += (double)group->current.share[r].unaveraged;
    own =
        total > 0 && !group->must_average ? (double)group->unaveraged / total : 1.0 / group->world;
    for (size_t i = 0; i < n; i++)
        sum[i] = (float)(own * params[i]);
    trainer->step_open = true;
    trainer->step_kind = TR_AVERAGE;
    tr_part(trainer, TR_PART_REDUCE);
    int err = tr_reduce_begin(trainer, RT_DTYPE_F32, averaged); /* weights: in full */
    if (err)
        tr_fail(trainer, err);
    else
        trainer->collective->ops->complete(trainer->collective, false);
}

/* ---- what comes next ---- */

/* The next round of the group: a step, an average, or news alone. */
static bool start_round(struct tr_trainer *trainer)
{
    struct tr_group *group = trainer->group;
    bool step = false, average = group->must_average;
    if (!tr_group_begin(group))
        return false;
    for (uint32_t r = 0; r < group->world; r++) {
        step = step || group->current.share[r].has_batch;
        average = average || group->current.share[r].unaveraged > 0;
    }
    if (step) {
        trainer->stepping = group->entered;
        group->entered = NULL;
        trainer->step_open = true;
        tr_part_start(trainer);
        start_shared(trainer);
    } else if (average) {
        start_average(trainer);
    } else {
        tr_phase_check(trainer);
    }
    return true;
}

/* Batches that the group has stepped: their gradients died with their rank, or were made for a step that
 * the others have committed while the group broke. */
static bool run_again(struct tr_trainer *trainer)
{
    struct tr_batch *batch = trainer->ready.head;
    while (batch && (batch->head.evaluate || !rt_ledger_is_stepped(trainer->ledger, batch->id)))
        batch = batch->next;
    if (!batch)
        return false;
    const struct wire_owed *owed = rt_map_get_ptr(&trainer->group->owed, batch->id);
    tr_fifo_remove(&trainer->ready, batch);
    if (batch->computed && owed && owed->step == batch->step && owed->attempt == batch->attempt) {
        forget_embeddings(batch);
        commit_own(trainer, batch);
        return true;
    }
    /* A local step of mode `async` is owed to nobody: its gradients are those of its batch alone. */
    bool alone = trainer->job->global.mode == RT_MODE_ASYNC;
    uint64_t ranks = alone ? 1 : trainer->conf.world;
    trainer->global_samples = owed ? owed->samples : batch->head.samples * ranks;
    batch->step = owed ? owed->step : trainer->step;
    batch->attempt = owed ? owed->attempt : trainer->group->attempt;
    batch->place = owed ? owed->place : 0;
    batch->among = owed ? owed->among : 1;
    batch->learning_rate =
        owed ? owed->learning_rate : rate_factor(trainer, trainer->learning_factor, batch->step);
    start_batch(trainer, batch, TR_AGAIN);
    return true;
}

static bool start_next(struct tr_trainer *trainer)
{
    struct tr_group *group = trainer->group;
    struct tr_batch *batch;
    if (trainer->summing_up || trainer->agree.differs || (group && group->state != TR_FORMED))
        return false;
    if (tr_between_start(trainer))
        return true;
    batch = tr_step_take_ready(trainer, true);
    if (batch) {
        start_batch(trainer, batch, TR_SCORE);
        return true;
    }
    if (group && (run_again(trainer) || start_round(trainer)))
        return true;
    bool alone = !group || (trainer->job->global.mode == RT_MODE_ASYNC &&
                            group->standing == TR_OUT && !group->must_average);
    if (!alone || !tr_phase_may_step(trainer))
        return false;
    batch = tr_step_take_ready(trainer, false);
    if (batch)
        start_alone(trainer, batch);
    return batch != NULL;
}

/* One thing that can be done now, if any. */
static bool start_one(struct tr_trainer *trainer)
{
    return !trainer->step_open && (start_next(trainer) || tr_beside_land(trainer));
}

void tr_step_pump(struct tr_trainer *trainer)
{
    do {
        if (trainer->group)
            tr_group_pump(trainer->group);
    } while (start_one(trainer));
}
