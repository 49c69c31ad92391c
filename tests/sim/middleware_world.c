/* tests/sim/middleware_world.c -- see middleware_world.h: the owners, the world, and asking. Batches: middleware_batch.c. */
#include "tests/sim/middleware_world.h"
#include "tests/lib/job_fixture.h"
#include "tests/lib/page.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/wire/member.h"
#include "runtime/wire/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static uint32_t place_of(uint64_t id)
{
    for (uint32_t i = 0; i < IDS; i++)
        if (mwt_id(i) == id)
            return i;
    fail_msg("id %016llx was never put", (unsigned long long)id);
    return 0;
}

/* Where the model has a row that an owner is asked for. */
static uint32_t row_of(const struct world *w, uint32_t table, uint64_t id)
{
    const struct rt_table_conf *conf = &w->job->table[table];

    if (!conf->hash_functions)
        return place_of(id);
    assert_true(id < conf->hash_rows && conf->hash_rows <= IDS);
    return (uint32_t)id;
}

/* ---- the owners ---- */

/* One id of a request: of this owner's shards, and once per table however many features share it. */
static void check_id(const struct owner *owner, const uint64_t *ids, uint32_t i)
{
    struct rt_shard_map map;
    uint64_t id = ids[i];

    while (i-- > 0)
        assert_true(ids[i] != id);

    assert_int_equal(rt_shard_map_init(&map, owner->world->owners, 1), 0);
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

static void count_bytes(struct owner *owner, size_t bytes)
{
    owner->bytes_max = bytes > owner->bytes_max ? bytes : owner->bytes_max;
}

static void serve_rows(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner *owner = ctx;
    struct world *w = owner->world;
    struct rt_segments seg = rt_segments_of(request->payload);
    struct wire_lookup_rows m;
    struct rt_buf *buf = rt_io_buf(sim_node(w->sim, NODE_E + owner->index), 1 << 16);
    size_t end = 0, row_bytes = DIM * wire_dtype_size(w->job->global.wire.rows);

    owner->lookups++;
    rt_arena_reset(w->arena);
    count_bytes(owner, request->header.payload_size);
    if (!buf ||
        wire_lookup_rows_unpack(request->message, request->header.message_size, w->arena, &m)) {
        rt_buf_unref(buf);
        rt_call_fail(call, RT_EFULL, rt_err_text());
        return;
    }
    for (uint32_t t = 0; t < m.n_tables; t++) {
        const void *ids;
        size_t at = rt_segment_put(&end, m.n_ids[t] * row_bytes);

        assert_int_equal(m.dtype, w->job->global.wire.rows);
        assert_int_equal(rt_segment_take(&seg, m.n_ids[t], 8, &ids), 0);
        for (uint32_t i = 0; i < m.n_ids[t]; i++) {
            uint64_t id = ((const uint64_t *)ids)[i];

            check_id(owner, ids, i);
            rt_narrow(m.dtype, owner->row[m.table[t]][row_of(w, m.table[t], id)],
                      buf->data + at + i * row_bytes, DIM);
        }
    }
    assert_int_equal(rt_segments_end(&seg), 0);
    count_bytes(owner, end);
    if (!intercept(owner, call)) {
        struct wire_lookup_rows_reply reply = {m.n_tables, m.n_ids, m.dtype};
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
    size_t row_bytes = DIM * wire_dtype_size(m->dtype);

    assert_int_equal(m->dtype, owner->world->job->global.wire.row_gradients);
    assert_int_equal(m->scale != NULL, m->dtype == WIRE_F16 && m->n_tables);
    for (uint32_t t = 0; t < m->n_tables; t++) {
        float scale = m->scale ? m->scale[t] : 1, gradient[DIM];
        const void *ids, *narrow;

        owner->scaled += scale != 1;
        assert_int_equal(rt_segment_take(&seg, m->n_ids[t], 8, &ids), 0);
        assert_int_equal(rt_segment_take(&seg, m->n_ids[t], row_bytes, &narrow), 0);
        for (uint32_t i = 0; i < m->n_ids[t]; i++) {
            uint64_t id = ((const uint64_t *)ids)[i];

            check_id(owner, ids, i);
            rt_widen_scaled(m->dtype, 1 / scale, (const char *)narrow + i * row_bytes, gradient,
                            DIM);
            for (int j = 0; j < DIM; j++)
                owner->row[m->table[t]][row_of(owner->world, m->table[t], id)][j] -= gradient[j];
        }
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void serve_apply(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct owner *owner = ctx;
    struct world *w = owner->world;
    struct wire_apply_gradients m = {0};
    int err;
    uint64_t key;
    bool again;

    rt_arena_reset(w->arena);
    err = wire_apply_gradients_unpack(request->message, request->header.message_size, w->arena, &m);
    key = mwt_part_key(request->header.batch_id, m.part);
    again = rt_map_get(&owner->applied, key, NULL);
    owner->applies++;
    owner->again += again;
    owner->parts_max = m.parts > owner->parts_max ? m.parts : owner->parts_max;
    count_bytes(owner, request->header.payload_size);
    if (err || (owner->fail_times == 0 && rt_map_put(&owner->applied, key, 1) != 0)) {
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
void mwt_start_owner(struct world *w, unsigned k)
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
    if (mw_loop_on_server(w->loop, k, w->owners, 1, &address, owner->incarnation) != 0)
        fail_msg("%s", rt_err_text());
}

void mwt_stop_owner(struct world *w, unsigned k)
{
    struct owner *owner = &w->owner[k];

    for (unsigned i = 0; i < owner->n_held; i++)
        rt_call_fail(owner->held[i], RT_ECANCELED, "going down");
    owner->n_held = 0;
    rt_rpc_destroy(owner->rpc);
    owner->rpc = NULL;
}

void mwt_start_composer(struct world *w, uint64_t incarnation)
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

void mwt_settle(struct world *w)
{
    assert_true(sim_run_until(w->sim, connected, w, 20 * RT_S));
}

void mwt_start(struct world *w, const char *const *set, size_t n_set)
{
    mwt_start_with(w, OWNERS, set, n_set);
}

void mwt_start_with(struct world *w, unsigned owners, const char *const *set, size_t n_set)
{
    mwt_start_parts(w, owners, 0, set, n_set);
}

void mwt_start_parts(struct world *w, unsigned owners, size_t part_bytes, const char *const *set,
                     size_t n_set)
{
    const char *all[1 + SETTINGS_MAX] = {"global.embedding_server.workers=1"};
    struct sim_conf sim = {.seed = 7, .n_nodes = NODES};
    struct rt_identity trainer;
    struct mw_loop_conf conf;

    memset(w, 0, sizeof(*w));
    w->owners = owners;
    w->sim = sim_create(&sim);
    w->out = (struct wire_out){rt_xmalloc(4096), 0, 4096}; /* packing here never fails */
    for (size_t i = 0; i < n_set && i < SETTINGS_MAX; i++)
        all[i + 1] = set[i];
    w->job = job_fixture(all, 1 + n_set);
    assert_int_equal(rt_arena_create(1 << 20, &w->arena), 0);
    conf = (struct mw_loop_conf){.io = sim_node(w->sim, NODE_M),
                                 .identity = identity(RT_ROLE_MIDDLEWARE, 0, 5, w->job),
                                 .job = w->job,
                                 .greeting = &wire_greeting,
                                 .listen = "sim:0:1",
                                 .part_bytes = part_bytes};
    assert_int_equal(mw_loop_create(&conf, &w->loop), 0);
    trainer = identity(RT_ROLE_TRAINER, 0, 5, w->job);
    w->trainer = make_rpc(w, NODE_T, &trainer, NULL);
    w->from_trainer = rt_rpc_peer(w->trainer, RT_ROLE_MIDDLEWARE, 0, 0);
    rt_peer_set_address(w->from_trainer, mw_loop_address(w->loop), 5);
    mwt_start_composer(w, 5);
    for (unsigned k = 0; k < owners; k++)
        mwt_start_owner(w, k);
    mwt_settle(w);
}

/* What holds after any test: as many times of work as batches that it was done on. */
static void check_numbers(struct world *w)
{
    struct rt_metrics *metrics = rt_metrics_create();

    mw_loop_register(w->loop, metrics);
    assert_true(page_sum(metrics, "saffron_middleware_dedup_seconds_count") ==
                page_sum(metrics, "saffron_middleware_batches_put_total"));
    assert_true(page_sum(metrics, "saffron_middleware_pool_seconds_count") ==
                page_sum(metrics, "saffron_middleware_lookups_total"));
    assert_true(page_sum(metrics, "saffron_middleware_scatter_seconds_count") >=
                page_sum(metrics, "saffron_middleware_pushes_total"));
    assert_true(page_sum(metrics, "saffron_middleware_distinct_ids_total") <=
                page_sum(metrics, "saffron_middleware_ids_total"));
    rt_metrics_destroy(metrics);
}

void mwt_stop(struct world *w)
{
    check_numbers(w);
    for (unsigned k = 0; k < OWNERS; k++) {
        if (w->owner[k].rpc)
            mwt_stop_owner(w, k);
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

uint64_t mwt_number(struct world *w, const char *key)
{
    json_t *object = json_object();
    uint64_t value;

    mw_loop_status(w->loop, object);
    value = (uint64_t)json_integer_value(json_object_get(object, key));
    json_decref(object);
    return value;
}

/* ---- asking ---- */

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

bool mwt_both_hold(void *world)
{
    const struct world *w = world;

    return w->owner[0].n_held && w->owner[1].n_held;
}

int mwt_wait_for(struct world *w, struct ask *ask)
{
    if (!sim_run_until(w->sim, has_ended, ask, 40 * RT_S))
        fail_msg("no reply");
    assert_int_equal(ask->ended, 1);
    return ask->err;
}

void mwt_call(struct world *w, struct rt_peer *peer, uint16_t method, uint64_t batch,
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
