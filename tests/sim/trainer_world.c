/* tests/sim/trainer_world.c -- see trainer_world.h. */
#include "tests/sim/trainer_world.h"
#include "tests/lib/job_fixture.h"
#include "tests/lib/page.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/member.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* ---- the scripted middleware ---- */

static void reply_lookup(struct trainer_world *w, struct rt_call *call, uint32_t samples)
{
    uint32_t dim[] = {DIM, DIM}, dtype = w->job->global.wire.embeddings;
    struct wire_lookup_batch_reply head = {
        .samples = samples, .dtype = dtype, .n_features = FEATURES, .dim = dim};
    assert_int_equal(wire_lookup_batch_reply_pack(&head, &w->out), 0);
    size_t end = 0, bytes = (size_t)samples * DIM * wire_dtype_size(dtype);
    rt_segment_put(&end, bytes);
    size_t second = rt_segment_put(&end, bytes);
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, NODE_M), end);
    memset(buf->data, 0, end);
    float value[SAMPLES * DIM]; /* that 16 bits have too */
    for (uint32_t i = 0; i < samples * DIM; i++)
        value[i] = w->poison ? NAN : (float)(i % 7) / 128;
    rt_narrow(dtype, value, buf->data + second, (size_t)samples * DIM);
    buf->size = end;
    struct rt_piece piece = {buf->data, end, buf};
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data,
                                              .message_size = w->out.size,
                                              .pieces = &piece,
                                              .n_pieces = 1});
    rt_buf_unref(buf);
}

static void serve_lookup(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct trainer_world *w = ctx;
    struct wire_lookup_batch head;
    rt_arena_reset(w->arena);
    assert_int_equal(
        wire_lookup_batch_unpack(request->message, request->header.message_size, w->arena, &head),
        0);
    w->lookups++;
    if (w->fail_lookup > 0) {
        w->fail_lookup--;
        rt_call_fail(call, w->fail_with ? w->fail_with : RT_EUNKNOWN, "it cannot be looked up");
        return;
    }
    if (!head.evaluate && ++w->looked_up_open > w->looked_up_open_max)
        w->looked_up_open_max = w->looked_up_open;
    reply_lookup(w, call, head.samples);
}

void tw_ack_push(struct trainer_world *w, struct rt_call *call)
{
    struct wire_push_gradients_reply head = {.rows_applied = 1};
    assert_int_equal(wire_push_gradients_reply_pack(&head, &w->out), 0);
    w->looked_up_open--;
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
}

static void take_gradients(struct trainer_world *w, const struct wire_push_gradients *head,
                           struct rt_buf *payload)
{
    struct rt_segments seg = rt_segments_of(payload);
    size_t n = (size_t)head->samples * DIM;
    const void *data;
    assert_int_equal(head->dtype, w->job->global.wire.gradients);
    assert_true((head->scale != NULL) == (head->dtype == WIRE_F16));
    for (uint32_t f = 0; f < FEATURES; f++) {
        assert_int_equal(rt_segment_take(&seg, n, wire_dtype_size(head->dtype), &data), 0);
        w->scale[f] = head->scale ? head->scale[f] : 1;
        rt_widen_scaled(head->dtype, 1 / w->scale[f], data, w->gradient[f], n);
        for (size_t i = 0; i < n; i++)
            assert_true(isfinite(w->gradient[f][i]));
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void serve_push(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct trainer_world *w = ctx;
    struct wire_push_gradients head;
    rt_arena_reset(w->arena);
    assert_int_equal(
        wire_push_gradients_unpack(request->message, request->header.message_size, w->arena, &head),
        0);
    assert_int_equal(head.n_features, FEATURES);
    assert_int_equal(head.applied_through, head.synchronous ? head.step - 1 : 0);
    take_gradients(w, &head, request->payload);
    w->pushes++;
    w->push_rate = head.learning_rate;
    w->push_step = head.step;
    if (w->fail_push > 0) {
        w->fail_push--;
        rt_call_fail(call, w->fail_with ? w->fail_with : RT_EUNKNOWN, "it cannot be pushed");
    } else if (w->hold_pushes) {
        w->held[w->n_held++] = call;
    } else {
        tw_ack_push(w, call);
    }
}

static void serve_release(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)request;
    struct trainer_world *w = ctx;
    w->releases++;
    w->released_at[0]++;
    w->looked_up_open--;
    rt_call_reply(call, &(struct rt_outgoing){0});
}

static void serve_release_1(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct trainer_world *w = ctx;
    serve_release(ctx, call, request);
    w->released_at[0]--;
    w->released_at[1]++;
}

/* ---- the scripted composer ---- */

struct question {
    struct trainer_world *world;
    uint64_t sequence;
};

static void on_outcome(void *arg, int err, const struct rt_frame *reply)
{
    struct question *q = arg;
    struct trainer_world *w = q->world;
    struct wire_train_batch_reply head;
    if (err == RT_ECANCELED) {
        rt_free(q);
        return;
    }
    rt_arena_reset(w->arena);
    if (!err)
        err = wire_train_batch_reply_unpack(reply->message, reply->header.message_size, w->arena,
                                            &head);
    w->outcome[q->sequence % 64] = err ? err : (int)head.outcome;
    w->own_failure = !err && head.failed;
    w->answers++;
    rt_free(q);
}

void tw_send_batch(struct trainer_world *w, uint32_t split, uint64_t sequence, uint32_t attempt)
{
    struct wire_train_batch head = {.samples = SAMPLES,
                                    .n_dense = 2,
                                    .n_labels = 1,
                                    .evaluate = split >= RT_SPLIT_EVALUATE,
                                    .middleware_incarnation = 5,
                                    .middleware_loop = w->loop,
                                    .digest = 77,
                                    .has_before = w->in_turn && sequence > 0,
                                    .before = rt_batch_id(split, sequence - 1),
                                    .attempt = attempt};
    assert_int_equal(wire_train_batch_pack(&head, &w->out), 0);
    size_t end = 0;
    rt_segment_put(&end, SAMPLES * 2 * sizeof(float));
    size_t labels = rt_segment_put(&end, SAMPLES * sizeof(float));
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, NODE_C), end);
    memset(buf->data, 0, end);
    for (int i = 0; i < SAMPLES; i += 2)
        ((float *)(void *)(buf->data + labels))[i] = 1;
    buf->size = end;
    struct rt_piece piece = {buf->data, end, buf};
    struct question *q = rt_xcalloc(1, sizeof *q);
    *q = (struct question){w, sequence};
    w->outcome[sequence % 64] = 0;
    struct rt_outgoing out = {.batch_id = rt_batch_id(split, sequence),
                              .message = w->out.data,
                              .message_size = w->out.size,
                              .pieces = &piece,
                              .n_pieces = 1};
    assert_int_equal(rt_rpc_call(w->to_trainer, WIRE_TRAIN_BATCH, &out, 0, on_outcome, q), 0);
    rt_buf_unref(buf);
}

