/* runtime/wire/phase.c -- codec of what data-compose and trainer say about phases: statistics, ledger,
 * AwaitPhase, EndOfEpoch, NothingYet, TellFinished; and trainer ranks: TellPhase, Scores. The only messages with messages inside:
 * their counts are limited, and so is the memory that they unpack to (runtime/wire/codec.c). */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/codec.h"

#include "proto/batch.pb-c.h"

#include <math.h>

const char *wire_phase_name(enum wire_phase_kind kind)
{
    static const char *const name[] = {[WIRE_PHASE_TRAIN] = "train",
                                       [WIRE_PHASE_EVALUATE] = "evaluate",
                                       [WIRE_PHASE_DONE] = "done",
                                       [WIRE_PHASE_STATISTICS] = "statistics"};

    return (unsigned)kind < ARRAY_LEN(name) && name[kind] ? name[kind] : "unknown";
}

/* ---- statistics ---- */

static int check_statistics(const char *name, const struct wire_statistics *s, uint32_t n)
{
    int err = wire_range(name, "count of statistics", n, 0, WIRE_DENSE_MAX);

    for (uint32_t i = 0; i < n && !err; i++) {
        if (s[i].column[0] == '\0')
            err = RT_FAIL(RT_EPROTO, "%s: statistics[%u].column is empty", name, i);
        if (!err)
            err = wire_text(name, "statistics.column", s[i].column, WIRE_TEXT_MAX);
        if (!err)
            err = wire_real(name, "statistics.mean", s[i].mean, -INFINITY);
        if (!err)
            err = wire_real(name, "statistics.deviation", s[i].deviation, 0);
    }
    return err;
}

/* Generated structs and the list of pointers to them that protobuf-c wants, in one block (rt_free). */
static Saffron__ColumnStatistics **put_statistics(const struct wire_statistics *s, uint32_t n)
{
    size_t list = rt_align_up(n * sizeof(Saffron__ColumnStatistics *), 16);
    Saffron__ColumnStatistics **pointer =
        rt_try_malloc(list + n * sizeof(Saffron__ColumnStatistics));
    Saffron__ColumnStatistics *m;

    if (!pointer)
        return NULL;
    m = (Saffron__ColumnStatistics *)(void *)((char *)pointer + list);
    for (uint32_t i = 0; i < n; i++) {
        saffron__column_statistics__init(&m[i]);
        m[i].column = (char *)s[i].column;
        m[i].mean = s[i].mean;
        m[i].deviation = s[i].deviation;
        m[i].count = s[i].count;
        pointer[i] = &m[i];
    }
    return pointer;
}

static int take_statistics(const char *name, Saffron__ColumnStatistics *const *m, size_t n,
                           struct rt_arena *arena, const struct wire_statistics **out,
                           uint32_t *n_out)
{
    struct wire_statistics *s;
    int err = wire_range(name, "count of statistics", n, 0, WIRE_DENSE_MAX);

    if (err)
        return err;
    s = rt_arena_array(arena, struct wire_statistics, n);
    if (!s)
        return RT_FAIL(RT_ENOMEM, "%s: no room for %zu statistics", name, n);
    for (size_t i = 0; i < n; i++)
        s[i] = (struct wire_statistics){m[i]->column, m[i]->mean, m[i]->deviation, m[i]->count};
    *out = s;
    *n_out = (uint32_t)n;
    return check_statistics(name, s, *n_out);
}

/* ---- ledger ---- */

static int check_ledger(const char *name, const struct wire_split_ledger *l, uint32_t n)
{
    int err = wire_range(name, "count of splits", n, 0, WIRE_SPLITS_MAX);

    for (uint32_t i = 0; i < n && !err; i++) {
        err = wire_range(name, "split", l[i].split, 0, WIRE_SPLITS_MAX - 1);
        if (!err)
            err = wire_range(name, "stepped_low", l[i].stepped_low, 0, WIRE_SEQUENCE_MAX);
        if (!err)
            err = wire_range(name, "finished_low", l[i].finished_low, 0, WIRE_SEQUENCE_MAX);
        if (!err)
            err = wire_range(name, "end_sequence", l[i].end_sequence, 0, WIRE_SEQUENCE_MAX);
        if (!err)
            err = wire_range(name, "bytes of stepped", l[i].stepped_bytes, 0, WIRE_BITMAP_MAX);
        if (!err)
            err = wire_range(name, "bytes of finished", l[i].finished_bytes, 0, WIRE_BITMAP_MAX);
        if (!err)
            err = wire_range(name, "rows_quarantined", l[i].rows_quarantined, 0, l[i].rows_read);
    }
    return err;
}

