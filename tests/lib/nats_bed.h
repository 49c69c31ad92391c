/* tests/lib/nats_bed.h -- for tests with NATS: a loop that runs until something is so, a nats-server of the test's
 * own, and a free port to pretend to be one at.
 *
 *     cmocka_unit_test_setup_teardown(test, bed_set_up, bed_tear_down)
 *     struct nats_server server = {0};
 *     NEED_SERVER(&server);              skips the test where nats-server is not installed
 *     ... bed_run_until(is_so, &what, BED_WAIT_NS) ...
 *     nats_kill(&server); */
#ifndef TEST_NATS_BED_H
#define TEST_NATS_BED_H

#include "runtime/base/clock.h"
#include "runtime/net/loop.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define BED_WAIT_NS (10 * RT_S) /* for things that take well below a second each */

extern struct rt_loop *bed_loop;
extern bool bed_threaded; /* it runs on its own thread, which bed_tear_down ends */
int bed_set_up(void **state);
int bed_tear_down(void **state);
/* Run the loop until is_so(arg), asked every 5 ms: true. false after limit_ns. */
bool bed_run_until(bool (*is_so)(void *arg), void *arg, uint64_t limit_ns);
bool bed_never(void *arg);

/* A socket that listens on a free port of the loopback. */
int bed_listen_any(uint16_t *port);

struct nats_server {
    pid_t pid;
    uint16_t port; /* 0: nats_start chooses */
    char url[64];
};
bool nats_is_installed(void);
void nats_start(struct nats_server *server); /* returns when it answers */
void nats_kill(struct nats_server *server);

#define NEED_SERVER(server)                                                                        \
    do {                                                                                           \
        if (!nats_is_installed()) {                                                                \
            print_message("nats-server is not installed\n");                                       \
            skip();                                                                                \
        }                                                                                          \
        nats_start(server);                                                                        \
    } while (0)

#endif