static void on_phase(void *arg, int err, const struct rt_frame *reply)
{
    struct trainer_world *w = arg;
    if (err)
        return;
    rt_arena_reset(w->arena);
    assert_int_equal(wire_await_phase_reply_unpack(reply->message, reply->header.message_size,
                                                   w->arena, &w->phase),
                     0);
    w->phases++;
}

void tw_await_phase(struct trainer_world *w, uint64_t known)
{
    struct wire_await_phase head = {.known = known, .composers = 1};
    assert_int_equal(wire_await_phase_pack(&head, &w->out), 0);
    struct rt_outgoing out = {.message = w->out.data, .message_size = w->out.size};
    assert_int_equal(rt_rpc_call(w->to_trainer, WIRE_AWAIT_PHASE, &out, 0, on_phase, w), 0);
}

static void on_ended(void *arg, int err, const struct rt_frame *reply)
{
    (void)arg, (void)reply;
    if (err != RT_ECANCELED)
        assert_int_equal(err, 0);
}

void tw_end_epoch(struct trainer_world *w, bool evaluate, uint64_t end0, uint64_t end1)
{
    uint32_t base = evaluate ? RT_SPLIT_EVALUATE : 0;
    struct wire_split_ledger ended[SPLITS] = {
        {.split = base, .end_sequence = end0, .rows_read = end0 * SAMPLES},
        {.split = base + 1, .end_sequence = end1, .rows_read = end1 * SAMPLES}};
    struct wire_end_of_epoch head = {
        .phase = w->phase.phase, .evaluate = evaluate, .n_ended = SPLITS, .ended = ended};
    assert_int_equal(wire_end_of_epoch_pack(&head, &w->out), 0);
    struct rt_outgoing out = {.message = w->out.data, .message_size = w->out.size};
    assert_int_equal(rt_rpc_call(w->to_trainer, WIRE_END_OF_EPOCH, &out, RT_S, on_ended, w), 0);
}

/* ---- the world ---- */

static void on_failed(void *ctx, int err)
{
    ((struct trainer_world *)ctx)->failed = err;
}

struct rt_identity tw_identity(enum rt_role role, const struct rt_job *job)
{
    struct rt_identity id = {.role = role,
                             .incarnation = 5,
                             .wire_version = RT_WIRE_VERSION,
                             .config_hash = job->config_hash,
                             .plan_hash = job->plan_hash};
    strncpy(id.job, job->name, sizeof id.job - 1);
    return id;
}

enum { METHODS = 3 };
static const struct rt_method_def middleware_method[LOOPS][METHODS] = {
    {{WIRE_LOOKUP_BATCH, "LookupBatch", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 0, serve_lookup},
     {WIRE_PUSH_GRADIENTS, "PushGradients", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 1 << 20,
      serve_push},
     {WIRE_RELEASE_BATCH, "ReleaseBatch", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 0, serve_release}},
    {{WIRE_LOOKUP_BATCH, "LookupBatch", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 0, serve_lookup},
     {WIRE_PUSH_GRADIENTS, "PushGradients", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 1 << 20,
      serve_push},
     {WIRE_RELEASE_BATCH, "ReleaseBatch", RT_ROLE_BIT(RT_ROLE_TRAINER), 4096, 0, serve_release_1}},
};

