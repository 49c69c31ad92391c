/* tests/sim/sim_io.c -- the simulated world.
 *
 * A heap of events by (time, number) drives everything but timers, which each node keeps in the same
 * heap that the real loop uses. A link is two ends; sending appends the frame's bytes to the other
 * end's inbox and schedules one delivery, which takes whatever is first in the inbox: so frames keep
 * their order whatever their delays. The end of a link travels through the inbox like a frame.
 *
 * An end is freed when it has heard down() and no event refers to it any more. */
#include "tests/sim/sim_io.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/net/files.h"
#include "runtime/net/timers.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NODES_MAX     64
#define START_NS      1000000000ull
#define WALL_START_MS 1750000000000ull
#define CUT_POLL_NS   1000000ull
#define FIRST_PORT    1000
#define DELAY_MAX_NS  200000000ull
#define DROP_MAX_NS   50000000ull
#define PAUSE_MAX_NS  3000000000ull
#define RECORD        32 /* requests of a connection that may come again, besides the first */

enum event_kind {
    EV_ASK_CONNECT,
    EV_UP,
    EV_DELIVER,
    EV_DRAINED,
    EV_WAKE,
    EV_DOWN,
    EV_RESET,
    EV_WORK,
    EV_WORKED
};

struct event {
    uint64_t at_ns, seq;
    enum event_kind kind;
    struct rt_link *link;
    struct rt_work *work;
};

/* What is under way to an end: a frame's bytes, or the end of the link (bytes NULL). */
struct parcel {
    struct parcel *next;
    uint8_t *bytes;
    size_t size;
};

/* The latest of what was sent to a listener, and what came first. */
struct record {
    struct parcel first, last[RECORD];
    size_t n;
};

struct node {
    struct rt_io io; /* first */
    struct sim *sim;
    unsigned index, next_port;
    struct rt_timers timers;
    struct rt_pool *pool;
    uint64_t draw_key, draws;
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
    struct node node[NODES_MAX];
    uint64_t now_ns, next_seq, digest;
    uint64_t draw_key, draws;
    struct event *heap;
    size_t count, capacity;
    struct rt_listener *listeners;
    struct rt_link *links;
    bool cut[NODES_MAX][NODES_MAX], flip[NODES_MAX][NODES_MAX];
};

static struct node *node_of(struct rt_io *io)
{
    return (struct node *)io;
}

/* ---- events ---- */

static bool before(const struct event *a, const struct event *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->seq < b->seq;
}

static void push_event(struct sim *sim, struct event ev)
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

static uint64_t draw_delay(struct sim *sim)
{
    uint64_t span = sim->conf.delay_max_ns - sim->conf.delay_min_ns;
    return sim->conf.delay_min_ns + rt_below(rt_draw(sim->draw_key, sim->draws++), span + 1);
}

/* ---- links ---- */

static struct rt_link *link_new(struct node *node, struct node *far_node, const char *name)
{
    struct rt_link *link = rt_xcalloc(1, sizeof(*link));
    link->node = node;
    link->far_node = far_node;
    link->inbox_end = &link->inbox;
    link->refs = 1;
    snprintf(link->name, sizeof(link->name), "%s", name);
    link->next = node->sim->links;
    node->sim->links = link;
    return link;
}

static struct parcel *take_parcel(struct rt_link *link)
{
    struct parcel *parcel = link->inbox;
    if (!parcel)
        return NULL;
    link->inbox = parcel->next;
    if (!link->inbox)
        link->inbox_end = &link->inbox;
    link->inbox_bytes -= parcel->size;
    return parcel;
}

static void free_parcel(struct parcel *parcel)
{
    rt_free(parcel->bytes);
    rt_free(parcel);
}

static void link_unref(struct rt_link *link)
{
    struct parcel *parcel;
    if (--link->refs > 0)
        return;
    struct rt_link **at = &link->node->sim->links;
    while (*at != link)
        at = &(*at)->next;
    *at = link->next;
    if (link->far)
        link->far->far = NULL;
    while ((parcel = take_parcel(link)))
        free_parcel(parcel);
    if (link->record) {
        rt_free(link->record->first.bytes);
        for (size_t i = 0; i < RECORD; i++)
            rt_free(link->record->last[i].bytes);
    }
    rt_free(link->record);
    rt_free(link);
}

