/* runtime/net/rpc_impl.h -- the inside of struct rt_rpc, shared by rpc.c, session.c and peer.c only.
 *
 * rt_rpc   one per loop: configuration, peers, sessions, recycled requests
 * peer     whom we ask: an address that is connected to for as long as the rpc lives (peer.c)
 * session  one connection from link to down(): handshake, beat, what is pending on it (session.c).
 *          Outgoing sessions belong to a peer and carry our requests; incoming ones carry theirs.
 * ask      a request of ours that waits for its reply;  rt_call  one of theirs that we owe one */
#ifndef RT_RPC_IMPL_H
#define RT_RPC_IMPL_H

#include "runtime/base/map.h"
#include "runtime/net/rpc.h"

#define RT_GREETING_MAX 4096  /* bytes of a handshake or ping message */
#define RT_INDEX_MAX    65535 /* of a process in its role, of a loop in its process */
#define RT_CALL_TEXT    512   /* bytes of the text in a failed reply */
#define RT_SAID_MAX     32    /* log lines about connections that misbehaved, in 10 s */

struct rt_session;

struct rt_ask {
    struct rt_ask *prev, *next; /* in order of sending; `next` links the free list too */
    struct rt_session *session;
    struct rt_method_stats *stats;
    uint64_t request_id, batch_id, asked_ns;
    uint64_t deadline_ns; /* as asked for, for the error text */
    uint16_t method;
    rt_reply_fn done;
    void *arg;
    struct rt_timer timer;
};

struct rt_call {
    struct rt_call *next; /* in the free list */
    struct rt_session *session;
    uint64_t request_id, batch_id, came_ns;
    uint64_t
        made_ns; /* its batch is traced, and the reply was made while it was sent: when all was made; else 0 */
    uint16_t method, flags;
};

enum rt_session_state {
    RT_SESSION_CONNECTING,
    RT_SESSION_GREETING,
    RT_SESSION_UP,
    RT_SESSION_CLOSED
};

struct rt_session {
    struct rt_rpc *rpc;   /* NULL: the rpc is gone, only calls keep this */
    struct rt_link *link; /* NULL after down() */
    struct rt_peer *peer; /* NULL: incoming */
    struct rt_session *prev, *next;
    enum rt_session_state state;
    bool was_up, was_refused;
    struct rt_identity remote; /* from the handshake on */
    struct rt_timer greet, beat;
    uint64_t sent_ns, heard_ns, beat_due_ns;
    struct rt_map asks; /* request_id -> rt_ask */
    struct rt_ask *ask_first, *ask_last;
    uint64_t next_request_id;
    size_t refs, serving; /* refs: the link's and one per served call */
    uint64_t sent_bytes;  /* of all frames */
    bool paused,
        refused;   /* not read: its replies wait; a call was turned down: tell when there is room */
    size_t low;    /* paused or refused: until at most so much waits */
    uint64_t lent; /* bytes from the budget */
    uint64_t written; /* paused: bytes that the kernel had taken when last looked */
    char name[64];    /* "middleware/0.1", or the address before the handshake */
};

struct rt_peer {
    struct rt_rpc *rpc;
    struct rt_peer *next;
    enum rt_role role;
    uint32_t index, loop;
    char name[48];
    void *data;
    char address[RT_ADDRESS_MAX]; /* "": not told yet */
    uint64_t wanted;              /* incarnation that the address was told for */
    uint64_t incarnation;         /* of the latest handshake */
    struct rt_session *session;   /* NULL: waiting, or absent */
    struct rt_timer retry;
    unsigned attempts;
    bool hurry;     /* connect again at once: the address is news */
    char said[160]; /* the latest reason that was logged: repeats are not */
};

struct rt_listening {
    struct rt_listener *listener;
    struct rt_listening *next;
};

/* What was logged of late about connections that misbehaved. */
struct rt_said {
    uint64_t since_ns, unsaid;
    size_t n;
    uint64_t reason[RT_SAID_MAX]; /* hashes of their texts */
};

struct rt_rpc {
    struct rt_rpc_conf conf;
    struct rt_io *io;
    const struct rt_method_def **by_method; /* [n_by_method], from RT_METHOD_ROLE_FIRST on */
    struct rt_method_stats *served;         /* [n_by_method] */
    size_t n_by_method;
    struct rt_method_stats *asked[RT_METHODS_MAX]; /* NULL: never asked */
    uint32_t group_epoch, generation;
    struct rt_map held; /* role and index -> highest incarnation seen */
    struct rt_peer *peers;
    struct rt_session *sessions;
    size_t n_greeters; /* incoming sessions in GREETING */
    struct rt_listening *listening;
    struct rt_ask *free_asks;
    struct rt_call *free_calls;
    struct rt_rpc_stats stats;
    struct rt_said said;
    struct rt_credit *budget, own_budget;
};

static inline void rt_rpc_count(_Atomic uint64_t *counter, uint64_t n)
{
    /* One writer: a plain addition that readers see whole. */
    __atomic_store_n((uint64_t *)counter,
                     __atomic_load_n((uint64_t *)counter, __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED);
}

/* ---- session.c ---- */
struct rt_session *rt_session_new(struct rt_rpc *rpc, struct rt_peer *peer);
int rt_session_connect(struct rt_session *session, const char *address);
void rt_session_accept(void *rpc, struct rt_link *link); /* an rt_accept_fn */
/* Fill in what every frame of ours carries, and send. */
int rt_session_send(struct rt_session *session, struct rt_header *header,
                    const struct rt_outgoing *out);
void rt_session_close(struct rt_session *session, int err, const char *why); /* down() follows */
void rt_session_unref(struct rt_session *session);
/* Our calls on it fail with err, then it is gone; nothing is heard from its link any more. */
void rt_session_abandon(struct rt_session *session, int err);

/* ---- credit.c ---- */
void rt_credit_join(struct rt_rpc *rpc);
int rt_credit_check(struct rt_session *session,
                    const struct rt_outgoing *out); /* may it be asked? */
void rt_credit_sent(struct rt_session *session, uint64_t bytes);
void rt_credit_drained(void *session);
/* Of a session that is not read: did the other end take something since this was last asked? */
bool rt_credit_progress(struct rt_session *session);
/* The link is gone, and what was lent for it comes back. true: peer_drained is owed. */
bool rt_credit_give_back(struct rt_session *session);

/* ---- rpc.c ---- */
const struct rt_method_def *rt_rpc_method(const struct rt_rpc *rpc, uint16_t method);
struct rt_ask *rt_rpc_ask_find(const struct rt_session *session, uint64_t request_id);
void rt_rpc_on_reply(struct rt_session *session, const struct rt_frame *reply);
void rt_rpc_on_request(struct rt_session *session, const struct rt_frame *request);
/* The status of a failed reply, and its text, which comes from outside: made printable, and cut. */
int rt_rpc_fail_as_told(const char *before, const struct rt_frame *reply);
void rt_rpc_fail_asks(struct rt_session *session, int err, const char *why);

/* ---- peer.c ---- */
void rt_peer_session_up(struct rt_peer *peer);
void rt_peer_session_down(struct rt_peer *peer, bool was_up, int err, const char *why);
void rt_peer_free(struct rt_peer *peer);
/* The highest incarnation seen of (role, index); 0: none. rt_rpc_hold notes another. */
uint64_t rt_rpc_held(const struct rt_rpc *rpc, enum rt_role role, uint32_t index);
void rt_rpc_hold(struct rt_rpc *rpc, enum rt_role role, uint32_t index, uint64_t incarnation);

#endif
