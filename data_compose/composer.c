/* data_compose/composer.c -- the life of a composer: made from a job, told of its peers, taken down.
 *
 * One pump drives everything: when a call was answered, a peer came up or a pause is over, whatever can start
 * is started. Reading goes on beside it, a slice per turn of the loop, while the window has room. */
#include "data_compose/state.h"

#include "runtime/admin/net_metrics.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/wire/member.h"

#include <stdio.h>

#define REPLY_MAX       (1u << 20) /* no reply has a payload */
#define MIDDLEWARES_MAX 65536u

void dc_fail(struct dc_composer *composer, int err)
{
    if (composer->failed)
        return;
    composer->failed = true;
    composer->stage = DC_FAILED;
    composer->conf.failed(composer->conf.ctx, err);
}

bool dc_rank_up(const struct dc_composer *composer, uint32_t rank)
{
    return rank < composer->world && composer->rank[rank].peer &&
           rt_peer_is_up(composer->rank[rank].peer);
}

void dc_pause(struct dc_composer *composer)
{
    if (composer->pausing || composer->destroying)
        return;
    composer->pausing = true;
    rt_timer_start(composer->io, &composer->pause, DC_PAUSE_NS);
}

static void on_pause(void *arg)
{
    struct dc_composer *c = arg;

    c->pausing = c->pool_full = false;
    dc_pump(c);
}

static void on_peer_drained(void *ctx, struct rt_peer *peer)
{
    struct dc_composer *c = ctx;

    (void)peer;
    dc_send_drained(c);
    dc_pump(c);
}

static void on_work(void *arg)
{
    struct dc_composer *c = arg;

    if (c->failed)
        return;
    if (dc_phase_wants_turn(c))
        dc_phase_turn(c);
    dc_pump(c);
}

void dc_pump(struct dc_composer *composer)
{
    if (composer->failed || composer->destroying)
        return;
    dc_send_pump(composer);
    dc_phase_pump(composer);
    if (!composer->failed && !composer->pool_full && dc_phase_wants_turn(composer))
        rt_timer_start(composer->io, &composer->work, 0);
}

/* ---- peers ---- */

/* A rank with another incarnation has forgotten what it was told; rank 0 the phase itself. */
static void on_rank_up(struct dc_composer *c, struct dc_rank *rank)
{
    uint64_t before = rank->incarnation;

    rank->incarnation = rt_peer_incarnation(rank->peer);
    if (!before || before == rank->incarnation)
        return;
    rt_log(RT_LOG_WARN, "trainer_restarted peer=%s", rt_peer_name(rank->peer));
    if (rank == &c->rank[0])
        dc_phase_reset(c);
    else
        dc_phase_rank_lost(c, rank);
}

static void on_peer_up(void *ctx, struct rt_peer *peer)
{
    struct dc_composer *c = ctx;

    if (rt_peer_role(peer) == RT_ROLE_TRAINER)
        on_rank_up(c, &c->rank[rt_peer_index(peer)]);
    c->ask_not_before_ns = 0;
    dc_pump(c);
}

static void on_fenced(void *ctx, uint64_t held)
{
    struct dc_composer *c = ctx;

    if (c->conf.replaced)
        c->conf.replaced(c->conf.ctx, held);
}

static void add_middleware(struct dc_composer *c, struct rt_peer *peer)
{
    for (uint32_t i = 0; i < c->n_middlewares; i++)
        if (c->middleware[i] == peer)
            return;
    c->middleware =
        rt_xrealloc((void *)c->middleware, (c->n_middlewares + 1) * sizeof(*c->middleware));
    c->middleware[c->n_middlewares++] = peer;
}

void dc_composer_on_middleware(struct dc_composer *composer, uint32_t index, uint32_t replicas,
                               const char *const *address, uint32_t n, uint64_t incarnation)
{
    if (index >= replicas || replicas > MIDDLEWARES_MAX || n > WIRE_LOOPS_MAX) {
        rt_log(RT_LOG_WARN, "hello_ignored role=middleware index=%u replicas=%u loops=%u", index,
               replicas, n);
        return;
    }
    for (uint32_t loop = 0; loop < n; loop++) {
        struct rt_peer *peer = rt_rpc_peer(composer->rpc, RT_ROLE_MIDDLEWARE, index, loop);

        add_middleware(composer, peer);
        rt_peer_set_address(peer, address[loop], incarnation);
    }
}

