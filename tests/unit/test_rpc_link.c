/* tests/unit/test_rpc_link.c -- two rpcs over TCP and Unix sockets: who may be linked to whom, and by which way. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/net/near.h"
#include "tests/lib/rpc_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

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
        rw_open(&w, rw_address(0));
        struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
        conf.self.config_hash += row[i].what == CONFIG;
        conf.self.plan_hash = row[i].what == PLAN ? 0 : conf.self.plan_hash;
        conf.self.wire_version += row[i].what == VERSION;
        if (row[i].what == JOB)
            snprintf(conf.self.job, sizeof(conf.self.job), "te\nst");
        if (row[i].what == ROLE)
            conf.self.role = (enum rt_role)77;
        rw_start_client(&w, &conf);
        uint64_t end = rt_now_ns() + 20 * RT_S;
        while (rt_rpc_stats(w.client.rpc)->links_refused < 2 && rt_now_ns() < end)
            uv_run(rt_loop_uv(w.loop), UV_RUN_ONCE);
        assert_true(rt_rpc_stats(w.client.rpc)->links_refused >= 2); /* it tries again */
        assert_true(rt_rpc_stats(w.server.rpc)->links_refused >= 2);
        assert_int_equal(w.client.ups, 0);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("%s: got \"%s\"", row[i].name, rt_err_text());
        rw_close(&w);
    }
}

static void test_other_at_the_address(void **state)
{
    struct world w;
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    assert_int_equal(rt_rpc_create(&conf, &w.client.rpc), 0);
    w.peer = rt_rpc_peer(w.client.rpc, RT_ROLE_EMBEDDING_SERVER, 3, 1);
    rt_peer_set_address(w.peer, w.server.bound, 5);
    for (uint64_t end = rt_now_ns() + 20 * RT_S;
         rt_rpc_stats(w.client.rpc)->links_refused < 1 && rt_now_ns() < end;)
        uv_run(rt_loop_uv(w.loop), UV_RUN_ONCE);
    assert_int_equal(w.client.ups, 0);
    assert_true(rt_rpc_stats(w.client.rpc)->links_refused >= 1);
    assert_ptr_equal(w.peer, rt_rpc_peer(w.client.rpc, RT_ROLE_EMBEDDING_SERVER, 3, 1));
    assert_string_equal(rt_peer_name(w.peer), "embedding_server/3.1");
    rw_close(&w);
}

/* An older process of the same identity comes back while the newer one is known. */
static void test_fencing(void **state)
{
    struct world w;
    struct end old = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &old, RT_ROLE_MIDDLEWARE, 199);
    assert_int_equal(rt_rpc_create(&conf, &old.rpc), 0);
    rt_peer_set_address(rt_rpc_peer(old.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0), w.server.bound, 0);
    rw_wait(&w, &old.fenced, 1, "fenced");
    assert_int_equal(old.fenced_by, 200);
    assert_int_equal(w.client.downs, 0);
    rt_rpc_destroy(old.rpc);
    /* And a newer one takes over: the connection of the old one is closed. */
    memset(&old, 0, sizeof(old));
    conf.self.incarnation = 201;
    assert_int_equal(rt_rpc_create(&conf, &old.rpc), 0);
    rt_peer_set_address(rt_rpc_peer(old.rpc, RT_ROLE_EMBEDDING_SERVER, 0, 0), w.server.bound, 0);
    rw_wait(&w, &old.ups, 1, "the newer one");
    rw_wait(&w, &w.client.downs, 1, "the older one's end");
    rw_wait(&w, &w.client.fenced, 1, "the older one is told");
    assert_int_equal(w.client.fenced_by, 201);
    rt_rpc_destroy(old.rpc);
    rw_close(&w);
}

