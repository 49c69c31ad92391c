/* middleware/put.c -- PutBatch: ids in, a batch with all the memory it will ever need out.
 *
 *   payload --take--> features --find_distinct--> distinct ids per table, slots   (scratch)
 *           --mw_cut--> what each owner will be asked for                         (the batch's arena)
 *           --reserve--> promised memory, or RT_EFULL
 *           --fill--> slots as positions, lengths, weights, ids by owner and table (one held buffer)
 *
 * Of a hashed table (compose.h) the distinct ids become rows, and those distinct rows, before they are listed; slots then name ids.
 *
 * The payload itself is given back: slots are half the size of ids, and distinct ids fewer. The ids of one
 * owner lie in the held buffer exactly as its LookupRows sends them, so a lookup copies nothing.
 *
 * What is promised covers the batch up to its end: the held buffer, and what takes more of the lookup (rows in,
 * sums of hashed ids, embeddings out) and the push (gradients in, sums of one table, row gradients out); each a fourth larger, because
 * buffers come in size classes. So an admitted batch is never refused later, and all waiting is here, at
 * the entry.
 *
 * Trainer ranks share the memory in equal parts, because none can make a step of the group without the others: one
 * rank's batches must not keep out those that it will wait for. And for the same reason the first
 * of what a composer has open for a rank is always let in, over the limit if need be: it may be the one
 * batch that the rank waits for, while later ones fill its part. There is at most one such batch per composer
 * and rank, so what is held stays bounded. */
#include "middleware/batch.h"
#include "middleware/sequence.h"
#include "middleware/split.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/trace.h"

#include <math.h>
#include <string.h>

#define BUF_MIN 256 /* smallest size class of the pool */

/* A feature as it arrived. */
struct arrived {
    const uint32_t *length; /* NULL: one id each */
    const uint64_t *id;
    const float *weight;   /* NULL: none */
    uint32_t n_ids, first; /* ids before it in this batch */
    uint32_t n_rows;       /* of a sequence */
};

struct put {
    struct mw_loop *loop;
    struct mw_batch *batch;
    const struct wire_put_batch *m;
    struct arrived *feature; /* [job features], in the message's arena */
    uint32_t n_ids, n_distinct_ids;
    uint32_t n_distinct; /* rows of all tables */
    uint32_t n_composed; /* rows of the ids of hashed tables, one for each function */
    uint64_t n_room;     /* what scratch must have room for */
    size_t *ids_at;      /* [owners] where the next table's go, in the held buffer */
    struct mw_cut cut;   /* ids that are held; rows that are looked up; gradients that are pushed */
    size_t held_bytes;
    size_t embedding_bytes;       /* while it is looked up: out */
    size_t sample_gradient_bytes; /* while it is pushed: in */
};

/* ---- what arrived ---- */

static int check_lengths(const struct put *put, uint32_t f)
{
    const struct rt_feature_conf *conf = &put->loop->conf.job->feature[f];
    const struct arrived *in = &put->feature[f];
    uint64_t sum = 0;

    for (uint32_t s = 0; s < put->m->samples; s++) {
        if (in->length[s] > conf->max_length)
            return RT_FAIL(RT_EPROTO, "feature %s: sample %u has %u ids, expected at most %u",
                           conf->name, s, in->length[s], conf->max_length);
        sum += in->length[s];
    }
    if (sum != in->n_ids)
        return RT_FAIL(RT_EPROTO, "feature %s: lengths sum to %llu, expected %u", conf->name,
                       (unsigned long long)sum, in->n_ids);
    return 0;
}

static int check_weights(const struct put *put, uint32_t f)
{
    const struct arrived *in = &put->feature[f];

    for (uint32_t i = 0; i < in->n_ids; i++)
        if (!isfinite(in->weight[i]))
            return RT_FAIL(RT_EPROTO, "feature %s: weight %u is not finite",
                           put->loop->conf.job->feature[f].name, i);
    return 0;
}

