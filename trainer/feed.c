/* trainer/feed.c -- batches in: TrainBatch taken from data-compose, permits, lookups at the middleware.
 *
 * TrainBatch is one long call: it is answered when the batch is finished (or must come again). A repeat of
 * a batch that is here joins it; of one that is finished is answered at once; of one that was stepped
 * but could not be pushed brings the new place of its ids, and only the push is done again. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"
#include "runtime/base/trace.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char outdated[] = "its rows are of before an import";
static const char other_phase[] = "the job is in another phase";

static void answer(struct tr_trainer *trainer, struct rt_call *call, uint64_t batch_id,
                   enum wire_outcome outcome, const char *reason, bool failed)
{
    struct wire_train_batch_reply reply = {
        .outcome = outcome, .reason = reason ? reason : "", .failed = failed};
    int err = wire_train_batch_reply_pack(&reply, &trainer->out);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){.batch_id = batch_id,
                                              .message = trainer->out.data,
                                              .message_size = trainer->out.size});
}

void tr_feed_answer(struct tr_batch *batch, enum wire_outcome outcome, const char *reason)
{
    if (outcome == WIRE_RETRY) {
        batch->trainer->count.batches_retried++;
        tr_count(&batch->trainer->metric.batches_retried, 1);
    }
    if (batch->call)
        answer(batch->trainer, batch->call, batch->id, outcome, reason, batch->failed);
    batch->call = NULL;
}

void tr_feed_finish(struct tr_batch *batch, enum wire_outcome outcome, const char *reason)
{
    struct tr_trainer *trainer = batch->trainer;
    if (outcome == WIRE_DROPPED)
        rt_log(RT_LOG_WARN, "batch_dropped batch=%016" PRIx64 " samples=%u reason=\"%s\"",
               batch->id, batch->head.samples, reason);
    if (outcome == WIRE_EVALUATED) {
        int err = tr_evaluate_scored(trainer, batch);
        if (err)
            tr_fail(trainer, err);
    }
    tr_batch_trace(batch);
    tr_feed_answer(batch, outcome, reason);
    rt_map_remove(&trainer->batches, batch->id);
    tr_count_held(batch, false);
    tr_batch_give(batch);
    tr_phase_check(trainer);
}

/* ---- lookups ---- */

static int check_index(const struct tr_sequence_view *view, const char *name, uint32_t places)
{
    for (uint32_t i = 0; i < places; i++)
        if (view->index[i] >= view->rows)
            return RT_FAIL(RT_EPROTO,
                           "LookupBatch reply: feature %s: place %u has row %u, expected below %u",
                           name, i, view->index[i], view->rows);
    return 0;
}

/* Rows, which of them stands where, and lengths: [rows][dim], [places], [samples]. */
static int view_sequence(struct tr_batch *batch, uint32_t f,
                         const struct wire_lookup_batch_reply *head, struct rt_segments *seg)
{
    const struct rt_feature_conf *conf = &batch->trainer->job->feature[f];
    struct tr_sequence_view *view = &batch->sequence[f];
    uint32_t places = head->places ? head->places[f] : 0;
    const void *data, *index = NULL, *length = NULL;
    uint64_t sum = 0;
    view->rows = head->rows ? head->rows[f] : 0;
    int err = rt_segment_take(seg, (size_t)view->rows * head->dim[f], wire_dtype_size(head->dtype),
                              &data);
    if (!err)
        err = rt_segment_take(seg, places, sizeof(uint32_t), &index);
    if (!err)
        err = rt_segment_take(seg, head->samples, sizeof(uint32_t), &length);
    if (err)
        return err;
    batch->feature[f] = data;
    view->index = index;
    view->length = length;
    for (uint32_t s = 0; s < head->samples; s++) {
        if (view->length[s] > conf->max_length)
            return RT_FAIL(
                RT_EPROTO,
                "LookupBatch reply: feature %s: sample %u has %u places, expected at most %u",
                conf->name, s, view->length[s], conf->max_length);
        sum += view->length[s];
    }
    if (sum != places)
        return RT_FAIL(RT_EPROTO,
                       "LookupBatch reply: feature %s: lengths sum to %llu, expected %u places",
                       conf->name, (unsigned long long)sum, places);
    return check_index(view, conf->name, places);
}