/* Put something on its way to the far end. Takes bytes. */
static void send_parcel(struct rt_link *link, uint8_t *bytes, size_t size)
{
    struct sim *sim = link->node->sim;
    struct rt_link *far = link->far;
    if (!far || far->state >= END_CLOSING) {
        rt_free(bytes);
        return;
    }
    struct parcel *parcel = rt_xmalloc(sizeof(*parcel));
    *parcel = (struct parcel){NULL, bytes, size};
    *far->inbox_end = parcel;
    far->inbox_end = &parcel->next;
    far->inbox_bytes += size;
    uint64_t at = sim->now_ns + draw_delay(sim);
    at = at > far->held_until_ns ? at : far->held_until_ns;
    far->arrives_ns = at > far->arrives_ns ? at : far->arrives_ns;
    push_event(sim, (struct event){.at_ns = far->arrives_ns, .kind = EV_DELIVER, .link = far});
}

static void end_link(struct rt_link *link, int err, const char *why, bool tell)
{
    struct sim *sim = link->node->sim;
    if (link->state >= END_CLOSING)
        return;
    if (tell)
        send_parcel(link, NULL, 0);
    link->state = END_CLOSING;
    link->err = err;
    snprintf(link->why, sizeof(link->why), "%s", why);
    push_event(sim, (struct event){.at_ns = sim->now_ns, .kind = EV_DOWN, .link = link});
}

static void io_link_close(struct rt_link *link, int err, const char *why)
{
    end_link(link, err, why, true);
}

static void io_link_set(struct rt_link *link, const struct rt_link_events *events, void *arg)
{
    link->events = events;
    link->arg = arg;
    if (!events)
        end_link(link, RT_ECANCELED, "given up by its owner", true);
}

static const char *io_link_name(const struct rt_link *link)
{
    return link->name;
}

static bool io_link_checks(const struct rt_link *link)
{
    (void)link;
    return true;
}

static size_t io_link_queued(const struct rt_link *link)
{
    return link->far ? link->far->inbox_bytes : 0;
}

/* Sending and reading call this; what is told comes as an event. */
static void maybe_drained(struct rt_link *link)
{
    if (link && link->watched && link->state == END_OPEN && io_link_queued(link) <= link->low) {
        link->watched = false;
        push_event(
            link->node->sim,
            (struct event){.at_ns = link->node->sim->now_ns, .kind = EV_DRAINED, .link = link});
    }
}

static void io_link_watch(struct rt_link *link, size_t low)
{
    link->watched = true;
    link->low = low;
    maybe_drained(link);
}

/* What came meanwhile is delivered now, in its order. */
static void read_on(struct rt_link *link)
{
    struct sim *sim = link->node->sim;
    for (; !link->paused && !link->asleep && link->unread > 0; link->unread--)
        push_event(sim, (struct event){.at_ns = sim->now_ns, .kind = EV_DELIVER, .link = link});
}

static void io_link_pause(struct rt_link *link, bool pause)
{
    link->paused = pause;
    read_on(link);
}

static void maybe_flip(const struct rt_link *link, uint8_t *bytes, size_t size)
{
    struct sim *sim = link->node->sim;
    bool *flip = &sim->flip[link->node->index][link->far_node->index];
    if (!*flip)
        return;
    uint64_t bit = rt_below(rt_draw(sim->draw_key, sim->draws++), size * 8);
    bytes[bit / 8] ^= (uint8_t)(1u << (bit % 8));
    *flip = false;
}

static struct parcel copy_of(const uint8_t *bytes, size_t size)
{
    uint8_t *copy = rt_xmalloc(size);
    memcpy(copy, bytes, size);
    return (struct parcel){NULL, copy, size};
}

