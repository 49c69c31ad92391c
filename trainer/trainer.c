/* trainer/trainer.c -- the life of a trainer rank: made from a job, fed by its rpc, taken down.
 *
 * One pump() drives everything: whenever a permit came back, a lookup arrived, a step ended or a peer came
 * up, whatever can start is started. Nothing waits in a callback. */
#include "trainer/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/member.h"
#include "trainer/collective/nccl.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#define MIDDLEWARES_MAX 65536u

void tr_fifo_push(struct tr_fifo *fifo, struct tr_batch *batch)
{
    batch->next = NULL;
    if (fifo->tail)
        fifo->tail->next = batch;
    else
        fifo->head = batch;
    fifo->tail = batch;
}

struct tr_batch *tr_fifo_pop(struct tr_fifo *fifo)
{
    struct tr_batch *batch = fifo->head;
    if (batch) {
        fifo->head = batch->next;
        if (!fifo->head)
            fifo->tail = NULL;
        batch->next = NULL;
    }
    return batch;
}

void tr_fifo_unpop(struct tr_fifo *fifo, struct tr_batch *batch)
{
    batch->next = fifo->head;
    fifo->head = batch;
    if (!fifo->tail)
        fifo->tail = batch;
}

void tr_fifo_remove(struct tr_fifo *fifo, struct tr_batch *batch)
{
    struct tr_batch **at = &fifo->head, *before = NULL;
    while (*at != batch) {
        before = *at;
        at = &before->next;
    }
    *at = batch->next;
    if (fifo->tail == batch)
        fifo->tail = before;
    batch->next = NULL;
}

void tr_fail(struct tr_trainer *trainer, int err)
{
    if (trainer->conf.failed)
        trainer->conf.failed(trainer->conf.ctx, err);
}

void tr_pump(struct tr_trainer *trainer)
{
    tr_feed_pump(trainer);
    tr_step_pump(trainer);
    if (trainer->group) /* where we stand in the group decides on lookups */
        tr_feed_pump(trainer);
    tr_owners_pump(trainer);
    tr_checkpoint_pump(trainer);
}

struct rt_peer *tr_middleware(struct tr_trainer *trainer, uint32_t index, uint32_t loop)
{
    if (index >= trainer->middlewares || loop >= trainer->middleware_loops[index])
        return NULL;
    return rt_rpc_peer(trainer->rpc, RT_ROLE_MIDDLEWARE, index, loop);
}

void tr_finished(struct tr_trainer *trainer, uint64_t batch_id)
{
    int err = rt_ledger_finished(trainer->ledger, batch_id);
    if (err)
        tr_fail(trainer, err);
    if (trainer->group)
        tr_group_news(trainer->group, batch_id);
}

struct rt_peer *tr_rank(struct tr_trainer *trainer, uint32_t rank)
{
    if (rank == trainer->conf.self.index || rank >= trainer->conf.world)
        return NULL;
    return rt_rpc_peer(trainer->rpc, RT_ROLE_TRAINER, rank, 0);
}

static void on_peer_up(void *ctx, struct rt_peer *peer)
{
    struct tr_trainer *trainer = ctx;
    if (trainer->group && rt_peer_role(peer) == RT_ROLE_TRAINER)
        tr_group_peer_up(trainer->group, peer);
    if (rt_peer_role(peer) == RT_ROLE_EMBEDDING_SERVER)
        tr_owners_peer_up(trainer, peer);
    tr_phase_check(trainer);
    tr_pump(trainer);
}

/* What was turned down for want of credit goes now, or finds that the connection is gone. */
static void on_peer_drained(void *ctx, struct rt_peer *peer)
{
    struct tr_trainer *trainer = ctx;
    uint32_t next = (trainer->conf.self.index + 1) % trainer->conf.world;
    if (trainer->closing)
        return;
    if (rt_peer_role(peer) == RT_ROLE_MIDDLEWARE)
        tr_push_drained(trainer, peer);
    else if (rt_peer_role(peer) == RT_ROLE_TRAINER && rt_peer_index(peer) == next)
        tr_ring_peer_up(trainer->collective);
    tr_phase_check(trainer); /* scores */
    tr_pump(trainer);
}

