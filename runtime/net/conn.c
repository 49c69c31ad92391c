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
 * OUT. A frame is a list of stretches: header and message (one recycled block), then the pieces, with
 * a static block of zeros for padding. Frames queue on the link and are handed to the kernel in one
 * gathered write, at the latest before the loop sleeps. uv_try_write takes what fits; for the rest
 * one uv_write of at most four stretches (as many as it holds without malloc) is left in libuv,
 * whose end continues the queue. Link blocks, frames and their arrays are recycled, so a message
 * costs no malloc at steady state.
 *
 * Rejected: one uv_write per frame (a system call and a malloc each), and reading each header with
 * a read of its own (twice the system calls for small frames). */
#include "runtime/net/conn.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/net/address.h"
#include "runtime/net/loop_impl.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FLUSH_BYTES     (64u << 10)  /* queued: do not wait for the end of the round */
#define GATHER_MAX      256          /* stretches in one write */
#define WRITE_MAX       4            /* stretches that uv_write keeps without malloc */
#define READ_MAX        (256u << 10) /* one read of payload: stays in the cache for its checksum */
#define OUTS_MAX        1024         /* recycled frames kept per loop */
#define KEPT_BYTES      (64u << 10)  /* larger message blocks are not kept */
#define BACKLOG         1024
#define UNIX_SOCK_BYTES (2 << 20) /* measured: 64 KB would halve the rate of 1 MB payloads */

static const uint8_t zeros[RT_SEGMENT_ALIGN];

/* An outgoing frame. */
struct rt_out {
    struct rt_out *next;
    uint8_t *head; /* header and message */
    size_t head_capacity;
    uv_buf_t *stretch; /* [n] what is to be written, from `at` on */
    unsigned n, at, capacity;
    struct rt_buf **ref; /* [n_refs], capacity as stretch */
    unsigned n_refs;
};

enum link_state { LINK_CONNECTING, LINK_OPEN, LINK_CLOSING };
enum in_state { IN_HEADER, IN_MESSAGE, IN_PAYLOAD };

struct rt_link {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    uv_connect_t connecting;
    uv_write_t write;
    struct rt_loop *loop;
    struct rt_link *prev, *next; /* in loop->links */
    struct rt_link *dirty_next;  /* in loop->dirty */
    const struct rt_link_events *events;
    void *arg;
    enum link_state state;
    bool local; /* a Unix socket */
    bool is_dirty;
    int err; /* why it is closing */
    char why[256];
    char name[RT_ADDRESS_MAX + 16];

    /* in */
    enum in_state in;
    bool discard; /* over budget: read and forget the payload */
    uint8_t head[RT_FRAME_HEADER_SIZE];
    struct rt_header header;
    size_t got;       /* bytes of the current part (header, message or payload) */
    uint8_t *message; /* own memory, for a message that does not come whole */
    size_t message_capacity;
    const uint8_t *message_at; /* where the current message is */
    struct rt_buf *payload;
    uint32_t payload_crc;

    /* out */
    struct rt_out *first, **end;
    size_t queued, writing; /* bytes in all; bytes left with uv_write */
};

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

static void out_put(struct rt_loop *loop, struct rt_out *out)
{
    for (unsigned i = 0; i < out->n_refs; i++)
        rt_buf_unref(out->ref[i]);
    if (out->head_capacity <= KEPT_BYTES && loop->n_free_outs < OUTS_MAX) {
        out->next = loop->free_outs;
        loop->free_outs = out;
        loop->n_free_outs++;
        return;
    }
    rt_free(out->head);
    rt_free(out->stretch);
    rt_free(out->ref);
    rt_free(out);
}

static void link_free(struct rt_link *link)
{
    *(link->prev ? &link->prev->next : &link->loop->links) = link->next;
    if (link->next)
        link->next->prev = link->prev;
    while (link->first) {
        struct rt_out *out = link->first;
        link->first = out->next;
        out_put(link->loop, out);
    }
    rt_buf_unref(link->payload);
    rt_free(link->message);
    rt_free(link);
}

