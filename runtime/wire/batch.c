/* runtime/wire/batch.c -- codec of the messages that carry one batch: put, train, lookup, push, release.
 * (What data-compose and trainer say about phases is in phase.c.) */
#include "runtime/wire/batch.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/wire/codec.h"

#include "proto/batch.pb-c.h"

/* ---- PutBatch ---- */

static int check_put_batch(const struct wire_put_batch *m)
{
    static const char name[] = "PutBatch";
    int err = wire_range(name, "samples", m->samples, 1, WIRE_SAMPLES_MAX);

    if (!err)
        err = wire_range(name, "rank", m->rank, 0, WIRE_WORLD_MAX - 1);
    if (!err && m->world)
        err = wire_rank(name, m->rank, m->world);
    if (!err)
        err = wire_range(name, "count of n_ids", m->n_features, 0, WIRE_FEATURES_MAX);
    if (!err)
        err = wire_ids(name, "n_ids", m->n_ids, m->n_features, 0);
    for (uint32_t i = 0; i < m->n_features && !err; i++) {
        if (m->layout[i] != WIRE_LAYOUT_ONE && m->layout[i] != WIRE_LAYOUT_LENGTHS)
            err = RT_FAIL(RT_EPROTO, "%s: layout[%u] is %u, expected %d (one) or %d (lengths)",
                          name, i, m->layout[i], WIRE_LAYOUT_ONE, WIRE_LAYOUT_LENGTHS);
        else if (m->layout[i] == WIRE_LAYOUT_ONE && m->n_ids[i] != m->samples)
            err = RT_FAIL(RT_EPROTO, "%s: n_ids[%u] is %u with one id per sample, expected %u",
                          name, i, m->n_ids[i], m->samples);
        else if (m->weighted && m->weighted[i] > 1)
            err = RT_FAIL(RT_EPROTO, "%s: weighted[%u] is %u, expected 0 or 1", name, i,
                          m->weighted[i]);
    }
    return err;
}

int wire_put_batch_pack(const struct wire_put_batch *in, struct wire_out *out)
{
    Saffron__PutBatch m = SAFFRON__PUT_BATCH__INIT;
    protobuf_c_boolean weighted[WIRE_FEATURES_MAX];

    wire_assert_ok(check_put_batch(in));
    m.samples = in->samples;
    m.rank = in->rank;
    m.evaluate = in->evaluate;
    m.digest = in->digest;
    m.n_n_ids = m.n_layout = in->n_features;
    m.n_ids = (uint32_t *)in->n_ids;
    m.layout = (uint32_t *)in->layout;
    for (uint32_t i = 0; in->weighted && i < in->n_features; i++)
        weighted[i] = in->weighted[i];
    m.n_weighted = in->weighted ? in->n_features : 0;
    m.weighted = weighted;
    m.composer_incarnation = in->composer_incarnation;
    m.world = in->world;
    m.first = in->first;
    return wire_encode(&m.base, out);
}

int wire_put_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                          struct wire_put_batch *out)
{
    const Saffron__PutBatch *m;
    uint8_t *weighted = NULL;
    int err;

    m = wire_decode(&saffron__put_batch__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_range("PutBatch", "count of n_ids", m->n_n_ids, 0, WIRE_FEATURES_MAX);
    if (!err)
        err = wire_same_count("PutBatch", "n_ids", m->n_n_ids, "layout", m->n_layout);
    if (!err && m->n_weighted > 0)
        err = wire_same_count("PutBatch", "n_ids", m->n_n_ids, "weighted", m->n_weighted);
    if (err)
        return err;
    if (m->n_weighted > 0) {
        weighted = rt_arena_alloc(arena, m->n_weighted);
        if (!weighted)
            return RT_FAIL(RT_ENOMEM, "PutBatch: no room for %zu flags", m->n_weighted);
        for (size_t i = 0; i < m->n_weighted; i++)
            weighted[i] = m->weighted[i] != 0;
    }
    *out = (struct wire_put_batch){
        .samples = m->samples,
        .rank = m->rank,
        .evaluate = m->evaluate,
        .digest = m->digest,
        .n_features = (uint32_t)m->n_n_ids,
        .n_ids = m->n_ids,
        .layout = m->layout,
        .weighted = weighted,
        .composer_incarnation = m->composer_incarnation,
        .world = m->world,
        .first = m->first,
    };
    return check_put_batch(out);
}

int wire_put_batch_reply_pack(const struct wire_put_batch_reply *in, struct wire_out *out)
{
    Saffron__PutBatchReply m = SAFFRON__PUT_BATCH_REPLY__INIT;

    m.bytes_reserved = in->bytes_reserved;
    return wire_encode(&m.base, out);
}

int wire_put_batch_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_put_batch_reply *out)
{
    const Saffron__PutBatchReply *m;
    int err;

    m = wire_decode(&saffron__put_batch_reply__descriptor, data, size, arena, &err);
    if (m)
        out->bytes_reserved = m->bytes_reserved;
    return err;
}

