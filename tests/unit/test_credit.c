/* tests/unit/test_credit.c -- real sockets, and an end that sleeps: it costs its credit, nobody else waits, nothing is lost.
 *
 * Server and client have a loop each, turned by hand: an end whose loop is not turned neither reads nor writes. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/net/loop.h"
#include "tests/lib/greeting.h"
#include "tests/lib/rpc_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <uv.h>

enum {
    METHOD_MAKE = 32,
    METHOD_TAKE
}; /* a small request with a large reply; the other way round */

enum {
    CREDIT = 1 << 20,
    SIZE = 96 << 10, /* of what is made or taken; some of them are in the kernel's buffers */
    CALLS = 400,
    LARGE = 40 << 20,
    CLIENTS = 3
};

struct client {
    struct bed *bed;
    struct rt_rpc *rpc;
    struct rt_peer *peer;
    int ups, downs, drained, answers, failed;
    bool chain;     /* each answer asks again */
    bool unordered; /* its replies are not those with the numbers 0, 1, ... */
};

struct bed {
    struct rt_loop *server_loop, *loop, *beside; /* loop: of client 0; beside: of the others */
    struct rt_rpc *server;
    struct rt_credit budget;
    struct client client[CLIENTS];
    char bound[RT_ADDRESS_MAX];
    size_t make_size;
    int made, served;
};

static void serve_make(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct bed *bed = ctx;
    struct rt_buf *buf = rt_io_buf(rt_loop_io(bed->server_loop), bed->make_size);

    (void)request;
    assert_non_null(buf);
    memset(buf->data, bed->made, bed->make_size);
    buf->size = bed->make_size;
    bed->made++;
    struct rt_piece piece = {buf->data, buf->size, buf};
    rt_call_reply(call, &(struct rt_outgoing){.pieces = &piece, .n_pieces = 1});
    rt_buf_unref(buf);
}

static void serve_take(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct bed *bed = ctx;

    (void)request;
    bed->served++;
    rt_call_reply(call, &(struct rt_outgoing){0});
}

static const struct rt_method_def methods[] = {
    {METHOD_MAKE, "Make", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 64, 0, serve_make},
    {METHOD_TAKE, "Take", RT_ROLE_BIT(RT_ROLE_MIDDLEWARE), 64, LARGE, serve_take},
};

static void on_up(void *ctx, struct rt_peer *peer)
{
    (void)peer;
    ((struct client *)ctx)->ups++;
}

static void on_down(void *ctx, struct rt_peer *peer, int err, const char *why)
{
    (void)peer, (void)err, (void)why;
    ((struct client *)ctx)->downs++;
}

static void on_drained(void *ctx, struct rt_peer *peer)
{
    (void)peer;
    ((struct client *)ctx)->drained++;
}

static struct rt_rpc_conf conf_of(struct rt_loop *loop, enum rt_role role, uint32_t index)
{
    return (struct rt_rpc_conf){.io = rt_loop_io(loop),
                                .self = {.job = "test",
                                         .role = role,
                                         .index = index,
                                         .incarnation = 1,
                                         .wire_version = RT_WIRE_VERSION},
                                .greeting = &plain_greeting,
                                .reply_max = LARGE,
                                .credit = CREDIT,
                                .heartbeat_ns =
                                    20 * RT_S, /* who sleeps is not to be thought dead */
                                .dead_ns = 60 * RT_S};
}

static struct rt_loop *loop_new(void)
{
    struct rt_loop *loop;
    assert_int_equal(
        rt_loop_create(&(struct rt_loop_conf){.name = "test", .pool_budget = 256 << 20}, &loop), 0);
    return loop;
}

static void turn(struct rt_loop *loop)
{
    uv_run(rt_loop_uv(loop), UV_RUN_NOWAIT);
}

static void turn_all(struct bed *bed)
{
    turn(bed->server_loop);
    turn(bed->beside);
    turn(bed->loop);
}

static void wait_ups(struct bed *bed)
{
    uint64_t end = rt_now_ns() + 20 * RT_S;
    for (int i = 0; i < CLIENTS; i++)
        while (bed->client[i].ups == 0) {
            assert_true(rt_now_ns() < end);
            turn_all(bed);
        }
}

