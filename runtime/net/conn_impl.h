/* runtime/net/conn_impl.h -- the inside of struct rt_link, shared by conn.c and conn_out.c only. */
#ifndef RT_CONN_IMPL_H
#define RT_CONN_IMPL_H

#include "runtime/net/conn.h"
#include "runtime/net/loop_impl.h"
#include "runtime/net/lz.h"

#define RT_KEPT_BYTES (64u << 10) /* larger message blocks are not kept */

enum rt_link_state { LINK_CONNECTING, LINK_OPEN, LINK_CLOSING };
enum rt_in_state { IN_HEADER, IN_MESSAGE, IN_PAYLOAD };

struct rt_link {
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } uv;
    uv_connect_t connecting;
    struct rt_timer connected; /* of a link that needed no waiting: up() comes from the loop */
    uv_write_t write;
    struct rt_loop *loop;
    struct rt_link *prev, *next; /* in loop->links */
    struct rt_link *dirty_next;  /* in loop->dirty */
    const struct rt_link_events *events;
    void *arg;
    enum rt_link_state state;
    bool local; /* a Unix socket */
    bool is_dirty;
    int err; /* why it is closing */
    char why[256];
    char name[RT_ADDRESS_MAX + 16];

    /* in */
    enum rt_in_state in;
    bool discard; /* over budget: read and forget the payload */
    uint8_t head[RT_FRAME_HEADER_SIZE];
    struct rt_header header;
    size_t got;       /* bytes of the current part (header, message or payload) */
    uint8_t *message; /* own memory, for a message that does not come whole */
    size_t message_capacity;
    const uint8_t *message_at; /* where the current message is */
    struct rt_buf *payload;
    uint32_t payload_crc;
    bool paused;
    struct rt_timer resumed;
    uint8_t *
        rest; /* [rest_size] from rest_at on: read when the link was paused, not yet looked at; NULL: never was */
    size_t rest_at, rest_size;
    struct rt_unlz unlz; /* of a packed payload; `got` then counts raw bytes */
    size_t packed_got;

    /* out */
    struct rt_out *first, **end;
    size_t queued, writing; /* bytes in all; bytes left with uv_write */
    bool watched;
    size_t low; /* drained() is due when at most so much is queued */
};

/* ---- conn.c ---- */
void rt_link_fail(struct rt_link *link, int uv_err,
                  const char *doing); /* close for libuv's error */

/* ---- conn_out.c ---- */
/* Give the kernel what it takes now. On a link that is closing: once, and what is left is lost. */
void rt_link_flush(struct rt_link *link);
void rt_link_leave_round(struct rt_link *link); /* not to be flushed at the end of the round */
void rt_link_drop_outs(struct rt_link *link);

#endif
