/* runtime/net/session.c -- one connection of an rpc: handshake, heartbeat, what may arrive on it.
 *
 *   CONNECTING -on_up-> GREETING -answer_greeting (incoming) / take_greeting (outgoing)-> UP
 *   any -rt_session_close-> CLOSED -on_down-> gone, once no served call refers to it
 *
 * The connecting side speaks first: HANDSHAKE with its identity. The other checks it and replies with
 * its own identity, or with a status and one line of text, and then closes. A refusal because of a
 * newer incarnation carries the number held in batch_id, so that the older process learns of it
 * without parsing text. Both sides check job, hashes and incarnation: each protects itself.
 *
 * Requests travel from the side that connected to the side that accepted, replies back. What does not
 * fit the state of the session is a bad frame and ends it, before its payload is read (admit). */
#include "runtime/net/rpc_impl.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/purpose.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define SAY_AGAIN_NS (10 * 1000000000ull) /* a reason that was logged is logged again */

/* ---- the log ---- */

/* One line for what a peer did wrong, and no more: whoever floods us, or comes back each second with the wrong
 * configuration, gets one line per reason in 10 s, and all of them together RT_SAID_MAX; the next says how many were not
 * written. */
static void say_of(struct rt_session *session, const char *event, const char *reason)
{
    struct rt_rpc *rpc = session->rpc;
    struct rt_said *said = &rpc->said;
    uint64_t hash = rt_hash_bytes(reason, strlen(reason)), now = rt_io_now(rpc->io);
    char more[48] = "";
    if (!said->since_ns || now - said->since_ns >= SAY_AGAIN_NS) {
        said->since_ns = now;
        said->n = 0;
    }
    for (size_t i = 0; i < said->n; i++)
        if (said->reason[i] == hash || said->n == RT_SAID_MAX) {
            said->unsaid++;
            return;
        }
    said->reason[said->n++] = hash;
    if (said->unsaid)
        snprintf(more, sizeof(more), " lines_left_out=%llu", (unsigned long long)said->unsaid);
    said->unsaid = 0;
    rt_log(RT_LOG_WARN, "%s peer=%s reason=\"%s\"%s", event, session->name, reason, more);
}

/* ---- what is worked on ---- */

/* Replies change nothing: that to the last batch of an epoch may come when the next phase has begun. */
static enum rt_purpose purpose_of(const struct rt_header *header)
{
    enum rt_purpose purpose =
        header->batch_id & RT_BATCH_EVALUATES ? RT_PURPOSE_EVALUATE : RT_PURPOSE_TRAIN;
    if (!header->batch_id)
        return rt_purpose_now();
    if (!(header->flags & RT_FRAME_REPLY))
        rt_purpose_begin(purpose);
    return purpose;
}

/* ---- sending ---- */

int rt_session_send(struct rt_session *session, struct rt_header *header,
                    const struct rt_outgoing *out)
{
    struct rt_rpc *rpc = session->rpc;
    header->flags |= out->flags & (RT_FRAME_TRACE | RT_FRAME_CRC_KNOWN);
    if (rpc->conf.lz4)
        header->flags |= RT_FRAME_LZ4;
    header->payload_crc = out->payload_crc;
    header->incarnation = rpc->conf.self.incarnation;
    header->group_epoch = rpc->group_epoch;
    header->generation = rpc->generation;
    uint64_t now = rt_io_now(rpc->io); /* before the work of sending: calls are timed from here */
    int err = rpc->io->ops->link_send(session->link, header, out->message, out->message_size,
                                      out->pieces, out->n_pieces, out->maker);
    if (err)
        return err;
    if (out->maker) /* its work is not that of sending */
        now = rt_io_now(rpc->io);
    session->sent_ns = now;
    uint64_t bytes = rt_frame_bytes(header);
    rt_rpc_count(&rpc->stats.frames_out, 1);
    rt_rpc_count(&rpc->stats.bytes_out, bytes);
    rt_credit_sent(session, bytes);
    if (header->flags & RT_FRAME_LZ4)
        rt_rpc_count(&rpc->stats.bytes_saved, header->payload_size - header->packed_size);
    if (session->state == RT_SESSION_UP) /* greetings go to a role that is not known yet */
        rt_purpose_sent(purpose_of(header), session->remote.role, bytes);
    return 0;
}

