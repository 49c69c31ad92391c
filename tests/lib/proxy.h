/* tests/lib/proxy.h -- a TCP proxy of the data plane that does to connections what networks do.
 *
 *     proxy_create(&(struct proxy_conf){.seed = 1}, &proxy);
 *     proxy_add(proxy, "127.0.0.2", 7100, "127.0.0.1", 7100);   as many as there are listeners
 *     for (;;) { proxy_turn(proxy, 20); proxy_fault(proxy, kind); ... }
 *
 * One thread, poll(2). It knows frames, so that a fault can be of one: what comes is passed on frame by frame. It
 * changes no byte, and adds and leaves out none but as the kinds say: a TCP connection that loses or doubles bytes and
 * lives is none, so whatever is swallowed is followed by the connection's end.
 * Seeded: the order of kinds and what they draw come back with a seed, the network's timing does not. */
#ifndef TEST_PROXY_H
#define TEST_PROXY_H

#include <stdbool.h>
#include <stdint.h>

enum proxy_fault {
    PROXY_DELAY, /* one direction is held for up to 150 ms; other connections pass it by */
    PROXY_DROP, /* what comes one way is swallowed, and up to 50 ms later the connection is reset */
    PROXY_DUPLICATE, /* the next request is sent twice */
    PROXY_REPLAY,    /* handshake and latest requests again, on a connection of their own */
    PROXY_TRUNCATE,  /* the next frame ends in the middle, and the connection with it */
    PROXY_RESET,     /* RST to both ends */
    PROXY_HALF_OPEN, /* one end is reset, or none; the others hear nothing more, until they give up */
    PROXY_FAULTS
};
const char *proxy_fault_name(enum proxy_fault kind);

struct proxy_conf {
    uint64_t seed;
};

struct proxy;
int proxy_create(const struct proxy_conf *conf, struct proxy **out);
/* Listen at one address (IPv4; port 0: a free one) and connect what comes to another. The port, or < 0: it cannot be
 * listened at. */
int proxy_add(struct proxy *proxy, const char *listen, uint16_t port, const char *to,
              uint16_t to_port);
/* Pass on what has come, for about so long. */
void proxy_turn(struct proxy *proxy, int ms);
/* At a connection that is drawn from those that carry something. false: there is none now. */
bool proxy_fault(struct proxy *proxy, enum proxy_fault kind);
/* Faults that have happened: one of the next frame counts when that has come. */
uint64_t proxy_count(const struct proxy *proxy, enum proxy_fault kind);
uint64_t proxy_connections(const struct proxy *proxy); /* ever */
void proxy_destroy(struct proxy *proxy);

#endif
