/* tests/sim/test_trainer.c -- a trainer rank between a scripted composer and a scripted middleware, in the
 * simulator: permits, repeats, a lost middleware before and after the step, values that are not finite,
 * epochs, 16 bits on the wire, payload memory that is used up. */
#include "tests/lib/job_fixture.h"
#include "tests/lib/page.h"
#include "tests/sim/sim_io.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/member.h"
#include "trainer/schedule.h"
#include "trainer/trainer.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { NODE_C, NODE_M, NODE_T, NODES };
enum { SAMPLES = 16, DIM = 4, FEATURES = 2, SPLITS = 2, BATCHES = 6, LOOPS = 2 };

struct world {
    struct sim *sim;
    struct rt_job *job;
    struct tr_trainer *trainer;
    struct rt_metrics *metrics;
    struct rt_rpc *composer, *middleware[LOOPS]; /* loops of one middleware */
    char middleware_address[LOOPS][RT_ADDRESS_MAX];
    struct rt_peer *to_trainer;
    struct rt_arena *arena;
    struct wire_out out;
    /* middleware */
    unsigned released_at[LOOPS];
    unsigned lookups, pushes, releases, looked_up_open, looked_up_open_max;
    int fail_lookup, fail_push; /* so many times */
    int fail_with;              /* 0: RT_EUNKNOWN, the middleware has lost the batch */
    bool hold_pushes;
    bool in_turn; /* batches say which one is before them */
    struct rt_call *held[64];
    unsigned n_held;
    bool poison;                                              /* embeddings are NaN */
    float gradient[FEATURES][SAMPLES * DIM], scale[FEATURES]; /* of the latest push, widened */
    double push_rate; /* of it: factor on the tables' rates */
    uint64_t push_step;
    /* composer */
    struct wire_await_phase_reply phase;
    unsigned phases;
    int outcome[64];  /* by sequence % 64 */
    bool own_failure; /* of the latest outcome */
    uint32_t loop;    /* where batches are put */
    unsigned answers;
    int failed;
};

/* ---- the scripted middleware ---- */

static void reply_lookup(struct world *w, struct rt_call *call, uint32_t samples)
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
    struct world *w = ctx;
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

static void ack_push(struct world *w, struct rt_call *call)
{
    struct wire_push_gradients_reply head = {.rows_applied = 1};
    assert_int_equal(wire_push_gradients_reply_pack(&head, &w->out), 0);
    w->looked_up_open--;
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
}

static void take_gradients(struct world *w, const struct wire_push_gradients *head,
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
    struct world *w = ctx;
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
        ack_push(w, call);
    }
}

static void serve_release(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)request;
    struct world *w = ctx;
    w->releases++;
    w->released_at[0]++;
    w->looked_up_open--;
    rt_call_reply(call, &(struct rt_outgoing){0});
}

static void serve_release_1(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;
    serve_release(ctx, call, request);
    w->released_at[0]--;
    w->released_at[1]++;
}

/* ---- the scripted composer ---- */

struct question {
    struct world *world;
    uint64_t sequence;
};

static void on_outcome(void *arg, int err, const struct rt_frame *reply)
{
    struct question *q = arg;
    struct world *w = q->world;
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

static void send_batch(struct world *w, uint32_t split, uint64_t sequence, uint32_t attempt)
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
    struct world *w = arg;
    if (err)
        return;
    rt_arena_reset(w->arena);
    assert_int_equal(wire_await_phase_reply_unpack(reply->message, reply->header.message_size,
                                                   w->arena, &w->phase),
                     0);
    w->phases++;
}

static void await_phase(struct world *w, uint64_t known)
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

static void end_epoch(struct world *w, bool evaluate, uint64_t end0, uint64_t end1)
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
    ((struct world *)ctx)->failed = err;
}

static struct rt_identity identity(enum rt_role role, const struct rt_job *job)
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
    struct world *w = arg;
    return rt_peer_is_up(w->to_trainer) && tr_trainer_ready(w->trainer, NULL, 0);
}

