/* trainer/phase.c -- epochs: what data-compose is to bring now, and when that is complete.
 *
 *   STATISTICS -composer 0 brought them-> TRAIN 0 -all splits ended, ledger complete-> EVALUATE 0
 *   EVALUATE e -all test splits ended and scored-> TRAIN e+1 | DONE
 * STATISTICS only where a column is standardized, EVALUATE only where there are test rows. The composers ask
 * with AwaitPhase; the call is answered when the phase is another than the one they know. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

static bool has_statistics(const struct rt_job *job)
{
    for (uint32_t c = 0; c < job->data.n_columns; c++)
        if (job->data.column[c].kind == RT_COLUMN_DENSE && job->data.column[c].standardize)
            return true;
    return false;
}

static bool has_test(const struct rt_job *job)
{
    return job->data.n_test > 0 || job->data.format == RT_FORMAT_SYNTHETIC;
}

void tr_phase_init(struct tr_trainer *trainer)
{
    trainer->phase = 1;
    trainer->kind = has_statistics(trainer->job) ? WIRE_PHASE_STATISTICS : WIRE_PHASE_TRAIN;
    trainer->count.train_loss = trainer->count.loss = NAN;
}

void tr_phase_release(struct tr_trainer *trainer)
{
    for (uint32_t c = 0; c < TR_COMPOSERS_MAX; c++)
        if (trainer->waiter[c].call)
            rt_call_fail(trainer->waiter[c].call, RT_ECANCELED, "trainer is going away");
    rt_arena_destroy(trainer->statistics_arena);
}

bool tr_phase_has_nothing(struct tr_trainer *trainer)
{
    return trainer->kind == WIRE_PHASE_TRAIN && trainer->batches.count == 0 &&
           rt_ledger_epoch_ended(trainer->ledger, trainer->job->data.splits);
}

bool tr_phase_may_step(struct tr_trainer *trainer)
{
    return trainer->kind == WIRE_PHASE_TRAIN;
}

/* ---- AwaitPhase ---- */

