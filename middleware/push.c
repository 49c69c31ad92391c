/* middleware/push.c -- PushGradients: sums per distinct row, to the owners; ReleaseBatch.
 *
 * The gradients of a batch are laid out at once as the payloads of its ApplyGradients: for each part (cut.c) and
 * table the ids, then one row of sums per id. They stay until every owner has acked, so an owner that was lost gets the
 * same bytes again. Owners know by the batch's id what they applied already; so M forgets a batch with its
 * last ack, and needs to remember nothing.
 *
 * Sums are float32. Where global.wire.row_gradients is float32 mw_scatter adds in place. Else the sums of one table are made
 * in an area that the next table uses again, which so stays in the cache, and are narrowed once into the payload. In
 * float16 they are scaled by one power of two for the table, not for each owner's part of it: what a row gets must
 * not depend on how many owners there are. Of a hashed table (compose.h) they are summed by id first, and then by row.
 *
 * A batch may be pushed without having been looked up here: its trainer stepped it from another
 * middleware, which was lost. A trainer asks to push again only what it believes not acked. */
#include "middleware/batch.h"
#include "middleware/scatter.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/trace.h"

#include <string.h>

static int check(const struct mw_batch *batch, const struct wire_push_gradients *m)
{
    const struct mw_loop *loop = batch->loop;
    uint32_t dtype = loop->conf.job->global.wire.gradients;
    unsigned long long id = batch->id;

    if (batch->evaluate)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx, which is of the evaluation", id);
    if (m->samples != batch->samples)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx: %u samples, expected %u", id,
                       m->samples, batch->samples);
    if (m->dtype != dtype)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx: dtype %u, expected %u", id,
                       m->dtype, dtype);
    if (m->n_features != loop->conf.job->n_features)
        return RT_FAIL(RT_EPROTO, "PushGradients of batch %016llx: %u features, expected %u", id,
                       m->n_features, loop->conf.job->n_features);
    for (uint32_t f = 0; f < m->n_features; f++)
        if (m->dim[f] != loop->dim[f])
            return RT_FAIL(RT_EPROTO,
                           "PushGradients of batch %016llx: feature %s has dim %u, expected %u", id,
                           loop->conf.job->feature[f].name, m->dim[f], loop->dim[f]);
    for (uint32_t f = 0; f < m->n_features; f++) {
        uint32_t rows = m->rows ? m->rows[f] : 0;
        uint32_t expected = batch->feature[f].n_rows; /* 0 of what is pooled */

        if (rows != expected)
            return RT_FAIL(RT_EPROTO,
                           "PushGradients of batch %016llx: feature %s has %u rows, expected %u",
                           id, loop->conf.job->feature[f].name, rows, expected);
    }
    return 0;
}

/* Ids of one part, and where its gradients go: part->row points there. */
static void lay_out_part(struct mw_batch *batch, struct mw_part *part, size_t element)
{
    const struct rt_job *job = batch->loop->conf.job;
    uint8_t *to = batch->gradients->data + part->gradients_at;
    const uint8_t *ids = part->n_tables ? batch->held->data + part->ids_at : NULL;
    size_t put = 0, got = 0;

    for (uint32_t i = 0; i < part->n_tables; i++) {
        size_t n = part->n_ids[i], bytes = n * job->table[part->table[i]].dim * element;
        size_t from = rt_segment_put(&got, n * sizeof(uint64_t)), before = put;
        size_t at = rt_segment_put(&put, n * sizeof(uint64_t)), end = put;

        memset(to + before, 0, at - before); /* nobody else's bytes leave as padding */
        memcpy(to + at, ids + from, n * sizeof(uint64_t));
        part->row[i] = to + rt_segment_put(&put, bytes);
        memset(to + end, 0, put - bytes - end);
    }
    rt_assert(put == part->gradients_size);
}