static void on_fenced(void *ctx, uint64_t held)
{
    struct tr_trainer *trainer = ctx;
    if (trainer->conf.replaced)
        trainer->conf.replaced(trainer->conf.ctx, held);
}

static void serve_chunk(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    tr_ring_serve(((struct tr_trainer *)ctx)->collective, call, request);
}

static void serve_communicator(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    tr_nccl_serve(((struct tr_trainer *)ctx)->collective, call, request);
}

#define RANKS        RT_ROLE_BIT(RT_ROLE_TRAINER)
#define CHUNK_BYTES  ((uint64_t)WIRE_CHUNK_MAX * sizeof(float))
#define SCORES_BYTES (16u << 20) /* one part of an evaluation's scores: half of it at most */

static const struct rt_method_def method[] = {
    {WIRE_TRAIN_BATCH, "TrainBatch", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), RT_MESSAGE_MAX,
     RT_PAYLOAD_MAX, tr_feed_serve},
    {WIRE_AWAIT_PHASE, "AwaitPhase", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), RT_MESSAGE_MAX, 0,
     tr_phase_serve_await},
    {WIRE_END_OF_EPOCH, "EndOfEpoch", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), RT_MESSAGE_MAX, 0,
     tr_phase_serve_end},
    {WIRE_NOTHING_YET, "NothingYet", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), RT_MESSAGE_MAX, 0,
     tr_phase_serve_nothing},
    {WIRE_JOIN_GROUP, "JoinGroup", RANKS | RT_ANY_EPOCH, RT_MESSAGE_MAX, 0, tr_form_serve_join},
    {WIRE_FETCH_STATE, "FetchState", RANKS, RT_MESSAGE_MAX, 0, tr_fetch_serve},
    {WIRE_STEP_HEADER, "StepHeader", RANKS, RT_MESSAGE_MAX, 0, tr_group_serve_header},
    {WIRE_REDUCE_CHUNK, "ReduceChunk", RANKS, RT_MESSAGE_MAX, CHUNK_BYTES, serve_chunk},
    {WIRE_NOTE_FINISHED, "NoteFinished", RANKS | RT_ANY_EPOCH, 0, 0, tr_group_serve_note},
    {WIRE_TELL_FINISHED, "TellFinished", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), RT_MESSAGE_MAX, 0,
     tr_group_serve_finished},
    {WIRE_TELL_PHASE, "TellPhase", RANKS | RT_ANY_EPOCH, RT_MESSAGE_MAX, 0, tr_tell_serve},
    {WIRE_GO_BACK, "GoBack", RANKS | RT_ANY_EPOCH, RT_MESSAGE_MAX, 0, tr_back_serve},
    {WIRE_SCORES, "Scores", RANKS | RT_ANY_EPOCH, RT_MESSAGE_MAX, SCORES_BYTES,
     tr_evaluate_serve_scores},
    {WIRE_ASK_COMMUNICATOR, "AskCommunicator", RANKS, RT_MESSAGE_MAX, 0, serve_communicator},
};
enum { METHODS_ALONE = 4 }; /* a world of 1 serves no ranks */

static int make_rpc(struct tr_trainer *trainer)
{
    struct rt_rpc_conf conf = {
        .io = trainer->io,
        .self = trainer->conf.self,
        .greeting = &wire_greeting,
        .methods = method,
        .n_methods = trainer->group ? ARRAY_LEN(method) : METHODS_ALONE,
        .reply_max = RT_PAYLOAD_MAX,
        .heartbeat_ns = trainer->job->global.heartbeat_ms * RT_MS,
        .dead_ns = trainer->job->global.dead_ms * RT_MS,
        .lz4 = trainer->job->global.wire.compression == RT_COMPRESS_LZ4,
        .ctx = trainer,
        .peer_up = on_peer_up,
        .peer_drained = on_peer_drained,
        .credit = trainer->job->global.credit,
        .fenced = on_fenced,
    };
    int err = rt_rpc_create(&conf, &trainer->rpc);
    return err ? err : rt_rpc_listen(trainer->rpc, trainer->conf.listen, trainer->address);
}

