/* tests/bench/middleware.c -- CPU time of a middleware's loop at the size of configs/bench, in all and by part.
 *
 *   main thread: composer, trainer and one owner, all scripted  <-- Unix sockets -->  the loop, on a thread of its own
 *
 * 26 features of dim 16, a table each, batches of 4096; ids log-uniform over 100,000 as data-compose generates them. Batches go
 * one after the other: put, looked up, pushed. What is reported is the CPU time of the loop's thread per sample, sockets
 * and all, and the loop's own times of its parts, which are of the clock: of all rounds the fastest counts. Once
 * with everything on the wire in float32, once in bfloat16.
 *
 * The limits are plain loops over the same ids in the same run: one pass of a hash table that only finds distinct ids; rows
 * copied from where they are known to be; gradients added to sums that are known likewise. None of them checks, splits by
 * owner, keeps, or narrows. */
#include "middleware/loop.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/net/loop.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"
#include "tests/lib/bench.h"
#include "tests/lib/page.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SAMPLES = 4096, FEATURES = 26, DIM = 16, IDS = 100000, BATCHES = 4, STEPS = 24, ROUNDS = 7 };

#define BUDGET ((size_t)1 << 30)

struct parts {
    double all, put, pool, scatter; /* ns a sample */
};

struct world {
    struct rt_job *job;
    struct rt_loop *loop, *peers; /* the middleware's, and that of all others */
    struct mw_loop *middleware;
    struct rt_rpc *owner, *composer, *trainer;
    struct rt_peer *from_composer, *from_trainer;
    struct rt_metrics *metrics;
    struct rt_arena *arena;
    struct wire_out out;
    struct rt_buf *ids[BATCHES], *gradients;
    uint64_t digest[BATCHES];
    struct rt_timer tick;
    uint64_t batch, end; /* of this round */
    uint32_t dim[FEATURES];
};

static void must(int err)
{
    if (err) {
        fprintf(stderr, "middleware: %s\n", rt_err_text());
        exit(1);
    }
}

/* ---- the owner ---- */

static void serve_rows(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;
    struct wire_lookup_rows m;
    struct rt_buf *rows;
    size_t end = 0;

    rt_arena_reset(w->arena);
    must(wire_lookup_rows_unpack(request->message, request->header.message_size, w->arena, &m));
    for (uint32_t t = 0; t < m.n_tables; t++)
        rt_segment_put(&end, (size_t)m.n_ids[t] * DIM * wire_dtype_size(m.dtype));
    rows = rt_io_buf(rt_loop_io(w->peers), end);
    rt_assert(rows);
    memset(rows->data, 0x3c, end); /* 0.0115 as float32 and as bfloat16 */
    must(wire_lookup_rows_reply_pack(&(struct wire_lookup_rows_reply){m.n_tables, m.n_ids, m.dtype},
                                     &w->out));
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data,
                                              .message_size = w->out.size,
                                              .pieces = &(struct rt_piece){rows->data, end, rows},
                                              .n_pieces = 1});
    rt_buf_unref(rows);
}

static void serve_apply(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct world *w = ctx;

    (void)request;
    must(wire_apply_gradients_reply_pack(&(struct wire_apply_gradients_reply){WIRE_APPLIED, 1, 0},
                                         &w->out));
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
}

static const struct rt_method_def owner_method[] = {
    {WIRE_LOOKUP_ROWS, "LookupRows", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 65536, RT_PAYLOAD_MAX,
     serve_rows},
    {WIRE_APPLY_GRADIENTS, "ApplyGradients", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 65536, RT_PAYLOAD_MAX,
     serve_apply},
};

/* ---- batches, one after the other ---- */

static void send_put(struct world *w);