/* Until *count is n; the sleeper's loop is turned too if it is awake. */
static void wait_for(struct bed *bed, const char *what, const int *count, int n, bool awake)
{
    uint64_t end = rt_now_ns() + 20 * RT_S;
    while (*count < n) {
        if (rt_now_ns() > end)
            fail_msg("%s: waited for %d, got %d", what, n, *count);
        turn(bed->server_loop);
        turn(bed->beside);
        if (awake)
            turn(bed->loop);
    }
}

static void open_bed(struct bed *bed, const char *address, size_t credit, uint64_t dead_ns)
{
    memset(bed, 0, sizeof(*bed));
    bed->make_size = SIZE;
    bed->server_loop = loop_new();
    bed->loop = loop_new();
    bed->beside = loop_new();
    bed->budget.limit = RT_CREDIT_LINKS * credit;
    struct rt_rpc_conf conf = conf_of(bed->server_loop, RT_ROLE_EMBEDDING_SERVER, 0);
    conf.methods = methods;
    conf.n_methods = ARRAY_LEN(methods);
    conf.ctx = bed;
    conf.credit = credit;
    conf.budget = &bed->budget;
    conf.dead_ns = dead_ns ? dead_ns : conf.dead_ns;
    assert_int_equal(rt_rpc_create(&conf, &bed->server), 0);
    assert_int_equal(rt_rpc_listen(bed->server, address, bed->bound), 0);
    for (uint32_t i = 0; i < CLIENTS; i++) {
        struct client *c = &bed->client[i];
        conf = conf_of(i ? bed->beside : bed->loop, RT_ROLE_MIDDLEWARE, i);
        conf.credit = credit;
        conf.ctx = c;
        conf.peer_up = on_up;
        conf.peer_down = on_down;
        conf.peer_drained = on_drained;
        c->bed = bed;
        assert_int_equal(rt_rpc_create(&conf, &c->rpc), 0);
        c->peer = rt_rpc_peer(c->rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0);
        rt_peer_set_address(c->peer, bed->bound, 1);
    }
    wait_ups(bed);
}

static void close_bed(struct bed *bed)
{
    for (int i = 0; i < CLIENTS; i++)
        rt_rpc_destroy(bed->client[i].rpc);
    rt_rpc_destroy(bed->server);
    assert_int_equal(bed->budget.lent, 0);
    rt_loop_destroy(bed->loop);
    rt_loop_destroy(bed->beside);
    rt_loop_destroy(bed->server_loop);
}

static void on_answer(void *arg, int err, const struct rt_frame *reply);

static int ask(struct client *c, uint16_t method, size_t size)
{
    struct rt_io *io = rt_loop_io(c == c->bed->client ? c->bed->loop : c->bed->beside);
    struct rt_buf *buf = size ? rt_io_buf(io, size) : NULL;
    if (buf) {
        memset(buf->data, 1, size);
        buf->size = size;
    }
    struct rt_piece piece = {buf ? buf->data : NULL, size, buf};
    struct rt_outgoing out = {
        .message = "m", .message_size = 1, .pieces = &piece, .n_pieces = size > 0};
    int err = rt_rpc_call(c->peer, method, &out, 0, on_answer, c);
    rt_buf_unref(buf);
    return err;
}

static void on_answer(void *arg, int err, const struct rt_frame *reply)
{
    struct client *c = arg;
    c->failed += err != 0;
    if (!err && reply->payload && !c->unordered) /* in order, and whole */
        for (size_t at = 0; at < reply->payload->size; at += 4096)
            assert_int_equal(reply->payload->data[at], (uint8_t)c->answers);
    c->answers++;
    if (!err && c->chain)
        assert_int_equal(ask(c, METHOD_TAKE, 1000), 0);
}

static uint64_t queued(struct rt_loop *loop)
{
    return rt_loop_stats(loop)->queued_bytes;
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * RT_S + (uint64_t)t.tv_nsec;
}

/* Calls of the client beside in 60 ms of CPU, one after the other: the machine may have other work. */
static int rate_beside(struct bed *bed)
{
    struct client *c = &bed->client[1];
    int before = c->answers;
    uint64_t end = cpu_ns() + 60 * RT_MS;
    while (cpu_ns() < end) {
        turn(bed->server_loop);
        turn(bed->beside);
    }
    return c->answers - before;
}