/* ---- TrainBatch ---- */

static int check_train_batch(const struct wire_train_batch *m)
{
    static const char name[] = "TrainBatch";
    int err = wire_range(name, "samples", m->samples, 1, WIRE_SAMPLES_MAX);

    if (!err)
        err = wire_range(name, "n_dense", m->n_dense, 0, WIRE_DENSE_MAX);
    if (!err)
        err = wire_range(name, "n_labels", m->n_labels, 0, WIRE_LABELS_MAX);
    if (!err)
        err = wire_range(name, "key_bytes", m->key_bytes, 0, WIRE_KEY_BYTES_MAX);
    if (!err)
        err = wire_range(name, "middleware", m->middleware, 0, WIRE_REPLICAS_MAX - 1);
    if (!err)
        err = wire_range(name, "middleware_loop", m->middleware_loop, 0, WIRE_LOOPS_MAX - 1);
    if (!err)
        err = wire_range(name, "attempt", m->attempt, 1, UINT32_MAX);
    return err;
}

int wire_train_batch_pack(const struct wire_train_batch *in, struct wire_out *out)
{
    Saffron__TrainBatch m = SAFFRON__TRAIN_BATCH__INIT;

    wire_assert_ok(check_train_batch(in));
    m.samples = in->samples;
    m.n_dense = in->n_dense;
    m.n_labels = in->n_labels;
    m.weighted = in->weighted;
    m.grouped = in->grouped;
    m.key_bytes = in->key_bytes;
    m.evaluate = in->evaluate;
    m.middleware = in->middleware;
    m.middleware_loop = in->middleware_loop;
    m.middleware_incarnation = in->middleware_incarnation;
    m.digest = in->digest;
    m.epoch = in->epoch;
    m.attempt = in->attempt;
    m.has_before = in->has_before;
    m.before = in->before;
    m.has_turn_before = in->has_turn_before;
    m.turn_before = in->turn_before;
    return wire_encode(&m.base, out);
}

int wire_train_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_train_batch *out)
{
    const Saffron__TrainBatch *m;
    int err;

    m = wire_decode(&saffron__train_batch__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_train_batch){
        .samples = m->samples,
        .n_dense = m->n_dense,
        .n_labels = m->n_labels,
        .weighted = m->weighted,
        .grouped = m->grouped,
        .evaluate = m->evaluate,
        .key_bytes = m->key_bytes,
        .middleware = m->middleware,
        .middleware_loop = m->middleware_loop,
        .middleware_incarnation = m->middleware_incarnation,
        .digest = m->digest,
        .epoch = m->epoch,
        .attempt = m->attempt,
        .has_before = m->has_before,
        .before = m->before,
        .has_turn_before = m->has_turn_before,
        .turn_before = m->turn_before,
    };
    return check_train_batch(out);
}

static int check_train_batch_reply(const struct wire_train_batch_reply *m)
{
    int err = wire_range("TrainBatchReply", "outcome", (uint64_t)m->outcome, WIRE_TRAINED,
                         WIRE_EVALUATED);

    return err ? err : wire_text("TrainBatchReply", "reason", m->reason, WIRE_TEXT_MAX);
}

int wire_train_batch_reply_pack(const struct wire_train_batch_reply *in, struct wire_out *out)
{
    Saffron__TrainBatchReply m = SAFFRON__TRAIN_BATCH_REPLY__INIT;
    struct wire_train_batch_reply reply = {in->outcome, in->reason ? in->reason : "", in->failed};

    wire_assert_ok(check_train_batch_reply(&reply));
    m.outcome = (Saffron__TrainBatchReply__Outcome)reply.outcome;
    m.reason = (char *)reply.reason;
    m.failed = reply.failed;
    return wire_encode(&m.base, out);
}

