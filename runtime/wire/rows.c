/* runtime/wire/rows.c -- codec of rows: what middleware asks owners for and brings them back. */
#include "runtime/wire/rows.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/wire/codec.h"

#include "proto/rows.pb-c.h"

/* Which rows: tables strictly growing, at least one id each. */
static int check_tables(const char *name, const uint32_t *table, const uint32_t *n_ids, uint32_t n)
{
    int err = wire_range(name, "count of table", n, 0, WIRE_TABLES_MAX);

    for (uint32_t i = 0; i < n && !err; i++) {
        if (table[i] >= WIRE_TABLES_MAX)
            err = RT_FAIL(RT_EPROTO, "%s: table[%u] is %u, expected 0..%u", name, i, table[i],
                          WIRE_TABLES_MAX - 1);
        else if (i > 0 && table[i] <= table[i - 1])
            err = RT_FAIL(RT_EPROTO, "%s: table[%u] is %u after %u, expected growing numbers", name,
                          i, table[i], table[i - 1]);
    }
    return err ? err : wire_ids(name, "n_ids", n_ids, n, 1);
}

/* ---- LookupRows ---- */

static int check_lookup_rows(const struct wire_lookup_rows *m)
{
    int err = wire_range("LookupRows", "count of table", m->n_tables, 1, WIRE_TABLES_MAX);

    if (!err)
        err = check_tables("LookupRows", m->table, m->n_ids, m->n_tables);
    return err ? err : wire_dtype("LookupRows", m->dtype);
}

int wire_lookup_rows_pack(const struct wire_lookup_rows *in, struct wire_out *out)
{
    Saffron__LookupRows m = SAFFRON__LOOKUP_ROWS__INIT;

    wire_assert_ok(check_lookup_rows(in));
    m.shard_map = in->shard_map;
    m.step = in->step;
    m.n_table = m.n_n_ids = in->n_tables;
    m.table = (uint32_t *)in->table;
    m.n_ids = (uint32_t *)in->n_ids;
    m.dtype = in->dtype;
    return wire_encode(&m.base, out);
}

int wire_lookup_rows_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                            struct wire_lookup_rows *out)
{
    const Saffron__LookupRows *m;
    int err;

    m = wire_decode(&saffron__lookup_rows__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_same_count("LookupRows", "table", m->n_table, "n_ids", m->n_n_ids);
    if (err)
        return err;
    *out = (struct wire_lookup_rows){
        .shard_map = m->shard_map,
        .step = m->step,
        .n_tables = (uint32_t)m->n_table,
        .table = m->table,
        .n_ids = m->n_ids,
        .dtype = m->dtype,
    };
    return check_lookup_rows(out);
}

static int check_lookup_rows_reply(const struct wire_lookup_rows_reply *m)
{
    static const char name[] = "LookupRowsReply";
    int err = wire_range(name, "count of n_ids", m->n_tables, 1, WIRE_TABLES_MAX);

    if (!err)
        err = wire_ids(name, "n_ids", m->n_ids, m->n_tables, 1);
    return err ? err : wire_dtype(name, m->dtype);
}

int wire_lookup_rows_reply_pack(const struct wire_lookup_rows_reply *in, struct wire_out *out)
{
    Saffron__LookupRowsReply m = SAFFRON__LOOKUP_ROWS_REPLY__INIT;

    wire_assert_ok(check_lookup_rows_reply(in));
    m.n_n_ids = in->n_tables;
    m.n_ids = (uint32_t *)in->n_ids;
    m.dtype = in->dtype;
    return wire_encode(&m.base, out);
}

int wire_lookup_rows_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                  struct wire_lookup_rows_reply *out)
{
    const Saffron__LookupRowsReply *m;
    int err;

    m = wire_decode(&saffron__lookup_rows_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_lookup_rows_reply){(uint32_t)m->n_n_ids, m->n_ids, m->dtype};
    return check_lookup_rows_reply(out);
}

/* ---- ApplyGradients ---- */