/* The embeddings are where they arrived; the view points at each feature's [samples][dim]. */
static int view_embeddings(struct tr_batch *batch, const struct rt_frame *reply)
{
    struct tr_trainer *trainer = batch->trainer;
    const struct rt_job *job = trainer->job;
    struct wire_lookup_batch_reply head;
    rt_arena_reset(trainer->scratch);
    int err = wire_lookup_batch_reply_unpack(reply->message, reply->header.message_size,
                                             trainer->scratch, &head);
    if (err)
        return err;
    if (head.samples != batch->head.samples || head.n_features != job->n_features ||
        head.dtype != job->global.wire.embeddings)
        return RT_FAIL(RT_EPROTO,
                       "LookupBatch reply: expected %u samples, %u features, dtype %u; got %u, "
                       "%u, %u",
                       batch->head.samples, job->n_features, job->global.wire.embeddings,
                       head.samples, head.n_features, head.dtype);
    struct rt_segments seg = rt_segments_of(reply->payload);
    size_t element = wire_dtype_size(head.dtype);
    for (uint32_t f = 0; f < job->n_features; f++) {
        uint32_t dim = job->table[job->feature[f].table].dim;
        const void *data;
        if (head.dim[f] != dim)
            return RT_FAIL(RT_EPROTO, "LookupBatch reply: feature %s: expected dim %u, got %u",
                           job->feature[f].name, dim, head.dim[f]);
        if (rt_feature_is_sequence(job, f)) {
            err = view_sequence(batch, f, &head, &seg);
            if (err)
                return err;
            continue;
        }
        err = rt_segment_take(&seg, (size_t)head.samples * dim, element, &data);
        if (err)
            return err;
        batch->feature[f] = data;
    }
    return rt_segments_end(&seg);
}

static struct tr_permits *permits_of(struct tr_batch *batch)
{
    return batch->head.evaluate ? &batch->trainer->lookups : &batch->trainer->permits;
}

bool tr_feed_lost(int err)
{
    return err == RT_EPEER || err == RT_EUNKNOWN || err == RT_EFULL || err == RT_ECANCELED ||
           err == RT_EDEADLINE || err == RT_ENOTREADY;
}

/* Not stepped, so nothing is lost: data-compose brings it again, unless it keeps failing by itself. */
static void give_back(struct tr_batch *batch, int err, const char *text)
{
    char reason[256];
    snprintf(reason, sizeof reason, "%s", text);
    struct tr_trainer *trainer = batch->trainer;
    if (tr_feed_lost(err) || batch->head.attempt < TR_ATTEMPTS_MAX) {
        batch->failed = !tr_feed_lost(err);
        tr_feed_finish(batch, WIRE_RETRY, reason);
    } else if (batch->head.evaluate) { /* a result without these rows would be another result */
        tr_fail(trainer, RT_FAIL(err, "evaluation batch %016" PRIx64 ": %s", batch->id, reason));
    } else {
        tr_finished(trainer, batch->id);
        tr_count_dropped(batch);
        tr_push_release(batch, "poisoned");
        char poisoned[300];
        snprintf(poisoned, sizeof poisoned, "poisoned: %s", reason);
        tr_feed_finish(batch, WIRE_DROPPED, poisoned);
    }
}

static void on_embeddings(void *arg, int err, const struct rt_frame *reply)
{
    struct tr_batch *batch = arg;
    struct tr_trainer *trainer = batch->trainer;
    if (trainer->closing)
        return; /* the rpc is going away, and the batch with it */
    if (!err)
        err = view_embeddings(batch, reply);
    if (!err && batch->outdated) {
        tr_push_release(batch, outdated);
        err = RT_FAIL(RT_ECANCELED, "%s", outdated);
    }
    if (!err && trainer->kind == WIRE_PHASE_DONE) { /* training ended before its turn */
        tr_push_release(batch, "training is over");
        err = RT_FAIL(RT_ECANCELED, "training is over");
    }
    if (!err && !batch->head.evaluate)
        err = tr_batch_take_gradients(batch);
    if (err) {
        tr_permit_return(permits_of(batch));
        give_back(batch, err, rt_err_text());
        tr_pump(trainer);
        return;
    }
    batch->embeddings = reply->payload ? rt_buf_ref(reply->payload) : NULL;
    if (reply->payload && !batch->head.evaluate)
        trainer->count.bytes_embeddings += reply->payload->size;
    RT_FAILPOINT("P6.came");
    tr_batch_to(batch, TR_READY);
    tr_fifo_push(&trainer->ready, batch);
    tr_pump(trainer);
}

