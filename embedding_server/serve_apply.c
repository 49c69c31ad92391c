/* embedding_server/serve_apply.c -- ApplyGradients: exactly once per batch, however often it is asked.
 *
 *   read -> applied before? say so, and let its step not wait for it
 *        -> being applied? join it
 *        -> small and alone? apply now
 *        -> gather parts and ranks -> complete? apply now, or as a job in pieces (turn.c)
 *        -> filter bits, replies, lookups that waited for this step, the next step
 *
 * The filter has room for a batch before a row changes. Its bit is set when the last row has changed, in one stretch
 * of the only thread with the answers; from the first piece of an application to that moment the batch is
 * known as busy, so it is not begun a second time either. */
#include "embedding_server/serve.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/checkpoint.h"

/* ---- reading ---- */

static int part_check(const struct ebs_owner *owner, const struct ebs_part *part)
{
    const struct wire_apply_gradients *m = &part->m;
    int err = ebs_check_head(owner, m->shard_map, m->table, m->n_tables);

    if (!err)
        err = ebs_check_dtype("global.wire.row_gradients",
                              owner->conf.job->global.wire.row_gradients, m->dtype);
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
    part->grad = rt_arena_array(arena, const void *, m->n_tables);
    if (!part->id || !part->grad)
        return RT_FAIL(RT_ENOMEM, "no memory to update %u tables", m->n_tables);
    for (uint32_t t = 0; t < m->n_tables && !err; t++) {
        size_t dim = owner->conf.job->table[m->table[t]].dim;
        const void *id = NULL, *grad = NULL;

        err = rt_segment_take(&segments, m->n_ids[t], sizeof(uint64_t), &id);
        if (!err)
            err = rt_segment_take(&segments, m->n_ids[t] * dim, wire_dtype_size(m->dtype), &grad);
        part->id[t] = id;
        part->grad[t] = grad;
    }
    return err ? err : rt_segments_end(&segments);
}

/* All but whose the ids are. */
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

static int part_check_ids(const struct ebs_owner *owner, const struct ebs_part *part)
{
    int err = 0;

    for (uint32_t t = 0; t < part->m.n_tables && !err; t++)
        err = ebs_check_ids(owner, part->id[t], part->m.n_ids[t]);
    return err;
}

/* ---- answering ---- */

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
        ebs_refuse(owner, call, err);
    else
        rt_call_reply(call, &(struct rt_outgoing){.message = owner->reply.data,
                                                  .message_size = owner->reply.size});
}

static void part_refuse(struct ebs_owner *owner, struct ebs_part *part, int err)
{
    struct rt_call *call = part->call;

    part->call = NULL;
    if (call)
        ebs_refuse(owner, call, err);
}

/* Of thousands of tables a request has a few. */
static void count_tables(struct ebs_owner *owner, const struct ebs_part *part)
{
    for (uint32_t t = 0; t < part->m.n_tables; t++)
        ebs_count_table(owner, part->m.table[t]);
}

/* Parts were applied: mark the batches and answer. Or answer with the error, and no value has changed. */
static void settle(struct ebs_owner *owner, struct ebs_part *const *part, size_t n, int err,
                   uint64_t took_ns)
{
    if (!err)
        rt_histogram_observe(&owner->stats.apply_seconds, RT_HISTOGRAM_SECONDS, took_ns);
    for (size_t i = 0; i < n; i++) {
        count_tables(owner, part[i]);
        if (err) {
            part_refuse(owner, part[i], err);
            continue;
        }
        ebs_filter_set(owner->filter, part[i]->batch_id);
        ebs_cut_applied(owner, part[i]);
        ebs_add(&owner->stats.updates, part[i]->m.part == 0);
        ebs_add(&owner->stats.rows_applied, part[i]->rows);
        ebs_add(&owner->stats.rows_nonfinite, part[i]->nonfinite);
        rt_histogram_observe(&owner->stats.apply_rows, RT_HISTOGRAM_COUNT,
                             ebs_rows_of(part[i]->m.n_ids, part[i]->m.n_tables));
        RT_FAILPOINT("P9.after_apply");
        part_reply(owner, part[i], WIRE_APPLIED);
    }
}

/* ---- applying ---- */

static int apply_now(struct ebs_owner *owner, struct ebs_part *const *part, size_t n, bool merge)
{
    struct rt_io *io = owner->conf.io;
    uint64_t begin = rt_io_now(io);
    int err;

    RT_FAILPOINT("P9.before_apply");
    err = ebs_apply_parts(&owner->applier, part, n, merge, begin / RT_MS);
    for (size_t i = 0; i < n; i++)
        if (part[i]->m.part == 0) /* once for each batch */
            rt_trace_span(part[i]->batch_id, owner->conf.identity.loop, "apply", begin);
    settle(owner, part, n, err, rt_io_now(io) - begin);
    return err;
}

/* The step that waiting lookups may see now. */
static void step_applied(struct ebs_owner *owner, uint64_t step)
{
    if (step <= ebs_get(&owner->stats.step))
        return;
    ebs_set(&owner->stats.step, step);
    ebs_wake(owner);
}

/* Not applied. What belongs to a step stays, for its other batches may have been answered long ago. */
static void put_back(struct ebs_owner *owner, struct ebs_ready *ready)
{
    if (ready->whole_step || ready->n > 1)
        ebs_gather_keep(owner->gather, ready);
    else
        ebs_gather_finish(owner->gather, ready, RT_ECANCELED, "not applied");
}

