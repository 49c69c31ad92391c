/* tests/unit/test_bus.c -- the bus against a listener that only pretends to be NATS, and sees every byte that
 * reaches it. With a real server: test_member.c. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/member/bus.h"
#include "tests/lib/nats_bed.h"

#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a listener that pretends to be NATS ---- */

struct fake {
    int listener, connection;
    uint16_t port;
    pthread_t thread;
    pthread_mutex_t lock;
    atomic_int accepted, hold; /* hold: refuse to accept */
    atomic_bool deaf;          /* do not read what comes */
    atomic_bool flood;         /* messages for the first subscription, as fast as they go */
    atomic_int slam;           /* end the connection, 1: at once; 2: after INFO; 3: after CONNECT */
    atomic_bool quit;
    char seen[65536]; /* of the latest connection */
    size_t n_seen;
};

static void fake_read(struct fake *fake)
{
    char buffer[4096];
    ssize_t n = recv(fake->connection, buffer, sizeof(buffer), MSG_DONTWAIT);

    if (n <= 0)
        return;
    pthread_mutex_lock(&fake->lock);
    if (fake->n_seen + (size_t)n < sizeof(fake->seen)) {
        memcpy(fake->seen + fake->n_seen, buffer, (size_t)n);
        fake->n_seen += (size_t)n;
    }
    pthread_mutex_unlock(&fake->lock);
    if (memmem(buffer, (size_t)n, "PING\r\n", 6))
        (void)!write(fake->connection, "PONG\r\n", 6);
}

#define MESSAGE "MSG inbox 1 1\r\nx\r\n"

static void fake_flood(struct fake *fake)
{
    char text[50 * (sizeof(MESSAGE) - 1)];

    for (size_t at = 0; at < sizeof(text); at += sizeof(MESSAGE) - 1)
        memcpy(text + at, MESSAGE, sizeof(MESSAGE) - 1);
    if (send(fake->connection, text, sizeof(text), MSG_NOSIGNAL) < 0)
        fake->flood = false;
}

static void *fake_main(void *arg)
{
    static const char info[] = "INFO {\"server_id\":\"x\",\"version\":\"2.9.0\",\"headers\":true,"
                               "\"max_payload\":1048576,\"proto\":1}\r\n";
    struct fake *fake = arg;

    while (!fake->quit) {
        struct pollfd fds[2] = {{fake->hold ? -1 : fake->listener, POLLIN, 0},
                                {fake->deaf ? -1 : fake->connection, POLLIN, 0}};

        poll(fds, 2, fake->flood ? 0 : 5);
        if (fds[0].revents & POLLIN) {
            int fd = accept(fake->listener, NULL, NULL);

            pthread_mutex_lock(&fake->lock);
            fake->n_seen = 0;
            pthread_mutex_unlock(&fake->lock);
            fake->connection = fd;
            if (fake->slam != 1)
                (void)!write(fd, info, sizeof(info) - 1);
            fake->accepted++;
        }
        if ((fds[1].revents & POLLIN) && fake->slam != 3)
            fake_read(fake);
        if (fake->flood && fake->connection >= 0)
            fake_flood(fake);
        if ((fake->hold || fake->slam == 1 || fake->slam == 2 ||
             (fake->slam == 3 && (fds[1].revents & POLLIN))) &&
            fake->connection >= 0) {
            close(fake->connection);
            fake->connection = -1;
        }
    }
    return NULL;
}

static bool fake_saw(struct fake *fake, const char *text)
{
    bool saw;

    pthread_mutex_lock(&fake->lock);
    saw = memmem(fake->seen, fake->n_seen, text, strlen(text)) != NULL;
    pthread_mutex_unlock(&fake->lock);
    return saw;
}

static bool is_accepted_again(void *arg)
{
    return ((struct fake *)arg)->accepted >= 2;
}

static struct fake *fake_start(char *url, size_t size)
{
    struct fake *fake = calloc(1, sizeof(*fake));

    fake->connection = -1;
    fake->listener = bed_listen_any(&fake->port);
    pthread_mutex_init(&fake->lock, NULL);
    assert_int_equal(pthread_create(&fake->thread, NULL, fake_main, fake), 0);
    snprintf(url, size, "nats://127.0.0.1:%u", fake->port);
    return fake;
}