static int take_feature(struct put *put, struct rt_segments *segments, uint32_t f)
{
    const struct rt_job *job = put->loop->conf.job;
    uint32_t functions = job->table[job->feature[f].table].hash_functions;
    struct arrived *in = &put->feature[f];
    const void *at = NULL;
    int err = 0;

    in->n_ids = put->m->n_ids[f];
    in->first = put->n_ids;
    put->n_ids += in->n_ids;
    put->n_room += (uint64_t)in->n_ids * (functions ? functions : 1);
    if (put->m->layout[f] == WIRE_LAYOUT_LENGTHS) {
        err = rt_segment_take(segments, put->m->samples, sizeof(uint32_t), &at);
        in->length = at;
        if (!err)
            err = check_lengths(put, f);
    }
    if (!err) {
        err = rt_segment_take(segments, in->n_ids, sizeof(uint64_t), &at);
        in->id = at;
    }
    if (!err && put->m->weighted && put->m->weighted[f]) {
        if (rt_feature_is_sequence(job, f))
            return RT_FAIL(RT_EPROTO,
                           "feature %s: its ids have weights, expected none: pooling none",
                           job->feature[f].name);
        err = rt_segment_take(segments, in->n_ids, sizeof(float), &at);
        in->weight = at;
        if (!err)
            err = check_weights(put, f);
    }
    return err;
}

static int take(struct put *put, const struct rt_buf *payload)
{
    struct mw_loop *loop = put->loop;
    struct rt_segments segments = rt_segments_of(payload);
    uint64_t digest = rt_hash_bytes(segments.base, segments.size);
    uint32_t n = loop->conf.job->n_features;
    int err = 0;

    if (digest != put->m->digest) {
        mw_count(&loop->stats.digest_errors, 1);
        return RT_FAIL(RT_EDIGEST, "the payload has digest %016llx, the message says %016llx",
                       (unsigned long long)digest, (unsigned long long)put->m->digest);
    }
    put->feature = rt_arena_array(loop->arena, struct arrived, n);
    if (!put->feature)
        return RT_FAIL(RT_ENOMEM, "no memory for %u features", n);
    for (uint32_t f = 0; f < n && !err; f++)
        err = take_feature(put, &segments, f);
    return err ? err : rt_segments_end(&segments);
}

/* ---- distinct ids ---- */

static int grow(void **area, size_t size)
{
    void *grown = rt_try_aligned(size);

    if (!grown)
        return RT_FAIL(RT_ENOMEM, "no memory for an area of %zu bytes", size);
    rt_free(*area);
    *area = grown;
    return 0;
}

static int grow_hashed(struct mw_scratch *scratch, size_t n)
{
    int err = grow((void **)&scratch->id, n * sizeof(*scratch->id));

    if (!err)
        err = grow((void **)&scratch->hashed, n * sizeof(*scratch->hashed));
    return err ? err : grow((void **)&scratch->composed, n * sizeof(*scratch->composed));
}

static int grow_scratch(struct mw_scratch *scratch, uint32_t n_ids, bool hashed)
{
    size_t n = scratch->n_ids ? scratch->n_ids : 4096;
    int err;

    if (n_ids <= scratch->n_ids)
        return 0;
    while (n < n_ids)
        n *= 2;
    err = hashed ? grow_hashed(scratch, n) : 0;
    if (!err)
        err = grow((void **)&scratch->slot, n * sizeof(*scratch->slot));
    if (!err)
        err = grow((void **)&scratch->sequence, n * sizeof(*scratch->sequence));
    if (!err)
        err = grow((void **)&scratch->distinct, n * sizeof(*scratch->distinct));
    if (!err)
        err = grow((void **)&scratch->owner, n * sizeof(*scratch->owner));
    if (!err)
        err = grow((void **)&scratch->position, n * sizeof(*scratch->position));
    if (!err)
        err = grow((void **)&scratch->row, n * sizeof(*scratch->row));
    if (!err)
        scratch->n_ids = (uint32_t)n;
    return err;
}

