/* runtime/wire/checkpoint.c -- Cut, AwaitCut, EndCut, TellLedger, their replies, and GoBack. */
#include "runtime/wire/checkpoint.h"
#include "proto/checkpoint.pb-c.h"
#include "runtime/base/err.h"
#include "runtime/wire/codec.h"
#include "runtime/wire/member.h"

/* ---- Cut ---- */

static int check_cut(const struct wire_cut *m)
{
    static const char name[] = "Cut";
    int err = wire_range(name, "attempt", m->attempt, 1, UINT64_MAX);

    if (!err)
        err = wire_range(name, "base", m->base, 0, m->attempt - 1);
    if (!err)
        err = wire_range(name, "age", m->age, m->step, UINT64_MAX);
    if (!err && !wire_is_token(m->name))
        err = RT_FAIL(RT_EPROTO, "%s: name '%.64s', expected 1 to 63 of A-Z a-z 0-9 _ -", name,
                      m->name);
    return err;
}

int wire_cut_pack(const struct wire_cut *in, struct wire_out *out)
{
    Saffron__Cut m = SAFFRON__CUT__INIT;

    wire_assert_ok(check_cut(in));
    m.attempt = in->attempt;
    m.step = in->step;
    m.name = (char *)(uintptr_t)in->name;
    m.since = in->base;
    m.age = in->age;
    m.ledger = (ProtobufCBinaryData){in->ledger_size, (uint8_t *)(uintptr_t)in->ledger};
    return wire_encode(&m.base, out);
}

int wire_cut_unpack(const uint8_t *data, size_t size, struct rt_arena *arena, struct wire_cut *out)
{
    const Saffron__Cut *m;
    int err;

    m = wire_decode(&saffron__cut__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_cut){m->attempt, m->step,        m->name,      m->since,
                             m->age,     m->ledger.data, m->ledger.len};
    return check_cut(out);
}

int wire_cut_reply_pack(const struct wire_cut_reply *in, struct wire_out *out)
{
    Saffron__CutReply m = SAFFRON__CUT_REPLY__INIT;

    m.rows = in->rows;
    return wire_encode(&m.base, out);
}

int wire_cut_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                          struct wire_cut_reply *out)
{
    const Saffron__CutReply *m;
    int err;

    m = wire_decode(&saffron__cut_reply__descriptor, data, size, arena, &err);
    if (m)
        *out = (struct wire_cut_reply){m->rows};
    return err;
}

/* ---- AwaitCut ---- */

static int check_await_cut(const struct wire_await_cut *m)
{
    return wire_range("AwaitCut", "attempt", m->attempt, 1, UINT64_MAX);
}

int wire_await_cut_pack(const struct wire_await_cut *in, struct wire_out *out)
{
    Saffron__AwaitCut m = SAFFRON__AWAIT_CUT__INIT;

    wire_assert_ok(check_await_cut(in));
    m.attempt = in->attempt;
    return wire_encode(&m.base, out);
}

int wire_await_cut_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                          struct wire_await_cut *out)
{
    const Saffron__AwaitCut *m;
    int err;

    m = wire_decode(&saffron__await_cut__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_await_cut){m->attempt};
    return check_await_cut(out);
}

static int check_await_cut_reply(const struct wire_await_cut_reply *m)
{
    static const char name[] = "AwaitCutReply";
    int err = wire_range(name, "attempt", m->attempt, 1, UINT64_MAX);

    if (!err)
        err = wire_range(name, "count of table", m->n_tables, 0, WIRE_TABLES_MAX);
    for (uint32_t t = 0; t < m->n_tables && !err; t++)
        err = wire_range(name, "rows", m->table[t].rows, 0, m->table[t].live);
    return err ? err : wire_text(name, "file", m->file, WIRE_TEXT_MAX);
}

