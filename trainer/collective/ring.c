/* trainer/collective/ring.c -- all-reduce over TCP: every rank sends to the next, and hears from the one before.
 *
 * The vector is cut into grains of 1,024 elements, and grain g is of chunk g mod `world`. In turn t of the first world-1 turns a
 * rank sends chunk (rank - t) and adds what comes to chunk (rank - t - 1); then chunk (rank + 1) is the
 * whole sum, and in world-1 more turns the sums go round and are copied. 2(world-1)/world of the vector leave
 * each rank, whatever their number. A chunk's sum is made in one order and copied, so that all ranks end up
 * with the same bits.
 *
 * A bucket is so many elements of the vector, and goes round by itself: the turns of many are under way at once. Which rank an
 * element's sum begins at follows from its grain, whatever its bucket: the sums' bits do not depend on the buckets. (Cutting
 * each bucket into `world` equal chunks needs no grains, and gives other bits with other buckets from three ranks on.) Buckets
 * are begun from the last to the first, as they are ready: what a rank before us brings earlier waits. The first one,
 * begun last, has `world` flags behind its chunk 0: rank r adds 1 to flag r if it saw a value that is not finite.
 *
 * Links break. A chunk is kept until the next rank has acknowledged it and is sent again on the next
 * connection; a receiver knows each chunk by (operation, bucket, turn) and passes over what it has. So a
 * broken link costs a delay and nothing else, where NCCL would have to form the group again.
 * The rank before may be one operation ahead, never two (it needs our chunks); what comes early waits. */
#include "trainer/collective/collective.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/half.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/wire/step.h"

#include <inttypes.h>
#include <string.h>

#define GRAIN_ELEMENTS 1024u
#define AGAIN_NS       (5 * 1000000ull) /* the next rank is not in the group yet */
#define WIDEN_ELEMENTS 1024u            /* bfloat16 is widened so many at a time, to be added */

static const struct tr_collective_ops ring_ops;

struct ring;

struct sending {
    struct sending *next;
    struct ring *ring; /* NULL: given up, only the call still knows it */
    struct wire_reduce_chunk head;
    struct rt_buf *chunk;
    bool flying;
};

struct early {
    struct early *next;
    struct wire_reduce_chunk head;
    struct rt_buf *chunk;
};

struct ring {
    struct tr_collective base;
    struct tr_ring_conf conf;
    uint64_t group_epoch, operation; /* operation: the open one, or the latest */
    bool open;
    float *value;
    size_t n;
    uint32_t dtype; /* of what travels */
    uint32_t *turn; /* [buckets_max] that each bucket waits for */
    uint32_t n_buckets, buckets_max, buckets_left;
    uint32_t begun; /* buckets from this one on are */
    float *flag;    /* [world] */
    tr_reduced_fn done;
    void *arg;
    struct sending *first, **last; /* not acknowledged, in order */
    struct early *early;
    size_t n_early;
    uint8_t *nonfinite; /* [world] */
    struct rt_timer stall, again;
    uint64_t chunks, chunks_at_check; /* heard so far */
    struct rt_arena *scratch;
    struct wire_out out;
};

static uint32_t turns(const struct ring *ring)
{
    return 2 * (ring->conf.world - 1);
}

/* ---- sending ---- */

static void try_send(struct ring *ring, struct sending *s);

static void forget_sending(struct ring *ring, struct sending *s)
{
    struct sending **at = &ring->first;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    if (ring->last == &s->next)
        ring->last = at;
    rt_buf_unref(s->chunk);
    rt_free(s);
}

static void send_all(void *arg)
{
    struct ring *ring = arg;
    for (struct sending *s = ring->first; s; s = s->next)
        try_send(ring, s);
}

static void finish(struct ring *ring, int err);

static void on_sent(void *arg, int err, const struct rt_frame *reply)
{
    struct sending *s = arg;
    struct ring *ring = s->ring;
    (void)reply;
    if (!ring) {
        rt_buf_unref(s->chunk);
        rt_free(s);
        return;
    }
    s->flying = false;
    if (!err) {
        forget_sending(ring, s);
    } else if (err == RT_ENOTREADY || err == RT_EFULL) {
        ring->again.fire = send_all;
        ring->again.arg = ring;
        rt_timer_start(ring->conf.io, &ring->again, AGAIN_NS);
    } else if (err == RT_EPROTO) {
        rt_log(RT_LOG_WARN, "chunk_refused error=\"%s\"", rt_err_text());
    } else if (err == RT_EUSAGE && ring->open) { /* the next rank has no ring */
        finish(ring, err);
    } /* else the link broke: tr_ring_peer_up. Or the group has formed again without us: then we hear of it. */
}

