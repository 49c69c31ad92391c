/* tests/sim/test_middleware.c -- one loop of the middleware between a scripted composer and trainer and two
 * scripted owners, in the simulator.
 *
 * The owners keep rows that begin at 0 and take 1 * gradient away, and apply a batch once; the test keeps
 * the same rows in one plain array (struct model), pooled and scattered by naive loops. Ids are small
 * integers scrambled, so the model's row of an id is known by its place. */
#include "tests/lib/job_fixture.h"
#include "tests/sim/sim_io.h"

#include "middleware/loop.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/map.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/batch.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

enum { NODE_M, NODE_C, NODE_T, NODE_E, OWNERS = 2, NODES = NODE_E + OWNERS };
enum { SAMPLES = 12, DIM = 4, IDS = 40, TABLES = 2, FEATURES = 2, LIST_MAX = 4 };

struct model {
    float row[TABLES][IDS][DIM];
};

struct world;

struct owner {
    struct world *world;
    struct rt_rpc *rpc;
    unsigned index;
    uint64_t incarnation;
    float row[TABLES][IDS][DIM];
    struct rt_map applied;
    int fail, fail_times; /* answer so, so many times */
    bool hold;            /* keep requests unanswered */
    struct rt_call *held[64];
    unsigned n_held, lookups, applies, empty, again;
};

struct world {
    struct sim *sim;
    struct rt_job *job;
    struct mw_loop *loop;
    struct rt_rpc *composer, *trainer;
    struct rt_peer *from_composer, *from_trainer;
    uint64_t composer_incarnation;
    struct owner owner[OWNERS];
    struct rt_arena *arena;
    struct wire_out out;
    struct model model;
};

static uint64_t id_of(uint32_t i)
{
    return i == 0 ? 0 : i == 1 ? UINT64_MAX : rt_hash_id(i);
}

static uint32_t place_of(uint64_t id)
{
    for (uint32_t i = 0; i < IDS; i++)
        if (id_of(i) == id)
            return i;
    fail_msg("id %016llx was never put", (unsigned long long)id);
    return 0;
}

/* ---- the owners ---- */

static void check_owner_of(const struct owner *owner, uint64_t id)
{
    struct rt_shard_map map;

    assert_int_equal(rt_shard_map_init(&map, OWNERS, 1), 0);
    assert_int_equal(rt_shard_owner(&map, rt_shard_of(id)), owner->index);
}

/* Kept or refused as the test wants. */
static bool intercept(struct owner *owner, struct rt_call *call)
{
    if (owner->fail_times > 0) {
        owner->fail_times--;
        rt_call_fail(call, owner->fail, "as told");
        return true;
    }
    if (owner->hold)
        owner->held[owner->n_held++] = call;
    return owner->hold;
}

static void serve_rows(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner *owner = ctx;
    struct world *w = owner->world;
    struct rt_segments seg = rt_segments_of(request->payload);
    struct wire_lookup_rows m;
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, NODE_E + owner->index), 1 << 16);
    size_t end = 0;

    owner->lookups++;
    rt_arena_reset(w->arena);
    if (!buf ||
        wire_lookup_rows_unpack(request->message, request->header.message_size, w->arena, &m)) {
        rt_buf_unref(buf);
        rt_call_fail(call, RT_EFULL, rt_err_text());
        return;
    }
    for (uint32_t t = 0; t < m.n_tables; t++) {
        const void *ids;
        size_t at = rt_segment_put(&end, m.n_ids[t] * DIM * sizeof(float));

        assert_int_equal(rt_segment_take(&seg, m.n_ids[t], 8, &ids), 0);
        for (uint32_t i = 0; i < m.n_ids[t]; i++) {
            uint64_t id = ((const uint64_t *)ids)[i];

            check_owner_of(owner, id);
            memcpy(buf->data + at + i * DIM * sizeof(float), owner->row[m.table[t]][place_of(id)],
                   DIM * sizeof(float));
        }
    }
    assert_int_equal(rt_segments_end(&seg), 0);
    if (!intercept(owner, call)) {
        struct wire_lookup_rows_reply reply = {m.n_tables, m.n_ids, WIRE_F32, 0};
        struct rt_piece piece = {buf->data, end, buf};

        if (wire_lookup_rows_reply_pack(&reply, &w->out) != 0)
            rt_call_fail(call, RT_EFULL, rt_err_text());
        else
            rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data,
                                                      .message_size = w->out.size,
                                                      .pieces = &piece,
                                                      .n_pieces = 1});
    }
    rt_buf_unref(buf);
}