static void send_own(struct rt_session *session, uint16_t method, uint16_t flags,
                     const uint8_t *message, size_t size)
{
    struct rt_header header = {.method = method, .flags = flags};
    int err = rt_session_send(session, &header,
                              &(struct rt_outgoing){.message = message, .message_size = size});
    if (err)
        rt_session_close(session, err, rt_err_text());
}

/* ---- heartbeat ---- */

static void on_beat(void *arg);

static void set_beat(struct rt_session *session)
{
    const struct rt_rpc_conf *conf = &session->rpc->conf;
    uint64_t now = rt_io_now(session->rpc->io);
    uint64_t due = session->sent_ns + conf->heartbeat_ns;
    uint64_t dead = session->heard_ns + conf->dead_ns;
    due = dead < due ? dead : due;
    session->beat_due_ns = due > now ? due : now;
    session->beat.fire = on_beat;
    session->beat.arg = session;
    rt_timer_start(session->rpc->io, &session->beat, session->beat_due_ns - now);
}

static void on_beat(void *arg)
{
    struct rt_session *session = arg;
    const struct rt_rpc_conf *conf = &session->rpc->conf;
    uint64_t now = rt_io_now(session->rpc->io);
    /* We were stopped ourselves: what they sent meanwhile is not read yet, so ask again later. */
    if (now - session->beat_due_ns > conf->heartbeat_ns)
        session->heard_ns = now;
    if (session->paused && rt_credit_progress(session))
        session->heard_ns = now;
    if (now - session->heard_ns >= conf->dead_ns) {
        char why[64];
        snprintf(why, sizeof(why), "silent for %llu ms",
                 (unsigned long long)(conf->dead_ns / 1000000));
        /* Who connected to us and then stopped, in the middle of a frame perhaps, is told of in the log. */
        rt_session_close(session, session->peer ? RT_EPEER : RT_EDEADLINE, why);
        return;
    }
    if (now - session->sent_ns >= conf->heartbeat_ns)
        send_own(session, RT_METHOD_PING, 0, NULL, 0);
    if (session->state == RT_SESSION_UP)
        set_beat(session);
}

static _Atomic uint64_t links_made, links_open[RT_ROLE_COUNT]; /* Touched by: any loop */

uint64_t rt_rpc_links_made(void)
{
    return atomic_load_explicit(&links_made, memory_order_relaxed);
}

uint64_t rt_rpc_links_open(enum rt_role role)
{
    return atomic_load_explicit(&links_open[role], memory_order_relaxed);
}

static void set_state(struct rt_session *session, enum rt_session_state state)
{
    bool incoming = !session->peer, was_up = session->state == RT_SESSION_UP;
    if (was_up != (state == RT_SESSION_UP)) /* whose it is has been known since before it was up */
        atomic_fetch_add_explicit(&links_open[session->remote.role], was_up ? (uint64_t)-1 : 1,
                                  memory_order_relaxed);
    session->rpc->n_greeters -= incoming && session->state == RT_SESSION_GREETING;
    session->rpc->n_greeters += incoming && state == RT_SESSION_GREETING;
    session->state = state;
}

static void set_up(struct rt_session *session)
{
    struct rt_rpc *rpc = session->rpc;
    const struct rt_identity *id = &session->remote;
    set_state(session, RT_SESSION_UP);
    session->was_up = true;
    atomic_fetch_add_explicit(&links_made, 1, memory_order_relaxed);
    snprintf(session->name, sizeof(session->name), "%s/%u.%u", rt_role_name(id->role), id->index,
             id->loop);
    rt_timer_stop(rpc->io, &session->greet);
    session->heard_ns = rt_io_now(rpc->io);
    set_beat(session);
}

/* ---- handshake ---- */

