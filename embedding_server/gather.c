/* embedding_server/gather.c -- open batches by id, open steps by number.
 *
 * A batch knows its parts; a step knows the batches of its ranks. Both are small maps, because what is
 * open is bounded by the batches in flight; what is large (ids, gradients) stays in the payloads.
 *
 * NO DEADLOCK. Parts of several batches could fill the memory for payloads, and none of the batches be whole. So beyond
 * bytes_max only parts of the oldest of them are taken, for which there is room then (gather.h); when it is whole,
 * the next is the oldest. Steps of the group are not counted: all of one has to fit anyhow, and there is one at a time. */
#include "embedding_server/gather.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"

struct ebs_batch {
    uint64_t id, step, attempt, digest;
    uint64_t number; /* grows from batch to batch */
    uint32_t rank, world, parts, arrived;
    size_t bytes; /* of its parts' payloads */
    bool synchronous;
    struct ebs_part part[]; /* [parts]; arena NULL: not here yet */
};

/* In synchronous mode: who is here of one step of the group. */
struct step {
    uint64_t number, attempt;
    uint32_t world;
    struct {
        bool skipped; /* its batch was applied earlier */
        struct ebs_batch *batch;
    } rank[]; /* [world] */
};

struct ebs_gather {
    struct rt_map batches;   /* id -> struct ebs_batch */
    struct rt_map steps;     /* number -> struct step */
    uint64_t n_batches;      /* ever */
    size_t bytes, bytes_max; /* of batches that are not of a step */
};

void ebs_part_release(struct ebs_part *part)
{
    rt_assert(!part->call);
    rt_buf_unref(part->payload);
    rt_arena_destroy(part->arena);
    *part = (struct ebs_part){0};
}

static void fail_call(struct ebs_part *part, int err, const char *why)
{
    if (part->call)
        rt_call_fail(part->call, err, why);
    part->call = NULL;
}

int ebs_gather_create(size_t bytes_max, struct ebs_gather **out)
{
    struct ebs_gather *gather = rt_xcalloc(1, sizeof(*gather));

    rt_map_init(&gather->batches);
    rt_map_init(&gather->steps);
    gather->bytes_max = bytes_max;
    *out = gather;
    return 0;
}

/* Whoever waits for an answer is told why: RT_ECANCELED, ask again; RT_EUNKNOWN, another attempt has taken its
 * place, and asking again would only take that one's away. */
static void batch_release(struct ebs_batch *batch, int err, const char *why)
{
    for (uint32_t i = 0; i < batch->parts; i++) {
        fail_call(&batch->part[i], err, why);
        if (batch->part[i].arena)
            ebs_part_release(&batch->part[i]);
    }
    rt_free(batch);
}

/* Out of batches and steps: from now on it belongs to whoever holds it. */
static void batch_take(struct ebs_gather *gather, struct ebs_batch *batch)
{
    struct step *step = rt_map_get_ptr(&gather->steps, batch->step);

    if (batch->synchronous && step && step->rank[batch->rank].batch == batch)
        step->rank[batch->rank].batch = NULL;
    rt_map_remove(&gather->batches, batch->id);
    gather->bytes -= batch->synchronous ? 0 : batch->bytes;
}

static void batch_free(struct ebs_gather *gather, struct ebs_batch *batch, int err, const char *why)
{
    batch_take(gather, batch);
    batch_release(batch, err, why);
}

static void step_free(struct ebs_gather *gather, struct step *step)
{
    rt_map_remove(&gather->steps, step->number);
    rt_free(step);
}

void ebs_gather_destroy(struct ebs_gather *gather)
{
    uint64_t key, value;

    if (!gather)
        return;
    for (size_t at = 0; rt_map_next(&gather->batches, &at, &key, &value); at = 0)
        batch_free(gather, rt_map_get_ptr(&gather->batches, key), RT_ECANCELED,
                   "the embedding server stops");
    for (size_t at = 0; rt_map_next(&gather->steps, &at, &key, &value); at = 0)
        step_free(gather, rt_map_get_ptr(&gather->steps, key));
    rt_map_release(&gather->batches);
    rt_map_release(&gather->steps);
    rt_free(gather);
}

