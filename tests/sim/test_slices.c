/* tests/sim/test_slices.c -- an owner that does everything in small pieces, with others in between, in the simulator.
 *
 * Three middlewares send batches of a few and of many rows, in one part or two, ask for rows meanwhile, lose their
 * connections at any moment and ask again, impatiently, differently cut, or one for the other. Every gradient is
 * -1 and the learning rate 1: a row's value is the number of batches that were applied to it, so one that was
 * lost, doubled or put into a neighbour's row shows. */
#include "embedding_server/owner.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"
#include "tests/sim/sim_io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

enum { ASKERS = 3, OWNER = 0, NODES = 1 + ASKERS };
enum {
    IDS = 160,
    BATCHES = 30,
    STEPS = 20,
    SLICE = 7,
    DIM = 2,
    DIM_2 = 3,
    CAPACITY = 60,
    TTL = 60
};
enum { PLAIN, FAULTS, EVICTION, EXPIRY, STEPWISE }; /* what a world is like */
/* FAULTS: besides, with odd seeds there is room for the parts of one batch at a time. */

struct world;

struct batch {
    struct world *world;
    uint64_t id, step;
    uint32_t rank;
    bool has[IDS];
    unsigned parts, attempt, acked; /* acked: bit per part of this attempt */
    bool sent, done;
};

/* A request under way. */
struct ask {
    struct world *world;
    struct batch *batch; /* NULL: a lookup */
    unsigned attempt, part;
    uint64_t step;
    uint32_t acked[IDS]; /* lookup: batches applied for certain when it was asked */
};

struct asker {
    struct world *world;
    struct rt_rpc *rpc;
    struct rt_peer *peer;
    struct rt_timer tick;
    unsigned index;
};

struct world {
    int kind;
    uint64_t key, draws;
    struct sim *sim;
    struct rt_job job;
    struct rt_table_conf table[2];
    struct rt_shard_map shards;
    struct ebs_owner *owner;
    struct asker asker[ASKERS];
    struct batch batch[BATCHES > STEPS *ASKERS ? BATCHES : STEPS *ASKERS];
    unsigned n_batches, n_done, open, lookups, torn, full;
    uint64_t step_done;
    uint64_t id[IDS];
    uint32_t sent[IDS], acked[IDS]; /* batches that may be, and that are applied */
    float value[IDS];               /* of the latest lookup of all */
    float second[IDS][DIM_2];
    bool stopping;
};

static uint64_t draw(struct world *w, uint64_t below)
{
    return rt_below(rt_draw(w->key, w->draws++), below);
}

/* ---- requests ---- */

static void send(struct asker *a, uint16_t method, uint64_t batch_id, struct wire_out *message,
                 struct rt_buf *payload, rt_reply_fn done, struct ask *ask)
{
    struct rt_piece piece = {.data = payload->data, .size = payload->size, .buf = payload};
    struct rt_outgoing out = {.batch_id = batch_id,
                              .message = message->data,
                              .message_size = message->size,
                              .pieces = &piece,
                              .n_pieces = payload->size > 0};

    if (rt_rpc_call(a->peer, method, &out, 0, done, ask) == 0)
        a->world->open++;
    else
        free(ask);
    rt_buf_unref(payload);
    wire_out_release(message);
}

static void *put(struct rt_buf *buf, size_t bytes)
{
    size_t end = buf->size;
    uint8_t *at = buf->data + rt_segment_put(&end, bytes);

    assert_true(end <= buf->capacity);
    buf->size = end;
    return at;
}

/* Gradients of the second table: any numbers, the same in every run. */
static float second_grad(const struct batch *b, unsigned i, unsigned j)
{
    uint64_t bits = rt_draw(rt_draw_fold(b->id, i), j);

    return (float)(bits % 2001) / 1000.0f - 1.0f;
}

static void on_applied(void *arg, int err, const struct rt_frame *reply);

