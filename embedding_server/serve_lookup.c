/* embedding_server/serve_lookup.c -- LookupRows: ids in, weights out; nothing of a table changes.
 *
 *   read -> its step is not applied, or is being applied? wait
 *        -> large? pieces in turns of the loop (turn.c) -> reply
 *        :  reply, whose rows are looked up while it is sent
 *
 * One buffer has room for all tables' rows. DESIGN: 16,384 rows of dim 64 are 4 MiB. Looked up whole and then sent,
 * they go from the L2 cache to memory and back; stretch by stretch (struct rt_maker) they do not. So how many of
 * the rows exist is not known when the reply's message leaves, and is not told. */
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"

#include <string.h>

#define WAITING_MAX 4096u /* lookups that wait for a step */

/* The ids of each table, and the size of the answer. Whose ids they are is looked at with the rows. */
static int lookup_read(const struct ebs_owner *owner, const struct wire_lookup_rows *m,
                       struct rt_buf *payload, const uint64_t **id, size_t *reply_bytes)
{
    struct rt_segments segments = rt_segments_of(payload);
    size_t end = 0, size = wire_dtype_size(m->dtype);
    int err = ebs_check_head(owner, m->shard_map, m->table, m->n_tables);

    if (!err)
        err = ebs_check_dtype("global.wire.rows", owner->conf.job->global.wire.rows, m->dtype);

    for (uint32_t t = 0; t < m->n_tables && !err; t++) {
        size_t dim = owner->conf.job->table[m->table[t]].dim;
        const void *ids;

        err = rt_segment_take(&segments, m->n_ids[t], sizeof(uint64_t), &ids);
        if (err)
            break;
        id[t] = ids;
        rt_segment_put(&end, m->n_ids[t] * dim * size);
    }
    if (!err)
        err = rt_segments_end(&segments);
    if (!err && end > RT_PAYLOAD_MAX)
        err = RT_FAIL(RT_ELIMIT, "answer of %zu bytes, expected at most %llu", end, RT_PAYLOAD_MAX);
    *reply_bytes = end;
    return err;
}

/* ---- rows ---- */

/* Of the table it is at, and at most so many. */
static size_t rows_left(const struct ebs_lookup *lookup, size_t most)
{
    size_t left = lookup->n_ids[lookup->at_table] - lookup->at_row;

    return left < most ? left : most;
}

static size_t row_bytes(const struct ebs_owner *owner, const struct ebs_lookup *lookup)
{
    return ebs_table_dim(owner->table[lookup->table[lookup->at_table]]) *
           wire_dtype_size(owner->conf.job->global.wire.rows);
}

/* Tables begin at multiples of 64 bytes. */
static size_t pad_before(const struct ebs_lookup *lookup)
{
    return lookup->at_row == 0 ? -lookup->made % RT_SEGMENT_ALIGN : 0;
}

/* The next n rows, all of one table, and what lies before them: put at `at`. Returns the bytes. */
static size_t put_rows(const struct ebs_owner *owner, struct ebs_lookup *lookup, uint8_t *at,
                       size_t n)
{
    const struct ebs_table *table = owner->table[lookup->table[lookup->at_table]];
    const uint64_t *id = lookup->id[lookup->at_table] + lookup->at_row;
    size_t pad = pad_before(lookup), bytes = pad + n * row_bytes(owner, lookup);

    memset(at, 0, pad);
    lookup->found += ebs_table_lookup_as(table, owner->conf.job->global.wire.rows, id, n, at + pad);
    lookup->made += bytes;
    lookup->at_row += (uint32_t)n;
    if (lookup->at_row == lookup->n_ids[lookup->at_table]) {
        lookup->at_row = 0;
        lookup->at_table++;
    }
    return bytes;
}

int ebs_lookup_piece(struct ebs_owner *owner, struct ebs_lookup *lookup, size_t rows)
{
    struct rt_buf *out = lookup->rows;
    uint8_t *at = out->data + out->size;
    size_t n, bytes;
    int err;

    if (lookup->at_table == lookup->n_tables)
        return 0;
    n = rows_left(lookup, rows);
    err = ebs_check_ids(owner, lookup->id[lookup->at_table] + lookup->at_row, n);
    if (err)
        return err;
    bytes = put_rows(owner, lookup, at, n);
    if (lookup->with_crc)
        lookup->crc = rt_crc32c(lookup->crc, at, bytes);
    out->size += bytes;
    return 0;
}

/* An answer that is made while it is sent. */
struct making {
    struct ebs_owner *owner;
    struct ebs_lookup *lookup;
};

/* An rt_maker's: the rows that fit. */
static size_t make(void *arg, uint8_t *at, size_t room)
{
    const struct making *making = arg;
    struct ebs_owner *owner = making->owner;
    struct ebs_lookup *lookup = making->lookup;
    uint64_t begin = rt_io_now(owner->conf.io);
    size_t put = 0;

    while (lookup->at_table < lookup->n_tables) {
        size_t pad = pad_before(lookup), row = row_bytes(owner, lookup);

        rt_assert(row > 0);
        if (put + pad + row > room)
            break;
        put += put_rows(owner, lookup, at + put, rows_left(lookup, (room - put - pad) / row));
    }
    lookup->took_ns += rt_io_now(owner->conf.io) - begin;
    rt_trace_span(rt_call_batch(lookup->call), owner->conf.identity.loop, "lookup", begin);
    return put;
}

