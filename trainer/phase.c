/* trainer/phase.c -- epochs: what data-compose is to bring now, and when that is complete.
 *
 *   STATISTICS -composer 0 brought them-> TRAIN 0
 *   TRAIN e -all splits ended, ledger complete-> EVALUATE -> TRAIN e+1 | DONE
 *   TRAIN e -evaluate_every steps made-> EVALUATE -> TRAIN e, which goes on
 *   TRAIN e -max_steps made-> EVALUATE -> DONE
 *   TRAIN 0 of a job of no epochs -> EVALUATE -> DONE; no composer hears of it
 * STATISTICS only where a column is standardized, EVALUATE only where there are test rows and the weights are
 * others than at the evaluation before.
 *
 * Rank 0 decides, from its copy of the ledger. It enters the phase first, tells the other ranks (tell.c), and
 * when all are in it, answers the composers' AwaitPhase. So no rank hears from a composer of a phase that it
 * is not in. A rank that is lost in an evaluation takes scores with it: then another one is made of the same weights, from the
 * beginning, as a phase of its own (rank 0 itself, from the others' word of it). A trainer/0 that was started anew after the end, with nobody left who has its state, is told by the
 * composers that the job is done: it must not be trained again over the rows that are there.
 *
 * A phase other than TRAIN is entered with nothing on its way: at the end of an epoch the ledger has every batch; in
 * its midst rank 0 first makes no more steps (tr_phase_may_step), and every rank answers once what it has stepped is
 * finished. What is queued or looked up stays where it is, and is stepped when training goes on; when training is over,
 * it goes back to the composers, who have given it up. */
#include "trainer/group.h"
#include "trainer/load.h"
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PAUSE_NS (2000 * RT_MS)
#define STEPS_NS (1000 * RT_MS)

static bool has_statistics(const struct rt_job *job)
{
    for (uint32_t c = 0; c < job->data.n_columns; c++)
        if (job->data.column[c].kind == RT_COLUMN_DENSE && job->data.column[c].standardize)
            return true;
    return false;
}

/* A job of no epochs evaluates the model that it begins with, and that is all. */
static bool trains(const struct tr_trainer *trainer)
{
    return trainer->job->data.epochs > 0;
}

static void on_again(void *arg)
{
    struct tr_trainer *trainer = arg;
    for (uint32_t r = 0; r < trainer->conf.world; r++)
        trainer->other[r].refused = false;
    tr_phase_check(trainer);
    tr_pump(trainer);
}

void tr_phase_again(struct tr_trainer *trainer)
{
    rt_timer_start(trainer->io, &trainer->phase_timer, TR_AGAIN_NS);
}

static int keep_statistics(struct tr_trainer *trainer, const struct wire_statistics *statistics,
                           uint32_t n);

/* Where nothing is trained, no training files are read: means and deviations are those that the saved model has learnt with. */
static int take_saved_statistics(struct tr_trainer *trainer)
{
    const struct rt_data_conf *data = &trainer->job->data;
    struct wire_statistics *statistics = rt_xcalloc(data->n_columns + 1, sizeof *statistics);
    uint32_t n = 0;
    for (uint32_t c = 0; c < data->n_columns; c++)
        if (data->column[c].kind == RT_COLUMN_DENSE && data->column[c].standardize)
            statistics[n++].column = data->column[c].name;
    int err = tr_load_statistics(trainer->conf.init_from, statistics, n);
    if (!err)
        err = keep_statistics(trainer, statistics, n);
    rt_free(statistics);
    return err;
}

int tr_phase_init(struct tr_trainer *trainer)
{
    bool counts = trains(trainer) && has_statistics(trainer->job);
    int err = rt_job_check_run(trainer->job, trainer->conf.init_from, trainer->conf.predict);
    trainer->phase = trainer->train_phase = 1;
    trainer->kind = counts ? WIRE_PHASE_STATISTICS : WIRE_PHASE_TRAIN;
    trainer->epoch_open = trains(trainer) && !counts;
    trainer->count.train_loss = trainer->count.loss = NAN;
    for (uint32_t h = 0; h < TR_HEADS_MAX; h++)
        trainer->count.head[h].train_loss = NAN;
    trainer->phase_timer = (struct rt_timer){.fire = on_again, .arg = trainer};
    trainer->other = rt_xcalloc(trainer->conf.world, sizeof *trainer->other);
    for (uint32_t r = 0; r < trainer->conf.world; r++)
        trainer->other[r].trainer = trainer;
    if (!err)
        err = tr_evaluate_init(trainer);
    if (!err && !trains(trainer) && has_statistics(trainer->job))
        err = take_saved_statistics(trainer);
    return err;
}

