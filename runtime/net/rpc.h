/* runtime/net/rpc.h -- peers, requests and replies of one loop, on any rt_io.
 *
 * An rt_rpc is one end of the data plane: it listens (if told), keeps a connection to every peer that it
 * was told the address of, shakes hands, beats (a ping after 1 s without sending; dead after 5 s without
 * a byte), reconnects (back-off with jitter, at most 1 s), and matches replies with requests.
 *
 *   peer: ABSENT -set_address-> CONNECTING -connect ok-> GREETING -handshake ok-> UP
 *         any -link down-> WAITING -back-off-> CONNECTING;   a newer incarnation restarts at CONNECTING
 *
 * Calls: a call is sent once, on the connection that is up. When that connection is lost every
 * call on it fails with RT_EPEER; whether to ask again is the caller's decision, taken when up() tells
 * of the new connection. A deadline missed closes the connection (and so fails its other calls too).
 * Fencing: a peer whose incarnation is lower than one seen before is refused; the refusal names
 * the number held. A frame with another incarnation than its link's handshake closes the link.
 * Credit: what waits to be sent to one peer is bounded (credit.h). A call that would be over it is turned down with
 * RT_EFULL, and peer_drained tells when to try again; of a peer that does not take its replies nothing more is read.
 * Everything runs on the io's thread. */
#ifndef RT_RPC_H
#define RT_RPC_H

#include "runtime/base/histogram.h"
#include "runtime/base/role.h"
#include "runtime/net/credit.h"
#include "runtime/net/io.h"

#define RT_JOB_NAME_MAX 64
#define RT_HEARTBEAT_NS (1 * 1000000000ull)
#define RT_DEAD_NS      (5 * 1000000000ull)
#define RT_GREET_NS     (5 * 1000000000ull)
#define RT_BACKOFF_NS   (1 * 1000000000ull)
#define RT_CALLS_MAX    65536 /* requests waiting for a reply, per connection */
#define RT_METHODS_MAX  128   /* methods of roles: RT_METHOD_ROLE_FIRST and those after it */
#define RT_GREETERS_MAX                                                                            \
    256 /* incoming connections that have not shaken hands: the oldest gives way */

/* Who a process loop is; both sides exchange it first. */
struct rt_identity {
    char job[RT_JOB_NAME_MAX];
    enum rt_role role;
    uint32_t index, loop; /* loop: event loop within the process; trainer and composer: 0 */
    uint64_t incarnation;
    uint32_t wire_version;
    uint64_t config_hash, plan_hash; /* 0 never matches anything but 0 */
};

/* Packs and reads the handshake; runtime/wire has the one in use. */
struct rt_greeting {
    int (*pack)(const struct rt_identity *id, uint8_t *out, size_t capacity, size_t *size);
    int (*unpack)(const uint8_t *message, size_t size, struct rt_identity *out);
};

struct rt_rpc;
struct rt_peer; /* one loop of one process of another role */
struct rt_call; /* a request that we serve and owe one reply */

/* In from_roles: served whatever group epoch the caller holds (whoever returns to a group knows an old one). */
#define RT_ANY_EPOCH (1u << 31)

/* A served method. The request limits are checked before anything is allocated. */
struct rt_method_def {
    uint16_t method; /* >= RT_METHOD_ROLE_FIRST */
    const char *name;
    uint32_t from_roles; /* RT_ROLE_BIT() of who may call it; RT_ANY_EPOCH */
    uint32_t message_max;
    uint64_t payload_max;
    void (*serve)(void *ctx, struct rt_call *call, const struct rt_frame *request);
};

struct rt_rpc_conf {
    struct rt_io *io;
    struct rt_identity self;
    const struct rt_greeting *greeting;
    const struct rt_method_def *methods; /* served here; may be empty */
    size_t n_methods;
    uint64_t reply_max;                               /* largest reply payload accepted */
    void *ctx;                                        /* for serve() and the two below */
    void (*peer_up)(void *ctx, struct rt_peer *peer); /* connection usable; may be NULL */
    void (*peer_down)(void *ctx, struct rt_peer *peer, int err, const char *why); /* may be NULL */
    void (*fenced)(void *ctx,
                   uint64_t held); /* somebody holds a newer incarnation of us; may be NULL */
    /* A call to this peer was turned down with RT_EFULL: there is room now, or the connection is gone. Comes once, by
     * the time that a peer which takes nothing is dead at the latest. NULL: who calls tries again by a timer. */
    void (*peer_drained)(void *ctx, struct rt_peer *peer);
    size_t credit;            /* bytes that may wait on one connection; 0: RT_CREDIT_BYTES */
    struct rt_credit *budget; /* of the process, shared by its rpcs; NULL: one of its own */
    uint64_t heartbeat_ns, dead_ns, greet_ns,
        backoff_ns; /* 0: the values above; greet_ns: dead_ns */
    bool lz4;       /* payloads to other machines are packed (lz.h) */
};

int rt_rpc_create(const struct rt_rpc_conf *conf, struct rt_rpc **out);
/* Pending calls fail with RT_ECANCELED (their callbacks run inside); links are closed. */
void rt_rpc_destroy(struct rt_rpc *rpc);

/* Serve on an address; bound gets what peers should connect to. */
int rt_rpc_listen(struct rt_rpc *rpc, const char *address, char bound[RT_ADDRESS_MAX]);

/* The peer (role, index, loop): made on first use, lives as long as the rpc. */
struct rt_peer *rt_rpc_peer(struct rt_rpc *rpc, enum rt_role role, uint32_t index, uint32_t loop);

