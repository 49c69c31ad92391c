/* runtime/admin/admin.c -- the admin port.
 *
 * libmicrohttpd without threads: its epoll descriptor is watched by a uv_poll of the control loop, its
 * time-outs are a timer there, and MHD_run() does whatever is due. The pages are small and made at once.
 * The listening socket is ours, so that a port that is taken is told apart from other trouble and port 0
 * tells what it became.
 *
 * Strangers may connect: 32 connections, 10 s of silence, 16 KiB of request, no bodies, GET and HEAD. */
#include "runtime/admin/admin.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>

#define CONNECTIONS_MAX   32u
#define SILENCE_MAX_S     10u
#define REQUEST_BYTES_MAX ((size_t)16 << 10)
#define BACKLOG           64

struct rt_admin {
    struct rt_loop *loop;
    const struct rt_metrics *metrics;
    void *ctx;
    int (*ready)(void *ctx);
    void (*status)(void *ctx, struct rt_strbuf *json);
    struct MHD_Daemon *daemon;
    uint16_t port;
    uv_poll_t poll;        /* the admin is freed in its close callback */
    struct rt_timer timer; /* libmicrohttpd's next time-out */
};

/* ---- pages ---- */

static enum MHD_Result reply(struct MHD_Connection *connection, unsigned code, const char *type,
                             struct rt_strbuf *page)
{
    size_t size = page->len;
    char *text = rt_strbuf_detach(page);
    struct MHD_Response *response =
        MHD_create_response_from_buffer_with_free_callback(size, text, rt_free);
    enum MHD_Result result;

