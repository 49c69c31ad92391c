/* tests/lib/proxy.c -- see proxy.h.
 *
 * A connection is two sockets, the caller's and the listener's, and two streams. A stream keeps the frame that is
 * coming until it is whole, and then puts it behind what waits to be written (out). Requests go from the caller to the
 * listener: of those the first (the handshake) and the latest are kept, to be played again.
 *
 *   OPEN -EOF, RST-> what waits is written, then both sockets are closed
 *        -PROXY_HALF_OPEN-> MUTE: read and thrown away, until both ends have closed theirs */
#include "tests/lib/proxy.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/net/frame.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define LISTENERS_MAX   64
#define CONNECTIONS_MAX 1024
#define READ_BYTES      ((size_t)256 << 10)
#define OUT_MAX         ((size_t)8 << 20) /* waiting to be written: no more is read */
#define KEPT            32                /* requests, besides the handshake */
#define KEPT_BYTES_MAX  ((size_t)1 << 20) /* of one that is kept */
#define DELAY_MAX_NS    (150 * RT_MS)
#define DROP_MAX_NS     (50 * RT_MS)
#define GHOST_NS        (100 * RT_MS)
#define MUTE_MAX_NS     (60 * RT_S)
#define TICK_MS         2

struct bytes {
    uint8_t *data;
    size_t size, capacity;
};

/* One direction. side: whose socket it is read from. */
struct stream {
    int side;
    struct bytes frame, out;
    size_t written; /* of out */
    uint64_t held_until_ns;
    bool raw;      /* not frames: passed on as it comes */
    bool swallows; /* nothing is passed on any more */
    bool cuts;     /* PROXY_TRUNCATE: the next frame */
    bool ended;    /* EOF was read */
};

enum state { FREE, OPEN, MUTE };

struct connection {
    enum state state;
    int fd[2]; /* the caller's, the listener's; -1: closed */
    struct sockaddr_in to;
    struct stream stream[2]; /* [0]: requests */
    uint64_t reset_at_ns;    /* 0: not at all */
    bool doubles, ghost;
    struct bytes first, last[KEPT]; /* requests */
    size_t n_kept;
};

struct proxy {
    struct proxy_conf conf;
    uint64_t key, draws;
    struct {
        int fd;
        struct sockaddr_in to;
    } listener[LISTENERS_MAX];
    size_t n_listeners, n_connections; /* connections: places ever used */
    struct connection *connection[CONNECTIONS_MAX];
    uint8_t *scratch; /* [READ_BYTES] */
    uint64_t count[PROXY_FAULTS], connections;
};

const char *proxy_fault_name(enum proxy_fault kind)
{
    static const char *const name[PROXY_FAULTS] = {"delay",    "drop",  "duplicate", "replay",
                                                   "truncate", "reset", "half_open"};
    return name[kind];
}

static uint64_t draw(struct proxy *proxy, uint64_t n)
{
    return rt_below(rt_draw(proxy->key, proxy->draws++), n);
}

static void append(struct bytes *to, const uint8_t *data, size_t n)
{
    if (n == 0)
        return;
    if (to->size + n > to->capacity) {
        to->capacity = 2 * (to->size + n);
        to->data = rt_xrealloc(to->data, to->capacity);
    }
    memcpy(to->data + to->size, data, n);
    to->size += n;
}

static void release(struct bytes *bytes)
{
    rt_free(bytes->data);
    *bytes = (struct bytes){0};
}

/* ---- sockets ---- */

static void close_side(struct connection *c, int side, bool with_reset)
{
    struct linger linger = {.l_onoff = 1, .l_linger = 0};

    if (c->fd[side] < 0)
        return;
    if (with_reset)
        setsockopt(c->fd[side], SOL_SOCKET, SO_LINGER, &linger, sizeof(linger));
    close(c->fd[side]);
    c->fd[side] = -1;
}

static void end(struct connection *c, bool with_reset)
{
    for (int side = 0; side < 2; side++) {
        close_side(c, side, with_reset);
        release(&c->stream[side].frame);
        release(&c->stream[side].out);
    }
    release(&c->first);
    for (size_t i = 0; i < KEPT; i++)
        release(&c->last[i]);
    c->state = FREE;
}

