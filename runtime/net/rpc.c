/* runtime/net/rpc.c -- requests and replies.
 *
 * Pending requests are found by id in a map and kept in a list in order of sending, so that a lost
 * connection fails them in that order in every run of a simulation. Requests on both sides are
 * recycled: nothing is allocated per call at steady state.
 *
 * A served call outlives its connection: it then has nobody to answer and is only freed. That is why
 * a session counts its references (session.c).
 *
 * Each method's requests are timed on both sides. The clock is not read for it: a session knows when it last sent
 * (just now, where a call or a reply begins) and when it last heard something (the read that brought a frame's end). */
#include "runtime/net/rpc_impl.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"

#include <stdio.h>
#include <string.h>

static void index_methods(struct rt_rpc *rpc)
{
    const struct rt_rpc_conf *conf = &rpc->conf;
    for (size_t i = 0; i < conf->n_methods; i++) {
        rt_assert(conf->methods[i].method >= RT_METHOD_ROLE_FIRST &&
                  conf->methods[i].method < RT_METHOD_ROLE_FIRST + RT_METHODS_MAX);
        size_t end = conf->methods[i].method - RT_METHOD_ROLE_FIRST + 1u;
        rpc->n_by_method = end > rpc->n_by_method ? end : rpc->n_by_method;
    }
    rpc->by_method = rt_xcalloc(rpc->n_by_method + 1, sizeof(rpc->by_method[0]));
    rpc->served = rt_xcalloc(rpc->n_by_method + 1, sizeof(rpc->served[0]));
    for (size_t i = 0; i < conf->n_methods; i++)
        rpc->by_method[conf->methods[i].method - RT_METHOD_ROLE_FIRST] = &conf->methods[i];
}

const struct rt_method_def *rt_rpc_method(const struct rt_rpc *rpc, uint16_t method)
{
    size_t at = (size_t)method - RT_METHOD_ROLE_FIRST;
    return method >= RT_METHOD_ROLE_FIRST && at < rpc->n_by_method ? rpc->by_method[at] : NULL;
}

int rt_rpc_create(const struct rt_rpc_conf *conf, struct rt_rpc **out)
{
    if (conf->self.index > RT_INDEX_MAX || conf->self.loop > RT_INDEX_MAX)
        return RT_FAIL(RT_EUSAGE, "index %u and loop %u: expected at most %d", conf->self.index,
                       conf->self.loop, RT_INDEX_MAX);
    struct rt_rpc *rpc = rt_xcalloc(1, sizeof(*rpc));
    rpc->conf = *conf;
    rpc->io = conf->io;
    rpc->conf.heartbeat_ns = conf->heartbeat_ns ? conf->heartbeat_ns : RT_HEARTBEAT_NS;
    rpc->conf.dead_ns = conf->dead_ns ? conf->dead_ns : RT_DEAD_NS;
    rpc->conf.greet_ns = conf->greet_ns  ? conf->greet_ns
                         : conf->dead_ns ? conf->dead_ns
                                         : RT_GREET_NS;
    rpc->conf.backoff_ns = conf->backoff_ns ? conf->backoff_ns : RT_BACKOFF_NS;
    rpc->conf.credit = conf->credit ? conf->credit : RT_CREDIT_BYTES;
    rt_credit_join(rpc);
    rt_map_init(&rpc->held);
    index_methods(rpc);
    *out = rpc;
    return 0;
}

static void free_recycled(struct rt_rpc *rpc)
{
    while (rpc->free_asks) {
        struct rt_ask *ask = rpc->free_asks;
        rpc->free_asks = ask->next;
        rt_free(ask);
    }
    while (rpc->free_calls) {
        struct rt_call *call = rpc->free_calls;
        rpc->free_calls = call->next;
        rt_free(call);
    }
}

