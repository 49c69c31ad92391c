/* embedding_server/serve.c -- an owner's requests, from the frame to the answer.
 *
 *   LookupRows:     read -> (wait for a step) -> rows into one payload buffer -> reply
 *   ApplyGradients: read -> filter -> alone? apply at once : gather parts and ranks -> apply -> filter bits
 *                   -> replies -> lookups that waited for this step
 *
 * Ids and gradients stay where they arrived, in the request's payload; an answer's rows are written where
 * they leave from. What waits holds its payload and its call; both are given back when the answer is
 * known, also if the asker is gone by then.
 * The filter has room for a batch before a row changes and gets its bit right after, in one stretch of
 * the only thread: there is no moment at which a batch is applied and not marked. */
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"

#include <stdatomic.h>
#include <string.h>

#define MESSAGE_BYTES_MAX (256u << 10)
#define WAITING_MAX       4096u /* lookups that wait for a step */
#define IDS_BYTES_MAX     ((uint64_t)WIRE_IDS_MAX * 8 + (uint64_t)WIRE_TABLES_MAX * RT_SEGMENT_ALIGN)

static void add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

static void set(_Atomic uint64_t *gauge, uint64_t value)
{
    atomic_store_explicit(gauge, value, memory_order_relaxed);
}

static uint64_t get(const _Atomic uint64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void refuse(struct ebs_owner *owner, struct rt_call *call, int err)
{
    add(&owner->stats.refused, 1);
    rt_call_fail(call, err, rt_err_text());
}

/* ---- what both requests have ---- */

static uint64_t rows_of(const uint32_t *n_ids, uint32_t n_tables)
{
    uint64_t rows = 0;

    for (uint32_t t = 0; t < n_tables; t++)
        rows += n_ids[t];
    return rows;
}

/* Ids that are not ours mean that the sender's map of shards is wrong: nothing of it is served. */
static int check_ids(const struct ebs_owner *owner, const uint64_t *id, size_t n)
{
    uint32_t width = owner->shard_end - owner->shard_first;

    for (size_t i = 0; i < n; i++)
        if (rt_shard_of(id[i]) - owner->shard_first >= width)
            return RT_FAIL(RT_EOWNER, "id %016llx is in shard %u, this owner holds %u..%u",
                           (unsigned long long)id[i], rt_shard_of(id[i]), owner->shard_first,
                           owner->shard_end - 1);
    return 0;
}

static int check_head(const struct ebs_owner *owner, uint64_t shard_map, const uint32_t *table,
                      uint32_t n_tables, uint32_t dtype)
{
    const struct rt_job *job = owner->conf.job;

    if (shard_map != owner->shard_map)
        return RT_FAIL(RT_EOWNER, "request by shard map %016llx, this owner has %016llx",
                       (unsigned long long)shard_map, (unsigned long long)owner->shard_map);
    if (n_tables > 0 && table[n_tables - 1] >= job->n_tables)
        return RT_FAIL(RT_EPROTO, "table %u, the job has %u", table[n_tables - 1], job->n_tables);
    if (dtype != WIRE_F32)
        return RT_FAIL(RT_EPROTO, "rows of dtype %u, expected float32 (%u)", dtype, WIRE_F32);
    return 0;
}

/* ---- LookupRows ---- */

/* The ids of each table, checked, and the size of the answer. */
static int lookup_read(const struct ebs_owner *owner, const struct wire_lookup_rows *m,
                       struct rt_buf *payload, const uint64_t **id, size_t *reply_bytes)
{
    struct rt_segments segments = rt_segments_of(payload);
    size_t end = 0;
    int err = check_head(owner, m->shard_map, m->table, m->n_tables, m->dtype);

    for (uint32_t t = 0; t < m->n_tables && !err; t++) {
        size_t dim = owner->conf.job->table[m->table[t]].dim;
        const void *ids;

        err = rt_segment_take(&segments, m->n_ids[t], sizeof(uint64_t), &ids);
        if (err)
            break;
        id[t] = ids;
        err = check_ids(owner, id[t], m->n_ids[t]);
        rt_segment_put(&end, m->n_ids[t] * dim * sizeof(float));
    }
    if (!err)
        err = rt_segments_end(&segments);
    if (!err && end > RT_PAYLOAD_MAX)
        err = RT_FAIL(RT_ELIMIT, "answer of %zu bytes, expected at most %llu", end, RT_PAYLOAD_MAX);
    *reply_bytes = end;
    return err;
}

static uint64_t lookup_rows(const struct ebs_owner *owner, const struct wire_lookup_rows *m,
                            const uint64_t *const *id, struct rt_buf *out)
{
    uint64_t found = 0;
    size_t end = 0;

    for (uint32_t t = 0; t < m->n_tables; t++) {
        const struct ebs_table *table = owner->table[m->table[t]];
        size_t before = end;
        size_t at = rt_segment_put(&end, m->n_ids[t] * ebs_table_dim(table) * sizeof(float));

        memset(out->data + before, 0, at - before);
        found += ebs_table_lookup(table, id[t], m->n_ids[t], (float *)(out->data + at));
    }
    out->size = end;
    return found;
}

static void lookup_reply(struct ebs_owner *owner, struct rt_call *call,
                         const struct wire_lookup_rows *m, struct rt_buf *rows, uint64_t found,
                         uint64_t took_ns)
{
    struct wire_lookup_rows_reply reply = {
        .n_tables = m->n_tables, .n_ids = m->n_ids, .dtype = WIRE_F32, .rows_found = found};
    struct rt_piece piece = {.data = rows->data, .size = rows->size, .buf = rows};
    int err = wire_lookup_rows_reply_pack(&reply, &owner->reply);

    if (err) {
        refuse(owner, call, err);
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){.message = owner->reply.data,
                                              .message_size = owner->reply.size,
                                              .pieces = &piece,
                                              .n_pieces = 1});
    add(&owner->stats.rows_looked_up, rows_of(m->n_ids, m->n_tables));
    add(&owner->stats.rows_found, found);
    add(&owner->stats.lookups, 1);
    rt_histogram_observe(&owner->stats.lookup_rows, RT_HISTOGRAM_COUNT,
                         rows_of(m->n_ids, m->n_tables));
    rt_histogram_observe(&owner->stats.lookup_seconds, RT_HISTOGRAM_SECONDS, took_ns);
}