size_t ebs_gather_open(const struct ebs_gather *gather)
{
    return gather->batches.count;
}

/* ---- batches ---- */

static bool is_abandoned(const struct ebs_batch *batch)
{
    for (uint32_t i = 0; i < batch->parts; i++)
        if (batch->part[i].call && rt_call_alive(batch->part[i].call))
            return false;
    return true;
}

size_t ebs_gather_awaited(const struct ebs_gather *gather)
{
    uint64_t key, value;
    size_t n = 0;

    for (size_t at = 0; rt_map_next(&gather->batches, &at, &key, &value);)
        n += !is_abandoned(rt_map_get_ptr(&gather->batches, key));
    return n;
}

/* Room for one more: batches whose callers are gone make way; they come again if they still matter. */
static int make_room(struct ebs_gather *gather)
{
    uint64_t key, value;
    size_t at = 0;

    while (gather->batches.count >= EBS_OPEN_MAX &&
           rt_map_next(&gather->batches, &at, &key, &value)) {
        struct ebs_batch *batch = rt_map_get_ptr(&gather->batches, key);

        if (!is_abandoned(batch))
            continue;
        batch_free(gather, batch, RT_ECANCELED, "given up");
        at = 0; /* removal moves entries */
    }
    if (gather->batches.count >= EBS_OPEN_MAX)
        return RT_FAIL(RT_EFULL, "%u batches wait for their other parts or ranks", EBS_OPEN_MAX);
    return 0;
}

static int batch_add(struct ebs_gather *gather, const struct ebs_part *part, struct ebs_batch **out)
{
    const struct wire_apply_gradients *m = &part->m;
    struct ebs_batch *batch;
    int err;

    err = make_room(gather);
    if (err)
        return err;
    batch = rt_try_calloc(1, sizeof(*batch) + m->parts * sizeof(batch->part[0]));
    if (!batch || rt_map_put_ptr(&gather->batches, part->batch_id, batch) != 0) {
        rt_free(batch);
        return RT_FAIL(RT_ENOMEM, "no memory for a batch of %u parts", m->parts);
    }
    batch->id = part->batch_id;
    batch->number = gather->n_batches++;
    batch->step = m->step;
    batch->attempt = m->attempt;
    batch->digest = m->digest;
    batch->rank = m->rank;
    batch->world = m->world;
    batch->parts = m->parts;
    batch->synchronous = m->synchronous;
    *out = batch;
    return 0;
}

/* The open batch that a part belongs to. One that was cut or placed differently is an earlier attempt. */
static int batch_of(struct ebs_gather *gather, const struct ebs_part *part, struct ebs_batch **out)
{
    const struct wire_apply_gradients *m = &part->m;
    struct ebs_batch *batch = rt_map_get_ptr(&gather->batches, part->batch_id);

    if (batch && batch->digest != m->digest)
        return RT_FAIL(RT_EDIGEST, "batch %016llx: digest %016llx, its other parts have %016llx",
                       (unsigned long long)part->batch_id, (unsigned long long)m->digest,
                       (unsigned long long)batch->digest);
    if (batch && m->attempt < batch->attempt)
        return RT_FAIL(RT_EUNKNOWN, "batch %016llx has come again since, in step %llu",
                       (unsigned long long)part->batch_id, (unsigned long long)batch->step);
    if (batch && (batch->attempt != m->attempt || batch->parts != m->parts ||
                  batch->step != m->step || batch->rank != m->rank || batch->world != m->world ||
                  batch->synchronous != m->synchronous)) {
        batch_free(gather, batch, RT_EUNKNOWN, "replaced by a later attempt");
        batch = NULL;
    }
    if (!batch)
        return batch_add(gather, part, out);
    *out = batch;
    return 0;
}

