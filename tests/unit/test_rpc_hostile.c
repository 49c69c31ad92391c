/* tests/unit/test_rpc_hostile.c -- ends that misbehave, by raw sockets: bad frames, garbage, flipped bits,
 * silence; and addresses that cannot be. None may be served or harm the connection beside it. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/net/address.h"
#include "tests/lib/rpc_world.h"

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

#define WAIT_NS                                                                                    \
    (20 * RT_S) /* for what takes well below a second; a busy machine may stop us for some */

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
    struct rt_identity id = rw_conf(w, NULL, RT_ROLE_MIDDLEWARE, 200).self;
    uint8_t reply[1024];
    ssize_t n = -1;
    int fd = raw_connect(w->server.bound);
    id.index = 9;
    raw_send(fd,
             (struct rt_header){
                 .method = RT_METHOD_HANDSHAKE, .message_size = sizeof(id), .incarnation = 200},
             &id, sizeof(id));
    uint64_t end = rt_now_ns() + WAIT_NS;
    while (n < 0 && rt_now_ns() < end) {
        uv_run(rt_loop_uv(w->loop), UV_RUN_ONCE);
        n = recv(fd, reply, sizeof(reply), 0);
    }
    assert_int_equal(n, RT_FRAME_HEADER_SIZE + sizeof(id));
    return fd;
}

/* The other end closes the connection. */
static void raw_wait_closed(struct world *w, int fd, const char *what)
{
    uint64_t end = rt_now_ns() + WAIT_NS;
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
    {"ping of another incarnation", {.method = RT_METHOD_PING, .incarnation = 201}},
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
    rw_open_both(&w, rw_address(0));
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
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0); /* nobody else was harmed */
    rw_wait(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, 0);
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
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
    rw_open_both(&w, rw_address(0));
    for (size_t i = 0; i < ARRAY_LEN(header); i++) {
        int fd = raw_connect(w.server.bound);
        raw_send(fd, header[i], NULL, 0);
        raw_wait_closed(&w, fd, "frame before the handshake");
    }
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
}

/* Connections that never say who they are: more than the limit, and the oldest go; others come through. */
static void test_many_mute(void **state)
{
    enum { MORE = 20 };
    int mute[RT_GREETERS_MAX + MORE];
    struct world w;
    struct answer a = {0};
    (void)state;
    rw_open_both(&w, rw_address(0));
    for (size_t i = 0; i < ARRAY_LEN(mute); i++)
        mute[i] = raw_connect(w.server.bound);
    uint64_t begun = rt_now_ns();
    while (rt_rpc_stats(w.server.rpc)->links_refused < MORE && rt_now_ns() - begun < WAIT_NS)
        uv_run(rt_loop_uv(w.loop), UV_RUN_ONCE);
    /* Not one more, unless we were stopped for so long that others were late with their handshake. */
    assert_true(rt_rpc_stats(w.server.rpc)->links_refused == MORE ||
                rt_now_ns() - begun >= RW_GREET_NS);
    for (size_t i = 0; i < MORE; i++) {
        raw_wait_closed(&w, mute[i], "the oldest");
        mute[i] = -1;
    }
    close(raw_greeted(&w));
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0);
    rw_wait(&w, &a.count, 1, "reply");
    assert_int_equal(a.err, 0);
    for (size_t i = MORE; i < ARRAY_LEN(mute); i++)
        raw_wait_closed(&w, mute[i], "no handshake");
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
}