static int wait_for_step(struct ebs_owner *owner, struct rt_call *call, uint64_t step,
                         const uint8_t *message, size_t size, struct rt_buf *payload)
{
    struct ebs_waiting *waiting;

    if (get(&owner->stats.waiting) >= WAITING_MAX)
        return RT_FAIL(RT_EFULL, "%u lookups wait for their step", WAITING_MAX);
    waiting = rt_try_malloc(sizeof(*waiting) + size);
    if (!waiting)
        return RT_FAIL(RT_ENOMEM, "no memory to wait for step %llu", (unsigned long long)step);
    *waiting = (struct ebs_waiting){
        .call = call, .payload = rt_buf_ref(payload), .step = step, .size = size};
    memcpy(waiting->message, message, size);
    *owner->last = waiting;
    owner->last = &waiting->next;
    add(&owner->stats.waiting, 1);
    return 0;
}

/* Answer a lookup, or let it wait. */
static void lookup(struct ebs_owner *owner, struct rt_call *call, const uint8_t *message,
                   size_t size, struct rt_buf *payload)
{
    struct wire_lookup_rows m;
    const uint64_t **id;
    struct rt_buf *rows = NULL;
    size_t bytes = 0;
    uint64_t found, begin;
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
    if (m.step > get(&owner->stats.step)) {
        err = wait_for_step(owner, call, m.step, message, size, payload);
        if (err)
            goto out;
        return;
    }
    rows = rt_io_buf(owner->conf.io, bytes);
    if (!rows) {
        err = RT_FAIL(RT_EFULL, "no buffer for an answer of %zu bytes", bytes);
        goto out;
    }
    begin = rt_io_now(owner->conf.io);
    found = lookup_rows(owner, &m, id, rows);
    lookup_reply(owner, call, &m, rows, found, rt_io_now(owner->conf.io) - begin);
out:
    if (err)
        refuse(owner, call, err);
    rt_buf_unref(rows);
}

/* Take out of the list, in the order in which they came, the lookups whose step is there now, and those
 * whose asker is gone: it asks anew on its next connection, and what stayed of it would only fill the list. */
static void wake(struct ebs_owner *owner)
{
    struct ebs_waiting **at = &owner->first;

    while (*at) {
        struct ebs_waiting *waiting = *at;
        bool alive = rt_call_alive(waiting->call);

        if (alive && waiting->step > get(&owner->stats.step)) {
            at = &waiting->next;
            continue;
        }
        *at = waiting->next;
        add(&owner->stats.waiting, (uint64_t)-1);
        if (alive)
            lookup(owner, waiting->call, waiting->message, waiting->size, waiting->payload);
        else
            rt_call_fail(waiting->call, RT_EPEER, "gone");
        rt_buf_unref(waiting->payload);
        rt_free(waiting);
    }
    owner->last = at;
}

static void serve_lookup(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    wake(ctx);
    lookup(ctx, call, request->message, request->header.message_size, request->payload);
}

/* ---- ApplyGradients ---- */

