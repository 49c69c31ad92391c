/* tests/sim/sim_io.c -- the simulated world.
 *
 * A heap of events by (time, number) drives everything but timers, which each node keeps in the same
 * heap that the real loop uses. */
#include "tests/sim/sim_io.h"
#include "tests/sim/sim_inner.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/net/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define START_NS      1000000000ull
#define WALL_START_MS 1750000000000ull
#define FIRST_PORT    1000

static struct node *node_of(struct rt_io *io)
{
    return (struct node *)io;
}

/* ---- events ---- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

void sim_push(struct sim *sim, struct event ev)
{
    if (sim->count == sim->capacity) {
        sim->capacity = sim->capacity ? 2 * sim->capacity : 64;
        sim->heap = rt_xrealloc(sim->heap, sim->capacity * sizeof(ev));
    }
    ev.seq = sim->next_seq++;
    if (ev.link)
        ev.link->refs++;
    size_t at = sim->count++;
    while (at > 0 && before(&ev, &sim->heap[(at - 1) / 2])) {
        sim->heap[at] = sim->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    sim->heap[at] = ev;
}

static struct event pop_event(struct sim *sim)
{
    struct event top = sim->heap[0], last = sim->heap[--sim->count];
    size_t at = 0, child;
    while ((child = 2 * at + 1) < sim->count) {
        if (child + 1 < sim->count && before(&sim->heap[child + 1], &sim->heap[child]))
            child++;
        if (!before(&sim->heap[child], &last))
            break;
        sim->heap[at] = sim->heap[child];
        at = child;
    }
    sim->heap[at] = last;
    return top;
}

uint64_t sim_draw_delay(struct sim *sim)
{
    uint64_t span = sim->conf.delay_max_ns - sim->conf.delay_min_ns;
    return sim->conf.delay_min_ns + rt_below(rt_draw(sim->draw_key, sim->draws++), span + 1);
}

uint64_t sim_draw_below(struct sim *sim, uint64_t n)
{
    return rt_below(rt_draw(sim->draw_key, sim->draws++), n);
}

/* ---- connecting ---- */

static int parse(const char *address, unsigned *node, unsigned *port)
{
    char *end;
    if (strncmp(address, "sim:", 4) == 0) {
        *node = (unsigned)strtoul(address + 4, &end, 10);
        if (*end == ':') {
            *port = (unsigned)strtoul(end + 1, &end, 10);
            if (*end == '\0' && *node < SIM_NODES_MAX)
                return 0;
        }
    }
    return RT_FAIL(RT_EUSAGE, "address %s: expected sim:NODE:PORT", address);
}

static struct rt_listener *find_listener(struct sim *sim, unsigned node, unsigned port)
{
    struct rt_listener *l = sim->listeners;
    while (l && (l->node->index != node || l->port != port))
        l = l->next;
    return l;
}

static int io_listen(struct rt_io *io, const char *address, rt_accept_fn accept, void *arg,
                     char bound[RT_ADDRESS_MAX], struct rt_listener **out)
{
    struct node *node = node_of(io);
    unsigned index, port;
    int err = parse(address, &index, &port);
    if (err)
        return err;
    if (index != node->index)
        return RT_FAIL(RT_EUSAGE, "listen on %s: this is node %u", address, node->index);
    port = port ? port : node->next_port++;
    if (find_listener(node->sim, index, port))
        return RT_FAIL(RT_EUSAGE, "listen on %s: already in use", address);
    struct rt_listener *l = rt_xmalloc(sizeof(*l));
    *l = (struct rt_listener){node->sim->listeners, node, port, accept, arg};
    node->sim->listeners = l;
    snprintf(bound, RT_ADDRESS_MAX, "sim:%u:%u", index, port);
    *out = l;
    return 0;
}

static void io_unlisten(struct rt_listener *listener)
{
    if (!listener)
        return;
    struct rt_listener **at = &listener->node->sim->listeners;
    while (*at != listener)
        at = &(*at)->next;
    *at = listener->next;
    rt_free(listener);
}