static void try_send(struct ring *ring, struct sending *s)
{
    if (s->flying || wire_reduce_chunk_pack(&s->head, &ring->out) != 0)
        return;
    struct rt_piece piece = {.buf = s->chunk};
    if (s->chunk) {
        piece.data = s->chunk->data;
        piece.size = s->chunk->size;
    }
    struct rt_outgoing out = {.message = ring->out.data,
                              .message_size = ring->out.size,
                              .pieces = &piece,
                              .n_pieces = s->chunk ? 1 : 0};
    s->flying = rt_rpc_call(ring->conf.next, WIRE_REDUCE_CHUNK, &out, 0, on_sent, s) == 0;
    RT_FAILPOINT("P7.reducing");
}

/* The elements of a chunk, piece by piece in their order, and at the end of bucket 0's chunk 0 the flags. */
struct walk {
    size_t begin, end; /* of the bucket */
    size_t grain;      /* the next one */
    bool flags;        /* are to come */
    float *value;      /* the piece: */
    size_t n;
};

static struct walk walk_chunk(const struct ring *ring, uint32_t b, uint32_t chunk)
{
    uint32_t world = ring->conf.world;
    size_t begin = b * ring->base.bucket, left = ring->n - begin;
    size_t grain = begin / ring->conf.grain;
    return (struct walk){
        .begin = begin,
        .end = begin + (left < ring->base.bucket ? left : ring->base.bucket),
        .grain = grain + (chunk + world - grain % world) % world,
        .flags = b == 0 && chunk == 0,
    };
}

static bool next_piece(const struct ring *ring, struct walk *walk)
{
    size_t at = walk->grain * ring->conf.grain, end = at + ring->conf.grain;
    if (at < walk->end) {
        at = at > walk->begin ? at : walk->begin;
        walk->value = ring->value + at;
        walk->n = (end < walk->end ? end : walk->end) - at;
        walk->grain += ring->conf.world;
        return true;
    }
    walk->value = ring->flag;
    walk->n = walk->flags ? ring->conf.world : 0;
    walk->flags = false;
    return walk->n > 0;
}

static size_t elements_of(const struct ring *ring, uint32_t b, uint32_t chunk)
{
    struct walk walk = walk_chunk(ring, b, chunk);
    size_t n = 0;
    while (next_piece(ring, &walk))
        n += walk.n;
    return n;
}

static uint32_t chunk_sent(const struct ring *ring, uint32_t turn)
{
    return (ring->conf.rank + 2 * ring->conf.world - turn) % ring->conf.world;
}

static uint32_t chunk_heard(const struct ring *ring, uint32_t turn)
{
    return (ring->conf.rank + 2 * ring->conf.world - turn - 1) % ring->conf.world;
}

/* The sum of a chunk is complete at the rank that sends it first: it takes what it sends, as all others will. */
static void fill_chunk(const struct ring *ring, uint32_t b, struct rt_buf *chunk)
{
    uint32_t turn = ring->turn[b];
    bool takes = turn == ring->conf.world - 1 && ring->dtype != RT_DTYPE_F32;
    struct walk walk = walk_chunk(ring, b, chunk_sent(ring, turn));
    chunk->size = 0;
    while (next_piece(ring, &walk)) {
        uint8_t *to = chunk->data + chunk->size;
        rt_narrow(ring->dtype, walk.value, to, walk.n);
        if (takes)
            rt_widen(ring->dtype, to, walk.value, walk.n);
        chunk->size += walk.n * wire_dtype_size(ring->dtype);
    }
}

static int send_turn(struct ring *ring, uint32_t b)
{
    size_t n = elements_of(ring, b, chunk_sent(ring, ring->turn[b]));
    struct rt_buf *chunk = NULL;
    if (n > 0) {
        chunk = rt_io_buf(ring->conf.io, n * wire_dtype_size(ring->dtype));
        if (!chunk)
            return RT_FAIL(RT_ELIMIT, "no payload memory for a chunk of %zu elements", n);
        fill_chunk(ring, b, chunk);
    }
    struct sending *s = rt_xcalloc(1, sizeof *s);
    *s = (struct sending){.ring = ring, .chunk = chunk};
    s->head = (struct wire_reduce_chunk){.group_epoch = ring->group_epoch,
                                         .operation = ring->operation,
                                         .bucket = b,
                                         .turn = ring->turn[b],
                                         .count = (uint32_t)n,
                                         .dtype = ring->dtype};
    *ring->last = s;
    ring->last = &s->next;
    try_send(ring, s);
    return 0;
}