static int part_check(const struct ebs_owner *owner, const struct ebs_part *part)
{
    const struct wire_apply_gradients *m = &part->m;
    int err = check_head(owner, m->shard_map, m->table, m->n_tables, m->dtype);

    if (err)
        return err;
    if (rt_batch_split(part->batch_id) >= RT_SPLIT_EVALUATE)
        return RT_FAIL(RT_EPROTO, "gradients for split %u, which is of the evaluation",
                       rt_batch_split(part->batch_id));
    if (m->learning_rate > EBS_FACTOR_MAX)
        return RT_FAIL(RT_EPROTO, "learning rate factor %g, expected at most %g", m->learning_rate,
                       EBS_FACTOR_MAX);
    return 0;
}

/* Fill id[] and grad[] from the payload. */
static int part_segments(const struct ebs_owner *owner, struct rt_arena *arena,
                         struct ebs_part *part)
{
    const struct wire_apply_gradients *m = &part->m;
    struct rt_segments segments = rt_segments_of(part->payload);
    int err = 0;

    part->id = rt_arena_array(arena, const uint64_t *, m->n_tables);
    part->grad = rt_arena_array(arena, const float *, m->n_tables);
    if (!part->id || !part->grad)
        return RT_FAIL(RT_ENOMEM, "no memory to update %u tables", m->n_tables);
    for (uint32_t t = 0; t < m->n_tables && !err; t++) {
        size_t dim = owner->conf.job->table[m->table[t]].dim;
        const void *id = NULL, *grad = NULL;

        err = rt_segment_take(&segments, m->n_ids[t], sizeof(uint64_t), &id);
        if (!err)
            err = check_ids(owner, id, m->n_ids[t]);
        if (!err)
            err = rt_segment_take(&segments, m->n_ids[t] * dim, sizeof(float), &grad);
        part->id[t] = id;
        part->grad[t] = grad;
    }
    return err ? err : rt_segments_end(&segments);
}

static int part_read(const struct ebs_owner *owner, struct rt_arena *arena,
                     const struct rt_frame *request, struct ebs_part *part)
{
    int err;

    *part = (struct ebs_part){.batch_id = request->header.batch_id, .payload = request->payload};
    err = wire_apply_gradients_unpack(request->message, request->header.message_size, arena,
                                      &part->m);
    if (!err)
        err = part_check(owner, part);
    return err ? err : part_segments(owner, arena, part);
}

static void part_reply(struct ebs_owner *owner, struct ebs_part *part,
                       enum wire_apply_outcome outcome)
{
    struct wire_apply_gradients_reply reply = {
        .outcome = outcome, .rows_applied = part->rows, .rows_nonfinite = part->nonfinite};
    struct rt_call *call = part->call;
    int err;

    part->call = NULL;
    if (!call)
        return;
    err = wire_apply_gradients_reply_pack(&reply, &owner->reply);
    if (err)
        refuse(owner, call, err);
    else
        rt_call_reply(call, &(struct rt_outgoing){.message = owner->reply.data,
                                                  .message_size = owner->reply.size});
}

static void part_refuse(struct ebs_owner *owner, struct ebs_part *part, int err)
{
    struct rt_call *call = part->call;

    part->call = NULL;
    if (call)
        refuse(owner, call, err);
}

/* The step that waiting lookups may see now. */
static void step_applied(struct ebs_owner *owner, uint64_t step)
{
    if (step <= get(&owner->stats.step))
        return;
    set(&owner->stats.step, step);
    wake(owner);
}

/* Of thousands of tables a request has a few. */
static void count_tables(struct ebs_owner *owner, const struct ebs_part *part)
{
    for (uint32_t t = 0; t < part->m.n_tables; t++)
        ebs_count_table(owner, part->m.table[t]);
}

/* Change the rows, mark the batches, answer: or answer with the error, and nothing has happened. */
static int apply(struct ebs_owner *owner, struct ebs_part *const *part, size_t n, bool merge)
{
    uint64_t begin = rt_io_now(owner->conf.io);
    int err = ebs_apply_parts(&owner->applier, part, n, merge);

    if (!err)
        rt_histogram_observe(&owner->stats.apply_seconds, RT_HISTOGRAM_SECONDS,
                             rt_io_now(owner->conf.io) - begin);
    for (size_t i = 0; i < n; i++) {
        count_tables(owner, part[i]);
        if (err) {
            part_refuse(owner, part[i], err);
            continue;
        }
        ebs_filter_set(owner->filter, part[i]->batch_id);
        add(&owner->stats.updates, part[i]->m.part == 0);
        add(&owner->stats.rows_applied, part[i]->rows);
        add(&owner->stats.rows_nonfinite, part[i]->nonfinite);
        rt_histogram_observe(&owner->stats.apply_rows, RT_HISTOGRAM_COUNT,
                             rows_of(part[i]->m.n_ids, part[i]->m.n_tables));
        part_reply(owner, part[i], WIRE_APPLIED);
    }
    return err;
}