static int io_connect(struct rt_io *io, const char *address, const struct rt_link_events *events,
                      void *arg, struct rt_link **out)
{
    struct node *node = node_of(io);
    struct sim *sim = node->sim;
    unsigned index, port;
    int err = parse(address, &index, &port);
    if (err)
        return err;
    struct rt_link *link = sim_link_new(node, &sim->node[index], address);
    link->port = port;
    link->events = events;
    link->arg = arg;
    link->record = rt_xcalloc(1, sizeof(*link->record));
    uint64_t at = sim->now_ns + sim_draw_delay(sim);
    sim_push(sim, (struct event){.at_ns = at, .kind = EV_ASK_CONNECT, .link = link});
    *out = link;
    return 0;
}

/* A new link at the listener, whose other end is `link`. false: nobody listens. */
bool sim_link_accept(struct rt_link *link)
{
    struct sim *sim = link->node->sim;
    struct rt_listener *listener = find_listener(sim, link->far_node->index, link->port);
    if (!listener)
        return false;
    char name[RT_ADDRESS_MAX];
    snprintf(name, sizeof(name), "sim:%u:0", link->node->index);
    struct rt_link *far = sim_link_new(link->far_node, link->node, name);
    far->state = END_OPEN;
    far->far = link;
    link->far = far;
    link->arrives_ns = sim->now_ns + sim_draw_delay(sim);
    sim_push(sim, (struct event){.at_ns = link->arrives_ns, .kind = EV_UP, .link = link});
    listener->accept(listener->arg, far);
    if (!far->events)
        sim_link_end(far, RT_ECANCELED, "nobody wants it", true);
    return true;
}

/* It takes both ways to connect. */
static bool is_cut(const struct sim *sim, const struct rt_link *link)
{
    unsigned a = link->node->index, b = link->far_node->index;
    return sim->cut[a][b] || sim->cut[b][a];
}

/* The request to connect has reached the other node; while cut, it is lost like a SYN. */
static void ask_connect(struct sim *sim, struct rt_link *link)
{
    if (link->state != END_CONNECTING || is_cut(sim, link))
        return;
    if (!sim_link_accept(link))
        sim_link_end(link, RT_EPEER, "connect: connection refused", false);
}

static void go_up(struct rt_link *link)
{
    if (link->state != END_CONNECTING)
        return;
    link->state = END_OPEN;
    if (link->events->up)
        link->events->up(link->arg);
}

static void go_down(struct rt_link *link)
{
    link->state = END_DONE;
    if (link->events)
        link->events->down(link->arg, link->err, link->why);
    sim_link_unref(link); /* the reference of its life */
}

/* ---- the rest of the io ---- */

static uint64_t io_now_ns(struct rt_io *io)
{
    return node_of(io)->sim->now_ns;
}

static uint64_t io_wall_ms(struct rt_io *io)
{
    const struct node *node = node_of(io);
    return WALL_START_MS + node->sim->now_ns / 1000000 + (uint64_t)node->wall_ahead_ms;
}

static uint64_t io_random(struct rt_io *io)
{
    struct node *node = node_of(io);
    return rt_draw(node->draw_key, node->draws++);
}

static void io_timer_start(struct rt_io *io, struct rt_timer *timer, uint64_t after_ns)
{
    struct node *node = node_of(io);
    uint64_t deadline;
    if (after_ns == 0 && node->sim->conf.turn_ns > 0)
        after_ns = 1 + rt_below(rt_draw(node->draw_key, node->draws++), node->sim->conf.turn_ns);
    if (__builtin_add_overflow(node->sim->now_ns, after_ns, &deadline))
        deadline = UINT64_MAX - 1;
    rt_timers_start(&node->timers, timer, deadline);
}

static void io_timer_stop(struct rt_io *io, struct rt_timer *timer)
{
    rt_timers_stop(&node_of(io)->timers, timer);
}

