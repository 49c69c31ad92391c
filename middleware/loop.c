/* middleware/loop.c -- one loop of the middleware: its connections, and the life of its batches.
 *
 *            mw_serve_put                mw_serve_lookup               mw_lookup_finish
 *   (none) --------------> HELD -----------------------> LOOKING --------------------> SERVED
 *                           |  ^ '-- settle, error --------'  |                          | ^
 *                           |  '------------------------------'                          | |
 *                           |          mw_serve_push                mw_serve_push        | |
 *                           '--------------------> PUSHING <-----------------------------' |
 *                                                    |  '---------- settle, error ---------'
 *                                                    '-- mw_push_finish --> forgotten
 *   SERVED -mw_serve_lookup-> LOOKING      a repeat, which is legal
 *   PUSHING -mw_serve_lookup-> LOOKING     for a step of the group: its trainer started anew
 *   LOOKING -mw_lookup_finish-> forgotten  when it is of the evaluation
 *   not PUSHING -mw_serve_release-> forgotten
 *   HELD -on_composer-> forgotten          the composer died before anyone asked
 *   HELD, SERVED -make_room-> forgotten    idle, and memory is short
 *
 * Forgetting is always safe: whoever asks hears RT_EUNKNOWN and has the batch put again, with the same
 * digest and so the same order of rows; and an owner that has applied a batch says so instead of
 * applying it twice. So nothing here is durable, and no loop knows of another.
 *
 * Waiting goes one way: calls of C and T wait here for owners, which wait for nobody. A lost owner
 * delays its batches and no others (fanout.c); a lost trainer or composer leaves batches behind, which the
 * rules above take away. The shard map is that of the first hello; servers that come back with another
 * number of workers hold other rows, so that is an error and not a change. */
#include "middleware/batch.h"
#include "runtime/admin/net_metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"

#include <stdio.h>
#include <string.h>

#define MESSAGE_SMALL ((uint32_t)64 << 10) /* lists by feature: at most 4,096 of a few bytes */
#define ARENA_MESSAGE ((size_t)64 << 20)   /* what one message may unpack to, and lists beside it */

static const struct rt_method_def methods[] = {
    {WIRE_PUT_BATCH, "PutBatch", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), MESSAGE_SMALL, RT_PAYLOAD_MAX,
     mw_serve_put},
    {WIRE_LOOKUP_BATCH, "LookupBatch", RT_ROLE_BIT(RT_ROLE_TRAINER), MESSAGE_SMALL, 0,
     mw_serve_lookup},
    {WIRE_PUSH_GRADIENTS, "PushGradients", RT_ROLE_BIT(RT_ROLE_TRAINER), MESSAGE_SMALL,
     RT_PAYLOAD_MAX, mw_serve_push},
    {WIRE_RELEASE_BATCH, "ReleaseBatch", RT_ROLE_BIT(RT_ROLE_TRAINER), MESSAGE_SMALL, 0,
     mw_serve_release},
};

/* ---- owners ---- */

static struct mw_owner *owner_of(struct mw_loop *loop, const struct rt_peer *peer)
{
    uint64_t at = (uint64_t)rt_peer_index(peer) * loop->map.workers + rt_peer_loop(peer);

    rt_assert(rt_peer_role(peer) == RT_ROLE_EMBEDDING_SERVER && at < loop->map.owners);
    return &loop->owner[at];
}

static void set_owner_up(struct mw_loop *loop, struct mw_owner *owner, bool up)
{
    if (owner->up != up)
        mw_count(&loop->stats.owners_up, up ? 1 : (uint64_t)-1);
    owner->up = up;
}

static void on_peer_up(void *ctx, struct rt_peer *peer)
{
    struct mw_loop *loop = ctx;
    struct mw_owner *owner = owner_of(loop, peer);

    set_owner_up(loop, owner, true);
    if (owner->incarnation && owner->incarnation != rt_peer_incarnation(peer))
        mw_fanout_repeat(loop, owner);
    owner->incarnation = rt_peer_incarnation(peer);
    mw_fanout_resend(loop, owner);
}

static void on_peer_down(void *ctx, struct rt_peer *peer, int err, const char *why)
{
    struct mw_loop *loop = ctx;

    (void)err; /* the rpc has logged both */
    (void)why;
    set_owner_up(loop, owner_of(loop, peer), false);
}

/* Parts that did not go for want of credit do now, the oldest batch's first. */
static void on_peer_drained(void *ctx, struct rt_peer *peer)
{
    struct mw_loop *loop = ctx;

    mw_fanout_resend(loop, owner_of(loop, peer));
}

static void on_fenced(void *ctx, uint64_t held)
{
    const struct mw_loop *loop = ctx;

    if (loop->conf.fenced)
        loop->conf.fenced(loop->conf.ctx, held);
}

