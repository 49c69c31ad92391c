/* tests/e2e/faults.c -- what faults.sh runs beside the roles: a job whose rows count, the proxy, the count.
 *
 *   faults make DIR                                        the job's files (tests/lib/oracle.h)
 *   faults proxy SEED FAULTS PER_SECOND PORT...            until SIGTERM; then a line of what was done
 *   faults check DIR NAME SERVERS WORKERS PORT... [SET...] rows of running servers; exit status 1: not all are right
 *
 * Roles listen on 127.0.0.1 and tell their peers 127.0.0.2, where the proxy listens on the same ports: so no role knows
 * of it, and what it stands between is real TCP. `check` asks the servers themselves. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"
#include "runtime/net/loop.h"
#include "runtime/net/near.h"
#include "tests/lib/oracle.h"
#include "tests/lib/proxy.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PORTS_MAX  64
#define EPOCH_ROWS 8192

static const struct oracle_shape shape = {.rows = EPOCH_ROWS,
                                          .users = 400,
                                          .items = 210,
                                          .splits = 8,
                                          .block_rows = 64,
                                          .batch_size = 64};

static volatile sig_atomic_t stopped;

static void on_stop(int number)
{
    (void)number;
    stopped = 1;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "faults: %s: %s\n", what, rt_err_text());
    exit(1);
}

static uint16_t port_of(const char *text)
{
    unsigned long port = strtoul(text, NULL, 10);

    if (port == 0 || port > UINT16_MAX) {
        fprintf(stderr, "faults: '%s' is no port\n", text);
        exit(2);
    }
    return (uint16_t)port;
}

/* ---- the proxy ---- */

static uint64_t total(const struct proxy *proxy)
{
    uint64_t sum = 0;

    for (int k = 0; k < PROXY_FAULTS; k++)
        sum += proxy_count(proxy, (enum proxy_fault)k);
    return sum;
}

static void tell(const struct proxy *proxy)
{
    printf("faults %" PRIu64 " connections %" PRIu64, total(proxy), proxy_connections(proxy));
    for (int k = 0; k < PROXY_FAULTS; k++)
        printf(" %s %" PRIu64, proxy_fault_name((enum proxy_fault)k),
               proxy_count(proxy, (enum proxy_fault)k));
    printf("\n");
}

static int run_proxy(char **argv)
{
    uint64_t seed = strtoull(argv[0], NULL, 10), faults = strtoull(argv[1], NULL, 10);
    uint64_t pause_ns = RT_S / strtoull(argv[2], NULL, 10), next_ns = rt_now_ns() + RT_S;
    uint64_t key = rt_draw_key(seed, "faults", NULL), draws = 0;
    struct proxy *proxy;

    if (proxy_create(&(struct proxy_conf){.seed = seed}, &proxy) != 0)
        die("the proxy");
    for (char **port = argv + 3; *port; port++)
        if (proxy_add(proxy, "127.0.0.2", port_of(*port), "127.0.0.1", port_of(*port)) < 0) {
            fprintf(stderr, "faults: cannot listen on 127.0.0.2:%s\n", *port);
            return 1;
        }
    signal(SIGTERM, on_stop);
    while (!stopped) {
        proxy_turn(proxy, 1);
        if (rt_now_ns() < next_ns || total(proxy) >= faults)
            continue;
        proxy_fault(proxy, (enum proxy_fault)rt_below(rt_draw(key, draws++), PROXY_FAULTS));
        next_ns = rt_now_ns() + rt_below(rt_draw(key, draws++), 2 * pause_ns);
    }
    tell(proxy);
    proxy_destroy(proxy);
    return 0;
}

/* ---- the count ---- */

static void on_done(void *arg)
{
    rt_loop_stop(arg);
}

static int check(char **argv)
{
    char text[PORTS_MAX][RT_ADDRESS_MAX];
    const char *address[PORTS_MAX];
    struct oracle_conf conf = {.servers = (uint32_t)strtoul(argv[2], NULL, 10),
                               .workers = (uint32_t)strtoul(argv[3], NULL, 10),
                               .address = address,
                               .done = on_done};
    struct rt_job_source source = {.folder = argv[0], .name = argv[1]};
    struct oracle_result r;
    struct oracle *oracle;
    struct rt_loop *loop;
    struct rt_job *job;
    uint32_t n = conf.servers * conf.workers;

    rt_assert(n <= PORTS_MAX);
    for (uint32_t i = 0; i < n; i++) {
        if (!argv[4 + i])
            die("fewer ports than owners");
        snprintf(text[i], sizeof(text[i]), "tcp:127.0.0.1:%u", (unsigned)port_of(argv[4 + i]));
        address[i] = text[i];
    }
    source.set = (const char *const *)&argv[4 + n];
    while (source.set[source.n_set])
        source.n_set++;
    if (rt_job_load(&source, &job) != 0 ||
        rt_loop_create(&(struct rt_loop_conf){.name = "check", .pool_budget = 64 << 20}, &loop) !=
            0)
        die("check");
    rt_log_set_level(RT_LOG_ERROR);
    rt_near_set(false);
    conf.io = rt_loop_io(loop);
    conf.job = job;
    conf.steps_are_equal = job->global.mode == RT_MODE_ASYNC;
    conf.arg = loop;
    oracle_start(&conf, &oracle);
    if (rt_loop_run(loop) != 0)
        die("the loop");
    oracle_result(oracle, &r);
    printf("rows %" PRIu64 " applications %" PRIu64 " lost %" PRIu64 " doubled %" PRIu64
           " odd %" PRIu64 " %s\n",
           r.rows, r.expected, r.lost, r.doubled, r.odd, r.first);
    return r.rows == 0 || r.lost || r.doubled || r.odd; /* the kernel takes the rest */
}

int main(int argc, char **argv)
{
    if (argc == 3 && strcmp(argv[1], "make") == 0) {
        oracle_write(argv[2], &shape);
        return 0;
    }
    if (argc >= 6 && strcmp(argv[1], "proxy") == 0)
        return run_proxy(argv + 2);
    if (argc >= 7 && strcmp(argv[1], "check") == 0)
        return check(argv + 2);
    fputs("Usage: faults make DIR | proxy SEED FAULTS PER_SECOND PORT... | check DIR NAME "
          "SERVERS WORKERS PORT... [SET...]\n",
          stderr);
    return 2;
}