static void apply(struct owner *owner, const struct wire_apply_gradients *m,
                  const struct rt_frame *request)
{
    struct rt_segments seg = rt_segments_of(request->payload);

    for (uint32_t t = 0; t < m->n_tables; t++) {
        const void *ids, *gradient;

        assert_int_equal(rt_segment_take(&seg, m->n_ids[t], 8, &ids), 0);
        assert_int_equal(rt_segment_take(&seg, m->n_ids[t], DIM * sizeof(float), &gradient), 0);
        for (uint32_t i = 0; i < m->n_ids[t]; i++) {
            uint64_t id = ((const uint64_t *)ids)[i];

            check_owner_of(owner, id);
            for (int j = 0; j < DIM; j++)
                owner->row[m->table[t]][place_of(id)][j] -= ((const float *)gradient)[i * DIM + j];
        }
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void serve_apply(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner *owner = ctx;
    struct world *w = owner->world;
    uint64_t id = request->header.batch_id;
    bool again = rt_map_get(&owner->applied, id, NULL);
    struct wire_apply_gradients m;

    owner->applies++;
    owner->again += again;
    rt_arena_reset(w->arena);
    if (wire_apply_gradients_unpack(request->message, request->header.message_size, w->arena, &m) ||
        (owner->fail_times == 0 && rt_map_put(&owner->applied, id, 1) != 0)) {
        rt_call_fail(call, RT_EFULL, rt_err_text());
        return;
    }
    owner->empty += m.n_tables == 0;
    if (owner->fail_times == 0 && !again)
        apply(owner, &m, request);
    if (!intercept(owner, call)) {
        struct wire_apply_gradients_reply reply = {again ? WIRE_ALREADY : WIRE_APPLIED,
                                                   again ? 0 : m.n_tables, 0};

        if (wire_apply_gradients_reply_pack(&reply, &w->out) != 0)
            rt_call_fail(call, RT_EFULL, rt_err_text());
        else
            rt_call_reply(
                call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
    }
}

static const struct rt_method_def owner_method[] = {
    {WIRE_LOOKUP_ROWS, "LookupRows", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 4096, 1 << 20, serve_rows},
    {WIRE_APPLY_GRADIENTS, "ApplyGradients", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 4096, 1 << 20,
     serve_apply},
};

/* ---- the world ---- */

static struct rt_identity identity(enum rt_role role, uint32_t index, uint64_t incarnation,
                                   const struct rt_job *job)
{
    struct rt_identity id = {.role = role,
                             .index = index,
                             .incarnation = incarnation,
                             .wire_version = RT_WIRE_VERSION,
                             .config_hash = job->config_hash,
                             .plan_hash = job->plan_hash};

    snprintf(id.job, sizeof(id.job), "%s", job->name);
    return id;
}

static struct rt_rpc *make_rpc(struct world *w, unsigned node, const struct rt_identity *self,
                               struct owner *owner)
{
    struct rt_rpc_conf conf = {.io = sim_node(w->sim, node),
                               .self = *self,
                               .greeting = &wire_greeting,
                               .methods = owner_method,
                               .n_methods = owner ? ARRAY_LEN(owner_method) : 0,
                               .reply_max = 1 << 20,
                               .ctx = owner};
    struct rt_rpc *rpc = NULL;

    assert_int_equal(rt_rpc_create(&conf, &rpc), 0);
    return rpc;
}

/* An owner comes up, or comes back with its rows. */
static void start_owner(struct world *w, unsigned k)
{
    struct owner *owner = &w->owner[k];
    struct rt_identity self = identity(RT_ROLE_EMBEDDING_SERVER, k, ++owner->incarnation, w->job);
    char want[RT_ADDRESS_MAX], bound[RT_ADDRESS_MAX];
    const char *address = bound;

    owner->world = w;
    owner->index = k;
    owner->rpc = make_rpc(w, NODE_E + k, &self, owner);
    snprintf(want, sizeof(want), "sim:%u:%u", NODE_E + k, (unsigned)owner->incarnation);
    assert_int_equal(rt_rpc_listen(owner->rpc, want, bound), 0);
    if (mw_loop_on_server(w->loop, k, OWNERS, 1, &address, owner->incarnation) != 0)
        fail_msg("%s", rt_err_text());
}

static void stop_owner(struct world *w, unsigned k)
{
    struct owner *owner = &w->owner[k];

    for (unsigned i = 0; i < owner->n_held; i++)
        rt_call_fail(owner->held[i], RT_ECANCELED, "going down");
    owner->n_held = 0;
    rt_rpc_destroy(owner->rpc);
    owner->rpc = NULL;
}

static void start_composer(struct world *w, uint64_t incarnation)
{
    struct rt_identity self = identity(RT_ROLE_DATA_COMPOSE, 0, incarnation, w->job);

    rt_rpc_destroy(w->composer);
    w->composer_incarnation = incarnation;
    w->composer = make_rpc(w, NODE_C, &self, NULL);
    w->from_composer = rt_rpc_peer(w->composer, RT_ROLE_MIDDLEWARE, 0, 0);
    rt_peer_set_address(w->from_composer, mw_loop_address(w->loop), 5);
}

static bool connected(void *arg)
{
    struct world *w = arg;

    return rt_peer_is_up(w->from_composer) && rt_peer_is_up(w->from_trainer) &&
           mw_loop_ready(w->loop);
}

static void settle(struct world *w)
{
    assert_true(sim_run_until(w->sim, connected, w, 20 * RT_S));
}

static void start(struct world *w, const char *const *set, size_t n_set)
{
    const char *all[3] = {"global.embedding_server.workers=1"};
    struct sim_conf sim = {.seed = 7, .n_nodes = NODES};
    struct rt_identity trainer;
    struct mw_loop_conf conf;

    memset(w, 0, sizeof(*w));
    w->sim = sim_create(&sim);
    w->out = (struct wire_out){rt_xmalloc(4096), 0, 4096}; /* packing here never fails */
    for (size_t i = 0; i < n_set && i < 2; i++)
        all[i + 1] = set[i];
    w->job = job_fixture(all, 1 + n_set);
    assert_int_equal(rt_arena_create(1 << 20, &w->arena), 0);
    conf = (struct mw_loop_conf){.io = sim_node(w->sim, NODE_M),
                                 .identity = identity(RT_ROLE_MIDDLEWARE, 0, 5, w->job),
                                 .job = w->job,
                                 .greeting = &wire_greeting,
                                 .listen = "sim:0:1"};
    assert_int_equal(mw_loop_create(&conf, &w->loop), 0);
    trainer = identity(RT_ROLE_TRAINER, 0, 5, w->job);
    w->trainer = make_rpc(w, NODE_T, &trainer, NULL);
    w->from_trainer = rt_rpc_peer(w->trainer, RT_ROLE_MIDDLEWARE, 0, 0);
    rt_peer_set_address(w->from_trainer, mw_loop_address(w->loop), 5);
    start_composer(w, 5);
    for (unsigned k = 0; k < OWNERS; k++)
        start_owner(w, k);
    settle(w);
}

static void stop(struct world *w)
{
    for (unsigned k = 0; k < OWNERS; k++) {
        if (w->owner[k].rpc)
            stop_owner(w, k);
        rt_map_release(&w->owner[k].applied);
    }
    rt_rpc_destroy(w->composer);
    rt_rpc_destroy(w->trainer);
    mw_loop_destroy(w->loop);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    sim_destroy(w->sim);
    wire_out_release(&w->out);
    rt_arena_destroy(w->arena);
    job_fixture_destroy(w->job);
}

static uint64_t number(struct world *w, const char *key)
{
    json_t *object = json_object();
    uint64_t value;

    mw_loop_status(w->loop, object);
    value = (uint64_t)json_integer_value(json_object_get(object, key));
    json_decref(object);
    return value;
}

/* ---- asking ---- */

struct ask {
    int ended, err;
    struct rt_buf *payload;
    char text[WIRE_TEXT_MAX];
};

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *ask = arg;

    ask->ended++;
    ask->err = err;
    snprintf(ask->text, sizeof(ask->text), "%s", err ? rt_err_text() : "");
    if (!err && reply->payload)
        ask->payload = rt_buf_ref(reply->payload);
}

static bool has_ended(void *arg)
{
    return ((struct ask *)arg)->ended != 0;
}

static int wait_for(struct world *w, struct ask *ask)
{
    if (!sim_run_until(w->sim, has_ended, ask, 40 * RT_S))
        fail_msg("no reply");
    assert_int_equal(ask->ended, 1);
    return ask->err;
}

static void call(struct world *w, struct rt_peer *peer, uint16_t method, uint64_t batch,
                 const struct rt_piece *piece, struct ask *ask)
{
    struct rt_outgoing out = {.batch_id = batch,
                              .message = w->out.data,
                              .message_size = w->out.size,
                              .pieces = piece,
                              .n_pieces = piece && piece->size ? 1 : 0};

    memset(ask, 0, sizeof(*ask));
    ask->err = rt_rpc_call(peer, method, &out, 30 * RT_S, on_reply, ask);
    ask->ended = ask->err != 0;
}

/* ---- batches ---- */

/* The ids of a batch follow from its id: feature 0 one per sample, feature 1 lists. */
struct input {
    uint64_t batch;
    bool evaluate, weighted;
    uint32_t length[SAMPLES], n_ids[FEATURES];
    uint32_t place[FEATURES][SAMPLES * LIST_MAX];
    float weight[SAMPLES * LIST_MAX];
    float gradient[FEATURES][SAMPLES][DIM];
    _Alignas(64) uint8_t payload[4096];
    size_t size;
    uint64_t digest;
};

static void make_payload(struct input *in)
{
    size_t end = 0, at[3];

    at[0] = rt_segment_put(&end, SAMPLES * 8);
    memset(in->payload, 0, sizeof(in->payload));
    for (uint32_t i = 0; i < SAMPLES; i++)
        ((uint64_t *)(void *)(in->payload + at[0]))[i] = id_of(in->place[0][i]);
    memcpy(in->payload + rt_segment_put(&end, SAMPLES * 4), in->length, SAMPLES * 4);
    at[1] = rt_segment_put(&end, in->n_ids[1] * 8);
    for (uint32_t i = 0; i < in->n_ids[1]; i++)
        ((uint64_t *)(void *)(in->payload + at[1]))[i] = id_of(in->place[1][i]);
    if (in->weighted) {
        at[2] = rt_segment_put(&end, in->n_ids[1] * 4);
        memcpy(in->payload + at[2], in->weight, in->n_ids[1] * 4);
    }
    in->size = end;
    in->digest = rt_hash_bytes(in->payload, end);
}

static void make_input(struct input *in, uint64_t batch)
{
    uint64_t key = rt_draw_key(99, "input", NULL), at = batch * 1000;

    memset(in, 0, sizeof(*in));
    in->batch = batch;
    in->weighted = batch & 1;
    in->n_ids[0] = SAMPLES;
    for (uint32_t s = 0; s < SAMPLES; s++) {
        in->place[0][s] = (uint32_t)rt_below(rt_draw(key, at++), IDS);
        in->length[s] = (uint32_t)rt_below(rt_draw(key, at++), LIST_MAX + 1);
        for (uint32_t i = 0; i < in->length[s]; i++) {
            in->weight[in->n_ids[1]] = (float)rt_below(rt_draw(key, at++), 5) - 1;
            in->place[1][in->n_ids[1]++] = (uint32_t)rt_below(rt_draw(key, at++), IDS);
        }
        for (int f = 0; f < FEATURES; f++)
            for (int j = 0; j < DIM; j++)
                in->gradient[f][s][j] = (float)rt_below(rt_draw(key, at++), 9) - 4;
    }
    make_payload(in);
}

static void put(struct world *w, const struct input *in, struct ask *ask)
{
    uint32_t layout[FEATURES] = {WIRE_LAYOUT_ONE, WIRE_LAYOUT_LENGTHS};
    uint8_t weighted[FEATURES] = {0, in->weighted};
    struct wire_put_batch m = {.samples = SAMPLES,
                               .evaluate = in->evaluate,
                               .digest = in->digest,
                               .n_features = FEATURES,
                               .n_ids = in->n_ids,
                               .layout = layout,
                               .weighted = in->weighted ? weighted : NULL,
                               .composer_incarnation = w->composer_incarnation};
    struct rt_piece piece = {in->payload, in->size, NULL};

    ask->payload = NULL;
    ask->err = wire_put_batch_pack(&m, &w->out);
    ask->ended = ask->err != 0;
    if (!ask->err)
        call(w, w->from_composer, WIRE_PUT_BATCH, in->batch, &piece, ask);
}

static void lookup_step(struct world *w, const struct input *in, uint64_t step, struct ask *ask)
{
    struct wire_lookup_batch m = {step, SAMPLES, in->evaluate, in->digest};

    ask->payload = NULL;
    ask->err = wire_lookup_batch_pack(&m, &w->out);
    ask->ended = ask->err != 0;
    if (!ask->err)
        call(w, w->from_trainer, WIRE_LOOKUP_BATCH, in->batch, NULL, ask);
}

static void lookup(struct world *w, const struct input *in, struct ask *ask)
{
    lookup_step(w, in, 0, ask);
}

static void push_as(struct world *w, const struct input *in, bool synchronous, struct ask *ask)
{
    uint32_t dim[FEATURES] = {DIM, DIM};
    struct wire_push_gradients m = {.learning_rate = 1,
                                    .samples = SAMPLES,
                                    .digest = in->digest,
                                    .world = 1,
                                    .synchronous = synchronous,
                                    .dtype = WIRE_F32,
                                    .n_features = FEATURES,
                                    .dim = dim};
    struct rt_piece piece = {in->gradient, sizeof(in->gradient), NULL}; /* 192 bytes a segment */

    ask->payload = NULL;
    ask->err = wire_push_gradients_pack(&m, &w->out);
    ask->ended = ask->err != 0;
    if (!ask->err)
        call(w, w->from_trainer, WIRE_PUSH_GRADIENTS, in->batch, &piece, ask);
}

static void push(struct world *w, const struct input *in, struct ask *ask)
{
    push_as(w, in, false, ask);
}

static int do_put(struct world *w, const struct input *in)
{
    struct ask ask;

    put(w, in, &ask);
    return wait_for(w, &ask);
}

static int do_push(struct world *w, const struct input *in)
{
    struct ask ask;

    push(w, in, &ask);
    return wait_for(w, &ask);
}

/* ---- the model ---- */

static float scale_of(const struct world *w, int f, uint32_t n)
{
    return w->job->feature[f].pooling == RT_POOL_MEAN && n > 1 ? 1.0f / (float)n : 1.0f;
}

static void model_push(struct world *w, const struct input *in)
{
    for (int f = 0; f < FEATURES; f++) {
        for (uint32_t s = 0, at = 0; s < SAMPLES; s++) {
            uint32_t n = f ? in->length[s] : 1;

            for (uint32_t end = at + n; at < end; at++)
                for (int j = 0; j < DIM; j++)
                    w->model.row[w->job->feature[f].table][in->place[f][at]][j] -=
                        scale_of(w, f, n) * (f && in->weighted ? in->weight[at] : 1.0f) *
                        in->gradient[f][s][j];
        }
    }
}

static void check_rows(const struct world *w)
{
    for (int t = 0; t < TABLES; t++)
        for (uint32_t i = 0; i < IDS; i++)
            for (int j = 0; j < DIM; j++) {
                float got =
                    w->owner[0].row[t][i][j] + w->owner[1].row[t][i][j]; /* one of them is 0 */

                if (fabsf(got - w->model.row[t][i][j]) > 1e-3f)
                    fail_msg("table %d id %u column %d: %g, expected %g", t, i, j, (double)got,
                             (double)w->model.row[t][i][j]);
            }
}

/* The reply's embeddings are those of the model's rows. */
static void check_embeddings(const struct world *w, const struct input *in, const struct ask *ask)
{
    const float *got = (const float *)(const void *)ask->payload->data;

    assert_int_equal(ask->payload->size, sizeof(in->gradient));
    for (int f = 0; f < FEATURES; f++) {
        for (uint32_t s = 0, at = 0; s < SAMPLES; s++) {
            uint32_t n = f ? in->length[s] : 1;
            float want[DIM] = {0};

            for (uint32_t end = at + n; at < end; at++)
                for (int j = 0; j < DIM; j++)
                    want[j] += scale_of(w, f, n) * (f && in->weighted ? in->weight[at] : 1.0f) *
                               w->model.row[w->job->feature[f].table][in->place[f][at]][j];
            for (int j = 0; j < DIM; j++)
                if (fabsf(got[(f * SAMPLES + (int)s) * DIM + j] - want[j]) > 1e-3f)
                    fail_msg("feature %d sample %u column %d: %g, expected %g", f, s, j,
                             (double)got[(f * SAMPLES + (int)s) * DIM + j], (double)want[j]);
        }
    }
}

static int do_lookup(struct world *w, const struct input *in)
{
    struct ask ask;
    int err;

    lookup(w, in, &ask);
    err = wait_for(w, &ask);
    if (!err)
        check_embeddings(w, in, &ask);
    rt_buf_unref(ask.payload);
    return err;
}

/* ---- tests ---- */

static void put_lookup_push(void **state)
{
    static const char *const shared[] = {"embedding.features.item.table=user"};
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    for (size_t n_set = 0; n_set < 2; n_set++) { /* tables of their own; one table for both */
        start(w, shared, n_set);
        for (uint64_t b = 0; b < 6; b++) {
            make_input(&in, b);
            assert_int_equal(do_put(w, &in), 0);
            assert_int_equal(do_lookup(w, &in), 0);
            assert_int_equal(do_push(w, &in), 0);
            model_push(w, &in);
            check_rows(w);
        }
        assert_int_equal(number(w, "batches_open"), 0);
        assert_int_equal(number(w, "bytes_reserved"), 0);
        assert_true(number(w, "distinct") < number(w, "ids"));
        assert_int_equal(w->owner[0].again + w->owner[1].again, 0);
        stop(w);
    }
}

static void repeats_are_joined(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in, other;
    struct ask ask[4];

    (void)state;
    start(w, NULL, 0);
    make_input(&in, 3);
    assert_int_equal(do_put(w, &in), 0);
    assert_int_equal(do_put(w, &in), 0);
    other = in;
    other.place[0][0]++;
    make_payload(&other);
    assert_int_equal(do_put(w, &other), RT_EDIGEST);
    assert_int_equal(do_lookup(w, &other), RT_EDIGEST);
    assert_int_equal(do_push(w, &other), RT_EDIGEST);
    assert_int_equal(number(w, "digest_errors"), 3);
    for (int i = 0; i < 3; i++)
        lookup(w, &in, &ask[i]);
    lookup_step(w, &in, 9, &ask[3]); /* of another step: the ones before are told to ask again */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(wait_for(w, &ask[i]), i < 3 ? RT_ENOTREADY : 0);
        rt_buf_unref(ask[i].payload);
    }
    assert_int_equal(do_lookup(w, &in), 0);
    for (int i = 0; i < 3; i++)
        push(w, &in, &ask[i]);
    lookup(w, &in, &ask[3]);
    for (int i = 0; i < 4; i++)
        assert_int_equal(wait_for(w, &ask[i]), i < 3 ? 0 : RT_EUNKNOWN);
    model_push(w, &in);
    check_rows(w);
    assert_int_equal(do_push(w, &in), RT_EUNKNOWN);
    assert_int_equal(do_put(w, &in),
                     0); /* from another middleware's loss: pushed without a lookup */
    assert_int_equal(do_push(w, &in), 0);
    check_rows(w);
    assert_true(w->owner[0].again + w->owner[1].again > 0);
    stop(w);
}

static bool both_hold(void *arg)
{
    struct world *w = arg;

    return w->owner[0].n_held && w->owner[1].n_held;
}

/* Owner 1 dies with the request in its hands, after it did the work, and owner 0 has answered. */
static void owner_lost_between(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    start(w, NULL, 0);
    make_input(&in, 4);
    assert_int_equal(do_put(w, &in), 0);
    for (int round = 0; round < 2; round++) {
        unsigned before = w->owner[0].lookups + w->owner[0].applies;

        w->owner[1].hold = true;
        (round ? push : lookup)(w, &in, &ask);
        sim_run_until(w->sim, NULL, NULL, RT_S);
        assert_int_equal(w->owner[1].n_held, 1);
        assert_int_equal(ask.ended, 0);
        sim_break(w->sim, NODE_M, NODE_E + 1); /* the connection first, then the process */
        sim_run_until(w->sim, NULL, NULL, 3 * RT_S);
        assert_int_equal(w->owner[1].n_held, 2);
        stop_owner(w, 1);
        sim_run_until(w->sim, NULL, NULL, 3 * RT_S);
        assert_int_equal(ask.ended, 0);
        assert_false(mw_loop_ready(w->loop));
        w->owner[1].hold = false;
        start_owner(w, 1);
        assert_int_equal(wait_for(w, &ask), 0);
        assert_int_equal(w->owner[0].lookups + w->owner[0].applies, before + 1);
        if (!round)
            check_embeddings(w, &in, &ask);
        rt_buf_unref(ask.payload);
    }
    model_push(w, &in);
    check_rows(w);
    assert_true(number(w, "retries") >= 4);
    stop(w);
}

static void a_busy_owner_is_asked_again(void **state)
{
    static const int busy[] = {RT_EFULL, RT_ENOTREADY};
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    start(w, NULL, 0);
    for (uint64_t b = 0; b < ARRAY_LEN(busy); b++) {
        make_input(&in, b);
        assert_int_equal(do_put(w, &in), 0);
        for (int round = 0; round < 2; round++) {
            w->owner[0].fail = busy[b];
            w->owner[0].fail_times = 3;
            assert_int_equal(round ? do_push(w, &in) : do_lookup(w, &in), 0);
        }
        model_push(w, &in);
    }
    check_rows(w);
    stop(w);
}

static void an_owner_that_refuses_ends_it(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    start(w, NULL, 0);
    make_input(&in, 1);
    assert_int_equal(do_put(w, &in), 0);
    for (int round = 0; round < 2; round++) {
        w->owner[1].fail = RT_EOWNER;
        w->owner[1].fail_times = 1;
        (round ? push : lookup)(w, &in, &ask);
        assert_int_equal(wait_for(w, &ask), RT_EOWNER);
        assert_non_null(strstr(ask.text, "as told"));
        assert_int_equal(round ? do_push(w, &in) : do_lookup(w, &in),
                         0); /* it can be asked again */
    }
    model_push(w, &in);
    check_rows(w);
    stop(w);
}

static void synchronous_reaches_every_owner(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    start(w, NULL, 0);
    make_input(&in, 2);
    for (uint32_t s = 0; s < SAMPLES; s++) { /* ids of one owner only */
        in.place[0][s] = 0;
        in.length[s] = 0;
    }
    in.n_ids[1] = 0;
    make_payload(&in);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(do_put(w, &in), 0);
        push_as(w, &in, round == 1, &ask);
        assert_int_equal(wait_for(w, &ask), 0);
        assert_int_equal(w->owner[0].applies, round + 1);
        assert_int_equal(w->owner[1].applies, round);
        assert_int_equal(w->owner[1].empty, round);
        in.batch++;
    }
    stop(w);
}

