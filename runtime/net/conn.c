/* runtime/net/conn.c -- framed connections on uv_stream: TCP with TCP_NODELAY, and Unix sockets.
 *
 *   CONNECTING -on_connected-> OPEN -rt_conn_close-> CLOSING -on_closed-> freed (after down())
 *   accepted links start OPEN; an error anywhere is rt_conn_close(link, err, why)
 *
 * IN. The kernel is read into one of two places. Headers and messages come through the loop's shared
 * read buffer, so a burst of small frames costs one system call; whatever of a frame is still
 * missing when the buffer is used up is kept in the link. As soon as a header is known, admit() has
 * given the payload's final buffer, and from then on the kernel writes straight into it: only the
 * bytes that came along with the header are copied. The checksum of a payload is taken stretch by
 * stretch while it is in the cache.
 *
 * OUT is conn_out.c. A TCP address is listened on, and reached on the same host, by a Unix socket too (near.h):
 * beside TCP it saves a job on one machine about 0.8 us of CPU a sample (configs/bench, all roles).
 *
 * Rejected: reading each header with a read of its own (twice the system calls for small frames). */
#include "runtime/net/conn_impl.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/address.h"
#include "runtime/net/near.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* One read of payload. libuv reads a socket up to 32 times before it looks at the next: 2 MiB then, well under 1 ms.
 * 256 KiB at once take the same CPU, on TCP and on Unix sockets (make bench BENCH=transport). */
#define READ_MAX (64u << 10)
#define BACKLOG  1024

struct rt_listener {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    struct rt_loop *loop;
    struct rt_listener *prev, *next;
    rt_accept_fn accept;
    void *arg;
    bool local;
    char name[RT_ADDRESS_MAX];
    struct rt_listener *near; /* the short way to it (near.h); NULL: none */
};

/* ---- links and how they end ---- */

static struct rt_link *link_new(struct rt_loop *loop, bool local, const char *name)
{
    struct rt_link *link = rt_xcalloc(1, sizeof(*link));
    int err =
        local ? uv_pipe_init(&loop->uv, &link->uv.pipe, 0) : uv_tcp_init(&loop->uv, &link->uv.tcp);
    rt_assert(err == 0);
    link->uv.handle.data = link;
    link->loop = loop;
    link->local = local;
    link->end = &link->first;
    snprintf(link->name, sizeof(link->name), "%s", name);
    link->next = loop->links;
    if (link->next)
        link->next->prev = link;
    loop->links = link;
    return link;
}

static void link_free(struct rt_link *link)
{
    rt_free(link->rest);
    *(link->prev ? &link->prev->next : &link->loop->links) = link->next;
    if (link->next)
        link->next->prev = link->prev;
    rt_link_drop_outs(link);
    rt_buf_unref(link->payload);
    rt_free(link->message);
    rt_unlz_release(&link->unlz);
    rt_free(link);
}

static void on_closed(uv_handle_t *handle)
{
    struct rt_link *link = handle->data;
    rt_loop_woke(link->loop);
    if (link->events)
        link->events->down(link->arg, link->err, link->why);
    link_free(link);
}

void rt_conn_close(struct rt_link *link, int err, const char *why)
{
    if (link->state == LINK_CLOSING)
        return;
    bool was_open = link->state == LINK_OPEN;
    link->state = LINK_CLOSING;
    link->err = err;
    snprintf(link->why, sizeof(link->why), "%s", why);
    rt_link_leave_round(link);
    rt_timer_stop(&link->loop->io, &link->connected);
    rt_timer_stop(&link->loop->io, &link->resumed);
    if (was_open)
        rt_link_flush(link);
    uv_close(&link->uv.handle, on_closed);
}

void rt_link_fail(struct rt_link *link, int err, const char *doing)
{
    char why[160];
    if (err == UV_EOF)
        snprintf(why, sizeof(why), "closed by the other end");
    else
        snprintf(why, sizeof(why), "%s: %s", doing, uv_strerror(err));
    rt_conn_close(link, err == UV_EOF ? RT_EPEER : err, why);
}