/* ---- the open operation ---- */

static void finish(struct ring *ring, int err)
{
    rt_timer_stop(ring->conf.io, &ring->stall);
    ring->open = false;
    for (uint32_t r = 0; r < ring->conf.world && !err; r++)
        ring->nonfinite[r] = ring->flag[r] != 0;
    ring->done(ring->arg, err, err ? NULL : ring->nonfinite);
}

static void add_chunk(uint32_t dtype, float *restrict to, const uint8_t *from, size_t n)
{
    float wide[WIDEN_ELEMENTS];
    for (size_t at = 0; at < n; at += WIDEN_ELEMENTS) {
        size_t some = n - at < WIDEN_ELEMENTS ? n - at : WIDEN_ELEMENTS;
        rt_widen(dtype, from + at * wire_dtype_size(dtype), wide, some);
        for (size_t i = 0; i < some; i++)
            to[at + i] += wide[i];
    }
}

/* The chunk that its bucket waits for. */
static int take(struct ring *ring, const struct wire_reduce_chunk *head, const uint8_t *from)
{
    struct walk walk = walk_chunk(ring, head->bucket, chunk_heard(ring, head->turn));
    rt_assert(head->turn == ring->turn[head->bucket]);
    while (next_piece(ring, &walk)) {
        if (head->turn < ring->conf.world - 1)
            add_chunk(ring->dtype, walk.value, from, walk.n);
        else
            rt_widen(ring->dtype, from, walk.value, walk.n);
        from += walk.n * wire_dtype_size(ring->dtype);
    }
    ring->chunks++;
    ring->turn[head->bucket]++;
    if (ring->turn[head->bucket] < turns(ring))
        return send_turn(ring, head->bucket);
    ring->buckets_left--;
    return 0;
}

static struct early **find_early(struct ring *ring, uint64_t operation, uint32_t bucket,
                                 uint32_t turn)
{
    struct early **at = &ring->early;
    while (*at && ((*at)->head.operation != operation || (*at)->head.bucket != bucket ||
                   (*at)->head.turn != turn))
        at = &(*at)->next;
    return at;
}

static void forget_early(struct ring *ring, struct early **at)
{
    struct early *e = *at;
    *at = e->next;
    ring->n_early--;
    rt_buf_unref(e->chunk);
    rt_free(e);
}

/* Of the open operation: does it fit? */
static int check_chunk(const struct ring *ring, const struct wire_reduce_chunk *head)
{
    if (head->bucket >= ring->n_buckets || head->turn >= turns(ring))
        return RT_FAIL(RT_EPROTO, "ReduceChunk: bucket %u turn %u, expected below %u and %u",
                       head->bucket, head->turn, ring->n_buckets, turns(ring));
    size_t n = elements_of(ring, head->bucket, chunk_heard(ring, head->turn));
    if (head->count != n)
        return RT_FAIL(RT_EPROTO, "ReduceChunk: bucket %u turn %u: expected %zu elements, got %u",
                       head->bucket, head->turn, n, head->count);
    if (head->dtype != ring->dtype)
        return RT_FAIL(RT_EPROTO, "ReduceChunk: bucket %u turn %u: expected dtype %u, got %u",
                       head->bucket, head->turn, ring->dtype, head->dtype);
    return 0;
}

/* Use what came early, as far as it goes. */
static int drain(struct ring *ring, uint32_t b)
{
    struct early **at;
    int err = 0;
    while (!err && b >= ring->begun && ring->turn[b] < turns(ring) &&
           *(at = find_early(ring, ring->operation, b, ring->turn[b]))) {
        err = check_chunk(ring, &(*at)->head);
        if (!err)
            err = take(ring, &(*at)->head, (*at)->chunk ? (*at)->chunk->data : NULL);
        forget_early(ring, at);
    }
    return err;
}

static void on_stall(void *arg)
{
    struct ring *ring = arg;
    if (ring->chunks == ring->chunks_at_check) {
        rt_fail(RT_EDEADLINE, "the all-reduce has made no progress for %" PRIu64 " s",
                ring->conf.stall_ns / 1000000000);
        finish(ring, RT_EDEADLINE);
        return;
    }
    ring->chunks_at_check = ring->chunks;
    rt_timer_start(ring->conf.io, &ring->stall, ring->conf.stall_ns);
}