void ebs_gather_drop(struct ebs_gather *gather, uint64_t batch_id, int err, const char *why)
{
    struct ebs_batch *batch = rt_map_get_ptr(&gather->batches, batch_id);

    if (batch)
        batch_free(gather, batch, err, why);
}

/* ---- steps ---- */

/* What came of the attempt before it will not be completed: the ranks that had made the step were lost, with all who knew
 * of it, and now it is made with other batches, or by another number of ranks. */
static void replace_step(struct ebs_gather *gather, struct step *step)
{
    for (uint32_t r = 0; r < step->world; r++)
        if (step->rank[r].batch)
            batch_free(gather, step->rank[r].batch, RT_EUNKNOWN, "its step was made again");
    step_free(gather, step);
}

/* Who makes a step in a later attempt has gone back to the one before it: what is here of steps after it, of attempts
 * before, is of the lost ranks. */
static void drop_lost(struct ebs_gather *gather, const struct wire_apply_gradients *m)
{
    uint64_t key, value;

    for (size_t at = 0; rt_map_next(&gather->steps, &at, &key, &value);) {
        struct step *step = rt_map_get_ptr(&gather->steps, key);

        if (key <= m->step || step->attempt >= m->attempt)
            continue;
        replace_step(gather, step);
        at = 0; /* removal moves entries */
    }
}

void ebs_gather_drop_before(struct ebs_gather *gather, uint64_t attempt)
{
    uint64_t key, value;

    for (size_t at = 0; rt_map_next(&gather->steps, &at, &key, &value);) {
        struct step *step = rt_map_get_ptr(&gather->steps, key);

        if (step->attempt >= attempt)
            continue;
        replace_step(gather, step);
        at = 0; /* removal moves entries */
    }
}

static int step_of(struct ebs_gather *gather, const struct wire_apply_gradients *m,
                   struct step **out)
{
    struct step *step = rt_map_get_ptr(&gather->steps, m->step);

    if (step && m->attempt < step->attempt)
        return RT_FAIL(RT_EUNKNOWN, "step %llu has been made again since",
                       (unsigned long long)m->step);
    if (step && (step->attempt != m->attempt || step->world != m->world)) {
        replace_step(gather, step);
        step = NULL;
    }
    if (!step) {
        drop_lost(gather, m);
        if (m->world > EBS_WORLD_MAX || gather->steps.count >= EBS_OPEN_MAX)
            return RT_FAIL(RT_ELIMIT,
                           "step %llu: %u ranks and %zu open steps, expected at most %u, %u",
                           (unsigned long long)m->step, m->world, gather->steps.count,
                           EBS_WORLD_MAX, EBS_OPEN_MAX);
        step = rt_try_calloc(1, sizeof(*step) + m->world * sizeof(step->rank[0]));
        if (!step || rt_map_put_ptr(&gather->steps, m->step, step) != 0) {
            rt_free(step);
            return RT_FAIL(RT_ENOMEM, "no memory for a step of %u ranks", m->world);
        }
        step->number = m->step;
        step->attempt = m->attempt;
        step->world = m->world;
    }
    *out = step;
    return 0;
}

int ebs_gather_skip(struct ebs_gather *gather, const struct ebs_part *part)
{
    struct step *step;
    int err = step_of(gather, &part->m, &step);

    if (!err && !step->rank[part->m.rank].batch)
        step->rank[part->m.rank].skipped = true;
    return err;
}

static int enter_step(struct ebs_gather *gather, struct ebs_batch *batch,
                      const struct ebs_part *part)
{
    struct step *step;
    struct ebs_batch *other;
    int err = step_of(gather, &part->m, &step);

    if (err)
        return err;
    other = step->rank[batch->rank].batch;
    if (other && other != batch)
        batch_free(gather, other, RT_EUNKNOWN, "another batch took its place in its step");
    step->rank[batch->rank].batch = batch;
    step->rank[batch->rank].skipped = false;
    return 0;
}

/* ---- parts ---- */