static void test_garbage(void **state)
{
    struct world w;
    uint64_t key = rt_draw_key(rt_now_ns(), "garbage", NULL);
    (void)state;
    rw_open_both(&w, rw_address(0));
    for (uint64_t i = 0; i < 20; i++) {
        int fd = i % 2 ? raw_greeted(&w) : raw_connect(w.server.bound);
        uint64_t bytes[64];
        for (size_t k = 0; k < ARRAY_LEN(bytes); k++)
            bytes[k] = rt_draw(key, i * 64 + k);
        assert_int_equal(send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL), sizeof(bytes));
        raw_wait_closed(&w, fd, "garbage");
    }
    assert_int_equal(w.client.downs, 0);
    rw_close(&w);
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
    rw_open_both(&w, rw_address(0));
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
    assert_int_equal(rw_call(&w, METHOD_ECHO, 0, &a), 0);
    rw_wait(&w, &a.count, 1, "reply");
    assert_int_equal(w.server.served, 1);
    rw_close(&w);
}

/* Half a frame, half a payload, nothing at all: closed after dead_ns (greet_ns) of silence. */
static void test_silence(void **state)
{
    static const uint8_t some[100] = {0};
    uint8_t bytes[1];
    struct world w;
    (void)state;
    rw_open_both(&w, rw_address(0));
    uint64_t start = rt_now_ns();
    int half = raw_greeted(&w), payload = raw_greeted(&w), mute = raw_connect(w.server.bound);
    /* Twins: the second raw end has the identity of the first, which is closed at once. */
    raw_wait_closed(&w, half, "twin");
    raw_send(
        payload,
        (struct rt_header){.method = METHOD_ECHO, .incarnation = 200, .payload_size = 1u << 20},
        NULL, 0);
    assert_int_equal(send(payload, some, sizeof(some), MSG_NOSIGNAL), sizeof(some));
    rw_turn(&w, 50 * RT_MS);
    bool is_open = recv(mute, bytes, 1, MSG_PEEK) < 0;
    assert_true(is_open || rt_now_ns() - start >= RW_GREET_NS); /* not yet */
    raw_wait_closed(&w, mute, "no handshake");
    raw_wait_closed(&w, payload, "half a payload");
    assert_true(rt_now_ns() - start >= RW_GREET_NS - 10 * RT_MS);
    half = raw_greeted(&w);
    assert_int_equal(send(half, "SFRN\1", 5, MSG_NOSIGNAL), 5);
    start = rt_now_ns();
    raw_wait_closed(&w, half, "half a header");
    assert_true(rt_now_ns() - start >= 100 * RT_MS);
    assert_int_equal(w.client.downs, 0);
    assert_int_equal(rt_pool_lent(rt_loop_io(w.loop)->ops->pool(rt_loop_io(w.loop))), 0);
    rw_close(&w);
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
    rw_open_both(&w, rw_address(0));
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
    rw_wait(&w, &w.server.served, 1, "request");
    close(fd);
    rw_close(&w);
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
                                "near:unix:/run/x",
                                "near:near:tcp:1.2.3.4:1",
                                "near:1.2.3.4:1",
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
    assert_int_equal(rt_address_parse("near:tcp:1.2.3.4:1", &a), 0);
    assert_true(a.near && a.sock.v4.sin_port == htons(1));
    assert_int_equal(rt_address_parse("tcp:[::1]:80", &a), 0);
    assert_false(a.near);
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
    const char *path = rw_unix_address() + 5;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    (void)state;
    /* A socket that a killed process left behind. */
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    memcpy(un.sun_path, path, strlen(path));
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    close(fd);
    rw_open_both(&w, rw_unix_address());
    /* A living one is not taken away. */
    assert_int_equal(rt_rpc_listen(w.client.rpc, rw_unix_address(), bound), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "another process listens on it"));
    assert_true(rt_peer_is_up(w.peer));
    rw_close(&w);
    assert_int_equal(access(path, F_OK), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_frames),       cmocka_unit_test(test_before_handshake),
        cmocka_unit_test(test_many_mute),        cmocka_unit_test(test_garbage),
        cmocka_unit_test(test_flipped_bits),     cmocka_unit_test(test_silence),
        cmocka_unit_test(test_byte_by_byte),     cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_unix_socket_file),
    };
    rt_log_set_level(getenv("SAFFRON_TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
