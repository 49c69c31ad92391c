/* tests/unit/test_rpc.c -- two rpcs on one real loop, over TCP and Unix sockets, and raw sockets that
 * misbehave. The loop is turned by hand (uv_run once) until what a test waits for has come. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/hash.h"
#include "runtime/base/rand.h"
#include "runtime/net/address.h"
#include "runtime/net/loop.h"
#include "runtime/net/rpc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

enum { METHOD_ECHO = 16, METHOD_HOLD, METHOD_FAIL, METHOD_TRAINER_ONLY };
#define ECHO_MESSAGE_MAX 1000
#define ECHO_PAYLOAD_MAX (8u << 20)
#define POOL_BUDGET      (32u << 20)
#define HELD_MAX         16

/* ---- the world of a test ---- */

struct end {
    struct rt_rpc *rpc;
    struct rt_call *held[HELD_MAX];
    int n_held, served, ups, downs, fenced;
    uint64_t fenced_by;
    char why[256];
    char bound[RT_ADDRESS_MAX];
};

struct world {
    struct rt_loop *loop;
    struct end server, client;
    struct rt_peer *peer;
    struct rt_timer tick;
    char address[RT_ADDRESS_MAX];
};

struct answer {
    int count, err;
    char text[256];
    struct rt_header header;
    struct rt_buf *payload;
    uint8_t message[64];
};

static int pack_plain(const struct rt_identity *id, uint8_t *out, size_t capacity, size_t *size)
{
    rt_assert(capacity >= sizeof(*id));
    memcpy(out, id, sizeof(*id));
    *size = sizeof(*id);
    return 0;
}

static int unpack_plain(const uint8_t *message, size_t size, struct rt_identity *out)
{
    if (size != sizeof(*out))
        return RT_FAIL(RT_EPROTO, "handshake: expected %zu bytes, got %zu", sizeof(*out), size);
    memcpy(out, message, size);
    return 0;
}

static const struct rt_greeting greeting = {pack_plain, unpack_plain};

static void serve_echo(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct end *end = ctx;
    struct rt_piece piece = {0};
    end->served++;
    if (request->payload)
        piece = (struct rt_piece){request->payload->data, request->payload->size, request->payload};
    rt_call_reply(call, &(struct rt_outgoing){.message = request->message,
                                              .message_size = request->header.message_size,
                                              .pieces = &piece,
                                              .n_pieces = request->payload ? 1 : 0});
}

static void serve_hold(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct end *end = ctx;
    (void)request;
    rt_assert(end->n_held < HELD_MAX);
    end->held[end->n_held++] = call;
}

static void serve_fail(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)ctx;
    (void)request;
    rt_call_fail(call, RT_EUNKNOWN, "batch 7 is not here\n");
}

#define ALL_ROLES ((1u << RT_ROLE_COUNT) - 1)
static const struct rt_method_def methods[] = {
    {METHOD_ECHO, "Echo", ALL_ROLES, ECHO_MESSAGE_MAX, ECHO_PAYLOAD_MAX, serve_echo},
    {METHOD_HOLD, "Hold", ALL_ROLES, ECHO_MESSAGE_MAX, ECHO_PAYLOAD_MAX, serve_hold},
    {METHOD_FAIL, "Fail", ALL_ROLES, ECHO_MESSAGE_MAX, 0, serve_fail},
    {METHOD_TRAINER_ONLY, "TrainerOnly", RT_ROLE_BIT(RT_ROLE_TRAINER), 0, 0, serve_fail},
};

static void on_peer_up(void *ctx, struct rt_peer *peer)
{
    struct end *end = ctx;
    (void)peer;
    end->ups++;
}

static void on_peer_down(void *ctx, struct rt_peer *peer, int err, const char *why)
{
    struct end *end = ctx;
    (void)peer;
    (void)err;
    end->downs++;
    snprintf(end->why, sizeof(end->why), "%s", why);
}

static void on_fenced(void *ctx, uint64_t held)
{
    struct end *end = ctx;
    end->fenced++;
    end->fenced_by = held;
}

static struct rt_rpc_conf conf_of(struct world *w, struct end *end, enum rt_role role,
                                  uint64_t incarnation)
{
    return (struct rt_rpc_conf){
        .io = rt_loop_io(w->loop),
        .self = {.job = "test",
                 .role = role,
                 .incarnation = incarnation,
                 .wire_version = RT_WIRE_VERSION,
                 .config_hash = 11,
                 .plan_hash = 22},
        .greeting = &greeting,
        .methods = methods,
        .n_methods = ARRAY_LEN(methods),
        .reply_max = ECHO_PAYLOAD_MAX,
        .ctx = end,
        .peer_up = on_peer_up,
        .peer_down = on_peer_down,
        .fenced = on_fenced,
        .heartbeat_ns = 30 * RT_MS,
        .dead_ns = 150 * RT_MS,
        .greet_ns = 150 * RT_MS,
        .backoff_ns = 30 * RT_MS,
    };
}