static void fake_end(struct fake *fake)
{
    fake->quit = true;
    pthread_join(fake->thread, NULL);
    close(fake->listener);
    if (fake->connection >= 0)
        close(fake->connection);
    pthread_mutex_destroy(&fake->lock);
    free(fake);
}

static void ignore_message(void *ctx, const struct rt_bus_message *message)
{
    (void)ctx;
    (void)message;
}

static void count_message(void *ctx, const struct rt_bus_message *message)
{
    (void)message;
    (*(int *)ctx)++;
}

static void ignore_change(void *ctx, bool connected)
{
    (void)ctx;
    (void)connected;
}

static bool bus_is_up(void *arg)
{
    return rt_bus_connected(arg);
}

/* Whatever is published while NATS is away, or in the moment that it goes, must not come later. */
static bool has_seen_an_early_one(void *arg)
{
    return fake_saw(arg, "PUB early");
}

static bool has_seen_the_message(void *arg)
{
    return fake_saw(arg, "PUB fresh");
}

static void nothing_is_late(void **state)
{
    struct rt_bus_conf conf = {
        .loop = bed_loop, .name = "late", .message = ignore_message, .change = ignore_change};
    int err, refused = 0;
    struct rt_bus *bus;
    struct fake *fake;
    char url[64];

    (void)state;
    fake = fake_start(url, sizeof(url));
    conf.url = url;
    assert_int_equal(rt_bus_create(&conf, &bus), 0);
    assert_int_equal(rt_bus_subscribe(bus, "inbox"), 0);
    assert_true(bed_run_until(bus_is_up, bus, BED_WAIT_NS));
    assert_int_equal(rt_bus_publish(bus, "early", "x", 1), 0);
    assert_true(bed_run_until(has_seen_an_early_one, fake, BED_WAIT_NS));
    fake->hold = 1;
    for (uint64_t end_ns = rt_now_ns() + BED_WAIT_NS; refused < 100 && rt_now_ns() < end_ns;) {
        err = rt_bus_publish(bus, "late", "x", 1);
        assert_true(err == 0 || err == RT_ENATS);
        refused += err != 0;
        usleep(1000);
    }
    assert_int_equal(refused, 100);
    fake->hold = 0;
    assert_true(bed_run_until(is_accepted_again, fake, BED_WAIT_NS));
    assert_true(bed_run_until(bus_is_up, bus, BED_WAIT_NS));
    assert_int_equal(rt_bus_publish(bus, "fresh", "x", 1), 0);
    assert_true(bed_run_until(has_seen_the_message, fake, BED_WAIT_NS));
    assert_true(fake_saw(fake, "SUB inbox"));
    assert_false(fake_saw(fake, "PUB late"));
    rt_bus_destroy(bus);
    fake_end(fake);
}

/* A server that takes the connection and then reads nothing: publishing never waits for it, what has no room
 * is refused, and the connection is given up for a new one. None of what waited is said on that. */
static void server_does_not_read(void **state)
{
    struct rt_bus_conf conf = {
        .loop = bed_loop, .name = "deaf", .message = ignore_message, .change = ignore_change};
    uint64_t longest_ns = 0, end_ns = rt_now_ns() + BED_WAIT_NS;
    uint8_t *big = calloc(1, RT_BUS_MESSAGE_MAX);
    struct rt_bus *bus;
    struct fake *fake;
    int refused = 0;
    char url[64];

    (void)state;
    fake = fake_start(url, sizeof(url));
    conf.url = url;
    assert_int_equal(rt_bus_create(&conf, &bus), 0);
    assert_true(bed_run_until(bus_is_up, bus, BED_WAIT_NS));
    fake->deaf = true;
    while (fake->accepted < 2 && rt_now_ns() < end_ns) {
        uint64_t begun_ns = rt_now_ns(), took_ns;

        refused += rt_bus_publish(bus, "big", big, RT_BUS_MESSAGE_MAX) != 0;
        took_ns = rt_now_ns() - begun_ns;
        longest_ns = took_ns > longest_ns ? took_ns : longest_ns;
        usleep(1000);
    }
    assert_true(refused > 0);
    /* It copies 1 MiB, and a busy machine may stop us; waiting for the server takes a write deadline, 1 s. */
    assert_true(longest_ns < 900 * RT_MS);
    fake->deaf = false;
    assert_true(bed_run_until(bus_is_up, bus, BED_WAIT_NS));
    assert_int_equal(rt_bus_publish(bus, "fresh", "x", 1), 0);
    assert_true(bed_run_until(has_seen_the_message, fake, BED_WAIT_NS));
    assert_false(fake_saw(fake, "PUB big"));
    rt_bus_destroy(bus);
    fake_end(fake);
    free(big);
}

