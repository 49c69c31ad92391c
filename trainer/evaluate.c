/* trainer/evaluate.c -- one evaluation: each rank scores the test batches that are its own, rank 0 sums up.
 *
 *   every rank   batches -step.c-> scores, list of batches (metric/scores.h)
 *   rank r > 0   its own are complete -> Scores, part by part -> rank 0
 *   rank 0       its own are complete, all others' are here -> the result, on the worker thread
 * A rank's own are complete when all splits have ended and every batch of them that is this rank's by its
 * name is in the list. The splits say where they end as sequences that run on over all evaluations, and the
 * phase says how many those were: so a rank needs no memory of earlier ones.
 *
 * Where the scores are wanted as a file (predict.h), each rank writes those of its own batches, on the step thread as they are
 * made, and the file is whole before our part is. That it cannot be written is told at the job's end, and is no reason to lose
 * the evaluation, nor the model.
 *
 * A part that was lost on the way is sent again; rank 0 counts parts, so a repeat changes nothing. Nothing
 * of this is in the training ledger.
 *
 * A rank that dies takes what it had scored with it, rank 0 what all have told it. Then all of it is scored again, in a phase of its own
 * (phase.c, tell.c), whose batches have names of their own: what is still scored of the one before is in no result. Rejected: to
 * score only what is missing. Composers would have to keep what each batch was until the end, for a few seconds saved once a crash. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define PART_BYTES (3u << 20) /* of a part's rows, unless one batch has more */

/* A file that cannot be made is told of before anything starts. */
static int begin_predictions(struct tr_trainer *trainer)
{
    const char *file = trainer->conf.predict;
    char *own = trainer->conf.world > 1 ? rt_xasprintf("%s.%u", file, trainer->conf.self.index)
                                        : rt_xstrdup(file);
    int err = tr_predict_create(own, trainer->head, trainer->n_heads, &trainer->predict);
    rt_free(own);
    trainer->predict_of = rt_xcalloc(trainer->job->data.splits, sizeof *trainer->predict_of);
    return err;
}

int tr_evaluate_init(struct tr_trainer *trainer)
{
    tr_scores_init(&trainer->scores, trainer->head, trainer->n_heads, trainer->job->data.grouped);
    for (uint32_t h = 0; h < TR_HEADS_MAX; h++)
        trainer->quality[h] = tr_quality_unknown;
    trainer->test = rt_xcalloc(trainer->job->data.splits, sizeof *trainer->test);
    return trainer->conf.predict ? begin_predictions(trainer) : 0;
}

void tr_evaluate_release(struct tr_trainer *trainer)
{
    tr_scores_release(&trainer->scores);
    tr_predict_destroy(trainer->predict);
    rt_free(trainer->predict_of);
    rt_free(trainer->test);
    rt_free(trainer->other);
}

void tr_evaluate_begin(struct tr_trainer *trainer)
{
    struct rt_peer *leader = tr_rank(trainer, 0);
    rt_assert(!trainer->summing_up);
    tr_scores_reset(&trainer->scores);
    memset(trainer->test, 0, trainer->job->data.splits * sizeof *trainer->test);
    trainer->scores_at = trainer->scored = 0;
    trainer->scores_part = 0;
    trainer->scores_sent = false;
    trainer->evaluator = leader ? rt_peer_incarnation(leader) : 0;
    trainer->evaluating_since_ns = rt_io_now(trainer->io);
    tr_parts_stop(&trainer->metric.parts, trainer->evaluating_since_ns);
    trainer->evaluations_begun = trainer->pass + 1;
    trainer->evaluated_step = trainer->step;
    for (uint32_t r = 0; r < trainer->conf.world; r++) {
        trainer->other[r].parts = 0;
        trainer->other[r].scored = r == 0;
    }
}

void tr_evaluate_leave(struct tr_trainer *trainer)
{
    uint64_t now = rt_io_now(trainer->io), since = trainer->evaluating_since_ns;
    if (trainer
            ->started_ns) /* training's clock runs; an evaluation before it takes none of its time */
        trainer->evaluated_ns += now - (since > trainer->started_ns ? since : trainer->started_ns);
    rt_histogram_observe(&trainer->metric.evaluate_seconds, RT_HISTOGRAM_SECONDS, now - since);
    tr_scores_reset(&trainer->scores);
}

