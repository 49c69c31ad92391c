/* runtime/wire/step.c -- codec of what trainer ranks say to one another. */
#include "runtime/wire/step.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/wire/codec.h"

#include "proto/step.pb-c.h"

#include <math.h>

/* ---- StepHeader ---- */

static int check_step_header(const struct wire_step_header *m)
{
    static const char name[] = "StepHeader";
    int err = wire_range(name, "samples", m->samples, 0, m->has_batch ? WIRE_SAMPLES_MAX : 0);

    if (!err)
        err = wire_range(name, "count of finished", m->n_finished, 0, WIRE_FINISHED_MAX);
    if (!err)
        err = wire_real(name, "epoch_loss_sum", m->counts.epoch_loss_sum, -INFINITY);
    return err ? err : wire_real(name, "learning_rate", m->learning_rate, 0);
}

/* The generated struct borrows the arrays of `in`. */
static void put_header(const struct wire_step_header *in, Saffron__StepHeader *m)
{
    saffron__step_header__init(m);
    m->group_epoch = in->group_epoch;
    m->step = in->step;
    m->has_batch = in->has_batch;
    m->batch_id = in->batch_id;
    m->samples = in->samples;
    m->ended = in->ended;
    m->n_finished = in->n_finished;
    m->finished = (uint64_t *)in->finished;
    m->learning_rate = in->learning_rate;
    m->round = in->round;
    m->phase = in->phase;
    m->paused = in->paused;
    m->unaveraged = in->unaveraged;
    m->imports_due = in->imports_due;
    m->samples_trained = in->counts.samples_trained;
    m->samples_dropped = in->counts.samples_dropped;
    m->batches_trained = in->counts.batches_trained;
    m->batches_dropped = in->counts.batches_dropped;
    m->epoch_loss_sum = in->counts.epoch_loss_sum;
    m->epoch_samples = in->counts.epoch_samples;
    m->suspect = in->counts.suspect;
    m->digested = in->digested;
    m->digest = in->digest;
}

static void take_header(const Saffron__StepHeader *m, struct wire_step_header *out)
{
    *out = (struct wire_step_header){
        .group_epoch = m->group_epoch,
        .step = m->step,
        .has_batch = m->has_batch,
        .ended = m->ended,
        .batch_id = m->batch_id,
        .samples = m->samples,
        .n_finished = (uint32_t)m->n_finished,
        .finished = m->finished,
        .learning_rate = m->learning_rate,
        .round = m->round,
        .phase = m->phase,
        .paused = m->paused,
        .unaveraged = m->unaveraged,
        .imports_due = m->imports_due,
        .counts = {.samples_trained = m->samples_trained,
                   .samples_dropped = m->samples_dropped,
                   .batches_trained = m->batches_trained,
                   .batches_dropped = m->batches_dropped,
                   .epoch_loss_sum = m->epoch_loss_sum,
                   .epoch_samples = m->epoch_samples,
                   .suspect = m->suspect},
        .digested = m->digested,
        .digest = m->digest,
    };
}

int wire_step_header_pack(const struct wire_step_header *in, struct wire_out *out)
{
    Saffron__StepHeader m;

    wire_assert_ok(check_step_header(in));
    put_header(in, &m);
    return wire_encode(&m.base, out);
}