static int address_of(const char *ip, uint16_t port, struct sockaddr_in *out)
{
    *out = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons(port)};
    return inet_pton(AF_INET, ip, &out->sin_addr) == 1 ? 0 : -1;
}

static void prepare(int fd)
{
    int on = 1;

    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* On loopback a connect ends at once, one way or the other. */
static int connect_to(const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (fd >= 0 && connect(fd, (const struct sockaddr *)to, sizeof(*to)) != 0) {
        close(fd);
        return -1;
    }
    if (fd >= 0)
        prepare(fd);
    return fd;
}

/* NULL: too many, or nobody listens there. */
static struct connection *connection_new(struct proxy *proxy, int caller,
                                         const struct sockaddr_in *to)
{
    struct connection *c = NULL;
    size_t i = 0;

    while (i < proxy->n_connections && proxy->connection[i]->state != FREE)
        i++;
    int fd = i < CONNECTIONS_MAX ? connect_to(to) : -1;
    if (fd < 0)
        return NULL;
    if (i == proxy->n_connections)
        proxy->connection[proxy->n_connections++] = rt_xcalloc(1, sizeof(*c));
    c = proxy->connection[i];
    *c = (struct connection){.state = OPEN, .fd = {caller, fd}, .to = *to};
    c->stream[1].side = 1;
    proxy->connections++;
    return c;
}

static void accept_one(struct proxy *proxy, size_t listener)
{
    int fd = accept4(proxy->listener[listener].fd, NULL, NULL, SOCK_CLOEXEC);

    if (fd < 0)
        return;
    prepare(fd);
    if (!connection_new(proxy, fd, &proxy->listener[listener].to))
        close(fd);
}

/* ---- frames ---- */

static void keep(struct connection *c, const struct bytes *frame)
{
    struct bytes *at = c->n_kept ? &c->last[(c->n_kept - 1) % KEPT] : &c->first;

    if (frame->size > KEPT_BYTES_MAX)
        return;
    at->size = 0;
    append(at, frame->data, frame->size);
    c->n_kept++;
}

static void end_in_the_middle(struct proxy *proxy, struct connection *c, struct stream *s)
{
    append(&s->out, s->frame.data, 1 + (size_t)draw(proxy, s->frame.size - 1));
    s->cuts = false;
    s->ended = true; /* what waits is written, and then the connection is closed */
    s->frame.size = 0;
    c->stream[1 - s->side].swallows = true;
    proxy->count[PROXY_TRUNCATE]++;
}

static void pass_frame(struct proxy *proxy, struct connection *c, struct stream *s,
                       const struct rt_header *header)
{
    bool request = !(header->flags & RT_FRAME_REPLY);

    if (s->side == 0 && (request && header->method != RT_METHOD_PING))
        keep(c, &s->frame);
    if (s->cuts) {
        end_in_the_middle(proxy, c, s);
        return;
    }
    append(&s->out, s->frame.data, s->frame.size);
    if (s->side == 0 && c->doubles && request && header->method >= RT_METHOD_ROLE_FIRST) {
        append(&s->out, s->frame.data, s->frame.size);
        c->doubles = false;
        proxy->count[PROXY_DUPLICATE]++;
    }
    s->frame.size = 0;
}

/* How much of n bytes belongs to the frame that is coming; 0: it is none. */
static size_t of_frame(const struct stream *s, struct rt_header *header, size_t n)
{
    size_t want = RT_FRAME_HEADER_SIZE;

    if (s->frame.size >= RT_FRAME_HEADER_SIZE) {
        if (rt_header_decode(s->frame.data, header) != 0)
            return 0;
        want = rt_frame_bytes(header);
    }
    want -= s->frame.size;
    return want < n ? want : n;
}

static void feed(struct proxy *proxy, struct connection *c, struct stream *s, const uint8_t *data,
                 size_t n)
{
    struct rt_header header;

    while (n > 0 && !s->ended && !s->raw) {
        size_t take = of_frame(s, &header, n);

        if (take == 0) {
            s->raw = true;
            append(&s->out, s->frame.data, s->frame.size);
            s->frame.size = 0;
            break;
        }
        append(&s->frame, data, take);
        data += take;
        n -= take;
        if (s->frame.size >= RT_FRAME_HEADER_SIZE && of_frame(s, &header, 1) == 0 &&
            rt_header_decode(s->frame.data, &header) == 0)
            pass_frame(proxy, c, s, &header);
    }
    if (s->raw)
        append(&s->out, data, n);
}

/* ---- a turn ---- */

static void read_side(struct proxy *proxy, struct connection *c, int side)
{
    struct stream *s = &c->stream[side];
    ssize_t n = read(c->fd[side], proxy->scratch, READ_BYTES);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n > 0 && !s->swallows)
        feed(proxy, c, s, proxy->scratch, (size_t)n);
    if (n > 0)
        return;
    if (c->state == MUTE) {
        close_side(c, side, false);
    } else if (n < 0) {
        end(c, true);
    } else { /* a part of a frame comes through too */
        s->ended = true;
        append(&s->out, s->frame.data, s->frame.size);
    }
}

