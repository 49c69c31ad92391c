/* tests/lib/nats_bed.c -- see nats_bed.h. */
#include "tests/lib/nats_bed.h"

#include "runtime/base/clock.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

/* ---- a NATS server of our own ---- */

int bed_listen_any(uint16_t *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(fd, 8), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &size), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static bool answers(uint16_t port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool yes;

    a.sin_port = htons(port);
    yes = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
    close(fd);
    return yes;
}

bool nats_is_installed(void)
{
    char *path = strdup(getenv("PATH") ? getenv("PATH") : ""), *at = NULL, file[4096];
    bool found = false;

    for (char *dir = strtok_r(path, ":", &at); dir && !found; dir = strtok_r(NULL, ":", &at)) {
        snprintf(file, sizeof(file), "%s/nats-server", dir);
        found = access(file, X_OK) == 0;
    }
    free(path);
    return found;
}

void nats_start(struct nats_server *server)
{
    char port[16];
    uint64_t end = rt_now_ns() + BED_WAIT_NS;

    if (!server->port)
        close(bed_listen_any(&server->port));
    snprintf(port, sizeof(port), "%u", server->port);
    snprintf(server->url, sizeof(server->url), "nats://127.0.0.1:%s", port);
    server->pid = fork();
    if (server->pid == 0) {
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(null, 1);
        dup2(null, 2);
        execlp("nats-server", "nats-server", "-a", "127.0.0.1", "-p", port, (char *)NULL);
        _exit(127);
    }
    while (!answers(server->port) && rt_now_ns() < end)
        usleep(10000);
    assert_true(answers(server->port));
}

void nats_kill(struct nats_server *server)
{
    kill(server->pid, SIGKILL);
    assert_int_equal(waitpid(server->pid, NULL, 0), server->pid);
}

/* ---- the loop, run until something is so ---- */

struct rt_loop *bed_loop;
bool bed_threaded;

int bed_set_up(void **state)
{
    struct rt_loop_conf conf = {.name = "test", .pool_budget = 1 << 20};

    (void)state;
    return rt_loop_create(&conf, &bed_loop);
}

int bed_tear_down(void **state)
{
    (void)state;
    if (bed_threaded) {
        rt_loop_stop(bed_loop);
        rt_loop_join(bed_loop);
        bed_threaded = false;
    }
    rt_loop_destroy(bed_loop);
    return 0;
}

struct wait {
    struct rt_timer timer;
    bool (*is_so)(void *arg);
    void *arg;
    uint64_t end_ns;
    bool result;
};

static void check_again(void *arg)
{
    struct wait *wait = arg;

    wait->result = wait->is_so(wait->arg);
    if (wait->result || rt_now_ns() > wait->end_ns)
        rt_loop_stop(bed_loop);
    else
        rt_timer_start(rt_loop_io(bed_loop), &wait->timer, 5 * RT_MS);
}

bool bed_run_until(bool (*is_so)(void *arg), void *arg, uint64_t limit_ns)
{
    struct wait wait = {.is_so = is_so, .arg = arg, .end_ns = rt_now_ns() + limit_ns};

    wait.timer.fire = check_again;
    wait.timer.arg = &wait;
    rt_timer_start(rt_loop_io(bed_loop), &wait.timer, 0);
    rt_loop_run(bed_loop);
    rt_timer_stop(rt_loop_io(bed_loop), &wait.timer);
    return wait.result;
}

bool bed_never(void *arg)
{
    (void)arg;
    return false;
}