static void ask_part(struct asker *a, struct batch *b, unsigned part)
{
    struct world *w = a->world;
    bool stepwise = w->kind == STEPWISE;
    struct ask *ask = calloc(1, sizeof(*ask));
    uint32_t table[2] = {0, 1}, n[2] = {0, 0};
    struct wire_apply_gradients m = {.shard_map = w->shards.version,
                                     .part = part,
                                     .parts = b->parts,
                                     .step = b->step,
                                     .learning_rate = 1.0,
                                     .rank = b->rank,
                                     .world = stepwise ? ASKERS : 1,
                                     .synchronous = stepwise,
                                     .table = table,
                                     .n_ids = n,
                                     .digest = b->id};
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, 1 + a->index), 1 << 16);
    struct wire_out out = {0};
    uint64_t *id;
    float *grad;

    *ask = (struct ask){.world = w, .batch = b, .attempt = b->attempt, .part = part};
    for (unsigned i = 0; i < IDS; i++)
        n[0] += b->has[i] && i % b->parts == part;
    n[1] = n[0];
    m.n_tables = n[0] == 0 ? 0 : stepwise ? 2 : 1;
    for (uint32_t t = 0; t < m.n_tables; t++) {
        unsigned dim = t == 0 ? DIM : DIM_2, k = 0;

        id = put(buf, n[t] * sizeof(*id));
        grad = put(buf, n[t] * dim * sizeof(*grad));
        for (unsigned i = 0; i < IDS; i++) {
            if (!b->has[i] || i % b->parts != part)
                continue;
            for (unsigned j = 0; j < dim; j++)
                grad[k * dim + j] = t == 0 ? -1.0f : second_grad(b, i, j);
            id[k++] = w->id[i];
        }
    }
    assert_int_equal(wire_apply_gradients_pack(&m, &out), 0);
    for (unsigned i = 0; i < IDS && !b->sent; i++)
        w->sent[i] += b->has[i];
    b->sent = true;
    send(a, WIRE_APPLY_GRADIENTS, b->id, &out, buf, on_applied, ask);
}

static void on_applied(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *ask = arg;
    struct batch *b = ask->batch;
    struct world *w = ask->world;

    (void)reply;
    rt_fault_alloc(-1);
    w->open--;
    w->full += err == RT_EFULL;
    if (err && w->kind != FAULTS && err != RT_EPEER && err != RT_ECANCELED && err != RT_EUNKNOWN)
        fail_msg("batch %016llx: %d: %s", (unsigned long long)b->id, err, rt_err_text());
    if (!err && !b->done && ask->attempt == b->attempt) {
        b->acked |= 1u << ask->part;
        if (b->acked == (1u << b->parts) - 1) {
            b->done = true;
            w->n_done++;
            for (unsigned i = 0; i < IDS; i++)
                w->acked[i] += b->has[i];
        }
    }
    free(ask);
}

/* A step's rows are changed together: these ids are in every batch of a step. */
static bool is_common(unsigned i)
{
    return i % 40 == 3;
}

static void check_whole_steps(struct world *w, const struct ask *ask, const float *value)
{
    float first = -1;

    for (unsigned i = 0; i < IDS; i++) {
        float here = value[(size_t)i * DIM];

        if (!is_common(i))
            continue;
        if (first >= 0 && here != first)
            fail_msg("rows of %g and of %g batches in one answer", (double)first, (double)here);
        first = here;
        if (here < (float)(ask->step * ASKERS) || (unsigned)here % ASKERS != 0)
            fail_msg("asked for step %llu, saw %g batches of %d ranks",
                     (unsigned long long)ask->step, (double)here, ASKERS);
    }
    w->step_done = (uint64_t)(first / ASKERS);
}

static void on_rows(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *ask = arg;
    struct world *w = ask->world;
    const float *value;

    rt_fault_alloc(-1);
    w->open--;
    if (err && w->kind != FAULTS && err != RT_EPEER && err != RT_ECANCELED)
        fail_msg("lookup: %d: %s", err, rt_err_text());
    if (!err) {
        value = (const float *)reply->payload->data;
        for (unsigned i = 0; i < IDS; i++) {
            float v = value[(size_t)i * DIM];

            assert_true(v == value[(size_t)i * DIM + 1]);
            bool may_lack =
                w->kind == EVICTION || w->kind == FAULTS; /* a row that had to go, or no room */

            if (v > (float)w->sent[i] || (!may_lack && v < (float)ask->acked[i]))
                fail_msg("row %u has %g updates, %u to %u were sent", i, (double)v, ask->acked[i],
                         w->sent[i]);
            w->value[i] = v;
        }
        if (w->kind == STEPWISE) {
            size_t end = IDS * DIM * sizeof(float);
            size_t at = rt_segment_put(&end, sizeof(w->second));

            check_whole_steps(w, ask, value);
            assert_int_equal(reply->payload->size, at + sizeof(w->second));
            memcpy(w->second, reply->payload->data + at, sizeof(w->second));
        }
        w->lookups++;
    }
    free(ask);
}

