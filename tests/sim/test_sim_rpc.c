/* tests/sim/test_sim_rpc.c -- the rpc under a simulated network that misbehaves, by seed.
 *
 * CLIENTS nodes ask SERVERS nodes at random times, while links are cut, broken and their bits flipped.
 * What must hold: every call ends exactly once; a reply belongs to its request; a call fails only
 * when there was a fault; when the network is well again all peers are up within a second; and the
 * same seed makes the same run. SAFFRON_TEST_SEED replays one seed. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/net/rpc.h"
#include "tests/lib/greeting.h"
#include "tests/sim/sim_io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CLIENTS = 3, SERVERS = 2, NODES = CLIENTS + SERVERS, CALLS = 2000, METHOD_DOUBLE = 16 };

struct world;

struct member {
    struct world *world;
    struct rt_io *io;
    struct rt_rpc *rpc;
    struct rt_peer *peer[SERVERS]; /* clients */
    struct rt_timer timer;         /* clients: the next call; servers: the late reply */
    unsigned ups, downs;
    char bound[RT_ADDRESS_MAX];
};

struct ask {
    struct world *world;
    uint64_t word;
    int ended, err;
};

struct world {
    struct sim *sim;
    struct member member[NODES];
    struct ask ask[CALLS];
    unsigned asked, ended, good, late_open;
    uint64_t draw_key, draws;
    bool faults;
};

/* A server's reply that is given later. */
struct late {
    struct rt_timer timer;
    struct world *world;
    struct rt_call *call;
    uint64_t word[8];
};

static uint64_t draw(struct world *w, uint64_t below)
{
    return rt_below(rt_draw(w->draw_key, w->draws++), below);
}

static void reply_late(void *arg)
{
    struct late *late = arg;
    struct rt_piece piece = {late->word, sizeof(late->word), NULL};
    rt_call_reply(late->call, &(struct rt_outgoing){.message = late->word,
                                                    .message_size = sizeof(late->word[0]),
                                                    .pieces = &piece,
                                                    .n_pieces = 1});
    late->world->late_open--;
    free(late);
}

static void serve_double(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct member *m = ctx;
    struct late *late = calloc(1, sizeof(*late));
    late->world = m->world;
    late->call = call;
    memcpy(late->word, request->message, sizeof(late->word[0]));
    for (int i = 1; i < 8; i++)
        late->word[i] = late->word[0] * 2;
    late->timer.fire = reply_late;
    late->timer.arg = late;
    m->world->late_open++;
    rt_timer_start(m->io, &late->timer, draw(m->world, 2 * RT_MS));
}

static const struct rt_method_def methods[] = {
    {METHOD_DOUBLE, "Double", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 64, 0, serve_double},
};

static void on_up(void *ctx, struct rt_peer *peer)
{
    (void)peer;
    ((struct member *)ctx)->ups++;
}

static void on_down(void *ctx, struct rt_peer *peer, int err, const char *why)
{
    (void)peer;
    (void)err;
    (void)why;
    ((struct member *)ctx)->downs++;
}

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct ask *ask = arg;
    ask->ended++;
    ask->err = err;
    ask->world->ended++;
    if (err) {
        assert_true(ask->world->faults);
        assert_true(err == RT_EPEER || err == RT_EDEADLINE);
        return;
    }
    const uint64_t *word = (const uint64_t *)reply->payload->data;
    assert_memory_equal(reply->message, &ask->word, sizeof(ask->word));
    assert_int_equal(word[7], ask->word * 2);
    assert_int_equal((uintptr_t)word % 64, 0);
    ask->world->good++;
}