static void begin(struct tr_collective *collective, float *value, size_t n, uint32_t dtype,
                  tr_reduced_fn done, void *arg)
{
    struct ring *ring = (struct ring *)collective;
    rt_assert(!ring->open && n <= ring->conf.n_max);
    rt_assert(dtype == RT_DTYPE_F32 || dtype == RT_DTYPE_BF16);
    ring->dtype = dtype;
    ring->open = true;
    ring->operation++;
    ring->value = value;
    ring->n = n;
    ring->done = done;
    ring->arg = arg;
    ring->n_buckets = n > 0 ? (uint32_t)((n - 1) / ring->base.bucket + 1) : 1;
    ring->begun = ring->buckets_left = ring->n_buckets;
    memset(ring->turn, 0, ring->n_buckets * sizeof *ring->turn);
    for (struct early **at = &ring->early; *at;) { /* fitted nowhere */
        if ((*at)->head.operation < ring->operation)
            forget_early(ring, at);
        else
            at = &(*at)->next;
    }
}

/* Those from `first` on; all that can be sent at once is, before what came early is added. */
static void begin_buckets(struct ring *ring, uint32_t first)
{
    uint32_t before = ring->begun;
    int err = 0;
    while (ring->begun > first && !err)
        err = send_turn(ring, --ring->begun);
    for (uint32_t b = before; b-- > first && !err;)
        err = drain(ring, b);
    if (err || ring->buckets_left == 0)
        finish(ring, err);
}

/* The first bucket goes with the flags. */
static void ready(struct tr_collective *collective, size_t from)
{
    struct ring *ring = (struct ring *)collective;
    size_t first = (from + collective->bucket - 1) / collective->bucket;
    if (ring->open)
        begin_buckets(ring, first > 1 ? (uint32_t)first : 1);
}

static void complete(struct tr_collective *collective, bool nonfinite)
{
    struct ring *ring = (struct ring *)collective;
    rt_assert(ring->open && ring->begun > 0);
    for (uint32_t r = 0; r < ring->conf.world; r++)
        ring->flag[r] = r == ring->conf.rank && nonfinite;
    ring->chunks_at_check = ring->chunks;
    ring->stall.fire = on_stall;
    ring->stall.arg = ring;
    rt_timer_start(ring->conf.io, &ring->stall, ring->conf.stall_ns);
    begin_buckets(ring, 0);
}

/* ---- hearing ---- */

static int keep_early(struct ring *ring, const struct wire_reduce_chunk *head,
                      struct rt_buf *payload)
{
    if (*find_early(ring, head->operation, head->bucket, head->turn))
        return 0;
    if (ring->n_early >= (size_t)2 * ring->buckets_max * turns(ring))
        return RT_FAIL(RT_EPROTO, "ReduceChunk: %zu chunks wait already", ring->n_early);
    struct early *e = rt_xcalloc(1, sizeof *e);
    *e = (struct early){
        .next = ring->early, .head = *head, .chunk = payload ? rt_buf_ref(payload) : NULL};
    ring->early = e;
    ring->n_early++;
    return 0;
}

static int hear(struct ring *ring, const struct wire_reduce_chunk *head, struct rt_buf *payload)
{
    size_t bytes = payload ? payload->size : 0;
    if (bytes != head->count * wire_dtype_size(head->dtype))
        return RT_FAIL(RT_EPROTO, "ReduceChunk: %zu bytes for %u elements", bytes, head->count);
    if (head->group_epoch != ring->group_epoch)
        return RT_FAIL(head->group_epoch > ring->group_epoch ? RT_ENOTREADY : RT_ESTALE,
                       "ReduceChunk of group epoch %" PRIu64 ", this rank is in %" PRIu64,
                       head->group_epoch, ring->group_epoch);
    if (head->operation < ring->operation || (head->operation == ring->operation && !ring->open))
        return 0; /* sent again, and not needed */
    if (head->operation > ring->operation + 1)
        return RT_FAIL(RT_EPROTO, "ReduceChunk of operation %" PRIu64 ", this rank is at %" PRIu64,
                       head->operation, ring->operation);
    if (head->operation != ring->operation)
        return keep_early(ring, head, payload);
    int err = check_chunk(ring, head);
    if (err || head->turn < ring->turn[head->bucket])
        return err;
    return keep_early(ring, head, payload);
}