static int start_lookup(struct tr_batch *batch)
{
    struct tr_trainer *trainer = batch->trainer;
    /* Owners ack a batch when they have applied all of its step: where the latest one has a batch of ours, there is
     * nothing to wait for, and an owner that was started anew has nobody left to wait for. But others may have made
     * it without us. A batch that is stepped already is run again for a step that waits for it. */
    bool wait = trainer->group && trainer->job->global.mode == RT_MODE_FULL &&
                trainer->step > trainer->acked_step &&
                !rt_ledger_is_stepped(trainer->ledger, batch->id);
    struct wire_lookup_batch request = {
        .step = wait ? trainer->step : 0,
        .samples = batch->head.samples,
        .evaluate = batch->head.evaluate,
        .digest = batch->head.digest,
    };
    int err = wire_lookup_batch_pack(&request, &trainer->out);
    if (err)
        return err;
    struct rt_outgoing out = {
        .batch_id = batch->id, .message = trainer->out.data, .message_size = trainer->out.size};
    return rt_rpc_call(batch->middleware, WIRE_LOOKUP_BATCH, &out, TR_DEADLINE_NS, on_embeddings,
                       batch);
}

/* May it be looked up? In `full` the order of steps is that of the data plan: a batch that had to be sent
 * again keeps its place, and those after it wait, until it is finished: a rank that came back has a permit free
 * that its batch of the latest step will need. */
static bool is_next(const struct tr_trainer *trainer, const struct tr_batch *batch)
{
    const struct wire_train_batch *head = &batch->head;
    if (head->evaluate ||
        trainer->kind == WIRE_PHASE_EVALUATE) /* training batches wait meanwhile */
        return head->evaluate == (trainer->kind == WIRE_PHASE_EVALUATE);
    if (trainer->job->global.mode != RT_MODE_FULL)
        return true;
    return tr_phase_in_turn(trainer, batch) &&
           (!head->has_before || rt_ledger_is_finished(trainer->ledger, head->before));
}

/* One that the group has stepped already goes first, whether we have a place in the next round or not: in `full` the
 * owners hold that step, and every lookup of a later one, until its gradients are there. */
static struct tr_batch *next_in_turn(const struct tr_trainer *trainer)
{
    struct tr_batch *fresh = NULL;
    bool formed = !trainer->group || trainer->group->state == TR_FORMED;
    for (struct tr_batch *batch = trainer->queue.head; batch; batch = batch->next) {
        if (!is_next(trainer, batch))
            continue;
        if (formed && !batch->head.evaluate && rt_ledger_is_stepped(trainer->ledger, batch->id))
            return batch;
        fresh = fresh ? fresh : batch;
    }
    bool may = fresh && (fresh->head.evaluate || tr_step_may_look_up(trainer));
    return may ? fresh : NULL;
}

void tr_feed_pump(struct tr_trainer *trainer)
{
    struct tr_batch *batch;
    while (tr_back_may_work(trainer) && (batch = next_in_turn(trainer)) != NULL) {
        struct tr_permits *permits = permits_of(batch);
        if (!tr_permit_take(permits))
            break;
        tr_fifo_remove(&trainer->queue, batch);
        tr_batch_to(batch, TR_LOOKING);
        int err = start_lookup(batch);
        RT_FAILPOINT("P4.sent");
        if (!err && !batch->head.evaluate)
            rt_histogram_observe(&trainer->metric.staleness, RT_HISTOGRAM_COUNT, permits->used);
        if (err) {
            tr_permit_return(permits);
            give_back(batch, err, rt_err_text());
        }
    }
    tr_set(&trainer->metric.permits_used, trainer->permits.used);
}