static void start_server(struct world *w, uint64_t incarnation)
{
    struct rt_rpc_conf conf = conf_of(w, &w->server, RT_ROLE_EMBEDDING_SERVER, incarnation);
    memset(&w->server, 0, sizeof(w->server));
    assert_int_equal(rt_rpc_create(&conf, &w->server.rpc), 0);
    if (rt_rpc_listen(w->server.rpc, w->address, w->server.bound))
        fail_msg("%s", rt_err_text());
}

static void start_client(struct world *w, const struct rt_rpc_conf *conf)
{
    assert_int_equal(rt_rpc_create(conf, &w->client.rpc), 0);
    w->peer = rt_rpc_peer(w->client.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
    rt_peer_set_address(w->peer, w->server.bound, 0);
}

static void on_tick(void *arg)
{
    struct world *w = arg;
    rt_timer_start(rt_loop_io(w->loop), &w->tick, 2 * RT_MS);
}

static void world_open(struct world *w, const char *address)
{
    memset(w, 0, sizeof(*w));
    struct rt_loop_conf conf = {.name = "test", .pool_budget = POOL_BUDGET};
    assert_int_equal(rt_loop_create(&conf, &w->loop), 0);
    snprintf(w->address, sizeof(w->address), "%s", address);
    w->tick.fire = on_tick;
    w->tick.arg = w;
    on_tick(w);
    start_server(w, 100);
}

static void world_close(struct world *w)
{
    rt_rpc_destroy(w->client.rpc);
    rt_rpc_destroy(w->server.rpc);
    rt_timer_stop(rt_loop_io(w->loop), &w->tick);
    rt_loop_destroy(w->loop);
}

/* Turn the loop until *count reaches n; the test fails after 2 s. */
static void wait_count(struct world *w, const int *count, int n, const char *what)
{
    uint64_t end = rt_now_ns() + 2 * RT_S;
    while (*count < n) {
        if (rt_now_ns() > end)
            fail_msg("%s: waited for %d, got %d", what, n, *count);
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
    }
}

static void turn_for(struct world *w, uint64_t ns)
{
    uint64_t end = rt_now_ns() + ns;
    while (rt_now_ns() < end)
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
}

static void world_open_both(struct world *w, const char *address)
{
    world_open(w, address);
    struct rt_rpc_conf conf = conf_of(w, &w->client, RT_ROLE_MIDDLEWARE, 200);
    start_client(w, &conf);
    wait_count(w, &w->client.ups, 1, "connection");
}

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct answer *a = arg;
    a->count++;
    a->err = err;
    snprintf(a->text, sizeof(a->text), "%s", err ? rt_err_text() : "");
    if (!reply)
        return;
    a->header = reply->header;
    memcpy(a->message, reply->message,
           reply->header.message_size < 64 ? reply->header.message_size : 64);
    if (reply->payload)
        a->payload = rt_buf_ref(reply->payload);
}

static void answer_reset(struct answer *a)
{
    rt_buf_unref(a->payload);
    memset(a, 0, sizeof(*a));
}

static const char *unix_address(void)
{
    static char address[RT_ADDRESS_MAX];
    snprintf(address, sizeof(address), "unix:/tmp/saffron-test-%d.sock", (int)getpid());
    return address;
}

static const char *address_of(int i)
{
    return i == 0 ? "tcp:127.0.0.1:0" : unix_address();
}

static int call(struct world *w, uint16_t method, uint64_t deadline_ns, struct answer *a)
{
    return rt_rpc_call(w->peer, method,
                       &(struct rt_outgoing){.message = "hello", .message_size = 5}, deadline_ns,
                       on_answer, a);
}

/* ---- calls ---- */

static struct rt_buf *filled(struct world *w, size_t size, uint8_t seed)
{
    struct rt_buf *buf = rt_io_buf(rt_loop_io(w->loop), size);
    assert_non_null(buf);
    buf->size = size;
    for (size_t i = 0; i < size; i++)
        buf->data[i] = (uint8_t)(seed + i * 31 + (i >> 8));
    return buf;
}

/* Pieces arrive at multiples of 64 with zeros between them. */
static void check_payload(const struct rt_buf *got, const struct rt_piece *piece, size_t n)
{
    struct rt_segments seg = rt_segments_of(got);
    for (size_t i = 0; i < n; i++) {
        const void *at;
        assert_int_equal(rt_segment_take(&seg, piece[i].size, 1, &at), 0);
        assert_int_equal((uintptr_t)at % RT_SEGMENT_ALIGN, 0);
        assert_memory_equal(at, piece[i].data, piece[i].size);
    }
    assert_int_equal(rt_segments_end(&seg), 0);
}