void rt_conn_set(struct rt_link *link, const struct rt_link_events *events, void *arg)
{
    link->events = events;
    link->arg = arg;
    if (!events)
        rt_conn_close(link, RT_ECANCELED, "given up by its owner");
}

const char *rt_conn_name(const struct rt_link *link)
{
    return link->name;
}

bool rt_conn_checks(const struct rt_link *link)
{
    return !link->local;
}

size_t rt_conn_queued(const struct rt_link *link)
{
    if (!link->writing)
        return link->queued;
    return link->queued - (link->writing - uv_stream_get_write_queue_size(&link->uv.stream));
}

/* ---- in ---- */

static void begin_frame(struct rt_link *link)
{
    struct rt_header *header = &link->header;
    int err = rt_header_decode(link->head, header);
    if (!err && !link->local && (header->flags & RT_FRAME_NO_PAYLOAD_CRC))
        err = RT_FAIL(RT_EPROTO, "frame field flags: expected a payload checksum on TCP, got none");
    if (!err)
        err = link->events->admit(link->arg, header, &link->payload);
    link->discard = err == RT_EFULL;
    if (err && !link->discard) {
        rt_conn_close(link, err, rt_err_text());
        return;
    }
    if (link->payload) {
        rt_assert(link->payload->capacity >= header->payload_size);
        link->payload->size = header->payload_size;
    } else {
        rt_assert(link->discard || header->payload_size == 0);
    }
    link->payload_crc = 0;
    link->packed_got = 0;
    link->in = IN_MESSAGE;
    link->got = 0;
}

/* The checksum is that of the raw bytes, which a packed payload that is thrown away is never turned into. */
static bool has_checksum(const struct rt_link *link)
{
    return !(link->header.flags & RT_FRAME_NO_PAYLOAD_CRC) &&
           !(link->discard && (link->header.flags & RT_FRAME_LZ4));
}

static void end_frame(struct rt_link *link)
{
    struct rt_header *header = &link->header;
    struct rt_buf *payload = link->payload;
    if (has_checksum(link) && link->payload_crc != header->payload_crc) {
        rt_fail(RT_EPROTO, "frame field payload_crc: expected 0x%08x, got 0x%08x",
                link->payload_crc, header->payload_crc);
        rt_conn_close(link, RT_EPROTO, rt_err_text());
        return;
    }
    if (link->discard)
        header->flags |= RT_FRAME_DISCARDED;
    header->flags &= (uint16_t)~RT_FRAME_LZ4;
    link->in = IN_HEADER;
    link->got = 0;
    link->payload = NULL;
    link->events->frame(link->arg, &(struct rt_frame){*header, link->message_at, payload});
    rt_buf_unref(payload);
    if (link->message_capacity > RT_KEPT_BYTES) {
        rt_free(link->message);
        link->message = NULL;
        link->message_capacity = 0;
    }
}

static void end_message(struct rt_link *link)
{
    if (rt_header_verify(link->head, link->message_at, link->header.message_size)) {
        rt_conn_close(link, RT_EPROTO, rt_err_text());
        return;
    }
    link->in = IN_PAYLOAD;
    link->got = 0;
    if (link->header.payload_size == 0)
        end_frame(link);
}

static void took_payload(struct rt_link *link, const uint8_t *at, size_t n)
{
    if (has_checksum(link))
        link->payload_crc = rt_crc32c(link->payload_crc, at, n);
    link->got += n;
    if (link->got == link->header.payload_size)
        end_frame(link);
}

static size_t feed_header(struct rt_link *link, const uint8_t *data, size_t n)
{
    size_t take = RT_FRAME_HEADER_SIZE - link->got;
    take = take < n ? take : n;
    memcpy(link->head + link->got, data, take);
    link->got += take;
    if (link->got < RT_FRAME_HEADER_SIZE)
        return take;
    begin_frame(link);
    if (link->state == LINK_OPEN && link->header.message_size == 0) {
        link->message_at = NULL;
        end_message(link);
    }
    return take;
}

/* A message is used where it was read if the rest of its frame is there too; else it is kept. (A packed payload may be
 * longer than it is raw, by the heads of its blocks.) */