/* Where the peer is now, as told by its hello. A lower incarnation is ignored, the same with the same
 * address does nothing, a higher one replaces the connection. Connecting starts at once. */
void rt_peer_set_address(struct rt_peer *peer, const char *address, uint64_t incarnation);

int rt_peer_is_up(const struct rt_peer *peer);
enum rt_role rt_peer_role(const struct rt_peer *peer);
uint32_t rt_peer_index(const struct rt_peer *peer);
uint32_t rt_peer_loop(const struct rt_peer *peer);
uint64_t rt_peer_incarnation(const struct rt_peer *peer); /* 0 before the first handshake */
const char *rt_peer_name(const struct rt_peer *peer);     /* "middleware/0.1" */
void *rt_peer_data(const struct rt_peer *peer);           /* the role's own pointer */
void rt_peer_set_data(struct rt_peer *peer, void *data);

/* What is sent: a packed message (copied) and payload pieces (referenced). Piece i starts at the next
 * multiple of 64 after piece i-1; padding is added on the way. */
struct rt_outgoing {
    uint64_t batch_id;
    uint16_t flags;       /* RT_FRAME_TRACE, RT_FRAME_CRC_KNOWN */
    uint32_t payload_crc; /* of all pieces with what lies between them; with RT_FRAME_CRC_KNOWN */
    const void *message;
    size_t message_size;
    const struct rt_piece *pieces;
    size_t n_pieces;
    const struct rt_maker
        *maker; /* of the one piece's bytes, within the call; NULL: they are there */
};

/* err 0: the reply; its message and payload as in rt_frame. Otherwise reply is NULL, err is a
 * local error (RT_EPEER, RT_EDEADLINE, RT_ECANCELED) or the remote status, text in rt_err_text(). */
typedef void (*rt_reply_fn)(void *arg, int err, const struct rt_frame *reply);

/* Ask. deadline_ns counts from now; 0: as long as the connection lives. Returns 0 and calls `done` exactly once, later;
 * or an error (RT_EPEER when not up, RT_EFULL over the credit, or with RT_CALLS_MAX out) and never calls it. A call without
 * payload is never over the credit, nor is any while less than half of it is used: so every size goes, one at a time. */
int rt_rpc_call(struct rt_peer *peer, uint16_t method, const struct rt_outgoing *out,
                uint64_t deadline_ns, rt_reply_fn done, void *arg);

/* Group epoch and generation held here, 0 at first; neither may shrink. They are stamped on all frames
 * sent from now on, those of calls that were opened before included. A request with a lower one is answered
 * with RT_ESTALE, naming the number held; a call whose reply has a lower one fails with RT_ESTALE.
 * Connections stay. The group is one role's affair (the trainers'): its epoch counts between processes of
 * our own role only, and for methods without RT_ANY_EPOCH; other roles hold none and send 0. A request with
 * a higher epoch than ours is served: we are the ones behind, and the role decides. */
void rt_rpc_set_epochs(struct rt_rpc *rpc, uint32_t group_epoch, uint32_t generation);

/* Serving side: exactly one of these per call, now or later; the call is gone afterwards. When the
 * caller's connection is gone they do nothing but free it. `text` names what is wrong (512 bytes). */
void rt_call_reply(struct rt_call *call, const struct rt_outgoing *out);
void rt_call_fail(struct rt_call *call, int status, const char *text);
const struct rt_identity *rt_call_from(const struct rt_call *call);
int rt_call_alive(const struct rt_call *call);
uint64_t rt_call_batch(const struct rt_call *call); /* of the request's frame; 0: none */
/* The reply's payload travels with a checksum. Of a large one it is better known beforehand (RT_FRAME_CRC_KNOWN), taken
 * stretch by stretch as it is made: rt_call_reply would hold the loop for as long as it takes. */
bool rt_call_checks(const struct rt_call *call);

/* Counters of this rpc, for metrics. Relaxed atomics: any thread may read them. */
struct rt_rpc_stats {
    _Atomic uint64_t frames_in, frames_out, bytes_in, bytes_out, bytes_saved, calls, calls_failed,
        reconnects, links_refused, frames_bad;
    _Atomic uint64_t links_paused;      /* times that a connection was no longer read */
    _Atomic uint64_t calls_over_credit; /* turned down */
    _Atomic uint64_t credit_lent;       /* bytes */
    _Atomic uint64_t credit_budget;     /* bytes; said by one rpc of those that share it */
};
const struct rt_rpc_stats *rt_rpc_stats(const struct rt_rpc *rpc);

/* One method at the side that asks, or at the side that serves; for metrics too. An asker's time runs from rt_rpc_call to
 * the arrival of the reply, a server's from the request's arrival (its last byte) to rt_call_reply or rt_call_fail; those
 * that fail count in all three. A call that rt_rpc_call turned down, with an error, is none. */
struct rt_method_stats {
    struct rt_histogram seconds;   /* RT_HISTOGRAM_SECONDS */
    _Atomic uint64_t open, failed; /* without an answer yet; that ended with an error */
};
/* Both live as long as the rpc. Made at the first call of the method, or here: on the io's thread, or before it runs. */
const struct rt_method_stats *rt_rpc_asked(struct rt_rpc *rpc, uint16_t method);
/* NULL: not served here. */
const struct rt_method_stats *rt_rpc_served(const struct rt_rpc *rpc, uint16_t method);

/* Handshakes that succeeded in this process so far, either way, over all its rpcs. Touch: any thread. */
uint64_t rt_rpc_links_made(void);
/* Connections with processes of a role that are up now, likewise, one for each direction. Touch: any thread. */
uint64_t rt_rpc_links_open(enum rt_role role);

#endif