static int check_server(const struct mw_loop *loop, uint32_t index, uint32_t replicas,
                        uint32_t workers)
{
    uint32_t want = loop->conf.job->global.embedding_server_workers;

    if (index >= replicas)
        return RT_FAIL(RT_EUSAGE, "embedding_server/%u says that there are %u servers", index,
                       replicas);
    if (want && workers != want)
        return RT_FAIL(RT_EUSAGE,
                       "embedding_server/%u has %u workers, expected "
                       "global.embedding_server.workers = %u",
                       index, workers, want);
    if (loop->map.owners && replicas != loop->map.servers)
        return RT_FAIL(RT_EUSAGE,
                       "embedding_server/%u says that there are %u servers, others say %u", index,
                       replicas, loop->map.servers);
    if (loop->map.owners && workers != loop->map.workers)
        return RT_FAIL(RT_EUSAGE,
                       "embedding_server/%u has %u workers, others have %u: set "
                       "global.embedding_server.workers",
                       index, workers, loop->map.workers);
    return 0;
}

static int make_owners(struct mw_loop *loop, uint32_t servers, uint32_t workers)
{
    struct mw_scratch *scratch = &loop->scratch;
    struct rt_shard_map map;
    int err = rt_shard_map_init(&map, servers, workers);

    if (err)
        return err;
    loop->owner = rt_try_calloc(map.owners, sizeof(*loop->owner));
    scratch->cursor = rt_try_calloc(map.owners, sizeof(*scratch->cursor));
    scratch->count =
        rt_try_calloc((size_t)map.owners * (loop->conf.job->n_tables + 1), sizeof(*scratch->count));
    if (!loop->owner || !scratch->cursor || !scratch->count) {
        rt_free(loop->owner);
        rt_free(scratch->cursor);
        rt_free(scratch->count);
        loop->owner = NULL;
        scratch->cursor = NULL;
        scratch->count = NULL;
        return RT_FAIL(RT_ENOMEM, "out of memory for %u owners", map.owners);
    }
    loop->map = map;
    atomic_store_explicit(&loop->stats.owners, map.owners, memory_order_relaxed);
    for (uint32_t k = 0; k < map.owners; k++)
        loop->owner[k].peer =
            rt_rpc_peer(loop->rpc, RT_ROLE_EMBEDDING_SERVER, k / workers, k % workers);
    return 0;
}

int mw_loop_on_server(struct mw_loop *loop, uint32_t index, uint32_t replicas, uint32_t n_addresses,
                      const char *const *address, uint64_t incarnation)
{
    int err = 0;

    if (n_addresses == 0)
        return 0;
    err = check_server(loop, index, replicas, n_addresses);
    if (!err && !loop->map.owners)
        err = make_owners(loop, replicas, n_addresses);
    for (uint32_t w = 0; w < n_addresses && !err; w++)
        rt_peer_set_address(loop->owner[index * loop->map.workers + w].peer, address[w],
                            incarnation);
    return err;
}

int mw_loop_ready(const struct mw_loop *loop)
{
    uint64_t owners = mw_read(&loop->stats.owners);

    return owners != 0 && mw_read(&loop->stats.owners_up) == owners;
}

/* ---- numbers ---- */

static void add(json_t *object, const char *key, uint64_t value)
{
    json_int_t before = json_integer_value(json_object_get(object, key));

    json_object_set_new(object, key, json_integer(before + (json_int_t)value));
}

void mw_loop_status(const struct mw_loop *loop, json_t *object)
{
    json_t *sent =
        json_object_get(object, "bytes_sent"); /* by hop; a trainer counts what it gets */

    if (!sent) {
        sent = json_object();
        json_object_set_new(object, "bytes_sent", sent);
    }
    add(sent, rt_role_name(RT_ROLE_EMBEDDING_SERVER), mw_read(&loop->stats.bytes_to_owners));
    add(object, "loops", 1);
#define X(kind, field, metric, help) add(object, #field, mw_read(&loop->stats.field));
    MW_STATS(X)
#undef X
}

/* The times have no loop's label: the page adds the loops up, and stays short. */
void mw_loop_register(const struct mw_loop *loop, struct rt_metrics *metrics)
{
    char labels[32];

    snprintf(labels, sizeof(labels), "loop=\"%u\"", loop->conf.identity.loop);
#define X(kind, field, metric, help)                                                               \
    rt_metrics_u64(metrics, kind, "saffron_middleware_" metric, labels, help, &loop->stats.field);
    MW_STATS(X)
#undef X
#define X(field, metric, help)                                                                     \
    rt_metrics_histogram(metrics, "saffron_middleware_" metric, NULL, help, RT_HISTOGRAM_SECONDS,  \
                         &loop->stats.field);
    MW_TIMES(X)
#undef X
    rt_metrics_rpc(metrics, RT_ROLE_MIDDLEWARE, loop->rpc);
}

/* ---- life ---- */

size_t mw_pool_budget(const struct rt_job *job)
{
    size_t memory = job->global.middleware_memory, least = (size_t)256 << 20;

    return memory + (memory / 2 > least ? memory / 2 : least);
}