static int check_text(const char *what, const char *ours, const char *theirs)
{
    char clean[RT_JOB_NAME_MAX * 4];
    if (strncmp(ours, theirs, RT_JOB_NAME_MAX) == 0)
        return 0;
    return RT_FAIL(RT_EREFUSED, "%s differs: expected %s, got %s", what, ours,
                   rt_log_escape(theirs, clean, sizeof(clean)));
}

static int check_number(const char *what, uint64_t ours, uint64_t theirs)
{
    if (ours == theirs)
        return 0;
    return RT_FAIL(RT_EREFUSED, "%s differs: expected 0x%llx, got 0x%llx", what,
                   (unsigned long long)ours, (unsigned long long)theirs);
}

static int check_identity(const struct rt_rpc *rpc, struct rt_identity *id)
{
    const struct rt_identity *self = &rpc->conf.self;
    id->job[RT_JOB_NAME_MAX - 1] = '\0';
    if ((unsigned)id->role >= RT_ROLE_COUNT || id->index > RT_INDEX_MAX || id->loop > RT_INDEX_MAX)
        return RT_FAIL(RT_EREFUSED, "identity: role %d, index %u, loop %u are out of range",
                       (int)id->role, id->index, id->loop);
    int err = check_text("job", self->job, id->job);
    if (!err)
        err = check_number("wire version", self->wire_version, id->wire_version);
    if (!err)
        err = check_number("configuration hash", self->config_hash, id->config_hash);
    if (!err)
        err = check_number("data plan hash", self->plan_hash, id->plan_hash);
    if (err)
        return err;
    uint64_t held = rt_rpc_held(rpc, id->role, id->index);
    if (id->incarnation < held)
        return RT_FAIL(RT_EFENCED, "%s/%u: incarnation %llu is older than %llu, which is held here",
                       rt_role_name(id->role), id->index, (unsigned long long)id->incarnation,
                       (unsigned long long)held);
    return 0;
}

static void greet(struct rt_session *session, uint16_t flags)
{
    struct rt_rpc *rpc = session->rpc;
    uint8_t message[RT_GREETING_MAX];
    size_t size;
    int err = rpc->conf.greeting->pack(&rpc->conf.self, message, sizeof(message), &size);
    if (err)
        rt_session_close(session, err, rt_err_text());
    else
        send_own(session, RT_METHOD_HANDSHAKE, flags, message, size);
}

static void refuse(struct rt_session *session, int err, const struct rt_identity *id)
{
    struct rt_rpc *rpc = session->rpc;
    char text[RT_CALL_TEXT];
    snprintf(text, sizeof(text), "%s", rt_err_text());
    struct rt_header header = {
        .method = RT_METHOD_HANDSHAKE,
        .flags = RT_FRAME_REPLY,
        .status = err,
        .batch_id = err == RT_EFENCED ? rt_rpc_held(rpc, id->role, id->index) : 0,
    };
    rt_rpc_count(&rpc->stats.links_refused, 1);
    say_of(session, "link_refused", text);
    rt_session_send(session, &header,
                    &(struct rt_outgoing){.message = text, .message_size = strlen(text)});
    session->was_refused = true;
    rt_session_close(session, err, text);
}

/* One connection per other end: an older one that we have not noticed to be dead makes room. */
static void close_twins(struct rt_session *session)
{
    const struct rt_identity *a = &session->remote, *b;
    for (struct rt_session *s = session->rpc->sessions; s; s = s->next) {
        b = &s->remote;
        if (s != session && !s->peer && s->state == RT_SESSION_UP && a->role == b->role &&
            a->index == b->index && a->loop == b->loop)
            rt_session_close(s, RT_EPEER, "replaced by its newer connection");
    }
}

