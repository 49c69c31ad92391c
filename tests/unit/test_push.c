/* tests/unit/test_push.c -- pages to a push gateway: one that takes them, one that does not, one that is away, one that
 * says nothing, and one that comes back.
 *
 * The gateway is a thread that answers one connection after the other with the same words. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/process/push.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define REQUEST_MAX ((size_t)4 << 20)

struct gateway {
    int fd;
    uint16_t port;
    const char *answer; /* NULL: none, the connection stays open until it is closed */
    pthread_t thread;
    atomic_int requests;
    char *last; /* text of the latest request; the thread's until stop */
    size_t last_size;
};

static bool is_whole(const char *text, size_t size)
{
    const char *length = strstr(text, "Content-Length: "), *body = strstr(text, "\r\n\r\n");

    return length && body && size - (size_t)(body + 4 - text) >= strtoul(length + 16, NULL, 10);
}

/* Until the request is whole; false when the other end leaves first. */
static bool read_request(struct gateway *g, int fd)
{
    g->last_size = 0;
    g->last[0] = '\0';
    while (!is_whole(g->last, g->last_size)) {
        ssize_t n = read(fd, g->last + g->last_size, REQUEST_MAX - g->last_size);

        if (n <= 0)
            return false;
        g->last_size += (size_t)n;
        g->last[g->last_size] = '\0';
    }
    return true;
}

static void *serve(void *arg)
{
    struct gateway *g = arg;
    int fd;

    while ((fd = accept(g->fd, NULL, NULL)) >= 0) {
        char end;
        bool whole = read_request(g, fd);

        if (whole)
            atomic_fetch_add(&g->requests, 1);
        if (whole && g->answer)
            (void)!write(fd, g->answer, strlen(g->answer));
        else if (whole)
            (void)!read(fd, &end, 1); /* the other end's patience is over */
        close(fd);
    }
    return NULL;
}

/* Port 0: a free one. */
static void gateway_start(struct gateway *g, uint16_t port, const char *answer)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int one = 1;

    *g = (struct gateway){.answer = answer, .last = rt_xmalloc(REQUEST_MAX + 1)};
    g->fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(g->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(g->fd, (struct sockaddr *)&at, size), 0);
    assert_int_equal(listen(g->fd, 8), 0);
    assert_int_equal(getsockname(g->fd, (struct sockaddr *)&at, &size), 0);
    g->port = ntohs(at.sin_port);
    assert_int_equal(pthread_create(&g->thread, NULL, serve, g), 0);
}

/* The text of the last request stays, and is the caller's. */
static void gateway_stop(struct gateway *g)
{
    shutdown(g->fd, SHUT_RDWR);
    pthread_join(g->thread, NULL);
    close(g->fd);
}

/* A port that nobody listens on. */
static uint16_t free_port(void)
{
    struct gateway g;

    gateway_start(&g, 0, "");
    gateway_stop(&g);
    rt_free(g.last);
    return g.port;
}

static struct rt_push *push_to(uint16_t port, uint64_t limit_ns)
{
    char address[64];
    struct rt_push_conf conf = {
        .address = address, .job = "adult", .role = "trainer", .index = 3, .limit_ns = limit_ns};
    struct rt_push *push = NULL;

    snprintf(address, sizeof(address), "http://127.0.0.1:%u/", port);
    assert_int_equal(rt_push_check(address), 0);
    assert_int_equal(rt_push_create(&conf, &push), 0);
    return push;
}

static struct rt_strbuf *page_of(const char *text)
{
    static struct rt_strbuf page;

    rt_strbuf_init(&page);
    rt_strbuf_addf(&page, "%s", text);
    return &page;
}

static void wait_for(const _Atomic uint64_t *value, uint64_t n)
{
    for (int i = 0; i < 2000 && atomic_load(value) < n; i++)
        usleep(2000);
    assert_int_equal(atomic_load(value), n);
}

static uint64_t warnings(void)
{
    return atomic_load(rt_log_count(RT_LOG_WARN));
}

/* ---- tests ---- */

static void addresses(void **state)
{
    static const struct {
        const char *text;
        int err;
    } row[] = {
        {"127.0.0.1:9091", 0},
        {"pushgateway.monitoring.svc:9091", 0},
        {"http://gateway:1", 0},
        {"http://gateway:65535/", 0},
        {"[::1]:9091", 0},
        {"http://[fe80::1]:9091", 0},
        {"", RT_EUSAGE},
        {"gateway", RT_EUSAGE},
        {":9091", RT_EUSAGE},
        {"gateway:", RT_EUSAGE},
        {"gateway:0", RT_EUSAGE},
        {"gateway:65536", RT_EUSAGE},
        {"gateway:-1", RT_EUSAGE},
        {"gateway:+1", RT_EUSAGE},
        {"gateway:99999999999999999999", RT_EUSAGE},
        {"gateway:9091x", RT_EUSAGE},
        {"gateway:9091/metrics", RT_EUSAGE},
        {"https://gateway:9091", RT_EUSAGE},
        {"http://", RT_EUSAGE},
        {"user:secret@gateway:9091", RT_EUSAGE},
        {"two words:9091", RT_EUSAGE},
        {"[::1:9091", RT_EUSAGE},
        {"[]:9091", RT_EUSAGE},
        {"gateway:9091\nX-Evil: 1", RT_EUSAGE},
    };
    char longest[300];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        if (rt_push_check(row[i].text) != row[i].err)
            fail_msg("'%s': expected %d", row[i].text, row[i].err);
    memset(longest, 'a', sizeof(longest));
    memcpy(longest + sizeof(longest) - 4, ":1\0", 4);
    assert_int_equal(rt_push_check(longest), RT_EUSAGE);
}