static void call(struct world *w, struct rt_peer *peer, uint16_t method, struct rt_buf *payload,
                 rt_reply_fn done)
{
    struct rt_piece piece = {payload ? payload->data : NULL, payload ? payload->size : 0, payload};

    must(rt_rpc_call(peer, method,
                     &(struct rt_outgoing){.batch_id = w->batch,
                                           .message = w->out.data,
                                           .message_size = w->out.size,
                                           .pieces = &piece,
                                           .n_pieces = payload ? 1 : 0},
                     30 * RT_S, done, w));
}

static void on_pushed(void *arg, int err, const struct rt_frame *reply)
{
    struct world *w = arg;

    (void)reply;
    must(err);
    if (++w->batch < w->end)
        send_put(w);
    else
        rt_loop_stop(w->peers);
}

static void on_looked_up(void *arg, int err, const struct rt_frame *reply)
{
    struct world *w = arg;
    const struct rt_wire_conf *wire = &w->job->global.wire;

    must(err);
    rt_assert(reply->payload->size ==
              (size_t)FEATURES * SAMPLES * DIM * wire_dtype_size(wire->embeddings));
    must(wire_push_gradients_pack(
        &(struct wire_push_gradients){.step = w->batch,
                                      .learning_rate = 1,
                                      .samples = SAMPLES,
                                      .digest = w->digest[w->batch % BATCHES],
                                      .world = 1,
                                      .dtype = wire->gradients,
                                      .n_features = FEATURES,
                                      .dim = w->dim},
        &w->out));
    call(w, w->from_trainer, WIRE_PUSH_GRADIENTS, w->gradients, on_pushed);
}

static void on_put(void *arg, int err, const struct rt_frame *reply)
{
    struct world *w = arg;

    (void)reply;
    must(err);
    must(wire_lookup_batch_pack(
        &(struct wire_lookup_batch){w->batch, SAMPLES, false, w->digest[w->batch % BATCHES]},
        &w->out));
    call(w, w->from_trainer, WIRE_LOOKUP_BATCH, NULL, on_looked_up);
}

static void send_put(struct world *w)
{
    uint32_t n_ids[FEATURES], layout[FEATURES];

    for (uint32_t f = 0; f < FEATURES; f++) {
        n_ids[f] = SAMPLES;
        layout[f] = WIRE_LAYOUT_ONE;
    }
    must(wire_put_batch_pack(&(struct wire_put_batch){.samples = SAMPLES,
                                                      .digest = w->digest[w->batch % BATCHES],
                                                      .n_features = FEATURES,
                                                      .n_ids = n_ids,
                                                      .layout = layout,
                                                      .composer_incarnation = 1,
                                                      .world = 1},
                             &w->out));
    call(w, w->from_composer, WIRE_PUT_BATCH, w->ids[w->batch % BATCHES], on_put);
}

/* ---- the world ---- */

static struct rt_identity identity(enum rt_role role, const struct rt_job *job)
{
    struct rt_identity id = {.role = role,
                             .incarnation = 1,
                             .wire_version = RT_WIRE_VERSION,
                             .config_hash = job->config_hash,
                             .plan_hash = job->plan_hash};

    snprintf(id.job, sizeof(id.job), "%s", job->name);
    return id;
}

static struct rt_rpc *make_rpc(struct world *w, enum rt_role role)
{
    struct rt_rpc_conf conf = {.io = rt_loop_io(w->peers),
                               .self = identity(role, w->job),
                               .greeting = &wire_greeting,
                               .methods = owner_method,
                               .n_methods =
                                   role == RT_ROLE_EMBEDDING_SERVER ? ARRAY_LEN(owner_method) : 0,
                               .reply_max = RT_PAYLOAD_MAX,
                               .ctx = w};
    struct rt_rpc *rpc = NULL;

    must(rt_rpc_create(&conf, &rpc));
    return rpc;
}