/* A client asks, and reads no reply: the server reads no more of it when its credit is used up, serves others as before,
 * and goes on where it was. The requests have come in one burst: what was read with the one that was too much waits too. */
static void test_replies_that_are_not_taken(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct bed bed;
        struct client *sleeper = &bed.client[0];
        open_bed(&bed, rw_address(i), CREDIT, 0);
        bed.client[1].chain = true;
        assert_int_equal(ask(&bed.client[1], METHOD_TAKE, 1000), 0);
        int usual = rate_beside(&bed);
        for (int k = 0; k < CALLS; k++)
            assert_int_equal(ask(sleeper, METHOD_MAKE, 0), 0); /* small ones are never refused */
        turn(bed.loop);
        int beside = rate_beside(&bed);
        if (beside < usual / 3)
            fail_msg("beside a sleeper %d calls, without one %d", beside, usual);
        int made = bed.made;
        uint64_t waits = queued(bed.server_loop);
        assert_true(made < CALLS);
        assert_true(waits > CREDIT && waits < CREDIT + 2 * SIZE);
        assert_int_equal(rt_rpc_stats(bed.server)->links_paused, 1);
        assert_int_equal(bed.budget.lent, rt_rpc_stats(bed.server)->credit_lent);
        assert_true(bed.budget.lent > CREDIT && bed.budget.lent <= waits);
        rate_beside(&bed);
        assert_int_equal(bed.made, made);
        wait_for(&bed, "the replies", &sleeper->answers, CALLS, true);
        assert_int_equal(sleeper->failed, 0);
        assert_int_equal(sleeper->downs, 0);
        assert_int_equal(bed.made, CALLS);
        turn_all(&bed);
        assert_int_equal(bed.budget.lent, 0);
        close_bed(&bed);
    }
}

/* The server sleeps: the client is told RT_EFULL at its credit, goes on elsewhere, hears of room once, and every call that
 * was taken is served once. */
static void test_requests_that_are_not_taken(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct bed bed;
        struct client *c = &bed.client[0];
        int taken = 0, err = 0;
        open_bed(&bed, rw_address(i), CREDIT, 0);
        for (; taken < 4 * CALLS && !(err = ask(c, METHOD_TAKE, SIZE)); taken++)
            turn(bed.loop);
        assert_int_equal(err, RT_EFULL);
        assert_non_null(strstr(rt_err_text(), "embedding_server/0.0: "));
        assert_true(queued(bed.loop) > CREDIT / 2 && queued(bed.loop) <= CREDIT);
        assert_int_equal(ask(c, METHOD_TAKE, SIZE), RT_EFULL);
        for (int k = 0; k < 50; k++)
            turn(bed.loop);
        assert_int_equal(c->drained, 0);
        wait_for(&bed, "room", &c->drained, 1, true);
        while (c->answers < taken)
            turn_all(&bed);
        while (taken < 4 * CALLS)
            if (ask(c, METHOD_TAKE, SIZE) == 0)
                taken++;
            else
                turn_all(&bed);
        wait_for(&bed, "the answers", &c->answers, taken, true);
        assert_int_equal(bed.served, taken);
        assert_int_equal(c->failed, 0);
        assert_int_equal(rt_rpc_stats(c->rpc)->credit_lent, 0);
        close_bed(&bed);
    }
}

/* The connection goes while a call waits for room: that is told too. */
static void test_room_by_loss(void **state)
{
    struct bed bed;
    struct client *c = &bed.client[0];
    (void)state;
    open_bed(&bed, rw_address(0), CREDIT, 0);
    while (ask(c, METHOD_TAKE, SIZE) == 0)
        turn(bed.loop);
    rt_rpc_destroy(bed.server);
    bed.server = NULL;
    wait_for(&bed, "the end", &c->downs, 1, true);
    wait_for(&bed, "room", &c->drained, 1, true);
    assert_int_equal(c->drained, 1);
    assert_int_equal(ask(c, METHOD_TAKE, SIZE), RT_EPEER);
    assert_int_equal(rt_rpc_stats(c->rpc)->credit_lent, 0);
    close_bed(&bed);
}