static size_t feed_message(struct rt_link *link, const uint8_t *data, size_t n)
{
    size_t size = link->header.message_size, take = size - link->got;
    if (link->got == 0 && n >= size && n - size >= link->header.payload_size &&
        !(link->header.flags & RT_FRAME_LZ4)) {
        link->message_at = data;
        end_message(link);
        return size;
    }
    if (link->message_capacity < size) {
        rt_free(link->message);
        link->message = rt_try_malloc(size);
        link->message_capacity = link->message ? size : 0;
        if (!link->message) {
            rt_fail(RT_ENOMEM, "no memory for a message of %zu bytes", size);
            rt_conn_close(link, RT_ENOMEM, rt_err_text());
            return n;
        }
    }
    take = take < n ? take : n;
    memcpy(link->message + link->got, data, take);
    link->got += take;
    link->message_at = link->message;
    if (link->got == size)
        end_message(link);
    return take;
}

/* One block of a packed payload, or what there is of it. */
static size_t feed_packed(struct rt_link *link, const uint8_t *data, size_t n)
{
    const struct rt_header *header = &link->header;
    size_t left = header->payload_size - link->got, room = header->packed_size - link->packed_got;
    uint8_t *out = link->discard ? NULL : link->payload->data + link->got;
    size_t took, made;
    int err = rt_unlz_feed(&link->unlz, data, n < room ? n : room, left, out, &took, &made);
    link->packed_got += took;
    if (!err && (link->packed_got == header->packed_size) != (made == left))
        err = RT_FAIL(RT_EPROTO,
                      "frame field packed_size: expected the payload's %llu bytes in %u, got %zu "
                      "bytes in %zu",
                      (unsigned long long)header->payload_size, header->packed_size,
                      (size_t)(header->payload_size - left + made), link->packed_got);
    if (err) {
        rt_conn_close(link, err, rt_err_text());
        return n;
    }
    if (made > 0)
        took_payload(link, out, made);
    return took;
}

static size_t feed_payload(struct rt_link *link, const uint8_t *data, size_t n)
{
    if (link->header.flags & RT_FRAME_LZ4)
        return feed_packed(link, data, n);
    uint64_t left = link->header.payload_size - link->got;
    size_t take = left < n ? (size_t)left : n;
    if (!link->discard)
        memcpy(link->payload->data + link->got, data, take);
    took_payload(link, data, take);
    return take;
}

/* n bytes from the read buffer. Any callback in between may close the link, or pause it. Returns what was used. */
static size_t feed(struct rt_link *link, const uint8_t *data, size_t n)
{
    size_t at = 0;
    while (at < n && link->state == LINK_OPEN && !link->paused) {
        if (link->in == IN_HEADER)
            at += feed_header(link, data + at, n - at);
        else if (link->in == IN_MESSAGE)
            at += feed_message(link, data + at, n - at);
        else
            at += feed_payload(link, data + at, n - at);
    }
    return at;
}

/* Read with the frame that paused the link: at most one read buffer. */
static void keep_rest(struct rt_link *link, const uint8_t *data, size_t n)
{
    if (n == 0 || link->state != LINK_OPEN)
        return;
    if (!link->rest)
        link->rest = rt_xmalloc(RT_LOOP_READ_SIZE);
    memcpy(link->rest, data, n);
    link->rest_at = 0;
    link->rest_size = n;
}

static bool reads_in_place(const struct rt_link *link)
{
    return link->in == IN_PAYLOAD && !link->discard && !(link->header.flags & RT_FRAME_LZ4);
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct rt_link *link = handle->data;
    (void)suggested;
    rt_loop_woke(link->loop);
    if (reads_in_place(link)) {
        uint64_t left = link->header.payload_size - link->got;
        *out = uv_buf_init((char *)link->payload->data + link->got,
                           left < READ_MAX ? (unsigned)left : READ_MAX);
    } else {
        *out = uv_buf_init((char *)link->loop->read_buffer, RT_LOOP_READ_SIZE);
    }
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct rt_link *link = stream->data;
    if (n == 0 || link->state != LINK_OPEN)
        return;
    if (n < 0) {
        rt_link_fail(link, (int)n, "read");
        return;
    }
    if (link->events->bytes)
        link->events->bytes(link->arg);
    if (link->state != LINK_OPEN)
        return;
    if (reads_in_place(link))
        took_payload(link, (const uint8_t *)buf->base, (size_t)n);
    else {
        size_t used = feed(link, (const uint8_t *)buf->base, (size_t)n);
        keep_rest(link, (const uint8_t *)buf->base + used, (size_t)n - used);
    }
}