int wire_train_batch_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_train_batch_reply *out)
{
    const Saffron__TrainBatchReply *m;
    int err;

    m = wire_decode(&saffron__train_batch_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_train_batch_reply){(enum wire_outcome)m->outcome, m->reason, m->failed};
    return check_train_batch_reply(out);
}

/* ---- LookupBatch ---- */

int wire_lookup_batch_pack(const struct wire_lookup_batch *in, struct wire_out *out)
{
    Saffron__LookupBatch m = SAFFRON__LOOKUP_BATCH__INIT;

    wire_assert_ok(wire_range("LookupBatch", "samples", in->samples, 1, WIRE_SAMPLES_MAX));
    m.step = in->step;
    m.samples = in->samples;
    m.evaluate = in->evaluate;
    m.digest = in->digest;
    return wire_encode(&m.base, out);
}

int wire_lookup_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_lookup_batch *out)
{
    const Saffron__LookupBatch *m;
    int err;

    m = wire_decode(&saffron__lookup_batch__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_lookup_batch){m->step, m->samples, m->evaluate, m->digest};
    return wire_range("LookupBatch", "samples", out->samples, 1, WIRE_SAMPLES_MAX);
}

/* Every row stands at one place or more. */
static int check_places(const struct wire_lookup_batch_reply *m)
{
    int err = 0;

    for (uint32_t f = 0; m->rows && f < m->n_features && !err; f++) {
        if (m->rows[f] > m->places[f] || (m->rows[f] == 0 && m->places[f] > 0))
            err = RT_FAIL(RT_EPROTO, "LookupBatchReply: rows[%u] is %u for %u places", f,
                          m->rows[f], m->places[f]);
    }
    return err;
}

static int check_lookup_batch_reply(const struct wire_lookup_batch_reply *m)
{
    static const char name[] = "LookupBatchReply";
    int err = wire_range(name, "samples", m->samples, 1, WIRE_SAMPLES_MAX);

    if (!err)
        err = wire_dtype(name, m->dtype);
    if (!err)
        err = wire_dims(name, m->dim, m->n_features);
    if (!err && !m->rows != !m->places)
        err = RT_FAIL(RT_EPROTO, "%s: rows and places go together", name);
    if (!err && m->rows)
        err = wire_ids(name, "places", m->places, m->n_features, 0);
    return err ? err : check_places(m);
}

int wire_lookup_batch_reply_pack(const struct wire_lookup_batch_reply *in, struct wire_out *out)
{
    Saffron__LookupBatchReply m = SAFFRON__LOOKUP_BATCH_REPLY__INIT;

    wire_assert_ok(check_lookup_batch_reply(in));
    m.samples = in->samples;
    m.dtype = in->dtype;
    m.n_dim = in->n_features;
    m.dim = (uint32_t *)in->dim;
    m.n_rows = m.n_places = in->rows ? in->n_features : 0;
    m.rows = (uint32_t *)in->rows;
    m.places = (uint32_t *)in->places;
    return wire_encode(&m.base, out);
}