/* ---- is our part complete? ---- */

int tr_evaluate_end(struct tr_trainer *trainer, const struct wire_split_ledger *ended)
{
    uint64_t passes = trainer->pass + 1, end = ended->end_sequence;
    if (end % passes != 0)
        return RT_FAIL(RT_EPROTO,
                       "EndOfEpoch: test split %u ends at %" PRIu64 ", expected a multiple of the "
                       "%" PRIu64 " evaluations",
                       ended->split, end, passes);
    trainer->test[ended->split] = (struct tr_split_test){true, end - end / passes, end};
    return 0;
}

int tr_evaluate_scored(struct tr_trainer *trainer, const struct tr_batch *batch)
{
    const struct tr_batch_view *view = &batch->view;
    struct tr_scored_view scored = {
        .batch_id = batch->id,
        .samples = view->samples,
        .n_labels = trainer->job->data.n_labels,
        .score = batch->scores,
        .label = view->labels,
        .weight = view->weight,
        .group = batch->group,
    };
    int err = tr_scores_add(&trainer->scores, &scored);
    trainer->scored += !err;
    return err;
}

/* Sequences of a test split below `end` that are this rank's. */
static uint64_t own_below(const struct tr_trainer *trainer, uint32_t split, uint64_t end)
{
    uint64_t world = trainer->conf.world, first = 0;
    while (rt_batch_rank(rt_batch_id(RT_SPLIT_EVALUATE + split, first), (uint32_t)world) !=
           trainer->conf.self.index)
        first++;
    return end > first ? (end - first - 1) / world + 1 : 0;
}

/* A composer that has not heard of the last phases may bring a batch of the evaluation before. */
static bool is_among(const struct tr_trainer *trainer, const struct tr_split_test *test,
                     uint64_t batch_id)
{
    uint32_t split = rt_batch_split(batch_id) - RT_SPLIT_EVALUATE; /* others are out of range */
    uint64_t sequence = rt_batch_sequence(batch_id);
    return split < trainer->job->data.splits && sequence >= test[split].begin &&
           sequence < test[split].end;
}

static bool is_of_this(void *arg, uint64_t batch_id)
{
    const struct tr_trainer *trainer = arg;
    return is_among(trainer, trainer->test, batch_id);
}

static bool own_complete(struct tr_trainer *trainer)
{
    uint64_t own = 0;
    for (uint32_t s = 0; s < trainer->job->data.splits; s++) {
        const struct tr_split_test *test = &trainer->test[s];
        if (!test->ended)
            return false;
        own += own_below(trainer, s, test->end) - own_below(trainer, s, test->begin);
    }
    if (trainer->scored < own) /* without a look at each */
        return false;
    uint64_t scored = 0;
    for (size_t b = 0; b < trainer->scores.n; b++)
        scored += rt_batch_rank(trainer->scores.list[b].batch_id, trainer->conf.world) ==
                      trainer->conf.self.index &&
                  is_of_this(trainer, trainer->scores.list[b].batch_id);
    return scored == own;
}

/* ---- the file of scores ---- */

void tr_evaluate_write(struct tr_trainer *trainer, const struct tr_batch *batch)
{
    const struct tr_predict_rows rows = {.batch_id = batch->id,
                                         .samples = batch->view.samples,
                                         .score = batch->scores,
                                         .key_length = batch->key_length,
                                         .key = batch->key};
    if (trainer->predict)
        tr_predict_add(trainer->predict, trainer->scoring, &rows);
}

static bool is_in_file(void *arg, uint64_t batch_id)
{
    const struct tr_trainer *trainer = arg;
    return is_among(trainer, trainer->predict_of, batch_id);
}

static void end_file(void *arg)
{
    struct tr_trainer *trainer = arg;
    struct tr_predicted *next = &trainer->predict_next;
    next->err =
        tr_predict_end(trainer->predict, trainer->predicting, is_in_file, trainer, &next->lines);
    if (next->err) /* the text belongs to this thread */
        snprintf(next->text, sizeof next->text, "%s", rt_err_text());
}