static int pack_phase(struct tr_trainer *trainer)
{
    struct wire_split_ledger *ledger = NULL;
    struct wire_await_phase_reply reply = {.phase = trainer->phase,
                                           .kind = trainer->kind,
                                           .epoch = trainer->epoch,
                                           .pass = trainer->epoch,
                                           .n_statistics = trainer->n_statistics,
                                           .statistics = trainer->statistics};
    rt_arena_reset(trainer->scratch);
    const struct rt_ledger *of =
        trainer->kind == WIRE_PHASE_EVALUATE ? trainer->evaluation : trainer->ledger;
    int err = rt_ledger_export(of, trainer->scratch, &ledger, &reply.n_ledger);
    if (!err && trainer->kind == WIRE_PHASE_EVALUATE)
        for (uint32_t i = 0; i < reply.n_ledger; i++)
            ledger[i].split += RT_SPLIT_EVALUATE;
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

static void next_phase(struct tr_trainer *trainer, enum wire_phase_kind kind, uint64_t epoch)
{
    trainer->phase++;
    trainer->kind = kind;
    trainer->epoch = epoch;
    atomic_store_explicit(&trainer->metric.epoch, epoch, memory_order_relaxed);
    rt_log(RT_LOG_INFO, "phase kind=%s epoch=%" PRIu64 " step=%" PRIu64, wire_phase_name(kind),
           epoch, trainer->step);
    for (uint32_t c = 0; c < TR_COMPOSERS_MAX; c++)
        if (trainer->waiter[c].call)
            tell(trainer, &trainer->waiter[c]);
    if (kind == WIRE_PHASE_DONE && trainer->conf.done)
        trainer->conf.done(trainer->conf.ctx);
}

static int keep_statistics(struct tr_trainer *trainer, const struct wire_await_phase *request);

int tr_phase_adopt(struct tr_trainer *trainer, const struct wire_await_phase_reply *state)
{
    struct wire_await_phase told = {.n_statistics = state->n_statistics,
                                    .statistics = state->statistics};
    if (trainer->n_statistics == 0 && state->n_statistics > 0) {
        int err = keep_statistics(trainer, &told);
        if (err)
            return err;
    }
    if (state->phase > trainer->phase) {
        trainer->phase = state->phase - 1;
        next_phase(trainer, state->kind, state->epoch);
    }
    return 0;
}

/* Keep composer 0's statistics: of every standardized column, finite. */
static int keep_statistics(struct tr_trainer *trainer, const struct wire_await_phase *request)
{
    for (uint32_t i = 0; i < request->n_statistics; i++) {
        const struct wire_statistics *s = &request->statistics[i];
        if (!isfinite(s->mean) || !isfinite(s->deviation) || s->deviation < 0)
            return RT_FAIL(RT_EPROTO, "statistics of column '%s': mean %g, deviation %g", s->column,
                           s->mean, s->deviation);
    }
    int err = trainer->statistics_arena ? 0 : rt_arena_create(16 << 20, &trainer->statistics_arena);
    if (err)
        return err;
    rt_arena_reset(trainer->statistics_arena);
    struct wire_statistics *copy =
        rt_arena_array(trainer->statistics_arena, struct wire_statistics, request->n_statistics);
    for (uint32_t i = 0; copy && i < request->n_statistics; i++) {
        copy[i] = request->statistics[i];
        copy[i].column = rt_arena_strdup(trainer->statistics_arena, request->statistics[i].column);
        if (!copy[i].column)
            copy = NULL;
    }
    if (!copy)
        return RT_FAIL(RT_ENOMEM, "no memory for the statistics of %u columns",
                       request->n_statistics);
    trainer->statistics = copy;
    trainer->n_statistics = request->n_statistics;
    return 0;
}

void tr_phase_serve_await(void *ctx, struct rt_call *call, const struct rt_frame *frame)
{
    struct tr_trainer *trainer = ctx;
    struct wire_await_phase request;
    rt_arena_reset(trainer->scratch);
    int err = wire_await_phase_unpack(frame->message, frame->header.message_size, trainer->scratch,
                                      &request);
    uint32_t from = rt_call_from(call)->index;
    if (!err && from >= TR_COMPOSERS_MAX)
        err = RT_FAIL(RT_ELIMIT, "AwaitPhase: composer %u, at most %u", from, TR_COMPOSERS_MAX);
    if (!err && trainer->kind == WIRE_PHASE_STATISTICS && request.n_statistics > 0)
        err = keep_statistics(trainer, &request);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    struct tr_waiter *waiter = &trainer->waiter[from];
    if (waiter->call)
        rt_call_fail(waiter->call, RT_ESTALE, "asked again");
    *waiter = (struct tr_waiter){call, request.known};
    if (trainer->kind == WIRE_PHASE_STATISTICS && trainer->n_statistics > 0)
        next_phase(trainer, WIRE_PHASE_TRAIN, 0);
    else if (request.known != trainer->phase)
        tell(trainer, waiter);
}

/* ---- the end of a phase ---- */

static void on_evaluated(void *arg)
{
    struct tr_trainer *trainer = arg;
    const struct tr_quality *q = &trainer->quality;
    trainer->quality = trainer->quality_next;
    trainer->summing_up = false;
    trainer->idle_since_ns = 0;
    trainer->evaluated_ns += rt_io_now(trainer->io) - trainer->evaluating_since_ns;
    trainer->count.evaluations++;
    atomic_store_explicit(&trainer->metric.test_auc, q->auc, memory_order_relaxed);
    atomic_store_explicit(&trainer->metric.test_logloss, q->logloss, memory_order_relaxed);
    rt_log(RT_LOG_INFO,
           "evaluated epoch=%" PRIu64 " samples=%" PRIu64 " auc=%.5f logloss=%.5f calibration=%.4f",
           trainer->epoch, q->samples, q->auc, q->logloss, q->calibration);
    bool more = trainer->epoch + 1 < trainer->job->data.epochs;
    next_phase(trainer, more ? WIRE_PHASE_TRAIN : WIRE_PHASE_DONE, trainer->epoch + (more ? 1 : 0));
}

static void sum_up(void *arg)
{
    struct tr_trainer *trainer = arg;
    trainer->step_err = tr_auc_result(trainer->auc, &trainer->quality_next);
    if (trainer->step_err)
        snprintf(trainer->step_text, sizeof trainer->step_text, "%s", rt_err_text());
}

static void summed_up(void *arg)
{
    struct tr_trainer *trainer = arg;
    if (trainer->step_err) {
        trainer->summing_up = false;
        tr_fail(trainer, RT_FAIL(trainer->step_err, "evaluation: %s", trainer->step_text));
        return;
    }
    on_evaluated(trainer);
}

static void end_training(struct tr_trainer *trainer)
{
    double loss =
        trainer->epoch_samples ? trainer->epoch_loss_sum / (double)trainer->epoch_samples : NAN;
    rt_log(RT_LOG_INFO, "epoch_over epoch=%" PRIu64 " samples=%" PRIu64 " loss=%.5f",
           trainer->epoch, trainer->epoch_samples, loss);
    trainer->count.train_loss = loss;
    trainer->count.samples_epoch = trainer->epoch_samples;
    trainer->epoch_loss_sum = 0;
    trainer->epoch_samples = 0;
    rt_ledger_next_epoch(trainer->ledger);
    if (has_test(trainer->job)) {
        tr_auc_reset(trainer->auc);
        trainer->evaluating_since_ns = rt_io_now(trainer->io);
        next_phase(trainer, WIRE_PHASE_EVALUATE, trainer->epoch);
        return;
    }
    bool more = trainer->epoch + 1 < trainer->job->data.epochs;
    next_phase(trainer, more ? WIRE_PHASE_TRAIN : WIRE_PHASE_DONE, trainer->epoch + (more ? 1 : 0));
}

void tr_phase_check(struct tr_trainer *trainer)
{
    uint32_t splits = trainer->job->data.splits;
    if (trainer->kind == WIRE_PHASE_TRAIN && rt_ledger_epoch_over(trainer->ledger, splits)) {
        end_training(trainer);
    } else if (trainer->kind == WIRE_PHASE_EVALUATE && !trainer->summing_up &&
               rt_ledger_epoch_over(trainer->evaluation, splits)) {
        rt_ledger_next_epoch(trainer->evaluation);
        trainer->summing_up = true;
        trainer->work = (struct rt_work){.run = sum_up, .done = summed_up, .arg = trainer};
        rt_io_work(trainer->io, &trainer->work);
    }
}

/* ---- EndOfEpoch ---- */

static int take_end(struct tr_trainer *trainer, const struct wire_end_of_epoch *end)
{
    uint32_t base = end->evaluate ? RT_SPLIT_EVALUATE : 0;
    for (uint32_t i = 0; i < end->n_ended; i++) {
        struct wire_split_ledger split = end->ended[i];
        if (split.split < base || split.split - base >= trainer->job->data.splits)
            return RT_FAIL(RT_EPROTO, "EndOfEpoch: split %u, expected %u..%u", split.split, base,
                           base + trainer->job->data.splits - 1);
        split.split -= base;
        int err = rt_ledger_end(end->evaluate ? trainer->evaluation : trainer->ledger, &split);
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
    if (!err && end.phase == trainer->phase) /* of an earlier phase: a repeat, known already */
        err = take_end(trainer, &end);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    tr_phase_check(trainer);
}
