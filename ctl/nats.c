/* ctl/nats.c -- find a free port, start nats-server there, wait for its first word.
 *
 * The port is found by binding to port 0 and letting go, so another process may take it in between: then
 * nats-server ends at once, and the next port is tried. It has to stay the same over restarts of the
 * server, since its URL is in the command line of every role. */
#include "ctl/nats.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_TRIES 5
#define ANSWER_MS  5000
#define PAUSE_MS   20
#define QUICK_MS   1000 /* it ends sooner than this: it cannot run here, most likely */
#define QUICK_MAX  20   /* such ends in a row: the run fails */
#define AGAIN_MS   200  /* before it is started after one */

static int free_port(uint16_t *out)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(at);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int err = 0;

    if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0)
        err = RT_FAIL(-errno, "no free port on 127.0.0.1 for nats-server: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    *out = ntohs(at.sin_port);
    return err;
}

/* A NATS server speaks first, and its first word is INFO. */
static bool answers(uint16_t port)
{
    struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)};
    struct timeval wait = {.tv_usec = 500000};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    char word[4] = "";
    bool ok;

    if (fd < 0)
        return false;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
    ok = connect(fd, (struct sockaddr *)&at, sizeof(at)) == 0 &&
         recv(fd, word, sizeof(word), MSG_WAITALL) == sizeof(word) && memcmp(word, "INFO", 4) == 0;
    close(fd);
    return ok;
}

/* RT_EFULL: it ended at once, most likely because the port was taken meanwhile. */
static int start_at(struct ctl_nats *nats, uint16_t port)
{
    uint64_t deadline = rt_now_ns() + ANSWER_MS * RT_MS;
    const struct timespec pause = {.tv_nsec = PAUSE_MS * 1000000};
    char last[256], how[80];
    int err = ctl_child_start(&nats->child);

    while (!err && !answers(port)) {
        if (ctl_child_reap(&nats->child)) {
            if (WIFEXITED(nats->child.status) &&
                WEXITSTATUS(nats->child.status) == CTL_CHILD_NO_PROGRAM)
                return RT_FAIL(RT_ENATS, "nats-server cannot be started: is it installed "
                                         "(scripts/deps.sh build), and in PATH?");
            ctl_child_how(&nats->child, how, sizeof(how));
            ctl_log_last_error(nats->child.log_path, nats->child.log_from, last, sizeof(last));
            return RT_FAIL(RT_EFULL, "nats-server %s: %s", how, last);
        }
        if (rt_now_ns() > deadline)
            return RT_FAIL(RT_ENATS, "nats-server does not answer on port %u after %d s; log: %s",
                           port, ANSWER_MS / 1000, nats->child.log_path);
        nanosleep(&pause, NULL);
    }
    return err;
}

static int find_place(struct ctl_nats *nats, const char *run_dir)
{
    int err = RT_EFULL;

    for (int i = 0; i < PORT_TRIES && err == RT_EFULL; i++) {
        struct ctl_child *child = &nats->child;
        uint16_t port;
        char text[16];

        ctl_child_release(child);
        err = free_port(&port);
        if (err)
            break;
        snprintf(text, sizeof(text), "%u", port);
        snprintf(nats->url, sizeof(nats->url), "nats://127.0.0.1:%u", port);
        snprintf(child->name, sizeof(child->name), "nats");
        child->log_path = rt_path_join(run_dir, "logs/nats.log");
        child->pid_path = rt_path_join(run_dir, "pids/nats");
        ctl_child_arg(child, "nats-server");
        ctl_child_arg(child, "--addr");
        ctl_child_arg(child, "127.0.0.1");
        ctl_child_arg(child, "--port");
        ctl_child_arg(child, text);
        err = start_at(nats, port);
    }
    return err;
}

int ctl_nats_start(struct ctl_nats *nats, const struct ctl_nats_conf *conf)
{
    nats->conf = *conf;
    uv_timer_init(conf->loop, &nats->again);
    nats->again.data = nats;
    nats->started_ns = rt_now_ns();
    return find_place(nats, conf->run_dir);
}

static void on_again(uv_timer_t *timer)
{
    struct ctl_nats *nats = timer->data;

    nats->started_ns = rt_now_ns();
    if (!nats->stopping && ctl_child_start(&nats->child) != 0)
        nats->conf.failed(nats->conf.ctx, 1, rt_xasprintf("nats-server: %s", rt_err_text()));
}

void ctl_nats_reap(struct ctl_nats *nats)
{
    bool quick = rt_now_ns() - nats->started_ns < QUICK_MS * RT_MS;
    char how[80];

    if (!ctl_child_reap(&nats->child) || nats->stopping)
        return;
    ctl_child_how(&nats->child, how, sizeof(how));
    nats->quick = quick ? nats->quick + 1 : 0;
    if (nats->quick > QUICK_MAX) {
        nats->conf.failed(nats->conf.ctx, 1,
                          rt_xasprintf("nats-server %s, %u times in a row within %d ms of its "
                                       "start; its log: %s",
                                       how, nats->quick, QUICK_MS, nats->child.log_path));
        return;
    }
    ctl_progress_say(nats->conf.progress, "nats-server %s; starting it again", how);
    uv_timer_start(&nats->again, on_again, quick ? AGAIN_MS : 0, 0);
}

void ctl_nats_stop(struct ctl_nats *nats)
{
    nats->stopping = true;
}
