/* embedding_server/serve_lookup.c -- LookupRows: ids in, weights out; nothing of a table changes.
 *
 *   read -> its step is not applied, or is being applied? wait
 *        -> large? pieces in turns of the loop (turn.c) : all pieces now
 *        -> reply
 *
 * One buffer has all tables' rows and leaves as it is. */
#include "embedding_server/serve.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <string.h>

#define WAITING_MAX 4096u /* lookups that wait for a step */

/* The ids of each table, and the size of the answer. Whose ids they are is looked at with the rows. */
static int lookup_read(const struct ebs_owner *owner, const struct wire_lookup_rows *m,
                       struct rt_buf *payload, const uint64_t **id, size_t *reply_bytes)
{
    struct rt_segments segments = rt_segments_of(payload);
    size_t end = 0;
    int err = ebs_check_head(owner, m->shard_map, m->table, m->n_tables, m->dtype);

    for (uint32_t t = 0; t < m->n_tables && !err; t++) {
        size_t dim = owner->conf.job->table[m->table[t]].dim;
        const void *ids;

        err = rt_segment_take(&segments, m->n_ids[t], sizeof(uint64_t), &ids);
        if (err)
            break;
        id[t] = ids;
        rt_segment_put(&end, m->n_ids[t] * dim * sizeof(float));
    }
    if (!err)
        err = rt_segments_end(&segments);
    if (!err && end > RT_PAYLOAD_MAX)
        err = RT_FAIL(RT_ELIMIT, "answer of %zu bytes, expected at most %llu", end, RT_PAYLOAD_MAX);
    *reply_bytes = end;
    return err;
}

int ebs_lookup_piece(struct ebs_owner *owner, struct ebs_lookup *lookup, size_t rows)
{
    const struct ebs_table *table;
    struct rt_buf *out = lookup->rows;
    size_t n, bytes, before = out->size;
    const uint64_t *id;
    int err;

    if (lookup->at_table == lookup->n_tables)
        return 0;
    table = owner->table[lookup->table[lookup->at_table]];
    n = lookup->n_ids[lookup->at_table] - lookup->at_row;
    n = n < rows ? n : rows;
    bytes = n * ebs_table_dim(table) * sizeof(float);
    id = lookup->id[lookup->at_table] + lookup->at_row;
    err = ebs_check_ids(owner, id, n);
    if (err)
        return err;
    if (lookup->at_row == 0) { /* tables begin at multiples of 64 bytes */
        size_t at = rt_segment_put(&before, 0);

        memset(out->data + out->size, 0, at - out->size);
        before = at;
    }
    lookup->found += ebs_table_lookup(table, id, n, (float *)(out->data + before));
    if (lookup->with_crc)
        lookup->crc = rt_crc32c(lookup->crc, out->data + out->size, before + bytes - out->size);
    out->size = before + bytes;
    lookup->at_row += (uint32_t)n;
    if (lookup->at_row == lookup->n_ids[lookup->at_table]) {
        lookup->at_row = 0;
        lookup->at_table++;
    }
    return 0;
}

void ebs_lookup_reply(struct ebs_owner *owner, struct ebs_lookup *lookup)
{
    uint64_t rows = ebs_rows_of(lookup->n_ids, lookup->n_tables);
    struct wire_lookup_rows_reply reply = {.n_tables = lookup->n_tables,
                                           .n_ids = lookup->n_ids,
                                           .dtype = WIRE_F32,
                                           .rows_found = lookup->found};
    struct rt_piece piece = {
        .data = lookup->rows->data, .size = lookup->rows->size, .buf = lookup->rows};
    int err = wire_lookup_rows_reply_pack(&reply, &owner->reply);

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
                                        .n_pieces = 1});
    ebs_add(&owner->stats.rows_looked_up, rows);
    ebs_add(&owner->stats.rows_found, lookup->found);
    ebs_add(&owner->stats.lookups, 1);
    rt_histogram_observe(&owner->stats.lookup_rows, RT_HISTOGRAM_COUNT, rows);
    rt_histogram_observe(&owner->stats.lookup_seconds, RT_HISTOGRAM_SECONDS, lookup->took_ns);
}

static int answer(struct ebs_owner *owner, struct ebs_lookup *lookup, size_t bytes)
{
    uint64_t begin = rt_io_now(owner->conf.io);
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
    while (!err && lookup->at_table < lookup->n_tables)
        err = ebs_lookup_piece(owner, lookup, SIZE_MAX);
    lookup->took_ns = rt_io_now(owner->conf.io) - begin;
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
    return owner->turn.closed || step > ebs_get(&owner->stats.step);
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