void rt_rpc_destroy(struct rt_rpc *rpc)
{
    if (!rpc)
        return;
    while (rpc->listening) {
        struct rt_listening *listening = rpc->listening;
        rpc->listening = listening->next;
        rpc->io->ops->unlisten(listening->listener);
        rt_free(listening);
    }
    while (rpc->sessions)
        rt_session_abandon(rpc->sessions, RT_ECANCELED);
    while (rpc->peers) {
        struct rt_peer *peer = rpc->peers;
        rpc->peers = peer->next;
        rt_peer_free(peer);
    }
    free_recycled(rpc);
    rt_map_release(&rpc->held);
    for (size_t i = 0; i < RT_METHODS_MAX; i++)
        rt_free(rpc->asked[i]);
    rt_free(rpc->served);
    rt_free(rpc->by_method);
    rt_free(rpc);
}

int rt_rpc_listen(struct rt_rpc *rpc, const char *address, char bound[RT_ADDRESS_MAX])
{
    struct rt_listener *listener;
    int err = rpc->io->ops->listen(rpc->io, address, rt_session_accept, rpc, bound, &listener);
    if (err)
        return err;
    struct rt_listening *listening = rt_xmalloc(sizeof(*listening));
    *listening = (struct rt_listening){listener, rpc->listening};
    rpc->listening = listening;
    return 0;
}

void rt_rpc_set_epochs(struct rt_rpc *rpc, uint32_t group_epoch, uint32_t generation)
{
    rt_assert(group_epoch >= rpc->group_epoch && generation >= rpc->generation);
    rpc->group_epoch = group_epoch;
    rpc->generation = generation;
}

/* Does a frame come from before the trainers' group re-formed, or the job went back to a checkpoint? A composer
 * or a middleware has no part in a group: what it sends says 0, and is as good as ever. */
static int check_epochs(const struct rt_session *session, const struct rt_header *header,
                        bool any_epoch)
{
    const struct rt_rpc *rpc = session->rpc;
    bool one_group = session->remote.role == rpc->conf.self.role && !any_epoch;
    if (header->generation < rpc->generation)
        return RT_FAIL(RT_ESTALE, "generation %u is older than %u, which is held here",
                       header->generation, rpc->generation);
    if (one_group && header->group_epoch < rpc->group_epoch)
        return RT_FAIL(RT_ESTALE, "group epoch %u is older than %u, which is held here",
                       header->group_epoch, rpc->group_epoch);
    return 0;
}

const struct rt_rpc_stats *rt_rpc_stats(const struct rt_rpc *rpc)
{
    return &rpc->stats;
}

static struct rt_method_stats *asked(struct rt_rpc *rpc, uint16_t method)
{
    rt_assert(method >= RT_METHOD_ROLE_FIRST && method < RT_METHOD_ROLE_FIRST + RT_METHODS_MAX);
    struct rt_method_stats **at = &rpc->asked[method - RT_METHOD_ROLE_FIRST];
    if (!*at)
        *at = rt_xcalloc(1, sizeof(**at));
    return *at;
}

const struct rt_method_stats *rt_rpc_asked(struct rt_rpc *rpc, uint16_t method)
{
    return asked(rpc, method);
}

const struct rt_method_stats *rt_rpc_served(const struct rt_rpc *rpc, uint16_t method)
{
    return rt_rpc_method(rpc, method) ? &rpc->served[method - RT_METHOD_ROLE_FIRST] : NULL;
}

static void stats_end(struct rt_method_stats *stats, uint64_t from_ns, uint64_t to_ns, int err)
{
    rt_histogram_observe(&stats->seconds, RT_HISTOGRAM_SECONDS, to_ns - from_ns);
    rt_rpc_count(&stats->open, (uint64_t)-1);
    if (err)
        rt_rpc_count(&stats->failed, 1);
}

/* ---- traced calls: kept out of the others, which would save registers for it ---- */

#define SELDOM __attribute__((noinline, cold))

static struct rt_trace_place place_of(const struct rt_identity *id)
{
    return (struct rt_trace_place){id->role, id->index, id->loop};
}