/* Data-compose hears of an epoch when all ranks are in it. So a batch of a later one is of a composer that has not heard yet that the group has
 * gone back to a checkpoint: it would be stepped in the midst of this one, and `exact` would end with other bits. */
static bool is_ahead(const struct tr_trainer *trainer, const struct wire_train_batch *head)
{
    bool known = !trainer->group || trainer->group->was_formed;
    return known && !head->evaluate && head->epoch > trainer->epoch;
}

static void send_back(struct tr_batch *batch, enum wire_outcome outcome, const char *why)
{
    tr_fifo_remove(&batch->trainer->queue, batch);
    tr_push_release(batch, why);
    tr_feed_finish(batch, outcome, outcome == WIRE_TRAINED ? NULL : why);
}

/* A rank that came back was sent batches before it knew what the group has done. */
void tr_feed_rejoin(struct tr_trainer *trainer)
{
    struct tr_batch *batch = trainer->queue.head, *next;
    for (; batch; batch = next) {
        next = batch->next;
        if (batch->head.evaluate)
            continue;
        if (rt_ledger_is_finished(trainer->ledger, batch->id))
            send_back(batch, WIRE_TRAINED, "finished already");
        else if (is_ahead(trainer, &batch->head))
            send_back(batch, WIRE_RETRY, other_phase);
    }
}

void tr_feed_return(struct tr_trainer *trainer)
{
    struct tr_batch *batch;
    size_t cursor = 0;
    uint64_t id, value;
    while ((batch = tr_step_take_ready(trainer, false)) != NULL) {
        tr_permit_return(&trainer->permits);
        tr_push_release(batch, outdated);
        tr_feed_finish(batch, WIRE_RETRY, outdated);
    }
    while (rt_map_next(&trainer->batches, &cursor, &id, &value)) {
        batch = (struct tr_batch *)(uintptr_t)value;
        batch->outdated = batch->state == TR_LOOKING && !batch->head.evaluate;
    }
}

/* ---- TrainBatch ---- */

static int check_head(struct tr_trainer *trainer, uint64_t id, const struct wire_train_batch *head)
{
    const struct rt_job *job = trainer->job;
    uint32_t split = rt_batch_split(id);
    if (head->n_dense != job->data.n_dense || head->n_labels != job->data.n_labels)
        return RT_FAIL(RT_EPROTO, "TrainBatch: expected %u dense and %u labels, got %u and %u",
                       job->data.n_dense, job->data.n_labels, head->n_dense, head->n_labels);
    if (head->grouped != job->data.grouped)
        return RT_FAIL(RT_EPROTO, "TrainBatch: grouped is %d, expected %d", head->grouped,
                       job->data.grouped);
    if (head->samples == 0 || head->samples > job->data.batch_size)
        return RT_FAIL(RT_EPROTO, "TrainBatch: expected 1..%u samples, got %u",
                       job->data.batch_size, head->samples);
    if (head->evaluate != (split >= RT_SPLIT_EVALUATE))
        return RT_FAIL(RT_EPROTO, "TrainBatch: evaluate=%d does not go with split %u",
                       head->evaluate, split);
    if (split % RT_SPLIT_EVALUATE >= job->data.splits)
        return RT_FAIL(RT_EPROTO, "TrainBatch: split %u, expected below %u", split,
                       job->data.splits + (head->evaluate ? RT_SPLIT_EVALUATE : 0));
    uint32_t rank = rt_batch_rank(id, trainer->conf.world);
    if (rank != trainer->conf.self.index)
        return RT_FAIL(RT_EPROTO,
                       "TrainBatch: batch %016" PRIx64 " is for rank %u, this is rank %u", id, rank,
                       trainer->conf.self.index);
    return 0;
}

/* Some losses take a label for a place in memory. */
static int check_labels(const struct rt_job *job, const float *label, uint32_t samples)
{
    uint32_t n = job->data.n_labels;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t classes = job->label_classes ? job->label_classes[i] : 2;
        for (uint32_t s = 0; s < samples; s++) {
            float value = label[(size_t)s * n + i];
            if (!rt_label_fits(classes, (double)value))
                return RT_FAIL(RT_EPROTO, "TrainBatch: sample %u: label '%s' is %g, of %u classes",
                               s, job->label[i], (double)value, classes);
        }
    }
    return 0;
}