/* pool: payload bytes of each node; 0: enough. */
static void start_with(struct world *w, const char *const *set, size_t n_set, size_t pool)
{
    memset(w, 0, sizeof *w);
    struct sim_conf conf = {.seed = 11, .n_nodes = NODES, .pool_budget = pool};
    w->sim = sim_create(&conf);
    w->job = job_fixture(set, n_set);
    w->metrics = rt_metrics_create();
    assert_int_equal(rt_arena_create(1 << 20, &w->arena), 0);
    struct rt_rpc_conf c = {.io = sim_node(w->sim, NODE_C),
                            .self = identity(RT_ROLE_DATA_COMPOSE, w->job),
                            .greeting = &wire_greeting,
                            .reply_max = 1 << 20,
                            .ctx = w};
    struct rt_rpc_conf m = {.io = sim_node(w->sim, NODE_M),
                            .self = identity(RT_ROLE_MIDDLEWARE, w->job),
                            .greeting = &wire_greeting,
                            .n_methods = METHODS,
                            .ctx = w};
    struct tr_trainer_conf t = {.io = sim_node(w->sim, NODE_T),
                                .self = identity(RT_ROLE_TRAINER, w->job),
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

static void start(struct world *w, const char *const *set, size_t n_set)
{
    start_with(w, set, n_set, 0);
}

static double page(const struct world *w, const char *what)
{
    char name[80];
    snprintf(name, sizeof name, "saffron_trainer_%s", what);
    return page_value(w->metrics, name);
}

/* A gauge per state and per phase: a batch is in one of them, and a rank. */
static void check_batches(const struct world *w)
{
    assert_true(page_sum(w->metrics, "saffron_trainer_phase") == 1);
    assert_true(page_sum(w->metrics, "saffron_trainer_queue_batches") == page(w, "batches_open"));
}

static void stop(struct world *w)
{
    sim_run_until(w->sim, NULL, NULL, 100 * RT_MS); /* let a running step end */
    assert_int_equal(w->failed, 0);
    for (unsigned i = 0; i < w->n_held; i++)
        ack_push(w, w->held[i]);
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

struct goal {
    struct world *world;
    unsigned answers, pushes, phases, held;
};

static bool reached(void *arg)
{
    const struct goal *g = arg;
    return g->world->answers >= g->answers && g->world->pushes >= g->pushes &&
           g->world->phases >= g->phases && g->world->n_held >= g->held;
}

static void run_until(struct world *w, struct goal goal)
{
    goal.world = w;
    if (!sim_run_until(w->sim, reached, &goal, 60 * RT_S))
        fail_msg("answers %u of %u, pushes %u of %u, phases %u of %u, held %u of %u", w->answers,
                 goal.answers, w->pushes, goal.pushes, w->phases, goal.phases, w->n_held,
                 goal.held);
}

static struct tr_report report(struct world *w)
{
    struct tr_report r;
    tr_trainer_report(w->trainer, &r);
    return r;
}

static bool has_failed(void *arg)
{
    return ((struct world *)arg)->failed != 0;
}

/* ---- the tests ---- */

/* What the page says after six steps and two evaluations is what the report says. */
static void check_page(const struct world *w, const struct tr_report *r)
{
    static const char *const part[] = {"wait", "header", "compute", "reduce", "commit"};
    const struct {
        const char *name;
        double want;
    } row[] = {
        {"steps_total", 6},
        {"samples_trained_total", 6 * SAMPLES},
        {"batches_trained_total", 6},
        {"samples_dropped_total", 0},
        {"evaluations_total", 2},
        {"evaluate_seconds_count", 2},
        {"test_auc", r->test_auc},
        {"test_logloss", r->test_logloss},
        {"epoch_loss", r->train_loss},
        {"learning_rate", 0.1}, /* of the fixture */
        {"epoch", 1},
        {"epochs", 2},
        {"group_epoch", 1},
        {"world", 1},
        {"permits", w->job->global.staleness},
        {"permits_used", 0},
        {"batches_open", 0},
        {"staleness_count", 6},
        {"step_seconds_sum{part=\"compute\"}", 6e-3}, /* the simulator's 1 ms a piece */
        {"step_seconds_sum{part=\"header\"}", 0},
        {"step_seconds_sum{part=\"reduce\"}", 0},
    };
    char name[64];
    double sum = 0;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        if (fabs(page(w, row[i].name) - row[i].want) > 1e-12)
            fail_msg("%s: got %g, want %g", row[i].name, page(w, row[i].name), row[i].want);
    for (size_t i = 0; i < ARRAY_LEN(part); i++) {
        snprintf(name, sizeof name, "step_seconds_count{part=\"%s\"}", part[i]);
        assert_true(page(w, name) == 6);
        snprintf(name, sizeof name, "step_seconds_sum{part=\"%s\"}", part[i]);
        sum += page(w, name);
    }
    /* What is behind the latest step is its gradients' way only. */
    assert_true(sum > 6e-3 && sum <= r->train_seconds && sum > r->train_seconds - 2e-3);
    assert_true(page(w, "wait_seconds_total") == page(w, "step_seconds_sum{part=\"wait\"}"));
}

static void test_epochs(void **state)
{
    (void)state;
    struct world w;
    start(&w, (const char *[]){"data.epochs=2"}, 1);
    await_phase(&w, 0);
    run_until(&w, (struct goal){.phases = 1});
    assert_int_equal(w.phase.kind, WIRE_PHASE_TRAIN);
    assert_true(isnan(page(&w, "loss")) && isnan(page(&w, "epoch_loss")) &&
                isnan(page(&w, "test_auc")) && isnan(page(&w, "test_logloss")));
    for (unsigned epoch = 0; epoch < 2; epoch++) {
        uint64_t first = epoch * 3;
        unsigned before = w.answers;
        for (unsigned i = 0; i < 3; i++)
            send_batch(&w, 1, first + i, 1);
        end_epoch(&w, false, 0, first + 3);
        await_phase(&w, w.phase.phase);
        run_until(&w, (struct goal){.answers = before + 3, .phases = 2 + 2 * epoch});
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(w.outcome[first + i], WIRE_TRAINED);
        assert_int_equal(w.phase.kind, WIRE_PHASE_EVALUATE);
        send_batch(&w, RT_SPLIT_EVALUATE, epoch, 1);
        end_epoch(&w, true, epoch + 1, 0);
        await_phase(&w, w.phase.phase);
        run_until(&w, (struct goal){.answers = before + 4, .phases = 3 + 2 * epoch});
        assert_int_equal(w.outcome[epoch], WIRE_EVALUATED);
    }
    assert_int_equal(w.phase.kind, WIRE_PHASE_DONE);
    struct tr_report r = report(&w);
    assert_true(r.done);
    assert_int_equal(r.step, 6);
    assert_int_equal(r.samples_trained, 6 * SAMPLES);
    assert_int_equal(r.samples_read, 6 * SAMPLES);
    assert_int_equal(r.test_samples, SAMPLES);
    assert_true(r.test_auc >= 0 && r.test_auc <= 1);
    assert_int_equal(r.permits_used, 0);
    check_page(&w, &r);
    stop(&w);
}

/* S permits: while the middleware holds the acks, no more than S batches are looked up. */
static void test_staleness(void **state)
{
    (void)state;
    static const struct {
        const char *set[2];
        unsigned limit;
    } row[] = {{{"global.staleness=1", "global.mode=hybrid"}, 1},
               {{"global.staleness=3", "global.mode=hybrid"}, 3},
               {{"global.staleness=3", "global.mode=full"}, 1}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        start(&w, row[i].set, 2);
        w.hold_pushes = true;
        for (unsigned b = 0; b < BATCHES; b++)
            send_batch(&w, 0, b, 1);
        run_until(&w, (struct goal){.held = row[i].limit});
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.looked_up_open_max, row[i].limit);
        assert_int_equal(w.n_held, row[i].limit);
        assert_true(page(&w, "permits") == row[i].limit &&
                    page(&w, "permits_used") == row[i].limit);
        assert_true(page(&w, "queue_batches{state=\"pushing\"}") == row[i].limit);
        assert_true(page(&w, "queue_batches{state=\"queued\"}") == BATCHES - row[i].limit);
        w.hold_pushes = false;
        for (unsigned h = 0; h < w.n_held; h++)
            ack_push(&w, w.held[h]);
        w.n_held = 0;
        run_until(&w, (struct goal){.answers = BATCHES});
        assert_int_equal(w.looked_up_open_max, row[i].limit);
        assert_int_equal(report(&w).staleness_max, row[i].limit);
        assert_int_equal(report(&w).samples_trained, BATCHES * SAMPLES);
        assert_true(page(&w, "staleness_count") == w.lookups && w.lookups == BATCHES);
        assert_true(page(&w, "staleness_sum") <= row[i].limit * BATCHES);
        assert_true(page(&w, row[i].limit == 1 ? "staleness_bucket{le=\"1\"}"
                                               : "staleness_bucket{le=\"4\"}") == BATCHES);
        assert_true(row[i].limit == 1 || page(&w, "staleness_bucket{le=\"2\"}") < BATCHES);
        stop(&w);
    }
}

/* The schedule's factor is in the dense rate and in what the tables are told, of one step the same; a push that is
 * sent again has that of its step; the operator's factor is on top. */
static void test_schedule(void **state)
{
    (void)state;
    enum { STEPS = 10 };
    const struct tr_schedule schedule = {
        .kind = TR_SCHEDULE_COSINE, .warmup = 3, .warmup_start = 0.001, .steps = 8, .final = 0.25};
    struct world w;
    start(&w,
          (const char *[]){"model.schedule={type: cosine, warmup: 3, steps: 8, final: 0.25}",
                           "model.optimizer.clip_norm=1e-9"},
          2);
    for (unsigned step = 1; step <= STEPS; step++) {
        double operator_s = step > STEPS / 2 ? 0.5 : 1;
        double want = operator_s * tr_schedule_factor(&schedule, step);
        assert_int_equal(tr_trainer_set_learning_rate(w.trainer, operator_s), 0);
        w.fail_push = step == 2; /* lost: data-compose puts the batch again */
        send_batch(&w, 0, step - 1, 1);
        run_until(&w, (struct goal){.pushes = w.pushes + 1});
        assert_int_equal(w.push_step, step);
        assert_true(w.push_rate == want);
        if (step == 2) {
            w.push_rate = 0;
            sim_run_until(w.sim, NULL, NULL, RT_S);
            assert_int_equal(w.outcome[1], WIRE_RETRY);
            send_batch(&w, 0, 1, 2);
            run_until(&w, (struct goal){.pushes = w.pushes + 1});
            assert_true(w.push_rate == want && w.push_step == step);
        }
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.outcome[step - 1], WIRE_TRAINED);
        assert_true(fabs(page(&w, "learning_rate_factor") - want) < 1e-12);
        assert_true(fabs(page(&w, "learning_rate") - 0.1 * want) < 1e-12); /* 0.1: of the fixture */
        assert_true(page(&w, "gradient_norm") > 0);
    }
    assert_true(w.push_rate == 0.5 * 0.25);
    stop(&w);
}

/* Lost before the step: nothing has happened, the batch comes again and is trained once. */
static void test_lookup_lost(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    w.fail_lookup = 1;
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    assert_int_equal(report(&w).permits_used, 0);
    send_batch(&w, 0, 0, 2);
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    assert_int_equal(report(&w).step, 1);
    stop(&w);
}

/* Lost after the step: the gradients are kept and pushed again; the batch is not stepped twice. */
static void test_push_lost(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    w.fail_push = 2;
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    uint64_t digest = tr_trainer_digest(w.trainer);
    assert_int_equal(report(&w).permits_used, 1);
    send_batch(&w, 0, 0, 2);
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    send_batch(&w, 0, 0, 3);
    run_until(&w, (struct goal){.answers = 3});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    assert_int_equal(w.lookups, 1);
    assert_int_equal(w.pushes, 3);
    assert_int_equal(report(&w).step, 1);
    assert_true(tr_trainer_digest(w.trainer) == digest);
    assert_int_equal(report(&w).permits_used, 0);
    stop(&w);
}

/* A batch that cannot be looked up three times is dropped, and the middleware need not keep it. */
static void test_poisoned(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    w.fail_lookup = 3;
    w.fail_with = RT_EPROTO;
    for (unsigned attempt = 1; attempt <= 3; attempt++) {
        send_batch(&w, 0, 0, attempt);
        run_until(&w, (struct goal){.answers = attempt});
        assert_int_equal(w.outcome[0], attempt < 3 ? WIRE_RETRY : WIRE_DROPPED);
    }
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.releases, 1);
    assert_int_equal(report(&w).samples_dropped, SAMPLES);
    assert_int_equal(report(&w).permits_used, 0);
    stop(&w);
}