static bool connected(void *arg)
{
    struct trainer_world *w = arg;
    return rt_peer_is_up(w->to_trainer) && tr_trainer_ready(w->trainer, NULL, 0);
}

void tw_start_with(struct trainer_world *w, const char *const *set, size_t n_set, size_t pool)
{
    memset(w, 0, sizeof *w);
    struct sim_conf conf = {.seed = 11, .n_nodes = NODES, .pool_budget = pool};
    w->sim = sim_create(&conf);
    w->job = job_fixture(set, n_set);
    w->metrics = rt_metrics_create();
    assert_int_equal(rt_arena_create(1 << 20, &w->arena), 0);
    struct rt_rpc_conf c = {.io = sim_node(w->sim, NODE_C),
                            .self = tw_identity(RT_ROLE_DATA_COMPOSE, w->job),
                            .greeting = &wire_greeting,
                            .reply_max = 1 << 20,
                            .ctx = w};
    struct rt_rpc_conf m = {.io = sim_node(w->sim, NODE_M),
                            .self = tw_identity(RT_ROLE_MIDDLEWARE, w->job),
                            .greeting = &wire_greeting,
                            .n_methods = METHODS,
                            .ctx = w};
    struct tr_trainer_conf t = {.io = sim_node(w->sim, NODE_T),
                                .self = tw_identity(RT_ROLE_TRAINER, w->job),
                                .job = w->job,
                                .world = 1,
                                .listen = "sim:2:1",
                                .metrics = w->metrics,
                                .ctx = w,
                                .failed = on_failed};
    assert_int_equal(rt_rpc_create(&c, &w->composer), 0);
    static const char *const listen[LOOPS] = {"sim:1:1", "sim:1:2"};
    const char *address[LOOPS];
    for (uint32_t loop = 0; loop < LOOPS; loop++) {
        m.self.loop = loop;
        m.methods = middleware_method[loop];
        assert_int_equal(rt_rpc_create(&m, &w->middleware[loop]), 0);
        assert_int_equal(
            rt_rpc_listen(w->middleware[loop], listen[loop], w->middleware_address[loop]), 0);
        address[loop] = w->middleware_address[loop];
    }
    if (tr_trainer_create(&t, &w->trainer) != 0)
        fail_msg("%s", rt_err_text());
    tr_trainer_on_middleware(w->trainer, 0, 1, address, LOOPS, 5);
    w->to_trainer = rt_rpc_peer(w->composer, RT_ROLE_TRAINER, 0, 0);
    rt_peer_set_address(w->to_trainer, tr_trainer_address(w->trainer), 5);
    assert_true(sim_run_until(w->sim, connected, w, 10 * RT_S));
}

void tw_start(struct trainer_world *w, const char *const *set, size_t n_set)
{
    tw_start_with(w, set, n_set, 0);
}

double tw_page(const struct trainer_world *w, const char *what)
{
    char name[80];
    snprintf(name, sizeof name, "saffron_trainer_%s", what);
    return page_value(w->metrics, name);
}

/* A gauge per state and per phase: a batch is in one of them, and a rank. */
static void check_batches(const struct trainer_world *w)
{
    assert_true(page_sum(w->metrics, "saffron_trainer_phase") == 1);
    assert_true(page_sum(w->metrics, "saffron_trainer_queue_batches") ==
                tw_page(w, "batches_open"));
}

void tw_stop(struct trainer_world *w)
{
    sim_run_until(w->sim, NULL, NULL, 100 * RT_MS); /* let a running step end */
    assert_int_equal(w->failed, 0);
    for (unsigned i = 0; i < w->n_held; i++)
        tw_ack_push(w, w->held[i]);
    check_batches(w);
    tr_trainer_destroy(w->trainer);
    rt_metrics_destroy(w->metrics);
    rt_rpc_destroy(w->composer);
    for (uint32_t loop = 0; loop < LOOPS; loop++)
        rt_rpc_destroy(w->middleware[loop]);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
    wire_out_release(&w->out);
    rt_arena_destroy(w->arena);
    job_fixture_destroy(w->job);
}

static bool reached(void *arg)
{
    const struct tw_goal *g = arg;
    return g->world->answers >= g->answers && g->world->pushes >= g->pushes &&
           g->world->phases >= g->phases && g->world->n_held >= g->held;
}

void tw_run_until(struct trainer_world *w, struct tw_goal goal)
{
    goal.world = w;
    if (!sim_run_until(w->sim, reached, &goal, 60 * RT_S))
        fail_msg("answers %u of %u, pushes %u of %u, phases %u of %u, held %u of %u", w->answers,
                 goal.answers, w->pushes, goal.pushes, w->phases, goal.phases, w->n_held,
                 goal.held);
}

struct tr_report tw_report(struct trainer_world *w)
{
    struct tr_report r;
    tr_trainer_report(w->trainer, &r);
    return r;
}

bool tw_has_failed(void *arg)
{
    return ((struct trainer_world *)arg)->failed != 0;
}
