/* tests/sim/test_composer.c -- a composer between a scripted middleware and a scripted trainer, in the
 * simulator: epochs and evaluations, refusals, lost peers, restarts of the composer and of the trainer. */
#include "data_compose/composer.h"
#include "tests/lib/data_job.h"
#include "tests/lib/page.h"
#include "tests/sim/sim_io.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/map.h"
#include "runtime/base/mem.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/ledger.h"
#include "runtime/wire/member.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { NODE_C, NODE_M, NODE_T, NODES };
enum { EPOCHS = 2, ROWS = 1000, TEST_ROWS = 200, OPEN_MAX = 4 };

struct world {
    struct sim *sim;
    struct data_job dj;
    struct rt_yaml *yaml;
    struct dc_composer *composer;
    struct rt_metrics *metrics; /* of this composer */
    struct rt_rpc *middleware, *trainer;
    char middleware_address[RT_ADDRESS_MAX], trainer_address[RT_ADDRESS_MAX];
    uint64_t composer_incarnation, trainer_incarnation;
    struct rt_arena *arena;
    struct wire_out out;
    struct rt_map put;     /* batch id -> digest, as the middleware holds it */
    struct rt_map trained; /* batch id -> digest of the first time, over the whole test */
    /* the trainer */
    struct rt_ledger *ledger, *evaluation;
    uint64_t phase, epoch, samples, statistics;
    enum wire_phase_kind kind;
    struct rt_call *waiter;
    uint64_t waiter_known;
    struct rt_call *held[64]; /* TrainBatch calls that are not answered yet */
    uint64_t held_id[64];
    unsigned n_held, trains, puts, held_max, attempts_max;
    int full, retry, unknown; /* so many refusals: of PutBatch; RETRY of TrainBatch */
    bool blameless;           /* ... and none of its own doing */
    bool hold;                /* answer no TrainBatch */
    bool stick;               /* answer all but the first of a split */
    unsigned rows;            /* of training */
    bool done;
    int failed;
};

/* ---- the middleware ---- */