static void write_side(struct connection *c, struct stream *s, uint64_t now)
{
    size_t left = s->out.size - s->written;
    int fd = c->fd[1 - s->side];

    if (left == 0 || s->held_until_ns > now || c->state != OPEN || fd < 0)
        return;
    ssize_t n = send(fd, s->out.data + s->written, left, MSG_NOSIGNAL);
    if (n > 0)
        s->written += (size_t)n;
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        end(c, true);
        return;
    }
    if (s->written == s->out.size)
        s->written = s->out.size = 0;
}

/* What has come to its end. */
static void settle(struct connection *c, uint64_t now)
{
    if (c->state == MUTE && c->fd[0] < 0 && c->fd[1] < 0)
        end(c, false);
    if (c->state == OPEN || c->state == MUTE) {
        if (c->reset_at_ns && c->reset_at_ns <= now)
            end(c, true);
    }
    for (int side = 0; side < 2 && c->state == OPEN; side++)
        if (c->stream[side].ended && c->stream[side].out.size == 0)
            end(c, false);
}

static short wanted(const struct connection *c, int side, uint64_t now)
{
    const struct stream *in = &c->stream[side], *out = &c->stream[1 - side];
    bool reads = !in->ended && in->out.size - in->written < OUT_MAX;
    bool writes = c->state == OPEN && out->out.size > out->written && out->held_until_ns <= now;

    return (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0));
}

static size_t list_sockets(const struct proxy *proxy, struct pollfd *list)
{
    uint64_t now = rt_now_ns();
    size_t n = 0;

    for (size_t i = 0; i < proxy->n_listeners; i++)
        list[n++] = (struct pollfd){.fd = proxy->listener[i].fd, .events = POLLIN};
    for (size_t i = 0; i < proxy->n_connections; i++)
        for (int side = 0; side < 2; side++) {
            const struct connection *c = proxy->connection[i];
            list[n++] = (struct pollfd){.fd = c->state == FREE ? -1 : c->fd[side],
                                        .events = c->state == FREE ? 0 : wanted(c, side, now)};
        }
    return n;
}

static void serve(struct proxy *proxy, struct connection *c, const struct pollfd poll_of[2])
{
    uint64_t now = rt_now_ns();

    for (int side = 0; side < 2; side++)
        if (c->state != FREE && c->fd[side] >= 0 && c->fd[side] == poll_of[side].fd &&
            (poll_of[side].revents & (POLLIN | POLLHUP | POLLERR)))
            read_side(proxy, c, side);
    for (int side = 0; side < 2; side++)
        if (c->state == OPEN)
            write_side(c, &c->stream[side], now);
    settle(c, now);
}

void proxy_turn(struct proxy *proxy, int ms)
{
    static struct pollfd list[LISTENERS_MAX + 2 * CONNECTIONS_MAX];
    uint64_t end_ns = rt_now_ns() + (uint64_t)ms * RT_MS;

    do {
        size_t old = proxy->n_connections, n = list_sockets(proxy, list);

        poll(list, n, TICK_MS);
        for (size_t i = 0; i < old; i++)
            serve(proxy, proxy->connection[i], &list[proxy->n_listeners + 2 * i]);
        for (size_t i = 0; i < proxy->n_listeners; i++)
            if (list[i].revents & POLLIN)
                accept_one(proxy, i);
    } while (rt_now_ns() < end_ns);
}

/* ---- faults ---- */