/* First and one past the last place in loop->feature_order of the features of one table. */
static uint32_t table_end(const struct mw_loop *loop, uint32_t from)
{
    const struct rt_job *job = loop->conf.job;
    uint32_t to = from;

    while (to < job->n_features && job->feature[loop->feature_order[to]].table ==
                                       job->feature[loop->feature_order[from]].table)
        to++;
    return to;
}

/* The *n distinct ids of a hashed table, in scratch->id, become its distinct rows. */
static int find_rows(struct put *put, uint32_t table, uint32_t *n)
{
    struct mw_loop *loop = put->loop;
    struct mw_scratch *scratch = &loop->scratch;
    size_t rows = (size_t)*n * loop->conf.job->table[table].hash_functions;
    int err = mw_dedup_begin(loop->dedup, rows);

    if (err)
        return err;
    put->batch->composed[table].n_ids = *n;
    mw_compose_ids(loop->conf.job, table, scratch->id, *n, scratch->hashed);
    *n = mw_dedup_add(loop->dedup, scratch->hashed, rows, scratch->composed + put->n_composed,
                      scratch->distinct + put->n_distinct, 0);
    put->n_composed += (uint32_t)rows;
    return 0;
}

static int find_distinct_of(struct put *put, uint32_t from, uint32_t to)
{
    struct mw_loop *loop = put->loop;
    struct mw_scratch *scratch = &loop->scratch;
    uint32_t table = loop->conf.job->feature[loop->feature_order[from]].table;
    bool hashed = mw_is_hashed(loop->conf.job, table);
    uint64_t *distinct = hashed ? scratch->id : scratch->distinct + put->n_distinct;
    uint32_t n = 0;
    size_t ids = 0;
    int err;

    for (uint32_t i = from; i < to; i++)
        ids += put->feature[loop->feature_order[i]].n_ids;
    err = mw_dedup_begin(loop->dedup, ids);
    if (err)
        return err;
    for (uint32_t i = from; i < to; i++) {
        const struct arrived *in = &put->feature[loop->feature_order[i]];

        n = mw_dedup_add(loop->dedup, in->id, in->n_ids, scratch->slot + in->first, distinct, n);
    }
    for (uint32_t i = from; i < to; i++) {
        uint32_t f = loop->feature_order[i];
        struct arrived *in = &put->feature[f];

        if (rt_feature_is_sequence(loop->conf.job, f))
            in->n_rows = mw_sequence_rows(scratch->slot + in->first, in->n_ids, scratch->position,
                                          n, scratch->sequence + in->first);
    }
    put->n_distinct_ids += n;
    err = hashed ? find_rows(put, table, &n) : 0;
    if (err)
        return err;
    distinct = scratch->distinct + put->n_distinct;
    mw_split_count(&loop->map, distinct, n, scratch->owner + put->n_distinct,
                   scratch->count + (size_t)table * loop->map.owners);
    put->batch->distinct[table] = n;
    put->n_distinct += n;
    return 0;
}

static int find_distinct(struct put *put)
{
    struct mw_loop *loop = put->loop;
    const struct rt_job *job = loop->conf.job;
    bool hashed = false;
    int err;

    for (uint32_t t = 0; t < job->n_tables; t++)
        hashed = hashed || mw_is_hashed(job, t);
    if (put->n_room > WIRE_IDS_MAX)
        return RT_FAIL(RT_ELIMIT,
                       "its ids are %llu rows, hashed tables counted, at most %u fit a batch: use "
                       "a smaller data.batch_size",
                       (unsigned long long)put->n_room, WIRE_IDS_MAX);
    err = grow_scratch(&loop->scratch, (uint32_t)put->n_room, hashed);
    if (err)
        return err;
    put->batch->distinct = rt_arena_array(put->batch->arena, uint32_t, job->n_tables);
    put->batch->composed = rt_arena_array(put->batch->arena, struct mw_composed, job->n_tables);
    if (!put->batch->distinct || !put->batch->composed)
        return RT_FAIL(RT_ENOMEM, "no memory for %u tables", job->n_tables);
    for (uint32_t from = 0, to; from < job->n_features && !err; from = to) {
        to = table_end(loop, from);
        err = find_distinct_of(put, from, to);
    }
    return err;
}

