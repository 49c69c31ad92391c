/* middleware/push.c -- PushGradients: sums per distinct row, to the owners; ReleaseBatch.
 *
 * The gradients of a batch are laid out at once as the payloads of its ApplyGradients: for each owner and
 * table the ids, then one row of sums per id, into which mw_scatter adds in place. They stay until every
 * owner has acked, so an owner that was lost gets the same bytes again. Owners know by the batch's id
 * what they applied already; so M forgets a batch with its last ack, and needs to remember nothing.
 *
 * A batch may be pushed without having been looked up here: its trainer stepped it from another
 * middleware, which was lost. A trainer asks to push again only what it believes not acked. */
#include "middleware/batch.h"
#include "middleware/scatter.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <string.h>

static int check(const struct mw_batch *batch, const struct wire_push_gradients *m)
{
    const struct mw_loop *loop = batch->loop;
    unsigned long long id = batch->id;

    if (batch->evaluate)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx, which is of the evaluation", id);
    if (m->samples != batch->samples)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx: %u samples, expected %u", id,
                       m->samples, batch->samples);
    if (m->dtype != WIRE_F32)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx: dtype %u, expected %d", id,
                       m->dtype, WIRE_F32);
    if (m->n_features != loop->conf.job->n_features)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx: %u features, expected %u", id,
                       m->n_features, loop->conf.job->n_features);
    for (uint32_t f = 0; f < m->n_features; f++)
        if (m->dim[f] != loop->dim[f])
            return RT_FAIL(RT_EPROTO,
                           "PushGradients of batch %016llx: feature %s has dim %u, expected %u", id,
                           loop->conf.job->feature[f].name, m->dim[f], loop->dim[f]);
    return 0;
}

/* Payload of each owner: ids and zeroed gradients; part->row points at the latter. */
static int lay_out(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;
    size_t end = 0;

    for (uint32_t k = 0; k < loop->map.owners; k++) {
        struct mw_part *part = &batch->part[k];

        part->gradients_at = rt_segment_put(&end, part->gradients_size);
    }
    if (end == 0)
        return 0;
    batch->gradients = rt_io_buf(loop->conf.io, end);
    if (!batch->gradients)
        return RT_FAIL(RT_EFULL, "no room for the %zu bytes of gradients of a batch", end);
    memset(batch->gradients->data, 0, end);
    for (uint32_t k = 0; k < loop->map.owners; k++) {
        struct mw_part *part = &batch->part[k];
        uint8_t *to = batch->gradients->data + part->gradients_at;
        const uint8_t *ids = part->n_tables ? batch->held->data + part->ids_at : NULL;
        size_t put = 0, got = 0;

        for (uint32_t i = 0; i < part->n_tables; i++) {
            size_t n = part->n_ids[i], dim = loop->conf.job->table[part->table[i]].dim;
            size_t from = rt_segment_put(&got, n * sizeof(uint64_t));

            memcpy(to + rt_segment_put(&put, n * sizeof(uint64_t)), ids + from,
                   n * sizeof(uint64_t));
            part->row[i] = (float *)(void *)(to + rt_segment_put(&put, n * dim * sizeof(float)));
        }
        rt_assert(put == part->gradients_size);
    }
    return 0;
}

/* @gradient: [features] -> [samples][dim] of the payload. Features of a table in the job's order. */
static void scatter_all(struct mw_batch *batch, const void *const *gradient)
{
    struct mw_loop *loop = batch->loop;
    const struct rt_job *job = loop->conf.job;
    float **row = NULL;

    for (uint32_t i = 0; i < job->n_features; i++) {
        uint32_t f = loop->feature_order[i], table = job->feature[f].table;
        struct mw_bags bags = mw_batch_bags(batch, f);

        if (i == 0 || table != job->feature[loop->feature_order[i - 1]].table)
            row = mw_batch_rows(batch, table);
        mw_scatter(&bags, gradient[f], row);
    }
}

static int take_gradients(struct mw_batch *batch, const struct rt_buf *payload)
{
    struct mw_loop *loop = batch->loop;
    uint32_t n = loop->conf.job->n_features;
    uint64_t begin = rt_io_now(loop->conf.io);
    struct rt_segments segments = rt_segments_of(payload);
    const void **gradient = rt_arena_alloc(loop->arena, n * sizeof(*gradient));
    int err = gradient ? 0 : RT_FAIL(RT_ENOMEM, "PushGradients: no memory for %u features", n);

    for (uint32_t f = 0; f < n && !err; f++)
        err = rt_segment_take(&segments, (size_t)batch->samples * loop->dim[f], sizeof(float),
                              &gradient[f]);
    if (!err)
        err = rt_segments_end(&segments);
    if (!err)
        err = lay_out(batch);
    if (err)
        return err;
    scatter_all(batch, gradient);
    mw_took(&loop->stats.scatter, begin, rt_io_now(loop->conf.io));
    return 0;
}