/* Incoming: their identity has come; reply with ours. */
static void answer_greeting(struct rt_session *session, const struct rt_frame *frame)
{
    struct rt_rpc *rpc = session->rpc;
    struct rt_identity id = {0};
    int err = rpc->conf.greeting->unpack(frame->message, frame->header.message_size, &id);
    if (!err)
        err = check_identity(rpc, &id);
    if (err) {
        refuse(session, err, &id);
        return;
    }
    session->remote = id;
    rt_rpc_hold(rpc, id.role, id.index, id.incarnation);
    close_twins(session);
    greet(session, RT_FRAME_REPLY);
    if (session->state == RT_SESSION_CLOSED)
        return;
    set_up(session);
    rt_log(RT_LOG_DEBUG, "link_up peer=%s incarnation=%llu", session->name,
           (unsigned long long)id.incarnation);
}

static int refused_by_them(struct rt_session *session, const struct rt_frame *frame)
{
    struct rt_rpc *rpc = session->rpc;
    if (frame->header.status == RT_EFENCED && rpc->conf.fenced)
        rpc->conf.fenced(rpc->conf.ctx, frame->header.batch_id);
    return rt_rpc_fail_as_told("refused by it", frame);
}

static int check_is_peer(const struct rt_peer *peer, const struct rt_identity *id)
{
    if (id->role != peer->role || id->index != peer->index || id->loop != peer->loop)
        return RT_FAIL(RT_EREFUSED, "expected %s at %s, got %s/%u.%u", peer->name, peer->address,
                       rt_role_name(id->role), id->index, id->loop);
    return 0;
}

/* Outgoing: their reply has come. */
static void take_greeting(struct rt_session *session, const struct rt_frame *frame)
{
    struct rt_rpc *rpc = session->rpc;
    struct rt_identity id = {0};
    int err = frame->header.status ? refused_by_them(session, frame) : 0;
    if (!err)
        err = rpc->conf.greeting->unpack(frame->message, frame->header.message_size, &id);
    if (!err)
        err = check_identity(rpc, &id);
    if (!err)
        err = check_is_peer(session->peer, &id);
    if (err) {
        rt_rpc_count(&rpc->stats.links_refused, 1);
        rt_session_close(session, err, rt_err_text());
        return;
    }
    session->remote = id;
    rt_rpc_hold(rpc, id.role, id.index, id.incarnation);
    set_up(session);
    rt_peer_session_up(session->peer);
}

/* ---- what the link tells ---- */

static int admit_own(const struct rt_session *session, const struct rt_header *header)
{
    bool is_reply = header->flags & RT_FRAME_REPLY;
    bool fits = session->state == RT_SESSION_UP
                    ? header->method == RT_METHOD_PING && !is_reply
                    : header->method == RT_METHOD_HANDSHAKE && is_reply == !!session->peer;
    if (!fits)
        return RT_FAIL(RT_EPROTO, "frame field method: expected %s, got %u%s",
                       session->state == RT_SESSION_UP ? "a call or a ping" : "a handshake",
                       header->method, is_reply ? " (reply)" : "");
    if (header->message_size > RT_GREETING_MAX || header->payload_size)
        return RT_FAIL(RT_EPROTO,
                       "frame field message_size: expected at most %d and no payload, got %u "
                       "and %llu",
                       RT_GREETING_MAX, header->message_size,
                       (unsigned long long)header->payload_size);
    return 0;
}

static int admit_reply(const struct rt_session *session, const struct rt_header *header)
{
    uint64_t max = session->rpc->conf.reply_max;
    if (!rt_rpc_ask_find(session, header->request_id))
        return RT_FAIL(RT_EPROTO, "frame field request_id: expected one that waits, got %llu",
                       (unsigned long long)header->request_id);
    if (header->payload_size > max)
        return RT_FAIL(RT_EPROTO,
                       "frame field payload_size: expected at most %llu in a reply, "
                       "got %llu",
                       (unsigned long long)max, (unsigned long long)header->payload_size);
    return 0;
}