int tr_trainer_create(const struct tr_trainer_conf *conf, struct tr_trainer **out)
{
    rt_assert(conf->world >= 1 && conf->self.index < conf->world);
    if ((uint64_t)conf->world * conf->job->data.window > RT_OPEN_MAX)
        return RT_FAIL(RT_EUSAGE,
                       "data.window %u x %u trainers is over %u open batches: expected data.window "
                       "of at most %u",
                       conf->job->data.window, conf->world, RT_OPEN_MAX, RT_OPEN_MAX / conf->world);
    struct tr_trainer *trainer = rt_xcalloc(1, sizeof *trainer);
    trainer->conf = *conf;
    trainer->job = conf->job;
    trainer->io = conf->io;
    trainer->learning_factor = 1;
    trainer->run = conf->run ? conf->run : rt_draw(conf->self.incarnation, 0);
    trainer->anew = conf->anew;
    rt_map_init(&trainer->batches);
    tr_beside_init(trainer);
    bool one = conf->job->global.mode == RT_MODE_FULL;
    trainer->permits.limit = one ? 1 : conf->job->global.staleness;
    trainer->lookups.limit = trainer->permits.limit;
    tr_checkpoint_init(trainer);
    tr_back_init(trainer);
    int err = tr_batch_check_job(trainer);
    if (!err)
        err = rt_arena_create(8 << 20, &trainer->scratch);
    if (!err)
        err = rt_ledger_create(RT_BATCH_WINDOW, &trainer->ledger);
    if (!err)
        err = tr_step_init(trainer);
    if (!err)
        err = tr_phase_init(trainer);
    if (!err)
        err = tr_restore_state(trainer);
    if (!err && conf->world > 1)
        err = tr_group_create(trainer);
    if (!err)
        err = make_rpc(trainer);
    if (!err)
        err = tr_reduce_init(trainer);
    if (err) {
        tr_trainer_destroy(trainer);
        *out = NULL;
        return err;
    }
    tr_board_init(trainer);
    tr_phase_check(trainer);
    tr_numbers_init(trainer);
    tr_alarm_init(trainer);
    if (conf->metrics)
        tr_numbers_register(trainer, conf->metrics);
    *out = trainer;
    return 0;
}

void tr_trainer_destroy(struct tr_trainer *trainer)
{
    if (!trainer)
        return;
    trainer->closing = true;
    tr_phase_release(trainer);
    tr_import_release(trainer);
    tr_agree_release(trainer);
    if (trainer->group)
        tr_group_close(trainer->group);
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&trainer->batches, &cursor, &id, &value)) {
        struct tr_batch *batch = (struct tr_batch *)(uintptr_t)value;
        if (batch->call)
            rt_call_fail(batch->call, RT_ECANCELED, "trainer is going away");
        batch->call = NULL;
    }
    rt_rpc_destroy(
        trainer->rpc); /* pending lookups and pushes fail here: their batches must exist */
    for (cursor = 0; rt_map_next(&trainer->batches, &cursor, &id, &value);)
        tr_batch_give((struct tr_batch *)(uintptr_t)value);
    tr_batch_free_spare(trainer);
    rt_map_release(&trainer->batches);
    tr_board_release(trainer);
    if (trainer->collective) /* before the vectors that it sums are gone */
        trainer->collective->ops->destroy(trainer->collective);
    tr_step_release(trainer);
    tr_beside_release(trainer);
    tr_group_destroy(trainer->group);
    tr_back_release(trainer);
    tr_checkpoint_release(trainer);
    tr_owners_release(trainer);
    rt_manifest_destroy(trainer->restored);
    rt_ledger_destroy(trainer->ledger);
    tr_evaluate_release(trainer);
    rt_arena_destroy(trainer->scratch);
    wire_out_release(&trainer->out);
    rt_free(trainer->middleware_loops);
    rt_free(trainer->metric.nonfinite);
    rt_free(trainer->unfit);
    rt_free(trainer);
}

const char *tr_trainer_address(const struct tr_trainer *trainer)
{
    return trainer->address;
}