/* A stepped batch cannot be dropped: where its gradients are refused for a reason of their own, the job
 * fails and says why, instead of asking for ever. */
static void test_push_refused(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    w.fail_push = 3;
    w.fail_with = RT_EPROTO;
    for (unsigned attempt = 1; attempt <= 2; attempt++) {
        send_batch(&w, 0, 0, attempt);
        run_until(&w, (struct goal){.answers = attempt});
        assert_int_equal(w.outcome[0], WIRE_RETRY);
    }
    send_batch(&w, 0, 0, 3);
    sim_run_until(w.sim, has_failed, &w, 10 * RT_S);
    assert_int_equal(w.failed, RT_EPROTO);
    w.failed = 0;
    stop(&w);
}

/* The same batch again: joined while it is open, answered at once when it is finished. */
static void test_repeat(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    w.hold_pushes = true;
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.held = 1});
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[0], RT_ESTALE); /* the first call was replaced */
    w.hold_pushes = false;
    ack_push(&w, w.held[0]);
    w.n_held = 0;
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 3});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    assert_int_equal(w.lookups, 1);
    assert_int_equal(report(&w).samples_trained, SAMPLES);
    stop(&w);
}

/* Of a composer that has not heard that all trainers were lost, and its rows begin anew: no header would take it. */
static void test_too_far(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    send_batch(&w, 0, RT_BATCH_WINDOW + 1, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[1], WIRE_RETRY);
    assert_false(w.own_failure);
    send_batch(&w, 0, RT_BATCH_WINDOW - 1, 1);
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[63], WIRE_TRAINED);
    stop(&w);
}