/* ---- memory ---- */

/* Room for a batch of `bytes` in the loop's memory, and in its rank's part of it. */
static bool fits(const struct put *put, size_t bytes)
{
    const struct mw_loop *loop = put->loop;
    uint64_t memory = loop->conf.job->global.middleware_memory;
    uint64_t world = put->m->world > put->m->rank ? put->m->world : put->m->rank + 1;
    size_t of_rank = mw_reserved_of(loop, put->m->rank);

    return loop->reserved + bytes <= memory && (of_rank == 0 || of_rank + bytes <= memory / world);
}

/* Idle batches go when room is short: whoever asks for one later hears that it is not held, and it is put
 * again. */
static void make_room(const struct put *put, size_t bytes)
{
    struct mw_loop *loop = put->loop;
    uint64_t now = rt_io_now(loop->conf.io);
    struct mw_batch *next;

    for (struct mw_batch *batch = loop->oldest; batch; batch = next) {
        next = batch->next;
        if (fits(put, bytes) || now - batch->touched_ns < MW_IDLE_NS)
            return;
        if (batch->state != MW_HELD && batch->state != MW_SERVED)
            continue;
        mw_batch_forget(batch);
        mw_count(&loop->stats.dropped_idle, 1);
    }
}

static void count_bytes(struct put *put)
{
    const struct rt_job *job = put->loop->conf.job;
    const struct rt_wire_conf *wire = &job->global.wire;
    size_t samples = put->m->samples;

    rt_segment_put(&put->held_bytes, put->cut.ids);
    rt_segment_put(&put->held_bytes, put->n_ids * sizeof(uint32_t));
    rt_segment_put(&put->held_bytes, put->n_composed * sizeof(uint32_t));
    for (uint32_t f = 0; f < job->n_features; f++) {
        const struct arrived *in = &put->feature[f];
        bool sequence = rt_feature_is_sequence(job, f);
        size_t values = (sequence ? in->n_rows : samples) * put->loop->dim[f];

        if (in->length)
            rt_segment_put(&put->held_bytes, samples * sizeof(uint32_t));
        if (in->weight)
            rt_segment_put(&put->held_bytes, in->n_ids * sizeof(float));
        if (sequence)
            rt_segment_put(&put->held_bytes, in->n_rows * sizeof(uint32_t));
        rt_segment_put(&put->embedding_bytes, values * wire_dtype_size(wire->embeddings));
        if (sequence)
            rt_segment_put(&put->embedding_bytes, in->n_ids * sizeof(uint32_t));
        if (sequence)
            rt_segment_put(&put->embedding_bytes, samples * sizeof(uint32_t));
        rt_segment_put(&put->sample_gradient_bytes, values * wire_dtype_size(wire->gradients));
    }
    for (uint32_t t = 0; t < job->n_tables && wire->row_gradients != WIRE_F32; t++) {
        size_t bytes = (size_t)put->batch->distinct[t] * job->table[t].dim * sizeof(float);

        if (bytes > put->batch->sum_bytes)
            put->batch->sum_bytes = bytes;
    }
}

/* What it takes beside the held buffer, of its two turns the larger. */
static size_t turn_bytes(const struct put *put)
{
    size_t lookup = put->cut.rows + mw_compose_bytes(put->batch) + put->embedding_bytes;
    size_t push = put->sample_gradient_bytes + put->batch->sum_bytes + mw_compose_most(put->batch) +
                  put->cut.gradients;

    return lookup > push ? lookup : push;
}

