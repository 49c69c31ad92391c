/* trainer/push.c -- gradients out: to the middleware loop that holds the batch's ids, until acked.
 *
 * The batch is in the dense weights by now, so its gradients are kept until every owner has them. A
 * middleware that is lost strands the batch: data-compose is asked to put the ids again somewhere, and
 * the owners' filters take only what is missing. */
#include "trainer/state.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"

#include <inttypes.h>
#include <stdio.h>

static void strand(struct tr_batch *batch, const char *why)
{
    char reason[256];
    snprintf(reason, sizeof reason, "stepped, push failed: %s", why);
    tr_batch_to(batch, TR_STRANDED);
    tr_feed_answer(batch, WIRE_RETRY, reason);
}

static void finish_trained(struct tr_batch *batch)
{
    struct tr_trainer *trainer = batch->trainer;
    RT_FAILPOINT("P10.acked");
    tr_finished(trainer, batch->id);
    if (batch->step > trainer->acked_step)
        trainer->acked_step = batch->step;
    trainer->last_ack_ns = rt_io_now(trainer->io);
    trainer->evaluated_by_ack_ns = trainer->evaluated_ns;
    trainer->count.samples_trained += batch->head.samples;
    trainer->count.batches_trained++;
    tr_set(&trainer->metric.samples_trained, trainer->count.samples_trained);
    tr_count(&trainer->metric.gradients_saturated, batch->saturated);
    tr_set(&trainer->metric.batches_trained, trainer->count.batches_trained);
    tr_permit_return(&trainer->permits);
    if (trainer->group)
        tr_group_finish(batch);
    else
        tr_feed_finish(batch, WIRE_TRAINED, NULL);
}

static void on_pushed(void *arg, int err, const struct rt_frame *reply)
{
    struct tr_batch *batch = arg;
    struct tr_trainer *trainer = batch->trainer;
    if (trainer->closing)
        return; /* the rpc is going away, and the batch with it */
    struct wire_push_gradients_reply head;
    rt_arena_reset(trainer->scratch);
    if (!err)
        err = wire_push_gradients_reply_unpack(reply->message, reply->header.message_size,
                                               trainer->scratch, &head);
    if (!err)
        finish_trained(batch);
    else if (!tr_feed_lost(err) && ++batch->refused == TR_ATTEMPTS_MAX)
        tr_fail(trainer, RT_FAIL(err,
                                 "batch %016" PRIx64 " was stepped, and its gradients were refused "
                                 "%d times: %s",
                                 batch->id, TR_ATTEMPTS_MAX, rt_err_text()));
    else
        strand(batch, rt_err_text());
    tr_pump(trainer);
}

/* What the gradients were multiplied by, in the arena; NULL in *out: by nothing. */
static int take_scales(const struct tr_batch *batch, struct rt_arena *arena, const float **out)
{
    const struct rt_job *job = batch->trainer->job;
    *out = NULL;
    if (job->global.wire.gradients != WIRE_F16)
        return 0;
    float *scale = rt_arena_array(arena, float, job->n_features);
    if (!scale)
        return RT_FAIL(RT_ENOMEM, "no memory for %u features", job->n_features);
    for (uint32_t f = 0; f < job->n_features; f++)
        scale[f] = batch->feature_grad[f].scale;
    *out = scale;
    return 0;
}

/* Every owner has all steps up to this one, as far as is known here: of an earlier one nothing is owed. */
static uint64_t applied_through(const struct tr_trainer *trainer, const struct tr_batch *batch)
{
    uint64_t oldest = batch->step, id, value;
    size_t cursor = 0;
    while (trainer->group && rt_map_next(&trainer->group->owed, &cursor, &id, &value)) {
        const struct wire_owed *owed = (const struct wire_owed *)(uintptr_t)value;
        if (owed->step < oldest && !rt_ledger_is_finished(trainer->ledger, id))
            oldest = owed->step;
    }
    return oldest > 0 ? oldest - 1 : 0;
}