static int check_keys(const struct tr_batch *batch)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; batch->key_length && s < batch->head.samples; s++)
        sum += batch->key_length[s];
    if (batch->key_length && sum != batch->head.key_bytes)
        return RT_FAIL(RT_EPROTO, "TrainBatch: the keys have %llu bytes, expected %llu",
                       (unsigned long long)sum, (unsigned long long)batch->head.key_bytes);
    return 0;
}

static int view_input(struct tr_batch *batch)
{
    const struct wire_train_batch *head = &batch->head;
    struct rt_segments seg = rt_segments_of(batch->input);
    const void *dense, *labels, *weight = NULL, *group = NULL, *length = NULL, *key = NULL;
    int err = rt_segment_take(&seg, (size_t)head->samples * head->n_dense, sizeof(float), &dense);
    if (!err)
        err = rt_segment_take(&seg, (size_t)head->samples * head->n_labels, sizeof(float), &labels);
    if (!err && head->weighted)
        err = rt_segment_take(&seg, head->samples, sizeof(float), &weight);
    if (!err && head->grouped)
        err = rt_segment_take(&seg, head->samples, sizeof(uint64_t), &group);
    if (!err && head->key_bytes > 0)
        err = rt_segment_take(&seg, head->samples, sizeof(uint32_t), &length);
    if (!err && head->key_bytes > 0)
        err = rt_segment_take(&seg, head->key_bytes, 1, &key);
    if (!err)
        err = rt_segments_end(&seg);
    if (err)
        return rt_fail_prefix(err, "TrainBatch: ");
    batch->view.batch_id = batch->id;
    batch->view.samples = head->samples;
    batch->view.dense = head->n_dense ? dense : NULL;
    batch->view.labels = labels;
    batch->view.weight = weight;
    batch->group = group;
    batch->key_length = length;
    batch->key = key;
    err = check_keys(batch);
    return err ? err : check_labels(batch->trainer->job, labels, head->samples);
}

/* Batches hold permits from lookup to ack, and those hand on what they have reserved. */
static bool something_goes_on(const struct tr_trainer *trainer)
{
    if (trainer->permits.used + trainer->lookups.used > 0)
        return true;
    for (const struct tr_batch *batch = trainer->queue.head; batch; batch = batch->next)
        if (is_next(trainer, batch))
            return true;
    return false;
}

/* A batch that all others wait for is let in, whatever they hold: one that is stepped elsewhere, and (one at a time) the
 * next one where all that are here wait for their turn. */
static int reserve(struct tr_batch *batch)
{
    const struct tr_trainer *trainer = batch->trainer;
    bool stepped = !batch->head.evaluate && rt_ledger_is_stepped(trainer->ledger, batch->id);
    bool must = stepped || (is_next(trainer, batch) && !something_goes_on(trainer));
    return tr_batch_reserve(batch, must);
}

static int admit(struct tr_trainer *trainer, struct rt_call *call, const struct rt_frame *request,
                 const struct wire_train_batch *head)
{
    if (trainer->batches.count >= TR_OPEN_MAX)
        return RT_FAIL(RT_EFULL, "%u batches are open", TR_OPEN_MAX);
    struct tr_batch *batch = tr_batch_take(trainer);
    batch->id = request->header.batch_id;
    batch->head = *head;
    batch->middleware = tr_middleware(trainer, head->middleware, head->middleware_loop);
    batch->input = request->payload ? rt_buf_ref(request->payload) : NULL;
    int err = view_input(batch);
    if (!err)
        err = reserve(batch);
    if (!err)
        err = rt_map_put_ptr(&trainer->batches, batch->id, batch);
    if (err) {
        tr_batch_give(batch);
        return err;
    }
    batch->call = call;
    batch->composer = rt_call_from(call)->index;
    tr_count_held(batch, true); /* QUEUED, as zero is */
    batch->since_ns = rt_trace_begin(batch->id);
    if (request->payload && !head->evaluate)
        trainer->count.bytes_train_batch += request->payload->size;
    if (trainer->started_ns == 0 && !head->evaluate)
        trainer->started_ns = rt_io_now(trainer->io);
    tr_part_start(trainer);
    RT_FAILPOINT("P3.taken");
    tr_fifo_push(&trainer->queue, batch);
    return 0;
}