static void evaluation_is_forgotten(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    start(w, NULL, 0);
    make_input(&in, 8);
    in.evaluate = true;
    assert_int_equal(do_lookup(w, &in), RT_EUNKNOWN);
    assert_int_equal(do_put(w, &in), 0);
    assert_int_equal(do_push(w, &in), RT_EPROTO);
    assert_int_equal(do_lookup(w, &in), 0);
    assert_int_equal(number(w, "batches_open"), 0);
    assert_int_equal(do_lookup(w, &in), RT_EUNKNOWN);
    assert_int_equal(number(w, "unknown"), 2);
    stop(w);
}

static int do_release(struct world *w, uint64_t batch)
{
    struct wire_release_batch m = {"dropped"};
    struct ask ask;

    assert_int_equal(wire_release_batch_pack(&m, &w->out), 0);
    call(w, w->from_trainer, WIRE_RELEASE_BATCH, batch, NULL, &ask);
    return wait_for(w, &ask);
}

static void released_while_looked_up(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    start(w, NULL, 0);
    make_input(&in, 1);
    assert_int_equal(do_release(w, 77), 0); /* not held: nothing to do */
    assert_int_equal(do_put(w, &in), 0);
    w->owner[0].hold = w->owner[1].hold = true;
    lookup(w, &in, &ask);
    assert_true(sim_run_until(w->sim, both_hold, w, RT_S));
    assert_int_equal(do_release(w, in.batch), 0);
    assert_int_equal(wait_for(w, &ask), RT_EUNKNOWN);
    assert_int_equal(number(w, "batches_open"), 0);
    assert_int_equal(do_put(w, &in), 0); /* the same again, while the old one's requests are out */
    w->owner[0].hold = w->owner[1].hold = false;
    assert_int_equal(do_lookup(w, &in), 0);
    stop(w); /* with requests of the forgotten one still out */
}