/* What the message says of the payload: c1 has weights in every second world, all of them 1. */
static void check_payload(const struct world *w, const struct wire_put_batch *head,
                          const struct rt_buf *payload)
{
    struct rt_segments seg = rt_segments_of(payload);
    const void *at;

    assert_true((head->weighted != NULL) == (w->dj.column[3].weight_separator != 0));
    for (uint32_t f = 0; f < head->n_features; f++) {
        assert_int_equal(rt_segment_take(&seg, head->n_ids[f], sizeof(uint64_t), &at), 0);
        if (!head->weighted || !head->weighted[f])
            continue;
        assert_int_equal(f, 0);
        assert_int_equal(rt_segment_take(&seg, head->n_ids[f], sizeof(float), &at), 0);
        for (uint32_t i = 0; i < head->n_ids[f]; i++)
            assert_true(((const float *)at)[i] == 1);
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void serve_put(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;
    struct wire_put_batch head;
    uint64_t digest;

    rt_arena_reset(w->arena);
    assert_int_equal(
        wire_put_batch_unpack(request->message, request->header.message_size, w->arena, &head), 0);
    check_payload(w, &head, request->payload);
    w->puts++;
    if (w->full > 0) {
        w->full--;
        rt_call_fail(call, RT_EFULL, "no room");
        return;
    }
    /* What a composer sent before it went may still arrive. */
    assert_true(head.composer_incarnation <= w->composer_incarnation);
    if (rt_map_get(&w->put, request->header.batch_id, &digest))
        assert_true(digest == head.digest);
    rt_map_put(&w->put, request->header.batch_id, head.digest);
    struct wire_put_batch_reply reply = {1};
    assert_int_equal(wire_put_batch_reply_pack(&reply, &w->out), 0);
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
}

/* ---- the trainer ---- */

static void tell(struct world *w)
{
    struct wire_split_ledger *ledger;
    struct wire_await_phase_reply reply = {
        .phase = w->phase, .kind = w->kind, .epoch = w->epoch, .pass = w->epoch};
    struct wire_statistics statistics = {"x4", 0.5, 0.29, ROWS};
    struct rt_call *call = w->waiter;
    bool evaluate = w->kind == WIRE_PHASE_EVALUATE;

    rt_arena_reset(w->arena);
    assert_int_equal(
        rt_ledger_export(evaluate ? w->evaluation : w->ledger, w->arena, &ledger, &reply.n_ledger),
        0);
    for (uint32_t i = 0; evaluate && i < reply.n_ledger; i++)
        ledger[i].split += RT_SPLIT_EVALUATE;
    reply.ledger = ledger;
    reply.n_statistics = w->kind != WIRE_PHASE_STATISTICS;
    reply.statistics = &statistics;
    assert_int_equal(wire_await_phase_reply_pack(&reply, &w->out), 0);
    w->waiter = NULL;
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
}

static void next_phase(struct world *w, enum wire_phase_kind kind, uint64_t epoch)
{
    w->phase++;
    w->kind = kind;
    w->epoch = epoch;
    if (w->waiter)
        tell(w);
}

static void check_phase(struct world *w)
{
    uint32_t splits = w->dj.job.data.splits;

    if (w->kind == WIRE_PHASE_TRAIN && rt_ledger_epoch_over(w->ledger, splits)) {
        rt_ledger_next_epoch(w->ledger);
        next_phase(w, WIRE_PHASE_EVALUATE, w->epoch);
    } else if (w->kind == WIRE_PHASE_EVALUATE && rt_ledger_epoch_over(w->evaluation, splits)) {
        rt_ledger_next_epoch(w->evaluation);
        if (w->epoch + 1 < EPOCHS)
            next_phase(w, WIRE_PHASE_TRAIN, w->epoch + 1);
        else
            next_phase(w, WIRE_PHASE_DONE, w->epoch);
    }
}

static void serve_await(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;
    struct wire_await_phase head;

    rt_arena_reset(w->arena);
    assert_int_equal(
        wire_await_phase_unpack(request->message, request->header.message_size, w->arena, &head),
        0);
    if (w->waiter)
        rt_call_fail(w->waiter, RT_ESTALE, "asked again");
    w->waiter = call;
    if (w->kind == WIRE_PHASE_STATISTICS && head.n_statistics == 1) {
        assert_string_equal(head.statistics[0].column, "x4");
        assert_true(head.statistics[0].count == w->rows);
        w->statistics++;
        next_phase(w, WIRE_PHASE_TRAIN, 0);
    } else if (head.known != w->phase) {
        tell(w);
    }
}

static void answer(struct world *w, struct rt_call *call, uint64_t id, enum wire_outcome outcome)
{
    struct wire_train_batch_reply reply = {
        .outcome = outcome, .reason = "", .failed = outcome == WIRE_RETRY && !w->blameless};
    uint32_t split = rt_batch_split(id) % RT_SPLIT_EVALUATE;

    if (outcome == WIRE_TRAINED)
        assert_int_equal(rt_ledger_finished(w->ledger, id), 0);
    if (outcome == WIRE_EVALUATED)
        assert_int_equal(
            rt_ledger_finished(w->evaluation, rt_batch_id(split, rt_batch_sequence(id))), 0);
    if (outcome != WIRE_RETRY)
        rt_map_remove(&w->put, id);
    assert_int_equal(wire_train_batch_reply_pack(&reply, &w->out), 0);
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
    check_phase(w);
}

static void serve_train(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;
    struct wire_train_batch head;
    uint64_t id = request->header.batch_id, digest;

    rt_arena_reset(w->arena);
    assert_int_equal(
        wire_train_batch_unpack(request->message, request->header.message_size, w->arena, &head),
        0);
    assert_true(head.evaluate == (rt_batch_split(id) >= RT_SPLIT_EVALUATE));
    w->trains++;
    if (head.attempt > w->attempts_max)
        w->attempts_max = head.attempt;
    uint64_t key = rt_batch_id(rt_batch_split(id) % RT_SPLIT_EVALUATE, rt_batch_sequence(id));
    if (rt_ledger_is_finished(head.evaluate ? w->evaluation : w->ledger, key)) {
        answer(w, call, id, head.evaluate ? WIRE_EVALUATED : WIRE_TRAINED); /* that was lost */
        return;
    }
    if (w->retry > 0 || !rt_map_get(&w->put, id, &digest)) {
        w->retry -= w->retry > 0;
        answer(w, call, id, WIRE_RETRY);
        return;
    }
    assert_true(digest == head.digest && head.epoch == w->epoch);
    uint64_t before;
    if (rt_map_get(&w->trained, id, &before))
        assert_true(before == digest); /* whoever makes it, however often */
    else
        w->samples += head.evaluate ? 0 : head.samples;
    rt_map_put(&w->trained, id, digest);
    if (w->hold || (w->stick && rt_batch_sequence(id) == 0 && !head.evaluate)) {
        w->held_id[w->n_held] = id;
        w->held[w->n_held++] = call;
        if (w->n_held > w->held_max)
            w->held_max = w->n_held;
        return;
    }
    answer(w, call, id, head.evaluate ? WIRE_EVALUATED : WIRE_TRAINED);
}

static void serve_end(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;
    struct wire_end_of_epoch head;

    rt_arena_reset(w->arena);
    assert_int_equal(
        wire_end_of_epoch_unpack(request->message, request->header.message_size, w->arena, &head),
        0);
    for (uint32_t i = 0; head.phase == w->phase && i < head.n_ended; i++) {
        struct wire_split_ledger split = head.ended[i];
        split.split %= RT_SPLIT_EVALUATE;
        if (rt_ledger_end(head.evaluate ? w->evaluation : w->ledger, &split) != 0)
            fail_msg("%s", rt_err_text());
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    check_phase(w);
}

/* ---- the world ---- */

static void on_failed(void *ctx, int err)
{
    ((struct world *)ctx)->failed = err;
}

static void on_done(void *ctx)
{
    ((struct world *)ctx)->done = true;
}

static struct rt_identity identity(enum rt_role role, uint64_t incarnation)
{
    return (struct rt_identity){
        .job = "test", .role = role, .incarnation = incarnation, .wire_version = RT_WIRE_VERSION};
}

static void start_middleware(struct world *w)
{
    static const struct rt_method_def method[] = {
        {WIRE_PUT_BATCH, "PutBatch", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), 4096, 1 << 20, serve_put}};
    struct rt_rpc_conf conf = {.io = sim_node(w->sim, NODE_M),
                               .self = identity(RT_ROLE_MIDDLEWARE, 5),
                               .greeting = &wire_greeting,
                               .methods = method,
                               .n_methods = 1,
                               .ctx = w};

    assert_int_equal(rt_rpc_create(&conf, &w->middleware), 0);
    assert_int_equal(rt_rpc_listen(w->middleware, "sim:1:0", w->middleware_address), 0);
}

/* A trainer that knows nothing. */
static void start_trainer(struct world *w)
{
    static const struct rt_method_def method[] = {
        {WIRE_TRAIN_BATCH, "TrainBatch", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), 4096, 1 << 20,
         serve_train},
        {WIRE_AWAIT_PHASE, "AwaitPhase", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), 1 << 16, 0,
         serve_await},
        {WIRE_END_OF_EPOCH, "EndOfEpoch", RT_ROLE_BIT(RT_ROLE_DATA_COMPOSE), 1 << 16, 0, serve_end},
    };
    struct rt_rpc_conf conf = {.io = sim_node(w->sim, NODE_T),
                               .self = identity(RT_ROLE_TRAINER, ++w->trainer_incarnation),
                               .greeting = &wire_greeting,
                               .methods = method,
                               .n_methods = ARRAY_LEN(method),
                               .ctx = w};

    assert_int_equal(rt_rpc_create(&conf, &w->trainer), 0);
    assert_int_equal(rt_rpc_listen(w->trainer, "sim:2:0", w->trainer_address), 0);
    assert_int_equal(rt_ledger_create(RT_BATCH_WINDOW, &w->ledger), 0);
    assert_int_equal(rt_ledger_create(RT_BATCH_WINDOW, &w->evaluation), 0);
    w->phase = 1;
    w->epoch = 0;
    w->kind = WIRE_PHASE_STATISTICS;
    w->waiter = NULL;
    w->n_held = 0;
}