/* What is lost on the way is not the batch's fault: only an error of its own is told as one. */
static void test_attempts(void **state)
{
    (void)state;
    static const int error[] = {RT_EUNKNOWN, RT_EPROTO};
    for (size_t i = 0; i < ARRAY_LEN(error); i++) {
        struct world w;
        start(&w, NULL, 0);
        w.fail_lookup = 1;
        w.fail_with = error[i];
        send_batch(&w, 0, 0, 1);
        run_until(&w, (struct goal){.answers = 1});
        assert_int_equal(w.outcome[0], WIRE_RETRY);
        assert_true(w.own_failure == (error[i] == RT_EPROTO));
        stop(&w);
    }
}

/* A batch that waits, and was put at another loop meanwhile: it goes with the new one, and the first place need not
 * keep it. Once it is looked up it is the new copy that nobody needs. */
static void test_put_elsewhere(void **state)
{
    (void)state;
    static const struct {
        bool waiting;
        uint32_t first, second;
    } row[] = {{true, 1, 0}, {false, 0, 1}};
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        start(&w, (const char *[]){"global.staleness=1"}, 1);
        w.hold_pushes = true;
        if (row[i].waiting) { /* behind a batch that has the only permit */
            send_batch(&w, 0, 0, 1);
            run_until(&w, (struct goal){.held = 1});
        }
        w.loop = row[i].first;
        send_batch(&w, 0, 1, 1);
        if (!row[i].waiting)
            run_until(&w, (struct goal){.held = 1});
        w.loop = row[i].second;
        send_batch(&w, 0, 1, 1);
        run_until(&w, (struct goal){.answers = 1});
        assert_int_equal(w.outcome[1], RT_ESTALE); /* the first call was replaced */
        sim_run_until(w.sim, NULL, NULL, RT_S);
        assert_int_equal(w.released_at[row[i].waiting ? row[i].first : row[i].second], 1);
        assert_int_equal(w.released_at[row[i].waiting ? row[i].second : row[i].first], 0);
        w.hold_pushes = false;
        ack_push(&w, w.held[0]);
        w.n_held = 0;
        run_until(&w, (struct goal){.answers = row[i].waiting ? 3 : 2});
        assert_int_equal(w.outcome[1], WIRE_TRAINED);
        stop(&w);
    }
}