static void test_pieces(void **state)
{
    static const size_t size[][4] = {{1, 1, 1, 1},           {64, 128, 1, 0},
                                     {100, 0, 7, 63},        {0, 0, 0, 5},
                                     {300000, 1, 700001, 3}, {65536, 65536, 1, 1},
                                     {2000000, 5, 9, 1},     {1 << 20, 1 << 20, 99, 1}};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world w;
        struct answer a = {0};
        world_open_both(&w, address_of(i));
        for (size_t row = 0; row < ARRAY_LEN(size); row++) {
            struct rt_piece piece[4];
            for (int k = 0; k < 4; k++) {
                struct rt_buf *buf = filled(&w, size[row][k], (uint8_t)(row * 4 + (size_t)k));
                piece[k] = (struct rt_piece){buf->data, buf->size, buf};
            }
            struct rt_outgoing out = {.batch_id = 77 + row,
                                      .flags = RT_FRAME_TRACE,
                                      .message = "hello",
                                      .message_size = 5,
                                      .pieces = piece,
                                      .n_pieces = 4};
            assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, RT_S, on_answer, &a), 0);
            wait_count(&w, &a.count, 1, "reply");
            assert_int_equal(a.err, 0);
            assert_memory_equal(a.message, "hello", 5);
            assert_int_equal(a.header.batch_id, 77 + row);
            assert_true(a.header.flags & RT_FRAME_TRACE);
            assert_int_equal(a.header.incarnation, 100);
            check_payload(a.payload, piece, 4);
            answer_reset(&a);
            for (int k = 0; k < 4; k++)
                rt_buf_unref(piece[k].buf);
        }
        world_close(&w);
    }
}

static void test_many_small(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world w;
        static struct answer a;
        world_open_both(&w, address_of(i));
        for (int round = 0; round < 3; round++) {
            answer_reset(&a);
            uint64_t fresh = rt_pool_fresh(rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop)));
            for (int k = 0; k < 3000; k++) {
                uint64_t word = (uint64_t)k;
                struct rt_outgoing out = {.message = &word, .message_size = sizeof(word)};
                assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, on_answer, &a), 0);
            }
            wait_count(&w, &a.count, 3000, "replies");
            assert_int_equal(a.err, 0);
            uint64_t last;
            memcpy(&last, a.message, sizeof(last));
            assert_int_equal(last, 2999); /* in order */
            assert_int_equal(fresh,
                             rt_pool_fresh(rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop))));
        }
        assert_int_equal(w.server.served, 9000);
        world_close(&w);
    }
}

static void test_failed_reply(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    world_open_both(&w, address_of(0));
    assert_int_equal(rt_rpc_call(w.peer, METHOD_FAIL, &(struct rt_outgoing){0}, 0, on_answer, &a),
                     0);
    wait_count(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, RT_EUNKNOWN);
    assert_string_equal(a.text, "embedding_server/0.0: batch 7 is not here\\x0a");
    assert_true(rt_peer_is_up(w.peer));
    world_close(&w);
}

/* ---- calls that end otherwise ---- */

static void test_deadline(void **state)
{
    struct world w;
    struct answer late = {0}, other = {0};
    (void)state;
    world_open_both(&w, address_of(0));
    assert_int_equal(call(&w, METHOD_HOLD, 0, &other), 0);
    assert_int_equal(call(&w, METHOD_HOLD, 20 * RT_MS, &late), 0);
    wait_count(&w, &other.count, 1, "the other call");
    assert_int_equal(late.count, 1);
    assert_int_equal(late.err, RT_EDEADLINE);
    assert_int_equal(other.err, RT_EPEER);
    assert_non_null(strstr(late.text, "method 17 got no reply within 20 ms"));
    wait_count(&w, &w.client.ups, 2, "reconnection");
    assert_int_equal(w.client.downs, 1);
    /* The server's calls have nobody to answer any more; answering only frees them. */
    assert_int_equal(w.server.n_held, 2);
    assert_int_equal(rt_call_alive(w.server.held[0]), 0);
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    rt_call_fail(w.server.held[1], RT_EUNKNOWN, "too late");
    world_close(&w);
}

