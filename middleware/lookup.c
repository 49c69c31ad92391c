/* middleware/lookup.c -- LookupBatch: rows from the owners, pooled, one reply.
 *
 * Rows are pooled straight from the owners' replies. Each reply stays in the buffer it was received into;
 * a list of row pointers by position (scratch.row, built per table) says where each row is. Copying the
 * rows into one joint array first would make that list needless, but would move every distinct row
 * once more through memory; the list is 8 bytes a row, and stays in the cache. Rows arrive in the dtype
 * global.wire.rows and embeddings leave in global.wire.embeddings: pooling converts on its way. Embeddings are pooled
 * while they are sent (struct rt_maker): a stretch of them leaves while it is in the cache, which a batch of them is larger
 * than. A sequence (pooling none) is the rows themselves, each once, then which of them stands at each place, then how long
 * each sample's is: its rows are bags of one.
 *
 * A repeat of a call joins the one under way. One for another step (a trainer that started anew) ends the
 * waiting of those before it, and the owners are asked again. So does one that finds the batch being pushed
 * as part of a step of the group: a trainer that asks for rows has not stepped the batch and will push it
 * again, and the step it was pushed for may never be made. */
#include "middleware/batch.h"
#include "middleware/pool.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/trace.h"

#include <string.h>

static int check(const struct mw_batch *batch, const struct wire_lookup_batch *m)
{
    if (m->samples != batch->samples || m->evaluate != batch->evaluate)
        return RT_FAIL(
            RT_EPROTO,
            "LookupBatch of batch %016llx: %u samples, evaluate %d; put were %u samples, "
            "evaluate %d",
            (unsigned long long)batch->id, m->samples, m->evaluate, batch->samples,
            batch->evaluate);
    return 0;
}

static void begin(struct mw_batch *batch, struct rt_call *call, uint64_t step)
{
    bool another = (batch->state == MW_LOOKING && batch->step != step) ||
                   (batch->state == MW_PUSHING && batch->push.synchronous);

    if (another) {
        mw_fanout_abandon(batch);
        mw_answer(batch, 0, NULL, RT_ENOTREADY, "looked up again for another step");
    }
    mw_wait(batch, call, WIRE_LOOKUP_BATCH);
    if (!another && (batch->state == MW_LOOKING || batch->state == MW_PUSHING))
        return; /* pushing: answered when that is done, for by then the batch is forgotten */
    batch->step = step;
    batch->state = MW_LOOKING;
    mw_fanout_begin(batch, false);
}

void mw_serve_lookup(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct mw_loop *loop = ctx;
    struct wire_lookup_batch m;
    struct mw_batch *batch;
    int err;

    rt_arena_reset(loop->arena);
    err = wire_lookup_batch_unpack(request->message, request->header.message_size, loop->arena, &m);
    if (err) {
        mw_refuse(call, err);
        return;
    }
    batch = mw_batch_asked(loop, call, request, m.digest);
    if (!batch)
        return;
    err = check(batch, &m);
    if (err) {
        mw_refuse(call, err);
        return;
    }
    RT_FAILPOINT("P4.asked");
    begin(batch, call, m.step);
}

int mw_lookup_pack(struct mw_part *part)
{
    struct mw_loop *loop = part->batch->loop;
    struct wire_lookup_rows m = {
        .shard_map = loop->map.version,
        .step = part->batch->step,
        .n_tables = part->n_tables,
        .table = part->table,
        .n_ids = part->n_ids,
        .dtype = loop->conf.job->global.wire.rows,
    };

    return wire_lookup_rows_pack(&m, &loop->out);
}

static int check_reply(const struct mw_part *part, const struct wire_lookup_rows_reply *m)
{
    const struct mw_loop *loop = part->batch->loop;
    const char *name = rt_peer_name(loop->owner[part->owner].peer);
    uint32_t dtype = loop->conf.job->global.wire.rows;

    if (m->dtype != dtype)
        return RT_FAIL(RT_EPROTO, "%s sent rows of dtype %u, expected %u", name, m->dtype, dtype);
    if (m->n_tables != part->n_tables)
        return RT_FAIL(RT_EPROTO, "%s sent rows of %u tables, expected %u", name, m->n_tables,
                       part->n_tables);
    for (uint32_t i = 0; i < m->n_tables; i++)
        if (m->n_ids[i] != part->n_ids[i])
            return RT_FAIL(RT_EPROTO, "%s sent %u rows of table %u, expected %u", name, m->n_ids[i],
                           part->table[i], part->n_ids[i]);
    return 0;
}

