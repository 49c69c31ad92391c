/* tests/sim/sim_inner.h -- the simulated world from the inside; private to sim_io.c, sim_link.c, sim_fault.c.
 *
 *   sim_io.c     events, connecting, timers and work, the world
 *   sim_link.c   one connection: what is sent, what arrives, how it ends
 *   sim_fault.c  what goes wrong with connections */
#ifndef SIM_INNER_H
#define SIM_INNER_H

#include "runtime/net/timers.h"
#include "tests/sim/sim_io.h"

#define SIM_NODES_MAX 64
#define SIM_RECORD    32 /* requests of a connection that may come again, besides the first */

enum event_kind {
    EV_ASK_CONNECT,
    EV_UP,
    EV_DELIVER,
    EV_DRAINED,
    EV_WAKE,
    EV_DOWN,
    EV_RESET,
    EV_WORK,
    EV_TOLD,
    EV_WORKED
};

struct event {
    uint64_t at_ns, seq;
    enum event_kind kind;
    struct rt_link *link;
    struct node *node;    /* whose job: */
    struct rt_work *work; /* NULL: it was forgotten */
    uint64_t what;        /* EV_TOLD */
};

/* What is under way to an end: a frame's bytes, or the end of the link (bytes NULL). */
struct parcel {
    struct parcel *next;
    uint8_t *bytes;
    size_t size;
};

/* The latest of what was sent to a listener, and what came first. */
struct record {
    struct parcel first, last[SIM_RECORD];
    size_t n;
};

struct node {
    struct rt_io io; /* first */
    struct sim *sim;
    unsigned index, next_port;
    struct rt_timers timers;
    struct rt_pool *pool;
    uint64_t draw_key, draws;
    unsigned tells;           /* of the job that is being run */
    uint64_t frozen_until_ns; /* nothing happens here before */
    int64_t wall_ahead_ms;
};

struct rt_listener {
    struct rt_listener *next;
    struct node *node;
    unsigned port;
    rt_accept_fn accept;
    void *arg;
};

enum end_state { END_CONNECTING, END_OPEN, END_CLOSING, END_DONE };

struct rt_link {
    struct node *node, *far_node;
    struct rt_link *far; /* NULL: not connected yet, or gone */
    struct rt_link *next;
    unsigned port; /* CONNECTING: where to */
    enum end_state state;
    const struct rt_link_events *events;
    void *arg;
    int err;
    char why[256];
    char name[RT_ADDRESS_MAX];
    struct parcel *inbox, **inbox_end;
    size_t inbox_bytes;
    uint64_t arrives_ns;    /* of the latest parcel under way to this end */
    uint64_t held_until_ns; /* SIM_DELAY: nothing arrives before */
    bool swallows;          /* SIM_DROP, SIM_HALF_OPEN: what comes here is gone, its end too */
    bool doubles, cuts;     /* SIM_DUPLICATE, SIM_TRUNCATE: the next frame that comes here */
    bool paused, asleep;    /* by its owner; SIM_PAUSE */
    size_t unread;          /* deliveries that came meanwhile */
    bool watched;
    size_t low;
    struct record *record; /* of an end that connected */
    unsigned refs;         /* events that name it, and 1 until down() */
};

struct sim {
    struct sim_conf conf;
    struct node node[SIM_NODES_MAX];
    uint64_t now_ns, next_seq, digest;
    uint64_t draw_key, draws;
    struct event *heap;
    size_t count, capacity;
    struct rt_listener *listeners;
    struct rt_link *links;
    bool cut[SIM_NODES_MAX][SIM_NODES_MAX], flip[SIM_NODES_MAX][SIM_NODES_MAX];
};

/* sim_io.c */
void sim_push(struct sim *sim, struct event ev);
uint64_t sim_draw_delay(struct sim *sim);
uint64_t sim_draw_below(struct sim *sim, uint64_t n);
/* A new link at the listener, whose other end is `link`. false: nobody listens. */
bool sim_link_accept(struct rt_link *link);

/* sim_link.c */
struct rt_link *sim_link_new(struct node *node, struct node *far_node, const char *name);
void sim_link_unref(struct rt_link *link);
/* Put something on its way to the far end. Takes bytes; NULL: the end of the link. */
void sim_link_put(struct rt_link *link, uint8_t *bytes, size_t size);
struct parcel sim_copy_of(const uint8_t *bytes, size_t size);
void sim_link_end(struct rt_link *link, int err, const char *why, bool tell);
void sim_link_reset(struct rt_link *link, const char *why); /* both ends hear of it at once */
void sim_link_deliver(struct sim *sim, struct rt_link *link);
/* What came while it slept is delivered now, in its order. */
void sim_link_read_on(struct rt_link *link);
/* Of struct rt_io_ops: */
void sim_link_close(struct rt_link *link, int err, const char *why);
void sim_link_set(struct rt_link *link, const struct rt_link_events *events, void *arg);
const char *sim_link_name(const struct rt_link *link);
bool sim_link_checks(const struct rt_link *link);
size_t sim_link_queued(const struct rt_link *link);
void sim_link_watch(struct rt_link *link, size_t low);
void sim_link_pause(struct rt_link *link, bool pause);
int sim_link_send(struct rt_link *link, struct rt_header *header, const void *message,
                  size_t message_size, const struct rt_piece *pieces, size_t n_pieces,
                  const struct rt_maker *maker);

#endif