static void stop_trainer(struct world *w)
{
    if (w->waiter)
        rt_call_fail(w->waiter, RT_ECANCELED, "the trainer is going away");
    w->waiter = NULL;
    rt_rpc_destroy(w->trainer);
    rt_ledger_destroy(w->ledger);
    rt_ledger_destroy(w->evaluation);
}

static void say_hello(struct world *w)
{
    const char *m = w->middleware_address, *t = w->trainer_address;

    dc_composer_on_middleware(w->composer, 0, 1, &m, 1, 5);
    dc_composer_on_trainer(w->composer, 0, 1, &t, 1, w->trainer_incarnation);
}

static void start_composer(struct world *w)
{
    rt_metrics_destroy(w->metrics);
    w->metrics = rt_metrics_create();
    struct dc_composer_conf conf = {
        .metrics = w->metrics,
        .io = sim_node(w->sim, NODE_C),
        .identity = identity(RT_ROLE_DATA_COMPOSE, ++w->composer_incarnation),
        .job = &w->dj.job,
        .size = 1,
        .ctx = w,
        .failed = on_failed,
        .done = on_done,
    };

    if (dc_composer_create(&conf, &w->composer) != 0)
        fail_msg("%s", rt_err_text());
    say_hello(w);
}

struct sizes {
    unsigned rows;
    uint32_t batch_size, splits, window; /* 0: the fixture's */
};