static void test_server_dies_and_returns(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct world w;
        struct answer a = {0};
        world_open_both(&w, address_of(i));
        assert_int_equal(rt_peer_incarnation(w.peer), 100);
        assert_int_equal(call(&w, METHOD_HOLD, 0, &a), 0);
        wait_count(&w, &w.server.n_held, 1, "call at the server");
        struct rt_call *held = w.server.held[0];
        rt_rpc_destroy(w.server.rpc);
        rt_call_reply(held, &(struct rt_outgoing){0});
        wait_count(&w, &a.count, 1, "end of the call");
        assert_int_equal(a.err, RT_EPEER);
        wait_count(&w, &w.client.downs, 1, "peer_down");
        assert_int_equal(call(&w, METHOD_ECHO, 0, &a), RT_EPEER);
        turn_for(&w, 50 * RT_MS);
        start_server(&w, 101);
        rt_peer_set_address(w.peer, w.server.bound, 101);
        wait_count(&w, &w.client.ups, 2, "reconnection");
        assert_int_equal(rt_peer_incarnation(w.peer), 101);
        answer_reset(&a);
        assert_int_equal(call(&w, METHOD_ECHO, 0, &a), 0);
        wait_count(&w, &a.count, 1, "reply");
        assert_int_equal(a.err, 0);
        world_close(&w);
    }
}

static void test_destroy_with_pending(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    world_open_both(&w, address_of(0));
    assert_int_equal(call(&w, METHOD_HOLD, RT_S, &a), 0);
    wait_count(&w, &w.server.n_held, 1, "call at the server");
    rt_rpc_destroy(w.client.rpc);
    w.client.rpc = NULL;
    assert_int_equal(a.count, 1);
    assert_int_equal(a.err, RT_ECANCELED);
    turn_for(&w, 20 * RT_MS);
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    world_close(&w);
}

static void test_pings_keep_it_up(void **state)
{
    struct world w;
    (void)state;
    world_open_both(&w, address_of(0));
    turn_for(&w, 400 * RT_MS); /* more than twice dead_ns */
    assert_int_equal(w.client.downs, 0);
    assert_true(rt_rpc_stats(w.client.rpc)->frames_in > 5);
    world_close(&w);
}

/* ---- no room ---- */

static void test_full_server(void **state)
{
    struct world w;
    struct answer a = {0}, b = {0};
    (void)state;
    world_open_both(&w, address_of(0));
    struct rt_buf *mine = filled(&w, 6u << 20, 1);
    struct rt_buf *rest[8] = {0};
    for (int i = 0; i < 8; i++)
        rest[i] = rt_io_buf(rt_loop_io(w.loop), 4u << 20); /* until the budget is used up */
    assert_null(rest[7]);
    struct rt_piece piece = {mine->data, mine->size, mine};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, on_answer, &a), 0);
    assert_int_equal(call(&w, METHOD_ECHO, 0, &b), 0);
    wait_count(&w, &b.count, 1, "reply");
    assert_int_equal(a.err, RT_EFULL);
    assert_non_null(strstr(a.text, "no room for a Echo of 6291456 bytes"));
    assert_int_equal(b.err, 0); /* the connection goes on */
    assert_int_equal(w.client.downs, 0);
    for (int i = 0; i < 8; i++)
        rt_buf_unref(rest[i]);
    rt_buf_unref(mine);
    world_close(&w);
}

/* ---- handshakes that fail ---- */