int wire_lookup_batch_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                   struct wire_lookup_batch_reply *out)
{
    const Saffron__LookupBatchReply *m;
    int err;

    m = wire_decode(&saffron__lookup_batch_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    if (m->n_rows > 0 || m->n_places > 0) {
        err = wire_same_count("LookupBatchReply", "dim", m->n_dim, "rows", m->n_rows);
        if (!err)
            err = wire_same_count("LookupBatchReply", "dim", m->n_dim, "places", m->n_places);
        if (err)
            return err;
    }
    *out = (struct wire_lookup_batch_reply){
        .samples = m->samples,
        .dtype = m->dtype,
        .n_features = (uint32_t)m->n_dim,
        .dim = m->dim,
        .rows = m->n_rows > 0 ? m->rows : NULL,
        .places = m->n_places > 0 ? m->places : NULL,
    };
    return check_lookup_batch_reply(out);
}

/* ---- PushGradients ---- */

static int check_push_gradients(const struct wire_push_gradients *m)
{
    static const char name[] = "PushGradients";
    int err = wire_range(name, "samples", m->samples, 1, WIRE_SAMPLES_MAX);

    if (!err)
        err = wire_real(name, "learning_rate", m->learning_rate, 0);
    if (!err)
        err = wire_rank(name, m->rank, m->world);
    if (!err && m->applied_through > 0)
        err = wire_range(name, "applied_through", m->applied_through, 0, m->step ? m->step - 1 : 0);
    if (!err)
        err = wire_dtype(name, m->dtype);
    if (!err)
        err = wire_dims(name, m->dim, m->n_features);
    if (!err && m->rows)
        err = wire_ids(name, "rows", m->rows, m->n_features, 0);
    return err ? err : wire_scales(name, m->scale, m->n_features);
}

int wire_push_gradients_pack(const struct wire_push_gradients *in, struct wire_out *out)
{
    Saffron__PushGradients m = SAFFRON__PUSH_GRADIENTS__INIT;

    wire_assert_ok(check_push_gradients(in));
    m.step = in->step;
    m.learning_rate = in->learning_rate;
    m.samples = in->samples;
    m.digest = in->digest;
    m.rank = in->rank;
    m.world = in->world;
    m.dtype = in->dtype;
    m.synchronous = in->synchronous;
    m.n_dim = in->n_features;
    m.dim = (uint32_t *)in->dim;
    m.applied_through = in->applied_through;
    m.attempt = in->attempt;
    m.age = in->age;
    m.n_rows = in->rows ? in->n_features : 0;
    m.rows = (uint32_t *)in->rows;
    m.n_scale = in->scale ? in->n_features : 0;
    m.scale = (float *)in->scale;
    return wire_encode(&m.base, out);
}

int wire_push_gradients_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                               struct wire_push_gradients *out)
{
    const Saffron__PushGradients *m;
    int err;

    m = wire_decode(&saffron__push_gradients__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    if (m->n_rows > 0)
        err = wire_same_count("PushGradients", "dim", m->n_dim, "rows", m->n_rows);
    if (!err && m->n_scale > 0)
        err = wire_same_count("PushGradients", "dim", m->n_dim, "scale", m->n_scale);
    if (err)
        return err;
    *out = (struct wire_push_gradients){
        .step = m->step,
        .learning_rate = m->learning_rate,
        .samples = m->samples,
        .digest = m->digest,
        .rank = m->rank,
        .world = m->world,
        .dtype = m->dtype,
        .synchronous = m->synchronous,
        .n_features = (uint32_t)m->n_dim,
        .dim = m->dim,
        .applied_through = m->applied_through,
        .attempt = m->attempt,
        .age = m->age,
        .rows = m->n_rows > 0 ? m->rows : NULL,
        .scale = m->n_scale > 0 ? m->scale : NULL,
    };
    return check_push_gradients(out);
}

int wire_push_gradients_reply_pack(const struct wire_push_gradients_reply *in, struct wire_out *out)
{
    Saffron__PushGradientsReply m = SAFFRON__PUSH_GRADIENTS_REPLY__INIT;

    m.rows_applied = in->rows_applied;
    m.rows_nonfinite = in->rows_nonfinite;
    return wire_encode(&m.base, out);
}

int wire_push_gradients_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                     struct wire_push_gradients_reply *out)
{
    const Saffron__PushGradientsReply *m;
    int err;

    m = wire_decode(&saffron__push_gradients_reply__descriptor, data, size, arena, &err);
    if (m)
        *out = (struct wire_push_gradients_reply){m->rows_applied, m->rows_nonfinite};
    return err;
}

/* ---- ReleaseBatch ---- */

int wire_release_batch_pack(const struct wire_release_batch *in, struct wire_out *out)
{
    Saffron__ReleaseBatch m = SAFFRON__RELEASE_BATCH__INIT;

    m.reason = (char *)(in->reason ? in->reason : "");
    wire_assert_ok(wire_text("ReleaseBatch", "reason", m.reason, WIRE_TEXT_MAX));
    return wire_encode(&m.base, out);
}

int wire_release_batch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                              struct wire_release_batch *out)
{
    const Saffron__ReleaseBatch *m;
    int err;

    m = wire_decode(&saffron__release_batch__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    out->reason = m->reason;
    return wire_text("ReleaseBatch", "reason", m->reason, WIRE_TEXT_MAX);
}
