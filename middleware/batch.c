/* middleware/batch.c -- the batches of a loop: found by id, kept in order of last touch, used again.
 *
 * A batch object and its arena are recycled; its large memory are buffers of the io's pool. Forgetting a
 * batch gives back its buffers and its promised bytes at once; the object itself stays while an
 * owner still has to answer for it, because that answer comes with a pointer to it. */
#include "middleware/batch.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <stdio.h>
#include <string.h>

#define ARENA_MAX ((size_t)1 << 30) /* lists by owner and table; reserved with the rest */

struct mw_batch *mw_batch_find(struct mw_loop *loop, uint64_t id)
{
    return rt_map_get_ptr(&loop->batches, id);
}

int mw_batch_new(struct mw_loop *loop, struct mw_batch **out)
{
    struct mw_batch *batch = loop->spare;
    struct rt_arena *arena;
    int err;

    if (batch) {
        loop->spare = batch->next;
        loop->n_spare--;
        arena = batch->arena;
    } else {
        batch = rt_try_malloc(sizeof(*batch));
        err =
            batch ? rt_arena_create(ARENA_MAX, &arena) : RT_FAIL(RT_ENOMEM, "batch: out of memory");
        if (err) {
            rt_free(batch);
            return err;
        }
    }
    *batch = (struct mw_batch){.loop = loop, .arena = arena};
    *out = batch;
    return 0;
}

void mw_batch_drop_buffers(struct mw_batch *batch)
{
    for (uint32_t i = 0; i < batch->n_parts; i++) {
        rt_buf_unref(batch->part[i].rows);
        batch->part[i].rows = NULL;
    }
    rt_buf_unref(batch->gradients);
    batch->gradients = NULL;
}

void mw_batch_free(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;

    rt_assert(batch->calls_out == 0 && batch->n_waiters == 0);
    mw_batch_drop_buffers(batch);
    rt_buf_unref(batch->held);
    if (loop->closing || loop->n_spare == MW_SPARE_MAX) {
        rt_arena_destroy(batch->arena);
        rt_free(batch);
        return;
    }
    rt_arena_reset(batch->arena);
    batch->next = loop->spare;
    loop->spare = batch;
    loop->n_spare++;
}

/* ---- the list ---- */

static void list_remove(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;

    *(batch->prev ? &batch->prev->next : &loop->oldest) = batch->next;
    *(batch->next ? &batch->next->prev : &loop->newest) = batch->prev;
}

static void list_append(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;

    batch->touched_ns = rt_io_now(loop->conf.io);
    batch->prev = loop->newest;
    batch->next = NULL;
    *(loop->newest ? &loop->newest->next : &loop->oldest) = batch;
    loop->newest = batch;
}

static void publish(struct mw_loop *loop)
{
    atomic_store_explicit(&loop->stats.batches_open, loop->batches.count, memory_order_relaxed);
    atomic_store_explicit(&loop->stats.bytes_reserved, loop->reserved, memory_order_relaxed);
}

size_t mw_reserved_of(const struct mw_loop *loop, uint32_t rank)
{
    uint64_t bytes = 0;

    rt_map_get(&loop->reserved_of, rank, &bytes);
    return bytes;
}

/* Bytes of a batch that is opened, or (less) forgotten. Only the first of a rank can fail: it needs an entry. */
static int count_reserved(struct mw_batch *batch, bool less)
{
    struct mw_loop *loop = batch->loop;
    size_t bytes = less ? 0 - batch->reserved : batch->reserved;
    size_t of_rank = mw_reserved_of(loop, batch->rank) + bytes;

    if (of_rank == 0)
        rt_map_remove(&loop->reserved_of, batch->rank);
    else if (rt_map_put(&loop->reserved_of, batch->rank, of_rank) != 0)
        return RT_ENOMEM;
    loop->reserved += bytes;
    publish(loop);
    return 0;
}

int mw_batch_open(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;
    int err = rt_map_put_ptr(&loop->batches, batch->id, batch);

    if (err)
        return err;
    err = count_reserved(batch, false);
    if (err) {
        rt_map_remove(&loop->batches, batch->id);
        return err;
    }
    list_append(batch);
    return 0;
}

void mw_batch_touch(struct mw_batch *batch)
{
    list_remove(batch);
    list_append(batch);
}

void mw_batch_forget(struct mw_batch *batch)
{
    struct mw_loop *loop = batch->loop;

    rt_assert(!batch->gone && batch->n_waiters == 0);
    rt_map_remove(&loop->batches, batch->id);
    list_remove(batch);
    (void)count_reserved(batch, true);
    batch->gone = true;
    if (batch->calls_out == 0) {
        mw_batch_free(batch);
        return;
    }
    mw_batch_drop_buffers(batch);
    rt_buf_unref(batch->held);
    batch->held = NULL;
}