static int admit_request(const struct rt_session *session, const struct rt_header *header)
{
    const struct rt_method_def *def = rt_rpc_method(session->rpc, header->method);
    if (!def)
        return RT_FAIL(RT_EPROTO, "frame field method: expected one that is served here, got %u",
                       header->method);
    if (!(def->from_roles & RT_ROLE_BIT(session->remote.role)))
        return RT_FAIL(RT_EPROTO, "frame field method: %s is not for the role %s", def->name,
                       rt_role_name(session->remote.role));
    if (header->message_size > def->message_max)
        return RT_FAIL(RT_EPROTO, "frame field message_size: expected at most %u for %s, got %u",
                       def->message_max, def->name, header->message_size);
    if (header->payload_size > def->payload_max)
        return RT_FAIL(RT_EPROTO,
                       "frame field payload_size: expected at most %llu for %s, got %llu",
                       (unsigned long long)def->payload_max, def->name,
                       (unsigned long long)header->payload_size);
    return 0;
}

static int on_admit(void *arg, const struct rt_header *header, struct rt_buf **out)
{
    struct rt_session *session = arg;
    if (session->state == RT_SESSION_CLOSED)
        return RT_ECANCELED;
    if (session->state != RT_SESSION_UP)
        return admit_own(session, header);
    if (header->incarnation != session->remote.incarnation)
        return RT_FAIL(RT_EPROTO, "frame field incarnation: expected %llu, got %llu",
                       (unsigned long long)session->remote.incarnation,
                       (unsigned long long)header->incarnation);
    if (header->method < RT_METHOD_ROLE_FIRST)
        return admit_own(session, header);
    bool is_reply = header->flags & RT_FRAME_REPLY;
    if (is_reply != !!session->peer)
        return RT_FAIL(RT_EPROTO, "frame field flags: expected a %s on this side, got a %s",
                       is_reply ? "request" : "reply", is_reply ? "reply" : "request");
    int err = is_reply ? admit_reply(session, header) : admit_request(session, header);
    if (err || header->payload_size == 0)
        return err;
    *out = rt_io_buf(session->rpc->io, header->payload_size);
    return *out ? 0 : RT_EFULL;
}

static void on_up(void *arg)
{
    struct rt_session *session = arg;
    if (session->state != RT_SESSION_CONNECTING)
        return;
    set_state(session, RT_SESSION_GREETING);
    greet(session, 0);
}

static void on_frame(void *arg, const struct rt_frame *frame)
{
    struct rt_session *session = arg;
    struct rt_rpc *rpc = session->rpc;
    rt_rpc_count(&rpc->stats.frames_in, 1);
    rt_rpc_count(&rpc->stats.bytes_in, rt_frame_bytes(&frame->header));
    if (session->state == RT_SESSION_CLOSED || frame->header.method == RT_METHOD_PING)
        return;
    if (frame->header.method == RT_METHOD_HANDSHAKE)
        (session->peer ? take_greeting : answer_greeting)(session, frame);
    else if (frame->header.flags & RT_FRAME_REPLY)
        rt_rpc_on_reply(session, frame);
    else {
        purpose_of(&frame->header);
        rt_rpc_on_request(session, frame);
    }
}

static void on_bytes(void *arg)
{
    struct rt_session *session = arg;
    session->heard_ns = rt_io_now(session->rpc->io);
}

static void session_remove(struct rt_session *session)
{
    struct rt_rpc *rpc = session->rpc;
    set_state(session, RT_SESSION_CLOSED);
    session->link = NULL;
    rt_timer_stop(rpc->io, &session->greet);
    rt_timer_stop(rpc->io, &session->beat);
    *(session->prev ? &session->prev->next : &rpc->sessions) = session->next;
    if (session->next)
        session->next->prev = session->prev;
}

static void on_down(void *arg, int err, const char *why)
{
    struct rt_session *session = arg;
    struct rt_rpc *rpc = session->rpc;
    if (err == RT_EPROTO)
        rt_rpc_count(&rpc->stats.frames_bad, 1);
    if (session->was_refused) {
        /* said when it was */
    } else if (err == RT_EPROTO ||
               (!session->peer && (err == RT_EDEADLINE || err == RT_EFULL || err == RT_ENOMEM))) {
        say_of(session, "link_closed", why);
    } else if (!session->peer && session->was_up) {
        rt_log(RT_LOG_DEBUG, "link_down peer=%s reason=\"%s\"", session->name, why);
    }
    session_remove(session);
    bool drained = rt_credit_give_back(session);
    rt_rpc_fail_asks(session, RT_EPEER, why);
    if (session->peer)
        rt_peer_session_down(session->peer, session->was_up, err, why);
    if (drained && rpc->conf.peer_drained)
        rpc->conf.peer_drained(rpc->conf.ctx, session->peer);
    rt_session_unref(session);
}