void dc_composer_on_trainer(struct dc_composer *composer, uint32_t index, uint32_t replicas,
                            const char *const *address, uint32_t n, uint64_t incarnation)
{
    struct dc_composer *c = composer;

    if (n == 0)
        return;
    if (replicas == 0 || replicas > DC_WORLD_MAX || index >= replicas ||
        (c->world && replicas != c->world)) {
        rt_log(RT_LOG_WARN, "hello_ignored role=trainer index=%u replicas=%u world=%u", index,
               replicas, c->world);
        return;
    }
    if (!c->world && (uint64_t)replicas * c->job->data.window > RT_OPEN_MAX) {
        dc_fail(c, RT_FAIL(RT_EUSAGE,
                           "data.window %u x %u trainers is over %u open batches: expected "
                           "data.window of at most %u",
                           c->job->data.window, replicas, RT_OPEN_MAX, RT_OPEN_MAX / replicas));
        return;
    }
    if (!c->world) {
        c->world = replicas;
        c->rank = rt_xcalloc(replicas, sizeof(*c->rank));
    }
    c->rank[index].composer = c;
    c->rank[index].peer = rt_rpc_peer(c->rpc, RT_ROLE_TRAINER, index, 0);
    rt_peer_set_address(c->rank[index].peer, address[0], incarnation);
}

bool dc_composer_ready(const struct dc_composer *composer, char *waiting, size_t size)
{
    const struct dc_composer *c = composer;

    for (uint32_t r = 0; r < c->world || r == 0; r++) {
        if (dc_rank_up(c, r))
            continue;
        if (waiting)
            snprintf(waiting, size, "trainer/%u", r);
        return false;
    }
    for (uint32_t i = 0; i < c->n_middlewares; i++)
        if (rt_peer_is_up(c->middleware[i]))
            return true;
    if (waiting)
        snprintf(waiting, size, "middleware/0");
    return false;
}

/* ---- life ---- */

static void register_metrics(struct dc_composer *c, struct rt_metrics *metrics)
{
    rt_metrics_rpc(metrics, RT_ROLE_DATA_COMPOSE, c->rpc);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_data_compose_rows_read_total", NULL,
                   "training rows read", &c->rows_read);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_data_compose_rows_quarantined_total", NULL,
                   "training rows that could not be parsed", &c->rows_quarantined);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_data_compose_batches_done_total", NULL,
                   "batches whose outcome is known", &c->batches_done);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_data_compose_batches_retried_total", NULL,
                   "batches that had to be sent again", &c->batches_retried);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_data_compose_put_bytes_total", NULL,
                   "ids of training batches sent to the middleware", &c->bytes_put);
    rt_metrics_u64(metrics, RT_GAUGE, "saffron_data_compose_batches_open", NULL,
                   "batches sent and not finished", &c->batches_open);
    rt_metrics_u64(metrics, RT_GAUGE, "saffron_data_compose_queue_batches", NULL,
                   "batches made that no trainer has yet", &c->queue);
    rt_metrics_u64(metrics, RT_COUNTER, "saffron_data_compose_read_bytes_total", NULL,
                   "bytes read from data files, as they are on disk, by all passes",
                   &c->bytes_read);
    rt_metrics_histogram(metrics, "saffron_data_compose_parse_seconds", NULL,
                         "seconds to read, parse, hash and cut one batch; the first of a chunk of "
                         "rows bears all of its reading",
                         RT_HISTOGRAM_SECONDS, &c->parse_seconds);
    rt_metrics_histogram(metrics, "saffron_data_compose_batch_seconds", NULL,
                         "seconds from the first PutBatch of a batch to its outcome",
                         RT_HISTOGRAM_SECONDS, &c->batch_seconds);
}