/* ---- who waits ---- */

void mw_refuse(struct rt_call *call, int err)
{
    char text[WIRE_TEXT_MAX];

    snprintf(text, sizeof(text), "%s", rt_err_text());
    rt_call_fail(call, err, text);
}

void mw_wait(struct mw_batch *batch, struct rt_call *call, uint16_t method)
{
    if (batch->n_waiters == MW_WAITERS_MAX) {
        rt_call_fail(batch->waiter[0].call, RT_ENOTREADY, "asked again too often");
        batch->n_waiters--;
        memmove(batch->waiter, batch->waiter + 1, batch->n_waiters * sizeof(batch->waiter[0]));
    }
    batch->waiter[batch->n_waiters++] = (struct mw_waiter){call, method};
}

static void reply(struct mw_loop *loop, struct rt_call *call, const struct rt_outgoing *out)
{
    mw_count(&loop->stats.bytes_to_trainers, mw_frame_bytes(out));
    rt_call_reply(call, out);
}

void mw_answer(struct mw_batch *batch, uint16_t method, const struct rt_outgoing *out, int status,
               const char *text)
{
    uint32_t n = batch->n_waiters;

    batch->n_waiters = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct mw_waiter waiter = batch->waiter[i];

        if (method && waiter.method != method)
            batch->waiter[batch->n_waiters++] = waiter;
        else if (out)
            reply(batch->loop, waiter.call, out);
        else
            rt_call_fail(waiter.call, status, text);
    }
}

struct mw_batch *mw_batch_asked(struct mw_loop *loop, struct rt_call *call,
                                const struct rt_frame *request, uint64_t digest)
{
    uint64_t id = request->header.batch_id;
    struct mw_batch *batch = mw_batch_find(loop, id);

    if (!batch) {
        mw_count(&loop->stats.unknown, 1);
        mw_refuse(call,
                  RT_FAIL(RT_EUNKNOWN, "batch %016llx is not held here", (unsigned long long)id));
        return NULL;
    }
    if (batch->digest != digest) {
        mw_count(&loop->stats.digest_errors, 1);
        mw_refuse(call, RT_FAIL(RT_EDIGEST,
                                "batch %016llx: the ids held have digest %016llx, got %016llx",
                                (unsigned long long)id, (unsigned long long)batch->digest,
                                (unsigned long long)digest));
        return NULL;
    }
    return batch;
}

/* ---- its rows ---- */

struct mw_bags mw_batch_bags(const struct mw_batch *batch, uint32_t feature)
{
    const struct rt_job *job = batch->loop->conf.job;
    const struct rt_feature_conf *conf = &job->feature[feature];
    const struct mw_feature *of = &batch->feature[feature];

    if (rt_feature_is_sequence(job, feature))
        return (struct mw_bags){.samples = of->n_rows,
                                .slot = of->row,
                                .pooling = RT_POOL_SUM,
                                .dim = job->table[conf->table].dim};
    return (struct mw_bags){
        .samples = batch->samples,
        .length = of->length,
        .slot = of->slot,
        .weight = of->weight,
        .pooling = (enum rt_pooling)conf->pooling,
        .dim = job->table[conf->table].dim,
    };
}

/* Lists are short and asked in growing order, but a part has no memory of the last question; halving finds it. */
uint32_t mw_part_table(const struct mw_part *part, uint32_t table)
{
    uint32_t low = 0, high = part->n_tables;

    while (low < high) {
        uint32_t middle = (low + high) / 2;

        if (part->table[middle] < table)
            low = middle + 1;
        else
            high = middle;
    }
    return low < part->n_tables && part->table[low] == table ? low : part->n_tables;
}

void **mw_batch_rows(struct mw_batch *batch, uint32_t table, size_t size)
{
    struct mw_loop *loop = batch->loop;
    size_t stride = loop->conf.job->table[table].dim * size, position = 0;

    for (uint32_t k = 0; k < batch->n_parts; k++) {
        const struct mw_part *part = &batch->part[k];
        uint32_t at = mw_part_table(part, table);

        if (at == part->n_tables)
            continue;
        for (uint32_t i = 0; i < part->n_ids[at]; i++)
            loop->scratch.row[position++] = (char *)part->row[at] + i * stride;
    }
    rt_assert(position == batch->distinct[table]);
    return loop->scratch.row;
}