static void over_the_budget(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    uint64_t held = 0;
    int err;

    (void)state;
    start(w, NULL, 0);
    w->job->global.middleware_memory = 20000; /* below what the file may say */
    for (;; held++) {
        make_input(&in, held);
        err = do_put(w, &in);
        if (err)
            break;
    }
    assert_int_equal(err, RT_EFULL);
    assert_true(held >= 2 && number(w, "refused_full") == 1);
    assert_true(number(w, "bytes_reserved") <= 20000);
    assert_int_equal(do_release(w, 0), 0);
    assert_int_equal(do_put(w, &in), 0);
    make_input(&in, held + 1);
    assert_int_equal(do_put(w, &in), RT_EFULL);
    sim_run_until(w->sim, NULL, NULL, 61 * RT_S); /* nobody asked for them: they make room */
    settle(w);
    assert_int_equal(do_put(w, &in), 0);
    assert_int_equal(number(w, "dropped_idle"), 1);
    assert_int_equal(do_lookup(w, &in), 0);
    stop(w);
    start(w, NULL, 0);
    w->job->global.middleware_memory = 3000;
    assert_int_equal(do_put(w, &in), RT_ELIMIT);
    assert_int_equal(number(w, "batches_open"), 0);
    stop(w);
}

static void a_dead_composer_leaves_nothing(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in[4];

    (void)state;
    start(w, NULL, 0);
    for (uint64_t b = 0; b < 3; b++) {
        make_input(&in[b], b);
        assert_int_equal(do_put(w, &in[b]), 0);
    }
    assert_int_equal(do_lookup(w, &in[0]), 0); /* a trainer has it: it may still be pushed */
    start_composer(w, 6);
    settle(w);
    assert_int_equal(do_put(w, &in[1]), 0); /* put again: kept */
    assert_int_equal(number(w, "dropped_dead"), 1);
    assert_int_equal(number(w, "batches_open"), 2);
    assert_int_equal(do_push(w, &in[0]), 0);
    model_push(w, &in[0]);
    assert_int_equal(do_lookup(w, &in[1]), 0);
    assert_int_equal(do_lookup(w, &in[2]), RT_EUNKNOWN);
    stop(w);
}