/* A fourth of the credit: while one part leaves the next may wait, and others' requests get in between. */
static size_t part_bytes(const struct mw_loop_conf *conf)
{
    size_t bytes = conf->part_bytes ? conf->part_bytes : conf->job->global.credit / 4;

    return conf->part_bytes || bytes > MW_PART_BYTES_MIN ? bytes : MW_PART_BYTES_MIN;
}

/* Features by table, in the job's order within a table: what shares a table is deduplicated together. */
static void order_features(struct mw_loop *loop)
{
    const struct rt_job *job = loop->conf.job;
    uint32_t *next = rt_xcalloc(job->n_tables + 1, sizeof(*next));

    for (uint32_t f = 0; f < job->n_features; f++)
        next[job->feature[f].table + 1]++;
    for (uint32_t t = 1; t <= job->n_tables; t++)
        next[t] += next[t - 1];
    for (uint32_t f = 0; f < job->n_features; f++) {
        loop->feature_order[next[job->feature[f].table]++] = f;
        loop->dim[f] = job->table[job->feature[f].table].dim;
    }
    rt_free(next);
}

static int start(struct mw_loop *loop)
{
    const struct mw_loop_conf *conf = &loop->conf;
    struct rt_rpc_conf rpc = {
        .io = conf->io,
        .self = conf->identity,
        .greeting = conf->greeting,
        .methods = methods,
        .n_methods = ARRAY_LEN(methods),
        .reply_max = RT_PAYLOAD_MAX,
        .heartbeat_ns = conf->job->global.heartbeat_ms * RT_MS,
        .dead_ns = conf->job->global.dead_ms * RT_MS,
        .lz4 = conf->job->global.wire.compression == RT_COMPRESS_LZ4,
        .ctx = loop,
        .peer_up = on_peer_up,
        .peer_down = on_peer_down,
        .peer_drained = on_peer_drained,
        .credit = conf->job->global.credit,
        .budget = conf->budget,
        .fenced = on_fenced,
    };
    int err = rt_arena_create(ARENA_MESSAGE, &loop->arena);

    if (!err)
        err = rt_rpc_create(&rpc, &loop->rpc);
    if (!err && conf->listen)
        err = rt_rpc_listen(loop->rpc, conf->listen, loop->address);
    return err;
}

int mw_loop_create(const struct mw_loop_conf *conf, struct mw_loop **out)
{
    struct mw_loop *loop = rt_xcalloc(1, sizeof(*loop));
    uint32_t n = conf->job->n_features + 1;
    int err;

    loop->conf = *conf;
    loop->part_bytes = part_bytes(conf);
    rt_map_init(&loop->batches);
    rt_map_init(&loop->composers);
    rt_map_init(&loop->reserved_of);
    loop->dedup = mw_dedup_create(conf->io->ops->random(conf->io));
    loop->dim = rt_xcalloc(n, sizeof(*loop->dim));
    loop->feature_order = rt_xcalloc(n, sizeof(*loop->feature_order));
    order_features(loop);
    err = start(loop);
    if (err) {
        mw_loop_destroy(loop);
        return err;
    }
    *out = loop;
    return 0;
}

static void release_memory(struct mw_loop *loop)
{
    while (loop->spare) {
        struct mw_batch *batch = loop->spare;

        loop->spare = batch->next;
        rt_arena_destroy(batch->arena);
        rt_free(batch);
    }
    rt_map_release(&loop->batches);
    rt_map_release(&loop->composers);
    rt_map_release(&loop->reserved_of);
    mw_fanout_release(loop);
    mw_dedup_destroy(loop->dedup);
    rt_free(loop->scratch.id);
    rt_free(loop->scratch.hashed);
    rt_free(loop->scratch.composed);
    rt_free(loop->scratch.slot);
    rt_free(loop->scratch.sequence);
    rt_free(loop->scratch.distinct);
    rt_free(loop->scratch.owner);
    rt_free(loop->scratch.position);
    rt_free(loop->scratch.row);
    rt_free(loop->scratch.count);
    rt_free(loop->scratch.cursor);
    rt_arena_destroy(loop->arena);
    wire_out_release(&loop->out);
    rt_free(loop->dim);
    rt_free(loop->feature_order);
    rt_free(loop->owner);
}

void mw_loop_destroy(struct mw_loop *loop)
{
    if (!loop)
        return;
    loop->closing = true;
    rt_timer_stop(loop->conf.io, &loop->retry);
    for (struct mw_batch *batch = loop->oldest; batch; batch = batch->next)
        mw_answer(batch, 0, NULL, RT_EUNKNOWN, "the middleware is going down");
    rt_rpc_destroy(loop->rpc); /* returns every request that is out */
    while (loop->oldest)
        mw_batch_forget(loop->oldest);
    release_memory(loop);
    rt_free(loop);
}

const char *mw_loop_address(const struct mw_loop *loop)
{
    return loop->address;
}