/* All rows of all tables. */
static void ask_rows(struct asker *a, uint64_t step)
{
    struct world *w = a->world;
    struct ask *ask = calloc(1, sizeof(*ask));
    uint32_t table[2] = {0, 1}, n[2] = {IDS, IDS};
    struct wire_lookup_rows m = {.shard_map = w->shards.version,
                                 .step = step,
                                 .n_tables = w->kind == STEPWISE ? 2 : 1,
                                 .table = table,
                                 .n_ids = n};
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, 1 + a->index), 1 << 14);
    struct wire_out out = {0};

    *ask = (struct ask){.world = w, .step = step};
    memcpy(ask->acked, w->acked, sizeof(ask->acked));
    for (uint32_t t = 0; t < m.n_tables; t++)
        memcpy(put(buf, sizeof(w->id)), w->id, sizeof(w->id));
    assert_int_equal(wire_lookup_rows_pack(&m, &out), 0);
    send(a, WIRE_LOOKUP_ROWS, 0, &out, buf, on_rows, ask);
}

/* ---- what askers do ---- */

static void cut_anew(struct world *w, struct batch *b)
{
    b->parts = 1 + (unsigned)draw(w, 2);
    b->attempt++;
    b->acked = 0;
}

/* Some of the batches that are open: all parts that are not acked. */
static void push_some(struct asker *a)
{
    struct world *w = a->world;
    unsigned first = 0;

    while (first < w->n_batches && w->batch[first].done)
        first++;
    for (unsigned k = first; k < w->n_batches && k < first + 8; k++) { /* not too many at once */
        struct batch *b = &w->batch[k];

        if (b->done || draw(w, 4) > 0 || (w->kind == STEPWISE && b->rank != a->index))
            continue;
        if (b->sent && draw(w, 6) == 0)
            cut_anew(w, b);
        for (unsigned p = 0; p < b->parts; p++)
            if (!(b->acked & 1u << p))
                ask_part(a, b, p);
    }
}

static bool is_done(void *arg)
{
    struct world *w = arg;

    return w->n_done == w->n_batches;
}

static void on_tick(void *arg)
{
    struct asker *a = arg;
    struct world *w = a->world;

    rt_fault_alloc(-1);
    if (w->stopping)
        return;
    if (rt_peer_is_up(a->peer)) {
        push_some(a);
        if (draw(w, 3) == 0)
            ask_rows(a,
                     w->kind == STEPWISE && !is_done(w) ? 1 + draw(w, 1 + w->n_done / ASKERS) : 0);
    }
    if (draw(w, 20) == 0)
        sim_break(w->sim, OWNER, 1 + (unsigned)draw(w, ASKERS));
    if (w->kind == FAULTS && draw(w, 2))
        rt_fault_alloc((int64_t)draw(w, 40));
    rt_timer_start(sim_node(w->sim, 1 + a->index), &a->tick, draw(w, 3 * RT_MS));
}

/* ---- worlds ---- */

static struct rt_identity identity(enum rt_role role, uint32_t index)
{
    return (struct rt_identity){.job = "test",
                                .role = role,
                                .index = index,
                                .incarnation = 5,
                                .wire_version = RT_WIRE_VERSION,
                                .config_hash = 1,
                                .plan_hash = 2};
}

static void make_batches(struct world *w)
{
    bool stepwise = w->kind == STEPWISE;

    w->n_batches = stepwise ? STEPS * ASKERS : BATCHES;
    for (unsigned k = 0; k < w->n_batches; k++) {
        struct batch *b = &w->batch[k];
        uint64_t key = rt_draw_fold(77, k); /* the same in every run */

        *b = (struct batch){.world = w, .parts = 1};
        b->rank = stepwise ? k % ASKERS : 0;
        b->step = stepwise ? 1 + k / ASKERS : 0;
        b->id = rt_batch_id(b->rank, stepwise ? k / ASKERS : k);
        for (unsigned i = 0; i < IDS; i++)
            b->has[i] = rt_draw(key, i) % (k % 3                 ? 30
                                           : w->kind == EVICTION ? 5
                                                                 : 2) ==
                            0 ||
                        (stepwise && is_common(i));
    }
}