static void file_ended(void *arg)
{
    struct tr_trainer *trainer = arg;
    trainer->predicted = trainer->predicting;
    trainer->predicting = 0;
    trainer->predict_result = trainer->predict_next;
    if (trainer->predict_result.err)
        rt_log(RT_LOG_ERROR, "predictions_not_written reason=\"%s\"", trainer->predict_result.text);
    else
        rt_log(RT_LOG_INFO, "predictions_written rows=%" PRIu64, trainer->predict_result.lines);
    tr_phase_check(trainer);
}

/* Every batch of ours is in it, and it has its name; or it is known why not. */
static bool is_written(struct tr_trainer *trainer)
{
    if (!trainer->predict || trainer->predicted == trainer->phase)
        return true;
    if (trainer->predicting)
        return false;
    trainer->predicting = trainer->phase;
    memcpy(trainer->predict_of, trainer->test,
           trainer->job->data.splits * sizeof *trainer->predict_of);
    trainer->predict_work = (struct rt_work){.run = end_file, .done = file_ended, .arg = trainer};
    rt_io_work(trainer->io, &trainer->predict_work);
    return false;
}

/* ---- to rank 0 ---- */

static void on_taken(void *arg, int err, const struct rt_frame *reply)
{
    struct tr_trainer *trainer = arg;
    (void)reply;
    if (trainer->closing)
        return;
    trainer->scores_out = false;
    if (trainer->scores_phase != trainer->phase) { /* of an evaluation that was given up */
        tr_phase_check(trainer);
        return;
    }
    if (!err) {
        trainer->scores_at = trainer->scores_next;
        trainer->scores_part++;
        trainer->scores_sent = trainer->scores_at == trainer->scores.n;
    } else if (tr_feed_lost(err) || err == RT_ESTALE) {
        tr_phase_again(trainer);
        return;
    } else {
        tr_fail(trainer, rt_fail_prefix(err, "scores of an evaluation: "));
    }
    tr_phase_check(trainer);
}

static int send_part(struct tr_trainer *trainer)
{
    struct wire_scores head = {.phase = trainer->phase, .part = trainer->scores_part};
    struct rt_buf *payload = NULL;
    trainer->scores_next = trainer->scores_at;
    uint32_t samples = PART_BYTES / (trainer->scores.columns * (uint32_t)sizeof(float));
    int err = tr_scores_pack(&trainer->scores, &trainer->scores_next, samples, trainer->io, &head,
                             &payload);
    if (!err)
        err = wire_scores_pack(&head, &trainer->out);
    if (!err) {
        struct rt_piece piece = {payload->data, payload->size, payload};
        struct rt_outgoing out = {.message = trainer->out.data,
                                  .message_size = trainer->out.size,
                                  .pieces = &piece,
                                  .n_pieces = payload->size > 0};
        err =
            rt_rpc_call(tr_rank(trainer, 0), WIRE_SCORES, &out, TR_DEADLINE_NS, on_taken, trainer);
    }
    trainer->scores_out = !err;
    trainer->scores_phase = trainer->phase;
    rt_buf_unref(payload);
    return err;
}

static void send_scores(struct tr_trainer *trainer)
{
    struct rt_peer *leader = tr_rank(trainer, 0);
    if (trainer->scores_sent || trainer->scores_out || !rt_peer_is_up(leader))
        return;
    if (rt_peer_incarnation(leader) != trainer->evaluator) /* it will begin another one */
        return;
    int err = send_part(trainer);
    if (err == RT_EFULL) /* the link's credit: we are called again when there is room */
        return;
    if (err && tr_feed_lost(err))
        tr_phase_again(trainer);
    else if (err)
        tr_fail(trainer, err);
}

/* ---- at rank 0 ---- */

int tr_evaluate_take(struct tr_trainer *trainer, uint32_t rank, const struct rt_frame *frame)
{
    struct tr_other *other = &trainer->other[rank];
    struct wire_scores head;
    rt_arena_reset(trainer->scratch);
    int err =
        wire_scores_unpack(frame->message, frame->header.message_size, trainer->scratch, &head);
    if (err)
        return err;
    bool now = trainer->kind == WIRE_PHASE_EVALUATE && head.phase == trainer->phase;
    if (!now || other->scored || head.part < other->parts)
        return 0; /* it is here already */
    if (head.part != other->parts)
        return RT_FAIL(RT_EPROTO, "Scores: part %u of trainer/%u, expected %u", head.part, rank,
                       other->parts);
    err = tr_scores_take(&trainer->scores, &head, frame->payload);
    if (err)
        return err;
    other->parts++;
    other->scored = head.last;
    return 0;
}