/* Between run() and done() things happen, as beside a real worker thread. */
static void io_work(struct rt_io *io, struct rt_work *work)
{
    struct node *node = node_of(io);
    uint64_t at = node->sim->now_ns + node->sim->conf.work_ns / 2;
    sim_push(node->sim, (struct event){.at_ns = at, .kind = EV_WORK, .node = node, .work = work});
}

/* run() takes no time here: what it tells is spread over the time until done(). */
static void io_work_tell(struct rt_io *io, struct rt_work *work, uint64_t what)
{
    struct node *node = node_of(io);
    uint64_t left = node->sim->conf.work_ns / 2;
    uint64_t at = node->sim->now_ns + left - left / (++node->tells + 1);
    sim_push(
        node->sim,
        (struct event){.at_ns = at, .kind = EV_TOLD, .node = node, .work = work, .what = what});
}

static void run_work(const struct event *ev)
{
    struct sim *sim = ev->node->sim;
    ev->node->tells = 0;
    ev->work->run(ev->work->arg);
    sim_push(sim, (struct event){.at_ns = sim->now_ns + sim->conf.work_ns / 2,
                                 .kind = EV_WORKED,
                                 .node = ev->node,
                                 .work = ev->work});
}

void sim_forget_work(struct sim *sim, unsigned node)
{
    for (size_t i = 0; i < sim->count; i++)
        if (sim->heap[i].node == &sim->node[node])
            sim->heap[i].work = NULL;
}

static struct rt_pool *io_pool(struct rt_io *io)
{
    return node_of(io)->pool;
}

static const struct rt_io_ops sim_ops = {
    .now_ns = io_now_ns,
    .wall_ms = io_wall_ms,
    .random = io_random,
    .timer_start = io_timer_start,
    .timer_stop = io_timer_stop,
    .listen = io_listen,
    .unlisten = io_unlisten,
    .connect = io_connect,
    .link_set = sim_link_set,
    .link_send = sim_link_send,
    .link_checks = sim_link_checks,
    .link_queued = sim_link_queued,
    .link_watch = sim_link_watch,
    .link_pause = sim_link_pause,
    .link_close = sim_link_close,
    .link_name = sim_link_name,
    .work = io_work,
    .work_tell = io_work_tell,
    .file_open = rt_files_open,
    .file_read = rt_files_read,
    .file_close = rt_files_close,
    .pool = io_pool,
};

/* ---- the world ---- */

struct sim *sim_create(const struct sim_conf *conf)
{
    struct sim *sim = rt_xcalloc(1, sizeof(*sim));
    rt_assert(conf->n_nodes > 0 && conf->n_nodes <= SIM_NODES_MAX);
    sim->conf = *conf;
    if (conf->delay_max_ns == 0) {
        sim->conf.delay_min_ns = 50000;
        sim->conf.delay_max_ns = 500000;
    }
    rt_assert(sim->conf.delay_min_ns <= sim->conf.delay_max_ns);
    sim->conf.work_ns = conf->work_ns ? conf->work_ns : 1000000;
    sim->now_ns = START_NS;
    sim->draw_key = rt_draw_key(conf->seed, "network", NULL);
    for (unsigned i = 0; i < conf->n_nodes; i++) {
        struct node *node = &sim->node[i];
        node->io.ops = &sim_ops;
        node->sim = sim;
        node->index = i;
        node->next_port = FIRST_PORT;
        rt_timers_init(&node->timers);
        node->pool = rt_pool_create(conf->pool_budget ? conf->pool_budget : (size_t)256 << 20);
        node->draw_key = rt_draw_fold(rt_draw_key(conf->seed, "node", NULL), i);
    }
    return sim;
}

/* Whoever owned a link is gone: its end is heard by nobody. */
static void drop_links(struct sim *sim)
{
    for (struct rt_link *link = sim->links; link; link = link->next)
        sim_link_set(link, NULL, NULL);
    while (sim->count) {
        struct event ev = pop_event(sim);
        if (ev.kind == EV_DOWN)
            go_down(ev.link);
        if (ev.link)
            sim_link_unref(ev.link);
    }
    rt_assert(!sim->links);
}