static int check_apply_gradients(const struct wire_apply_gradients *m)
{
    static const char name[] = "ApplyGradients";
    int err = wire_range(name, "parts", m->parts, 1, WIRE_BATCH_PARTS_MAX);

    if (!err)
        err = wire_range(name, "part", m->part, 0, m->parts - 1);
    if (!err)
        err = wire_real(name, "learning_rate", m->learning_rate, 0);
    if (!err)
        err = wire_rank(name, m->rank, m->world);
    if (!err && m->applied_through > 0)
        err = wire_range(name, "applied_through", m->applied_through, 0, m->step ? m->step - 1 : 0);
    if (!err)
        err = check_tables(name, m->table, m->n_ids, m->n_tables);
    if (!err)
        err = wire_dtype(name, m->dtype);
    return err ? err : wire_scales(name, m->scale, m->n_tables);
}

int wire_apply_gradients_pack(const struct wire_apply_gradients *in, struct wire_out *out)
{
    Saffron__ApplyGradients m = SAFFRON__APPLY_GRADIENTS__INIT;

    wire_assert_ok(check_apply_gradients(in));
    m.shard_map = in->shard_map;
    m.part = in->part;
    m.parts = in->parts;
    m.step = in->step;
    m.learning_rate = in->learning_rate;
    m.rank = in->rank;
    m.world = in->world;
    m.synchronous = in->synchronous;
    m.n_table = m.n_n_ids = in->n_tables;
    m.table = (uint32_t *)in->table;
    m.n_ids = (uint32_t *)in->n_ids;
    m.dtype = in->dtype;
    m.digest = in->digest;
    m.applied_through = in->applied_through;
    m.attempt = in->attempt;
    m.age = in->age;
    m.n_scale = in->scale ? in->n_tables : 0;
    m.scale = (float *)in->scale;
    return wire_encode(&m.base, out);
}

int wire_apply_gradients_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                struct wire_apply_gradients *out)
{
    const Saffron__ApplyGradients *m;
    int err;

    m = wire_decode(&saffron__apply_gradients__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    err = wire_same_count("ApplyGradients", "table", m->n_table, "n_ids", m->n_n_ids);
    if (!err && m->n_scale > 0)
        err = wire_same_count("ApplyGradients", "table", m->n_table, "scale", m->n_scale);
    if (err)
        return err;
    *out = (struct wire_apply_gradients){
        .shard_map = m->shard_map,
        .part = m->part,
        .parts = m->parts,
        .step = m->step,
        .learning_rate = m->learning_rate,
        .rank = m->rank,
        .world = m->world,
        .synchronous = m->synchronous,
        .n_tables = (uint32_t)m->n_table,
        .table = m->table,
        .n_ids = m->n_ids,
        .dtype = m->dtype,
        .digest = m->digest,
        .applied_through = m->applied_through,
        .attempt = m->attempt,
        .age = m->age,
        .scale = m->n_scale > 0 ? m->scale : NULL,
    };
    return check_apply_gradients(out);
}

static int check_apply_gradients_reply(const struct wire_apply_gradients_reply *m)
{
    return wire_range("ApplyGradientsReply", "outcome", (uint64_t)m->outcome, WIRE_APPLIED,
                      WIRE_ALREADY);
}

int wire_apply_gradients_reply_pack(const struct wire_apply_gradients_reply *in,
                                    struct wire_out *out)
{
    Saffron__ApplyGradientsReply m = SAFFRON__APPLY_GRADIENTS_REPLY__INIT;

    wire_assert_ok(check_apply_gradients_reply(in));
    m.outcome = (Saffron__ApplyGradientsReply__Outcome)in->outcome;
    m.rows_applied = in->rows_applied;
    m.rows_nonfinite = in->rows_nonfinite;
    return wire_encode(&m.base, out);
}

int wire_apply_gradients_reply_unpack(const uint8_t *data, size_t size, struct rt_arena *arena,
                                      struct wire_apply_gradients_reply *out)
{
    const Saffron__ApplyGradientsReply *m;
    int err;

    m = wire_decode(&saffron__apply_gradients_reply__descriptor, data, size, arena, &err);
    if (!m)
        return err;
    *out = (struct wire_apply_gradients_reply){(enum wire_apply_outcome)m->outcome, m->rows_applied,
                                               m->rows_nonfinite};
    return check_apply_gradients_reply(out);
}
