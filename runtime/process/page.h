/* runtime/process/page.h -- what a process shows of itself: its numbers, the admin port, the push gateway. */
#ifndef RT_PAGE_H
#define RT_PAGE_H

#include "runtime/admin/admin.h"
#include "runtime/base/role.h"

struct rt_page;

/* Texts are the caller's, and live as long as the page. The callbacks come on the loop, or from rt_page_last. */
struct rt_page_conf {
    struct rt_loop *loop; /* the control loop */
    enum rt_role role;
    const char *job;
    uint32_t index;
    const char *bind; /* of the admin port */
    uint16_t port;
    const char *gateway; /* NULL: none */
    void *ctx;
    int (*ready)(void *ctx);
    int (*connected)(void *ctx); /* with NATS */
    void (*status)(void *ctx, struct rt_strbuf *json);
};

/* Opens the admin port, and begins to push where there is a gateway: each 15 s. */
int rt_page_create(const struct rt_page_conf *conf, struct rt_page **out);
/* Takes 2 s at most for the last page. Before the loop goes. NULL is legal. */
void rt_page_destroy(struct rt_page *page);

struct rt_metrics *rt_page_metrics(struct rt_page *page);
uint16_t rt_page_port(const struct rt_page *page);

/* The loop has run, the role's numbers are still there: print the page that the gateway shall keep, and push it
 * meanwhile. */
void rt_page_last(struct rt_page *page);

#endif