static void replay(struct proxy *proxy, const struct connection *c)
{
    size_t n = c->n_kept - 1, from = n > KEPT ? n - KEPT : 0;
    struct connection *ghost = connection_new(proxy, -1, &c->to);

    if (!ghost)
        return;
    append(&ghost->stream[0].out, c->first.data, c->first.size);
    for (size_t i = from; i < n; i++)
        append(&ghost->stream[0].out, c->last[i % KEPT].data, c->last[i % KEPT].size);
    ghost->ghost = true;
    ghost->stream[1].swallows = true;
    ghost->reset_at_ns = rt_now_ns() + GHOST_NS + draw(proxy, GHOST_NS);
}

static void half_open(struct proxy *proxy, struct connection *c)
{
    c->state = MUTE;
    c->stream[0].swallows = c->stream[1].swallows = true;
    c->reset_at_ns = rt_now_ns() + MUTE_MAX_NS;
    if (draw(proxy, 2))
        close_side(c, (int)draw(proxy, 2), true);
}

static bool is_open(const struct connection *c)
{
    return c->state == OPEN && !c->ghost && !c->reset_at_ns && c->n_kept > 1 && !c->doubles &&
           !c->stream[0].cuts && !c->stream[1].cuts && !c->stream[0].ended && !c->stream[1].ended;
}

static struct connection *draw_connection(struct proxy *proxy)
{
    struct connection *found = NULL;
    uint64_t n = 0;

    for (size_t i = 0; i < proxy->n_connections; i++)
        if (is_open(proxy->connection[i]) && draw(proxy, ++n) == 0)
            found = proxy->connection[i];
    return found;
}

bool proxy_fault(struct proxy *proxy, enum proxy_fault kind)
{
    struct connection *c = draw_connection(proxy);
    struct stream *s = c ? &c->stream[draw(proxy, 2)] : NULL;

    if (!c)
        return false;
    switch (kind) {
    case PROXY_DELAY:
        s->held_until_ns = rt_now_ns() + draw(proxy, DELAY_MAX_NS);
        break;
    case PROXY_DROP:
        s->swallows = true;
        c->reset_at_ns = rt_now_ns() + draw(proxy, DROP_MAX_NS);
        break;
    case PROXY_DUPLICATE:
        c->doubles = true;
        return true; /* counted when it has happened */
    case PROXY_TRUNCATE:
        s->cuts = true;
        return true;
    case PROXY_REPLAY:
        replay(proxy, c);
        break;
    case PROXY_RESET:
        end(c, true);
        break;
    default:
        half_open(proxy, c);
    }
    proxy->count[kind]++;
    return true;
}

/* ---- life ---- */

int proxy_create(const struct proxy_conf *conf, struct proxy **out)
{
    struct proxy *proxy = rt_xcalloc(1, sizeof(*proxy));

    proxy->conf = *conf;
    proxy->key = rt_draw_key(conf->seed, "proxy", NULL);
    proxy->scratch = rt_xmalloc(READ_BYTES);
    *out = proxy;
    return 0;
}

int proxy_add(struct proxy *proxy, const char *listen_at, uint16_t port, const char *to,
              uint16_t to_port)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    struct sockaddr_in at;
    socklen_t size = sizeof(at);
    size_t n = proxy->n_listeners;

    rt_assert(n < LISTENERS_MAX);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (fd < 0 || address_of(listen_at, port, &at) != 0 ||
        address_of(to, to_port, &proxy->listener[n].to) != 0 ||
        bind(fd, (struct sockaddr *)&at, sizeof(at)) != 0 || listen(fd, 128) != 0 ||
        getsockname(fd, (struct sockaddr *)&at, &size) != 0) {
        if (fd >= 0)
            close(fd);
        return -1;
    }
    proxy->listener[n].fd = fd;
    proxy->n_listeners++;
    return ntohs(at.sin_port);
}

uint64_t proxy_count(const struct proxy *proxy, enum proxy_fault kind)
{
    return proxy->count[kind];
}

uint64_t proxy_connections(const struct proxy *proxy)
{
    return proxy->connections;
}

void proxy_destroy(struct proxy *proxy)
{
    if (!proxy)
        return;
    for (size_t i = 0; i < proxy->n_connections; i++) {
        if (proxy->connection[i]->state != FREE)
            end(proxy->connection[i], true);
        rt_free(proxy->connection[i]);
    }
    for (size_t i = 0; i < proxy->n_listeners; i++)
        close(proxy->listener[i].fd);
    rt_free(proxy->scratch);
    rt_free(proxy);
}