void tr_trainer_on_middleware(struct tr_trainer *trainer, uint32_t index, uint32_t replicas,
                              const char *const *address, uint32_t n, uint64_t incarnation)
{
    if (replicas == 0 || replicas > MIDDLEWARES_MAX || index >= replicas || n == 0) {
        rt_log(RT_LOG_WARN, "hello_ignored role=middleware index=%u replicas=%u loops=%u", index,
               replicas, n);
        return;
    }
    if (trainer->middlewares == 0) {
        trainer->middlewares = replicas;
        trainer->middleware_loops = rt_xcalloc(replicas, sizeof *trainer->middleware_loops);
    } else if (trainer->middlewares != replicas) {
        rt_log(RT_LOG_WARN, "hello_ignored role=middleware index=%u replicas=%u expected=%u", index,
               replicas, trainer->middlewares);
        return;
    }
    trainer->middleware_loops[index] = n;
    for (uint32_t loop = 0; loop < n; loop++) {
        struct rt_peer *peer = rt_rpc_peer(trainer->rpc, RT_ROLE_MIDDLEWARE, index, loop);
        rt_peer_set_address(peer, address[loop], incarnation);
    }
}

void tr_trainer_on_rank(struct tr_trainer *trainer, uint32_t index, uint32_t replicas,
                        const char *address, uint64_t incarnation)
{
    struct rt_peer *peer = tr_rank(trainer, index);
    if (index == trainer->conf.self.index)
        return;
    if (replicas != trainer->conf.world || !peer) {
        rt_log(RT_LOG_WARN, "hello_ignored role=trainer index=%u replicas=%u expected=%u", index,
               replicas, trainer->conf.world);
        return;
    }
    rt_peer_set_address(peer, address, incarnation);
    tr_group_heard(trainer->group, index, incarnation);
}

static bool ranks_ready(const struct tr_trainer *trainer, char *waiting, size_t size)
{
    for (uint32_t r = 0; r < trainer->conf.world; r++) {
        const struct rt_peer *peer = tr_rank((struct tr_trainer *)(uintptr_t)trainer, r);
        if (!peer || rt_peer_is_up(peer))
            continue;
        if (waiting)
            snprintf(waiting, size, "a connection to trainer/%u", r);
        return false;
    }
    return true;
}

bool tr_trainer_ready(const struct tr_trainer *trainer, char *waiting, size_t size)
{
    if (trainer->middlewares == 0) {
        if (waiting)
            snprintf(waiting, size, "a hello of middleware/0");
        return false;
    }
    for (uint32_t i = 0; i < trainer->middlewares; i++) {
        uint32_t loops = trainer->middleware_loops[i];
        for (uint32_t loop = 0; loop < loops; loop++) {
            if (rt_peer_is_up(rt_rpc_peer(trainer->rpc, RT_ROLE_MIDDLEWARE, i, loop)))
                continue;
            if (waiting)
                snprintf(waiting, size, "a connection to middleware/%u.%u", i, loop);
            return false;
        }
        if (loops == 0) {
            if (waiting)
                snprintf(waiting, size, "a hello of middleware/%u", i);
            return false;
        }
    }
    bool compares =
        trainer->job->global.exact || tr_owners_awaited(trainer) || tr_owners_are_last(trainer);
    if (trainer->conf.self.index == 0 && compares && !tr_owners_up(trainer, waiting, size))
        return false;
    return ranks_ready(trainer, waiting, size);
}

int tr_trainer_set_learning_rate(struct tr_trainer *trainer, double factor)
{
    if (!isfinite(factor) || factor < 0 || factor > 1e6)
        return RT_FAIL(RT_EUSAGE, "learning rate factor: expected 0..1e6, got %g", factor);
    trainer->learning_factor = factor;
    rt_log(RT_LOG_INFO, "learning_rate factor=%g step=%llu", factor,
           (unsigned long long)trainer->step);
    return 0;
}

uint64_t tr_trainer_digest(struct tr_trainer *trainer)
{
    return rt_hash_bytes(tr_model_params(trainer->model),
                         tr_model_count(trainer->model) * sizeof(float));
}