static void malformed_batches(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    start(w, NULL, 0);
    for (int fault = 0; fault < 6; fault++) {
        int want = RT_EPROTO;

        make_input(&in, 1); /* with weights */
        assert_true(in.n_ids[1] > 2);
        if (fault == 0) {
            in.digest++;
            want = RT_EDIGEST;
        } else if (fault == 1) { /* lengths do not sum up */
            in.length[0]++;
            make_payload(&in);
        } else if (fault == 2) { /* longer than embedding.features.item.max_length */
            in.length[0] = 65;
            make_payload(&in);
        } else if (fault == 3) {
            in.weight[1] = INFINITY;
            make_payload(&in);
        } else { /* cut short; too long */
            in.size = fault == 4 ? in.size - 4 : in.size + 64;
            in.digest = rt_hash_bytes(in.payload, in.size);
        }
        assert_int_equal(do_put(w, &in), want);
        assert_int_equal(number(w, "batches_open"), 0);
        assert_int_equal(number(w, "bytes_reserved"), 0);
    }
    make_input(&in, 1);
    assert_int_equal(do_put(w, &in), 0);
    stop(w);
}

static void servers_must_agree(void **state)
{
    static const char *const workers[] = {"global.embedding_server.workers=0"};
    static struct world world;
    struct world *w = &world;
    const char *address[3] = {"sim:3:9", "sim:3:8", "sim:3:7"};

    (void)state;
    start(w, NULL, 0);
    assert_int_equal(mw_loop_on_server(w->loop, 0, 2, 2, address, 9), RT_EUSAGE); /* conf says 1 */
    assert_int_equal(mw_loop_on_server(w->loop, 0, 3, 1, address, 9), RT_EUSAGE);
    assert_int_equal(mw_loop_on_server(w->loop, 2, 2, 1, address, 9), RT_EUSAGE);
    assert_int_equal(mw_loop_on_server(w->loop, 0, 2, 0, address, 9), 0); /* it is starting */
    assert_true(mw_loop_ready(w->loop));
    stop(w);
    start(w, workers, 1);
    assert_int_equal(mw_loop_on_server(w->loop, 1, 2, 3, address, 9), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "embedding_server/1 has 3 workers, others have 1"));
    stop(w);
}

