/* tests/fault/test_proxy.c -- the proxy that end-to-end tests trust: bytes come through as they are, and each kind of
 * fault is what it says. */
#include "tests/lib/proxy.h"

#include "runtime/base/assert.h"
#include "runtime/net/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

enum { MESSAGE = 100, FRAME = RT_FRAME_HEADER_SIZE + MESSAGE, HEARD = 1 << 16, CONNECTIONS = 4 };

/* Who is behind the proxy: all it has heard, by connection. */
struct bed {
    struct proxy *proxy;
    int listener, client;
    int peer[CONNECTIONS];
    uint8_t heard[CONNECTIONS][HEARD];
    size_t n_heard[CONNECTIONS], n_peers;
    int closed[CONNECTIONS]; /* 0, 1: EOF, or errno */
};

static uint16_t listen_somewhere(int *fd)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    *fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    assert_int_equal(bind(*fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(*fd, 8), 0);
    getsockname(*fd, (struct sockaddr *)&at, &size);
    return ntohs(at.sin_port);
}

static void bed_init(struct bed *bed, uint64_t seed)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    memset(bed, 0, sizeof(*bed));
    uint16_t port = listen_somewhere(&bed->listener);
    assert_int_equal(proxy_create(&(struct proxy_conf){.seed = seed}, &bed->proxy), 0);
    int shown = proxy_add(bed->proxy, "127.0.0.1", 0, "127.0.0.1", port);
    assert_true(shown > 0);
    to.sin_port = htons((uint16_t)shown);
    bed->client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(bed->client, (struct sockaddr *)&to, sizeof(to)), 0);
}

static void bed_release(struct bed *bed)
{
    close(bed->client);
    close(bed->listener);
    for (size_t i = 0; i < bed->n_peers; i++)
        close(bed->peer[i]);
    proxy_destroy(bed->proxy);
}

static void hear(struct bed *bed)
{
    int fd = accept4(bed->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd >= 0) {
        assert_true(bed->n_peers < CONNECTIONS);
        bed->peer[bed->n_peers++] = fd;
    }
    for (size_t i = 0; i < bed->n_peers; i++) {
        ssize_t n = read(bed->peer[i], bed->heard[i] + bed->n_heard[i], HEARD - bed->n_heard[i]);
        if (n > 0)
            bed->n_heard[i] += (size_t)n;
        else if (n == 0 && !bed->closed[i])
            bed->closed[i] = 1;
        else if (n < 0 && errno != EAGAIN)
            bed->closed[i] = errno;
    }
}

static void go_on(struct bed *bed, int ms)
{
    for (int i = 0; i < ms; i += 5) {
        proxy_turn(bed->proxy, 5);
        hear(bed);
    }
}

static void make_frame(uint8_t out[FRAME], uint16_t method, uint64_t number)
{
    struct rt_header header = {.version = RT_WIRE_VERSION,
                               .method = method,
                               .request_id = number,
                               .message_size = MESSAGE};
    for (size_t i = 0; i < MESSAGE; i++)
        out[RT_FRAME_HEADER_SIZE + i] = (uint8_t)(number + i);
    rt_header_encode(&header, out);
    rt_header_seal(out, out + RT_FRAME_HEADER_SIZE, MESSAGE);
}

/* The handshake and requests up to n, as they left; returns how many bytes. */
static size_t send_frames(struct bed *bed, uint64_t from, uint64_t n, uint8_t *sent)
{
    for (uint64_t i = from; i < n; i++) {
        make_frame(sent + i * FRAME, i ? RT_METHOD_ROLE_FIRST : RT_METHOD_HANDSHAKE, i);
        assert_int_equal(send(bed->client, sent + i * FRAME, FRAME, MSG_NOSIGNAL), FRAME);
    }
    return n * FRAME;
}

static void assert_heard(const struct bed *bed, size_t peer, const uint8_t *bytes, size_t n)
{
    assert_int_equal(bed->n_heard[peer], n);
    assert_memory_equal(bed->heard[peer], bytes, n);
}

static uint8_t sent[64 * FRAME];

static void test_passes_all(void **state)
{
    static const char strange[] =
        "no frame at all, and longer than the header of one would be: so it comes through as it is";
    (void)state;
    struct bed bed;
    char back[8] = "";
    bed_init(&bed, 1);
    size_t n = send_frames(&bed, 0, 20, sent);
    memcpy(sent + n, strange, sizeof(strange));
    assert_int_equal(send(bed.client, strange, sizeof(strange), 0), sizeof(strange));
    go_on(&bed, 40);
    assert_heard(&bed, 0, sent, n + sizeof(strange));
    assert_int_equal(write(bed.peer[0], "hello", 5), 5);
    close(bed.peer[0]);
    bed.peer[0] = -1;
    bed.n_peers = 0;
    go_on(&bed, 40);
    assert_int_equal(read(bed.client, back, sizeof(back)), 5); /* a part of a frame, and the end */
    assert_string_equal(back, "hello");
    assert_int_equal(read(bed.client, back, sizeof(back)), 0);
    assert_int_equal(proxy_connections(bed.proxy), 1);
    bed_release(&bed);
}