int mw_lookup_take(struct mw_part *part, const struct rt_frame *reply)
{
    struct mw_loop *loop = part->batch->loop;
    const struct rt_job *job = loop->conf.job;
    size_t element = wire_dtype_size(job->global.wire.rows);
    struct rt_segments segments = rt_segments_of(reply->payload);
    struct wire_lookup_rows_reply m;
    int err;

    rt_arena_reset(loop->arena);
    err =
        wire_lookup_rows_reply_unpack(reply->message, reply->header.message_size, loop->arena, &m);
    if (!err)
        err = check_reply(part, &m);
    for (uint32_t i = 0; i < part->n_tables && !err; i++) {
        const void *rows;

        err = rt_segment_take(&segments, part->n_ids[i], job->table[part->table[i]].dim * element,
                              &rows);
        part->row[i] = (void *)rows;
    }
    if (!err)
        err = rt_segments_end(&segments);
    if (err)
        return rt_fail_prefix(err,
                              "LookupRows of batch %016llx: ", (unsigned long long)part->batch->id);
    part->rows = rt_buf_ref(reply->payload);
    RT_FAILPOINT("P5.some_rows");
    return 0;
}

static struct mw_bags pooled_bags(const struct mw_batch *batch, uint32_t feature)
{
    const struct rt_wire_conf *wire = &batch->loop->conf.job->global.wire;
    struct mw_bags bags = mw_batch_bags(batch, feature);
    const struct rt_job *job = batch->loop->conf.job;
    bool hashed = mw_is_hashed(job, job->feature[feature].table);

    bags.row_dtype = hashed ? (uint32_t)RT_DTYPE_F32 : wire->rows;
    bags.sample_dtype = wire->embeddings;
    return bags;
}

/* What a feature has in the reply; the last two: a sequence only. */
enum part { VALUES, INDEX, LENGTHS, PARTS };

static size_t part_bytes(const struct mw_batch *batch, uint32_t feature, enum part part)
{
    struct mw_bags bags = pooled_bags(batch, feature);

    if (part == INDEX)
        return batch->feature[feature].n_ids * sizeof(uint32_t);
    return part == LENGTHS ? batch->samples * sizeof(uint32_t)
                           : bags.samples * bags.dim * wire_dtype_size(bags.sample_dtype);
}

static size_t reply_size(const struct mw_batch *batch)
{
    size_t end = 0;

    for (uint32_t f = 0; f < batch->loop->conf.job->n_features; f++) {
        for (uint32_t part = 0; part < PARTS; part++)
            if (part == VALUES || rt_feature_is_sequence(batch->loop->conf.job, f))
                rt_segment_put(&end, part_bytes(batch, f, (enum part)part));
    }
    return end;
}

/* Embeddings that are made while they are sent, feature after feature. */
struct making {
    struct mw_batch *batch;
    uint32_t feature; /* at this one's, */
    enum part part;
    uint32_t sample, id; /* of which so many values are done, */
    size_t bytes;        /* or so many bytes */
    size_t end;          /* bytes done in all */
    void **row;          /* of `table`; NULL: not listed yet */
    float *composed;     /* sums of hashed ids, in place of rows */
    uint32_t table;
    uint64_t took_ns;
};

static void list_rows(struct making *making)
{
    const struct rt_job *job = making->batch->loop->conf.job;
    uint32_t table = job->feature[making->feature].table;

    if (making->row && making->table == table)
        return;
    making->table = table;
    if (mw_is_hashed(job, table)) {
        float *sum = mw_compose_of(making->batch, table, making->composed);

        making->row = making->batch->loop->scratch.row;
        for (uint32_t i = 0; i < making->batch->composed[table].n_ids; i++)
            making->row[i] = sum + (size_t)i * job->table[table].dim;
        return;
    }
    making->row = mw_batch_rows(making->batch, table, wire_dtype_size(job->global.wire.rows));
}