int wire_await_cut_reply_pack(const struct wire_await_cut_reply *in, struct wire_out *out)
{
    Saffron__AwaitCutReply m = SAFFRON__AWAIT_CUT_REPLY__INIT;
    Saffron__CutTable *table, **list;
    int err;

    wire_assert_ok(check_await_cut_reply(in));
    table = rt_xcalloc(in->n_tables + 1, sizeof(*table));
    list = rt_xcalloc(in->n_tables + 1, sizeof(*list));
    for (uint32_t t = 0; t < in->n_tables; t++) {
        saffron__cut_table__init(&table[t]);
        table[t].rows = in->table[t].rows;
        table[t].removed = in->table[t].removed;
        table[t].digest = in->table[t].digest;
        table[t].live = in->table[t].live;
        list[t] = &table[t];
    }
    m.attempt = in->attempt;
    m.file = (char *)(uintptr_t)in->file;
    m.bytes = in->bytes;
    m.digest = in->digest;
    m.n_table = in->n_tables;
    m.table = list;
    err = wire_encode(&m.base, out);
    rt_free(list);
    rt_free(table);
    return err;
}

int wire_await_cut_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_await_cut_reply *out)
{
    const Saffron__AwaitCutReply *m;
    struct wire_cut_table *table;
    int err;

    m = wire_decode(&saffron__await_cut_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_range("AwaitCutReply", "count of table", m->n_table, 0, WIRE_TABLES_MAX);
    if (err)
        return err;
    table = rt_arena_array(arena, struct wire_cut_table, m->n_table);
    if (!table)
        return RT_FAIL(RT_ENOMEM, "AwaitCutReply: no room for %zu tables", m->n_table);
    for (size_t t = 0; t < m->n_table; t++)
        table[t] = (struct wire_cut_table){m->table[t]->rows, m->table[t]->removed,
                                           m->table[t]->digest, m->table[t]->live};
    *out = (struct wire_await_cut_reply){m->attempt,           m->file, m->bytes, m->digest,
                                         (uint32_t)m->n_table, table};
    return check_await_cut_reply(out);
}

/* ---- EndCut ---- */

static int check_end_cut(const struct wire_end_cut *m)
{
    int err = wire_range("EndCut", "attempt", m->attempt, 1, UINT64_MAX);

    if (!err && m->last && !m->keep)
        err = RT_FAIL(RT_EPROTO, "EndCut: last is true of an attempt that is not kept");
    return err;
}

int wire_end_cut_pack(const struct wire_end_cut *in, struct wire_out *out)
{
    Saffron__EndCut m = SAFFRON__END_CUT__INIT;

    wire_assert_ok(check_end_cut(in));
    m.attempt = in->attempt;
    m.keep = in->keep;
    m.last = in->last;
    return wire_encode(&m.base, out);
}

int wire_end_cut_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                        struct wire_end_cut *out)
{
    const Saffron__EndCut *m;
    int err;

    m = wire_decode(&saffron__end_cut__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_end_cut){m->attempt, m->keep, m->last};
    return check_end_cut(out);
}

/* ---- TellLedger ---- */

static int check_tell_ledger(const struct wire_tell_ledger *m)
{
    static const char name[] = "TellLedger";
    int err = wire_range(name, "count of place", m->n_places, 0, m->among);

    if (!err)
        err = wire_range(name, "among", m->among, 0, WIRE_GROUP_MAX);
    if (!err && m->among > 0)
        err = wire_range(name, "step", m->step, 1, UINT64_MAX);
    for (uint32_t i = 0; i < m->n_places && !err; i++)
        err = wire_range(name, "place", m->place[i], 0, m->among - 1);
    return err;
}

int wire_tell_ledger_pack(const struct wire_tell_ledger *in, struct wire_out *out)
{
    Saffron__TellLedger m = SAFFRON__TELL_LEDGER__INIT;

    wire_assert_ok(check_tell_ledger(in));
    m.n_place = in->n_places;
    m.place = (uint32_t *)(uintptr_t)in->place;
    m.among = in->among;
    m.attempt = in->attempt;
    m.ledger = (ProtobufCBinaryData){in->ledger_size, (uint8_t *)(uintptr_t)in->ledger};
    m.step = in->step;
    m.check = in->check;
    m.imported = in->imported;
    return wire_encode(&m.base, out);
}

