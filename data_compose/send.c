/* data_compose/send.c -- open batches on their way: PutBatch, then TrainBatch, until the outcome.
 *
 * A batch is held from the moment it is made until the trainer says what became of it; so whatever is lost on
 * the way, it is put and sent again, with the next attempt's number. Batches wait for their peers as states,
 * not as calls: dc_send_pump() goes through the open ones (a few per rank) and starts what can be started. A
 * batch goes to the loops of the middleware in turn; one that comes again goes where it was if that
 * loop is up, because what it holds is then still of use. */
#include "data_compose/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"

#include <inttypes.h>

#define ARENA_BYTES (64u << 10)

/* ---- the list ---- */

static void count_open(struct dc_composer *c, int by)
{
    c->n_open = (uint32_t)((int)c->n_open + by);
    atomic_store_explicit(&c->batches_open, c->n_open, memory_order_relaxed);
}

static void append(struct dc_composer *c, struct dc_open *o)
{
    o->prev = c->last;
    if (c->last)
        c->last->next = o;
    else
        c->first = o;
    c->last = o;
    c->rank[o->rank].open[o->evaluate]++;
    count_open(c, 1);
}

/* Take it out of the list; the object stays for a call that may still be out. */
static void forget(struct dc_open *o)
{
    struct dc_composer *c = o->composer;

    if (o->prev)
        o->prev->next = o->next;
    else
        c->first = o->next;
    if (o->next)
        o->next->prev = o->prev;
    else
        c->last = o->prev;
    c->rank[o->rank].open[o->evaluate]--;
    count_open(c, -1);
}

static void release(struct dc_open *o)
{
    dc_batch_destroy(o->batch);
    o->next = o->composer->idle;
    o->composer->idle = o;
}

static struct dc_open *take_idle(struct dc_composer *c)
{
    struct dc_open *o = c->idle;

    if (o)
        c->idle = o->next;
    else
        o = rt_xmalloc(sizeof(*o));
    *o = (struct dc_open){.composer = c};
    return o;
}

int dc_send_init(struct dc_composer *composer)
{
    return rt_arena_create(ARENA_BYTES, &composer->answer);
}

void dc_send_release(struct dc_composer *composer)
{
    struct dc_open *next;

    rt_assert(!composer->first);
    for (struct dc_open *o = composer->idle; o; o = next) {
        next = o->next;
        rt_free(o);
    }
    dc_batch_pool_release(&composer->batches);
    rt_arena_destroy(composer->answer);
}

/* Room at its rank, and no batch of its split is stuck so far behind that this one would pass out of what ledger
 * and filters tell apart. */
static bool may_open(const struct dc_composer *c, const struct dc_open *o)
{
    if (c->rank[o->rank].open[o->evaluate] >= c->job->data.window)
        return false;
    for (const struct dc_open *p = c->first; p; p = p->next)
        if (rt_batch_split(p->batch->id) == rt_batch_split(o->batch->id) &&
            rt_batch_sequence(o->batch->id) - rt_batch_sequence(p->batch->id) >= RT_OPEN_MAX)
            return false;
    return true;
}

static void open_held(struct dc_composer *c)
{
    struct dc_pass *pass = dc_pass_now(c);
    struct dc_open *o = pass->held;

    if (!o || !may_open(c, o))
        return;
    pass->held = NULL;
    append(c, o);
}

void dc_send_open(struct dc_composer *composer, struct dc_batch *batch)
{
    struct dc_open *o = take_idle(composer);

    rt_assert(!dc_pass_now(composer)->held);
    o->batch = batch;
    o->rank = rt_batch_rank(batch->id, composer->world);
    o->attempt = 1;
    o->evaluate = composer->evaluate;
    o->epoch = composer->epoch;
    dc_pass_now(composer)->held = o;
    open_held(composer);
}

bool dc_send_room(struct dc_composer *composer)
{
    if (dc_pass_now(composer)->held)
        return false;
    for (uint32_t r = 0; r < composer->world; r++)
        if (composer->rank[r].open[composer->evaluate] < composer->job->data.window)
            return true;
    return false;
}

void dc_send_drop(struct dc_composer *composer, bool evaluate)
{
    struct dc_pass *pass = &composer->pass[evaluate];
    struct dc_open *next;

    for (struct dc_open *o = composer->first; o; o = next) {
        next = o->next;
        if (o->evaluate != evaluate)
            continue;
        forget(o);
        o->dropped = true;
        if (o->state == DC_PUT_NEXT || o->state == DC_TRAIN_NEXT)
            release(o);
    }
    if (pass->held)
        release(pass->held);
    pass->held = NULL;
}

/* ---- outcomes ---- */

/* Once more from the start, after a pause. */
static void again(struct dc_open *o, enum dc_open_state state)
{
    o->state = state;
    o->not_before_ns = rt_io_now(o->composer->io) + DC_PAUSE_NS;
    dc_pause(o->composer);
}