void tr_ring_serve(struct tr_collective *collective, struct rt_call *call,
                   const struct rt_frame *request)
{
    struct ring *ring = (struct ring *)collective;
    struct wire_reduce_chunk head;
    if (collective->ops != &ring_ops) {
        rt_call_fail(
            call, RT_EUSAGE,
            "ReduceChunk: this trainer sums by NCCL, the one before it by the ring: expected a "
            "GPU for all trainers, or global.trainer.collective=ring");
        return;
    }
    rt_arena_reset(ring->scratch);
    int err = wire_reduce_chunk_unpack(request->message, request->header.message_size,
                                       ring->scratch, &head);
    uint32_t before = (ring->conf.rank + ring->conf.world - 1) % ring->conf.world;
    if (!err && rt_call_from(call)->index != before)
        err = RT_FAIL(RT_EPROTO, "ReduceChunk of rank %u, expected rank %u",
                      rt_call_from(call)->index, before);
    if (!err)
        err = hear(ring, &head, request->payload);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    if (!ring->open || head.operation != ring->operation)
        return;
    err = drain(ring, head.bucket);
    if (err || ring->buckets_left == 0)
        finish(ring, err);
}

void tr_ring_peer_up(struct tr_collective *collective)
{
    if (collective->ops == &ring_ops)
        send_all(collective);
}

/* ---- life ---- */

static void forget_all(struct ring *ring)
{
    while (ring->early)
        forget_early(ring, &ring->early);
    while (ring->first) {
        struct sending *s = ring->first;
        ring->first = s->next;
        s->ring = NULL;
        if (!s->flying)
            on_sent(s, RT_ECANCELED, NULL);
    }
    ring->last = &ring->first;
    rt_timer_stop(ring->conf.io, &ring->again);
}

static void abort_open(struct tr_collective *collective)
{
    struct ring *ring = (struct ring *)collective;
    forget_all(ring);
    if (ring->open) {
        rt_fail(RT_ECANCELED, "the all-reduce was given up");
        finish(ring, RT_ECANCELED);
    }
}

static void form(struct tr_collective *collective, uint64_t group_epoch)
{
    struct ring *ring = (struct ring *)collective;
    rt_assert(!ring->open && group_epoch > ring->group_epoch);
    forget_all(ring);
    ring->group_epoch = group_epoch;
    ring->operation = 0;
}

static void destroy(struct tr_collective *collective)
{
    struct ring *ring = (struct ring *)collective;
    forget_all(ring);
    rt_timer_stop(ring->conf.io, &ring->stall);
    rt_arena_destroy(ring->scratch);
    wire_out_release(&ring->out);
    rt_free(ring->turn);
    rt_free(ring->flag);
    rt_free(ring->nonfinite);
    rt_free(ring);
}

static const struct tr_collective_ops ring_ops = {"ring",     begin, ready,  complete,
                                                  abort_open, form,  destroy};

int tr_collective_ring(const struct tr_ring_conf *conf, struct tr_collective **out)
{
    struct ring *ring = rt_xcalloc(1, sizeof *ring);
    rt_assert(conf->world >= 2 && conf->rank < conf->world && conf->bucket > 0);
    size_t least = conf->n_max / WIRE_BUCKETS_MAX + 1; /* all ranks find the same */
    ring->base.ops = &ring_ops;
    ring->base.bucket = conf->bucket > least ? conf->bucket : least;
    ring->conf = *conf;
    ring->last = &ring->first;
    if (ring->conf.grain == 0)
        ring->conf.grain = GRAIN_ELEMENTS;
    if (ring->conf.stall_ns == 0)
        ring->conf.stall_ns = TR_STALL_NS;
    size_t buckets = conf->n_max / ring->base.bucket + 1;
    ring->buckets_max = (uint32_t)buckets;
    ring->turn = rt_try_calloc(buckets, sizeof *ring->turn);
    ring->flag = rt_try_calloc(conf->world, sizeof *ring->flag);
    ring->nonfinite = rt_try_calloc(conf->world, 1);
    int err = rt_arena_create(1 << 16, &ring->scratch);
    if (!err && (!ring->turn || !ring->flag || !ring->nonfinite))
        err = RT_FAIL(RT_ENOMEM, "no memory for a ring of %u ranks over %zu elements", conf->world,
                      conf->n_max);
    if (err) {
        destroy(&ring->base);
        return err;
    }
    *out = &ring->base;
    return 0;
}
