/* runtime/net/peer.c -- whom we ask: addresses, reconnection, and who is too old to talk to.
 *
 * A peer without a session and with an address has its retry timer running; with a session it has
 * none. Whatever ends the session comes back through rt_peer_session_down, the one place that decides
 * when to try again: at once when the address is news, otherwise after a delay that doubles up to
 * conf.backoff_ns, half of it random so that the peers of a restarted process do not come in step. */
#include "runtime/net/rpc_impl.h"

#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <stdio.h>
#include <string.h>

#define FIRST_DELAY_NS (10 * RT_MS)

/* ---- incarnations ---- */

static uint64_t held_key(enum rt_role role, uint32_t index)
{
    return (uint64_t)role << 32 | index;
}

uint64_t rt_rpc_held(const struct rt_rpc *rpc, enum rt_role role, uint32_t index)
{
    uint64_t held = 0;
    rt_map_get(&rpc->held, held_key(role, index), &held);
    return held;
}

void rt_rpc_hold(struct rt_rpc *rpc, enum rt_role role, uint32_t index, uint64_t incarnation)
{
    if (incarnation <= rt_rpc_held(rpc, role, index))
        return;
    if (rt_map_put(&rpc->held, held_key(role, index), incarnation))
        rt_log(RT_LOG_ERROR, "no memory to note an incarnation role=%s index=%u",
               rt_role_name(role), index);
    char why[96];
    snprintf(why, sizeof(why), "replaced by its incarnation %llu", (unsigned long long)incarnation);
    for (struct rt_session *s = rpc->sessions; s; s = s->next) {
        if (s->state == RT_SESSION_UP && s->remote.role == role && s->remote.index == index &&
            s->remote.incarnation < incarnation)
            rt_session_close(s, RT_EPEER, why);
    }
}

/* ---- peers ---- */

struct rt_peer *rt_rpc_peer(struct rt_rpc *rpc, enum rt_role role, uint32_t index, uint32_t loop)
{
    struct rt_peer *peer = rpc->peers;
    while (peer && (peer->role != role || peer->index != index || peer->loop != loop))
        peer = peer->next;
    if (peer)
        return peer;
    peer = rt_xcalloc(1, sizeof(*peer));
    peer->rpc = rpc;
    peer->role = role;
    peer->index = index;
    peer->loop = loop;
    snprintf(peer->name, sizeof(peer->name), "%s/%u.%u", rt_role_name(role), index, loop);
    peer->next = rpc->peers;
    rpc->peers = peer;
    return peer;
}

void rt_peer_free(struct rt_peer *peer)
{
    rt_timer_stop(peer->rpc->io, &peer->retry);
    rt_free(peer);
}

static void connect_peer(void *arg)
{
    struct rt_peer *peer = arg;
    peer->hurry = false;
    peer->session = rt_session_new(peer->rpc, peer);
    int err = rt_session_connect(peer->session, peer->address);
    if (err) { /* not an address: wait for a better one */
        rt_log(RT_LOG_WARN, "peer_address peer=%s error=\"%s\"", peer->name, rt_err_text());
        peer->session = NULL;
    }
}

static void retry_later(struct rt_peer *peer)
{
    struct rt_rpc *rpc = peer->rpc;
    uint64_t delay = rpc->conf.backoff_ns, first = FIRST_DELAY_NS;
    if (peer->attempts < 16 && first << peer->attempts < delay)
        delay = first << peer->attempts;
    peer->attempts++;
    delay = delay / 2 + rt_below(rpc->io->ops->random(rpc->io), delay / 2 + 1);
    peer->retry.fire = connect_peer;
    peer->retry.arg = peer;
    rt_timer_start(rpc->io, &peer->retry, peer->hurry ? 0 : delay);
}

void rt_peer_set_address(struct rt_peer *peer, const char *address, uint64_t incarnation)
{
    struct rt_rpc *rpc = peer->rpc;
    bool same = strcmp(peer->address, address) == 0;
    if (incarnation < rt_rpc_held(rpc, peer->role, peer->index) || incarnation < peer->wanted ||
        (incarnation == peer->wanted && same))
        return;
    snprintf(peer->address, sizeof(peer->address), "%s", address);
    peer->wanted = incarnation;
    peer->attempts = 0;
    rt_rpc_hold(rpc, peer->role, peer->index, incarnation); /* closes what is older */
    struct rt_session *session = peer->session;
    if (session && session->state == RT_SESSION_UP && session->remote.incarnation == incarnation)
        return; /* the connection is good; the address is for the next one */
    peer->hurry = true;
    if (session) {
        rt_session_close(session, RT_EPEER, "it has a new address");
        return;
    }
    retry_later(peer);
}

void rt_peer_session_up(struct rt_peer *peer)
{
    struct rt_rpc *rpc = peer->rpc;
    if (peer->incarnation)
        rt_rpc_count(&rpc->stats.reconnects, 1);
    peer->incarnation = peer->session->remote.incarnation;
    peer->attempts = 0;
    peer->said[0] = '\0';
    rt_log(RT_LOG_INFO, "peer_up peer=%s address=%s incarnation=%llu", peer->name, peer->address,
           (unsigned long long)peer->incarnation);
    if (rpc->conf.peer_up)
        rpc->conf.peer_up(rpc->conf.ctx, peer);
}

void rt_peer_session_down(struct rt_peer *peer, bool was_up, int err, const char *why)
{
    struct rt_rpc *rpc = peer->rpc;
    if (strncmp(peer->said, why, sizeof(peer->said) - 1) != 0) {
        snprintf(peer->said, sizeof(peer->said), "%s", why);
        rt_log(was_up ? RT_LOG_WARN : RT_LOG_INFO, "%s peer=%s address=%s error=%s reason=\"%s\"",
               was_up ? "peer_down" : "peer_unreachable", peer->name, peer->address,
               rt_err_name(err), why);
    }
    peer->session = NULL;
    if (was_up && rpc->conf.peer_down)
        rpc->conf.peer_down(rpc->conf.ctx, peer, err, why);
    if (!peer->session)
        retry_later(peer);
}

int rt_peer_is_up(const struct rt_peer *peer)
{
    return peer->session && peer->session->state == RT_SESSION_UP;
}

enum rt_role rt_peer_role(const struct rt_peer *peer)
{
    return peer->role;
}

uint32_t rt_peer_index(const struct rt_peer *peer)
{
    return peer->index;
}

uint32_t rt_peer_loop(const struct rt_peer *peer)
{
    return peer->loop;
}

uint64_t rt_peer_incarnation(const struct rt_peer *peer)
{
    return peer->incarnation;
}

const char *rt_peer_name(const struct rt_peer *peer)
{
    return peer->name;
}

void *rt_peer_data(const struct rt_peer *peer)
{
    return peer->data;
}

void rt_peer_set_data(struct rt_peer *peer, void *data)
{
    peer->data = data;
}