SELDOM static void trace_ask(const struct rt_ask *ask, uint64_t end_ns, int err)
{
    const struct rt_peer *peer = ask->session->peer;
    rt_trace_asked(&(struct rt_trace_call){.batch_id = ask->batch_id,
                                           .request_id = ask->request_id,
                                           .method = ask->method,
                                           .err = err,
                                           .from = place_of(&peer->rpc->conf.self),
                                           .to = {peer->role, peer->index, peer->loop},
                                           .begin_ns = ask->asked_ns,
                                           .end_ns = end_ns});
}

SELDOM static void trace_call(const struct rt_call *call, uint64_t end_ns, int err)
{
    const struct rt_session *session = call->session;
    rt_trace_served(&(struct rt_trace_call){.batch_id = call->batch_id,
                                            .request_id = call->request_id,
                                            .method = call->method,
                                            .err = err,
                                            .from = place_of(&session->remote),
                                            .to = place_of(&session->rpc->conf.self),
                                            .begin_ns = call->came_ns,
                                            .end_ns = call->made_ns ? call->made_ns : end_ns});
}

/* A reply that is made while it is sent may have arrived before we are back here: it was served when the last of it was
 * made, or else the asker would have been answered before. */
struct noting {
    const struct rt_maker *maker;
    struct rt_call *call;
};

static size_t make_and_note(void *arg, uint8_t *at, size_t room)
{
    const struct noting *noting = arg;
    size_t n = noting->maker->make(noting->maker->arg, at, room);
    noting->call->made_ns = rt_io_now(noting->call->session->rpc->io);
    return n;
}

SELDOM static int send_and_note(struct rt_call *call, struct rt_header *header,
                                const struct rt_outgoing *out)
{
    struct rt_maker noting = {make_and_note, &(struct noting){out->maker, call}};
    struct rt_outgoing noted = *out;
    noted.maker = &noting;
    return rt_session_send(call->session, header, &noted);
}

/* ---- asking ---- */

struct rt_ask *rt_rpc_ask_find(const struct rt_session *session, uint64_t request_id)
{
    return rt_map_get_ptr(&session->asks, request_id);
}

static void ask_free(struct rt_ask *ask)
{
    struct rt_session *session = ask->session;
    struct rt_rpc *rpc = session->rpc;
    rt_timer_stop(rpc->io, &ask->timer);
    rt_map_remove(&session->asks, ask->request_id);
    *(ask->prev ? &ask->prev->next : &session->ask_first) = ask->next;
    *(ask->next ? &ask->next->prev : &session->ask_last) = ask->prev;
    ask->next = rpc->free_asks;
    rpc->free_asks = ask;
}

/* The error text is set by the caller. */
static void ask_fail(struct rt_ask *ask, int err)
{
    rt_reply_fn done = ask->done;
    void *arg = ask->arg;
    struct rt_rpc *rpc = ask->session->rpc;
    uint64_t now = rt_io_now(rpc->io);
    rt_rpc_count(&rpc->stats.calls_failed, 1);
    stats_end(ask->stats, ask->asked_ns, now, err);
    if (rt_trace_wants(ask->batch_id))
        trace_ask(ask, now, err);
    ask_free(ask);
    done(arg, err, NULL);
}

void rt_rpc_fail_asks(struct rt_session *session, int err, const char *why)
{
    while (session->ask_first) {
        rt_fail(err, "%s: %s", session->name, why);
        ask_fail(session->ask_first, err);
    }
}

static void on_deadline(void *arg)
{
    struct rt_ask *ask = arg;
    struct rt_session *session = ask->session;
    char why[128];
    snprintf(why, sizeof(why), "method %u got no reply within %llu ms", ask->method,
             (unsigned long long)(ask->deadline_ns / 1000000));
    rt_session_close(session, RT_EDEADLINE, why);
    rt_fail(RT_EDEADLINE, "%s: %s", session->name, why);
    ask_fail(ask, RT_EDEADLINE);
}