static void test_duplicate(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 2);
    send_frames(&bed, 0, 3, sent);
    go_on(&bed, 40);
    assert_true(proxy_fault(bed.proxy, PROXY_DUPLICATE));
    assert_int_equal(proxy_count(bed.proxy, PROXY_DUPLICATE), 0);
    send_frames(&bed, 3, 4, sent);
    go_on(&bed, 40);
    memcpy(sent + 4 * FRAME, sent + 3 * FRAME, FRAME);
    assert_heard(&bed, 0, sent, 5 * FRAME);
    assert_int_equal(proxy_count(bed.proxy, PROXY_DUPLICATE), 1);
    bed_release(&bed);
}

static void test_replay(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 3);
    size_t n = send_frames(&bed, 0, 40, sent);
    go_on(&bed, 40);
    assert_true(proxy_fault(bed.proxy, PROXY_REPLAY));
    go_on(&bed, 60);
    assert_int_equal(bed.n_peers, 2);
    assert_heard(&bed, 0, sent, n);
    memmove(sent + FRAME, sent + 8 * FRAME, 32 * FRAME); /* the handshake, and the latest 32 */
    assert_heard(&bed, 1, sent, 33 * FRAME);
    assert_int_equal(bed.closed[0], 0);
    go_on(&bed, 300);
    assert_int_not_equal(bed.closed[1], 0);
    bed_release(&bed);
}

/* Some kinds draw the direction: each seed is one of the two. */
static void test_truncate(void **state)
{
    (void)state;
    unsigned cut = 0;
    for (uint64_t seed = 1; seed <= 8; seed++) {
        struct bed bed;
        bed_init(&bed, seed);
        send_frames(&bed, 0, 3, sent);
        go_on(&bed, 20);
        assert_true(proxy_fault(bed.proxy, PROXY_TRUNCATE));
        send_frames(&bed, 3, 4, sent);
        go_on(&bed, 40);
        if (proxy_count(bed.proxy, PROXY_TRUNCATE)) {
            assert_in_range(bed.n_heard[0], 3 * FRAME + 1, 4 * FRAME - 1);
            assert_heard(&bed, 0, sent, bed.n_heard[0]);
            assert_int_not_equal(bed.closed[0], 0);
            cut++;
        }
        bed_release(&bed);
    }
    assert_in_range(cut, 1, 7);
}

static void test_delay_and_drop(void **state)
{
    (void)state;
    unsigned late = 0, lost = 0;
    for (uint64_t seed = 1; seed <= 16; seed++) {
        bool drop = seed % 2;
        struct bed bed;
        bed_init(&bed, seed);
        send_frames(&bed, 0, 3, sent);
        go_on(&bed, 20);
        assert_true(proxy_fault(bed.proxy, drop ? PROXY_DROP : PROXY_DELAY));
        send_frames(&bed, 3, 4, sent);
        go_on(&bed, 10);
        late += !drop && bed.n_heard[0] == 3 * FRAME;
        go_on(&bed, 200);
        lost += drop && bed.n_heard[0] == 3 * FRAME;
        if (drop)
            assert_int_equal(bed.closed[0], ECONNRESET);
        else
            assert_heard(&bed, 0, sent, 4 * FRAME);
        bed_release(&bed);
    }
    assert_in_range(late, 1, 8);
    assert_in_range(lost, 1, 8);
}

static void test_reset_and_half_open(void **state)
{
    (void)state;
    unsigned told = 0, untold = 0;
    for (uint64_t seed = 1; seed <= 16; seed++) {
        bool half = seed % 2;
        struct bed bed;
        bed_init(&bed, seed);
        send_frames(&bed, 0, 3, sent);
        go_on(&bed, 20);
        assert_true(proxy_fault(bed.proxy, half ? PROXY_HALF_OPEN : PROXY_RESET));
        go_on(&bed, 20);
        told += half && bed.closed[0];
        untold += half && !bed.closed[0];
        if (!half)
            assert_int_equal(bed.closed[0], ECONNRESET);
        assert_heard(&bed, 0, sent, 3 * FRAME);
        bed_release(&bed);
    }
    assert_in_range(told, 1, 7);
    assert_in_range(untold, 1, 7);
}

/* Who has not shaken hands yet, or is half open, gets no fault. */
static void test_nobody_to_harm(void **state)
{
    (void)state;
    struct bed bed;
    bed_init(&bed, 5);
    send_frames(&bed, 0, 1, sent);
    go_on(&bed, 20);
    for (int kind = 0; kind < PROXY_FAULTS; kind++)
        assert_false(proxy_fault(bed.proxy, (enum proxy_fault)kind));
    bed_release(&bed);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_passes_all),     cmocka_unit_test(test_duplicate),
        cmocka_unit_test(test_replay),         cmocka_unit_test(test_truncate),
        cmocka_unit_test(test_delay_and_drop), cmocka_unit_test(test_reset_and_half_open),
        cmocka_unit_test(test_nobody_to_harm)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