static void test_nonfinite(void **state)
{
    (void)state;
    struct world w;
    start(&w, NULL, 0);
    uint64_t digest = tr_trainer_digest(w.trainer);
    w.poison = true;
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_DROPPED);
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.releases, 1);
    assert_int_equal(w.pushes, 0);
    assert_true(tr_trainer_digest(w.trainer) == digest);
    w.poison = false;
    send_batch(&w, 0, 1, 1);
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[1], WIRE_TRAINED);
    assert_true(tr_trainer_digest(w.trainer) != digest);
    assert_int_equal(report(&w).samples_dropped, SAMPLES);
    assert_int_equal(report(&w).step, 1);
    stop(&w);
}

/* One batch, pushed twice since the first push is lost; then a test batch. Embeddings here are the same in 16 bits, so the
 * step is the same; gradients are within half a unit of their last place, and are not scaled twice. */
static void test_half_wire(void **state)
{
    (void)state;
    static const struct {
        const char *set[2];
        float within; /* of a gradient */
    } row[] = {
        {{"global.wire.embeddings=float32", "global.wire.gradients=float32"}, 0},
        {{"global.wire.embeddings=bfloat16", "global.wire.gradients=float32"}, 0},
        {{"global.wire.embeddings=float16", "global.wire.gradients=float32"}, 0},
        {{"global.wire.embeddings=float32", "global.wire.gradients=bfloat16"}, 0x1p-8f},
        {{"global.wire.embeddings=float32", "global.wire.gradients=float16"}, 0x1p-11f},
        {{"global.wire.dtype=bfloat16", "global.wire.dtype=bfloat16"}, 0x1p-8f},
        {{"global.wire.dtype=float16", "global.wire.dtype=float16"}, 0x1p-11f},
    };
    float want[FEATURES][SAMPLES * DIM];
    uint64_t digest = 0;
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct world w;
        start(&w, row[r].set, 2);
        w.fail_push = 1;
        send_batch(&w, 0, 0, 1);
        run_until(&w, (struct goal){.answers = 1});
        assert_int_equal(w.outcome[0], WIRE_RETRY);
        memset(w.gradient, 0, sizeof w.gradient);
        send_batch(&w, 0, 0, 2);
        run_until(&w, (struct goal){.answers = 2});
        assert_int_equal(w.outcome[0], WIRE_TRAINED);
        if (r == 0) {
            memcpy(want, w.gradient, sizeof want);
            digest = tr_trainer_digest(w.trainer);
        }
        assert_true(tr_trainer_digest(w.trainer) == digest);
        float most = 0;
        for (uint32_t i = 0; i < FEATURES * SAMPLES * DIM; i++) {
            float wide = want[i / (SAMPLES * DIM)][i % (SAMPLES * DIM)];
            float got = w.gradient[i / (SAMPLES * DIM)][i % (SAMPLES * DIM)];
            most = fmaxf(most, fabsf(wide));
            if (!(fabsf(got - wide) <= row[r].within * fabsf(wide)))
                fail_msg("%s: gradient %u: got %g, want %g", row[r].set[1], i, (double)got,
                         (double)wide);
        }
        assert_true(most > 0x1p-14f && page(&w, "gradients_saturated_total") == 0);
        assert_true(report(&w).bytes_embeddings ==
                    FEATURES * SAMPLES * DIM * wire_dtype_size(w.job->global.wire.embeddings));
        stop(&w);
    }
}