void tr_phase_release(struct tr_trainer *trainer)
{
    rt_timer_stop(trainer->io, &trainer->phase_timer);
    for (uint32_t c = 0; c < TR_COMPOSERS_MAX; c++)
        if (trainer->waiter[c].call)
            rt_call_fail(trainer->waiter[c].call, RT_ECANCELED, "trainer is going away");
    if (trainer->tell_call)
        rt_call_fail(trainer->tell_call, RT_ECANCELED, "trainer is going away");
    rt_arena_destroy(trainer->statistics_arena);
}

/* ---- is there anything to step? ---- */

void tr_phase_has_batch(struct tr_trainer *trainer, uint32_t composer)
{
    if (composer < TR_COMPOSERS_MAX)
        trainer->nothing[composer].told = false;
}

bool tr_phase_in_turn(const struct tr_trainer *trainer, const struct tr_batch *batch)
{
    const struct wire_train_batch *head = &batch->head;
    const struct rt_ledger *ledger = trainer->ledger;
    return (!head->has_before || rt_ledger_is_stepped(ledger, head->before)) &&
           (!head->has_turn_before || rt_ledger_is_stepped(ledger, head->turn_before));
}

/* A batch that will be stepped without anything having to be said. In `full` one whose turn has not come is none. */
static bool has_batch(const struct tr_trainer *trainer)
{
    bool in_turns = trainer->job->global.mode == RT_MODE_FULL;
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&trainer->batches, &cursor, &id, &value)) {
        const struct tr_batch *batch = (const struct tr_batch *)(uintptr_t)value;
        if (batch->head.evaluate || rt_ledger_is_stepped(trainer->ledger, id))
            continue;
        if (batch->state != TR_QUEUED || !in_turns || tr_phase_in_turn(trainer, batch))
            return true;
    }
    return false;
}

/* A batch of the composer waits here for its turn and is the next that it has for us. */
static bool waits_for_turn(const struct tr_trainer *trainer, uint32_t composer)
{
    for (const struct tr_batch *batch = trainer->queue.head; batch; batch = batch->next)
        if (!batch->head.evaluate && batch->composer == composer &&
            (!batch->head.has_before || rt_ledger_is_stepped(trainer->ledger, batch->head.before)))
            return true;
    return false;
}

static bool said_nothing(const struct tr_trainer *trainer, uint32_t composer)
{
    const struct tr_nothing *nothing = &trainer->nothing[composer];
    return nothing->told &&
           (!nothing->has_until || !rt_ledger_is_stepped(trainer->ledger, nothing->until));
}

static bool composer_has_nothing(const struct tr_trainer *trainer, uint32_t composer)
{
    if (said_nothing(trainer, composer) || waits_for_turn(trainer, composer))
        return true;
    for (uint32_t s = composer; s < trainer->job->data.splits; s += trainer->composers)
        if (!rt_ledger_split_done(trainer->ledger, s, trainer->conf.self.index,
                                  trainer->conf.world))
            return false;
    return true;
}

bool tr_phase_has_nothing(struct tr_trainer *trainer)
{
    if (trainer->kind != WIRE_PHASE_TRAIN || trainer->composers == 0)
        return false;
    /* Whose turn it is after the step that is being made is known when it is made. */
    if (trainer->job->global.mode == RT_MODE_FULL && !tr_step_settled(trainer))
        return false;
    if (has_batch(trainer))
        return false;
    for (uint32_t c = 0; c < trainer->composers; c++)
        if (!composer_has_nothing(trainer, c))
            return false;
    return true;
}

bool tr_phase_owes(const struct tr_trainer *trainer)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&trainer->batches, &cursor, &id, &value)) {
        const struct tr_batch *batch = (const struct tr_batch *)(uintptr_t)value;
        if (!batch->head.evaluate &&
            (batch->state == TR_STEPPING || rt_ledger_is_stepped(trainer->ledger, id)))
            return true;
    }
    return false;
}

/* ---- interruptions: rank 0 ---- */

static bool stop_is_due(const struct tr_trainer *trainer)
{
    uint64_t max = trainer->job->global.max_steps;
    return !trains(trainer) || (max > 0 && trainer->step >= max);
}