static int reserve(struct put *put)
{
    struct mw_loop *loop = put->loop;
    uint64_t memory = loop->conf.job->global.middleware_memory;
    size_t bytes;

    count_bytes(put);
    if (put->embedding_bytes > RT_PAYLOAD_MAX || put->sample_gradient_bytes > RT_PAYLOAD_MAX)
        return RT_FAIL(RT_ELIMIT,
                       "its embeddings are %zu bytes, its gradients %zu, at most %llu fit a "
                       "message: use a smaller data.batch_size",
                       put->embedding_bytes, put->sample_gradient_bytes,
                       (unsigned long long)RT_PAYLOAD_MAX);
    bytes = put->held_bytes + turn_bytes(put);
    bytes += bytes / 4 + rt_arena_used(put->batch->arena) + sizeof(struct mw_batch) +
             (size_t)(put->batch->n_parts + 4) * BUF_MIN;
    if (bytes > memory)
        return RT_FAIL(RT_ELIMIT,
                       "it needs %zu bytes, global.middleware.memory is %llu: raise it, or use "
                       "a smaller data.batch_size",
                       bytes, (unsigned long long)memory);
    make_room(put, bytes);
    if (!put->m->first && !fits(put, bytes)) {
        mw_count(&loop->stats.refused_full, 1);
        return RT_FAIL(RT_EFULL, "it needs %zu bytes, %zu of %llu are promised, %zu to its rank",
                       bytes, loop->reserved, (unsigned long long)memory,
                       mw_reserved_of(loop, put->m->rank));
    }
    put->batch->reserved = bytes;
    return 0;
}

/* ---- the held buffer ---- */

/* Ids are the first in the held buffer. */
static void fill_ids(struct put *put)
{
    const struct mw_batch *batch = put->batch;

    for (uint32_t i = 0; i < batch->n_parts; i++)
        if (batch->part[i].number == 0)
            put->ids_at[batch->part[i].owner] = batch->part[i].ids_at;
    memset(batch->held->data, 0, put->cut.ids); /* nobody else's bytes leave as padding */
}

/* Where the rows of a table are, in the held buffer. */
struct filling {
    uint32_t distinct, composed; /* of the tables before it */
    uint32_t *slots, *positions; /* of all features; of all hashed tables */
};

/* Ids of one table to their owners, and the slots of its features into positions; or, where it is hashed, those of its
 * ids. */
static void fill_table(struct put *put, uint32_t from, uint32_t to, struct filling *at)
{
    struct mw_loop *loop = put->loop;
    struct mw_scratch *scratch = &loop->scratch;
    const struct rt_job *job = loop->conf.job;
    uint32_t table = job->feature[loop->feature_order[from]].table;
    struct mw_composed *composed = &put->batch->composed[table];
    bool hashed = mw_is_hashed(job, table);
    uint32_t position = 0;

    for (uint32_t k = 0; k < loop->map.owners; k++) {
        uint32_t count = mw_count_of(put->batch, table, k);
        uint8_t *base = put->batch->held->data;

        if (count == 0)
            continue;
        scratch->cursor[k].id =
            (uint64_t *)(void *)(base + rt_segment_put(&put->ids_at[k], count * sizeof(uint64_t)));
        scratch->cursor[k].position = position;
        position += count;
    }
    mw_split_place(scratch->distinct + at->distinct, scratch->owner + at->distinct,
                   put->batch->distinct[table], scratch->cursor, scratch->position);
    at->distinct += put->batch->distinct[table];
    if (composed->n_ids) {
        size_t n = (size_t)composed->n_ids * job->table[table].hash_functions;

        mw_split_renumber(scratch->composed + at->composed, n, scratch->position,
                          at->positions + at->composed);
        composed->position = at->positions + at->composed;
        at->composed += (uint32_t)n;
    }
    for (uint32_t i = from; i < to; i++) {
        uint32_t f = loop->feature_order[i];
        const struct arrived *in = &put->feature[f];
        uint32_t *row = scratch->sequence + in->first;
        bool sequence = rt_feature_is_sequence(job, f);

        if (!sequence && !hashed)
            mw_split_renumber(scratch->slot + in->first, in->n_ids, scratch->position,
                              at->slots + in->first);
        else if (in->n_ids)
            memcpy(at->slots + in->first, scratch->slot + in->first,
                   in->n_ids * sizeof(*at->slots));
        if (sequence && !hashed)
            mw_split_renumber(row, in->n_rows, scratch->position, row);
    }
}