/* ---- connecting, accepting ---- */

static void open_link(struct rt_link *link)
{
    link->state = LINK_OPEN;
    if (!link->local)
        uv_tcp_nodelay(&link->uv.tcp, 1);
}

static void start_reading(struct rt_link *link)
{
    int err = uv_read_start(&link->uv.stream, on_alloc, on_read);
    if (err)
        rt_link_fail(link, err, "read");
}

/* From the loop, as everything that is told: what was kept first, and then the socket. */
static void on_resumed(void *arg)
{
    struct rt_link *link = arg;
    rt_loop_woke(link->loop);
    size_t used = feed(link, link->rest + link->rest_at, link->rest_size);
    link->rest_at += used;
    link->rest_size -= used;
    if (link->state == LINK_OPEN && !link->paused)
        start_reading(link);
}

void rt_conn_pause(struct rt_link *link, bool pause)
{
    if (link->state != LINK_OPEN || link->paused == pause)
        return;
    link->paused = pause;
    if (pause) {
        rt_timer_stop(&link->loop->io, &link->resumed);
        uv_read_stop(&link->uv.stream);
        return;
    }
    link->resumed.fire = on_resumed;
    link->resumed.arg = link;
    rt_timer_start(&link->loop->io, &link->resumed, 0);
}

static void on_connected(uv_connect_t *req, int err)
{
    struct rt_link *link = req->data;
    rt_loop_woke(link->loop);
    if (link->state == LINK_CLOSING)
        return;
    if (err) {
        rt_link_fail(link, err, "connect");
        return;
    }
    open_link(link);
    start_reading(link);
    if (link->state == LINK_OPEN && link->events->up)
        link->events->up(link->arg);
}

static void on_near_connected(void *arg)
{
    struct rt_link *link = arg;
    on_connected(&link->connecting, 0);
}

int rt_conn_connect(struct rt_io *io, const char *address, const struct rt_link_events *events,
                    void *arg, struct rt_link **out)
{
    struct rt_address a;
    int err = rt_address_parse(address, &a);
    if (err)
        return err;
    int near = rt_near_is(&a) ? rt_near_connect(&a) : -1;
    struct rt_link *link = link_new((struct rt_loop *)io, a.local || near >= 0, address);
    link->events = events;
    link->arg = arg;
    link->connecting.data = link;
    if (near >= 0) {
        link->connected.fire = on_near_connected;
        link->connected.arg = link;
        err = uv_pipe_open(&link->uv.pipe, near);
        if (err)
            close(near);
        else
            rt_timer_start(io, &link->connected, 0);
    } else if (a.local)
        uv_pipe_connect(&link->connecting, &link->uv.pipe, a.path, on_connected);
    else
        err = uv_tcp_connect(&link->connecting, &link->uv.tcp, &a.sock.any, on_connected);
    if (err)
        rt_link_fail(link, err, "connect");
    *out = link;
    return 0;
}

static void name_incoming(struct rt_link *link, const struct rt_listener *listener)
{
    struct sockaddr_storage peer;
    int size = sizeof(peer);
    uv_os_fd_t fd = -1;
    if (!link->local && uv_tcp_getpeername(&link->uv.tcp, (struct sockaddr *)&peer, &size) == 0) {
        rt_address_print((struct sockaddr *)&peer, link->name);
        return;
    }
    uv_fileno(&link->uv.handle, &fd);
    snprintf(link->name, sizeof(link->name), "%s#%d", listener->name, (int)fd);
}

static void on_incoming(uv_stream_t *stream, int err)
{
    struct rt_listener *listener = stream->data;
    rt_loop_woke(listener->loop);
    if (err)
        return; /* too many files, or it is gone again: the listener goes on */
    struct rt_link *link = link_new(listener->loop, listener->local, listener->name);
    err = uv_accept(stream, &link->uv.stream);
    if (err) {
        rt_link_fail(link, err, "accept");
        return;
    }
    open_link(link);
    name_incoming(link, listener);
    listener->accept(listener->arg, link);
    if (!link->events)
        rt_conn_close(link, RT_ECANCELED, "nobody wants it");
    if (link->state == LINK_OPEN)
        start_reading(link);
}