static void draw_ids(struct world *w)
{
    for (uint32_t b = 0; b < BATCHES; b++) {
        size_t n = (size_t)FEATURES * SAMPLES;
        uint64_t *id;

        w->ids[b] = rt_io_buf(rt_loop_io(w->peers), n * sizeof(*id));
        w->ids[b]->size = n * sizeof(*id);
        id = (uint64_t *)(void *)w->ids[b]->data;
        for (size_t i = 0; i < n; i++)
            id[i] = rt_hash_id((uint64_t)pow(IDS, rt_unit_f64(rt_draw(b + 1, i))));
        w->digest[b] = rt_hash_bytes(id, n * sizeof(*id));
    }
}

static void load_job(struct world *w, const char *dtype)
{
    char text[64];
    const char *set[] = {text, "global.embedding_server.workers=1"};
    struct rt_job_source source = {.folder = "configs/bench",
                                   .models_dir = "configs/models",
                                   .without_data = true,
                                   .set = set,
                                   .n_set = ARRAY_LEN(set)};

    snprintf(text, sizeof(text), "global.wire.dtype=%s", dtype);
    must(rt_job_load(&source, &w->job));
}

static void start(struct world *w, const char *dtype)
{
    struct rt_loop_conf conf = {.name = "middleware", .pool_budget = BUDGET};
    char bound[RT_ADDRESS_MAX];
    const char *address = bound;

    memset(w, 0, sizeof(*w));
    load_job(w, dtype);
    must(rt_loop_create(&conf, &w->loop));
    conf.name = "peers";
    must(rt_loop_create(&conf, &w->peers));
    must(rt_arena_create(1 << 24, &w->arena));
    must(mw_loop_create(&(struct mw_loop_conf){.io = rt_loop_io(w->loop),
                                               .identity = identity(RT_ROLE_MIDDLEWARE, w->job),
                                               .job = w->job,
                                               .greeting = &wire_greeting,
                                               .listen = "tcp:127.0.0.1:0"},
                        &w->middleware));
    w->metrics = rt_metrics_create();
    mw_loop_register(w->middleware, w->metrics);
    w->owner = make_rpc(w, RT_ROLE_EMBEDDING_SERVER);
    must(rt_rpc_listen(w->owner, "tcp:127.0.0.1:0", bound));
    must(mw_loop_on_server(w->middleware, 0, 1, 1, &address, 1));
    w->composer = make_rpc(w, RT_ROLE_DATA_COMPOSE);
    w->trainer = make_rpc(w, RT_ROLE_TRAINER);
    w->from_composer = rt_rpc_peer(w->composer, RT_ROLE_MIDDLEWARE, 0, 0);
    w->from_trainer = rt_rpc_peer(w->trainer, RT_ROLE_MIDDLEWARE, 0, 0);
    rt_peer_set_address(w->from_composer, mw_loop_address(w->middleware), 1);
    rt_peer_set_address(w->from_trainer, mw_loop_address(w->middleware), 1);
    draw_ids(w);
    w->gradients = rt_io_buf(rt_loop_io(w->peers), (size_t)FEATURES * SAMPLES * DIM * 4);
    w->gradients->size =
        (size_t)FEATURES * SAMPLES * DIM * wire_dtype_size(w->job->global.wire.gradients);
    memset(w->gradients->data, 0x3c, w->gradients->size);
    for (uint32_t f = 0; f < FEATURES; f++)
        w->dim[f] = DIM;
    must(rt_loop_start_thread(w->loop));
}

static void stop(struct world *w)
{
    rt_rpc_destroy(w->composer);
    rt_rpc_destroy(w->trainer);
    rt_loop_stop(w->loop);
    rt_loop_join(w->loop);
    mw_loop_destroy(w->middleware);
    rt_rpc_destroy(w->owner);
    for (uint32_t b = 0; b < BATCHES; b++)
        rt_buf_unref(w->ids[b]);
    rt_buf_unref(w->gradients);
    rt_loop_destroy(w->loop);
    rt_loop_destroy(w->peers);
    rt_metrics_destroy(w->metrics);
    rt_arena_destroy(w->arena);
    wire_out_release(&w->out);
    rt_job_destroy(w->job);
}

/* ---- measuring ---- */