/* The samples of one feature that fit; 0: not one does. */
static size_t make_samples(struct making *making, uint8_t *at, size_t room)
{
    struct mw_bags bags = pooled_bags(making->batch, making->feature);
    size_t begin = making->end, each = bags.dim * wire_dtype_size(bags.sample_dtype);
    size_t pad = making->sample ? 0 : rt_segment_put(&begin, 0) - making->end, fit, ids;

    rt_assert(each > 0);
    if (pad + each > room)
        return 0;
    memset(at, 0, pad); /* nobody else's bytes leave as padding */
    list_rows(making);
    fit = (room - pad) / each;
    bags.samples -= making->sample;
    bags.samples = bags.samples < fit ? bags.samples : fit;
    ids = bags.samples;
    bags.slot += making->id;
    if (bags.weight)
        bags.weight += making->id;
    if (bags.length) {
        bags.length += making->sample;
        ids = 0;
        for (size_t s = 0; s < bags.samples; s++)
            ids += bags.length[s];
    }
    mw_pool(&bags, (const void *const *)making->row, at + pad);
    making->sample += (uint32_t)bags.samples;
    making->id += (uint32_t)ids;
    making->bytes += bags.samples * each;
    making->end += pad + bags.samples * each;
    return pad + bags.samples * each;
}

/* As many places as fit, of the index of a sequence or of its lengths. */
static size_t make_places(struct making *making, uint8_t *at, size_t room)
{
    const struct mw_feature *of = &making->batch->feature[making->feature];
    const uint32_t *from = making->part == INDEX ? of->slot : of->length;
    size_t begin = making->end, size = part_bytes(making->batch, making->feature, making->part);
    size_t pad = making->bytes ? 0 : rt_segment_put(&begin, 0) - making->end, n;

    if (pad + sizeof(uint32_t) > room)
        return 0;
    memset(at, 0, pad);
    n = (room - pad) / sizeof(uint32_t);
    n = n < (size - making->bytes) / sizeof(uint32_t) ? n
                                                      : (size - making->bytes) / sizeof(uint32_t);
    if (from)
        memcpy(at + pad, (const uint8_t *)from + making->bytes, n * sizeof(uint32_t));
    for (size_t i = 0; !from && i < n; i++)
        memcpy(at + pad + i * sizeof(uint32_t), &(uint32_t){1}, sizeof(uint32_t));
    making->bytes += n * sizeof(uint32_t);
    making->end += pad + n * sizeof(uint32_t);
    return pad + n * sizeof(uint32_t);
}

/* To the next part that is not done. An empty one is at most padding, which is made with what follows it. */
static bool next_part(struct making *making)
{
    const struct rt_job *job = making->batch->loop->conf.job;

    while (making->feature < job->n_features &&
           making->bytes == part_bytes(making->batch, making->feature, making->part)) {
        making->sample = making->id = 0;
        making->bytes = 0;
        making->part++;
        if (making->part == PARTS || !rt_feature_is_sequence(job, making->feature)) {
            making->part = VALUES;
            making->feature++;
        }
    }
    return making->feature < job->n_features;
}

/* An rt_maker's. */
static size_t make(void *arg, uint8_t *at, size_t room)
{
    struct making *making = arg;
    const struct mw_loop *loop = making->batch->loop;
    uint64_t begin = rt_io_now(loop->conf.io);
    size_t put = 0, n = 1;

    while (n && next_part(making)) {
        n = (making->part == VALUES ? make_samples : make_places)(making, at + put, room - put);
        put += n;
    }
    making->took_ns += rt_io_now(loop->conf.io) - begin;
    rt_trace_span(making->batch->id, loop->conf.identity.loop, "pool", begin);
    return put;
}

static void fail_all(struct mw_batch *batch, int err)
{
    char text[WIRE_TEXT_MAX];

    snprintf(text, sizeof(text), "%s", rt_err_text());
    batch->state = MW_HELD;
    mw_batch_drop_buffers(batch);
    mw_answer(batch, 0, NULL, err, text);
}