int wire_tell_ledger_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_tell_ledger *out)
{
    const Saffron__TellLedger *m;
    int err;

    m = wire_decode(&saffron__tell_ledger__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_range("TellLedger", "count of place", m->n_place, 0, WIRE_GROUP_MAX);
    if (err)
        return err;
    *out = (struct wire_tell_ledger){.ledger = m->ledger.data,
                                     .ledger_size = m->ledger.len,
                                     .step = m->step,
                                     .n_places = (uint32_t)m->n_place,
                                     .place = m->place,
                                     .among = m->among,
                                     .attempt = m->attempt,
                                     .check = m->check,
                                     .imported = m->imported};
    return check_tell_ledger(out);
}

static int check_tell_ledger_reply(const struct wire_tell_ledger_reply *m)
{
    static const char name[] = "TellLedgerReply";
    int err = wire_range(name, "count of first", m->n_ranges, 0, WIRE_LOST_MAX);

    for (uint32_t i = 0; i < m->n_ranges && !err; i++)
        err = wire_range(name, "count", m->count[i], 1, m->lost);
    return err;
}

int wire_tell_ledger_reply_pack(const struct wire_tell_ledger_reply *in, struct wire_out *out)
{
    Saffron__TellLedgerReply m = SAFFRON__TELL_LEDGER_REPLY__INIT;

    wire_assert_ok(check_tell_ledger_reply(in));
    m.lost = in->lost;
    m.n_first = m.n_count = in->n_ranges;
    m.first = (uint64_t *)(uintptr_t)in->first;
    m.count = (uint32_t *)(uintptr_t)in->count;
    m.ahead = in->ahead;
    m.step = in->step;
    m.differs = in->differs;
    return wire_encode(&m.base, out);
}

int wire_tell_ledger_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_tell_ledger_reply *out)
{
    const Saffron__TellLedgerReply *m;
    int err;

    m = wire_decode(&saffron__tell_ledger_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_same_count("TellLedgerReply", "first", m->n_first, "count", m->n_count);
    if (!err)
        err = wire_range("TellLedgerReply", "count of first", m->n_first, 0, WIRE_LOST_MAX);
    if (err)
        return err;
    *out = (struct wire_tell_ledger_reply){
        m->lost, (uint32_t)m->n_first, m->first, m->count, m->ahead, m->step, m->differs};
    return check_tell_ledger_reply(out);
}

/* ---- GoBack ---- */

static int check_go_back(const struct wire_go_back *m)
{
    static const char name[] = "GoBack";
    bool beginning = m->attempt == 0;

    if (beginning ? m->name[0] != '\0' : !wire_is_token(m->name))
        return RT_FAIL(RT_EPROTO, "%s: name '%.64s' of attempt %llu, expected %s", name, m->name,
                       (unsigned long long)m->attempt,
                       beginning ? "none" : "1 to 63 of A-Z a-z 0-9 _ -");
    return wire_text(name, "why", m->why, WIRE_TEXT_MAX);
}

int wire_go_back_pack(const struct wire_go_back *in, struct wire_out *out)
{
    Saffron__GoBack m = SAFFRON__GO_BACK__INIT;

    wire_assert_ok(check_go_back(in));
    m.attempt = in->attempt;
    m.name = (char *)(uintptr_t)in->name;
    m.why = (char *)(uintptr_t)in->why;
    return wire_encode(&m.base, out);
}

int wire_go_back_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                        struct wire_go_back *out)
{
    const Saffron__GoBack *m;
    int err;

    m = wire_decode(&saffron__go_back__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_go_back){m->attempt, m->name, m->why};
    return check_go_back(out);
}