int wire_step_header_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_step_header *out)
{
    const Saffron__StepHeader *m;
    int err;

    m = wire_decode(&saffron__step_header__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    take_header(m, out);
    return check_step_header(out);
}

/* ---- StepHeaders ---- */

static int check_step_headers(const struct wire_step_headers *m)
{
    int err = wire_range("StepHeaders", "count of header", m->n_ranks, 0, WIRE_GROUP_MAX);

    for (uint32_t r = 0; r < m->n_ranks && !err; r++)
        err = check_step_header(&m->header[r]);
    return err;
}

int wire_step_headers_pack(const struct wire_step_headers *in, struct wire_out *out)
{
    Saffron__StepHeaders m = SAFFRON__STEP_HEADERS__INIT;
    Saffron__StepHeader *part;
    int err;

    wire_assert_ok(check_step_headers(in));
    part = rt_try_calloc(in->n_ranks + 1, sizeof(*part));
    m.header = rt_try_calloc(in->n_ranks + 1, sizeof(*m.header));
    if (part && m.header) {
        for (uint32_t r = 0; r < in->n_ranks; r++) {
            put_header(&in->header[r], &part[r]);
            m.header[r] = &part[r];
        }
        m.group_epoch = in->group_epoch;
        m.round = in->round;
        m.n_header = in->n_ranks;
        err = wire_encode(&m.base, out);
    } else {
        err = RT_FAIL(RT_ENOMEM, "StepHeaders: out of memory for %u ranks", in->n_ranks);
    }
    rt_free(part);
    rt_free(m.header);
    return err;
}

int wire_step_headers_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_step_headers *out)
{
    const Saffron__StepHeaders *m;
    struct wire_step_header *header;
    int err;

    m = wire_decode(&saffron__step_headers__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_range("StepHeaders", "count of header", m->n_header, 0, WIRE_GROUP_MAX);
    if (err)
        return err;
    header = rt_arena_array(arena, struct wire_step_header, m->n_header);
    if (!header)
        return RT_FAIL(RT_ENOMEM, "StepHeaders: no room for %zu ranks", m->n_header);
    for (size_t r = 0; r < m->n_header; r++)
        take_header(m->header[r], &header[r]);
    *out = (struct wire_step_headers){m->group_epoch, m->round, (uint32_t)m->n_header, header};
    return check_step_headers(out);
}

/* ---- JoinGroup ---- */

static int check_join_group(const struct wire_join_group *m)
{
    int err = wire_range("JoinGroup", "group_epoch", m->group_epoch, 0, UINT32_MAX - 1);

    return err || !m->differs ? err : wire_text("JoinGroup", "differs", m->differs, WIRE_TEXT_MAX);
}

int wire_join_group_pack(const struct wire_join_group *in, struct wire_out *out)
{
    Saffron__JoinGroup m = SAFFRON__JOIN_GROUP__INIT;

    wire_assert_ok(check_join_group(in));
    m.group_epoch = in->group_epoch;
    m.step = in->step;
    m.invite = in->invite;
    m.digest = in->digest;
    m.steps_before = in->steps_before;
    m.imports = in->imports;
    m.imports_due = in->imports_due;
    m.state = (ProtobufCBinaryData){in->state_size, (uint8_t *)in->state};
    if (in->differs)
        m.differs = (char *)(uintptr_t)in->differs;
    return wire_encode(&m.base, out);
}

int wire_join_group_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                           struct wire_join_group *out)
{
    const Saffron__JoinGroup *m;
    int err;

    m = wire_decode(&saffron__join_group__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_join_group){.group_epoch = m->group_epoch,
                                    .step = m->step,
                                    .invite = m->invite,
                                    .digest = m->digest,
                                    .steps_before = m->steps_before,
                                    .imports = m->imports,
                                    .imports_due = m->imports_due,
                                    .state = m->state.data,
                                    .state_size = m->state.len,
                                    .differs = m->differs};
    return check_join_group(out);
}

static int check_join_group_reply(const struct wire_join_group_reply *m)
{
    int err = wire_range("JoinGroupReply", "group_epoch", m->group_epoch, 0, UINT32_MAX);

    if (!err)
        err = wire_range("JoinGroupReply", "count of incarnation", m->n_ranks, 0, WIRE_GROUP_MAX);
    return err ? err : wire_range("JoinGroupReply", "rank", m->rank, 0, WIRE_GROUP_MAX - 1);
}

int wire_join_group_reply_pack(const struct wire_join_group_reply *in, struct wire_out *out)
{
    Saffron__JoinGroupReply m = SAFFRON__JOIN_GROUP_REPLY__INIT;

    wire_assert_ok(check_join_group_reply(in));
    m.group_epoch = in->group_epoch;
    m.rank = in->rank;
    m.step = in->step;
    m.state = (ProtobufCBinaryData){in->state_size, (uint8_t *)in->state};
    m.n_incarnation = in->n_ranks;
    m.imports = in->imports;
    m.imports_due = in->imports_due;
    m.incarnation = (uint64_t *)in->incarnation;
    return wire_encode(&m.base, out);
}

int wire_join_group_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                 struct wire_join_group_reply *out)
{
    const Saffron__JoinGroupReply *m;
    int err;

    m = wire_decode(&saffron__join_group_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    if (m->n_incarnation > WIRE_GROUP_MAX)
        return wire_range("JoinGroupReply", "count of incarnation", m->n_incarnation, 0,
                          WIRE_GROUP_MAX);
    *out = (struct wire_join_group_reply){.group_epoch = m->group_epoch,
                                          .rank = m->rank,
                                          .step = m->step,
                                          .state = m->state.data,
                                          .state_size = m->state.len,
                                          .n_ranks = (uint32_t)m->n_incarnation,
                                          .incarnation = m->incarnation,
                                          .imports = m->imports,
                                          .imports_due = m->imports_due};
    return check_join_group_reply(out);
}

/* ---- FetchState ---- */

int wire_fetch_state_pack(const struct wire_fetch_state *in, struct wire_out *out)
{
    Saffron__FetchState m = SAFFRON__FETCH_STATE__INIT;

    m.group_epoch = in->group_epoch;
    m.part = in->part;
    return wire_encode(&m.base, out);
}

int wire_fetch_state_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_fetch_state *out)
{
    const Saffron__FetchState *m;
    int err;

    m = wire_decode(&saffron__fetch_state__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_fetch_state){m->group_epoch, m->part};
    return wire_range("FetchState", "part", out->part, 0, WIRE_PARTS_MAX - 1);
}