static void start_with(struct world *w, uint64_t seed, const struct sizes *sizes)
{
    char text[64];
    struct rt_data_conf *data = &w->dj.job.data;

    memset(w, 0, sizeof(*w));
    w->rows = sizes->rows;
    w->sim = sim_create(&(struct sim_conf){.seed = seed, .n_nodes = NODES});
    data_job_init(&w->dj, RT_FORMAT_SYNTHETIC, false,
                  seed % 2 ? "label=label x1=dense x4=dense:std c1=feature:weights c5=feature:freq3"
                           : "label=label x1=dense x4=dense:std c1=feature c5=feature");
    snprintf(text, sizeof(text), "{rows: %u, test_rows: %d}", sizes->rows, TEST_ROWS);
    assert_int_equal(rt_yaml_parse("data.yml", text, strlen(text), &w->yaml), 0);
    data->synthetic = rt_yaml_root(w->yaml);
    data->window = sizes->window ? sizes->window : OPEN_MAX;
    data->batch_size = sizes->batch_size ? sizes->batch_size : data->batch_size;
    data->splits = sizes->splits ? sizes->splits : data->splits;
    assert_int_equal(rt_arena_create(1 << 22, &w->arena), 0);
    start_middleware(w);
    start_trainer(w);
    start_composer(w);
}

static void start(struct world *w, uint64_t seed)
{
    start_with(w, seed, &(struct sizes){.rows = ROWS});
}

static void stop(struct world *w)
{
    assert_int_equal(w->failed, 0);
    dc_composer_destroy(w->composer);
    stop_trainer(w);
    rt_rpc_destroy(w->middleware);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
    rt_map_release(&w->put);
    rt_map_release(&w->trained);
    wire_out_release(&w->out);
    rt_arena_destroy(w->arena);
    rt_yaml_destroy(w->yaml);
    rt_metrics_destroy(w->metrics);
}

static double page(const struct world *w, const char *what)
{
    char name[64];

    snprintf(name, sizeof(name), "saffron_data_compose_%s", what);
    return page_value(w->metrics, name);
}

static bool is_done(void *arg)
{
    return ((struct world *)arg)->done || ((struct world *)arg)->failed;
}