static void keep(struct rt_link *link, const uint8_t *bytes, size_t size)
{
    struct record *record = link->record;
    if (!record)
        return;
    struct parcel *at = record->n ? &record->last[(record->n - 1) % RECORD] : &record->first;
    rt_free(at->bytes);
    *at = copy_of(bytes, size);
    record->n++;
}

static int io_link_send(struct rt_link *link, struct rt_header *header, const void *message,
                        size_t message_size, const struct rt_piece *pieces, size_t n_pieces,
                        const struct rt_maker *maker)
{
    size_t size = 0, end = 0;
    rt_assert(message_size <= RT_MESSAGE_MAX && n_pieces <= RT_SEGMENTS_MAX);
    if (link->state != END_OPEN)
        return RT_FAIL(RT_EPEER, "%s: not connected", link->name);
    for (size_t i = 0; i < n_pieces; i++)
        rt_segment_put(&size, pieces[i].size);
    if (size > RT_PAYLOAD_MAX)
        return RT_FAIL(RT_ELIMIT, "%s: payload of a frame is over %llu bytes", link->name,
                       RT_PAYLOAD_MAX);
    uint8_t *bytes = rt_xcalloc(1, RT_FRAME_HEADER_SIZE + message_size + size);
    uint8_t *at_message = bytes + RT_FRAME_HEADER_SIZE, *payload = at_message + message_size;
    if (message_size)
        memcpy(at_message, message, message_size);
    for (size_t i = 0; i < n_pieces; i++) {
        size_t at = rt_segment_put(&end, pieces[i].size);
        uint8_t *made = maker && pieces[i].size ? rt_xaligned(pieces[i].size) : NULL;
        for (size_t n = 0; made && n < pieces[i].size;)
            n += maker->make(maker->arg, made + n, pieces[i].size - n);
        if (pieces[i].size)
            memcpy(payload + at, made ? made : pieces[i].data, pieces[i].size);
        rt_free(made);
    }
    header->version = RT_WIRE_VERSION;
    header->message_size = (uint32_t)message_size;
    header->payload_size = size;
    if (!(header->flags & RT_FRAME_CRC_KNOWN))
        header->payload_crc = rt_crc32c(0, payload, size);
    header->flags &= (uint16_t) ~(RT_FRAME_CRC_KNOWN | RT_FRAME_LZ4);
    rt_header_encode(header, bytes);
    rt_header_seal(bytes, at_message, message_size);
    size += RT_FRAME_HEADER_SIZE + message_size;
    keep(link, bytes, size);
    maybe_flip(link, bytes, size);
    send_parcel(link, bytes, size);
    return 0;
}

/* Both ends hear of it at once. */
static void reset(struct rt_link *link, const char *why)
{
    if (link->far)
        end_link(link->far, RT_EPEER, why, false);
    end_link(link, RT_EPEER, why, false);
}

/* What a real link does with a frame: header, admit, checksums, frame. */
static int receive(struct rt_link *link, const uint8_t *bytes, size_t size)
{
    struct rt_header header;
    struct rt_buf *payload = NULL;
    const uint8_t *message = bytes + RT_FRAME_HEADER_SIZE;
    int err = rt_header_decode(bytes, &header);
    if (!err && RT_FRAME_HEADER_SIZE + header.message_size + header.payload_size != size)
        err = RT_FAIL(RT_EPROTO, "frame: its sizes do not fit its %zu bytes", size);
    if (!err)
        err = link->events->admit(link->arg, &header, &payload);
    bool discard = err == RT_EFULL;
    if (!err || discard)
        err = rt_header_verify(bytes, message, header.message_size);
    const uint8_t *at = message + header.message_size;
    if (!err && rt_crc32c(0, at, header.payload_size) != header.payload_crc)
        err = RT_FAIL(RT_EPROTO, "frame field payload_crc: the payload has another");
    if (!err) {
        if (discard)
            header.flags |= RT_FRAME_DISCARDED;
        if (payload) {
            memcpy(payload->data, at, header.payload_size);
            payload->size = header.payload_size;
        }
        link->events->frame(link->arg, &(struct rt_frame){header, message, payload});
    }
    rt_buf_unref(payload);
    return err;
}