static void start(struct world *w, int kind, uint64_t seed, uint32_t slice)
{
    struct ebs_owner_conf conf = {.identity = identity(RT_ROLE_EMBEDDING_SERVER, 0),
                                  .greeting = &wire_greeting,
                                  .listen = "sim:0:1",
                                  .slice_rows = slice,
                                  .parts_bytes = kind == FAULTS && seed % 2};

    memset(w, 0, sizeof(*w));
    w->kind = kind;
    w->key = rt_draw_key(seed, "slices", NULL);
    w->sim = sim_create(&(struct sim_conf){.seed = seed, .n_nodes = NODES, .turn_ns = RT_MS / 4});
    w->table[0] = (struct rt_table_conf){
        .name = "counts", .dim = DIM, .init.kind = RT_INIT_CONSTANT, .optimizer.learning_rate = 1};
    w->table[1] = (struct rt_table_conf){
        .name = "second",
        .dim = DIM_2,
        .init = {.kind = RT_INIT_UNIFORM, .low = -1, .high = 1},
        .optimizer = {.kind = RT_OPT_ADAGRAD, .learning_rate = 0.1, .eps = 1e-10}};
    if (kind == EVICTION)
        w->table[0].eviction = (struct rt_eviction_conf){.kind = RT_EVICT_LRU, .rows = CAPACITY};
    w->table[0].ttl_seconds = kind == EXPIRY ? TTL : 0;
    w->job = (struct rt_job){.n_tables = 2, .table = w->table, .global.seed = 1};
    assert_int_equal(rt_shard_map_init(&w->shards, 1, 1), 0);
    conf.io = sim_node(w->sim, OWNER);
    conf.job = &w->job;
    conf.shards = &w->shards;
    if (ebs_owner_create(&conf, &w->owner) != 0)
        fail_msg("%s", rt_err_text());
    for (unsigned i = 0; i < IDS; i++)
        w->id[i] = i * 0x9e3779b97f4a7c15ull;
    make_batches(w);
    for (unsigned k = 0; k < ASKERS; k++) {
        struct asker *a = &w->asker[k];
        struct rt_rpc_conf rpc = {.io = sim_node(w->sim, 1 + k),
                                  .self = identity(RT_ROLE_MIDDLEWARE, k),
                                  .greeting = &wire_greeting,
                                  .backoff_ns = 5 * RT_MS,
                                  .reply_max = 1 << 20};

        *a = (struct asker){.world = w, .index = k};
        a->tick = (struct rt_timer){.fire = on_tick, .arg = a};
        assert_int_equal(rt_rpc_create(&rpc, &a->rpc), 0);
        a->peer = rt_rpc_peer(a->rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
        rt_peer_set_address(a->peer, ebs_owner_address(w->owner), 5);
        rt_timer_start(rpc.io, &a->tick, 1);
    }
}

static void stop(struct world *w)
{
    w->stopping = true;
    rt_fault_alloc(-1);
    for (unsigned k = 0; k < ASKERS; k++) {
        rt_timer_stop(sim_node(w->sim, 1 + k), &w->asker[k].tick);
        rt_rpc_destroy(w->asker[k].rpc);
    }
    assert_int_equal(w->open, 0);
    ebs_owner_destroy(w->owner);
    sim_destroy(w->sim);
}

static bool is_answered(void *arg)
{
    return ((struct world *)arg)->open == 0;
}

/* What there is when nothing is under way any more. */
static void look_at_the_end(struct world *w)
{
    unsigned lookups;

    w->stopping = true;
    rt_fault_alloc(-1);
    sim_run_until(w->sim, is_answered, w, 10000 * RT_MS);
    lookups = w->lookups;
    for (int attempt = 0; attempt < 20 && w->lookups == lookups; attempt++) {
        if (rt_peer_is_up(w->asker[0].peer))
            ask_rows(&w->asker[0], 0);
        sim_run_until(w->sim, NULL, NULL, 100 * RT_MS);
    }
    assert_int_equal(w->lookups, lookups + 1);
}

static void run(struct world *w, int kind, uint64_t seed, uint32_t slice)
{
    start(w, kind, seed, slice);
    if (!sim_run_until(w->sim, is_done, w, 600000 * RT_MS))
        fail_msg("seed %llu: %u of %u batches after ten simulated minutes",
                 (unsigned long long)seed, w->n_done, w->n_batches);
    look_at_the_end(w);
}

static void every_gradient_is_applied_once(void **state)
{
    static struct world w;
    uint64_t sliced = 0, lookups = 0, refused = 0, full = 0;

    (void)state;
    for (int kind = PLAIN; kind <= FAULTS; kind++) {
        for (uint64_t seed = 1; seed <= 40; seed++) {
            uint64_t lacking = 0;

            run(&w, kind, seed, SLICE);
            for (unsigned i = 0; i < IDS; i++) {
                if (w.value[i] > (float)w.acked[i])
                    fail_msg("%s, seed %llu: row %u has %g updates, expected %u",
                             kind == FAULTS ? "faults" : "plain", (unsigned long long)seed, i,
                             (double)w.value[i], w.acked[i]);
                lacking += w.acked[i] - (uint64_t)w.value[i];
            }
            /* Where there was no memory for a row, its gradients are counted. */
            assert_int_equal(lacking, ebs_owner_table_stats(w.owner, 0)->refused);
            assert_true(kind == FAULTS || lacking == 0);
            refused += lacking;
            assert_int_equal(ebs_owner_stats(w.owner)->updates, BATCHES);
            assert_int_equal(ebs_owner_stats(w.owner)->open, 0);
            sliced += ebs_owner_stats(w.owner)->sliced;
            lookups += w.lookups;
            full += seed % 2 ? w.full : 0;
            stop(&w);
        }
    }
    print_message("%llu requests in pieces, %llu lookups checked, %llu parts had to wait\n",
                  (unsigned long long)sliced, (unsigned long long)lookups,
                  (unsigned long long)full);
    assert_true(sliced > 1000 && lookups > 1000 && refused > 0 && full > 0);
}

/* Rows come and go: none has more updates than were sent to it, the counts of the table agree, and what
 * is applied last is there. */
static void rows_come_and_go(void **state)
{
    static struct world w;
    uint64_t evicted = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        const struct ebs_table_stats *stats;
        unsigned live = 0;

        run(&w, EVICTION, seed, SLICE);
        stats = ebs_owner_table_stats(w.owner, 0);
        for (unsigned i = 0; i < IDS; i++)
            live += w.value[i] > 0;
        assert_int_equal(live, stats->rows);
        assert_int_equal(stats->rows, stats->created - stats->evicted);
        assert_true(stats->rows <= CAPACITY);
        evicted += stats->evicted;
        stop(&w);
    }
    assert_true(evicted > 1000);
}