/* Errors that the next try may not have. */
static bool passing(int err)
{
    return err == RT_EPEER || err == RT_EDEADLINE || err == RT_ECANCELED || err == RT_EFULL ||
           err == RT_EUNKNOWN || err == RT_ENOTREADY || err == RT_ESTALE;
}

static void refuse(struct dc_open *o, const char *what, const struct rt_peer *peer, int err)
{
    dc_fail(o->composer, rt_fail_prefix(err, "%s of batch %016" PRIx64 " at %s: ", what,
                                        o->batch->id, peer ? rt_peer_name(peer) : "nowhere"));
}

/* The answer comes after the batch, or the composer, was given up. */
static bool is_over(struct dc_open *o)
{
    if (o->dropped)
        release(o);
    else if (o->composer->destroying)
        o->state = DC_PUT_NEXT;
    else
        return false;
    return true;
}

static void on_put(void *arg, int err, const struct rt_frame *reply)
{
    struct dc_open *o = arg;
    struct dc_composer *c = o->composer;

    (void)reply;
    if (is_over(o))
        return;
    if (err && !passing(err)) {
        o->state = DC_PUT_NEXT;
        refuse(o, "PutBatch", o->middleware, err);
        return;
    }
    if (err) {
        if (err == RT_EFULL)
            o->middleware = NULL; /* another loop may have room */
        again(o, DC_PUT_NEXT);
    } else {
        RT_FAILPOINT("P3.before_train");
        o->state = DC_TRAIN_NEXT;
    }
    dc_pump(c);
}

static void close_batch(struct dc_open *o, const struct wire_train_batch_reply *reply)
{
    struct dc_composer *c = o->composer;

    RT_FAILPOINT("P10.outcome");
    if (reply->outcome == WIRE_DROPPED) {
        char reason[WIRE_TEXT_MAX + 1];
        rt_log(RT_LOG_WARN, "batch_dropped batch=%016" PRIx64 " samples=%u reason=\"%s\"",
               o->batch->id, o->batch->samples,
               rt_log_escape(reply->reason, reason, sizeof(reason)));
    }
    atomic_fetch_add_explicit(&c->batches_done, 1, memory_order_relaxed);
    rt_histogram_observe(&c->batch_seconds, RT_HISTOGRAM_SECONDS, rt_io_now(c->io) - o->put_ns);
    c->pool_full = false;
    if (!o->evaluate)
        dc_recall_add(c, o->batch->id);
    forget(o);
    release(o);
}

/* What is lost on the way is not the batch's fault, however often it is. */
static void retry(struct dc_open *o, bool failed)
{
    atomic_fetch_add_explicit(&o->composer->batches_retried, 1, memory_order_relaxed);
    o->attempt += failed;
    again(o, DC_PUT_NEXT);
}

static int read_outcome(const struct rt_frame *reply, struct rt_arena *arena,
                        struct wire_train_batch_reply *out)
{
    return wire_train_batch_reply_unpack(reply->message, reply->header.message_size, arena, out);
}

static void on_train(void *arg, int err, const struct rt_frame *reply)
{
    struct dc_open *o = arg;
    struct dc_composer *c = o->composer;
    struct wire_train_batch_reply outcome;

    if (is_over(o))
        return;
    o->state = DC_PUT_NEXT; /* no call is out */
    rt_arena_reset(c->answer);
    if (!err)
        err = read_outcome(reply, c->answer, &outcome);
    if (err && passing(err))
        retry(o, false);
    else if (err)
        refuse(o, "TrainBatch", c->rank[o->rank].peer, err);
    else if (outcome.outcome == WIRE_RETRY)
        retry(o, outcome.failed);
    else
        close_batch(o, &outcome);
    dc_pump(c);
}

/* ---- on the way ---- */

/* Where the batch was, if that loop is up; else the next one that is. NULL: none is. */
static struct rt_peer *pick_middleware(struct dc_composer *c, struct rt_peer *before)
{
    if (before && rt_peer_is_up(before))
        return before;
    for (uint32_t i = 0; i < c->n_middlewares; i++) {
        struct rt_peer *peer = c->middleware[c->next_middleware++ % c->n_middlewares];
        if (rt_peer_is_up(peer))
            return peer;
    }
    return NULL;
}

/* No batch of its rank is open before it: the rank may be waiting for this one and no other. */
static bool is_first(const struct dc_open *o)
{
    const struct dc_open *before = o->prev;

    while (before && before->rank != o->rank)
        before = before->prev;
    return !before;
}