/* Of the batches that wait for parts. Those whose callers are gone make way; they come again if they still matter. */
static bool is_oldest(struct ebs_gather *gather, const struct ebs_batch *batch)
{
    uint64_t key, value;

    for (size_t at = 0; rt_map_next(&gather->batches, &at, &key, &value);) {
        struct ebs_batch *other = rt_map_get_ptr(&gather->batches, key);

        if (other->synchronous || other->number >= batch->number)
            continue;
        if (!is_abandoned(other))
            return false;
        batch_free(gather, other, RT_ECANCELED, "given up");
        at = 0; /* removal moves entries */
    }
    return true;
}

static int check_room(struct ebs_gather *gather, const struct ebs_batch *batch, size_t bytes)
{
    if (batch->synchronous || batch->parts == 1 || gather->bytes + bytes <= gather->bytes_max ||
        is_oldest(gather, batch))
        return 0;
    return RT_FAIL(RT_EFULL, "%zu bytes wait for the other parts of their batches, %zu may",
                   gather->bytes, gather->bytes_max);
}

/* Its bytes, to those that wait; or, less, from them. */
static void count_bytes(struct ebs_gather *gather, struct ebs_batch *batch,
                        const struct ebs_part *part, bool less)
{
    size_t bytes = part->payload ? part->payload->capacity : 0;

    bytes = less ? 0 - bytes : bytes;
    batch->bytes += bytes;
    gather->bytes += batch->synchronous ? 0 : bytes;
}

int ebs_gather_add(struct ebs_gather *gather, struct ebs_part *part)
{
    struct ebs_batch *batch = NULL;
    struct ebs_part *slot;
    int err;

    rt_assert(part->arena && part->m.part < part->m.parts && part->m.rank < part->m.world);
    err = batch_of(gather, part, &batch);
    if (err)
        return err;
    err = batch->synchronous
              ? enter_step(gather, batch, part)
              : check_room(gather, batch, part->payload ? part->payload->capacity : 0);
    if (err) {
        if (batch->arrived == 0)
            batch_free(gather, batch, RT_EUNKNOWN, "");
        return err;
    }
    slot = &batch->part[part->m.part];
    if (slot->arena) {
        fail_call(slot, RT_ECANCELED, "asked again");
        count_bytes(gather, batch, slot, true);
        ebs_part_release(slot);
        batch->arrived--;
    }
    *slot = *part;
    batch->arrived++;
    count_bytes(gather, batch, slot, false);
    return 0;
}

/* Hand over these batches, whose array becomes the ready set's; on an error it is freed and they stay. */
static int hand_over(struct ebs_gather *gather, struct ebs_batch **batch, size_t n_batches,
                     struct ebs_ready *out)
{
    size_t n = 0;

    for (size_t b = 0; b < n_batches; b++)
        n += batch[b]->parts;
    out->part = rt_try_calloc(n, sizeof(struct ebs_part *));
    if (!out->part) {
        rt_free(batch);
        return RT_FAIL(RT_ENOMEM, "no memory to apply %zu parts", n);
    }
    for (size_t b = 0; b < n_batches; b++) {
        batch_take(gather, batch[b]);
        for (uint32_t i = 0; i < batch[b]->parts; i++)
            out->part[out->n++] = &batch[b]->part[i];
    }
    out->batch = batch;
    out->n_batches = n_batches;
    return 0;
}

static bool is_complete(const struct step *step)
{
    for (uint32_t r = 0; r < step->world; r++) {
        const struct ebs_batch *here = step->rank[r].batch;

        if (!step->rank[r].skipped && (!here || here->arrived < here->parts))
            return false;
    }
    return true;
}

int ebs_gather_ready(struct ebs_gather *gather, uint64_t batch_id, struct ebs_ready *out)
{
    struct ebs_batch *batch = rt_map_get_ptr(&gather->batches, batch_id), **one;

    *out = (struct ebs_ready){0};
    if (!batch || batch->arrived < batch->parts)
        return 0;
    one = rt_try_calloc(1, sizeof(struct ebs_batch *));
    if (!one)
        return RT_FAIL(RT_ENOMEM, "no memory to apply a batch");
    *one = batch;
    return hand_over(gather, one, 1, out);
}