static bool evaluation_is_due(const struct tr_trainer *trainer)
{
    uint64_t every = trainer->job->global.evaluate_every;
    return every > 0 && rt_job_has_test(trainer->job) &&
           trainer->step / every > trainer->evaluated_step / every;
}

/* In `async` only where an average has made the ranks' weights equal. */
static bool is_to_end(const struct tr_trainer *trainer)
{
    if (trainer->conf.self.index != 0 || trainer->kind != WIRE_PHASE_TRAIN)
        return false;
    if (trainer->job->global.mode == RT_MODE_ASYNC && !tr_step_settled(trainer))
        return false;
    return trainer->is_over || stop_is_due(trainer) || evaluation_is_due(trainer);
}

/* What is owed may come again behind other batches, which need steps: so a pause that lasts takes turns with them. */
static bool lets_steps(const struct tr_trainer *trainer)
{
    uint64_t since = trainer->owed_since_ns;
    return since > 0 && !trainer->is_over && !stop_is_due(trainer) &&
           (rt_io_now(trainer->io) - since) % (PAUSE_NS + STEPS_NS) >= PAUSE_NS;
}

static bool interrupted(const struct tr_trainer *trainer)
{
    return is_to_end(trainer) && !lets_steps(trainer);
}

bool tr_phase_may_step(struct tr_trainer *trainer)
{
    return trainer->kind == WIRE_PHASE_TRAIN && !interrupted(trainer) && !tr_hold_is_on(trainer);
}

/* ---- entering a phase ---- */

static void close_epoch(struct tr_trainer *trainer)
{
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        trainer->count.head[h].train_loss = tr_epoch_loss(trainer, h);
        trainer->epoch_loss_sum[h] = 0;
    }
    tr_board_epoch(trainer);
    double loss = trainer->count.head[0].train_loss;
    rt_log(RT_LOG_INFO, "epoch_over epoch=%" PRIu64 " samples=%" PRIu64 " loss=%.5f",
           trainer->epoch, trainer->epoch_samples, loss);
    trainer->count.train_loss = loss;
    trainer->count.samples_epoch = trainer->epoch_samples;
    trainer->epoch_samples = trainer->carried_epoch_samples = 0;
    trainer->epoch_open = false;
    for (uint32_t r = 0; trainer->group && r < trainer->conf.world; r++) {
        trainer->group->counts[r].epoch_loss_sum = 0;
        trainer->group->counts[r].epoch_samples = 0;
    }
    rt_ledger_next_epoch(trainer->ledger);
}

/* Training is over: what was not stepped goes back. A lookup that is out gives its batch back when it returns. */
static void let_go(struct tr_trainer *trainer)
{
    static const char why[] = "training is over";
    struct tr_batch *batch;
    size_t cursor = 0;
    uint64_t id, value;
    while ((batch = tr_fifo_pop(&trainer->queue)) != NULL) {
        tr_push_release(batch, why);
        tr_feed_finish(batch, WIRE_RETRY, why);
    }
    while ((batch = tr_fifo_pop(&trainer->ready)) != NULL) {
        tr_permit_return(batch->head.evaluate ? &trainer->lookups : &trainer->permits);
        tr_push_release(batch, why);
        tr_feed_finish(batch, WIRE_RETRY, why);
    }
    while (rt_map_next(&trainer->batches, &cursor, &id, &value)) {
        batch = (struct tr_batch *)(uintptr_t)value;
        if (!rt_ledger_is_stepped(trainer->ledger, id))
            tr_feed_answer(batch, WIRE_RETRY, why);
    }
}