static int put(struct dc_open *o)
{
    struct dc_composer *c = o->composer;
    const struct dc_batch *b = o->batch;
    struct rt_peer *peer = pick_middleware(c, o->middleware);
    struct wire_put_batch message = {
        .samples = b->samples,
        .rank = o->rank,
        .evaluate = o->evaluate,
        .digest = b->digest,
        .n_features = c->job->n_features,
        .n_ids = b->n_ids,
        .layout = b->layout,
        .weighted = b->weighted,
        .composer_incarnation = c->conf.identity.incarnation,
        .world = c->world,
        .first = is_first(o),
    };
    struct rt_piece piece = {b->ids->data, b->ids->size, b->ids};

    if (!peer)
        return 0;
    int err = wire_put_batch_pack(&message, &c->out);
    if (err)
        return err;
    struct rt_outgoing out = {.batch_id = b->id,
                              .message = c->out.data,
                              .message_size = c->out.size,
                              .pieces = &piece,
                              .n_pieces = 1};
    o->middleware = peer;
    o->middleware_incarnation = rt_peer_incarnation(peer);
    RT_FAILPOINT("P2.before_put");
    err = rt_rpc_call(peer, WIRE_PUT_BATCH, &out, DC_PUT_DEADLINE_NS, on_put, o);
    if (!err)
        o->state = DC_PUTTING;
    if (!err && !o->put_ns)
        o->put_ns = rt_io_now(c->io);
    if (!err && !o->evaluate)
        atomic_fetch_add_explicit(&c->bytes_put, b->ids->size, memory_order_relaxed);
    return err;
}

static int train(struct dc_open *o)
{
    struct dc_composer *c = o->composer;
    const struct dc_batch *b = o->batch;
    struct wire_train_batch message = {
        .samples = b->samples,
        .n_dense = c->job->data.n_dense,
        .n_labels = c->job->data.n_labels,
        .weighted = c->job->data.weighted,
        .grouped = c->job->data.grouped,
        .key_bytes = b->key_bytes,
        .evaluate = o->evaluate,
        .middleware = rt_peer_index(o->middleware),
        .middleware_loop = rt_peer_loop(o->middleware),
        .middleware_incarnation = o->middleware_incarnation,
        .digest = b->digest,
        .epoch = o->epoch,
        .attempt = o->attempt,
        .has_before = b->has_before,
        .before = b->before,
        .has_turn_before = b->has_turn_before && dc_in_turns(c),
        .turn_before = b->turn_before,
    };
    struct rt_piece piece = {b->samples_payload->data, b->samples_payload->size,
                             b->samples_payload};

    if (!dc_rank_up(c, o->rank))
        return 0;
    if (rt_peer_incarnation(o->middleware) != o->middleware_incarnation) {
        again(o, DC_PUT_NEXT); /* restarted since: it has forgotten the batch */
        return 0;
    }
    int err = wire_train_batch_pack(&message, &c->out);
    if (err)
        return err;
    struct rt_outgoing out = {.batch_id = b->id,
                              .message = c->out.data,
                              .message_size = c->out.size,
                              .pieces = &piece,
                              .n_pieces = 1};
    err = rt_rpc_call(c->rank[o->rank].peer, WIRE_TRAIN_BATCH, &out, 0, on_train, o);
    if (!err) {
        RT_FAILPOINT("P3.after_train");
        o->state = DC_TRAINING;
        o->sent = true;
        c->rank[o->rank].nothing_told = false; /* the rank takes it back by this batch */
    }
    return err;
}

/* Put it or send it on, if its time has come. false: the composer has failed. */
static bool advance(struct dc_open *o, uint64_t now)
{
    int err;

    if (now < o->not_before_ns) {
        dc_pause(o->composer); /* the pause that is over began before this batch was refused */
        return true;
    }
    err = o->state == DC_PUT_NEXT ? put(o) : train(o);
    o->full = err == RT_EFULL; /* of the link: it need not wait for the pause (dc_send_drained) */
    if (o->full && o->state == DC_PUT_NEXT)
        o->middleware = NULL; /* another loop may have room */
    if (err && passing(err))
        again(o, o->state);
    else if (err)
        refuse(o, "sending", o->middleware, err);
    return !err || passing(err);
}

void dc_send_drained(struct dc_composer *composer)
{
    for (struct dc_open *o = composer->first; o; o = o->next)
        if (o->full)
            o->not_before_ns = 0;
}

void dc_send_pump(struct dc_composer *composer)
{
    uint64_t now = rt_io_now(composer->io), queue;

    open_held(composer);
    queue = dc_pass_now(composer)->held != NULL;
    for (struct dc_open *o = composer->first; o; o = o->next) {
        if ((o->state == DC_PUT_NEXT || o->state == DC_TRAIN_NEXT) && !advance(o, now))
            return;
        queue += o->state != DC_TRAINING;
    }
    atomic_store_explicit(&composer->queue, queue, memory_order_relaxed);
}