static int lay_out(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;
    size_t element = wire_dtype_size(loop->conf.job->global.wire.row_gradients), end = 0;

    for (uint32_t k = 0; k < batch->n_parts; k++) {
        struct mw_part *part = &batch->part[k];

        part->gradients_at = rt_segment_put(&end, part->gradients_size);
    }
    if (end == 0)
        return 0;
    batch->gradients = rt_io_buf(loop->conf.io, end);
    if (!batch->gradients)
        return RT_FAIL(RT_EFULL, "no room for the %zu bytes of gradients of a batch", end);
    for (uint32_t k = 0; k < batch->n_parts; k++)
        lay_out_part(batch, &batch->part[k], element);
    return 0;
}

/* Sums of the table at hand: of its rows, NULL: they are made in the payload; of its ids, if it is hashed. */
struct areas {
    float *row, *id;
};

/* Zeroed sums of a table's rows, by position: in the payload, or in `area`. They are zeroed table by table, so that
 * they are in the cache when the first gradient comes. */
static float **table_sums(struct mw_batch *batch, uint32_t table, float *area)
{
    struct mw_loop *loop = batch->loop;
    size_t dim = loop->conf.job->table[table].dim;
    void **sum = loop->scratch.row;

    if (area) {
        memset(area, 0, batch->distinct[table] * dim * sizeof(float));
        for (uint32_t i = 0; i < batch->distinct[table]; i++)
            sum[i] = area + i * dim;
        return (float **)sum;
    }
    for (uint32_t k = 0; k < batch->n_parts; k++) {
        struct mw_part *part = &batch->part[k];
        uint32_t at = mw_part_table(part, table);

        if (at < part->n_tables)
            memset(part->row[at], 0, part->n_ids[at] * dim * sizeof(float));
    }
    return (float **)mw_batch_rows(batch, table, sizeof(float));
}

/* From the area into the payload of each part: positions are in the order of parts. */
static void narrow_sums(struct mw_batch *batch, uint32_t table, const float *area)
{
    struct mw_loop *loop = batch->loop;
    uint32_t dtype = loop->conf.job->global.wire.row_gradients;
    size_t dim = loop->conf.job->table[table].dim;
    float scale = dtype == WIRE_F16 ? rt_half_scale(area, batch->distinct[table] * dim) : 1;

    for (uint32_t k = 0; k < batch->n_parts; k++) {
        struct mw_part *part = &batch->part[k];
        uint32_t at = mw_part_table(part, table);

        if (at == part->n_tables)
            continue;
        if (part->scale)
            part->scale[at] = scale;
        if (dtype == WIRE_F16)
            rt_narrow_scaled(dtype, scale, area, part->row[at], part->n_ids[at] * dim);
        else
            rt_narrow(dtype, area, part->row[at], part->n_ids[at] * dim);
        area += part->n_ids[at] * dim;
    }
}

/* Zeroed sums of a hashed table's ids, by position. */
static float **id_sums(struct mw_batch *batch, uint32_t table, float *sum)
{
    struct mw_loop *loop = batch->loop;
    size_t dim = loop->conf.job->table[table].dim;
    void **at = loop->scratch.row;

    if (sum) /* NULL: no hashed table has ids in this batch */
        memset(sum, 0, batch->composed[table].n_ids * dim * sizeof(float));
    for (uint32_t i = 0; i < batch->composed[table].n_ids; i++)
        at[i] = sum + i * dim;
    return (float **)at;
}

/* @gradient: [features] -> [samples][dim] of the payload, or [rows][dim] of a sequence. Features of a table in the job's order. */
static void scatter_all(struct mw_batch *batch, const void *const *gradient, const float *scale,
                        const struct areas *areas)
{
    struct mw_loop *loop = batch->loop;
    const struct rt_job *job = loop->conf.job;
    float **sum = NULL;

    for (uint32_t i = 0; i < job->n_features; i++) {
        uint32_t f = loop->feature_order[i], table = job->feature[f].table;
        struct mw_bags bags = mw_batch_bags(batch, f);

        bags.sample_dtype = job->global.wire.gradients;
        if (i == 0 || table != job->feature[loop->feature_order[i - 1]].table)
            sum = mw_is_hashed(job, table) ? id_sums(batch, table, areas->id)
                                           : table_sums(batch, table, areas->row);
        mw_scatter(&bags, gradient[f], scale ? 1 / scale[f] : 1, sum);
        if (i + 1 < job->n_features && table == job->feature[loop->feature_order[i + 1]].table)
            continue;
        if (mw_is_hashed(job, table))
            mw_compose_add(batch, table, areas->id, table_sums(batch, table, areas->row));
        if (areas->row)
            narrow_sums(batch, table, areas->row);
    }
}