/* The owner's own timer: rows go when nobody asks for anything, and their counters say so. */
static uint64_t far_ahead(struct rt_io *io)
{
    (void)io;
    return UINT64_MAX / 2;
}

/* After as long as said, and no sooner when somebody sets the wall's clock. */
static void rows_expire(void **state)
{
    static struct world w;
    static struct rt_io_ops ops;

    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        const struct ebs_table_stats *stats;

        run(&w, EXPIRY, seed, SLICE);
        stats = ebs_owner_table_stats(w.owner, 0);
        assert_true(stats->rows > 0 && stats->rows == stats->created);
        ops = *sim_node(w.sim, OWNER)->ops;
        ops.wall_ms = far_ahead;
        sim_node(w.sim, OWNER)->ops = &ops;
        sim_run_until(w.sim, NULL, NULL, (TTL - 10) * 1000 * RT_MS);
        assert_int_equal(stats->rows, stats->created);
        sim_run_until(w.sim, NULL, NULL, 20 * 1000 * RT_MS);
        assert_int_equal(stats->rows, 0);
        assert_int_equal(stats->expired, stats->created);
        memset(w.acked, 0, sizeof(w.acked));
        look_at_the_end(&w);
        for (unsigned i = 0; i < IDS; i++)
            assert_true(w.value[i] == 0);
        stop(&w);
    }
}

static bool same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

/* Whatever the network does and however it is cut: the bits of the rows are the same, and no lookup has seen half a
 * step. */
static void steps_are_seen_whole(void **state)
{
    static struct world w;
    static float want[IDS][DIM_2];

    (void)state;
    for (uint64_t seed = 0; seed <= 30; seed++) {
        run(&w, STEPWISE, seed, seed == 0 ? 0 : 3 + (uint32_t)seed % 13);
        assert_int_equal(w.step_done, STEPS);
        assert_int_equal(ebs_owner_stats(w.owner)->step, STEPS);
        assert_int_equal(ebs_owner_stats(w.owner)->updates, STEPS * ASKERS);
        if (seed == 0)
            memcpy(want, w.second, sizeof(want));
        if (!same_bits(want, w.second, sizeof(want)))
            fail_msg("seed %llu: pieces made other bits", (unsigned long long)seed);
        stop(&w);
    }
}

/* ASan sees what is left behind. */
static void an_owner_goes_in_the_middle(void **state)
{
    static struct world w;

    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        start(&w, seed % 2 ? PLAIN : STEPWISE, seed, SLICE);
        sim_run_until(w.sim, is_done, &w, RT_MS + draw(&w, 60 * RT_MS));
        ebs_owner_destroy(w.owner);
        w.owner = NULL;
        stop(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gradient_is_applied_once),
        cmocka_unit_test(rows_come_and_go),
        cmocka_unit_test(rows_expire),
        cmocka_unit_test(steps_are_seen_whole),
        cmocka_unit_test(an_owner_goes_in_the_middle),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("slices", tests, NULL, NULL);
}