/* A copy of the batch's ids that nobody will ask for. */
static void release_copy(struct tr_batch *batch, struct rt_peer *middleware)
{
    struct rt_peer *kept = batch->middleware;
    batch->middleware = middleware;
    tr_push_release(batch, "it was put elsewhere too");
    batch->middleware = kept;
}

/* The batch is here already: this call takes over from the one before. Data-compose may have put the ids at another
 * loop meanwhile: there is one copy too many then, unless the batch waited for just that. */
static void join(struct tr_batch *batch, struct rt_call *call, const struct wire_train_batch *head)
{
    struct rt_peer *place = tr_middleware(batch->trainer, head->middleware, head->middleware_loop);
    if (batch->call)
        rt_call_fail(batch->call, RT_ESTALE, "the batch was sent again");
    batch->call = call;
    batch->composer = rt_call_from(call)->index;
    if (head->digest != batch->head.digest) {
        rt_call_fail(call, RT_EDIGEST, "the batch is here with other ids");
        batch->call = NULL;
        return;
    }
    if (batch->state != TR_QUEUED && batch->state != TR_STRANDED) {
        if (place != batch->middleware)
            release_copy(batch, place);
        return;
    }
    if (batch->state == TR_QUEUED && place != batch->middleware)
        release_copy(batch, batch->middleware);
    batch->head = *head;
    batch->middleware = place;
    if (batch->state == TR_STRANDED)
        tr_push_start(batch);
}

/* Why a batch cannot be taken now; NULL: it can. Training batches may come while an evaluation is made. */
static const char *not_now(struct tr_trainer *trainer, uint64_t id,
                           const struct wire_train_batch *head, bool is_here)
{
    if (head->evaluate ? trainer->kind != WIRE_PHASE_EVALUATE
                       : trainer->kind == WIRE_PHASE_STATISTICS ||
                             (trainer->kind == WIRE_PHASE_DONE && !is_here))
        return other_phase;
    if (is_ahead(trainer, head))
        return other_phase;
    if (!tr_middleware(trainer, head->middleware, head->middleware_loop))
        return "that middleware is not known here yet";
    /* Of a composer that has not heard yet that all trainers were lost; or we have not heard yet where the group is. */
    if (!head->evaluate && !rt_ledger_has_room(trainer->ledger, id))
        return "it is too far ahead of the ledger here";
    return NULL;
}

/* What nobody else knows yet to be finished is not over: were this rank lost now, the batch would have to come again. */
static bool is_over(const struct tr_trainer *trainer, uint64_t id, const struct tr_batch *batch,
                    bool evaluate)
{
    if (evaluate)
        return tr_scores_has(&trainer->scores, id);
    return rt_ledger_is_finished(trainer->ledger, id) && (!batch || batch->state != TR_TELLING);
}

void tr_feed_serve(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    uint64_t id = request->header.batch_id;
    struct wire_train_batch head;
    rt_arena_reset(trainer->scratch);
    int err = wire_train_batch_unpack(request->message, request->header.message_size,
                                      trainer->scratch, &head);
    if (!err)
        err = check_head(trainer, id, &head);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    struct tr_batch *batch = rt_map_get_ptr(&trainer->batches, id);
    const char *why = not_now(trainer, id, &head, batch != NULL);
    if (!head.evaluate)
        tr_phase_has_batch(trainer, rt_call_from(call)->index);
    if (is_over(trainer, id, batch, head.evaluate)) {
        answer(trainer, call, id, head.evaluate ? WIRE_EVALUATED : WIRE_TRAINED, NULL, false);
    } else if (why) {
        answer(trainer, call, id, WIRE_RETRY, why, false);
    } else if (batch) {
        join(batch, call, &head);
    } else {
        err = admit(trainer, call, request, &head);
        if (err)
            rt_call_fail(call, err, rt_err_text());
    }
    tr_pump(trainer);
}