/* Or a cut's buffer has no room for its rows now: then it is a job too, and waits. */
static bool is_large(const struct ebs_owner *owner, struct ebs_part *const *part, size_t n)
{
    size_t work = 0;

    for (size_t i = 0; i < n; i++)
        work += ebs_work_of(owner, part[i]->m.table, part[i]->m.n_ids, part[i]->m.n_tables);
    return work > EBS_AT_ONCE || !ebs_cut_admits(owner, part, n);
}

/* Apply what is ready. A large one is a job from here on, and so is a step while large lookups are under
 * way: they must not see half of it. */
static int apply_ready(struct ebs_owner *owner, struct ebs_ready *ready)
{
    uint64_t step = ready->step;
    int err;

    if (is_large(owner, ready->part, ready->n) ||
        (ready->whole_step && owner->turn.n_lookups > 0)) {
        err = ebs_turn_add_job(owner, ready);
        if (err) {
            settle(owner, ready->part, ready->n, err, 0);
            put_back(owner, ready);
        }
        return err;
    }
    err = apply_now(owner, ready->part, ready->n, ready->merge);
    if (err) {
        put_back(owner, ready);
        return err;
    }
    ebs_gather_finish(owner->gather, ready, RT_EUNKNOWN, "");
    step_applied(owner, step); /* 0: of no step */
    return 0;
}

/* Steps are applied in their order, from 1 on: one may be complete here before the one that it follows, when its
 * ranks are others. */
static void apply_steps(struct ebs_owner *owner)
{
    while (!owner->turn.synchronous) {
        uint64_t number, through = ebs_get(&owner->stats.step) + 1;
        struct ebs_ready ready;

        if (!ebs_gather_first_step(owner->gather, through, &number) ||
            ebs_gather_step_ready(owner->gather, number, &ready) || apply_ready(owner, &ready))
            return;
    }
}

void ebs_steps_reached(struct ebs_owner *owner, uint64_t step)
{
    step_applied(owner, step);
    apply_steps(owner);
}

/* A part was added, or skipped. An owner that came back with nothing would wait for steps that all owners have had,
 * itself before; it is told how far they go. */
static void step_gathered(struct ebs_owner *owner, const struct ebs_part *latest)
{
    ebs_steps_reached(owner, latest->m.applied_through);
}

int ebs_step_skip(struct ebs_owner *owner, const struct wire_tell_ledger *told)
{
    struct ebs_part part = {.m = {.step = told->step,
                                  .world = told->among,
                                  .synchronous = true,
                                  .attempt = told->attempt}};
    int err = 0;

    if (told->step <= ebs_get(&owner->stats.step))
        return 0;
    for (uint32_t i = 0; i < told->n_places && !err; i++) {
        part.m.rank = told->place[i];
        err = ebs_gather_skip(owner->gather, &part);
    }
    if (!err)
        ebs_steps_reached(owner, told->step - 1);
    return err;
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
    ebs_set(&owner->stats.open, ebs_gather_open(owner->gather));
}

/* A batch that is applied already: say so, and let its step not wait for it. */
static void again(struct ebs_owner *owner, struct ebs_part *part)
{
    int err = part->m.synchronous ? ebs_gather_skip(owner->gather, part) : 0;

    if (err) {
        part_refuse(owner, part, err);
        return;
    }
    ebs_add(&owner->stats.updates_again, part->m.part == 0);
    part_reply(owner, part, WIRE_ALREADY);
    if (part->m.synchronous)
        gathered(owner, part);
}

void ebs_apply_finish(struct ebs_owner *owner, struct ebs_job *job, int err)
{
    struct ebs_ready *ready = &job->ready;
    bool whole_step = ready->whole_step;
    uint64_t step = ready->step;

    settle(owner, ready->part, ready->n, err, job->took_ns);
    if (err)
        put_back(owner, ready);
    else
        ebs_gather_finish(owner->gather, ready, RT_EUNKNOWN, "");
    for (struct ebs_joined *joined = job->joined; joined; joined = joined->next) {
        if (err)
            part_refuse(owner, &joined->part, err);
        else
            again(owner, &joined->part);
    }
    ebs_job_free(job);
    if (whole_step) {
        if (!err)
            step_applied(owner, step);
        ebs_wake(owner); /* those that waited for its end only */
        if (!err)
            apply_steps(owner);
    }
    ebs_set(&owner->stats.open, ebs_gather_open(owner->gather));
}

/* ---- requests ---- */

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
}

static void join(struct ebs_owner *owner, struct ebs_job *job, struct ebs_part *part)
{
    int err = ebs_turn_join(job, part);

    if (err)
        part_refuse(owner, part, err);
}

void ebs_serve_apply(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct ebs_part part, *alone = &part;
    struct ebs_job *job;
    int err;

    rt_arena_reset(owner->arena);
    err = part_read(owner, owner->arena, request, &part);
    part.call = call;
    if (!err)
        err = part_check_ids(owner, &part);
    if (!err && ebs_filter_seen(owner->filter, part.batch_id)) {
        again(owner, &part);
        return;
    }
    if (!err && part.m.synchronous)
        err = ebs_history_check(owner, part.m.attempt);
    if (!err)
        err = ebs_filter_reserve(owner->filter, part.batch_id);
    if (err) {
        part_refuse(owner, &part, err);
        return;
    }
    job = ebs_turn_job_of(owner, part.batch_id);
    if (job)
        join(owner, job, &part);
    else if (part.m.synchronous || part.m.parts > 1 || is_large(owner, &alone, 1))
        gather_part(owner, call, request);
    else {
        ebs_gather_drop(owner->gather, part.batch_id, RT_EUNKNOWN, "replaced by a later attempt");
        (void)apply_now(owner, &alone, 1, false); /* the asker has heard of an error */
    }
}