static int make_rpc(struct dc_composer *c)
{
    struct rt_rpc_conf conf = {
        .io = c->io,
        .self = c->conf.identity,
        .greeting = &wire_greeting,
        .reply_max = REPLY_MAX,
        .heartbeat_ns = c->job->global.heartbeat_ms * RT_MS,
        .dead_ns = c->job->global.dead_ms * RT_MS,
        .lz4 = c->job->global.wire.compression == RT_COMPRESS_LZ4,
        .ctx = c,
        .peer_up = on_peer_up,
        .peer_drained = on_peer_drained,
        .credit = c->job->global.credit,
        .fenced = on_fenced,
    };

    return rt_rpc_create(&conf, &c->rpc);
}

int dc_composer_create(const struct dc_composer_conf *conf, struct dc_composer **out)
{
    struct dc_composer *c = rt_xcalloc(1, sizeof(*c));
    int err = 0;

    rt_assert(conf->failed && conf->size > conf->identity.index);
    c->conf = *conf;
    c->job = conf->job;
    c->io = conf->io;
    c->work = (struct rt_timer){.fire = on_work, .arg = c};
    c->pause = (struct rt_timer){.fire = on_pause, .arg = c};
    if (conf->size > conf->job->data.splits)
        err = RT_FAIL(RT_EUSAGE,
                      "%u data-compose replicas for %u splits: expected at most one per split",
                      conf->size, conf->job->data.splits);
    if (!err && conf->size > 1 && conf->job->global.exact)
        err = RT_FAIL(RT_EUSAGE,
                      "exact: expected 1 data-compose, got %u; the order of their batches would "
                      "be that of the network",
                      conf->size);
    if (!err)
        err = dc_send_init(c);
    if (!err)
        err = dc_phase_init(c);
    if (!err)
        err = make_rpc(c);
    if (err) {
        dc_composer_destroy(c);
        return err;
    }
    if (conf->metrics)
        register_metrics(c, conf->metrics);
    dc_pump(c); /* the truth needs no peers */
    *out = c;
    return 0;
}

void dc_composer_destroy(struct dc_composer *composer)
{
    struct dc_composer *c = composer;

    if (!c)
        return;
    c->destroying = true;
    rt_timer_stop(c->io, &c->work);
    rt_timer_stop(c->io, &c->pause);
    rt_rpc_destroy(c->rpc); /* answers all calls: no batch has one out any more */
    dc_send_drop(c, false);
    dc_send_drop(c, true);
    dc_phase_release(c);
    dc_send_release(c);
    dc_recall_release(c);
    rt_free(c->rank);
    rt_free((void *)c->middleware);
    wire_out_release(&c->out);
    rt_free(c);
}

void dc_composer_status(const struct dc_composer *composer, struct dc_status *out)
{
    static const char *const stage[] = {
        [DC_FREQUENCIES] = "frequencies",
        [DC_TRUTH] = "truth",
        [DC_WAITING] = "waiting",
        [DC_STATISTICS] = "statistics",
        [DC_COUNTING] = "counting",
        [DC_PASS] = "train",
        [DC_ENDING] = "train",
        [DC_DONE] = "done",
        [DC_FAILED] = "failed",
    };
    const struct dc_composer *c = composer;
    const char *name = stage[c->stage];

    if (c->stage == DC_PASS || c->stage == DC_ENDING)
        name = c->evaluate ? "evaluate" : "train";
    *out = (struct dc_status){
        .stage = name,
        .epoch = c->epoch,
        .rows_read = atomic_load_explicit(&c->rows_read, memory_order_relaxed),
        .rows_quarantined = atomic_load_explicit(&c->rows_quarantined, memory_order_relaxed),
        .batches_done = atomic_load_explicit(&c->batches_done, memory_order_relaxed),
        .batches_retried = atomic_load_explicit(&c->batches_retried, memory_order_relaxed),
        .batches_open = c->n_open,
        .queue = (uint32_t)atomic_load_explicit(&c->queue, memory_order_relaxed),
        .bytes_read = atomic_load_explicit(&c->bytes_read, memory_order_relaxed),
        .epoch_rows = c->epoch_rows,
        .bytes_put = atomic_load_explicit(&c->bytes_put, memory_order_relaxed),
        .test_auc_best_possible = c->best_auc,
    };
}