/* The header and a part of the rest: memory may be taken for the frame, and has to be given back. */
static void receive_part(struct rt_link *link, const struct parcel *parcel)
{
    struct rt_header header;
    struct rt_buf *payload = NULL;
    if (rt_header_decode(parcel->bytes, &header) == 0)
        link->events->admit(link->arg, &header, &payload);
    rt_buf_unref(payload);
    reset(link, "connection reset in the middle of a frame");
}

static bool is_request(const struct parcel *parcel)
{
    struct rt_header header;
    return rt_header_decode(parcel->bytes, &header) == 0 && !(header.flags & RT_FRAME_REPLY) &&
           header.method >= RT_METHOD_ROLE_FIRST;
}

static void receive_all(struct rt_link *link, const struct parcel *parcel)
{
    int err = receive(link, parcel->bytes, parcel->size);
    if (!err && link->doubles && is_request(parcel) && link->state == END_OPEN) {
        link->doubles = false;
        err = receive(link, parcel->bytes, parcel->size);
    }
    if (err)
        end_link(link, err, rt_err_text(), true);
}

/* Whoever writes to a connection that is gone hears of it, though he reads nothing. */
static bool ends_here(const struct rt_link *link)
{
    const struct parcel *last = link->inbox;
    while (last && last->next)
        last = last->next;
    return last && !last->bytes;
}

static void deliver(struct sim *sim, struct rt_link *link)
{
    if (link->state >= END_CLOSING)
        return;
    if (link->paused || link->asleep) {
        link->unread++;
        if (link->paused && ends_here(link))
            end_link(link, RT_EPEER, "closed by the other end", false);
        return;
    }
    if (sim->cut[link->node->index][link->far_node->index]) {
        push_event(sim, (struct event){
                            .at_ns = sim->now_ns + CUT_POLL_NS, .kind = EV_DELIVER, .link = link});
        return;
    }
    struct parcel *parcel = take_parcel(link);
    rt_assert(parcel);
    maybe_drained(link->far);
    if (link->swallows) {
        free_parcel(parcel);
        return;
    }
    if (!parcel->bytes) {
        end_link(link, RT_EPEER, "closed by the other end", false);
    } else {
        sim->digest = rt_hash_bytes_seed(parcel->bytes, parcel->size, sim->digest);
        if (link->events->bytes)
            link->events->bytes(link->arg);
        (link->cuts ? receive_part : receive_all)(link, parcel);
    }
    free_parcel(parcel);
}

/* ---- connecting ---- */