/* What arrives, and where: also a page larger than curl likes to send without asking. */
static void pages_arrive(void **state)
{
    struct gateway g;
    struct rt_strbuf large;

    (void)state;
    gateway_start(&g, 0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    struct rt_push *push = push_to(g.port, 0);
    rt_push_give(push, page_of("saffron_a 1\n"));
    wait_for(&rt_push_stats(push)->taken, 1);
    rt_strbuf_init(&large);
    for (int i = 0; i < 200000; i++)
        rt_strbuf_addf(&large, "saffron_%d\n", i % 10);
    rt_push_last(push, &large);
    assert_null(large.text); /* taken */
    rt_push_destroy(push);
    gateway_stop(&g);
    assert_int_equal(atomic_load(&g.requests), 2);
    static const char begin[] = "PUT /metrics/job/adult/role/trainer/index/3 HTTP/1.1\r\n";
    assert_memory_equal(g.last, begin, sizeof(begin) - 1);
    assert_non_null(strstr(g.last, "\r\nContent-Type: text/plain; version=0.0.4\r\n"));
    assert_null(strstr(g.last, "Expect"));
    assert_string_equal(g.last + g.last_size - 20, "saffron_8\nsaffron_9\n");
    rt_free(g.last);
}

/* A gateway that answers with an error, or with nonsense, or is not there: one warning, however often; one line when it
 * takes a page again. */
static void trouble_is_told_once(void **state)
{
    static const char *const answer[] = {
        "HTTP/1.1 500 no\r\nContent-Length: 9\r\n\r\npush \x1b[2J",
        "HTTP/1.1 400 no\r\nContent-Length: 99999\r\n\r\ncut short",
        "HTTP/1.1 301 away\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
        "what?\r\n\r\n",
        "",
    };
    struct gateway g;

    (void)state;
    for (size_t i = 0; i <= ARRAY_LEN(answer); i++) {
        bool is_there = i < ARRAY_LEN(answer);
        uint16_t port = free_port();
        struct rt_push *push = push_to(port, 0);
        uint64_t before = warnings();

        if (is_there)
            gateway_start(&g, port, answer[i]);
        for (uint64_t n = 1; n <= 3; n++) {
            rt_push_give(push, page_of("a 1\n"));
            wait_for(&rt_push_stats(push)->failed, n);
        }
        assert_int_equal(warnings(), before + 1);
        if (is_there) {
            gateway_stop(&g);
            rt_free(g.last);
        }
        gateway_start(&g, port, "HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n");
        rt_push_give(push, page_of("a 2\n"));
        wait_for(&rt_push_stats(push)->taken, 1);
        assert_int_equal(warnings(), before + 1);
        gateway_stop(&g);
        rt_free(g.last);
        rt_push_last(push, page_of("a 3\n")); /* away once more */
        rt_push_destroy(push);
        assert_int_equal(warnings(), before + 2);
    }
}

/* A gateway that never answers: the caller never waits but at the end, and there no longer than the limit, whatever was
 * under way. */
static void silence(void **state)
{
    const uint64_t limit_ns = 2 * RT_S, soon_ns = 1500 * RT_MS;
    struct gateway g;

    (void)state;
    gateway_start(&g, 0, NULL);
    for (int under_way = 0; under_way < 2; under_way++) {
        struct rt_push *push = push_to(g.port, under_way ? 60 * RT_S : limit_ns);
        int before = atomic_load(&g.requests);
        uint64_t begun = rt_now_ns();

        rt_push_give(push, page_of("a 1\n"));
        assert_true(rt_now_ns() - begun < soon_ns);
        for (int i = 0; i < 20000 && atomic_load(&g.requests) == before; i++)
            usleep(1000);
        assert_int_equal(atomic_load(&g.requests), before + 1);
        begun = rt_now_ns();
        if (under_way) { /* nothing to wait for: what was under way is given up */
            rt_push_destroy(push);
            assert_true(rt_now_ns() - begun < 20 * RT_S);
            continue;
        }
        rt_push_last(push, page_of("a 2\n"));
        assert_true(rt_now_ns() - begun < soon_ns);
        rt_push_destroy(push);
        assert_true(rt_now_ns() - begun >= limit_ns / 2);
        assert_true(rt_now_ns() - begun < 20 * RT_S);
    }
    gateway_stop(&g);
    rt_free(g.last);
}

/* Pages that come faster than they go: the newest is what is sent. */
static void newest_wins(void **state)
{
    struct gateway g;
    char text[32];

    (void)state;
    gateway_start(&g, 0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    struct rt_push *push = push_to(g.port, 0);
    for (int i = 0; i < 1000; i++) {
        snprintf(text, sizeof(text), "saffron_a %d\n", i);
        rt_push_give(push, page_of(text));
    }
    rt_push_last(push, page_of("saffron_a 1000\n"));
    rt_push_destroy(push);
    gateway_stop(&g);
    assert_true(atomic_load(&g.requests) >= 1 && atomic_load(&g.requests) < 1001);
    assert_non_null(strstr(g.last, "\r\n\r\nsaffron_a 1000\n"));
    rt_free(g.last);
}

static void nothing_given(void **state)
{
    struct rt_push *push = push_to(free_port(), 0);
    uint64_t before = warnings();

    (void)state;
    rt_push_destroy(push);
    rt_push_destroy(NULL);
    assert_int_equal(warnings(), before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(addresses),   cmocka_unit_test(pages_arrive),
        cmocka_unit_test(silence),     cmocka_unit_test(trouble_is_told_once),
        cmocka_unit_test(newest_wins), cmocka_unit_test(nothing_given),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