static void finish(struct world *w)
{
    struct dc_status status;
    uint64_t read, bad;

    if (!sim_run_until(w->sim, is_done, w, 120 * RT_S) || w->failed) {
        dc_composer_status(w->composer, &status);
        fail_msg("not done: failed %d (%s), stage %s, phase %d, %u trains", w->failed,
                 rt_err_text(), status.stage, (int)w->phase, w->trains);
    }
    rt_ledger_rows(w->ledger, &read, &bad);
    assert_true(read == ROWS * EPOCHS && bad == 0);
    assert_true(w->samples == ROWS * EPOCHS); /* each row of each epoch in one batch */
    dc_composer_status(w->composer, &status);
    assert_string_equal(status.stage, "done");
    assert_int_equal(status.batches_open, 0);
    assert_true(status.test_auc_best_possible > 0.7);
    assert_true(page(w, "batches_done_total") == (double)status.batches_done);
    assert_true(page(w, "batch_seconds_count") == (double)status.batches_done);
    assert_true(page(w, "parse_seconds_count") >= (double)status.batches_done);
    assert_true(page(w, "queue_batches") == 0 && page(w, "batches_open") == 0);
    assert_true(page(w, "read_bytes_total") == 0); /* no files: they are generated */
}

static bool some_trained(void *arg)
{
    return ((struct world *)arg)->trains >= 20;
}

static bool second_epoch(void *arg)
{
    struct world *w = arg;
    return w->epoch == 1 && w->kind == WIRE_PHASE_TRAIN && w->trained.count > 90;
}

static bool second_epoch_began(void *arg)
{
    struct world *w = arg;
    return w->epoch == 1 && w->kind == WIRE_PHASE_TRAIN;
}

static bool window_full(void *arg)
{
    return ((struct world *)arg)->n_held == OPEN_MAX;
}

/* ---- tests ---- */

static void whole_job(void **state)
{
    struct world w;

    (void)state;
    start(&w, 1);
    finish(&w);
    assert_int_equal(w.statistics, 1);
    assert_int_equal(w.trains, w.trained.count);
    assert_int_equal(w.puts, w.trains);
    assert_int_equal(w.attempts_max, 1);
    assert_true(page(&w, "batch_seconds_count") == w.trained.count);
    assert_true(page(&w, "parse_seconds_count") == w.trained.count);
    assert_true(page(&w, "batch_seconds_sum") > 0); /* the simulator's network takes its time */
    stop(&w);
}

static bool many_trained(void *arg)
{
    return ((struct world *)arg)->trains >= 300;
}

static bool more_trained(void *arg)
{
    return ((struct world *)arg)->trains >= 900;
}

/* A batch and its way to the trainer allocate nothing at the composer once the window has been full. */
static void steady(void **state)
{
    struct world w;
    uint64_t before;

    (void)state;
    start_with(&w, 4, &(struct sizes){.rows = 20000});
    assert_true(sim_run_until(w.sim, many_trained, &w, 60 * RT_S));
    before = rt_mem_count();
    assert_true(sim_run_until(w.sim, more_trained, &w, 60 * RT_S));
    /* Each of a batch's four messages is two blocks of the simulator's, and two of them are copied once more. */
    assert_true(rt_mem_count() - before <= (900 - 300) * 10 + 20);
    stop(&w);
}

static void window(void **state)
{
    struct world w;

    (void)state;
    start(&w, 2);
    w.hold = true;
    assert_true(sim_run_until(w.sim, window_full, &w, 10 * RT_S));
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_int_equal(w.held_max, OPEN_MAX); /* and not one more */
    assert_true(page(&w, "batches_open") == OPEN_MAX && page(&w, "queue_batches") == 0);
    w.hold = false;
    for (unsigned i = 0; i < OPEN_MAX; i++)
        answer(&w, w.held[i], w.held_id[i], WIRE_TRAINED);
    w.n_held = 0;
    finish(&w);
    stop(&w);
}

static void refusals(void **state)
{
    struct world w;

    (void)state;
    start(&w, 3);
    w.full = 1 << 30; /* no batch gets any further */
    sim_run_until(w.sim, NULL, NULL, RT_S);
    assert_true(page(&w, "batches_open") == OPEN_MAX && page(&w, "queue_batches") == OPEN_MAX);
    w.full = 7;
    w.retry = 5;
    finish(&w);
    assert_int_equal(w.trains, w.trained.count + 5);
    assert_true(w.attempts_max > 1);
    stop(&w);
}