static void next_call(void *arg)
{
    struct member *m = arg;
    struct world *w = m->world;
    struct rt_peer *peer = m->peer[draw(w, SERVERS)];
    if (w->asked < CALLS && rt_peer_is_up(peer)) {
        struct ask *ask = &w->ask[w->asked];
        *ask = (struct ask){.world = w, .word = draw(w, UINT64_MAX)};
        struct rt_outgoing out = {.message = &ask->word, .message_size = sizeof(ask->word)};
        uint64_t deadline = draw(w, 2) ? 300 * RT_MS : 0;
        assert_int_equal(rt_rpc_call(peer, METHOD_DOUBLE, &out, deadline, on_reply, ask), 0);
        w->asked++;
    }
    if (w->asked < CALLS)
        rt_timer_start(m->io, &m->timer, draw(w, 2 * RT_MS));
}

static void start_member(struct world *w, unsigned node)
{
    struct member *m = &w->member[node];
    bool client = node < CLIENTS;
    struct rt_rpc_conf conf = {
        .io = sim_node(w->sim, node),
        .self = {.job = "sim",
                 .role = client ? RT_ROLE_MIDDLEWARE : RT_ROLE_EMBEDDING_SERVER,
                 .index = client ? node : node - CLIENTS,
                 .incarnation = 7,
                 .wire_version = RT_WIRE_VERSION},
        .greeting = &plain_greeting,
        .methods = methods,
        .n_methods = client ? 0 : ARRAY_LEN(methods),
        .reply_max = 4096,
        .ctx = m,
        .peer_up = on_up,
        .peer_down = on_down,
    };
    char address[RT_ADDRESS_MAX];
    m->world = w;
    m->io = conf.io;
    assert_int_equal(rt_rpc_create(&conf, &m->rpc), 0);
    snprintf(address, sizeof(address), "sim:%u:0", node);
    if (!client)
        assert_int_equal(rt_rpc_listen(m->rpc, address, m->bound), 0);
    m->timer.fire = next_call;
    m->timer.arg = m;
}

static struct world *world_open(uint64_t seed)
{
    struct world *w = calloc(1, sizeof(*w));
    struct sim_conf conf = {.seed = seed, .n_nodes = NODES};
    w->sim = sim_create(&conf);
    w->draw_key = rt_draw_key(seed, "test", NULL);
    for (unsigned node = NODES; node-- > 0;)
        start_member(w, node);
    for (unsigned c = 0; c < CLIENTS; c++) {
        for (unsigned s = 0; s < SERVERS; s++) {
            struct member *m = &w->member[c];
            m->peer[s] = rt_rpc_peer(m->rpc, RT_ROLE_EMBEDDING_SERVER, s, 0);
            rt_peer_set_address(m->peer[s], w->member[CLIENTS + s].bound, 7);
        }
    }
    return w;
}

static bool all_up(void *arg)
{
    struct world *w = arg;
    for (unsigned c = 0; c < CLIENTS; c++) {
        for (unsigned s = 0; s < SERVERS; s++) {
            if (!rt_peer_is_up(w->member[c].peer[s]))
                return false;
        }
    }
    return true;
}

static bool all_ended(void *arg)
{
    struct world *w = arg;
    return w->asked == CALLS && w->ended == CALLS && w->late_open == 0;
}

static void world_close(struct world *w)
{
    for (unsigned node = 0; node < NODES; node++) {
        rt_timer_stop(w->member[node].io, &w->member[node].timer);
        rt_rpc_destroy(w->member[node].rpc);
    }
    sim_destroy(w->sim);
    free(w);
}

/* A fault somewhere, for 10 to 300 ms; every tenth cut is longer than the peers' patience (5 s). */
static void trouble(struct world *w)
{
    unsigned a = (unsigned)draw(w, CLIENTS), b = CLIENTS + (unsigned)draw(w, SERVERS);
    uint64_t kind = draw(w, 10);
    if (kind < 4) {
        sim_break(w->sim, a, b);
    } else if (kind < 6) {
        sim_flip(w->sim, draw(w, 2) ? a : b, draw(w, 2) ? b : a);
    } else {
        sim_cut(w->sim, a, b, true);
        sim_run_until(w->sim, NULL, NULL, kind == 9 ? 6 * RT_S : 10 * RT_MS + draw(w, 200 * RT_MS));
        sim_cut(w->sim, a, b, false);
    }
    sim_run_until(w->sim, NULL, NULL, draw(w, 300 * RT_MS));
}