static void test_refused(void **state)
{
    enum { CONFIG, PLAN, JOB, VERSION, ROLE };
    static const struct {
        const char *name, *want;
        int what;
    } row[] = {
        {"config", "configuration hash differs: expected 0xb, got 0xc", CONFIG},
        {"plan", "data plan hash differs: expected 0x16, got 0x0", PLAN},
        {"job", "job differs: expected test, got te\\x0ast", JOB},
        {"version", "wire version differs: expected 0x1, got 0x2", VERSION},
        {"role", "role 77, index 0, loop 0 are out of range", ROLE},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        world_open(&w, address_of(0));
        struct rt_rpc_conf conf = conf_of(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
        conf.self.config_hash += row[i].what == CONFIG;
        conf.self.plan_hash = row[i].what == PLAN ? 0 : conf.self.plan_hash;
        conf.self.wire_version += row[i].what == VERSION;
        if (row[i].what == JOB)
            snprintf(conf.self.job, sizeof(conf.self.job), "te\nst");
        if (row[i].what == ROLE)
            conf.self.role = (enum rt_role)77;
        start_client(&w, &conf);
        uint64_t end = rt_now_ns() + RT_S;
        while (rt_rpc_stats(w.client.rpc)->links_refused < 2 && rt_now_ns() < end)
            uv_run(rt_loop_uv(w.loop), UV_RUN_ONCE);
        assert_true(rt_rpc_stats(w.client.rpc)->links_refused >= 2); /* it tries again */
        assert_true(rt_rpc_stats(w.server.rpc)->links_refused >= 2);
        assert_int_equal(w.client.ups, 0);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("%s: got \"%s\"", row[i].name, rt_err_text());
        world_close(&w);
    }
}

static void test_other_at_the_address(void **state)
{
    struct world w;
    (void)state;
    world_open(&w, address_of(0));
    struct rt_rpc_conf conf = conf_of(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    assert_int_equal(rt_rpc_create(&conf, &w.client.rpc), 0);
    w.peer = rt_rpc_peer(w.client.rpc, RT_ROLE_EMBEDDING_SERVER, 3, 1);
    rt_peer_set_address(w.peer, w.server.bound, 5);
    turn_for(&w, 60 * RT_MS);
    assert_int_equal(w.client.ups, 0);
    assert_true(rt_rpc_stats(w.client.rpc)->links_refused >= 1);
    assert_ptr_equal(w.peer, rt_rpc_peer(w.client.rpc, RT_ROLE_EMBEDDING_SERVER, 3, 1));
    assert_string_equal(rt_peer_name(w.peer), "embedding_server/3.1");
    world_close(&w);
}

/* An older process of the same identity comes back while the newer one is known. */
static void test_fencing(void **state)
{
    struct world w;
    struct end old = {0};
    (void)state;
    world_open_both(&w, address_of(0));
    struct rt_rpc_conf conf = conf_of(&w, &old, RT_ROLE_MIDDLEWARE, 199);
    assert_int_equal(rt_rpc_create(&conf, &old.rpc), 0);
    rt_peer_set_address(rt_rpc_peer(old.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0), w.server.bound, 0);
    wait_count(&w, &old.fenced, 1, "fenced");
    assert_int_equal(old.fenced_by, 200);
    assert_int_equal(w.client.downs, 0);
    rt_rpc_destroy(old.rpc);
    /* And a newer one takes over: the connection of the old one is closed. */
    memset(&old, 0, sizeof(old));
    conf.self.incarnation = 201;
    assert_int_equal(rt_rpc_create(&conf, &old.rpc), 0);
    rt_peer_set_address(rt_rpc_peer(old.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0), w.server.bound, 0);
    wait_count(&w, &old.ups, 1, "the newer one");
    wait_count(&w, &w.client.downs, 1, "the older one's end");
    wait_count(&w, &w.client.fenced, 1, "the older one is told");
    assert_int_equal(w.client.fenced_by, 201);
    rt_rpc_destroy(old.rpc);
    world_close(&w);
}

static void test_old_address_is_ignored(void **state)
{
    struct world w;
    (void)state;
    world_open(&w, address_of(0));
    struct rt_rpc_conf conf = conf_of(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    start_client(&w, &conf);
    rt_peer_set_address(w.peer, w.server.bound, 100);
    wait_count(&w, &w.client.ups, 1, "connection");
    rt_peer_set_address(w.peer, "tcp:127.0.0.1:1", 99);
    rt_peer_set_address(w.peer, w.server.bound, 100);
    turn_for(&w, 50 * RT_MS);
    assert_int_equal(w.client.ups, 1);
    assert_int_equal(w.client.downs, 0);
    /* A hello of incarnation 101, whose process is not there yet: 100 is not good enough now. */
    rt_peer_set_address(w.peer, w.server.bound, 101);
    wait_count(&w, &w.client.downs, 1, "peer_down");
    turn_for(&w, 50 * RT_MS);
    assert_int_equal(w.client.ups, 1);
    world_close(&w);
}

/* ---- hostile ends: raw sockets ---- */

static int raw_connect(const char *bound)
{
    struct rt_address a;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    assert_int_equal(rt_address_parse(bound, &a), 0);
    int fd = socket(a.local ? AF_UNIX : AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    memcpy(un.sun_path, a.path, sizeof(un.sun_path));
    int err = a.local ? connect(fd, (struct sockaddr *)&un, sizeof(un))
                      : connect(fd, &a.sock.any, sizeof(a.sock.v4));
    assert_int_equal(err, 0);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static void raw_send(int fd, struct rt_header header, const void *message, size_t size)
{
    uint8_t bytes[8192];
    header.version = RT_WIRE_VERSION;
    rt_header_encode(&header, bytes);
    if (size)
        memcpy(bytes + RT_FRAME_HEADER_SIZE, message, size);
    rt_header_seal(bytes, bytes + RT_FRAME_HEADER_SIZE, size);
    size += RT_FRAME_HEADER_SIZE;
    assert_int_equal(send(fd, bytes, size, MSG_NOSIGNAL), size);
}

/* A raw socket that has shaken hands as middleware/9. */
static int raw_greeted(struct world *w)
{
    struct rt_identity id = conf_of(w, NULL, RT_ROLE_MIDDLEWARE, 200).self;
    uint8_t reply[1024];
    ssize_t n = -1;
    int fd = raw_connect(w->server.bound);
    id.index = 9;
    raw_send(fd,
             (struct rt_header){
                 .method = RT_METHOD_HANDSHAKE, .message_size = sizeof(id), .incarnation = 200},
             &id, sizeof(id));
    uint64_t end = rt_now_ns() + RT_S;
    while (n < 0 && rt_now_ns() < end) {
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
        n = recv(fd, reply, sizeof(reply), 0);
    }
    assert_int_equal(n, RT_FRAME_HEADER_SIZE + sizeof(id));
    return fd;
}

/* The other end closes the connection within 1 s. */
static void raw_wait_closed(struct world *w, int fd, const char *what)
{
    uint64_t end = rt_now_ns() + RT_S;
    uint8_t bytes[1024];
    for (;;) {
        ssize_t n = recv(fd, bytes, sizeof(bytes), 0);
        if (n == 0 || (n < 0 && errno == ECONNRESET))
            break;
        if (rt_now_ns() > end)
            fail_msg("%s: the connection is still open", what);
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
    }
    close(fd);
}

static const struct {
    const char *name;
    struct rt_header header;
} bad_frame[] = {
    {"unknown method", {.method = 999, .incarnation = 200}},
    {"method of another role", {.method = METHOD_TRAINER_ONLY, .incarnation = 200}},
    {"other incarnation", {.method = METHOD_ECHO, .incarnation = 201}},
    {"reply on the wrong side",
     {.method = METHOD_ECHO, .flags = RT_FRAME_REPLY, .incarnation = 200}},
    {"message over the method's limit",
     {.method = METHOD_ECHO, .incarnation = 200, .message_size = ECHO_MESSAGE_MAX + 1}},
    {"message over every limit",
     {.method = METHOD_ECHO, .incarnation = 200, .message_size = RT_MESSAGE_MAX + 1}},
    {"payload over the method's limit",
     {.method = METHOD_ECHO, .incarnation = 200, .payload_size = ECHO_PAYLOAD_MAX + 1}},
    {"payload over every limit",
     {.method = METHOD_ECHO, .incarnation = 200, .payload_size = UINT64_MAX}},
    {"payload where none is allowed",
     {.method = METHOD_FAIL, .incarnation = 200, .payload_size = 1}},
    {"second handshake", {.method = RT_METHOD_HANDSHAKE, .incarnation = 200}},
    {"no checksum on TCP",
     {.method = METHOD_ECHO, .flags = RT_FRAME_NO_PAYLOAD_CRC, .incarnation = 200}},
    {"unknown flag", {.method = METHOD_ECHO, .flags = 0x80, .incarnation = 200}},
    {"status in a request", {.method = METHOD_ECHO, .status = -1, .incarnation = 200}},
};

static void test_bad_frames(void **state)
{
    struct world w;
    struct answer a = {0};
    (void)state;
    world_open_both(&w, address_of(0));
    struct rt_pool *pool = rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop));
    for (size_t i = 0; i < ARRAY_LEN(bad_frame); i++) {
        uint64_t bad = rt_rpc_stats(w.server.rpc)->frames_bad, fresh = rt_pool_fresh(pool);
        int fd = raw_greeted(&w);
        raw_send(fd, bad_frame[i].header, NULL, 0);
        raw_wait_closed(&w, fd, bad_frame[i].name);
        if (rt_rpc_stats(w.server.rpc)->frames_bad != bad + 1)
            fail_msg("%s: was not counted", bad_frame[i].name);
        assert_int_equal(rt_pool_fresh(pool), fresh); /* refused before allocation */
        assert_int_equal(rt_pool_lent(pool), 0);
    }
    assert_int_equal(call(&w, METHOD_ECHO, 0, &a), 0); /* nobody else was harmed */
    wait_count(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, 0);
    assert_int_equal(w.client.downs, 0);
    world_close(&w);
}

static void test_before_handshake(void **state)
{
    static const struct rt_header header[] = {
        {.method = METHOD_ECHO},
        {.method = RT_METHOD_PING},
        {.method = RT_METHOD_HANDSHAKE, .flags = RT_FRAME_REPLY},
        {.method = RT_METHOD_HANDSHAKE, .message_size = 60000},
        {.method = RT_METHOD_HANDSHAKE, .payload_size = 64},
        {.method = RT_METHOD_HANDSHAKE}, /* empty: refused with a text */
    };
    struct world w;
    (void)state;
    world_open_both(&w, address_of(0));
    for (size_t i = 0; i < ARRAY_LEN(header); i++) {
        int fd = raw_connect(w.server.bound);
        raw_send(fd, header[i], NULL, 0);
        raw_wait_closed(&w, fd, "frame before the handshake");
    }
    assert_int_equal(w.client.downs, 0);
    world_close(&w);
}

static void test_garbage(void **state)
{
    struct world w;
    uint64_t key = rt_draw_key(rt_now_ns(), "garbage", NULL);
    (void)state;
    world_open_both(&w, address_of(0));
    for (uint64_t i = 0; i < 20; i++) {
        int fd = i % 2 ? raw_greeted(&w) : raw_connect(w.server.bound);
        uint64_t bytes[64];
        for (size_t k = 0; k < ARRAY_LEN(bytes); k++)
            bytes[k] = rt_draw(key, i * 64 + k);
        assert_int_equal(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
        raw_wait_closed(&w, fd, "garbage");
    }
    assert_int_equal(w.client.downs, 0);
    world_close(&w);
}

/* One bit of a good frame flipped, anywhere: never served. */
static void test_flipped_bits(void **state)
{
    struct world w;
    struct answer a = {0};
    struct rt_header header = {.version = RT_WIRE_VERSION,
                               .method = METHOD_ECHO,
                               .incarnation = 200,
                               .message_size = 8,
                               .payload_size = 8,
                               .payload_crc = rt_crc32c(0, "payload", 8)};
    (void)state;
    world_open_both(&w, address_of(0));
    for (unsigned bit = 0; bit <= (RT_FRAME_HEADER_SIZE + 16) * 8; bit += 5) {
        uint8_t bytes[RT_FRAME_HEADER_SIZE + 16];
        rt_header_encode(&header, bytes);
        memcpy(bytes + RT_FRAME_HEADER_SIZE, "message", 8);
        memcpy(bytes + RT_FRAME_HEADER_SIZE + 8, "payload", 8);
        rt_header_seal(bytes, bytes + RT_FRAME_HEADER_SIZE, 8);
        if (bit < sizeof(bytes) * 8)
            bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
        int fd = raw_greeted(&w);
        assert_int_equal(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
        shutdown(fd, SHUT_WR); /* a size that grew waits for bytes that do not come */
        raw_wait_closed(&w, fd, "flipped bit");
    }
    assert_int_equal(w.server.served, 0);
    assert_int_equal(call(&w, METHOD_ECHO, 0, &a), 0);
    wait_count(&w, &a.count, 1, "reply");
    assert_int_equal(w.server.served, 1);
    world_close(&w);
}

/* Half a frame, half a payload, nothing at all: closed after dead_ns (greet_ns) of silence. */
static void test_silence(void **state)
{
    static const uint8_t some[100] = {0};
    struct world w;
    (void)state;
    world_open_both(&w, address_of(0));
    uint64_t start = rt_now_ns();
    int half = raw_greeted(&w), payload = raw_greeted(&w), mute = raw_connect(w.server.bound);
    /* Twins: the second raw end has the identity of the first, which is closed at once. */
    raw_wait_closed(&w, half, "twin");
    raw_send(
        payload,
        (struct rt_header){.method = METHOD_ECHO, .incarnation = 200, .payload_size = 1u << 20},
        NULL, 0);
    assert_int_equal(send(payload, some, sizeof(some), MSG_NOSIGNAL), sizeof(some));
    turn_for(&w, 50 * RT_MS);
    assert_int_equal(recv(mute, &w.tick, 1, MSG_PEEK), -1); /* not yet */
    raw_wait_closed(&w, mute, "no handshake");
    raw_wait_closed(&w, payload, "half a payload");
    assert_true(rt_now_ns() - start >= 140 * RT_MS);
    half = raw_greeted(&w);
    assert_int_equal(send(half, "SFRN\1", 5, MSG_NOSIGNAL), 5);
    start = rt_now_ns();
    raw_wait_closed(&w, half, "half a header");
    assert_true(rt_now_ns() - start >= 100 * RT_MS);
    assert_int_equal(w.client.downs, 0);
    assert_int_equal(rt_pool_lent(rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop))), 0);
    world_close(&w);
}

/* A good frame that comes byte by byte is a good frame. */
static void test_byte_by_byte(void **state)
{
    struct world w;
    uint8_t bytes[RT_FRAME_HEADER_SIZE + 8 + 100] = {0};
    struct rt_header header = {.version = RT_WIRE_VERSION,
                               .method = METHOD_ECHO,
                               .incarnation = 200,
                               .message_size = 8,
                               .payload_size = 100};
    (void)state;
    world_open_both(&w, address_of(0));
    int fd = raw_greeted(&w);
    memset(bytes + RT_FRAME_HEADER_SIZE, 7, 108);
    header.payload_crc = rt_crc32c(0, bytes + RT_FRAME_HEADER_SIZE + 8, 100);
    rt_header_encode(&header, bytes);
    rt_header_seal(bytes, bytes + RT_FRAME_HEADER_SIZE, 8);
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    for (size_t i = 0; i < sizeof(bytes); i++) {
        assert_int_equal(send(fd, bytes + i, 1, MSG_NOSIGNAL), 1);
        uv_run(rt_loop_uv(w.loop), UV_RUN_NOWAIT);
    }
    wait_count(&w, &w.server.served, 1, "request");
    close(fd);
    world_close(&w);
}

/* ---- addresses, Unix sockets ---- */

static void test_addresses(void **state)
{
    static const char *bad[] = {"",
                                "tcp:",
                                "tcp:1.2.3.4",
                                "tcp:1.2.3.4:x",
                                "tcp:host:1",
                                "tcp:1.2.3:1",
                                "tcp:1.2.3.4:65536",
                                "tcp:[::1:1",
                                "tcp:[::1]",
                                "tcp:[::g]:1",
                                "unix:",
                                "udp:1.1.1.1:1",
                                "tcp:1.2.3.4:-1",
                                "tcp:1.2.3.4:1 "};
    struct rt_address a;
    char path[RT_ADDRESS_MAX];
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        if (rt_address_parse(bad[i], &a) != RT_EUSAGE)
            fail_msg("%s: was accepted", bad[i]);
    }
    assert_int_equal(rt_address_parse("tcp:[::1]:80", &a), 0);
    snprintf(path, sizeof(path), "unix:/%.*s", 106,
             "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbb"
             "aaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaabbbbbbbbbbaaaaaaaaaa");
    assert_int_equal(strlen(path + 5), 107);
    assert_int_equal(rt_address_parse(path, &a), 0);
    path[5 + 107] = 'x';
    path[5 + 108] = '\0';
    assert_int_equal(rt_address_parse(path, &a), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "at most 107 bytes, got 108"));
}

static void test_unix_socket_file(void **state)
{
    struct world w;
    char bound[RT_ADDRESS_MAX];
    const char *path = unix_address() + 5;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    (void)state;
    /* A socket that a killed process left behind. */
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memcpy(un.sun_path, path, strlen(path));
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    close(fd);
    world_open_both(&w, unix_address());
    /* A living one is not taken away. */
    assert_int_equal(rt_rpc_listen(w.client.rpc, unix_address(), bound), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "another process listens on it"));
    assert_true(rt_peer_is_up(w.peer));
    world_close(&w);
    assert_int_equal(access(path, F_OK), -1);
}