static void enter(struct tr_trainer *trainer, const struct wire_tell_phase *phase)
{
    if (trainer->kind == WIRE_PHASE_EVALUATE)
        tr_evaluate_leave(trainer);
    if (trainer->epoch_open && (phase->epoch_over || phase->epoch != trainer->epoch))
        close_epoch(trainer);
    if (phase->kind == WIRE_PHASE_TRAIN)
        trainer->train_phase = phase->phase;
    else if (phase->kind == WIRE_PHASE_EVALUATE && trainer->kind != WIRE_PHASE_EVALUATE)
        trainer->train_phase = phase->phase - 1;
    trainer->phase = phase->phase;
    trainer->kind = phase->kind;
    trainer->epoch = phase->epoch;
    trainer->pass = phase->pass;
    trainer->tell_over = phase->epoch_over;
    trainer->owed_since_ns = 0;
    trainer->told = false;
    memset(trainer->nothing, 0, sizeof trainer->nothing);
    tr_set(&trainer->metric.epoch, phase->epoch);
    tr_numbers_phase(trainer);
    rt_log(RT_LOG_INFO, "phase kind=%s epoch=%" PRIu64 " step=%" PRIu64,
           wire_phase_name(phase->kind), phase->epoch, trainer->step);
    if (phase->kind == WIRE_PHASE_TRAIN) {
        trainer->epoch_open = true;
        if (trainer->metric.parts.began_ns || trainer->started_ns) /* else with the first batch */
            tr_part_start(trainer);
    } else if (phase->kind == WIRE_PHASE_EVALUATE) {
        tr_evaluate_begin(trainer);
    } else if (phase->kind == WIRE_PHASE_DONE) {
        tr_parts_stop(&trainer->metric.parts, rt_io_now(trainer->io));
        let_go(trainer);
    }
}

/* ---- statistics ---- */

/* Keep composer 0's statistics: of every standardized column, finite. */
static int keep_statistics(struct tr_trainer *trainer, const struct wire_statistics *statistics,
                           uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct wire_statistics *s = &statistics[i];
        if (!isfinite(s->mean) || !isfinite(s->deviation) || s->deviation < 0)
            return RT_FAIL(RT_EPROTO, "statistics of column '%s': mean %g, deviation %g", s->column,
                           s->mean, s->deviation);
    }
    int err = trainer->statistics_arena ? 0 : rt_arena_create(16 << 20, &trainer->statistics_arena);
    if (err)
        return err;
    rt_arena_reset(trainer->statistics_arena);
    struct wire_statistics *copy =
        rt_arena_array(trainer->statistics_arena, struct wire_statistics, n);
    for (uint32_t i = 0; copy && i < n; i++) {
        copy[i] = statistics[i];
        copy[i].column = rt_arena_strdup(trainer->statistics_arena, statistics[i].column);
        if (!copy[i].column)
            copy = NULL;
    }
    if (!copy)
        return RT_FAIL(RT_ENOMEM, "no memory for the statistics of %u columns", n);
    if (trainer->conf.init_from && trainer->conf.self.index == 0 && trainer->n_statistics == 0)
        tr_compare_statistics(trainer->conf.init_from, copy, n);
    trainer->statistics = copy;
    trainer->n_statistics = n;
    return 0;
}

int tr_phase_take_statistics(struct tr_trainer *trainer, const struct wire_statistics *statistics,
                             uint32_t n)
{
    return trainer->n_statistics == 0 && n > 0 ? keep_statistics(trainer, statistics, n) : 0;
}

/* ---- what other ranks say of the phase ---- */

int tr_phase_enter(struct tr_trainer *trainer, const struct wire_tell_phase *phase)
{
    int err = tr_phase_take_statistics(trainer, phase->statistics, phase->n_statistics);
    if (err)
        return err;
    if (phase->composers > 0)
        trainer->composers = phase->composers;
    if (phase->phase > trainer->phase)
        enter(trainer, phase);
    else if (phase->phase == trainer->phase && phase->epoch_over && trainer->epoch_open &&
             phase->kind != WIRE_PHASE_TRAIN) /* the open one is the epoch that TRAIN began */
        close_epoch(trainer);
    return 0;
}

int tr_phase_adopt(struct tr_trainer *trainer, const struct wire_await_phase_reply *state)
{
    struct wire_tell_phase phase = {
        .phase = state->phase,
        .kind = state->kind,
        .epoch = state->epoch,
        .pass = state->pass,
        .epoch_over = state->epoch_over,
        .n_statistics = state->n_statistics,
        .statistics = state->statistics,
    };
    bool anew = state->phase > trainer->phase && state->kind == WIRE_PHASE_EVALUATE;
    int err = tr_phase_enter(trainer, &phase);
    if (err || !anew)
        return err;
    trainer->epoch_open = !state->epoch_over; /* any rank may have to tell the next trainer/0 */
    if (trainer->conf.self.index == 0)
        tr_phase_evaluate_again(trainer, 0);
    return 0;
}

/* ---- AwaitPhase ---- */