    if (!response) {
        rt_free(text);
        return MHD_NO;
    }
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
    if (code == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET, HEAD");
    result = MHD_queue_response(connection, code, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result reply_text(struct MHD_Connection *connection, unsigned code,
                                  const char *text)
{
    struct rt_strbuf page;

    rt_strbuf_init(&page);
    rt_strbuf_addf(&page, "%s\n", text);
    return reply(connection, code, "text/plain; charset=utf-8", &page);
}

static enum MHD_Result serve(struct rt_admin *admin, struct MHD_Connection *connection,
                             const char *path)
{
    struct rt_strbuf page;

    rt_strbuf_init(&page);
    if (strcmp(path, "/metrics") == 0) {
        rt_metrics_print(admin->metrics, &page);
        return reply(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", &page);
    }
    if (strcmp(path, "/status") == 0) {
        admin->status(admin->ctx, &page);
        return reply(connection, MHD_HTTP_OK, "application/json", &page);
    }
    if (strcmp(path, "/healthz") == 0)
        return reply_text(connection, MHD_HTTP_OK, "ok");
    if (strcmp(path, "/readyz") == 0 && admin->ready(admin->ctx))
        return reply_text(connection, MHD_HTTP_OK, "ready");
    if (strcmp(path, "/readyz") == 0)
        return reply_text(connection, MHD_HTTP_SERVICE_UNAVAILABLE, "not ready");
    return reply_text(connection, MHD_HTTP_NOT_FOUND,
                      "no such page; there are /metrics /healthz /readyz /status");
}

static enum MHD_Result on_request(void *arg, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *upload,
                                  size_t *upload_size, void **request)
{
    (void)version;
    (void)upload;
    if (*upload_size > 0)
        return MHD_NO; /* closes the connection: there is no page that takes a body */
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return reply_text(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "GET and HEAD only");
    if (!*request) {
        *request = arg; /* headers are in; asked again after the body, which is to be empty */
        return MHD_YES;
    }
    return serve(arg, connection, path);
}

/* ---- the loop ---- */

static void run(struct rt_admin *admin)
{
    MHD_UNSIGNED_LONG_LONG wait_ms;

    /* Twice: with all connections taken the library stops to listen, and starts again at the beginning of
     * the run after the one that saw some of them end. Nothing else would wake us for that. */
    MHD_run(admin->daemon);
    MHD_run(admin->daemon);
    if (MHD_get_timeout(admin->daemon, &wait_ms) == MHD_YES)
        rt_timer_start(rt_loop_io(admin->loop), &admin->timer, (uint64_t)wait_ms * 1000000ull);
    else
        rt_timer_stop(rt_loop_io(admin->loop), &admin->timer);
}

static void on_timer(void *arg)
{
    run(arg);
}

static void on_poll(uv_poll_t *poll, int status, int events)
{
    struct rt_admin *admin = poll->data;

    rt_loop_woke(admin->loop);
    (void)status;
    (void)events;
    run(admin);
}

static void on_closed(uv_handle_t *handle)
{
    rt_free(handle->data);
}

/* ---- start and end ---- */

/* A listening socket on bind:port; *got is the port that it has. */
static int listen_on(const char *bind_to, uint16_t port, int *out, uint16_t *got)
{
    struct sockaddr_in6 six = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
    struct sockaddr_in four = {.sin_family = AF_INET, .sin_port = htons(port)};
    bool is_six = inet_pton(AF_INET6, bind_to, &six.sin6_addr) == 1;
    struct sockaddr *address = is_six ? (struct sockaddr *)&six : (struct sockaddr *)&four;
    socklen_t size = is_six ? sizeof(six) : sizeof(four);
    int fd, one = 1;

    if (!is_six && inet_pton(AF_INET, bind_to, &four.sin_addr) != 1)
        return RT_FAIL(RT_EUSAGE, "admin: '%s' is not an IP address", bind_to);
    fd = socket(address->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return RT_FAIL(RT_EFILE, "admin: no socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, address, size) != 0 || listen(fd, BACKLOG) != 0 ||
        getsockname(fd, address, &size) != 0) {
        int err = RT_FAIL(-errno, "admin: cannot listen on %s port %u: %s", bind_to, port,
                          strerror(errno));
        close(fd);
        return err;
    }
    *got = ntohs(is_six ? six.sin6_port : four.sin_port);
    *out = fd;
    return 0;
}

/* Takes the socket, also on error. */
static int start_daemon(struct rt_admin *admin, int fd)
{
    const union MHD_DaemonInfo *info;
    int err;

    admin->daemon = MHD_start_daemon(
        MHD_USE_EPOLL, 0, NULL, NULL, on_request, admin, MHD_OPTION_LISTEN_SOCKET, fd,
        MHD_OPTION_CONNECTION_LIMIT, CONNECTIONS_MAX, MHD_OPTION_CONNECTION_TIMEOUT, SILENCE_MAX_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, REQUEST_BYTES_MAX, MHD_OPTION_END);
    if (!admin->daemon) {
        close(fd);
        return RT_FAIL(RT_EFILE, "admin: HTTP server on port %u did not start", admin->port);
    }
    info = MHD_get_daemon_info(admin->daemon, MHD_DAEMON_INFO_EPOLL_FD);
    rt_assert(info);
    err = uv_poll_init(rt_loop_uv(admin->loop), &admin->poll, info->epoll_fd);
    if (err) {
        MHD_stop_daemon(admin->daemon);
        return RT_FAIL(err, "admin: cannot watch port %u: %s", admin->port, uv_strerror(err));
    }
    admin->poll.data = admin;
    err = uv_poll_start(&admin->poll, UV_READABLE, on_poll);
    rt_assert(!err);
    return 0;
}

int rt_admin_create(const struct rt_admin_conf *conf, struct rt_admin **out)
{
    struct rt_admin *admin;
    uint16_t port = 0;
    int fd = -1, err;

    err = listen_on(conf->bind, conf->port, &fd, &port);
    if (err)
        return err;
    admin = rt_xcalloc(1, sizeof(*admin));
    admin->loop = conf->loop;
    admin->metrics = conf->metrics;
    admin->ctx = conf->ctx;
    admin->ready = conf->ready;
    admin->status = conf->status;
    admin->port = port;
    admin->timer.fire = on_timer;
    admin->timer.arg = admin;
    err = start_daemon(admin, fd);
    if (err) {
        rt_free(admin);
        return err;
    }
    *out = admin;
    return 0;
}

void rt_admin_destroy(struct rt_admin *admin)
{
    if (!admin)
        return;
    rt_timer_stop(rt_loop_io(admin->loop), &admin->timer);
    uv_poll_stop(&admin->poll);
    MHD_stop_daemon(admin->daemon);
    uv_close((uv_handle_t *)&admin->poll, on_closed);
}

uint16_t rt_admin_port(const struct rt_admin *admin)
{
    return admin->port;
}