/* A slow reader: what is queued for it is bounded, and over the bound it is cut off. */
static void test_queue_bound(void **state)
{
    struct world w;
    (void)state;
    memset(&w, 0, sizeof(w));
    struct rt_loop_conf conf = {.name = "test", .pool_budget = POOL_BUDGET, .queue_max = 8u << 20};
    assert_int_equal(rt_loop_create(&conf, &w.loop), 0);
    snprintf(w.address, sizeof(w.address), "%s", address_of(0));
    w.tick.fire = on_tick;
    w.tick.arg = &w;
    on_tick(&w);
    start_server(&w, 100);
    struct rt_rpc_conf client = conf_of(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    start_client(&w, &client);
    wait_count(&w, &w.client.ups, 1, "connection");
    struct answer a = {0};
    struct rt_buf *buf = filled(&w, 1u << 20, 3);
    struct rt_piece piece = {buf->data, buf->size, buf};
    struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
    int err = 0, sent = 0;
    for (; !err && sent < 100; sent++) /* the loop does not turn: nobody reads */
        err = rt_rpc_call(w.peer, METHOD_ECHO, &out, 0, on_answer, &a);
    assert_int_equal(err, RT_EFULL);
    assert_true(sent > 7);
    wait_count(&w, &a.count, sent - 1, "failed calls");
    assert_int_equal(a.err, RT_EPEER);
    wait_count(&w, &w.client.ups, 2, "reconnection");
    rt_buf_unref(buf);
    world_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_many_small),
        cmocka_unit_test(test_failed_reply),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_server_dies_and_returns),
        cmocka_unit_test(test_destroy_with_pending),
        cmocka_unit_test(test_pings_keep_it_up),
        cmocka_unit_test(test_full_server),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_other_at_the_address),
        cmocka_unit_test(test_fencing),
        cmocka_unit_test(test_old_address_is_ignored),
        cmocka_unit_test(test_bad_frames),
        cmocka_unit_test(test_before_handshake),
        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_flipped_bits),
        cmocka_unit_test(test_silence),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_unix_socket_file),
        cmocka_unit_test(test_queue_bound),
    };
    const char *loud = getenv("SAFFRON_TEST_LOG");
    rt_log_set_level(loud ? RT_LOG_DEBUG : RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