static int ask_add(struct rt_session *session, struct rt_ask **out)
{
    struct rt_rpc *rpc = session->rpc;
    struct rt_ask *ask = rpc->free_asks;
    if (ask)
        rpc->free_asks = ask->next;
    else
        ask = rt_xmalloc(sizeof(*ask));
    *ask = (struct rt_ask){.session = session, .request_id = ++session->next_request_id};
    int err = rt_map_put_ptr(&session->asks, ask->request_id, ask);
    if (err) {
        ask->next = rpc->free_asks;
        rpc->free_asks = ask;
        return err;
    }
    ask->prev = session->ask_last;
    *(ask->prev ? &ask->prev->next : &session->ask_first) = ask;
    session->ask_last = ask;
    *out = ask;
    return 0;
}

int rt_rpc_call(struct rt_peer *peer, uint16_t method, const struct rt_outgoing *out,
                uint64_t deadline_ns, rt_reply_fn done, void *arg)
{
    struct rt_session *session = peer->session;
    struct rt_ask *ask;
    rt_assert(done);
    if (!session || session->state != RT_SESSION_UP)
        return RT_FAIL(RT_EPEER, "%s: not connected", peer->name);
    if (session->asks.count >= RT_CALLS_MAX)
        return RT_FAIL(RT_EFULL, "%s: %d requests wait for their replies", peer->name,
                       RT_CALLS_MAX);
    int err = rt_credit_check(session, out);
    if (!err)
        err = ask_add(session, &ask);
    if (err)
        return err;
    ask->method = method;
    ask->batch_id = out->batch_id;
    ask->done = done;
    ask->arg = arg;
    struct rt_header header = {
        .method = method, .request_id = ask->request_id, .batch_id = out->batch_id};
    err = rt_session_send(session, &header, out);
    if (err) {
        ask_free(ask);
        return err;
    }
    if (deadline_ns) {
        ask->deadline_ns = deadline_ns;
        ask->timer.fire = on_deadline;
        ask->timer.arg = ask;
        rt_timer_start(peer->rpc->io, &ask->timer, deadline_ns);
    }
    ask->asked_ns = session->sent_ns;
    ask->stats = asked(peer->rpc, method);
    rt_rpc_count(&ask->stats->open, 1);
    rt_rpc_count(&peer->rpc->stats.calls, 1);
    return 0;
}

int rt_rpc_fail_as_told(const char *before, const struct rt_frame *reply)
{
    char raw[RT_CALL_TEXT + 1], clean[RT_CALL_TEXT * 2];
    size_t n = reply->header.message_size;
    n = n < RT_CALL_TEXT ? n : RT_CALL_TEXT;
    if (n)
        memcpy(raw, reply->message, n);
    raw[n] = '\0';
    return RT_FAIL(reply->header.status, "%s: %s", before,
                   rt_log_escape(raw, clean, sizeof(clean)));
}

void rt_rpc_on_reply(struct rt_session *session, const struct rt_frame *reply)
{
    struct rt_ask *ask = rt_rpc_ask_find(session, reply->header.request_id);
    rt_assert(ask); /* admit() saw it, and only the end of the session takes it away */
    int err = 0;
    if (reply->header.status) {
        err = rt_rpc_fail_as_told(session->name, reply);
    } else if (reply->header.flags & RT_FRAME_DISCARDED) {
        err = RT_FAIL(RT_EFULL, "%s: no room for a reply of %llu bytes", session->name,
                      (unsigned long long)reply->header.payload_size);
    } else if (check_epochs(session, &reply->header, false)) {
        err = rt_fail_prefix(RT_ESTALE, "%s: reply refused: ", session->name);
    }
    if (err) {
        ask_fail(ask, err);
        return;
    }
    rt_reply_fn done = ask->done;
    void *arg = ask->arg;
    stats_end(ask->stats, ask->asked_ns, session->heard_ns, 0);
    if (rt_trace_wants(ask->batch_id))
        trace_ask(ask, session->heard_ns, 0);
    ask_free(ask);
    done(arg, 0, reply);
}