/* One allocation fails, somewhere; whoever asked asks again, and nothing is lost or done twice. */
static void every_allocation_may_fail(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    bool hit = true;

    (void)state;
    for (int nth = 0; hit; nth++) {
        int tries = 0;

        start(w, NULL, 0);
        make_input(&in, 1);
        rt_fault_alloc(nth);
        while (tries < 4 && (do_put(w, &in) || do_lookup(w, &in))) {
            tries++;
            settle(w);
        }
        while (tries < 4 && (do_put(w, &in) || do_push(w, &in))) {
            tries++;
            settle(w);
        }
        hit = rt_fault_hit();
        rt_fault_alloc(-1);
        assert_true(tries < 4);
        model_push(w, &in);
        check_rows(w);
        stop(w);
        if (nth > 400)
            fail_msg("no end of allocations");
    }
}

/* ---- many batches while connections break ---- */

enum { FLIGHT = 8, BATCHES = 120 };

struct flight {
    struct input in;
    struct ask ask;
    int stage; /* 0 to be put, 1 put, 2 looked up, 3 pushed */
    bool out;
};

static void advance(struct world *w, struct flight *f)
{
    struct rt_peer *peer = f->stage == 0 ? w->from_composer : w->from_trainer;

    if (f->out && f->ask.ended) {
        f->out = false;
        rt_buf_unref(f->ask.payload);
        f->ask.payload = NULL;
        if (!f->ask.err) {
            f->stage++;
        } else {
            assert_true(f->ask.err == RT_EPEER || f->ask.err == RT_EDEADLINE ||
                        f->ask.err == RT_EUNKNOWN);
            f->stage = 0;
        }
    }
    if (f->out || f->stage == 3 || !rt_peer_is_up(peer))
        return;
    f->out = true;
    (f->stage == 0 ? put : f->stage == 1 ? lookup : push)(w, &f->in, &f->ask);
}