static const struct rt_link_events session_events = {
    .admit = on_admit,
    .up = on_up,
    .frame = on_frame,
    .bytes = on_bytes,
    .drained = rt_credit_drained,
    .down = on_down,
};

/* ---- life ---- */

static void on_greet_late(void *arg)
{
    struct rt_session *session = arg;
    char why[64];
    snprintf(why, sizeof(why), "no handshake within %llu ms",
             (unsigned long long)(session->rpc->conf.greet_ns / 1000000));
    rt_session_close(session, RT_EDEADLINE, why);
}

struct rt_session *rt_session_new(struct rt_rpc *rpc, struct rt_peer *peer)
{
    struct rt_session *session = rt_xcalloc(1, sizeof(*session));
    session->rpc = rpc;
    session->peer = peer;
    session->refs = 1;
    set_state(session, peer ? RT_SESSION_CONNECTING : RT_SESSION_GREETING);
    session->next = rpc->sessions;
    if (session->next)
        session->next->prev = session;
    rpc->sessions = session;
    rt_map_init(&session->asks);
    session->greet.fire = on_greet_late;
    session->greet.arg = session;
    rt_timer_start(rpc->io, &session->greet, rpc->conf.greet_ns);
    return session;
}

void rt_session_unref(struct rt_session *session)
{
    if (--session->refs > 0)
        return;
    rt_assert(session->asks.count == 0);
    rt_map_release(&session->asks);
    rt_free(session);
}

int rt_session_connect(struct rt_session *session, const char *address)
{
    struct rt_io *io = session->rpc->io;
    snprintf(session->name, sizeof(session->name), "%s", session->peer->name);
    int err = io->ops->connect(io, address, &session_events, session, &session->link);
    if (err) {
        session_remove(session);
        rt_session_unref(session);
    }
    return err;
}

/* Connections without a name hold a descriptor each: one more than the limit, and the oldest goes. Whoever
 * means to shake hands has done so by then. */
static void limit_greeters(struct rt_rpc *rpc)
{
    struct rt_session *oldest = NULL;
    if (rpc->n_greeters <= RT_GREETERS_MAX)
        return;
    for (struct rt_session *s = rpc->sessions; s; s = s->next)
        if (!s->peer && s->state == RT_SESSION_GREETING)
            oldest = s;
    rt_rpc_count(&rpc->stats.links_refused, 1);
    rt_session_close(oldest, RT_EFULL, "too many connections that have not shaken hands");
}

void rt_session_accept(void *rpc, struct rt_link *link)
{
    struct rt_session *session = rt_session_new(rpc, NULL);
    const struct rt_io_ops *ops = session->rpc->io->ops;
    session->link = link;
    snprintf(session->name, sizeof(session->name), "%.63s", ops->link_name(link));
    ops->link_set(link, &session_events, session);
    limit_greeters(rpc);
}

void rt_session_close(struct rt_session *session, int err, const char *why)
{
    if (session->state == RT_SESSION_CLOSED)
        return;
    set_state(session, RT_SESSION_CLOSED);
    rt_timer_stop(session->rpc->io, &session->greet);
    rt_timer_stop(session->rpc->io, &session->beat);
    session->rpc->io->ops->link_close(session->link, err, why);
}

void rt_session_abandon(struct rt_session *session, int err)
{
    struct rt_rpc *rpc = session->rpc;
    if (session->link)
        rpc->io->ops->link_set(session->link, NULL, NULL);
    session_remove(session);
    rt_credit_give_back(session);
    rt_rpc_fail_asks(session, err, "given up by its owner");
    session->rpc = NULL;
    rt_session_unref(session);
}