/* ---- serving ---- */

static void call_free(struct rt_call *call, int status)
{
    struct rt_session *session = call->session;
    struct rt_rpc *rpc = session->rpc;
    session->serving--;
    if (rpc) {
        bool sent = rt_call_alive(call) && session->sent_ns >= call->came_ns;
        uint64_t now = sent ? session->sent_ns : rt_io_now(rpc->io);
        stats_end(&rpc->served[call->method - RT_METHOD_ROLE_FIRST], call->came_ns, now, status);
        if (rt_trace_wants(call->batch_id))
            trace_call(call, now, status);
        call->next = rpc->free_calls;
        rpc->free_calls = call;
    } else {
        rt_free(call);
    }
    rt_session_unref(session);
}

void rt_rpc_on_request(struct rt_session *session, const struct rt_frame *request)
{
    struct rt_rpc *rpc = session->rpc;
    struct rt_call *call = rpc->free_calls;
    if (call)
        rpc->free_calls = call->next;
    else
        call = rt_xmalloc(sizeof(*call));
    *call = (struct rt_call){
        .session = session,
        .request_id = request->header.request_id,
        .batch_id = request->header.batch_id,
        .came_ns = session->heard_ns,
        .method = request->header.method,
        .flags = request->header.flags & RT_FRAME_TRACE,
    };
    session->refs++;
    session->serving++;
    const struct rt_method_def *def = rt_rpc_method(rpc, call->method);
    rt_rpc_count(&rpc->served[call->method - RT_METHOD_ROLE_FIRST].open, 1);
    char text[128];
    if (request->header.flags & RT_FRAME_DISCARDED) {
        snprintf(text, sizeof(text), "no room for a %s of %llu bytes", def->name,
                 (unsigned long long)request->header.payload_size);
        rt_call_fail(call, RT_EFULL, text);
    } else if (session->serving > RT_CALLS_MAX) {
        snprintf(text, sizeof(text), "%d requests of this connection wait", RT_CALLS_MAX);
        rt_call_fail(call, RT_EFULL, text);
    } else if (check_epochs(session, &request->header, def->from_roles & RT_ANY_EPOCH)) {
        rt_call_fail(call, RT_ESTALE, rt_err_text());
    } else {
        def->serve(rpc->conf.ctx, call, request);
    }
}

int rt_call_alive(const struct rt_call *call)
{
    return call->session->state == RT_SESSION_UP;
}

uint64_t rt_call_batch(const struct rt_call *call)
{
    return call->batch_id;
}

bool rt_call_checks(const struct rt_call *call)
{
    return rt_call_alive(call) && call->session->rpc->io->ops->link_checks(call->session->link);
}

const struct rt_identity *rt_call_from(const struct rt_call *call)
{
    return &call->session->remote;
}

static int call_send(struct rt_call *call, int status, const struct rt_outgoing *out)
{
    struct rt_header header = {
        .method = call->method,
        .flags = RT_FRAME_REPLY | call->flags,
        .status = status,
        .request_id = call->request_id,
        .batch_id = out->batch_id ? out->batch_id : call->batch_id,
    };
    if (out->maker && rt_trace_wants(call->batch_id))
        return send_and_note(call, &header, out);
    return rt_session_send(call->session, &header, out);
}

void rt_call_fail(struct rt_call *call, int status, const char *text)
{
    rt_assert(status < 0);
    if (rt_call_alive(call)) {
        size_t n = strnlen(text, RT_CALL_TEXT);
        call_send(call, status, &(struct rt_outgoing){.message = text, .message_size = n});
    }
    call_free(call, status);
}

void rt_call_reply(struct rt_call *call, const struct rt_outgoing *out)
{
    if (rt_call_alive(call) && call_send(call, 0, out) == RT_ELIMIT) {
        rt_call_fail(call, RT_ELIMIT, rt_err_text()); /* too large: the asker must hear something */
        return;
    }
    call_free(call, 0);
}