static void on_tick(void *arg)
{
    struct world *w = arg;

    if (rt_peer_is_up(w->from_composer) && rt_peer_is_up(w->from_trainer) &&
        mw_loop_ready(w->middleware))
        send_put(w);
    else
        rt_timer_start(rt_loop_io(w->peers), &w->tick, RT_MS);
}

/* The loop's, for there is no other. */
static double other_threads_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec - (double)bench_cpu_ns();
}

static struct parts now(const struct world *w)
{
    const struct rt_metrics *m = w->metrics;

    return (struct parts){
        .all = other_threads_ns(),
        .put = page_sum(m, "saffron_middleware_dedup_seconds_sum") * 1e9,
        .pool = page_sum(m, "saffron_middleware_pool_seconds_sum") * 1e9,
        .scatter = page_sum(m, "saffron_middleware_scatter_seconds_sum") * 1e9,
    };
}

static double smaller(double best, double before, double after)
{
    return fmin(best, (after - before) / STEPS / SAMPLES);
}

static struct parts measure(struct world *w)
{
    struct parts best = {INFINITY, INFINITY, INFINITY, INFINITY};

    for (int round = 0; round <= ROUNDS; round++) {
        struct parts before = now(w), after;

        w->end = w->batch + STEPS;
        w->tick.fire = on_tick;
        w->tick.arg = w;
        rt_timer_start(rt_loop_io(w->peers), &w->tick, 0);
        must(rt_loop_run(w->peers));
        after = now(w);
        if (round == 0)
            continue; /* it warms up */
        best.all = smaller(best.all, before.all, after.all);
        best.put = smaller(best.put, before.put, after.put);
        best.pool = smaller(best.pool, before.pool, after.pool);
        best.scatter = smaller(best.scatter, before.scatter, after.scatter);
    }
    return best;
}

/* ---- plain loops ---- */