static void on_closed(uv_handle_t *handle)
{
    struct rt_link *link = handle->data;
    if (link->events)
        link->events->down(link->arg, link->err, link->why);
    link_free(link);
}

static void flush(struct rt_link *link);

static void unmark_dirty(struct rt_link *link)
{
    if (!link->is_dirty)
        return;
    struct rt_link **at = &link->loop->dirty;
    while (*at != link)
        at = &(*at)->dirty_next;
    *at = link->dirty_next;
    link->is_dirty = false;
}

void rt_conn_close(struct rt_link *link, int err, const char *why)
{
    if (link->state == LINK_CLOSING)
        return;
    bool was_open = link->state == LINK_OPEN;
    link->state = LINK_CLOSING;
    link->err = err;
    snprintf(link->why, sizeof(link->why), "%s", why);
    unmark_dirty(link);
    if (was_open)
        flush(link);
    uv_close(&link->uv.handle, on_closed);
}

static void close_uv(struct rt_link *link, int err, const char *doing)
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

size_t rt_conn_queued(const struct rt_link *link)
{
    return link->queued;
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
    link->in = IN_MESSAGE;
    link->got = 0;
}

static void end_frame(struct rt_link *link)
{
    struct rt_header *header = &link->header;
    struct rt_buf *payload = link->payload;
    if (!(header->flags & RT_FRAME_NO_PAYLOAD_CRC) && link->payload_crc != header->payload_crc) {
        rt_fail(RT_EPROTO, "frame field payload_crc: expected 0x%08x, got 0x%08x",
                link->payload_crc, header->payload_crc);
        rt_conn_close(link, RT_EPROTO, rt_err_text());
        return;
    }
    if (link->discard)
        header->flags |= RT_FRAME_DISCARDED;
    link->in = IN_HEADER;
    link->got = 0;
    link->payload = NULL;
    link->events->frame(link->arg, &(struct rt_frame){*header, link->message_at, payload});
    rt_buf_unref(payload);
    if (link->message_capacity > KEPT_BYTES) {
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
    if (!(link->header.flags & RT_FRAME_NO_PAYLOAD_CRC))
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

/* A message is used where it was read if the rest of its frame is there too; else it is kept. */
static size_t feed_message(struct rt_link *link, const uint8_t *data, size_t n)
{
    size_t size = link->header.message_size, take = size - link->got;
    if (link->got == 0 && n >= size && n - size >= link->header.payload_size) {
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

static size_t feed_payload(struct rt_link *link, const uint8_t *data, size_t n)
{
    uint64_t left = link->header.payload_size - link->got;
    size_t take = left < n ? (size_t)left : n;
    if (!link->discard)
        memcpy(link->payload->data + link->got, data, take);
    took_payload(link, data, take);
    return take;
}

/* n bytes from the read buffer. Any callback in between may close the link. */
static void feed(struct rt_link *link, const uint8_t *data, size_t n)
{
    while (n > 0 && link->state == LINK_OPEN) {
        size_t took;
        if (link->in == IN_HEADER)
            took = feed_header(link, data, n);
        else if (link->in == IN_MESSAGE)
            took = feed_message(link, data, n);
        else
            took = feed_payload(link, data, n);
        data += took;
        n -= took;
    }
}

static bool reads_in_place(const struct rt_link *link)
{
    return link->in == IN_PAYLOAD && !link->discard;
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *out)
{
    struct rt_link *link = handle->data;
    (void)suggested;
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
        close_uv(link, (int)n, "read");
        return;
    }
    if (link->events->bytes)
        link->events->bytes(link->arg);
    if (link->state != LINK_OPEN)
        return;
    if (reads_in_place(link))
        took_payload(link, (const uint8_t *)buf->base, (size_t)n);
    else
        feed(link, (const uint8_t *)buf->base, (size_t)n);
}

/* ---- out ---- */

/* A recycled frame with room for the head and the stretches. */
static struct rt_out *out_take(struct rt_loop *loop, size_t head_size, size_t n_pieces)
{
    unsigned stretches = 1 + 2 * (unsigned)n_pieces;
    struct rt_out *out = loop->free_outs;
    if (out) {
        loop->free_outs = out->next;
        loop->n_free_outs--;
    } else {
        out = rt_xcalloc(1, sizeof(*out));
    }
    if (out->head_capacity < head_size) {
        rt_free(out->head);
        out->head_capacity = head_size < 512 ? 512 : head_size;
        out->head = rt_xmalloc(out->head_capacity);
    }
    if (out->capacity < stretches) {
        rt_free(out->stretch);
        rt_free(out->ref);
        out->capacity = stretches < 9 ? 9 : stretches;
        out->stretch = rt_xmalloc(out->capacity * sizeof(out->stretch[0]));
        out->ref = rt_xmalloc(out->capacity * sizeof(struct rt_buf *));
    }
    out->next = NULL;
    out->n = out->at = out->n_refs = 0;
    return out;
}

/* Stretches that libuv takes are counted in `unsigned`: payloads are below 4 GiB. */
_Static_assert(RT_PAYLOAD_MAX < UINT_MAX, "a piece fits into one uv_buf_t");

static void out_add(struct rt_out *out, const void *data, size_t size)
{
    out->stretch[out->n++] = uv_buf_init((char *)data, (unsigned)size);
}

/* The payload's stretches and, on TCP, its checksum. Returns its size. */
static uint64_t out_payload(struct rt_out *out, const struct rt_piece *pieces, size_t n_pieces,
                            uint32_t *crc)
{
    size_t end = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        const struct rt_piece *piece = &pieces[i];
        size_t before = end, at = rt_segment_put(&end, piece->size);
        if (at > before) {
            out_add(out, zeros, at - before);
            if (crc)
                *crc = rt_crc32c(*crc, zeros, at - before);
        }
        if (piece->size == 0)
            continue;
        out_add(out, piece->data, piece->size);
        if (crc)
            *crc = rt_crc32c(*crc, piece->data, piece->size);
        if (piece->buf)
            out->ref[out->n_refs++] = rt_buf_ref(piece->buf);
    }
    return end;
}

/* Size of the payload, or RT_PAYLOAD_MAX + 1 when it is over that. */
static uint64_t payload_size(const struct rt_piece *pieces, size_t n_pieces)
{
    size_t end = 0;
    for (size_t i = 0; i < n_pieces; i++) {
        if (pieces[i].size > RT_PAYLOAD_MAX)
            return RT_PAYLOAD_MAX + 1;
        rt_segment_put(&end, pieces[i].size);
        if (end > RT_PAYLOAD_MAX)
            return RT_PAYLOAD_MAX + 1;
    }
    return end;
}

static void mark_dirty(struct rt_link *link)
{
    if (link->is_dirty)
        return;
    link->is_dirty = true;
    link->dirty_next = link->loop->dirty;
    link->loop->dirty = link;
}

/* Bytes that the kernel took: frames that left whole are recycled. */
static void advance(struct rt_link *link, size_t n)
{
    link->queued -= n;
    while (n > 0) {
        struct rt_out *out = link->first;
        uv_buf_t *stretch = &out->stretch[out->at];
        if (n < stretch->len) {
            stretch->base += n;
            stretch->len -= n;
            return;
        }
        n -= stretch->len;
        if (++out->at < out->n)
            continue;
        link->first = out->next;
        if (!link->first)
            link->end = &link->first;
        out_put(link->loop, out);
    }
}

static unsigned gather(const struct rt_link *link, uv_buf_t *bufs, unsigned max, size_t *bytes)
{
    unsigned n = 0;
    *bytes = 0;
    for (const struct rt_out *out = link->first; out && n < max; out = out->next) {
        for (unsigned i = out->at; i < out->n && n < max; i++) {
            bufs[n++] = out->stretch[i];
            *bytes += out->stretch[i].len;
        }
    }
    return n;
}

static void on_written(uv_write_t *req, int err)
{
    struct rt_link *link = req->data;
    if (link->state != LINK_OPEN)
        return;
    if (err) {
        close_uv(link, err, "write");
        return;
    }
    size_t n = link->writing;
    link->writing = 0;
    advance(link, n);
    flush(link);
}

/* Give the kernel what it takes now. On a link that is closing: once, and what is left is lost. */
static void flush(struct rt_link *link)
{
    uv_buf_t bufs[GATHER_MAX];
    while (link->queued && !link->writing) {
        size_t bytes;
        unsigned n = gather(link, bufs, GATHER_MAX, &bytes);
        int wrote = uv_try_write(&link->uv.stream, bufs, n);
        if (wrote < 0 && wrote != UV_EAGAIN) {
            close_uv(link, wrote, "write");
            return;
        }
        if (wrote > 0)
            advance(link, (size_t)wrote);
        if (wrote >= 0 && (size_t)wrote == bytes)
            continue;
        if (link->state != LINK_OPEN)
            return;
        n = gather(link, bufs, WRITE_MAX, &link->writing);
        link->write.data = link;
        int err = uv_write(&link->write, &link->uv.stream, bufs, n, on_written);
        if (err) {
            close_uv(link, err, "write");
            return;
        }
    }
}

void rt_conns_flush(struct rt_loop *loop)
{
    while (loop->dirty) {
        struct rt_link *link = loop->dirty;
        loop->dirty = link->dirty_next;
        link->is_dirty = false;
        if (link->state == LINK_OPEN)
            flush(link);
    }
}

int rt_conn_send(struct rt_link *link, struct rt_header *header, const void *message,
                 size_t message_size, const struct rt_piece *pieces, size_t n_pieces)
{
    struct rt_loop *loop = link->loop;
    rt_assert(rt_loop_is_current(loop));
    rt_assert(message_size <= RT_MESSAGE_MAX && n_pieces <= RT_SEGMENTS_MAX);
    if (link->state != LINK_OPEN)
        return RT_FAIL(RT_EPEER, "%s: not connected", link->name);
    header->payload_size = payload_size(pieces, n_pieces);
    if (header->payload_size > RT_PAYLOAD_MAX)
        return RT_FAIL(RT_ELIMIT, "%s: payload of a frame is over %llu bytes", link->name,
                       RT_PAYLOAD_MAX);
    size_t head_size = RT_FRAME_HEADER_SIZE + message_size;
    if (link->queued + head_size + header->payload_size > loop->queue_max) {
        rt_fail(RT_EFULL, "%zu bytes wait to be sent, the limit is %zu", link->queued,
                loop->queue_max);
        rt_conn_close(link, RT_EFULL, rt_err_text());
        return RT_EFULL;
    }
    struct rt_out *out = out_take(loop, head_size, n_pieces);
    out_add(out, out->head, head_size);
    header->version = RT_WIRE_VERSION;
    header->message_size = (uint32_t)message_size;
    header->payload_crc = 0;
    if (link->local)
        header->flags |= RT_FRAME_NO_PAYLOAD_CRC;
    out_payload(out, pieces, n_pieces, link->local ? NULL : &header->payload_crc);
    rt_header_encode(header, out->head);
    if (message_size)
        memcpy(out->head + RT_FRAME_HEADER_SIZE, message, message_size);
    rt_header_seal(out->head, out->head + RT_FRAME_HEADER_SIZE, message_size);
    *link->end = out;
    link->end = &out->next;
    link->queued += head_size + header->payload_size;
    if (link->queued >= FLUSH_BYTES)
        flush(link);
    else
        mark_dirty(link);
    return 0;
}

/* ---- connecting, accepting ---- */

static void open_link(struct rt_link *link)
{
    link->state = LINK_OPEN;
    if (link->local) {
        int bytes = UNIX_SOCK_BYTES;
        uv_send_buffer_size(&link->uv.handle, &bytes); /* the kernel's default serves if not */
    } else {
        uv_tcp_nodelay(&link->uv.tcp, 1);
    }
}

static void start_reading(struct rt_link *link)
{
    int err = uv_read_start(&link->uv.stream, on_alloc, on_read);
    if (err)
        close_uv(link, err, "read");
}

static void on_connected(uv_connect_t *req, int err)
{
    struct rt_link *link = req->data;
    if (link->state == LINK_CLOSING)
        return;
    if (err) {
        close_uv(link, err, "connect");
        return;
    }
    open_link(link);
    start_reading(link);
    if (link->state == LINK_OPEN && link->events->up)
        link->events->up(link->arg);
}

int rt_conn_connect(struct rt_io *io, const char *address, const struct rt_link_events *events,
                    void *arg, struct rt_link **out)
{
    struct rt_address a;
    int err = rt_address_parse(address, &a);
    if (err)
        return err;
    struct rt_link *link = link_new((struct rt_loop *)io, a.local, address);
    link->events = events;
    link->arg = arg;
    link->connecting.data = link;
    if (a.local)
        uv_pipe_connect(&link->connecting, &link->uv.pipe, a.path, on_connected);
    else
        err = uv_tcp_connect(&link->connecting, &link->uv.tcp, &a.sock.any, on_connected);
    if (err)
        close_uv(link, err, "connect");
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
    if (err)
        return; /* too many files, or it is gone again: the listener goes on */
    struct rt_link *link = link_new(listener->loop, listener->local, listener->name);
    err = uv_accept(stream, &link->uv.stream);
    if (err) {
        close_uv(link, err, "accept");
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
    if (listener && !uv_is_closing(&listener->uv.handle))
        uv_close(&listener->uv.handle, on_listener_closed);
}

int rt_conn_listen(struct rt_io *io, const char *address, rt_accept_fn accept, void *arg,
                   char bound[RT_ADDRESS_MAX], struct rt_listener **out)
{
    struct rt_loop *loop = (struct rt_loop *)io;
    struct rt_address a;
    int err = rt_address_parse(address, &a);
    if (err)
        return err;
    struct rt_listener *listener = rt_xcalloc(1, sizeof(*listener));
    *listener = (struct rt_listener){.loop = loop, .accept = accept, .arg = arg, .local = a.local};
    err = a.local ? uv_pipe_init(&loop->uv, &listener->uv.pipe, 0)
                  : uv_tcp_init(&loop->uv, &listener->uv.tcp);
    rt_assert(err == 0);
    listener->uv.handle.data = listener;
    listener->next = loop->listeners;
    if (listener->next)
        listener->next->prev = listener;
    loop->listeners = listener;
    snprintf(listener->name, sizeof(listener->name), "%s", address);
    err = bind_listener(listener, &a);
    if (!err)
        err = uv_listen(&listener->uv.stream, BACKLOG, on_incoming);
    if (err) {
        rt_conn_unlisten(listener);
        return RT_FAIL(err, "listen on %s: %s", address,
                       err == RT_EUSAGE ? rt_err_text() : uv_strerror(err));
    }
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

void rt_conns_release(struct rt_loop *loop)
{
    rt_assert(!loop->links && !loop->listeners);
    while (loop->free_outs) {
        struct rt_out *out = loop->free_outs;
        loop->free_outs = out->next;
        rt_free(out->head);
        rt_free(out->stretch);
        rt_free(out->ref);
        rt_free(out);
    }
}
