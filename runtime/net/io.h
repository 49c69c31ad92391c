/* runtime/net/io.h -- the world as role logic sees it: links, time, timers, randomness, files, helpers.
 *
 * Role logic is written against `struct rt_io` only. Two implementations exist: runtime/net/loop.c on
 * libuv, where one rt_io is one event loop on one thread, and tests/sim/sim_io.c, where many rt_io
 * live in one thread under a simulated clock and network with a seed. Everything here (but
 * rt_io_work_tell) is called on the io's own thread and calls back on it; nothing calls back from inside the call that started it.
 *
 *   link:  connect/accept -> up -> frames both ways -> down (once, for whatever reason)
 * A link carries whole frames in order; it knows nothing of requests, peers or heartbeats: rpc.h does. */
#ifndef RT_IO_H
#define RT_IO_H

#include "runtime/net/frame.h"

#include <sys/types.h>

struct rt_io;
struct rt_link;
struct rt_listener;
struct rt_file;

#define RT_ADDRESS_MAX 128 /* "tcp:127.0.0.1:4000" | "unix:/run/x.sock" (address.h); sim: "sim:3" */

/* One-shot timer; embed it in the owner. Zero-initialise, set fire and arg, start. */
struct rt_timer {
    void (*fire)(void *arg);
    void *arg;
    void *impl; /* private to the io */
};

/* A long job for the io's worker thread (first in, first out): run() there, then done() here. Meanwhile run() may say
 * how far it is: rt_io_work_tell(). One that waits for the disk for so long that others should not wait for it goes to a second
 * thread, in its own order, and does not tell. */
struct rt_work {
    void (*run)(void *arg);
    void (*done)(void *arg);
    void (*told)(void *arg, uint64_t what); /* of a job that tells; here, before done() */
    void *arg;
    bool disk;            /* on the second thread */
    struct rt_work *next; /* private to the io */
};

/* What the owner of a link gets to hear. `arg` is the link's own (rt_link_set_arg). */
struct rt_link_events {
    /* As soon as a header has come, before anything is allocated for its frame: check limits and give
     * the buffer the payload shall land in. The checksum comes later, so change no state here; when
     * it fails, the buffer is released and the link closed.
     * 0: *out has capacity for header->payload_size (NULL legal when that is 0). RT_EFULL: the
     * payload is read and thrown away, frame() gets RT_FRAME_DISCARDED. Else: the link is closed. */
    int (*admit)(void *arg, const struct rt_header *header, struct rt_buf **out);
    void (*up)(void *arg); /* an outgoing connect succeeded */
    void (*frame)(void *arg, const struct rt_frame *frame);
    void (*bytes)(void *arg);   /* anything arrived: a sign of life */
    void (*drained)(void *arg); /* what link_watch asked for; NULL where nobody does */
    void (*down)(void *arg, int err, const char *why); /* last call; the link is gone after it */
};

/* A new incoming link: set its events and arg now. */
typedef void (*rt_accept_fn)(void *arg, struct rt_link *link);

struct rt_io_ops {
    uint64_t (*now_ns)(struct rt_io *io);  /* monotonic */
    uint64_t (*wall_ms)(struct rt_io *io); /* for names, logs and incarnations only */
    uint64_t (*random)(struct rt_io *io);  /* jitter, request ids; never for training */
    void (*timer_start)(struct rt_io *io, struct rt_timer *timer, uint64_t after_ns); /* restarts */
    void (*timer_stop)(struct rt_io *io, struct rt_timer *timer); /* before its owner is freed */
    /* Port 0 picks a free one; `bound` gets the address peers can use. */
    int (*listen)(struct rt_io *io, const char *address, rt_accept_fn accept, void *arg,
                  char bound[RT_ADDRESS_MAX], struct rt_listener **out);
    void (*unlisten)(struct rt_listener *listener);
    /* Starts; up() or down() follows. An address that cannot be parsed fails at once. */
    int (*connect)(struct rt_io *io, const char *address, const struct rt_link_events *events,
                   void *arg, struct rt_link **out);
    /* NULL events: the owner goes first; close the link at once, nobody hears of it again. */
    void (*link_set)(struct rt_link *link, const struct rt_link_events *events, void *arg);
    /* Version, sizes and checksums of the header are filled in here (but for RT_FRAME_CRC_KNOWN). message is copied; pieces are referenced until
     * they have left (or the link is down). With a maker there is one piece, whose memory is filled meanwhile. Never blocks; RT_EPEER when the link is closing. */
    int (*link_send)(struct rt_link *link, struct rt_header *header, const void *message,
                     size_t message_size, const struct rt_piece *pieces, size_t n_pieces,
                     const struct rt_maker *maker);
    bool (*link_checks)(const struct rt_link *link);   /* its payloads travel with a checksum */
    size_t (*link_queued)(const struct rt_link *link); /* bytes accepted, not yet with the kernel */
    /* drained() is called once, later, when at most `low` bytes are queued. The latest call holds; a link that goes
     * down does not tell. */
    void (*link_watch)(struct rt_link *link, size_t low);
    /* Stop reading after the frame that is being told of, or go on. Nothing is lost; what was sent here waits, with
     * the end of the link if that comes. */
    void (*link_pause)(struct rt_link *link, bool pause);
    /* down() follows, later. What fits into the kernel's buffer is still sent; nothing more is read. */
    void (*link_close)(struct rt_link *link, int err, const char *why);
    const char *(*link_name)(const struct rt_link *link); /* the other end, for messages */
    void (*work)(struct rt_io *io, struct rt_work *work);
    /* In run(), on the worker: told(what) is called soon, unless something was told later, or the job is done. What was written
     * before is seen there. */
    void (*work_tell)(struct rt_io *io, struct rt_work *work, uint64_t what);
    int (*file_open)(struct rt_io *io, const char *path, struct rt_file **out); /* for reading */
    ssize_t (*file_read)(struct rt_file *file, void *out, size_t size); /* 0 at the end; <0 error */
    void (*file_close)(struct rt_file *file);
    struct rt_pool *(*pool)(struct rt_io *io); /* payload buffers of this io */
};

struct rt_io {
    const struct rt_io_ops *ops; /* implementations embed rt_io as their first member */
};

/* Short forms. */
static inline uint64_t rt_io_now(struct rt_io *io)
{
    return io->ops->now_ns(io);
}
static inline void rt_timer_start(struct rt_io *io, struct rt_timer *timer, uint64_t after_ns)
{
    io->ops->timer_start(io, timer, after_ns);
}
static inline void rt_timer_stop(struct rt_io *io, struct rt_timer *timer)
{
    io->ops->timer_stop(io, timer);
}
static inline void rt_io_work(struct rt_io *io, struct rt_work *work)
{
    io->ops->work(io, work);
}
static inline void rt_io_work_tell(struct rt_io *io, struct rt_work *work, uint64_t what)
{
    io->ops->work_tell(io, work, what);
}
static inline struct rt_buf *rt_io_buf(struct rt_io *io, size_t size)
{
    return rt_buf_new(io->ops->pool(io), size);
}

#endif