static float float_of(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

struct plain {
    uint64_t *key, *distinct; /* [2 * SAMPLES rounded up] 0: none; [SAMPLES] */
    uint32_t *index, *slot;   /* beside the keys; [FEATURES][SAMPLES] */
    char *row, *sample;       /* [FEATURES][SAMPLES][DIM] */
    float *sum;               /* [SAMPLES][DIM] of one table */
};

enum { SLOTS = 2 * SAMPLES };

static uint32_t plain_dedup(const struct plain *plain, const uint64_t *id, uint32_t *slot)
{
    uint32_t n = 0;

    memset(plain->key, 0, SLOTS * sizeof(*plain->key));
    for (uint32_t s = 0; s < SAMPLES; s++) {
        uint32_t at = (uint32_t)rt_hash_id(id[s]) % SLOTS;

        while (plain->key[at] && plain->key[at] != id[s])
            at = (at + 1) % SLOTS;
        if (!plain->key[at]) {
            plain->key[at] = id[s];
            plain->index[at] = n;
            plain->distinct[n++] = id[s];
        }
        slot[s] = plain->index[at];
    }
    return n;
}

static void plain_copy(const struct plain *plain, const uint32_t *slot, size_t f, size_t element)
{
    const char *row = plain->row + f * SAMPLES * DIM * element;
    char *to = plain->sample + f * SAMPLES * DIM * element;

    for (uint32_t s = 0; s < SAMPLES; s++)
        if (element == 2)
            memcpy(to + s * DIM * 2, row + slot[s] * DIM * 2, DIM * 2);
        else
            memcpy(to + s * DIM * 4, row + slot[s] * DIM * 4, DIM * 4);
}

static void plain_add(const struct plain *plain, const uint32_t *slot, size_t f, size_t element)
{
    const char *from = plain->sample + f * SAMPLES * DIM * element;

    for (uint32_t s = 0; s < SAMPLES; s++) {
        float *to = plain->sum + slot[s] * DIM;

        if (element == 2)
            for (int j = 0; j < DIM; j++)
                to[j] += float_of(((const uint16_t *)(const void *)from)[s * DIM + (uint32_t)j]);
        else
            for (int j = 0; j < DIM; j++)
                to[j] += ((const float *)(const void *)from)[s * DIM + (uint32_t)j];
    }
}

static struct parts plain_round(const struct plain *plain, const uint64_t *id, size_t element)
{
    uint64_t at[4] = {bench_cpu_ns()};
    double each = 1.0 / SAMPLES;

    for (size_t f = 0; f < FEATURES; f++)
        plain_dedup(plain, id + f * SAMPLES, plain->slot + f * SAMPLES);
    at[1] = bench_cpu_ns();
    for (size_t f = 0; f < FEATURES; f++)
        plain_copy(plain, plain->slot + f * SAMPLES, f, element);
    at[2] = bench_cpu_ns();
    for (size_t f = 0; f < FEATURES; f++) {
        memset(plain->sum, 0, SAMPLES * DIM * sizeof(float));
        plain_add(plain, plain->slot + f * SAMPLES, f, element);
    }
    at[3] = bench_cpu_ns();
    return (struct parts){.put = (double)(at[1] - at[0]) * each,
                          .pool = (double)(at[2] - at[1]) * each,
                          .scatter = (double)(at[3] - at[2]) * each};
}

static struct parts plain_loops(const struct world *w)
{
    size_t element = wire_dtype_size(w->job->global.wire.rows);
    size_t bytes = (size_t)FEATURES * SAMPLES * DIM * sizeof(float);
    struct parts best = {INFINITY, INFINITY, INFINITY, INFINITY};
    struct plain plain = {.key = rt_xaligned(SLOTS * sizeof(uint64_t)),
                          .distinct = rt_xaligned(SAMPLES * sizeof(uint64_t)),
                          .index = rt_xaligned(SLOTS * sizeof(uint32_t)),
                          .slot = rt_xaligned((size_t)FEATURES * SAMPLES * sizeof(uint32_t)),
                          .row = rt_xaligned(bytes),
                          .sample = rt_xaligned(bytes),
                          .sum = rt_xaligned(SAMPLES * DIM * sizeof(float))};

    memset(plain.row, 0x3c, bytes);
    memset(plain.sample, 0x3c, bytes);
    for (int round = 0; round <= ROUNDS; round++) {
        const struct rt_buf *ids = w->ids[round % BATCHES];
        struct parts p = plain_round(&plain, (const uint64_t *)(const void *)ids->data, element);

        best.put = fmin(best.put, p.put);
        best.pool = fmin(best.pool, p.pool);
        best.scatter = fmin(best.scatter, p.scatter);
    }
    rt_free(plain.key);
    rt_free(plain.distinct);
    rt_free(plain.index);
    rt_free(plain.slot);
    rt_free(plain.row);
    rt_free(plain.sample);
    rt_free(plain.sum);
    return best;
}

static void run(struct bench *bench, const char *dtype)
{
    static struct world world;
    struct parts is, limit;
    char name[64];

    start(&world, dtype);
    is = measure(&world);
    limit = plain_loops(&world);
    stop(&world);
#define REPORT(part, value, bound, what)                                                           \
    do {                                                                                           \
        snprintf(name, sizeof(name), "%s, %s", part, dtype);                                       \
        bench_less(bench, name, value, "ns/sample", bound, what);                                  \
    } while (0)
    REPORT("CPU of the loop", is.all, NAN, NULL);
    REPORT("put", is.put, limit.put, "distinct ids by a plain hash table");
    REPORT("pool", is.pool, limit.pool, "rows copied by known positions");
    REPORT("scatter", is.scatter, limit.scatter, "gradients added by known positions");
#undef REPORT
}

int main(void)
{
    struct bench *bench = bench_create("middleware");

    rt_log_set_level(RT_LOG_ERROR);
    run(bench, "float32");
    run(bench, "bfloat16");
    return bench_finish(bench);
}
