/* middleware/fanout.c -- one request for each part of a batch, and again, until all are answered.
 *
 *   part: NONE   WAIT -send_part-> SENT -on_reply-> DONE
 *                ^-------- lost or busy --'          (mw_fanout_begin puts all at WAIT)
 *
 * An owner that is lost leaves its parts at WAIT: mw_fanout_resend sends them when the owner is up again, and
 * the other owners keep what they did. One that was started anew gets again what it had acked of a batch that it
 * has not acked whole, and in `full` of any (mw_fanout_repeat). An owner that is busy is asked again after
 * MW_RETRY_NS. Any other error ends the fan-out when the rest of it has answered (settle).
 *
 * A fan-out may be begun anew or given up while requests of it are out: an owner may hold one until a step
 * of the group that will never be made. So each request carries the number of its attempt, and the reply to
 * an earlier one is dropped. A forgotten batch is freed with the last reply of any attempt. */
#include "middleware/batch.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <stdio.h>

/* A request that is out. There are at most as many as were ever out at once. */
struct mw_ask {
    struct mw_part *part;
    uint32_t attempt;
    struct mw_ask *next;
};

static void on_reply(void *arg, int err, const struct rt_frame *reply);

static void keep_error(struct mw_batch *batch, int err)
{
    if (batch->err)
        return;
    batch->err = err;
    snprintf(batch->err_text, sizeof(batch->err_text), "%s", rt_err_text());
}

static bool comes_back(int err) /* ask again, as opposed to: it will never do */
{
    return err == RT_EPEER || err == RT_EDEADLINE || err == RT_EFULL || err == RT_ENOTREADY ||
           err == RT_ENOMEM || err == RT_ECANCELED || err == RT_ESTALE;
}

static void on_retry(void *arg)
{
    struct mw_loop *loop = arg;

    loop->retry_armed = false;
    mw_fanout_resend(loop, NULL);
}

static void retry_later(struct mw_loop *loop)
{
    if (loop->retry_armed || loop->closing)
        return;
    loop->retry_armed = true;
    loop->retry.fire = on_retry;
    loop->retry.arg = loop;
    rt_timer_start(loop->conf.io, &loop->retry, MW_RETRY_NS);
}

static struct mw_ask *take_ask(struct mw_loop *loop)
{
    struct mw_ask *ask = loop->asks;

    if (!ask)
        return rt_xmalloc(sizeof(*ask));
    loop->asks = ask->next;
    return ask;
}

static void give_ask(struct mw_loop *loop, struct mw_ask *ask)
{
    ask->next = loop->asks;
    loop->asks = ask;
}

void mw_fanout_release(struct mw_loop *loop)
{
    while (loop->asks) {
        struct mw_ask *ask = loop->asks;

        loop->asks = ask->next;
        rt_free(ask);
    }
}

static int call_owner(struct mw_part *part)
{
    struct mw_batch *batch = part->batch;
    struct mw_loop *loop = batch->loop;
    bool looking = batch->state == MW_LOOKING;
    struct rt_buf *buf = looking ? batch->held : batch->gradients;
    size_t at = looking ? part->ids_at : part->gradients_at;
    size_t size = looking ? part->ids_size : part->gradients_size;
    struct rt_piece piece = {size ? buf->data + at : NULL, size, size ? buf : NULL};
    struct rt_outgoing out = {.batch_id = batch->id, .pieces = &piece, .n_pieces = size ? 1 : 0};
    int err = looking ? mw_lookup_pack(part) : mw_push_pack(part);
    struct mw_ask *ask;

    if (err)
        return err;
    out.message = loop->out.data;
    out.message_size = loop->out.size;
    ask = take_ask(loop);
    *ask = (struct mw_ask){.part = part, .attempt = batch->attempt};
    err = rt_rpc_call(loop->owner[part->owner].peer,
                      looking ? WIRE_LOOKUP_ROWS : WIRE_APPLY_GRADIENTS, &out, MW_DEADLINE_NS,
                      on_reply, ask);
    if (err)
        give_ask(loop, ask);
    else
        mw_count(&loop->stats.bytes_to_owners, mw_frame_bytes(&out));
    return err;
}

static void send_part(struct mw_part *part)
{
    struct mw_batch *batch = part->batch;
    int err = call_owner(part);

    if (!err) {
        part->state = MW_PART_SENT;
        batch->parts_out++;
        batch->calls_out++;
    } else if (!comes_back(err)) {
        keep_error(batch, err);
    } else if (err != RT_EPEER) { /* no connection: mw_fanout_resend comes with the next one */
        retry_later(batch->loop);
    }
}