/* One message always may go, either way, however small the credit. */
static void test_larger_than_the_credit(void **state)
{
    (void)state;
    for (int i = 0; i < 3; i++) {
        struct bed bed;
        struct client *c = &bed.client[0];
        open_bed(&bed, rw_address(i), CREDIT, 0);
        bed.make_size = LARGE;
        for (int k = 0; k < 3; k++) {
            while (ask(c, METHOD_TAKE, LARGE) == RT_EFULL) {
                int before = c->drained;
                wait_for(&bed, "room", &c->drained, before + 1, true);
            }
        }
        wait_for(&bed, "the answers", &c->answers, 3, true);
        c->answers = 0;
        for (int k = 0; k < 3; k++)
            assert_int_equal(ask(c, METHOD_MAKE, 0), 0);
        uint64_t most = 0;
        while (c->answers < 3) {
            turn(bed.server_loop);
            most = queued(bed.server_loop) > most ? queued(bed.server_loop) : most;
            turn(bed.loop);
        }
        assert_true(most <= (uint64_t)LARGE + CREDIT / 2 + RT_FRAME_HEADER_SIZE);
        assert_int_equal(c->failed, 0);
        close_bed(&bed);
    }
}

/* All of the budget is lent: each connection goes on with one message at a time. */
static void test_budget(void **state)
{
    struct bed bed;
    struct client *a = &bed.client[0], *b = &bed.client[1];
    (void)state;
    open_bed(&bed, rw_address(1), CREDIT, 0);
    bed.budget.limit = CREDIT;
    for (int k = 0; k < CALLS; k++)
        assert_int_equal(ask(a, METHOD_MAKE, 0), 0);
    turn(bed.loop);
    while (rt_rpc_stats(bed.server)->links_paused == 0)
        turn(bed.server_loop);
    assert_true(bed.budget.lent > CREDIT);
    a->unordered = b->unordered = true;
    for (int k = 0; k < 20; k++)
        assert_int_equal(ask(b, METHOD_MAKE, 0), 0);
    uint64_t before = queued(bed.server_loop), most = 0, end = rt_now_ns() + 20 * RT_S;
    while (b->answers < 20 && rt_now_ns() < end) {
        turn(bed.server_loop);
        most = queued(bed.server_loop) > most ? queued(bed.server_loop) : most;
        turn(bed.beside);
    }
    assert_int_equal(b->answers, 20);
    assert_true(most <= before + 2 * SIZE);
    wait_for(&bed, "the replies", &a->answers, CALLS, true);
    assert_int_equal(a->failed + b->failed, 0);
    close_bed(&bed);
}

/* A connection that is not read lives by what its other end takes: this one says nothing for longer than dead_ns, and
 * takes a little at a time. When it takes nothing it is dead. */
static void test_alive_by_what_it_takes(void **state)
{
    struct bed bed;
    struct client *c = &bed.client[0];
    const uint64_t dead_ns = 500 * RT_MS;
    (void)state;
    open_bed(&bed, rw_unix_address(), CREDIT, dead_ns);
    bed.make_size = LARGE; /* 20 turns of the reader, of 2 MiB */
    assert_int_equal(ask(c, METHOD_MAKE, 0), 0);
    turn(bed.loop);
    uint64_t began = rt_now_ns(), next = began;
    while (rt_now_ns() < began + 3 * dead_ns) {
        turn(bed.server_loop);
        if (rt_now_ns() >= next) {
            turn(bed.loop);
            next = rt_now_ns() + dead_ns / 6;
        }
    }
    assert_int_equal(c->answers, 0);
    assert_int_equal(c->downs, 0);
    assert_true(bed.budget.lent > CREDIT);
    began = rt_now_ns();
    while (bed.budget.lent > 0 && rt_now_ns() < began + 20 * RT_S)
        turn(bed.server_loop);
    assert_int_equal(bed.budget.lent, 0);
    assert_true(rt_now_ns() - began >= dead_ns / 2);
    wait_for(&bed, "the end", &c->downs, 1, true);
    close_bed(&bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replies_that_are_not_taken),
        cmocka_unit_test(test_requests_that_are_not_taken),
        cmocka_unit_test(test_room_by_loss),
        cmocka_unit_test(test_larger_than_the_credit),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_alive_by_what_it_takes),
    };
    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