struct outcome {
    uint64_t digest;
    unsigned good, downs;
};

static struct outcome run_seed(uint64_t seed, bool faults)
{
    struct world *w = world_open(seed);
    struct outcome got = {0};
    w->faults = faults;
    if (!sim_run_until(w->sim, all_up, w, RT_S))
        fail_msg("seed %llu: peers are not up after 1 s", (unsigned long long)seed);
    for (unsigned c = 0; c < CLIENTS; c++)
        next_call(&w->member[c]);
    for (int i = 0; faults && i < 12; i++)
        trouble(w);
    if (!sim_run_until(w->sim, all_ended, w, 60 * RT_S))
        fail_msg("seed %llu: %u asked, %u ended", (unsigned long long)seed, w->asked, w->ended);
    if (!sim_run_until(w->sim, all_up, w, 7 * RT_S))
        fail_msg("seed %llu: peers are not up again", (unsigned long long)seed);
    for (unsigned i = 0; i < CALLS; i++)
        assert_int_equal(w->ask[i].ended, 1);
    for (unsigned c = 0; c < CLIENTS; c++)
        got.downs += w->member[c].downs;
    got.good = w->good;
    got.digest = sim_digest(w->sim);
    world_close(w);
    return got;
}

static void test_calm(void **state)
{
    (void)state;
    struct outcome got = run_seed(1, false);
    assert_int_equal(got.good, CALLS);
    assert_int_equal(got.downs, 0);
}

static void test_same_seed_same_run(void **state)
{
    (void)state;
    struct outcome a = run_seed(42, true), b = run_seed(42, true), c = run_seed(43, true);
    assert_int_equal(a.digest, b.digest);
    assert_int_equal(a.good, b.good);
    assert_true(a.digest != c.digest);
}

static void test_trouble(void **state)
{
    const char *one = getenv("SAFFRON_TEST_SEED");
    uint64_t first = one ? strtoull(one, NULL, 10) : 1000;
    unsigned downs = 0, good = 0, n = one ? 1 : 30;
    (void)state;
    for (unsigned i = 0; i < n; i++) {
        struct outcome got = run_seed(first + i, true);
        downs += got.downs;
        good += got.good;
    }
    printf("seeds %llu..%llu: %u of %u calls answered, %u connections lost\n",
           (unsigned long long)first, (unsigned long long)(first + n - 1), good, n * CALLS, downs);
    assert_true(downs >= n); /* there was trouble */
    assert_true(good > n * CALLS / 2);
}

/* Cut for longer than RT_DEAD_NS: both ends notice by the heartbeat alone. */
static void test_silence(void **state)
{
    struct world *w = world_open(5);
    (void)state;
    assert_true(sim_run_until(w->sim, all_up, w, RT_S));
    sim_run_until(w->sim, NULL, NULL, 20 * RT_S); /* idle: pings keep it up */
    assert_int_equal(w->member[0].downs, 0);
    sim_cut(w->sim, 0, CLIENTS, true);
    sim_run_until(w->sim, NULL, NULL, RT_DEAD_NS - RT_HEARTBEAT_NS - RT_MS);
    assert_int_equal(w->member[0].downs, 0);
    sim_run_until(w->sim, NULL, NULL, 2 * RT_HEARTBEAT_NS);
    assert_int_equal(w->member[0].downs, 1);
    assert_int_equal(w->member[1].downs, 0);
    sim_cut(w->sim, 0, CLIENTS, false);
    assert_true(sim_run_until(w->sim, all_up, w, RT_GREET_NS + 2 * RT_S));
    world_close(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_calm),
        cmocka_unit_test(test_same_seed_same_run),
        cmocka_unit_test(test_trouble),
        cmocka_unit_test(test_silence),
    };
    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