/* A time of our clock as seconds since 1970, which other hosts know too; NaN: it has not come. */
static double wall_seconds(const struct tr_trainer *trainer, uint64_t then_ns)
{
    double now = (double)trainer->io->ops->wall_ms(trainer->io) * 1e-3;
    return then_ns ? now - (double)(rt_io_now(trainer->io) - then_ns) * 1e-9 : NAN;
}

uint64_t tr_train_ns(const struct tr_trainer *trainer)
{
    uint64_t began = trainer->started_ns, end = trainer->last_ack_ns;
    return began && end > began ? end - began - trainer->evaluated_by_ack_ns : 0;
}

/* Rank 0 speaks for all, once an epoch is complete; else the rows whose outcome this rank knows. */
static void report_rows(const struct tr_trainer *trainer, struct tr_report *out)
{
    out->rank = trainer->conf.self.index;
    out->world = trainer->conf.world;
    out->read_whole = out->rank == 0 && !trainer->epoch_open;
    if (out->rank == 0)
        rt_ledger_rows(trainer->ledger, &out->samples_read, &out->samples_quarantined);
    if (!out->read_whole)
        out->samples_read = out->samples_trained + out->samples_quarantined + out->samples_dropped;
    out->evaluation = trainer->evaluated;
    out->n_evaluation = trainer->n_evaluated;
}

void tr_trainer_report(const struct tr_trainer *trainer, struct tr_report *out)
{
    *out = trainer->count;
    out->samples_restored = trainer->carried.samples_trained;
    out->samples_trained += trainer->carried.samples_trained;
    out->samples_dropped += trainer->carried.samples_dropped;
    out->batches_trained += trainer->carried.batches_trained;
    out->batches_dropped += trainer->carried.batches_dropped;
    out->updates_lost = trainer->owners.lost;
    out->loss_spikes = trainer->alarm.begun;
    out->loss_spike = tr_alarm_stands(&trainer->alarm);
    out->generation = trainer->generation;
    out->went_back = trainer->back.known.went_back;
    out->steps_again = trainer->back.known.steps_again;
    out->phase = wire_phase_name(trainer->kind);
    out->epoch = trainer->epoch;
    out->epochs = trainer->job->data.epochs;
    out->step = trainer->step;
    out->group_epoch = trainer->group ? trainer->group->epoch : 1;
    out->staleness_max = trainer->permits.used_max;
    out->permits_used = trainer->permits.used;
    tr_numbers_report(trainer, out);
    out->batches_open = trainer->batches.count;
    out->done = trainer->kind == WIRE_PHASE_DONE && trainer->told;
    out->predict_error = trainer->predict_result.err ? trainer->predict_result.text : NULL;
    out->predicted = trainer->predict_result.lines;
    report_rows(trainer, out);
    uint64_t end = trainer->last_ack_ns, away = trainer->evaluated_by_ack_ns;
    out->train_seconds = (double)tr_train_ns(trainer) * 1e-9;
    out->train_seconds_restored = (double)trainer->carried_train_ms * 1e-3;
    out->train_began = wall_seconds(trainer, trainer->started_ns);
    out->train_ended = wall_seconds(trainer, end);
    out->evaluated_seconds = (double)away * 1e-9;
    out->train_loss_samples = trainer->epoch_samples ? trainer->epoch_samples : out->samples_epoch;
    out->samples_per_second =
        out->train_seconds > 0
            ? (double)(out->samples_trained - out->samples_restored) / out->train_seconds
            : 0;
    out->test_auc = trainer->quality[0].auc;
    out->test_logloss = trainer->quality[0].logloss;
    out->test_calibration = trainer->quality[0].calibration;
    out->test_samples = trainer->quality[0].samples;
    out->n_heads = trainer->n_heads;
    for (uint32_t h = 0; h < trainer->n_heads; h++) {
        out->head[h].name = trainer->head[h].name;
        out->head[h].kind = trainer->head[h].kind;
        out->head[h].weight = trainer->head[h].weight;
        out->head[h].test = trainer->quality[h];
    }
}