/* No ledger for an evaluation: each rank knows what it has scored, and answers a repeat at once. */
static int pack_phase(struct tr_trainer *trainer)
{
    struct wire_split_ledger *ledger = NULL;
    struct wire_await_phase_reply reply = {.phase = trainer->phase,
                                           .kind = trainer->kind,
                                           .epoch = trainer->epoch,
                                           .pass = trainer->pass,
                                           .n_statistics = trainer->n_statistics,
                                           .statistics = trainer->statistics};
    int err = 0;
    rt_arena_reset(trainer->scratch);
    if (trainer->kind != WIRE_PHASE_EVALUATE)
        err = rt_ledger_export(trainer->ledger, trainer->scratch, &ledger, &reply.n_ledger);
    reply.ledger = ledger;
    return err ? err : wire_await_phase_reply_pack(&reply, &trainer->out);
}

static void tell(struct tr_trainer *trainer, struct tr_waiter *waiter)
{
    int err = pack_phase(trainer);
    if (err)
        rt_call_fail(waiter->call, err, rt_err_text());
    else
        rt_call_reply(waiter->call, &(struct rt_outgoing){.message = trainer->out.data,
                                                          .message_size = trainer->out.size});
    waiter->call = NULL;
}

static bool is_formed(const struct tr_trainer *trainer)
{
    return !trainer->group || trainer->group->state == TR_FORMED;
}

/* A batch is finished in our ledger, and no other rank knows it: a composer that skipped it would be the only one to
 * know if we were lost now. */
static bool knows_alone(const struct tr_trainer *trainer)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&trainer->batches, &cursor, &id, &value))
        if (((const struct tr_batch *)(uintptr_t)value)->state == TR_TELLING)
            return true;
    return false;
}

static void tell_waiters(struct tr_trainer *trainer)
{
    bool asked = false;
    if (trainer->kind == WIRE_PHASE_TRAIN && !trains(trainer)) /* there is nothing to bring */
        return;
    for (uint32_t c = 0; c < trainer->n_waiters && trainer->told; c++)
        asked |= trainer->waiter[c].call && trainer->waiter[c].known != trainer->phase;
    if (!asked || knows_alone(trainer))
        return;
    for (uint32_t c = 0; c < trainer->n_waiters; c++)
        if (trainer->waiter[c].call && trainer->waiter[c].known != trainer->phase)
            tell(trainer, &trainer->waiter[c]);
}

void tr_phase_told(struct tr_trainer *trainer)
{
    bool is_done = trainer->kind == WIRE_PHASE_DONE;
    if (trainer->told)
        return;
    if (is_done && !is_formed(trainer)) /* who came back has not fetched the weights yet */
        return;
    trainer->told = true;
    tell_waiters(trainer);
    if (is_done && trainer->conf.done)
        trainer->conf.done(trainer->conf.ctx);
}

/* Rank 0 goes on. */
static void next_phase(struct tr_trainer *trainer, enum wire_phase_kind kind, uint64_t epoch)
{
    struct wire_tell_phase phase = {
        .phase = trainer->phase + 1,
        .kind = kind,
        .epoch = epoch,
        .pass = kind == WIRE_PHASE_EVALUATE ? trainer->evaluations_begun : epoch,
        .epoch_over = !trainer->epoch_open,
    };
    enter(trainer, &phase);
    tr_tell_pump(trainer);
}

void tr_phase_evaluate_again(struct tr_trainer *trainer, uint32_t lost)
{
    rt_log(RT_LOG_WARN,
           "evaluation_again step=%" PRIu64 " reason=\"trainer/%u was started anew in its midst\"",
           trainer->step, lost);
    next_phase(trainer, WIRE_PHASE_EVALUATE, trainer->epoch);
}

/* What a composer has heard of a trainer that was here before us. */
static void hear_over(struct tr_trainer *trainer, uint32_t composer, uint64_t phase)
{
    if (trainer->kind == WIRE_PHASE_DONE)
        return;
    if (!trainer->is_over)
        rt_log(RT_LOG_WARN,
               "job_is_done told_by=data_compose/%u reason=\"another trainer has trained it; its "
               "weights and results are not here\"",
               composer);
    trainer->is_over = true;
    if (phase > trainer->over_phase)
        trainer->over_phase = phase;
}