static int parse(const char *address, unsigned *node, unsigned *port)
{
    char *end;
    if (strncmp(address, "sim:", 4) == 0) {
        *node = (unsigned)strtoul(address + 4, &end, 10);
        if (*end == ':') {
            *port = (unsigned)strtoul(end + 1, &end, 10);
            if (*end == '\0' && *node < NODES_MAX)
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
    struct rt_link *link = link_new(node, &sim->node[index], address);
    link->port = port;
    link->events = events;
    link->arg = arg;
    link->record = rt_xcalloc(1, sizeof(*link->record));
    uint64_t at = sim->now_ns + draw_delay(sim);
    push_event(sim, (struct event){.at_ns = at, .kind = EV_ASK_CONNECT, .link = link});
    *out = link;
    return 0;
}

/* A new link at the listener, whose other end is `link`. false: nobody listens. */
static bool accept_link(struct rt_link *link)
{
    struct sim *sim = link->node->sim;
    struct rt_listener *listener = find_listener(sim, link->far_node->index, link->port);
    if (!listener)
        return false;
    char name[RT_ADDRESS_MAX];
    snprintf(name, sizeof(name), "sim:%u:0", link->node->index);
    struct rt_link *far = link_new(link->far_node, link->node, name);
    far->state = END_OPEN;
    far->far = link;
    link->far = far;
    link->arrives_ns = sim->now_ns + draw_delay(sim);
    push_event(sim, (struct event){.at_ns = link->arrives_ns, .kind = EV_UP, .link = link});
    listener->accept(listener->arg, far);
    if (!far->events)
        end_link(far, RT_ECANCELED, "nobody wants it", true);
    return true;
}

/* The request to connect has reached the other node; while cut, it is lost like a SYN. */
static void ask_connect(struct sim *sim, struct rt_link *link)
{
    if (link->state != END_CONNECTING || sim->cut[link->node->index][link->far_node->index])
        return;
    if (!accept_link(link))
        end_link(link, RT_EPEER, "connect: connection refused", false);
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
    link_unref(link); /* the reference of its life */
}

/* ---- the rest of the io ---- */

static uint64_t io_now_ns(struct rt_io *io)
{
    return node_of(io)->sim->now_ns;
}

static uint64_t io_wall_ms(struct rt_io *io)
{
    return WALL_START_MS + node_of(io)->sim->now_ns / 1000000;
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
    struct sim *sim = node_of(io)->sim;
    uint64_t at = sim->now_ns + sim->conf.work_ns / 2;
    push_event(sim, (struct event){.at_ns = at, .kind = EV_WORK, .work = work});
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
    .link_set = io_link_set,
    .link_send = io_link_send,
    .link_checks = io_link_checks,
    .link_queued = io_link_queued,
    .link_watch = io_link_watch,
    .link_pause = io_link_pause,
    .link_close = io_link_close,
    .link_name = io_link_name,
    .work = io_work,
    .file_open = rt_files_open,
    .file_read = rt_files_read,
    .file_close = rt_files_close,
    .pool = io_pool,
};

/* ---- the world ---- */

struct sim *sim_create(const struct sim_conf *conf)
{
    struct sim *sim = rt_xcalloc(1, sizeof(*sim));
    rt_assert(conf->n_nodes > 0 && conf->n_nodes <= NODES_MAX);
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
        io_link_set(link, NULL, NULL);
    while (sim->count) {
        struct event ev = pop_event(sim);
        if (ev.kind == EV_DOWN)
            go_down(ev.link);
        if (ev.link)
            link_unref(ev.link);
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
        deliver(sim, ev->link);
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
        read_on(ev->link);
        break;
    case EV_RESET:
        reset(ev->link, "connection reset");
        break;
    case EV_WORK:
        ev->work->run(ev->work->arg);
        push_event(sim, (struct event){.at_ns = sim->now_ns + sim->conf.work_ns / 2,
                                       .kind = EV_WORKED,
                                       .work = ev->work});
        break;
    case EV_WORKED:
        ev->work->done(ev->work->arg);
        break;
    }
    if (ev->link)
        link_unref(ev->link);
}

/* Make the next thing happen, unless it is after end_ns. */
static bool step(struct sim *sim, uint64_t end_ns)
{
    struct node *node = NULL;
    uint64_t at = sim->count ? sim->heap[0].at_ns : UINT64_MAX;
    for (unsigned i = 0; i < sim->conf.n_nodes; i++) {
        uint64_t next = rt_timers_next(&sim->node[i].timers);
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

void sim_cut(struct sim *sim, unsigned a, unsigned b, bool cut)
{
    sim->cut[a][b] = sim->cut[b][a] = cut;
}

void sim_break(struct sim *sim, unsigned a, unsigned b)
{
    for (struct rt_link *link = sim->links; link; link = link->next) {
        unsigned x = link->node->index, y = link->far_node->index;
        if ((x == a && y == b) || (x == b && y == a))
            end_link(link, RT_EPEER, "connection reset", false);
    }
}

void sim_flip(struct sim *sim, unsigned a, unsigned b)
{
    sim->flip[a][b] = true;
}

/* ---- faults of one connection ---- */

const char *sim_fault_name(enum sim_fault kind)
{
    static const char *const name[SIM_FAULTS] = {"delay",    "drop",  "duplicate", "replay",
                                                 "truncate", "reset", "half_open", "pause"};
    return name[kind];
}

static uint64_t draw_below(struct sim *sim, uint64_t n)
{
    return rt_below(rt_draw(sim->draw_key, sim->draws++), n);
}

/* Whose bytes come again: it hears nothing, and ends with the last of them. */
static int ghost_admit(void *arg, const struct rt_header *header, struct rt_buf **out)
{
    (void)arg, (void)out;
    return header->payload_size ? RT_EFULL : 0;
}
static void ghost_frame(void *arg, const struct rt_frame *frame)
{
    (void)arg, (void)frame;
}
static void ghost_down(void *arg, int err, const char *why)
{
    (void)arg, (void)err, (void)why;
}
static const struct rt_link_events ghost_events = {
    .admit = ghost_admit, .frame = ghost_frame, .down = ghost_down};

static void replay(const struct rt_link *link)
{
    const struct record *record = link->record;
    struct rt_link *ghost = link_new(link->node, link->far_node, "ghost");
    size_t n = record->n ? record->n - 1 : 0, from = n > RECORD ? n - RECORD : 0;
    ghost->events = &ghost_events;
    ghost->port = link->port;
    ghost->state = END_OPEN;
    if (record->n && accept_link(ghost)) {
        send_parcel(ghost, copy_of(record->first.bytes, record->first.size).bytes,
                    record->first.size);
        for (size_t i = from; i < n; i++) {
            const struct parcel *p = &record->last[i % RECORD];
            send_parcel(ghost, copy_of(p->bytes, p->size).bytes, p->size);
        }
    }
    struct sim *sim = link->node->sim;
    if (ghost->far) /* long enough for all of them to be served */
        push_event(sim,
                   (struct event){.at_ns = ghost->far->arrives_ns + draw_below(sim, DELAY_MAX_NS),
                                  .kind = EV_RESET,
                                  .link = ghost});
    else
        end_link(ghost, RT_EPEER, "nobody listens", false);
}

static void half_open(struct sim *sim, struct rt_link *link)
{
    switch (draw_below(sim, 3)) {
    case 0: /* nothing comes through any more, either way */
        link->swallows = link->far->swallows = true;
        break;
    case 1: /* one way */
        link->swallows = true;
        break;
    default: /* the far end does not hear that this one is gone */
        link->far->swallows = true;
        end_link(link, RT_EPEER, "connection reset", false);
    }
}

/* One end of a connection that is open at both, or one that can be heard again. */
static struct rt_link *draw_link(struct sim *sim, bool connected)
{
    struct rt_link *found = NULL;
    size_t n = 0;
    for (struct rt_link *link = sim->links; link; link = link->next)
        if (link->state == END_OPEN && link->far && link->far->state == END_OPEN &&
            !link->swallows && !link->far->swallows && link->events != &ghost_events &&
            link->far->events != &ghost_events && (!connected || link->record) &&
            draw_below(sim, ++n) == 0)
            found = link;
    return found;
}

bool sim_fault(struct sim *sim, enum sim_fault kind)
{
    struct rt_link *link = draw_link(sim, kind == SIM_REPLAY || kind == SIM_DUPLICATE);
    if (!link)
        return false;
    switch (kind) {
    case SIM_DELAY:
        link->held_until_ns = sim->now_ns + draw_below(sim, DELAY_MAX_NS);
        break;
    case SIM_DROP:
        link->swallows = true;
        push_event(sim, (struct event){.at_ns = sim->now_ns + draw_below(sim, DROP_MAX_NS),
                                       .kind = EV_RESET,
                                       .link = link});
        break;
    case SIM_DUPLICATE:
        link->far->doubles = true;
        break;
    case SIM_REPLAY:
        replay(link);
        break;
    case SIM_TRUNCATE:
        link->cuts = true;
        break;
    case SIM_RESET:
        reset(link, "connection reset");
        break;
    case SIM_PAUSE:
        link->asleep = true;
        push_event(sim, (struct event){.at_ns = sim->now_ns + draw_below(sim, PAUSE_MAX_NS),
                                       .kind = EV_WAKE,
                                       .link = link});
        break;
    default:
        half_open(sim, link);
    }
    return true;
}