static int check_fetch_state_reply(const struct wire_fetch_state_reply *m)
{
    static const char name[] = "FetchStateReply";
    int err = wire_range(name, "parts", m->parts, 1, WIRE_PARTS_MAX);

    if (!err)
        err = wire_range(name, "part", m->part, 0, m->parts - 1);
    if (!err)
        err = wire_range(name, "count of owed", m->n_owed, 0, WIRE_OWED_MAX);
    for (uint32_t i = 0; i < m->n_owed && !err; i++) {
        err = wire_rank(name, m->owed[i].place, m->owed[i].among);
        if (!err)
            err = wire_real(name, "owed_rate", m->owed[i].learning_rate, 0);
    }
    return err;
}

/* The columns of the list, in one block (rt_free of owed_batch). */
static int put_owed(const struct wire_owed *owed, uint32_t n, Saffron__FetchStateReply *m)
{
    char *block = rt_try_malloc((size_t)n * (5 * sizeof(uint64_t) + 2 * sizeof(uint32_t)) + 1);

    if (!block)
        return RT_FAIL(RT_ENOMEM, "FetchStateReply: out of memory for %u batches", n);
    m->owed_batch = (uint64_t *)(void *)block;
    m->owed_step = m->owed_batch + n;
    m->owed_samples = m->owed_step + n;
    m->owed_attempt = m->owed_samples + n;
    m->owed_rate = (double *)(void *)(m->owed_attempt + n);
    m->owed_place = (uint32_t *)(void *)(m->owed_rate + n);
    m->owed_among = m->owed_place + n;
    m->n_owed_batch = m->n_owed_step = m->n_owed_samples = m->n_owed_attempt = n;
    m->n_owed_place = m->n_owed_among = m->n_owed_rate = n;
    for (uint32_t i = 0; i < n; i++) {
        m->owed_batch[i] = owed[i].batch_id;
        m->owed_step[i] = owed[i].step;
        m->owed_samples[i] = owed[i].samples;
        m->owed_place[i] = owed[i].place;
        m->owed_among[i] = owed[i].among;
        m->owed_rate[i] = owed[i].learning_rate;
        m->owed_attempt[i] = owed[i].attempt;
    }
    return 0;
}

int wire_fetch_state_reply_pack(const struct wire_fetch_state_reply *in, struct wire_out *out)
{
    Saffron__FetchStateReply m = SAFFRON__FETCH_STATE_REPLY__INIT;
    int err;

    wire_assert_ok(check_fetch_state_reply(in));
    m.step = in->step;
    m.part = in->part;
    m.parts = in->parts;
    m.elements = in->elements;
    m.optimizer_steps = in->optimizer_steps;
    m.steps_before = in->steps_before;
    err = put_owed(in->owed, in->n_owed, &m);
    if (!err)
        err = wire_encode(&m.base, out);
    rt_free(m.owed_batch);
    return err;
}

static int take_owed(const Saffron__FetchStateReply *m, struct rt_arena *arena,
                     struct wire_fetch_state_reply *out)
{
    static const char name[] = "FetchStateReply";
    size_t n = m->n_owed_batch;
    const struct {
        const char *field;
        size_t n;
    } list[] = {{"owed_step", m->n_owed_step},   {"owed_samples", m->n_owed_samples},
                {"owed_place", m->n_owed_place}, {"owed_among", m->n_owed_among},
                {"owed_rate", m->n_owed_rate},   {"owed_attempt", m->n_owed_attempt}};
    struct wire_owed *owed;
    int err = wire_range(name, "count of owed", n, 0, WIRE_OWED_MAX);

    for (size_t i = 0; i < ARRAY_LEN(list) && !err; i++)
        err = wire_same_count(name, list[i].field, list[i].n, "owed_batch", n);
    if (err)
        return err;
    owed = rt_arena_array(arena, struct wire_owed, n);
    if (!owed)
        return RT_FAIL(RT_ENOMEM, "%s: no room for %zu batches", name, n);
    for (size_t i = 0; i < n; i++)
        owed[i] = (struct wire_owed){m->owed_batch[i],  m->owed_step[i],  m->owed_samples[i],
                                     m->owed_place[i],  m->owed_among[i], m->owed_rate[i],
                                     m->owed_attempt[i]};
    out->owed = owed;
    out->n_owed = (uint32_t)n;
    return 0;
}