static const void *keep(struct mw_batch *batch, size_t *end, const void *from, size_t bytes)
{
    uint8_t *to = batch->held->data + rt_segment_put(end, bytes);

    return bytes ? memcpy(to, from, bytes) : to;
}

static int fill(struct put *put)
{
    struct mw_loop *loop = put->loop;
    struct mw_batch *batch = put->batch;
    const struct rt_job *job = loop->conf.job;
    struct filling at = {0};
    size_t end = 0;

    put->ids_at = rt_arena_array(loop->arena, size_t, loop->map.owners);
    batch->feature = rt_arena_array(batch->arena, struct mw_feature, job->n_features);
    batch->held = put->ids_at && batch->feature ? rt_io_buf(loop->conf.io, put->held_bytes) : NULL;
    if (!batch->held) {
        mw_count(&loop->stats.refused_full, 1);
        return RT_FAIL(RT_EFULL, "no room for %zu bytes", put->held_bytes);
    }
    fill_ids(put);
    rt_segment_put(&end, put->cut.ids);
    at.slots = (uint32_t *)(void *)(batch->held->data +
                                    rt_segment_put(&end, put->n_ids * sizeof(uint32_t)));
    at.positions = (uint32_t *)(void *)(batch->held->data +
                                        rt_segment_put(&end, put->n_composed * sizeof(uint32_t)));
    for (uint32_t from = 0, to; from < job->n_features; from = to) {
        to = table_end(loop, from);
        fill_table(put, from, to, &at);
    }
    for (uint32_t f = 0; f < job->n_features; f++) {
        const struct arrived *in = &put->feature[f];
        struct mw_feature *of = &batch->feature[f];

        of->n_ids = in->n_ids;
        of->slot = at.slots + in->first;
        if (in->length)
            of->length = keep(batch, &end, in->length, batch->samples * sizeof(uint32_t));
        if (in->weight)
            of->weight = keep(batch, &end, in->weight, in->n_ids * sizeof(float));
        if (rt_feature_is_sequence(job, f)) {
            of->n_rows = in->n_rows;
            of->row = keep(batch, &end, loop->scratch.sequence + in->first,
                           in->n_rows * sizeof(uint32_t));
        }
    }
    rt_assert(end == put->held_bytes);
    batch->held->size = end;
    return 0;
}

/* ---- the call ---- */

/* Batches of one step, which an owner applies as one update. */
static uint32_t together(const struct put *put)
{
    bool full = put->loop->conf.job->global.mode == RT_MODE_FULL;

    return full && put->m->world > 1 ? put->m->world : 1;
}

static int build(struct mw_loop *loop, const struct wire_put_batch *m,
                 const struct rt_frame *request, uint32_t composer)
{
    struct put put = {.loop = loop, .m = m};
    uint64_t begin = rt_io_now(loop->conf.io), at = begin;
    int err = mw_batch_new(loop, &put.batch);

    if (err)
        return err;
    put.batch->id = request->header.batch_id;
    put.batch->digest = m->digest;
    put.batch->samples = m->samples;
    put.batch->evaluate = m->evaluate;
    put.batch->rank = m->rank;
    put.batch->composer = composer;
    put.batch->composer_incarnation = m->composer_incarnation;
    err = take(&put, request->payload);
    if (!err)
        err = find_distinct(&put);
    at = rt_trace_span(put.batch->id, loop->conf.identity.loop, "dedup", at);
    if (!err)
        err = mw_cut(put.batch, together(&put), &put.cut);
    if (!err)
        err = reserve(&put);
    if (!err)
        err = fill(&put);
    if (!err)
        err = mw_batch_open(put.batch);
    rt_trace_span(request->header.batch_id, loop->conf.identity.loop, "split", at);
    if (err) {
        mw_batch_free(put.batch);
        return err;
    }
    mw_count(&loop->stats.batches_put, 1);
    mw_count(&loop->stats.ids, put.n_ids);
    mw_count(&loop->stats.distinct, put.n_distinct_ids);
    mw_took(&loop->stats.dedup, begin, rt_io_now(loop->conf.io));
    return 0;
}