static Saffron__SplitLedger **put_ledger(const struct wire_split_ledger *l, uint32_t n)
{
    size_t list = rt_align_up(n * sizeof(Saffron__SplitLedger *), 16);
    Saffron__SplitLedger **pointer = rt_try_malloc(list + n * sizeof(Saffron__SplitLedger));
    Saffron__SplitLedger *m;

    if (!pointer)
        return NULL;
    m = (Saffron__SplitLedger *)(void *)((char *)pointer + list);
    for (uint32_t i = 0; i < n; i++) {
        saffron__split_ledger__init(&m[i]);
        m[i].split = l[i].split;
        m[i].stepped_low = l[i].stepped_low;
        m[i].stepped = (ProtobufCBinaryData){l[i].stepped_bytes, (uint8_t *)l[i].stepped};
        m[i].finished_low = l[i].finished_low;
        m[i].finished = (ProtobufCBinaryData){l[i].finished_bytes, (uint8_t *)l[i].finished};
        m[i].rows_read = l[i].rows_read;
        m[i].rows_quarantined = l[i].rows_quarantined;
        m[i].end_sequence = l[i].end_sequence;
        pointer[i] = &m[i];
    }
    return pointer;
}

static int take_ledger(const char *name, Saffron__SplitLedger *const *m, size_t n,
                       struct rt_arena *arena, const struct wire_split_ledger **out,
                       uint32_t *n_out)
{
    struct wire_split_ledger *l;
    int err = wire_range(name, "count of splits", n, 0, WIRE_SPLITS_MAX);

    if (err)
        return err;
    l = rt_arena_array(arena, struct wire_split_ledger, n);
    if (!l)
        return RT_FAIL(RT_ENOMEM, "%s: no room for %zu splits", name, n);
    for (size_t i = 0; i < n; i++) {
        l[i] = (struct wire_split_ledger){
            .split = m[i]->split,
            .stepped_low = m[i]->stepped_low,
            .finished_low = m[i]->finished_low,
            .stepped = m[i]->stepped.data,
            .finished = m[i]->finished.data,
            .stepped_bytes = (uint32_t)m[i]->stepped.len, /* within the message, so below 2^20 */
            .finished_bytes = (uint32_t)m[i]->finished.len,
            .rows_read = m[i]->rows_read,
            .rows_quarantined = m[i]->rows_quarantined,
            .end_sequence = m[i]->end_sequence,
        };
    }
    *out = l;
    *n_out = (uint32_t)n;
    return check_ledger(name, l, *n_out);
}

/* ---- AwaitPhase ---- */

static int check_await_phase(const struct wire_await_phase *m)
{
    int err = wire_range("AwaitPhase", "composers", m->composers, 1, WIRE_REPLICAS_MAX);

    if (!err)
        err = wire_range("AwaitPhase", "composer", m->composer, 0, m->composers - 1);
    return err ? err : check_statistics("AwaitPhase", m->statistics, m->n_statistics);
}

int wire_await_phase_pack(const struct wire_await_phase *in, struct wire_out *out)
{
    Saffron__AwaitPhase m = SAFFRON__AWAIT_PHASE__INIT;
    int err;

    wire_assert_ok(check_await_phase(in));
    m.known = in->known;
    m.composer = in->composer;
    m.composers = in->composers;
    m.done = in->done;
    m.n_statistics = in->n_statistics;
    m.statistics = put_statistics(in->statistics, in->n_statistics);
    if (!m.statistics)
        return RT_FAIL(RT_ENOMEM, "AwaitPhase: out of memory for %u statistics", in->n_statistics);
    err = wire_encode(&m.base, out);
    rt_free(m.statistics);
    return err;
}

int wire_await_phase_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_await_phase *out)
{
    const Saffron__AwaitPhase *m;
    int err;

    m = wire_decode(&saffron__await_phase__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_await_phase){
        .known = m->known, .composer = m->composer, .composers = m->composers, .done = m->done};
    err = take_statistics("AwaitPhase", m->statistics, m->n_statistics, arena, &out->statistics,
                          &out->n_statistics);
    return err ? err : check_await_phase(out);
}

static int check_await_phase_reply(const struct wire_await_phase_reply *m)
{
    static const char name[] = "AwaitPhaseReply";
    int err = wire_range(name, "kind", (uint64_t)m->kind, WIRE_PHASE_TRAIN, WIRE_PHASE_STATISTICS);

    if (!err)
        err = wire_range(name, "phase", m->phase, 1, UINT64_MAX);
    if (!err)
        err = check_ledger(name, m->ledger, m->n_ledger);
    return err ? err : check_statistics(name, m->statistics, m->n_statistics);
}