/* Retries of a batch that did nothing wrong are no attempts: it could be poisoned by a bad network otherwise. */
static void lost_is_no_attempt(void **state)
{
    struct world w;

    (void)state;
    start(&w, 5);
    w.retry = 9;
    w.blameless = true;
    finish(&w);
    assert_int_equal(w.trains, w.trained.count + 9);
    assert_int_equal(w.attempts_max, 1);
    stop(&w);
}

/* One batch is never finished, all others of its split are: the composer stops before ledger and filters could
 * take the one for something long over. */
static void stuck_batch(void **state)
{
    struct world w;

    (void)state;
    start_with(&w, 6, &(struct sizes){.rows = 6000, .batch_size = 1, .splits = 1});
    w.stick = true;
    sim_run_until(w.sim, NULL, NULL, 60 * RT_S);
    assert_int_equal(w.n_held, 1);
    assert_int_equal(w.trained.count, RT_BATCH_WINDOW / 2);
    w.stick = false;
    answer(&w, w.held[0], w.held_id[0], WIRE_TRAINED);
    w.n_held = 0;
    assert_true(sim_run_until(w.sim, second_epoch_began, &w, 60 * RT_S));
    stop(&w);
}

static void too_wide_a_window(void **state)
{
    struct world w;

    (void)state;
    start_with(&w, 8, &(struct sizes){.rows = ROWS, .window = 4097});
    assert_int_equal(w.failed, RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "data.window 4097 x 1 trainers"));
    assert_non_null(strstr(rt_err_text(), "at most 4096"));
    w.failed = 0;
    stop(&w);
}

static void broken_links(void **state)
{
    (void)state;
    for (uint64_t seed = 10; seed < 34; seed++) {
        struct world w;

        start(&w, seed);
        for (unsigned i = 0; i < 30 && !w.done; i++) {
            /* links are made again within a second */
            sim_run_until(w.sim, is_done, &w, i ? 350 * RT_MS : (seed - 9) * RT_MS);
            sim_break(w.sim, NODE_C, i % 2 ? NODE_M : NODE_T);
            if (i % 3 == 0)
                rt_map_release(&w.put), rt_map_init(&w.put); /* what it held is gone */
        }
        finish(&w);
        stop(&w);
    }
}

/* A composer that starts anew in the second epoch brings the rest, with the same bytes. */
static void composer_restart(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        struct world w;

        start(&w, 30 + (uint64_t)late);
        assert_true(sim_run_until(w.sim, late ? second_epoch : some_trained, &w, 60 * RT_S));
        size_t before = w.trained.count;
        dc_composer_destroy(w.composer);
        start_composer(&w);
        finish(&w);
        assert_true(w.trained.count > before);
        assert_true(w.trains <= w.trained.count + OPEN_MAX);
        stop(&w);
    }
}

/* A trainer that has lost everything starts at phase 1, epoch 0, and so does the composer. */
static void trainer_restart(void **state)
{
    (void)state;
    for (int late = 0; late < 2; late++) {
        struct world w;

        start(&w, 40 + (uint64_t)late);
        assert_true(sim_run_until(w.sim, late ? second_epoch : some_trained, &w, 60 * RT_S));
        stop_trainer(&w);
        start_trainer(&w);
        say_hello(&w);
        finish(&w);
        assert_int_equal(w.statistics, 2);
        stop(&w);
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(whole_job),
        cmocka_unit_test(window),
        cmocka_unit_test(steady),
        cmocka_unit_test(refusals),
        cmocka_unit_test(lost_is_no_attempt),
        cmocka_unit_test(stuck_batch),
        cmocka_unit_test(too_wide_a_window),
        cmocka_unit_test(broken_links),
        cmocka_unit_test(composer_restart),
        cmocka_unit_test(trainer_restart),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