/* Rows of each sequence, in the arena; NULL in *out: all is pooled. */
static int take_rows(const struct tr_batch *batch, struct rt_arena *arena, const uint32_t **out)
{
    const struct rt_job *job = batch->trainer->job;
    uint32_t sequences = 0;
    *out = NULL;
    for (uint32_t f = 0; f < job->n_features; f++)
        sequences += rt_feature_is_sequence(job, f);
    if (!sequences)
        return 0;
    uint32_t *rows = rt_arena_array(arena, uint32_t, job->n_features);
    if (!rows)
        return RT_FAIL(RT_ENOMEM, "no memory for %u features", job->n_features);
    for (uint32_t f = 0; f < job->n_features; f++)
        rows[f] = rt_feature_is_sequence(job, f) ? batch->sequence[f].rows : 0;
    *out = rows;
    return 0;
}

static int send_push(struct tr_batch *batch)
{
    struct tr_trainer *trainer = batch->trainer;
    const struct rt_job *job = trainer->job;
    rt_arena_reset(trainer->scratch);
    uint32_t *dim = rt_arena_array(trainer->scratch, uint32_t, job->n_features);
    if (!dim)
        return RT_FAIL(RT_ENOMEM, "no memory for %u features", job->n_features);
    for (uint32_t f = 0; f < job->n_features; f++)
        dim[f] = job->table[job->feature[f].table].dim;
    bool synchronous = job->global.mode == RT_MODE_FULL;
    struct wire_push_gradients request = {
        .step = batch->step,
        .learning_rate = batch->learning_rate,
        .samples = batch->head.samples,
        .digest = batch->head.digest,
        /* In `full` an owner waits for the ranks that have a batch in this step, and for no other. */
        .rank = synchronous ? batch->place : trainer->conf.self.index,
        .world = synchronous ? batch->among : trainer->conf.world,
        .dtype = job->global.wire.gradients,
        .synchronous = synchronous,
        .n_features = job->n_features,
        .dim = dim,
        .applied_through = synchronous ? applied_through(trainer, batch) : 0,
        .attempt = synchronous ? batch->attempt : 0,
        .age = tr_age(trainer, batch->step),
    };
    int err = take_scales(batch, trainer->scratch, &request.scale);
    if (!err)
        err = take_rows(batch, trainer->scratch, &request.rows);
    if (!err)
        err = wire_push_gradients_pack(&request, &trainer->out);
    if (err)
        return err;
    struct rt_piece piece = {batch->gradients->data, batch->gradients->size, batch->gradients};
    struct rt_outgoing out = {.batch_id = batch->id,
                              .message = trainer->out.data,
                              .message_size = trainer->out.size,
                              .pieces = &piece,
                              .n_pieces = piece.size > 0};
    err =
        rt_rpc_call(batch->middleware, WIRE_PUSH_GRADIENTS, &out, TR_DEADLINE_NS, on_pushed, batch);
    if (!err)
        trainer->count.bytes_gradients += batch->gradients->size;
    return err;
}

void tr_push_start(struct tr_batch *batch)
{
    tr_batch_to(batch, TR_PUSHING);
    if (batch->landing)
        return; /* it comes again */
    RT_FAILPOINT("P8.before_push");
    int err = send_push(batch);
    RT_FAILPOINT("P8.pushed");
    batch->waits = err == RT_EFULL; /* for tr_push_drained, which comes before its deadline would */
    if (err && !batch->waits)
        strand(batch, rt_err_text());
}

void tr_push_drained(struct tr_trainer *trainer, const struct rt_peer *middleware)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&trainer->batches, &cursor, &id, &value)) {
        struct tr_batch *batch = (struct tr_batch *)(uintptr_t)value;
        if (batch->state == TR_PUSHING && batch->waits && batch->middleware == middleware)
            tr_push_start(batch);
    }
}

static void on_released(void *arg, int err, const struct rt_frame *reply)
{
    (void)arg, (void)err, (void)reply; /* a lost middleware has forgotten the batch anyway */
}

void tr_push_release(struct tr_batch *batch, const char *reason)
{
    struct tr_trainer *trainer = batch->trainer;
    struct wire_release_batch request = {reason};
    if (wire_release_batch_pack(&request, &trainer->out) != 0)
        return;
    struct rt_outgoing out = {
        .batch_id = batch->id, .message = trainer->out.data, .message_size = trainer->out.size};
    int err =
        rt_rpc_call(batch->middleware, WIRE_RELEASE_BATCH, &out, TR_DEADLINE_NS, on_released, NULL);
    if (err)
        rt_log(RT_LOG_WARN, "release_failed batch=%016" PRIx64 " error=\"%s\"", batch->id,
               rt_err_text());
}