/* Apply what is ready, and forget it; an error leaves it where it is. */
static int apply_ready(struct ebs_owner *owner, struct ebs_ready *ready)
{
    int err = apply(owner, ready->part, ready->n, ready->merge);

    if (err)
        ebs_gather_keep(ready);
    else
        ebs_gather_finish(owner->gather, ready);
    return err;
}

/* Steps are applied in their order, from 1 on: one may be complete here before the one that it follows, when its
 * ranks are others. */
static void apply_steps(struct ebs_owner *owner, uint64_t number, uint64_t batch_id)
{
    for (;;) {
        uint64_t at = get(&owner->stats.step);
        struct ebs_ready ready;

        if (number > at + 1)
            return;
        if (ebs_gather_step_ready(owner->gather, number, &ready)) {
            ebs_gather_drop(owner->gather, batch_id, RT_ENOMEM, rt_err_text());
            return;
        }
        if (!ready.whole_step || apply_ready(owner, &ready))
            return;
        step_applied(owner, number);
        number = get(&owner->stats.step) + 1;
    }
}

/* A part was added, or skipped. An owner that came back with nothing would wait for steps that all owners have had,
 * itself before; it is told how far they go. */
static void step_gathered(struct ebs_owner *owner, const struct ebs_part *latest)
{
    uint64_t through = latest->m.applied_through;

    if (through > get(&owner->stats.step)) {
        step_applied(owner, through);
        apply_steps(owner, through + 1, latest->batch_id);
    }
    apply_steps(owner, latest->m.step, latest->batch_id);
}

/* Something was added to the gather: is a batch or a step complete? */
static void gathered(struct ebs_owner *owner, const struct ebs_part *latest)
{
    struct ebs_ready ready;

    if (latest->m.synchronous)
        step_gathered(owner, latest);
    else if (ebs_gather_ready(owner->gather, latest->batch_id, &ready))
        ebs_gather_drop(owner->gather, latest->batch_id, RT_ENOMEM, rt_err_text());
    else if (ready.n > 0)
        (void)apply_ready(owner, &ready);
}

/* A batch that is applied already: say so, and let its step not wait for it. */
static void again(struct ebs_owner *owner, struct ebs_part *part)
{
    int err = part->m.synchronous ? ebs_gather_skip(owner->gather, part) : 0;

    if (err) {
        part_refuse(owner, part, err);
        return;
    }
    add(&owner->stats.updates_again, part->m.part == 0);
    part_reply(owner, part, WIRE_ALREADY);
    if (part->m.synchronous)
        gathered(owner, part);
}

/* Keep a part until the rest is here: it gets an arena of its own. */
static void gather_part(struct ebs_owner *owner, struct rt_call *call,
                        const struct rt_frame *request)
{
    struct rt_arena *arena = NULL;
    struct ebs_part part = {0};
    int err = rt_arena_create(EBS_UNPACK_BYTES_MAX, &arena);

    if (!err)
        err = part_read(owner, arena, request, &part);
    part.call = call;
    part.arena = arena;
    if (!err)
        err = ebs_gather_add(owner->gather, &part);
    if (err) {
        part_refuse(owner, &part, err);
        rt_arena_destroy(arena);
        return;
    }
    if (request->payload)
        rt_buf_ref(request->payload);
    gathered(owner, &part);
    set(&owner->stats.open, ebs_gather_open(owner->gather));
}

static void serve_apply(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct ebs_part part, *alone = &part;
    int err;

    rt_arena_reset(owner->arena);
    err = part_read(owner, owner->arena, request, &part);
    part.call = call;
    if (!err && ebs_filter_seen(owner->filter, part.batch_id)) {
        again(owner, &part);
        return;
    }
    if (!err)
        err = ebs_filter_reserve(owner->filter, part.batch_id);
    if (err) {
        part_refuse(owner, &part, err);
        return;
    }
    if (part.m.synchronous || part.m.parts > 1) {
        gather_part(owner, call, request);
        return;
    }
    ebs_gather_drop(owner->gather, part.batch_id, RT_EUNKNOWN, "replaced by a later attempt");
    (void)apply(owner, &alone, 1, false); /* the asker has heard of an error */
}

const struct rt_method_def ebs_methods[] = {
    {WIRE_LOOKUP_ROWS, "LookupRows", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), MESSAGE_BYTES_MAX,
     IDS_BYTES_MAX, serve_lookup},
    {WIRE_APPLY_GRADIENTS, "ApplyGradients", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), MESSAGE_BYTES_MAX,
     RT_PAYLOAD_MAX, serve_apply},
};
const size_t ebs_method_count = ARRAY_LEN(ebs_methods);