/* A server that dies in the middle of the first handshake, a few times: the library then closes the connection for
 * good, in one moment or another. It is made anew, with its subscriptions. */
static void server_dies_in_the_handshake(void **state)
{
    struct rt_bus_conf conf = {
        .loop = bed_loop, .name = "slam", .message = count_message, .change = ignore_change};
    char url[64];

    (void)state;
    for (int moment = 1; moment <= 3; moment++) {
        struct fake *fake = fake_start(url, sizeof(url));
        struct rt_bus *bus;
        int counted = 0;

        conf.url = url;
        conf.ctx = &counted;
        fake->slam = moment;
        assert_int_equal(rt_bus_create(&conf, &bus), 0);
        assert_int_equal(rt_bus_subscribe(bus, "inbox"), 0);
        if (!bed_run_until(is_accepted_again, fake, BED_WAIT_NS))
            fail_msg("moment %d: it does not try again", moment);
        fake->slam = 0;
        if (!bed_run_until(bus_is_up, bus, BED_WAIT_NS))
            fail_msg("moment %d: it does not come back", moment);
        assert_int_equal(rt_bus_publish(bus, "fresh", "x", 1), 0);
        if (!bed_run_until(has_seen_the_message, fake, BED_WAIT_NS))
            fail_msg("moment %d: nothing is sent", moment);
        assert_true(fake_saw(fake, "SUB inbox"));
        rt_bus_destroy(bus);
        fake_end(fake);
    }
}

static bool many_are_counted(void *arg)
{
    return *(int *)arg >= 100;
}

/* A bus goes while messages come for it: none is heard afterwards, and nothing is touched that is gone. */
static void destroyed_while_messages_come(void **state)
{
    struct rt_bus_conf conf = {
        .loop = bed_loop, .name = "flood", .message = count_message, .change = ignore_change};
    char url[64];

    (void)state;
    for (int round = 0; round < 30; round++) {
        struct fake *fake = fake_start(url, sizeof(url));
        struct rt_bus *bus;
        int counted = 0;

        conf.url = url;
        conf.ctx = &counted;
        assert_int_equal(rt_bus_create(&conf, &bus), 0);
        assert_int_equal(rt_bus_subscribe(bus, "inbox"), 0);
        assert_true(bed_run_until(bus_is_up, bus, BED_WAIT_NS));
        while (!fake_saw(fake, "SUB inbox"))
            usleep(100);
        fake->flood = true;
        assert_true(bed_run_until(many_are_counted, &counted, BED_WAIT_NS));
        rt_bus_destroy(bus);
        counted = 0;
        bed_run_until(bed_never, NULL, 2 * RT_MS);
        assert_int_equal(counted, 0);
        fake_end(fake);
    }
}

static void shown_urls(void **state)
{
    static const struct {
        const char *url, *shown;
    } row[] = {
        {"nats://127.0.0.1:4222", "nats://127.0.0.1:4222"},
        {"nats://user:secret@host:1", "nats://host:1"},
        {"nats://a:b@h:1,nats://c:d@i:2,x:3", "nats://h:1,nats://i:2,x:3"},
        {"user:secret@host", "host"},
        {"", ""},
    };
    char shown[128];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        assert_string_equal(rt_bus_shown_url(row[i].url, shown, sizeof(shown)), row[i].shown);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, bed_set_up, bed_tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shown_urls),        TEST(nothing_is_late),
        TEST(server_does_not_read),          TEST(server_dies_in_the_handshake),
        TEST(destroyed_while_messages_come),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