/* A batch of 16 takes 256 bytes as it comes, 512 of embeddings and as many of gradients. */
enum { BATCH_BYTES = 1280, POOL = 4096 };

/* Three quarters of the pool are for batches, so it has room for two: the rest is told to come later, before anything is
 * done for it, though there are permits. */
static void test_full(void **state)
{
    (void)state;
    struct world w;
    start_with(&w, (const char *[]){"global.staleness=6"}, 1, POOL);
    w.hold_pushes = true;
    for (unsigned b = 0; b < BATCHES; b++)
        send_batch(&w, 0, b, 1);
    run_until(&w, (struct goal){.answers = BATCHES - 2, .held = 2});
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.lookups, 2);
    assert_true(page(&w, "reserved_bytes") == 2 * BATCH_BYTES);
    for (unsigned b = 2; b < BATCHES; b++)
        assert_int_equal(w.outcome[b], RT_EFULL);
    w.hold_pushes = false;
    for (unsigned h = 0; h < 2; h++)
        ack_push(&w, w.held[h]);
    w.n_held = 0;
    run_until(&w, (struct goal){.answers = BATCHES});
    assert_true(page(&w, "reserved_bytes") == 0);
    for (unsigned b = 2; b < BATCHES; b++) {
        send_batch(&w, 0, b, 1);
        run_until(&w, (struct goal){.answers = BATCHES + b - 1});
    }
    for (unsigned b = 0; b < BATCHES; b++)
        assert_int_equal(w.outcome[b], WIRE_TRAINED);
    assert_int_equal(report(&w).samples_trained, BATCHES * SAMPLES);
    assert_int_equal(report(&w).step, BATCHES);
    stop(&w);
}