void sim_destroy(struct sim *sim)
{
    if (!sim)
        return;
    drop_links(sim);
    while (sim->listeners)
        io_unlisten(sim->listeners);
    for (unsigned i = 0; i < sim->conf.n_nodes; i++) {
        rt_timers_release(&sim->node[i].timers);
        rt_pool_destroy(sim->node[i].pool);
    }
    rt_free(sim->heap);
    rt_free(sim);
}

struct rt_io *sim_node(struct sim *sim, unsigned node)
{
    rt_assert(node < sim->conf.n_nodes);
    return &sim->node[node].io;
}

uint64_t sim_now(const struct sim *sim)
{
    return sim->now_ns;
}

uint64_t sim_digest(const struct sim *sim)
{
    return sim->digest;
}

static void run_event(struct sim *sim, const struct event *ev)
{
    switch (ev->kind) {
    case EV_ASK_CONNECT:
        ask_connect(sim, ev->link);
        break;
    case EV_UP:
        go_up(ev->link);
        break;
    case EV_DELIVER:
        sim_link_deliver(sim, ev->link);
        break;
    case EV_DOWN:
        go_down(ev->link);
        break;
    case EV_DRAINED:
        if (ev->link->state == END_OPEN)
            ev->link->events->drained(ev->link->arg);
        break;
    case EV_WAKE:
        ev->link->asleep = false;
        sim_link_read_on(ev->link);
        break;
    case EV_RESET:
        sim_link_reset(ev->link, "connection reset");
        break;
    case EV_WORK:
        if (ev->work)
            run_work(ev);
        break;
    case EV_TOLD:
        if (ev->work)
            ev->work->told(ev->work->arg, ev->what);
        break;
    case EV_WORKED:
        if (ev->work)
            ev->work->done(ev->work->arg);
        break;
    }
    if (ev->link)
        sim_link_unref(ev->link);
}

/* It is put off if it is of a node that stands still; in the order of what comes there. */
static bool waits(struct sim *sim, const struct event *ev)
{
    const struct node *node = ev->link ? ev->link->node : ev->node;
    if (node->frozen_until_ns <= sim->now_ns)
        return false;
    struct event later = *ev;
    later.at_ns = node->frozen_until_ns;
    sim_push(sim, later);
    if (ev->link)
        sim_link_unref(ev->link);
    return true;
}

/* Make the next thing happen, unless it is after end_ns. */
static bool step(struct sim *sim, uint64_t end_ns)
{
    struct node *node = NULL;
    uint64_t at = sim->count ? sim->heap[0].at_ns : UINT64_MAX;
    for (unsigned i = 0; i < sim->conf.n_nodes; i++) {
        uint64_t next = rt_timers_next(&sim->node[i].timers);
        if (next < sim->node[i].frozen_until_ns)
            next = sim->node[i].frozen_until_ns;
        if (next < at) {
            at = next;
            node = &sim->node[i];
        }
    }
    if (at == UINT64_MAX || at > end_ns)
        return false;
    sim->now_ns = at > sim->now_ns ? at : sim->now_ns;
    uint64_t what[2] = {sim->now_ns, node ? 100 + node->index : (uint64_t)sim->heap[0].kind};
    sim->digest = rt_hash_bytes_seed(what, sizeof(what), sim->digest);
    if (node) {
        struct rt_timer *timer = rt_timers_pop(&node->timers, at, UINT64_MAX);
        timer->fire(timer->arg);
    } else {
        struct event ev = pop_event(sim);
        if (!waits(sim, &ev))
            run_event(sim, &ev);
    }
    return true;
}

bool sim_run_until(struct sim *sim, bool (*done)(void *arg), void *arg, uint64_t max_ns)
{
    uint64_t end_ns = sim->now_ns + max_ns;
    for (;;) {
        if (done && done(arg))
            return true;
        if (!step(sim, end_ns)) {
            if (!done)
                sim->now_ns = end_ns;
            return false;
        }
    }
}