int wire_await_phase_reply_pack(const struct wire_await_phase_reply *in, struct wire_out *out)
{
    Saffron__AwaitPhaseReply m = SAFFRON__AWAIT_PHASE_REPLY__INIT;
    int err;

    wire_assert_ok(check_await_phase_reply(in));
    m.phase = in->phase;
    m.kind = (Saffron__AwaitPhaseReply__Kind)in->kind;
    m.epoch = in->epoch;
    m.pass = in->pass;
    m.epoch_over = in->epoch_over;
    m.n_ledger = in->n_ledger;
    m.ledger = put_ledger(in->ledger, in->n_ledger);
    m.n_statistics = in->n_statistics;
    m.statistics = put_statistics(in->statistics, in->n_statistics);
    if (m.ledger && m.statistics)
        err = wire_encode(&m.base, out);
    else
        err = RT_FAIL(RT_ENOMEM, "AwaitPhaseReply: out of memory for %u splits", in->n_ledger);
    rt_free(m.ledger);
    rt_free(m.statistics);
    return err;
}

int wire_await_phase_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_await_phase_reply *out)
{
    const Saffron__AwaitPhaseReply *m;
    int err;

    m = wire_decode(&saffron__await_phase_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_await_phase_reply){.phase = m->phase,
                                           .kind = (enum wire_phase_kind)m->kind,
                                           .epoch = m->epoch,
                                           .pass = m->pass,
                                           .epoch_over = m->epoch_over};
    err =
        take_ledger("AwaitPhaseReply", m->ledger, m->n_ledger, arena, &out->ledger, &out->n_ledger);
    if (!err)
        err = take_statistics("AwaitPhaseReply", m->statistics, m->n_statistics, arena,
                              &out->statistics, &out->n_statistics);
    return err ? err : check_await_phase_reply(out);
}

/* ---- EndOfEpoch ---- */

static int check_end_of_epoch(const struct wire_end_of_epoch *m)
{
    int err = wire_range("EndOfEpoch", "composer", m->composer, 0, WIRE_REPLICAS_MAX - 1);

    return err ? err : check_ledger("EndOfEpoch", m->ended, m->n_ended);
}

int wire_end_of_epoch_pack(const struct wire_end_of_epoch *in, struct wire_out *out)
{
    Saffron__EndOfEpoch m = SAFFRON__END_OF_EPOCH__INIT;
    int err;

    wire_assert_ok(check_end_of_epoch(in));
    m.phase = in->phase;
    m.epoch = in->epoch;
    m.evaluate = in->evaluate;
    m.composer = in->composer;
    m.n_ended = in->n_ended;
    m.ended = put_ledger(in->ended, in->n_ended);
    if (!m.ended)
        return RT_FAIL(RT_ENOMEM, "EndOfEpoch: out of memory for %u splits", in->n_ended);
    err = wire_encode(&m.base, out);
    rt_free(m.ended);
    return err;
}

int wire_end_of_epoch_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                             struct wire_end_of_epoch *out)
{
    const Saffron__EndOfEpoch *m;
    int err;

    m = wire_decode(&saffron__end_of_epoch__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_end_of_epoch){
        .phase = m->phase, .epoch = m->epoch, .evaluate = m->evaluate, .composer = m->composer};
    err = take_ledger("EndOfEpoch", m->ended, m->n_ended, arena, &out->ended, &out->n_ended);
    return err ? err : check_end_of_epoch(out);
}

/* ---- NothingYet ---- */

static int check_nothing_yet(const struct wire_nothing_yet *m)
{
    int err = wire_range("NothingYet", "composers", m->composers, 1, WIRE_REPLICAS_MAX);

    return err ? err : wire_range("NothingYet", "composer", m->composer, 0, m->composers - 1);
}

int wire_nothing_yet_pack(const struct wire_nothing_yet *in, struct wire_out *out)
{
    Saffron__NothingYet m = SAFFRON__NOTHING_YET__INIT;

    wire_assert_ok(check_nothing_yet(in));
    m.phase = in->phase;
    m.composer = in->composer;
    m.composers = in->composers;
    m.has_until = in->has_until;
    m.until = in->until;
    return wire_encode(&m.base, out);
}

int wire_nothing_yet_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_nothing_yet *out)
{
    const Saffron__NothingYet *m;
    int err;

    m = wire_decode(&saffron__nothing_yet__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_nothing_yet){m->phase, m->composer, m->composers, m->has_until, m->until};
    return check_nothing_yet(out);
}