void ebs_lookup_reply(struct ebs_owner *owner, struct ebs_lookup *lookup)
{
    uint64_t rows = ebs_rows_of(lookup->n_ids, lookup->n_tables);
    struct wire_lookup_rows_reply reply = {.n_tables = lookup->n_tables,
                                           .n_ids = lookup->n_ids,
                                           .dtype = owner->conf.job->global.wire.rows};
    bool made = lookup->at_table == lookup->n_tables;
    struct rt_maker maker = {.make = make, .arg = &(struct making){owner, lookup}};
    struct rt_piece piece = {
        .data = lookup->rows->data, .size = lookup->rows->size, .buf = lookup->rows};
    int err = wire_lookup_rows_reply_pack(&reply, &owner->reply);

    RT_FAILPOINT("P5.asked");
    if (err) {
        ebs_refuse(owner, lookup->call, err);
        return;
    }
    rt_call_reply(lookup->call,
                  &(struct rt_outgoing){.flags = lookup->with_crc ? RT_FRAME_CRC_KNOWN : 0,
                                        .payload_crc = lookup->crc,
                                        .message = owner->reply.data,
                                        .message_size = owner->reply.size,
                                        .pieces = &piece,
                                        .n_pieces = 1,
                                        .maker = made ? NULL : &maker});
    if (lookup->at_table < lookup->n_tables)
        return; /* its asker went away meanwhile */
    ebs_add(&owner->stats.rows_looked_up, rows);
    ebs_add(&owner->stats.rows_found, lookup->found);
    ebs_add(&owner->stats.lookups, 1);
    rt_histogram_observe(&owner->stats.lookup_rows, RT_HISTOGRAM_COUNT, rows);
    rt_histogram_observe(&owner->stats.lookup_seconds, RT_HISTOGRAM_SECONDS, lookup->took_ns);
}

static int answer(struct ebs_owner *owner, struct ebs_lookup *lookup, size_t bytes)
{
    int err = 0;

    lookup->rows = rt_io_buf(owner->conf.io, bytes);
    if (!lookup->rows)
        return RT_FAIL(RT_EFULL, "no buffer for an answer of %zu bytes", bytes);
    if (ebs_work_of(owner, lookup->table, lookup->n_ids, lookup->n_tables) > EBS_AT_ONCE) {
        err = ebs_turn_add_lookup(owner, lookup);
        if (err)
            rt_buf_unref(lookup->rows);
        return err;
    }
    for (uint32_t t = 0; t < lookup->n_tables && !err; t++)
        err = ebs_check_ids(owner, lookup->id[t], lookup->n_ids[t]);
    lookup->rows->size = bytes;
    if (!err)
        ebs_lookup_reply(owner, lookup);
    rt_buf_unref(lookup->rows);
    return err;
}

static int wait_for_step(struct ebs_owner *owner, struct rt_call *call, uint64_t step,
                         const uint8_t *message, size_t size, struct rt_buf *payload)
{
    struct ebs_waiting *waiting;

    if (ebs_get(&owner->stats.waiting) >= WAITING_MAX)
        return RT_FAIL(RT_EFULL, "%u lookups wait for their step", WAITING_MAX);
    waiting = rt_try_malloc(sizeof(*waiting) + size);
    if (!waiting)
        return RT_FAIL(RT_ENOMEM, "no memory to wait for step %llu", (unsigned long long)step);
    *waiting = (struct ebs_waiting){.call = call, .payload = payload, .step = step, .size = size};
    if (payload)
        rt_buf_ref(payload);
    memcpy(waiting->message, message, size);
    *owner->last = waiting;
    owner->last = &waiting->next;
    ebs_add(&owner->stats.waiting, 1);
    return 0;
}

static bool must_wait(const struct ebs_owner *owner, uint64_t step)
{
    return owner->turn.closed || step > ebs_get(&owner->stats.step) || ebs_history_waits(owner);
}

/* Answer a lookup, now or in pieces, or let it wait. */
static void lookup(struct ebs_owner *owner, struct rt_call *call, const uint8_t *message,
                   size_t size, struct rt_buf *payload)
{
    struct wire_lookup_rows m;
    const uint64_t **id;
    size_t bytes = 0;
    int err;

    rt_arena_reset(owner->arena);
    err = wire_lookup_rows_unpack(message, size, owner->arena, &m);
    if (err)
        goto out;
    id = rt_arena_array(owner->arena, const uint64_t *, m.n_tables);
    err = id ? lookup_read(owner, &m, payload, id, &bytes)
             : RT_FAIL(RT_ENOMEM, "no memory to look up %u tables", m.n_tables);
    if (err)
        goto out;
    if (must_wait(owner, m.step)) {
        err = wait_for_step(owner, call, m.step, message, size, payload);
    } else {
        struct ebs_lookup found = {.call = call,
                                   .payload = payload,
                                   .table = m.table,
                                   .n_ids = m.n_ids,
                                   .id = id,
                                   .n_tables = m.n_tables};
        err = answer(owner, &found, bytes);
    }
out:
    if (err)
        ebs_refuse(owner, call, err);
}

/* Take out of the list, in the order in which they came, the lookups whose step is there now, and those
 * whose asker is gone: it asks anew on its next connection, and what stayed of it would only fill the list. */
void ebs_wake(struct ebs_owner *owner)
{
    struct ebs_waiting **at = &owner->first;

    while (*at) {
        struct ebs_waiting *waiting = *at;
        bool alive = rt_call_alive(waiting->call);

        if (alive && must_wait(owner, waiting->step)) {
            at = &waiting->next;
            continue;
        }
        *at = waiting->next;
        ebs_add(&owner->stats.waiting, (uint64_t)-1);
        if (alive)
            lookup(owner, waiting->call, waiting->message, waiting->size, waiting->payload);
        else
            rt_call_fail(waiting->call, RT_EPEER, "gone");
        rt_buf_unref(waiting->payload);
        rt_free(waiting);
    }
    owner->last = at;
}

void ebs_serve_lookup(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    ebs_wake(ctx);
    lookup(ctx, call, request->message, request->header.message_size, request->payload);
}