/* ---- listening ---- */

static int bind_listener(struct rt_listener *listener, struct rt_address *a)
{
    struct sockaddr_storage got;
    int err, size = sizeof(got);
    if (a->local) {
        err = rt_address_sweep(a);
        return err ? err : uv_pipe_bind(&listener->uv.pipe, a->path);
    }
    err = uv_tcp_bind(&listener->uv.tcp, &a->sock.any, 0);
    if (!err)
        err = uv_tcp_getsockname(&listener->uv.tcp, (struct sockaddr *)&got, &size);
    if (!err)
        rt_address_print((struct sockaddr *)&got, listener->name);
    return err;
}

static void on_listener_closed(uv_handle_t *handle)
{
    struct rt_listener *listener = handle->data;
    *(listener->prev ? &listener->prev->next : &listener->loop->listeners) = listener->next;
    if (listener->next)
        listener->next->prev = listener->prev;
    rt_free(listener);
}

void rt_conn_unlisten(struct rt_listener *listener)
{
    if (listener)
        rt_conn_unlisten(listener->near);
    if (listener && !uv_is_closing(&listener->uv.handle))
        uv_close(&listener->uv.handle, on_listener_closed);
}

static struct rt_listener *listener_new(struct rt_loop *loop, const char *name, bool local,
                                        rt_accept_fn accept, void *arg)
{
    struct rt_listener *listener = rt_xcalloc(1, sizeof(*listener));
    *listener = (struct rt_listener){.loop = loop, .accept = accept, .arg = arg, .local = local};
    int err = local ? uv_pipe_init(&loop->uv, &listener->uv.pipe, 0)
                    : uv_tcp_init(&loop->uv, &listener->uv.tcp);
    rt_assert(err == 0);
    listener->uv.handle.data = listener;
    listener->next = loop->listeners;
    if (listener->next)
        listener->next->prev = listener;
    loop->listeners = listener;
    snprintf(listener->name, sizeof(listener->name), "%s", name);
    return listener;
}

/* The short way to a TCP listener; without it there is TCP. */
static void listen_near(struct rt_listener *listener)
{
    int fd = rt_near_bind(listener->name);
    if (fd < 0)
        return;
    listener->near =
        listener_new(listener->loop, listener->name, true, listener->accept, listener->arg);
    if (uv_pipe_open(&listener->near->uv.pipe, fd) != 0) {
        close(fd);
    } else if (uv_listen(&listener->near->uv.stream, BACKLOG, on_incoming) == 0) {
        return;
    }
    rt_conn_unlisten(listener->near);
    listener->near = NULL;
}

int rt_conn_listen(struct rt_io *io, const char *address, rt_accept_fn accept, void *arg,
                   char bound[RT_ADDRESS_MAX], struct rt_listener **out)
{
    struct rt_address a;
    int err = rt_address_parse(address, &a);
    if (err)
        return err;
    struct rt_listener *listener =
        listener_new((struct rt_loop *)io, address, a.local, accept, arg);
    err = bind_listener(listener, &a);
    if (!err)
        err = uv_listen(&listener->uv.stream, BACKLOG, on_incoming);
    if (err) {
        rt_conn_unlisten(listener);
        return RT_FAIL(err, "listen on %s: %s", address,
                       err == RT_EUSAGE ? rt_err_text() : uv_strerror(err));
    }
    if (!a.local)
        listen_near(listener);
    snprintf(bound, RT_ADDRESS_MAX, "%s", listener->name);
    *out = listener;
    return 0;
}

/* ---- the end of the loop ---- */

void rt_conns_close_all(struct rt_loop *loop)
{
    for (struct rt_link *link = loop->links; link; link = link->next)
        rt_conn_close(link, RT_ECANCELED, "the event loop ends");
    for (struct rt_listener *listener = loop->listeners; listener; listener = listener->next)
        rt_conn_unlisten(listener);
}