/* Of sequences, in the message's arena; NULL: there are none. */
static int count_rows(const struct mw_batch *batch, uint32_t **rows, uint32_t **places)
{
    struct mw_loop *loop = batch->loop;
    const struct rt_job *job = loop->conf.job;
    bool any = false;

    for (uint32_t f = 0; f < job->n_features; f++)
        any = any || rt_feature_is_sequence(job, f);
    if (!any)
        return 0;
    rt_arena_reset(loop->arena);
    *rows = rt_arena_array(loop->arena, uint32_t, job->n_features);
    *places = rt_arena_array(loop->arena, uint32_t, job->n_features);
    if (!*rows || !*places)
        return RT_FAIL(RT_ENOMEM, "LookupBatch: no memory for %u features", job->n_features);
    for (uint32_t f = 0; f < job->n_features; f++) {
        bool sequence = rt_feature_is_sequence(job, f);

        (*rows)[f] = sequence ? batch->feature[f].n_rows : 0;
        (*places)[f] = sequence ? batch->feature[f].n_ids : 0;
    }
    return 0;
}

/* Hashed ids: their sums, before anything is made of them. *area: NULL where there are none. */
static int compose(struct making *making, struct rt_buf **area)
{
    struct mw_loop *loop = making->batch->loop;
    size_t bytes = mw_compose_bytes(making->batch);
    uint64_t begin = rt_io_now(loop->conf.io);

    if (bytes == 0)
        return 0;
    *area = rt_io_buf(loop->conf.io, bytes);
    if (!*area)
        return RT_FAIL(RT_EFULL, "no room for the %zu bytes of sums of a batch's hashed ids",
                       bytes);
    making->composed = (float *)(void *)(*area)->data;
    mw_compose_sum(making->batch, making->composed);
    making->took_ns += rt_io_now(loop->conf.io) - begin;
    return 0;
}

void mw_lookup_finish(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;
    const struct rt_job *job = loop->conf.job;
    struct wire_lookup_batch_reply m = {.samples = batch->samples,
                                        .dtype = job->global.wire.embeddings,
                                        .n_features = job->n_features,
                                        .dim = loop->dim};
    uint32_t *rows = NULL, *places = NULL;
    struct rt_buf *composed = NULL;
    size_t size = reply_size(batch);
    struct rt_buf *embeddings = size ? rt_io_buf(loop->conf.io, size) : NULL;
    struct making making = {.batch = batch};
    struct rt_maker maker = {.make = make, .arg = &making};
    struct rt_piece piece = {embeddings ? embeddings->data : NULL, size, embeddings};
    struct rt_outgoing out = {.batch_id = batch->id, .pieces = &piece, .n_pieces = size ? 1 : 0};
    int err = 0;

    if (size && !embeddings)
        err = RT_FAIL(RT_EFULL, "no room for the %zu bytes of embeddings of a batch", size);
    if (!err)
        err = count_rows(batch, &rows, &places);
    if (!err)
        err = compose(&making, &composed);
    m.rows = rows;
    m.places = places;
    if (!err)
        err = wire_lookup_batch_reply_pack(&m, &loop->out);
    if (err) {
        rt_buf_unref(composed);
        rt_buf_unref(embeddings);
        fail_all(batch, err);
        return;
    }
    RT_FAILPOINT("P6.all_rows");
    out.message = loop->out.data;
    out.message_size = loop->out.size;
    if (size && batch->n_waiters == 1)
        out.maker = &maker;
    else if (size) /* for several: made once */
        make(&making, embeddings->data, size);
    batch->state = MW_SERVED;
    mw_count(&loop->stats.lookups, 1);
    mw_answer(batch, 0, &out, 0, NULL);
    mw_took(&loop->stats.pool, 0, making.took_ns);
    mw_batch_drop_buffers(batch);
    rt_buf_unref(composed);
    rt_buf_unref(embeddings);
    if (batch->evaluate)
        mw_batch_forget(batch);
}