/* A trainer that started anew pushes what it stepped again, perhaps as part of another step of the group. */
static bool same_place(const struct wire_push_gradients *a, const struct wire_push_gradients *b)
{
    return a->step == b->step && a->rank == b->rank && a->world == b->world &&
           a->synchronous == b->synchronous;
}

void mw_serve_push(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct mw_loop *loop = ctx;
    struct wire_push_gradients m;
    struct mw_batch *batch;
    int err;

    rt_arena_reset(loop->arena);
    err =
        wire_push_gradients_unpack(request->message, request->header.message_size, loop->arena, &m);
    if (err) {
        mw_refuse(call, err);
        return;
    }
    batch = mw_batch_asked(loop, call, request, m.digest);
    if (!batch)
        return;
    err = check(batch, &m);
    if (!err && batch->state == MW_LOOKING)
        err = RT_FAIL(RT_ENOTREADY, "batch %016llx is being looked up",
                      (unsigned long long)batch->id);
    if (!err && batch->state == MW_PUSHING && !same_place(&batch->push, &m)) {
        mw_fanout_abandon(batch);
        batch->state = MW_SERVED;
        mw_answer(batch, 0, NULL, RT_ENOTREADY, "pushed again as part of another step");
    }
    if (!err && batch->state != MW_PUSHING)
        err = take_gradients(batch, request->payload);
    if (err) {
        mw_refuse(call, err);
        return;
    }
    mw_wait(batch, call, WIRE_PUSH_GRADIENTS);
    if (batch->state == MW_PUSHING) {
        if (m.applied_through > batch->push.applied_through)
            batch->push.applied_through = m.applied_through;
        return;
    }
    m.dim = NULL;
    batch->push = m;
    batch->rows_applied = batch->rows_nonfinite = 0;
    batch->state = MW_PUSHING;
    mw_fanout_begin(batch, m.synchronous);
}

int mw_push_pack(struct mw_part *part)
{
    const struct wire_push_gradients *push = &part->batch->push;
    struct mw_loop *loop = part->batch->loop;
    struct wire_apply_gradients m = {
        .shard_map = loop->map.version,
        .part = 0,
        .parts = 1,
        .step = push->step,
        .learning_rate = push->learning_rate,
        .rank = push->rank,
        .world = push->world,
        .synchronous = push->synchronous,
        .n_tables = part->n_tables,
        .table = part->table,
        .n_ids = part->n_ids,
        .dtype = WIRE_F32,
        .digest = part->batch->digest,
        .applied_through = push->applied_through,
    };

    return wire_apply_gradients_pack(&m, &loop->out);
}

int mw_push_take(struct mw_part *part, const struct rt_frame *reply)
{
    struct mw_loop *loop = part->batch->loop;
    struct wire_apply_gradients_reply m;
    int err;

    rt_arena_reset(loop->arena);
    err = wire_apply_gradients_reply_unpack(reply->message, reply->header.message_size, loop->arena,
                                            &m);
    if (err)
        return rt_fail_prefix(err, "%s: ", rt_peer_name(loop->owner[part->owner].peer));
    if (m.outcome == WIRE_APPLIED) {
        part->batch->rows_applied += m.rows_applied;
        part->batch->rows_nonfinite += m.rows_nonfinite;
    }
    return 0;
}

void mw_push_finish(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;
    struct wire_push_gradients_reply m = {batch->rows_applied, batch->rows_nonfinite};
    struct rt_outgoing out = {.batch_id = batch->id};
    int err = wire_push_gradients_reply_pack(&m, &loop->out);

    mw_count(&loop->stats.pushes, 1);
    mw_count(&loop->stats.rows_nonfinite, batch->rows_nonfinite);
    out.message = loop->out.data;
    out.message_size = loop->out.size;
    if (!err)
        mw_answer(batch, WIRE_PUSH_GRADIENTS, &out, 0, NULL);
    mw_answer(batch, 0, NULL, RT_EUNKNOWN, "the batch was pushed, and is not held any more");
    mw_batch_forget(batch);
}

void mw_serve_release(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct mw_loop *loop = ctx;
    struct mw_batch *batch = mw_batch_find(loop, request->header.batch_id);
    struct wire_release_batch m;
    int err;

    rt_arena_reset(loop->arena);
    err =
        wire_release_batch_unpack(request->message, request->header.message_size, loop->arena, &m);
    if (err) {
        mw_refuse(call, err);
        return;
    }
    if (batch && batch->state != MW_PUSHING) { /* what is being pushed is owed to the owners */
        mw_answer(batch, 0, NULL, RT_EUNKNOWN, "the batch was released");
        mw_batch_forget(batch);
        mw_count(&loop->stats.released, 1);
    }
    rt_call_reply(call, &(struct rt_outgoing){.batch_id = request->header.batch_id});
}