static struct ebs_batch *first_of(const struct step *step)
{
    for (uint32_t r = 0; r < step->world; r++)
        if (step->rank[r].batch)
            return step->rank[r].batch;
    return NULL;
}

int ebs_gather_step_ready(struct ebs_gather *gather, uint64_t number, struct ebs_ready *out)
{
    const struct step *step = rt_map_get_ptr(&gather->steps, number);
    struct ebs_batch **batch;
    size_t n = 0;
    int err = 0;

    *out = (struct ebs_ready){0};
    if (!step || !is_complete(step))
        return 0;
    *out = (struct ebs_ready){.whole_step = true, .step = step->number, .merge = step->world > 1};
    if (!first_of(step))
        return 0; /* all were applied before, and only the step's number is news */
    batch = rt_try_calloc(step->world, sizeof(struct ebs_batch *));
    if (!batch)
        err = RT_FAIL(RT_ENOMEM, "no memory to apply a step of %u ranks", step->world);
    for (uint32_t r = 0; r < step->world && !err; r++)
        if (step->rank[r].batch)
            batch[n++] = step->rank[r].batch;
    if (!err)
        err = hand_over(gather, batch, n, out);
    if (err) {
        batch_free(gather, first_of(step), err, rt_err_text());
        *out = (struct ebs_ready){0};
    }
    return err;
}

bool ebs_gather_first_step(const struct ebs_gather *gather, uint64_t through, uint64_t *number)
{
    uint64_t key, value;
    bool found = false;

    for (size_t at = 0; rt_map_next(&gather->steps, &at, &key, &value);) {
        if (key > through || (found && key > *number) ||
            !is_complete(rt_map_get_ptr(&gather->steps, key)))
            continue;
        *number = key;
        found = true;
    }
    return found;
}

/* Steps come in order: an older one that nobody stands in any more will not be completed. */
static void forget_steps_before(struct ebs_gather *gather, uint64_t number)
{
    uint64_t key, value;

    for (size_t at = 0; rt_map_next(&gather->steps, &at, &key, &value);) {
        struct step *step = rt_map_get_ptr(&gather->steps, key);
        bool empty = key < number;

        for (uint32_t r = 0; empty && r < step->world; r++)
            empty = !step->rank[r].batch;
        if (!empty)
            continue;
        step_free(gather, step);
        at = 0; /* removal moves entries */
    }
}

static void ready_release(struct ebs_ready *ready)
{
    rt_free(ready->part);
    rt_free(ready->batch);
    *ready = (struct ebs_ready){0};
}

void ebs_gather_finish(struct ebs_gather *gather, struct ebs_ready *ready, int err, const char *why)
{
    for (size_t b = 0; b < ready->n_batches; b++)
        batch_release(ready->batch[b], err, why);
    if (ready->whole_step)
        forget_steps_before(gather, ready->step + 1);
    ready_release(ready);
}

/* Its place may be another's by now, or gone with its step; then whoever was told the error comes with it anew. */
static bool take_back(struct ebs_gather *gather, struct ebs_batch *batch)
{
    struct step *step = rt_map_get_ptr(&gather->steps, batch->step);

    if (rt_map_get_ptr(&gather->batches, batch->id))
        return false;
    if (batch->synchronous && (!step || step->attempt != batch->attempt ||
                               step->world != batch->world || step->rank[batch->rank].batch))
        return false;
    if (rt_map_put_ptr(&gather->batches, batch->id, batch) != 0)
        return false;
    if (batch->synchronous)
        step->rank[batch->rank].batch = batch;
    gather->bytes += batch->synchronous ? 0 : batch->bytes;
    return true;
}

void ebs_gather_keep(struct ebs_gather *gather, struct ebs_ready *ready)
{
    for (size_t b = 0; b < ready->n_batches; b++)
        if (!take_back(gather, ready->batch[b]))
            batch_release(ready->batch[b], RT_ECANCELED, "its place was taken");
    ready_release(ready);
}
