/* tests/lib/rpc_world.c -- server, client and loop of the tests of runtime/net. */
#include "tests/lib/rpc_world.h"
#include "runtime/net/near.h"
#include "tests/lib/greeting.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "tests/lib/temp.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <uv.h>

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

static void serve_drop(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    (void)ctx;
    (void)request;
    rt_call_reply(call, &(struct rt_outgoing){0});
}

#define ALL_ROLES ((1u << RT_ROLE_COUNT) - 1)
static const struct rt_method_def methods[] = {
    {METHOD_ECHO, "Echo", ALL_ROLES, ECHO_MESSAGE_MAX, ECHO_PAYLOAD_MAX, serve_echo},
    {METHOD_HOLD, "Hold", ALL_ROLES, ECHO_MESSAGE_MAX, ECHO_PAYLOAD_MAX, serve_hold},
    {METHOD_FAIL, "Fail", ALL_ROLES, ECHO_MESSAGE_MAX, 0, serve_fail},
    {METHOD_TRAINER_ONLY, "TrainerOnly", RT_ROLE_BIT(RT_ROLE_TRAINER), 0, 0, serve_fail},
    {METHOD_DROP, "Drop", ALL_ROLES, ECHO_MESSAGE_MAX, ECHO_PAYLOAD_MAX, serve_drop},
    {METHOD_JOIN, "Join", ALL_ROLES | RT_ANY_EPOCH, ECHO_MESSAGE_MAX, 0, serve_echo},
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

struct rt_rpc_conf rw_conf(struct world *w, struct end *end, enum rt_role role,
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
        .greeting = &plain_greeting,
        .methods = methods,
        .n_methods = ARRAY_LEN(methods),
        .reply_max = ECHO_PAYLOAD_MAX,
        .ctx = end,
        .peer_up = on_peer_up,
        .peer_down = on_peer_down,
        .fenced = on_fenced,
        .heartbeat_ns = 30 * RT_MS,
        .dead_ns = RW_DEAD_NS,
        .greet_ns = RW_GREET_NS,
        .backoff_ns = 30 * RT_MS,
    };
}

void rw_start_server(struct world *w, uint64_t incarnation)
{
    struct rt_rpc_conf conf = rw_conf(w, &w->server, RT_ROLE_EMBEDDING_SERVER, incarnation);
    memset(&w->server, 0, sizeof(w->server));
    assert_int_equal(rt_rpc_create(&conf, &w->server.rpc), 0);
    if (rt_rpc_listen(w->server.rpc, w->address, w->server.bound))
        fail_msg("%s", rt_err_text());
}

void rw_start_client(struct world *w, const struct rt_rpc_conf *conf)
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

void rw_open_loop(struct world *w, const char *address, size_t queue_max)
{
    memset(w, 0, sizeof(*w));
    struct rt_loop_conf conf = {.name = "test", .pool_budget = POOL_BUDGET, .queue_max = queue_max};
    assert_int_equal(rt_loop_create(&conf, &w->loop), 0);
    snprintf(w->address, sizeof(w->address), "%s", address);
    w->tick.fire = on_tick;
    w->tick.arg = w;
    on_tick(w);
}

void rw_open(struct world *w, const char *address)
{
    rw_open_loop(w, address, 0);
    rw_start_server(w, 100);
}

void rw_close(struct world *w)
{
    rt_rpc_destroy(w->client.rpc);
    rt_rpc_destroy(w->server.rpc);
    rt_timer_stop(rt_loop_io(w->loop), &w->tick);
    rt_loop_destroy(w->loop);
}

void rw_wait(struct world *w, const int *count, int n, const char *what)
{
    uint64_t end = rt_now_ns() + 20 * RT_S;
    while (*count < n) {
        if (rt_now_ns() > end)
            fail_msg("%s: waited for %d, got %d", what, n, *count);
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
    }
}

void rw_turn(struct world *w, uint64_t ns)
{
    uint64_t end = rt_now_ns() + ns;
    while (rt_now_ns() < end)
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
}

void rw_open_both(struct world *w, const char *address)
{
    rw_open(w, address);
    struct rt_rpc_conf conf = rw_conf(w, &w->client, RT_ROLE_MIDDLEWARE, 200);
    rw_start_client(w, &conf);
    rw_wait(w, &w->client.ups, 1, "connection");
}

void rw_on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct answer *a = arg;
    a->count++;
    a->err = err;
    snprintf(a->text, sizeof(a->text), "%s", err ? rt_err_text() : "");
    if (!reply)
        return;
    a->header = reply->header;
    size_t n = reply->header.message_size;
    if (n)
        memcpy(a->message, reply->message, n < sizeof(a->message) ? n : sizeof(a->message));
    if (reply->payload)
        a->payload = rt_buf_ref(reply->payload);
}

void rw_answer_reset(struct answer *a)
{
    rt_buf_unref(a->payload);
    memset(a, 0, sizeof(*a));
}

const char *rw_unix_address(void)
{
    static char address[RT_ADDRESS_MAX];
    snprintf(address, sizeof(address), "unix:%s/saffron-test-%d.sock", temp_root(), (int)getpid());
    return address;
}

const char *rw_address(int i)
{
    rt_near_set(i == 2);
    return i == 1 ? rw_unix_address() : "tcp:127.0.0.1:0";
}

int rw_call(struct world *w, uint16_t method, uint64_t deadline_ns, struct answer *a)
{
    return rt_rpc_call(w->peer, method,
                       &(struct rt_outgoing){.message = "hello", .message_size = 5}, deadline_ns,
                       rw_on_answer, a);
}

struct rt_buf *rw_filled(struct world *w, size_t size, uint8_t seed)
{
    struct rt_buf *buf = rt_io_buf(rt_loop_io(w->loop), size);
    assert_non_null(buf);
    buf->size = size;
    for (size_t i = 0; i < size; i++)
        buf->data[i] = (uint8_t)(seed + i * 31 + (i >> 8));
    return buf;
}