void tr_evaluate_serve_scores(void *ctx, struct rt_call *call, const struct rt_frame *frame)
{
    struct tr_trainer *trainer = ctx;
    uint32_t from = rt_call_from(call)->index;
    int err = trainer->conf.self.index == 0 && from < trainer->conf.world
                  ? tr_evaluate_take(trainer, from, frame)
                  : RT_FAIL(RT_EPROTO, "Scores: from trainer/%u, expected to trainer/0", from);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    tr_phase_check(trainer);
}

/* A few rows beyond the range of float32 are no reason to lose what the others say, nor the job. */
static void warn_nonfinite(const struct tr_trainer *trainer)
{
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        const struct tr_quality *q = &trainer->quality[h];
        if (q->nonfinite > 0)
            rt_log(RT_LOG_WARN,
                   "scores_not_finite head=%s samples=%" PRIu64 " of=%" PRIu64 " step=%" PRIu64
                   " reason=\"they are left out of the evaluation\"",
                   trainer->head[h].name, q->nonfinite, q->nonfinite + q->samples,
                   trainer->evaluated_step);
    }
}

static void keep(struct tr_trainer *trainer)
{
    const struct tr_quality *q = trainer->quality;
    if (trainer->n_evaluated == TR_EVALUATIONS_MAX) {
        trainer->n_evaluated--;
        memmove(trainer->evaluated, trainer->evaluated + 1,
                trainer->n_evaluated * sizeof *trainer->evaluated);
    }
    trainer->evaluated[trainer->n_evaluated++] = (struct tr_evaluation){
        trainer->evaluated_step, trainer->epoch, q->samples, q->auc, q->logloss};
    trainer->count.evaluations++;
    tr_set(&trainer->metric.evaluations, trainer->count.evaluations);
    tr_set_real(&trainer->metric.test_auc, q->auc);
    tr_set_real(&trainer->metric.test_logloss, q->logloss);
    tr_count_quality(trainer, TR_SET_TEST, trainer->quality);
    tr_board_test(trainer, rt_io_now(trainer->io) - trainer->evaluating_since_ns);
    rt_log(RT_LOG_INFO,
           "evaluated epoch=%" PRIu64 " step=%" PRIu64 " samples=%" PRIu64
           " auc=%.5f logloss=%.5f calibration=%.4f",
           trainer->epoch, trainer->evaluated_step, q->samples, q->auc, q->logloss, q->calibration);
    warn_nonfinite(trainer);
}

static void sum_up(void *arg)
{
    struct tr_trainer *trainer = arg;
    trainer->sum_err = tr_scores_result(&trainer->scores, trainer->quality_next);
    if (trainer->sum_err) /* the text belongs to this thread */
        snprintf(trainer->sum_text, sizeof trainer->sum_text, "%s", rt_err_text());
}

static void summed_up(void *arg)
{
    struct tr_trainer *trainer = arg;
    trainer->summing_up = false;
    if (trainer->sum_err) {
        tr_fail(trainer, RT_FAIL(trainer->sum_err, "evaluation: %s", trainer->sum_text));
        return;
    }
    memcpy(trainer->quality, trainer->quality_next, sizeof trainer->quality);
    keep(trainer);
    tr_phase_evaluated(trainer);
    tr_pump(trainer);
}

void tr_evaluate_pump(struct tr_trainer *trainer)
{
    if (trainer->summing_up || !own_complete(trainer) || !is_written(trainer))
        return;
    if (trainer->conf.self.index != 0) {
        send_scores(trainer);
        return;
    }
    for (uint32_t r = 1; r < trainer->conf.world; r++)
        if (!trainer->other[r].scored)
            return;
    if (trainer->stepping) /* a batch of an evaluation before: the list is its to add to */
        return;
    tr_scores_filter(&trainer->scores, is_of_this, trainer);
    trainer->summing_up = true;
    trainer->sum_work = (struct rt_work){.run = sum_up, .done = summed_up, .arg = trainer};
    rt_io_work(trainer->io, &trainer->sum_work);
}