/* ---- TellFinished ---- */

static int check_tell_finished(const struct wire_tell_finished *m)
{
    return wire_range("TellFinished", "count of batch", m->n_batches, 0, WIRE_FINISHED_MAX);
}

int wire_tell_finished_pack(const struct wire_tell_finished *in, struct wire_out *out)
{
    Saffron__TellFinished m = SAFFRON__TELL_FINISHED__INIT;

    wire_assert_ok(check_tell_finished(in));
    m.leader = in->leader;
    m.n_batch = in->n_batches;
    m.batch = (uint64_t *)in->batch;
    return wire_encode(&m.base, out);
}

int wire_tell_finished_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                              struct wire_tell_finished *out)
{
    const Saffron__TellFinished *m;
    int err;

    m = wire_decode(&saffron__tell_finished__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    if (m->n_batch > WIRE_FINISHED_MAX)
        return wire_range("TellFinished", "count of batch", m->n_batch, 0, WIRE_FINISHED_MAX);
    *out = (struct wire_tell_finished){m->leader, (uint32_t)m->n_batch, m->batch};
    return 0;
}

/* ---- TellPhase ---- */

static int check_tell_phase(const struct wire_tell_phase *m)
{
    static const char name[] = "TellPhase";
    int err = wire_range(name, "kind", (uint64_t)m->kind, WIRE_PHASE_TRAIN, WIRE_PHASE_STATISTICS);

    if (!err)
        err = wire_range(name, "phase", m->phase, 1, UINT64_MAX);
    if (!err)
        err = wire_range(name, "composers", m->composers, 1, WIRE_REPLICAS_MAX);
    if (!err)
        err = check_ledger(name, m->ledger, m->n_ledger);
    return err ? err : check_statistics(name, m->statistics, m->n_statistics);
}

int wire_tell_phase_pack(const struct wire_tell_phase *in, struct wire_out *out)
{
    Saffron__TellPhase m = SAFFRON__TELL_PHASE__INIT;
    int err;

    wire_assert_ok(check_tell_phase(in));
    m.phase = in->phase;
    m.kind = (Saffron__AwaitPhaseReply__Kind)in->kind;
    m.epoch = in->epoch;
    m.pass = in->pass;
    m.epoch_over = in->epoch_over;
    m.composers = in->composers;
    m.n_statistics = in->n_statistics;
    m.statistics = put_statistics(in->statistics, in->n_statistics);
    m.n_ledger = in->n_ledger;
    m.ledger = put_ledger(in->ledger, in->n_ledger);
    if (m.ledger && m.statistics)
        err = wire_encode(&m.base, out);
    else
        err = RT_FAIL(RT_ENOMEM, "TellPhase: out of memory for %u splits", in->n_ledger);
    rt_free(m.ledger);
    rt_free(m.statistics);
    return err;
}

int wire_tell_phase_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                           struct wire_tell_phase *out)
{
    const Saffron__TellPhase *m;
    int err;

    m = wire_decode(&saffron__tell_phase__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_tell_phase){.phase = m->phase,
                                    .kind = (enum wire_phase_kind)m->kind,
                                    .epoch = m->epoch,
                                    .pass = m->pass,
                                    .epoch_over = m->epoch_over,
                                    .composers = m->composers};
    err = take_statistics("TellPhase", m->statistics, m->n_statistics, arena, &out->statistics,
                          &out->n_statistics);
    if (!err)
        err = take_ledger("TellPhase", m->ledger, m->n_ledger, arena, &out->ledger, &out->n_ledger);
    return err ? err : check_tell_phase(out);
}

/* ---- Scores ---- */

static int check_scores(const struct wire_scores *m)
{
    int err = wire_range("Scores", "samples", m->samples, 0, WIRE_SCORES_MAX);

    if (!err)
        err = wire_range("Scores", "phase", m->phase, 1, UINT64_MAX);
    return err ? err : wire_range("Scores", "batches", m->batches, 0, m->samples);
}

int wire_scores_pack(const struct wire_scores *in, struct wire_out *out)
{
    Saffron__Scores m = SAFFRON__SCORES__INIT;

    wire_assert_ok(check_scores(in));
    m.phase = in->phase;
    m.part = in->part;
    m.last = in->last;
    m.batches = in->batches;
    m.samples = in->samples;
    return wire_encode(&m.base, out);
}

int wire_scores_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                       struct wire_scores *out)
{
    const Saffron__Scores *m;
    int err;

    m = wire_decode(&saffron__scores__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_scores){m->phase, m->part, m->last, m->batches, m->samples};
    return check_scores(out);
}