/* In `full` the one whose turn it is comes in, though those that wait for it have reserved all there is. */
static void test_full_in_turn(void **state)
{
    (void)state;
    struct world w;
    start_with(&w, (const char *[]){"global.mode=full"}, 1, POOL);
    w.in_turn = true;
    for (unsigned b = 3; b > 0; b--)
        send_batch(&w, 0, b, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[1], RT_EFULL);
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    send_batch(&w, 0, 1, 1);
    run_until(&w, (struct goal){.answers = 5});
    for (unsigned b = 0; b < 4; b++)
        assert_int_equal(w.outcome[b], WIRE_TRAINED);
    stop(&w);
}

/* The pool is used up by something else: the batch goes back before it is stepped, by no fault of its own. */
static void test_no_gradient_buffer(void **state)
{
    (void)state;
    struct world w;
    start_with(&w, NULL, 0, POOL);
    struct rt_buf *other = rt_io_buf(sim_node(w.sim, NODE_T), POOL - BATCH_BYTES + 256);
    assert_non_null(other);
    uint64_t digest = tr_trainer_digest(w.trainer);
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 1});
    assert_int_equal(w.outcome[0], WIRE_RETRY);
    assert_true(!w.own_failure && w.lookups == 1 && w.pushes == 0);
    assert_int_equal(report(&w).permits_used, 0);
    assert_true(tr_trainer_digest(w.trainer) == digest);
    rt_buf_unref(other);
    send_batch(&w, 0, 0, 1);
    run_until(&w, (struct goal){.answers = 2});
    assert_int_equal(w.outcome[0], WIRE_TRAINED);
    stop(&w);
}

/* A job whose batches can never fit is refused at once, by the keys that say so. */
static void test_too_large(void **state)
{
    (void)state;
    struct world w = {0};
    struct sim_conf conf = {.seed = 11, .n_nodes = NODES, .pool_budget = BATCH_BYTES};
    w.sim = sim_create(&conf);
    w.job = job_fixture(NULL, 0);
    struct tr_trainer_conf t = {.io = sim_node(w.sim, NODE_T),
                                .self = identity(RT_ROLE_TRAINER, w.job),
                                .job = w.job,
                                .world = 1,
                                .listen = "sim:2:1"};
    assert_int_equal(tr_trainer_create(&t, &w.trainer), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "data.batch_size 16: a batch takes 1280 bytes"));
    assert_null(w.trainer);
    sim_destroy(w.sim);
    job_fixture_destroy(w.job);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_epochs),       cmocka_unit_test(test_staleness),
        cmocka_unit_test(test_lookup_lost),  cmocka_unit_test(test_push_lost),
        cmocka_unit_test(test_repeat),       cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_attempts),     cmocka_unit_test(test_put_elsewhere),
        cmocka_unit_test(test_poisoned),     cmocka_unit_test(test_push_refused),
        cmocka_unit_test(test_half_wire),    cmocka_unit_test(test_full),
        cmocka_unit_test(test_full_in_turn), cmocka_unit_test(test_no_gradient_buffer),
        cmocka_unit_test(test_too_large),    cmocka_unit_test(test_too_far),
        cmocka_unit_test(test_schedule),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