/* A composer that started anew puts all its open batches again, wherever it likes. What its dead incarnation
 * put here and no trainer has asked for would stay for ever. */
static int on_composer(struct mw_loop *loop, uint32_t index, uint64_t incarnation, uint64_t keep_id)
{
    uint64_t seen = 0;
    struct mw_batch *next;
    int err;

    if (rt_map_get(&loop->composers, index, &seen) && incarnation <= seen)
        return 0;
    err = rt_map_put(&loop->composers, index, incarnation);
    for (struct mw_batch *batch = loop->oldest; batch && !err; batch = next) {
        next = batch->next;
        if (batch->state != MW_HELD || batch->composer != index || batch->id == keep_id ||
            batch->composer_incarnation >= incarnation)
            continue;
        mw_batch_forget(batch);
        mw_count(&loop->stats.dropped_dead, 1);
    }
    return err;
}

/* Put before: nothing to do, if it is the same. */
static int join(struct mw_batch *batch, const struct wire_put_batch *m)
{
    if (batch->digest != m->digest) {
        mw_count(&batch->loop->stats.digest_errors, 1);
        return RT_FAIL(RT_EDIGEST, "it is held with digest %016llx, got %016llx",
                       (unsigned long long)batch->digest, (unsigned long long)m->digest);
    }
    if (batch->samples != m->samples || batch->evaluate != m->evaluate)
        return RT_FAIL(RT_EPROTO, "it is held with %u samples, evaluate %d; got %u, %d",
                       batch->samples, batch->evaluate, m->samples, m->evaluate);
    if (m->composer_incarnation > batch->composer_incarnation)
        batch->composer_incarnation = m->composer_incarnation;
    mw_batch_touch(batch);
    return 0;
}

static int put_batch(struct mw_loop *loop, uint32_t composer, const struct rt_frame *request)
{
    const struct rt_job *job = loop->conf.job;
    uint64_t id = request->header.batch_id;
    struct wire_put_batch m;
    struct mw_batch *batch;
    int err;

    err = wire_put_batch_unpack(request->message, request->header.message_size, loop->arena, &m);
    if (err)
        return err;
    if (m.n_features != job->n_features)
        return RT_FAIL(RT_EPROTO, "%u features, expected %u", m.n_features, job->n_features);
    if (loop->map.owners == 0)
        return RT_FAIL(RT_ENOTREADY, "no embedding server is known yet");
    err = on_composer(loop, composer, m.composer_incarnation, id);
    if (err)
        return err;
    batch = mw_batch_find(loop, id);
    return batch ? join(batch, &m) : build(loop, &m, request, composer);
}

void mw_serve_put(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct mw_loop *loop = ctx;
    uint64_t id = request->header.batch_id;
    struct wire_put_batch_reply m;
    struct rt_outgoing out = {.batch_id = id};
    int err;

    rt_arena_reset(loop->arena);
    err = put_batch(loop, rt_call_from(call)->index, request);
    if (!err) {
        m.bytes_reserved = mw_batch_find(loop, id)->reserved;
        err = wire_put_batch_reply_pack(&m, &loop->out);
    }
    if (err) {
        mw_refuse(call, rt_fail_prefix(err, "PutBatch of batch %016llx: ", (unsigned long long)id));
        return;
    }
    RT_FAILPOINT("P2.held");
    out.message = loop->out.data;
    out.message_size = loop->out.size;
    rt_call_reply(call, &out);
}
