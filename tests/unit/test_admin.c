/* tests/unit/test_admin.c -- the admin page over real sockets; its loop runs on a thread of its own. */
#include "runtime/admin/admin.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <cmocka.h>

static struct rt_loop *loop;
static struct rt_metrics *metrics;
static struct rt_admin *admin;
static atomic_int ready;
static _Atomic uint64_t rows = 42;

static int is_ready(void *ctx)
{
    (void)ctx;
    return ready;
}

static void status(void *ctx, struct rt_strbuf *json)
{
    rt_strbuf_addf(json, "{\"who\":\"%s\"}\n", (const char *)ctx);
}

static int start(void **state)
{
    struct rt_loop_conf loop_conf = {.name = "test", .pool_budget = 1 << 20};
    struct rt_admin_conf conf = {
        .bind = "127.0.0.1", .ctx = "me", .ready = is_ready, .status = status};

    (void)state;
    if (rt_loop_create(&loop_conf, &loop) != 0)
        return -1;
    metrics = rt_metrics_create();
    rt_metrics_u64(metrics, RT_COUNTER, "rows_total", NULL, "rows", &rows);
    conf.loop = loop;
    conf.metrics = metrics;
    if (rt_admin_create(&conf, &admin) != 0)
        return -1;
    return rt_loop_start_thread(loop);
}

static int stop(void **state)
{
    (void)state;
    rt_loop_stop(loop);
    rt_loop_join(loop);
    rt_admin_destroy(admin);
    rt_loop_destroy(loop);
    rt_metrics_destroy(metrics);
    return 0;
}

static int connect_to(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval limit = {.tv_sec = 5};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    a.sin_port = htons(port);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

/* Send a request, read until the server closes; the answer as text. */
static void ask(const char *request, size_t size, char *out, size_t out_size)
{
    int fd = connect_to(rt_admin_port(admin));
    size_t at = 0;
    ssize_t n;

    (void)!send(fd, request, size, MSG_NOSIGNAL);
    while (at + 1 < out_size && (n = recv(fd, out + at, out_size - 1 - at, 0)) > 0)
        at += (size_t)n;
    out[at] = '\0';
    close(fd);
}

#define CLOSE " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"

static void pages(void **state)
{
    static const struct {
        const char *request;
        int ready;
        const char *want[3]; /* each is in the answer */
        const char * not ;   /* and this is not */
    } row[] = {
        {"GET /metrics" CLOSE, 0, {"200 OK", "version=0.0.4", "\nrows_total 42\n"}, "me"},
        {"GET /status" CLOSE, 0, {"200 OK", "application/json", "{\"who\":\"me\"}"}, "rows"},
        {"GET /healthz" CLOSE, 0, {"200 OK", "ok\n", ""}, "ready"},
        {"GET /readyz" CLOSE, 0, {"503", "not ready\n", ""}, "200"},
        {"GET /readyz" CLOSE, 1, {"200 OK", "\r\n\r\nready\n", ""}, "not"},
        {"HEAD /status" CLOSE, 0, {"200 OK", "Content-Length: 13", ""}, "who"},
        {"GET /status?x=1" CLOSE, 0, {"200 OK", "who", ""}, "404"},
        {"GET /" CLOSE, 0, {"404", "there are /metrics", ""}, "200"},
        {"GET /../etc/passwd" CLOSE, 0, {"404", "", ""}, "root"},
        {"DELETE /status" CLOSE, 0, {"405", "Allow: GET, HEAD", ""}, "who"},
        {"POST /status HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
         0,
         {"405", "GET and HEAD only", ""},
         "who"},
        {"GET /status HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 0, {"", "", ""}, "who"},
        {"nonsense\r\n\r\n", 0, {"", "", ""}, "200"},
    };
    char answer[4096];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        ready = row[i].ready;
        ask(row[i].request, strlen(row[i].request), answer, sizeof(answer));
        for (size_t j = 0; j < ARRAY_LEN(row[i].want); j++) {
            if (!strstr(answer, row[i].want[j]))
                fail_msg("row %zu: no '%s' in '%s'", i, row[i].want[j], answer);
        }
        if (strstr(answer, row[i].not ))
            fail_msg("row %zu: '%s' in '%s'", i, row[i].not, answer);
    }
}

/* One connection serves many requests; a header that never ends is cut off. */
static void long_requests(void **state)
{
    char answer[4096], *huge = malloc(200000);
    size_t n = (size_t)snprintf(huge, 64, "GET /status HTTP/1.1\r\nHost: x\r\nX: ");
    int fd = connect_to(rt_admin_port(admin));

    (void)state;
    for (int i = 0; i < 20; i++) {
        static const char request[] = "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
        ssize_t got;

        assert_int_equal(send(fd, request, sizeof(request) - 1, MSG_NOSIGNAL), sizeof(request) - 1);
        got = recv(fd, answer, sizeof(answer) - 1, 0);
        assert_true(got > 0);
        answer[got] = '\0';
        assert_non_null(strstr(answer, "200 OK"));
    }
    close(fd);
    memset(huge + n, 'a', 200000 - n);
    ask(huge, 200000, answer, sizeof(answer));
    assert_null(strstr(answer, "200 OK"));
    free(huge);
}

/* Forty connections that say nothing: more than are let in. The page comes back once it is seen that they are gone. */
static void many_silent(void **state)
{
    static const char request[] = "GET /healthz" CLOSE;
    char answer[1024] = "";
    int fd[40];

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(fd); i++)
        fd[i] = connect_to(rt_admin_port(admin));
    usleep(20000);
    for (size_t i = 0; i < ARRAY_LEN(fd); i++)
        close(fd[i]);
    for (int i = 0; i < 1000 && !strstr(answer, "200 OK"); i++) {
        usleep(20000);
        ask(request, sizeof(request) - 1, answer, sizeof(answer));
    }
    assert_non_null(strstr(answer, "200 OK"));
}

static void refused(void **state)
{
    struct rt_admin_conf conf = {
        .loop = loop, .bind = "127.0.0.1", .metrics = metrics, .ready = is_ready, .status = status};
    struct rt_admin *second;

    (void)state;
    conf.port = rt_admin_port(admin);
    assert_int_equal(rt_admin_create(&conf, &second), -EADDRINUSE);
    assert_non_null(strstr(rt_err_text(), "Address already in use"));
    conf.bind = "localhost";
    assert_int_equal(rt_admin_create(&conf, &second), RT_EUSAGE);
    rt_admin_destroy(NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages),
        cmocka_unit_test(long_requests),
        cmocka_unit_test(many_silent),
        cmocka_unit_test(refused),
    };

    return cmocka_run_group_tests(tests, start, stop);
}