static int take_gradients(struct mw_batch *batch, const struct rt_buf *payload, const float *scale)
{
    struct mw_loop *loop = batch->loop;
    uint32_t n = loop->conf.job->n_features;
    size_t element = wire_dtype_size(loop->conf.job->global.wire.gradients);
    uint64_t begin = rt_io_now(loop->conf.io);
    struct rt_segments segments = rt_segments_of(payload);
    const void **gradient = rt_arena_alloc(loop->arena, n * sizeof(*gradient));
    size_t id_bytes = mw_compose_most(batch);
    struct areas areas = {NULL, NULL};
    struct rt_buf *area = NULL;
    int err = gradient ? 0 : RT_FAIL(RT_ENOMEM, "PushGradients: no memory for %u features", n);

    for (uint32_t f = 0; f < n && !err; f++) {
        struct mw_bags bags = mw_batch_bags(batch, f);

        err = rt_segment_take(&segments, bags.samples * bags.dim, element, &gradient[f]);
    }
    if (!err)
        err = rt_segments_end(&segments);
    if (!err && batch->sum_bytes + id_bytes) {
        area = rt_io_buf(loop->conf.io, batch->sum_bytes + id_bytes);
        if (!area)
            err = RT_FAIL(RT_EFULL, "no room for the %zu bytes of sums of a batch",
                          batch->sum_bytes + id_bytes);
    }
    if (area) {
        areas.row = batch->sum_bytes ? (float *)(void *)area->data : NULL;
        areas.id = (float *)(void *)(area->data + batch->sum_bytes);
    }
    if (!err)
        err = lay_out(batch);
    if (!err) {
        scatter_all(batch, gradient, scale, &areas);
        mw_took(&loop->stats.scatter, begin, rt_io_now(loop->conf.io));
        rt_trace_span(batch->id, loop->conf.identity.loop, "scatter", begin);
    }
    rt_buf_unref(area);
    return err;
}

/* A trainer that started anew pushes what it stepped again, perhaps as part of another step of the group. */
static bool same_place(const struct wire_push_gradients *a, const struct wire_push_gradients *b)
{
    return a->step == b->step && a->attempt == b->attempt && a->rank == b->rank &&
           a->world == b->world && a->synchronous == b->synchronous;
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
        err = take_gradients(batch, request->payload, m.scale);
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
    m.scale = NULL;
    m.rows = NULL;
    batch->push = m;
    batch->rows_applied = batch->rows_nonfinite = 0;
    RT_FAILPOINT("P8.before_fanout");
    batch->state = MW_PUSHING;
    mw_fanout_begin(batch, m.synchronous);
}

int mw_push_pack(struct mw_part *part)
{
    const struct wire_push_gradients *push = &part->batch->push;
    struct mw_loop *loop = part->batch->loop;
    struct wire_apply_gradients m = {
        .shard_map = loop->map.version,
        .part = part->number,
        .parts = part->of,
        .step = push->step,
        .learning_rate = push->learning_rate,
        .rank = push->rank,
        .world = push->world,
        .synchronous = push->synchronous,
        .n_tables = part->n_tables,
        .table = part->table,
        .n_ids = part->n_ids,
        .dtype = loop->conf.job->global.wire.row_gradients,
        .scale = part->scale,
        .digest = part->batch->digest,
        .applied_through = push->applied_through,
        .attempt = push->attempt,
        .age = push->age,
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
    RT_FAILPOINT("P9.some_acks");
    return 0;
}

void mw_push_finish(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;
    struct wire_push_gradients_reply m = {batch->rows_applied, batch->rows_nonfinite};
    struct rt_outgoing out = {.batch_id = batch->id};
    int err = wire_push_gradients_reply_pack(&m, &loop->out);

    RT_FAILPOINT("P10.all_acks");
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
