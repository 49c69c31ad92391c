/* runtime/member/bus.h -- NATS as this folder sees it: publish, subscribe, messages on the loop.
 *
 * The library has threads of its own. Its callbacks only put messages into a bounded inbox and wake the
 * loop; everything declared here runs on the loop. What is published goes through a bounded outbox to a
 * thread that sends: NATS never holds the loop. Nothing is published while NATS is away. */
#ifndef RT_BUS_H
#define RT_BUS_H

#include "runtime/net/loop.h"

#define RT_BUS_URL_MAX      1024
#define RT_BUS_INBOX_MAX    1024 /* messages that wait for the loop; more are lost, and counted */
#define RT_BUS_OUTBOX_MAX   64   /* messages that wait to be sent; more are refused */
#define RT_BUS_SUBJECTS_MAX 16   /* subscriptions */
#define RT_BUS_MESSAGE_MAX  (1u << 20)

struct rt_bus;

/* Valid during the callback. reply: where an answer goes, or NULL. */
struct rt_bus_message {
    const char *subject, *reply;
    const uint8_t *data;
    size_t size;
    uint64_t arrived_ns; /* monotonic */
};

struct rt_bus_conf {
    struct rt_loop *loop;
    const char *url, *name; /* name: what the server lists the connection as */
    void *ctx;
    void (*message)(void *ctx, const struct rt_bus_message *message);
    void (*change)(void *ctx, bool connected);
};

/* RT_EUSAGE for a URL that cannot be used. Otherwise 0, connected or not: it keeps trying for ever. */
int rt_bus_create(const struct rt_bus_conf *conf, struct rt_bus **out);
void rt_bus_destroy(struct rt_bus *bus); /* NULL is legal */
/* For as long as the bus lives, whatever becomes of connections. Takes effect before what is published later. */
int rt_bus_subscribe(struct rt_bus *bus, const char *subject);
/* 0: on its way, at once or never. RT_ENATS while away, or when the outbox is full: nothing is kept for later. */
int rt_bus_publish(struct rt_bus *bus, const char *subject, const void *data, size_t size);
bool rt_bus_connected(const struct rt_bus *bus);
uint64_t rt_bus_lost(const struct rt_bus *bus); /* messages for which the inbox had no room */

/* `url` without user and password, for logs and errors. Returns out. */
const char *rt_bus_shown_url(const char *url, char *out, size_t size);

#endif