void tr_phase_serve_await(void *ctx, struct rt_call *call, const struct rt_frame *frame)
{
    struct tr_trainer *trainer = ctx;
    struct wire_await_phase request;
    rt_arena_reset(trainer->scratch);
    int err = wire_await_phase_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                      &request);
    uint32_t from = rt_call_from(call)->index;
    if (!err && trainer->conf.self.index != 0)
        err = RT_FAIL(RT_EPROTO, "AwaitPhase: this is trainer/%u, phases are trainer/0's",
                      trainer->conf.self.index);
    if (!err && (from >= TR_COMPOSERS_MAX || request.composers > TR_COMPOSERS_MAX))
        err = RT_FAIL(RT_ELIMIT, "AwaitPhase: composer %u of %u, at most %u", from,
                      request.composers, TR_COMPOSERS_MAX);
    if (!err && trainer->kind == WIRE_PHASE_STATISTICS && request.n_statistics > 0)
        err = keep_statistics(trainer, request.statistics, request.n_statistics);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    struct tr_waiter *waiter = &trainer->waiter[from];
    if (waiter->call)
        rt_call_fail(waiter->call, RT_ESTALE, "asked again");
    *waiter = (struct tr_waiter){call, request.known};
    if (from >= trainer->n_waiters)
        trainer->n_waiters = from + 1;
    trainer->composers = request.composers;
    if (request.done && !trainer->job->global.exact) /* else it is made again, with the same end */
        hear_over(trainer, from, request.known);
    if (trainer->kind == WIRE_PHASE_STATISTICS && trainer->n_statistics > 0)
        next_phase(trainer, WIRE_PHASE_TRAIN, 0);
    tr_tell_pump(trainer);
    tr_phase_check(trainer);
}

/* ---- the end of a phase ---- */

void tr_phase_evaluated(struct tr_trainer *trainer)
{
    if (stop_is_due(trainer))
        next_phase(trainer, WIRE_PHASE_DONE, trainer->epoch);
    else if (trainer->epoch_open)
        next_phase(trainer, WIRE_PHASE_TRAIN, trainer->epoch);
    else if (trainer->epoch + 1 < trainer->job->data.epochs)
        next_phase(trainer, WIRE_PHASE_TRAIN, trainer->epoch + 1);
    else
        next_phase(trainer, WIRE_PHASE_DONE, trainer->epoch);
}

/* The weights may have been evaluated already, at their very last step. */
static void evaluate(struct tr_trainer *trainer)
{
    bool known = trainer->count.evaluations > 0 && trainer->evaluated_step == trainer->step;
    if (rt_job_has_test(trainer->job) && !known)
        next_phase(trainer, WIRE_PHASE_EVALUATE, trainer->epoch);
    else
        tr_phase_evaluated(trainer);
}

/* Done, under the number that the composers know. Steps may have been made with the batches of a composer that is as
 * new as we are. */
static void check_over(struct tr_trainer *trainer)
{
    if (trainer->kind == WIRE_PHASE_EVALUATE) {
        tr_fail(trainer, RT_FAIL(RT_EPEER, "the job is done, as data-compose says: this evaluation "
                                           "cannot be completed"));
        return;
    }
    if (!is_formed(trainer)) /* the others may have what was trained */
        return;
    if (trainer->kind == WIRE_PHASE_TRAIN && (!tr_step_settled(trainer) || tr_phase_owes(trainer)))
        return;
    if (trainer->over_phase > trainer->phase + 1)
        trainer->phase = trainer->over_phase - 1;
    next_phase(trainer, WIRE_PHASE_DONE, trainer->epoch);
}

/* Who has heard of a trainer before us says so when it asks. */
static bool all_ask(const struct tr_trainer *trainer)
{
    bool all = trainer->composers > 0;
    for (uint32_t c = 0; c < trainer->composers && all; c++)
        all = trainer->waiter[c].call != NULL;
    return all;
}

/* Batches are stepped that no round has told to be finished, of any rank. Some may have to come again from a data-compose that was started
 * anew, and hears of a phase only when all ranks are in it; or have to be run again, which an evaluation would wait for. So this phase is not left before. */
static bool awaits_owed(struct tr_trainer *trainer)
{
    if (!trainer->group || trainer->group->owed.count == 0) {
        trainer->owed_since_ns = 0;
        return false;
    }
    if (trainer->owed_since_ns == 0)
        trainer->owed_since_ns = rt_io_now(trainer->io);
    tr_hold_ask_news(trainer);
    tr_phase_again(trainer);
    return true;
}