/* Who holds which numbers, who asks, and what comes of a call. In order: epochs never shrink. */
static void test_epochs(void **state)
{
    enum { SAME, OTHER };
    static const struct {
        uint32_t server[2], client[2]; /* group epoch, generation */
        int role;
        uint16_t method;
        int err, served;
        const char *text;
    } row[] = {
        {{0, 0}, {0, 0}, SAME, METHOD_ECHO, 0, 1, ""},
        {{3, 0}, {0, 0}, SAME, METHOD_ECHO, RT_ESTALE, 0, "group epoch 0 is older than 3"},
        {{3, 0}, {0, 0}, SAME, METHOD_JOIN, 0, 1, ""},
        {{3, 0}, {0, 0}, OTHER, METHOD_ECHO, 0, 1, ""}, /* of no group */
        {{3, 5}, {3, 4}, SAME, METHOD_ECHO, RT_ESTALE, 0, "generation 4 is older than 5"},
        {{3, 5}, {3, 4}, SAME, METHOD_JOIN, RT_ESTALE, 0, "generation 4 is older than 5"},
        {{3, 5}, {0, 4}, OTHER, METHOD_ECHO, RT_ESTALE, 0, "generation 4 is older than 5"},
        {{3, 5}, {3, 5}, SAME, METHOD_ECHO, 0, 1, ""},
        {{3, 5}, {4, 5}, SAME, METHOD_ECHO, RT_ESTALE, 1, "reply refused: group epoch 3 is older"},
        {{3, 5}, {4, 5}, OTHER, METHOD_ECHO, 0, 1, ""}, /* it holds none */
        {{4, 5}, {4, 6}, SAME, METHOD_ECHO, RT_ESTALE, 1, "reply refused: generation 5 is older"},
        {{4, 6}, {4, 6}, SAME, METHOD_ECHO, 0, 1, ""},
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct world w;
        struct answer a = {0};
        rw_open(&w, rw_address(0));
        struct rt_rpc_conf conf =
            rw_conf(&w, &w.client,
                    row[i].role == SAME ? RT_ROLE_EMBEDDING_SERVER : RT_ROLE_MIDDLEWARE, 200);
        conf.self.index = 1;
        rw_start_client(&w, &conf);
        rw_wait(&w, &w.client.ups, 1, "connection");
        rt_rpc_set_epochs(w.server.rpc, row[i].server[0], row[i].server[1]);
        rt_rpc_set_epochs(w.client.rpc, row[i].client[0], row[i].client[1]);
        assert_int_equal(rw_call(&w, row[i].method, 0, &a), 0);
        rw_wait(&w, &a.count, 1, "reply");
        if (a.err != row[i].err || !strstr(a.text, row[i].text) ||
            (row[i].method == METHOD_ECHO && w.server.served != row[i].served))
            fail_msg("row %zu: %s \"%s\", served %d", i, rt_err_name(a.err), a.text,
                     w.server.served);
        assert_int_equal(w.client.downs, 0);
        rw_close(&w);
    }
}

/* A call that is open while its group re-forms: its reply carries the new epoch, and is good for whoever has
 * it, or is still behind. A request that was on its way is answered, once, with the number held. */
static void test_epoch_grows_under_calls(void **state)
{
    struct world w;
    struct answer held = {0}, late = {0};
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_EMBEDDING_SERVER, 200);
    conf.self.index = 1;
    rw_start_client(&w, &conf);
    rw_wait(&w, &w.client.ups, 1, "connection");
    rt_rpc_set_epochs(w.server.rpc, 1, 0);
    rt_rpc_set_epochs(w.client.rpc, 1, 0);
    assert_int_equal(rw_call(&w, METHOD_HOLD, 0, &held), 0);
    rw_wait(&w, &w.server.n_held, 1, "call at the server");
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &late), 0); /* leaves with epoch 1 */
    rt_rpc_set_epochs(w.server.rpc, 2, 0);
    rw_wait(&w, &late.count, 1, "refusal");
    assert_int_equal(late.err, RT_ESTALE);
    assert_non_null(strstr(late.text, "group epoch 1 is older than 2, which is held here"));
    rt_call_reply(w.server.held[0], &(struct rt_outgoing){0});
    rw_wait(&w, &held.count, 1, "reply");
    assert_int_equal(held.err, 0);
    assert_int_equal(held.header.group_epoch, 2);
    rt_rpc_set_epochs(w.client.rpc, 2, 0);
    rw_answer_reset(&late);
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &late), 0);
    rw_wait(&w, &late.count, 1, "reply");
    assert_int_equal(late.err, 0);
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
}

/* ---- addresses ---- */

static void test_old_address_is_ignored(void **state)
{
    struct world w;
    (void)state;
    rw_open(&w, rw_address(0));
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    rw_start_client(&w, &conf);
    rt_peer_set_address(w.peer, w.server.bound, 100);
    rw_wait(&w, &w.client.ups, 1, "connection");
    rt_peer_set_address(w.peer, "tcp:127.0.0.1:1", 99);
    rt_peer_set_address(w.peer, w.server.bound, 100);
    rw_turn(&w, 50 * RT_MS);
    assert_int_equal(w.client.ups, 1);
    assert_int_equal(w.client.downs, 0);
    /* A hello of incarnation 101, whose process is not there yet: 100 is not good enough now. */
    rt_peer_set_address(w.peer, w.server.bound, 101);
    rw_wait(&w, &w.client.downs, 1, "peer_down");
    rw_turn(&w, 50 * RT_MS);
    assert_int_equal(w.client.ups, 1);
    rw_close(&w);
}

static int near_connect(const char *address)
{
    struct rt_address a;
    assert_int_equal(rt_address_parse(address, &a), 0);
    return rt_near_is(&a) ? rt_near_connect(&a) : -1;
}