/* Nothing is out, and what was wanted has come, or cannot come. */
static void settle(struct mw_batch *batch)
{
    if (batch->parts_out)
        return;
    if (batch->err) {
        bool looking = batch->state == MW_LOOKING;

        mw_batch_drop_buffers(batch);
        batch->state = looking ? MW_HELD : MW_SERVED;
        mw_answer(batch, 0, NULL, batch->err, batch->err_text);
    } else if (batch->parts_left == 0) {
        (batch->state == MW_LOOKING ? mw_lookup_finish : mw_push_finish)(batch);
    }
}

static void answered(struct mw_part *part, int err, const struct rt_frame *reply)
{
    struct mw_batch *batch = part->batch;
    struct mw_loop *loop = batch->loop;

    rt_assert(part->state == MW_PART_SENT);
    part->state = MW_PART_WAIT;
    batch->parts_out--;
    if (!err) {
        err = batch->state == MW_LOOKING ? mw_lookup_take(part, reply) : mw_push_take(part, reply);
        if (err) {
            keep_error(batch, err); /* it answered, and wrongly: asking again gives the same */
        } else {
            part->state = MW_PART_DONE;
            batch->parts_left--;
        }
    } else {
        mw_count(&loop->stats.retries, 1);
        if (!comes_back(err))
            keep_error(batch, err);
        else if (rt_peer_is_up(loop->owner[part->owner].peer))
            retry_later(loop);
    }
    settle(batch);
}

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct mw_ask ask = *(struct mw_ask *)arg;
    struct mw_batch *batch = ask.part->batch;

    give_ask(batch->loop, arg);
    batch->calls_out--;
    if (batch->gone && batch->calls_out == 0)
        mw_batch_free(batch);
    else if (!batch->gone && !batch->loop->closing && ask.attempt == batch->attempt)
        answered(ask.part, err, reply);
}

void mw_fanout_abandon(struct mw_batch *batch)
{
    batch->attempt++;
    batch->parts_out = batch->parts_left = 0;
    batch->err = 0;
    for (uint32_t i = 0; i < batch->n_parts; i++)
        batch->part[i].state = MW_PART_NONE;
    mw_batch_drop_buffers(batch);
}

void mw_fanout_begin(struct mw_batch *batch, bool all)
{
    mw_batch_touch(batch);
    batch->attempt++;
    batch->err = 0;
    batch->parts_out = batch->parts_left = 0;
    for (uint32_t i = 0; i < batch->n_parts; i++) {
        struct mw_part *part = &batch->part[i];

        part->state = all || part->n_tables ? MW_PART_WAIT : MW_PART_NONE;
        batch->parts_left += part->state == MW_PART_WAIT;
        rt_buf_unref(part->rows);
        part->rows = NULL;
    }
    for (uint32_t i = 0; i < batch->n_parts && !batch->err; i++)
        if (batch->part[i].state == MW_PART_WAIT)
            send_part(&batch->part[i]);
    settle(batch);
}

/* Sending never calls back, so the list stands still but for a batch that ends here by an error. */
void mw_fanout_resend(struct mw_loop *loop, const struct mw_owner *owner)
{
    struct mw_batch *next;

    for (struct mw_batch *batch = loop->oldest; batch; batch = next) {
        bool busy = batch->state == MW_LOOKING || batch->state == MW_PUSHING;

        next = batch->next;
        if (!busy || batch->err)
            continue;
        for (uint32_t i = 0; i < batch->n_parts && !batch->err; i++) {
            const struct mw_owner *at = &loop->owner[batch->part[i].owner];

            if (batch->part[i].state == MW_PART_WAIT && (owner ? at == owner : at->up))
                send_part(&batch->part[i]);
        }
        if (batch->err)
            settle(batch);
    }
}

/* Of the batch's parts that an owner has, is one not acked? */
static bool is_owed(const struct mw_batch *batch, uint32_t owner)
{
    for (uint32_t i = 0; i < batch->n_parts; i++)
        if (batch->part[i].owner == owner && batch->part[i].state == MW_PART_WAIT)
            return true;
    return false;
}

/* Parts that are not acked wait there for all others of their batch. And in `full` other ranks' batches of the step may come
 * again, which wait for this one; in the other modes nobody does. */
void mw_fanout_repeat(struct mw_loop *loop, const struct mw_owner *owner)
{
    uint32_t number = (uint32_t)(owner - loop->owner);

    for (struct mw_batch *batch = loop->oldest; batch; batch = batch->next) {
        if (batch->state != MW_PUSHING || !(batch->push.synchronous || is_owed(batch, number)))
            continue;
        for (uint32_t i = 0; i < batch->n_parts; i++) {
            struct mw_part *part = &batch->part[i];

            if (part->owner != number || part->state != MW_PART_DONE)
                continue;
            part->state = MW_PART_WAIT;
            batch->parts_left++;
        }
    }
}