static void check_training(struct tr_trainer *trainer)
{
    if (tr_hold_is_on(trainer) || (!trains(trainer) && !all_ask(trainer)))
        return;
    if (rt_ledger_epoch_over(trainer->ledger, trainer->job->data.splits) &&
        tr_step_settled(trainer)) {
        close_epoch(trainer);
        evaluate(trainer);
    } else if (is_to_end(trainer) && !awaits_owed(trainer) && tr_step_settled(trainer) &&
               !tr_phase_owes(trainer)) {
        evaluate(trainer);
    }
}

/* Mode `exact`: what was looked up while an owner is away, or a rank, may be of another line: nothing is concluded from it. */
static bool is_apart(const struct tr_trainer *trainer)
{
    if (tr_back_is_on(trainer) || !trainer->job->global.exact)
        return tr_back_is_on(trainer);
    return !is_formed(trainer) || (trainer->conf.self.index == 0 && !tr_owners_agree(trainer));
}

void tr_phase_check(struct tr_trainer *trainer)
{
    if (trainer->closing)
        return;
    tr_tell_pump(trainer);
    tell_waiters(trainer);
    if (is_apart(trainer))
        return;
    if (trainer->kind == WIRE_PHASE_EVALUATE)
        tr_evaluate_pump(trainer);
    else if (trainer->kind == WIRE_PHASE_TRAIN && trainer->conf.self.index == 0 &&
             tr_tell_done(trainer) && !trainer->is_over)
        check_training(trainer);
    if (trainer->is_over && trainer->kind != WIRE_PHASE_DONE && tr_tell_done(trainer))
        check_over(trainer);
}

/* ---- EndOfEpoch, NothingYet ---- */

static int take_end(struct tr_trainer *trainer, const struct wire_end_of_epoch *end)
{
    uint32_t base = end->evaluate ? RT_SPLIT_EVALUATE : 0;
    for (uint32_t i = 0; i < end->n_ended; i++) {
        struct wire_split_ledger split = end->ended[i];
        if (split.split < base || split.split - base >= trainer->job->data.splits)
            return RT_FAIL(RT_EPROTO, "EndOfEpoch: split %u, expected %u..%u", split.split, base,
                           base + trainer->job->data.splits - 1);
        split.split -= base;
        int err = end->evaluate ? tr_evaluate_end(trainer, &split)
                                : rt_ledger_end(trainer->ledger, &split);
        if (err)
            return err;
    }
    return 0;
}

void tr_phase_serve_end(void *ctx, struct rt_call *call, const struct rt_frame *frame)
{
    struct tr_trainer *trainer = ctx;
    struct wire_end_of_epoch end;
    rt_arena_reset(trainer->scratch);
    int err = wire_end_of_epoch_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                       &end);
    /* Of an earlier phase: it is known, or is told again when that training goes on. */
    if (!err)
        err = tr_form_check_known(trainer->group, "EndOfEpoch");
    if (!err && end.phase > trainer->phase)
        err = RT_FAIL(RT_ENOTREADY, "EndOfEpoch of phase %" PRIu64 ", here is %" PRIu64, end.phase,
                      trainer->phase);
    if (!err && end.phase == trainer->phase)
        err = take_end(trainer, &end);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    tr_phase_check(trainer);
    tr_pump(trainer);
}

void tr_phase_serve_nothing(void *ctx, struct rt_call *call, const struct rt_frame *frame)
{
    struct tr_trainer *trainer = ctx;
    struct wire_nothing_yet said;
    rt_arena_reset(trainer->scratch);
    int err = wire_nothing_yet_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                      &said);
    if (!err && (said.composer >= TR_COMPOSERS_MAX || said.composer != rt_call_from(call)->index))
        err = RT_FAIL(RT_EPROTO, "NothingYet: of composer %u from data_compose/%u, at most %u",
                      said.composer, rt_call_from(call)->index, TR_COMPOSERS_MAX - 1);
    if (!err)
        err = tr_form_check_known(trainer->group, "NothingYet");
    if (!err && said.phase > trainer->phase)
        err = RT_FAIL(RT_ENOTREADY, "NothingYet of phase %" PRIu64 ", here is %" PRIu64, said.phase,
                      trainer->phase);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    if (said.phase == trainer->phase)
        trainer->nothing[said.composer] = (struct tr_nothing){true, said.has_until, said.until};
    rt_call_reply(call, &(struct rt_outgoing){0});
    tr_pump(trainer);
}