int wire_fetch_state_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_fetch_state_reply *out)
{
    const Saffron__FetchStateReply *m;
    int err;

    m = wire_decode(&saffron__fetch_state_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_fetch_state_reply){.step = m->step,
                                           .part = m->part,
                                           .parts = m->parts,
                                           .elements = m->elements,
                                           .optimizer_steps = m->optimizer_steps,
                                           .steps_before = m->steps_before};
    err = take_owed(m, arena, out);
    return err ? err : check_fetch_state_reply(out);
}

/* ---- ReduceChunk ---- */

static int check_reduce_chunk(const struct wire_reduce_chunk *m)
{
    static const char name[] = "ReduceChunk";
    int err = wire_range(name, "bucket", m->bucket, 0, WIRE_BUCKETS_MAX - 1);

    if (!err)
        err = wire_range(name, "turn", m->turn, 0, 2 * WIRE_GROUP_MAX);
    if (!err)
        err = wire_range(name, "count", m->count, 0, WIRE_CHUNK_MAX);
    if (!err && m->dtype != WIRE_F32 && m->dtype != WIRE_BF16)
        err = RT_FAIL(RT_EPROTO, "%s: dtype is %u, expected %u or %u", name, m->dtype, WIRE_F32,
                      WIRE_BF16);
    return err;
}

int wire_reduce_chunk_pack(const struct wire_reduce_chunk *in, struct wire_out *out)
{
    Saffron__ReduceChunk m = SAFFRON__REDUCE_CHUNK__INIT;

    wire_assert_ok(check_reduce_chunk(in));
    m.group_epoch = in->group_epoch;
    m.operation = in->operation;
    m.bucket = in->bucket;
    m.turn = in->turn;
    m.count = in->count;
    m.dtype = in->dtype;
    return wire_encode(&m.base, out);
}

int wire_reduce_chunk_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_reduce_chunk *out)
{
    const Saffron__ReduceChunk *m;
    int err;

    m = wire_decode(&saffron__reduce_chunk__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_reduce_chunk){m->group_epoch, m->operation, m->bucket,
                                      m->turn,        m->count,     m->dtype};
    return check_reduce_chunk(out);
}

/* ---- AskCommunicator ---- */

/* Both ways: the epoch is one that an rpc can hold. */
static int check_communicator(const char *name, uint64_t group_epoch)
{
    return wire_range(name, "group_epoch", group_epoch, 0, UINT32_MAX);
}

int wire_ask_communicator_pack(const struct wire_ask_communicator *in, struct wire_out *out)
{
    Saffron__AskCommunicator m = SAFFRON__ASK_COMMUNICATOR__INIT;

    wire_assert_ok(check_communicator("AskCommunicator", in->group_epoch));
    m.group_epoch = in->group_epoch;
    m.version = in->version;
    return wire_encode(&m.base, out);
}

int wire_ask_communicator_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                 struct wire_ask_communicator *out)
{
    const Saffron__AskCommunicator *m;
    int err;

    m = wire_decode(&saffron__ask_communicator__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_ask_communicator){m->group_epoch, m->version};
    return check_communicator("AskCommunicator", out->group_epoch);
}

int wire_ask_communicator_reply_pack(const struct wire_ask_communicator_reply *in,
                                     struct wire_out *out)
{
    Saffron__AskCommunicatorReply m = SAFFRON__ASK_COMMUNICATOR_REPLY__INIT;

    wire_assert_ok(check_communicator("AskCommunicatorReply", in->group_epoch));
    m.group_epoch = in->group_epoch;
    m.version = in->version;
    m.id = (ProtobufCBinaryData){WIRE_NCCL_ID_BYTES, (uint8_t *)(uintptr_t)in->id};
    return wire_encode(&m.base, out);
}

int wire_ask_communicator_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                       struct wire_ask_communicator_reply *out)
{
    static const char name[] = "AskCommunicatorReply";
    const Saffron__AskCommunicatorReply *m;
    int err;

    m = wire_decode(&saffron__ask_communicator_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_ask_communicator_reply){m->group_epoch, m->version, m->id.data};
    err = wire_range(name, "size of id", m->id.len, WIRE_NCCL_ID_BYTES, WIRE_NCCL_ID_BYTES);
    return err ? err : check_communicator(name, out->group_epoch);
}
