/* runtime/admin/admin.h -- the admin port: /metrics /healthz /readyz /status, read-only, GET only.
 *
 * libmicrohttpd in epoll mode inside the control loop (its descriptor in a uv_poll): no thread. Own
 * state only, never the peers'. */
#ifndef RT_ADMIN_H
#define RT_ADMIN_H

#include "runtime/admin/metrics.h"
#include "runtime/net/loop.h"

struct rt_admin;

struct rt_admin_conf {
    struct rt_loop *loop;
    const char *bind; /* "127.0.0.1" */
    uint16_t port;    /* 0: a free one */
    const struct rt_metrics *metrics;
    void *ctx;
    int (*ready)(void *ctx);                           /* /readyz: 200 or 503 */
    void (*status)(void *ctx, struct rt_strbuf *json); /* /status: one JSON object */
};

/* RT_EFILE with the port when it is taken. */
int rt_admin_create(const struct rt_admin_conf *conf, struct rt_admin **out);
void rt_admin_destroy(struct rt_admin *admin);
uint16_t rt_admin_port(const struct rt_admin *admin);

#endif