static void random_losses(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct flight flight[FLIGHT];
    uint64_t seed = 20261122, draws = 0, begun = 0, done = 0;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    start(w, NULL, 0);
    for (int i = 0; i < FLIGHT; i++)
        flight[i].stage = 3;
    while (done < BATCHES) {
        for (int i = 0; i < FLIGHT; i++) {
            struct flight *f = &flight[i];

            if (f->stage == 3 && begun < BATCHES) {
                memset(f, 0, sizeof(*f));
                make_input(&f->in, begun++);
            }
            if (f->stage < 3) {
                advance(w, f);
                if (f->stage == 3) {
                    model_push(w, &f->in);
                    done++;
                }
            }
        }
        if (rt_below(rt_draw(seed, draws++), 6) == 0)
            sim_break(w->sim, NODE_M,
                      NODE_C + (unsigned)rt_below(rt_draw(seed, draws++), NODES - 1));
        if (rt_below(rt_draw(seed, draws++), 200) == 0) {
            unsigned k = (unsigned)rt_below(rt_draw(seed, draws++), OWNERS);

            stop_owner(w, k);
            sim_run_until(w->sim, NULL, NULL, RT_MS);
            start_owner(w, k);
        }
        sim_run_until(w->sim, NULL, NULL, rt_below(rt_draw(seed, draws++), RT_MS));
    }
    check_rows(w);
    assert_int_equal(number(w, "batches_put"), number(w, "pushes"));
    assert_int_equal(number(w, "batches_open"), 0);
    printf("%llu requests again, %u already applied\n", (unsigned long long)number(w, "retries"),
           w->owner[0].again + w->owner[1].again);
    assert_true(number(w, "retries") > 0);
    stop(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_lookup_push),
        cmocka_unit_test(repeats_are_joined),
        cmocka_unit_test(owner_lost_between),
        cmocka_unit_test(a_busy_owner_is_asked_again),
        cmocka_unit_test(an_owner_that_refuses_ends_it),
        cmocka_unit_test(synchronous_reaches_every_owner),
        cmocka_unit_test(evaluation_is_forgotten),
        cmocka_unit_test(released_while_looked_up),
        cmocka_unit_test(over_the_budget),
        cmocka_unit_test(a_dead_composer_leaves_nothing),
        cmocka_unit_test(malformed_batches),
        cmocka_unit_test(servers_must_agree),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(random_losses),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