/* Who does not find the short way comes by TCP; a payload tells by its checksum which way it took. */
static void test_the_short_way(void **state)
{
    static const char *const name = "tcp:127.0.0.1:1";
    char text[RT_ADDRESS_MAX + 1] = {0};
    struct world w;

    (void)state;
    rt_near_set(true);
    int fd = rt_near_bind(name);
    assert_true(fd >= 0);
    assert_int_equal(rt_near_bind(name), -1); /* taken */
    assert_int_equal(near_connect(name), -1); /* nobody listens */
    assert_int_equal(listen(fd, 1), 0);
    int other = near_connect(name);
    assert_true(other >= 0);
    close(other);
    close(fd);
    assert_int_equal(near_connect(name), -1);
    memset(text, 'x', sizeof(text) - 1);
    assert_int_equal(rt_near_bind(text), -1);
    for (int i = 0; i < 4; i++) { /* 3: the listener has it, the other does not take it */
        struct answer a = {0};
        rw_open(&w, rw_address(i == 3 ? 2 : i));
        rt_near_set(i == 2);
        struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
        rw_start_client(&w, &conf);
        rw_wait(&w, &w.client.ups, 1, "the connection");
        struct rt_buf *buf = rw_filled(&w, 100, 1);
        struct rt_piece piece = {buf->data, 100, buf};
        struct rt_outgoing out = {.pieces = &piece, .n_pieces = 1};
        assert_int_equal(rt_rpc_call(w.peer, METHOD_ECHO, &out, 20 * RT_S, rw_on_answer, &a), 0);
        rt_buf_unref(buf);
        rw_wait(&w, &a.count, 1, "reply");
        assert_int_equal(!(a.header.flags & RT_FRAME_NO_PAYLOAD_CRC), i == 0 || i == 3);
        rw_answer_reset(&a);
        rw_close(&w);
    }
}

/* Which addresses lead to a listener by its short way, whatever they say, and which are left to TCP: so what stands at
 * another address than the listener's, as a proxy does, is not gone round. */
static void test_short_ways(void **state)
{
    static const struct {
        const char *listens, *told;
        bool near;
    } row[] = {
        {"tcp:127.0.0.1:0", "tcp:127.0.0.1", true},
        {"tcp:127.0.0.1:0", "near:tcp:127.0.0.1", true},
        {"tcp:127.0.0.1:0", "tcp:127.0.0.2", false},
        {"tcp:127.0.0.1:0", "near:tcp:127.0.0.2", false},
        {"tcp:127.0.0.1:0", "near:tcp:10.1.2.3", false},
        {"tcp:0.0.0.0:0", "tcp:127.0.0.1", true},
        {"tcp:0.0.0.0:0", "near:tcp:192.0.2.7", true},
        {"tcp:0.0.0.0:0", "tcp:192.0.2.7", false},
        {"tcp:[::]:0", "near:tcp:[2001:db8::7]", true},
        {"tcp:[::]:0", "tcp:[::1]", true},
    };

    (void)state;
    rt_near_set(true);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char address[RT_ADDRESS_MAX], port[16];
        struct world w;
        rw_open(&w, row[i].listens);
        snprintf(port, sizeof(port), "%.5s", strrchr(w.server.bound, ':') + 1);
        snprintf(address, sizeof(address), "%s:%s", row[i].told, port);
        int fd = near_connect(address);
        if ((fd >= 0) != row[i].near)
            fail_msg("row %zu, %s: by the short way: %d", i, address, fd >= 0);
        if (fd >= 0)
            close(fd);
        rw_close(&w);
    }
}

/* A listener on all addresses, told of by one that leads nowhere: calls come by the short way. */
static void test_near_address(void **state)
{
    struct answer a = {0};
    struct world w;
    char port[RT_ADDRESS_MAX];

    (void)state;
    rt_near_set(true);
    rw_open(&w, "tcp:0.0.0.0:0");
    snprintf(port, sizeof(port), "%s", strrchr(w.server.bound, ':') + 1);
    snprintf(w.server.bound, sizeof(w.server.bound), "near:tcp:192.0.2.7:%.5s", port);
    struct rt_rpc_conf conf = rw_conf(&w, &w.client, RT_ROLE_MIDDLEWARE, 200);
    rw_start_client(&w, &conf);
    rw_wait(&w, &w.client.ups, 1, "the connection");
    assert_int_equal(rw_call(&w, METHOD_ECHO, 20 * RT_S, &a), 0);
    rw_wait(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, 0);
    rw_answer_reset(&a);
    rw_close(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_other_at_the_address),
        cmocka_unit_test(test_fencing),
        cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_epoch_grows_under_calls),
        cmocka_unit_test(test_old_address_is_ignored),
        cmocka_unit_test(test_the_short_way),
        cmocka_unit_test(test_short_ways),
        cmocka_unit_test(test_near_address),
    };
    rt_log_set_level(getenv("SAFFRON_TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
