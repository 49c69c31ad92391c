/* runtime/net/credit.c -- a peer that stops reading costs its credit, and delays nobody else.
 *
 * A connection has a credit of bytes that may wait to be sent on it (rt_link_ops.link_queued: beyond what the kernel
 * took), lent from a budget of the process. Who comes over it is held back, and never closed for it:
 *
 *   caller: OPEN -rt_credit_check: over the credit-> REFUSED (RT_EFULL) -drained, or down-> OPEN, peer_drained()
 *   server: READ -rt_credit_sent: replies over the credit-> PAUSED, not read -drained-> READ
 *
 * One message always may go: a call is refused only while more than half the credit waits, a reply never. So what
 * waits is at most the credit, or half of it and one message, and for a server the replies to what it had read before it
 * paused. Those are bounded where requests are admitted (permits, windows, memory of batches); over RT_LINK_QUEUE_MAX a
 * connection is closed. While the budget is lent out, a connection's credit is 0: one message at a time, on each. A message is
 * thus never larger than may be sent, and nobody waits for another connection to drain, only for his own.
 *
 * NO DEADLOCK. Requests and replies travel on a connection in opposite directions. A caller reads its replies whatever
 * is queued or lent (a connection that was made by us is never paused; without memory a reply is thrown away). So the
 * replies that pause a server drain as long as the caller lives, its reading starts again, and with it the caller's
 * requests drain. Each connection so comes free by itself, whatever waits on others: no cycle can be made of them.
 * What is owed but not made yet does not count: it may wait for a request that stands behind the pause (in `full` a
 * lookup waits for the gradients of its step), so counting it could stop for ever.
 *
 * ALIVE? Of a paused connection no ping is heard. There the bytes that the other end took are its signs of life: it
 * is dead when the kernel took nothing of ours for dead_ns. One that stopped whole is silent both ways and is closed after
 * the same time as one that was not paused. The caller hears our replies meanwhile. Rejected: reading on and looking for
 * pings only, which would have to keep the requests between them.
 *
 * The budget is one atomic for all loops of the process: it is touched when RT_CREDIT_FREE bytes wait, or no longer. */
#include "runtime/net/rpc_impl.h"

#include "runtime/base/err.h"
#include "runtime/base/log.h"

static size_t queued(const struct rt_session *session)
{
    return session->rpc->io->ops->link_queued(session->link);
}

void rt_credit_join(struct rt_rpc *rpc)
{
    rpc->budget = rpc->conf.budget;
    if (!rpc->budget) {
        rpc->budget = &rpc->own_budget;
        rpc->own_budget.limit = (uint64_t)rpc->conf.credit * RT_CREDIT_LINKS;
    }
    if (atomic_fetch_add_explicit(&rpc->budget->rpcs, 1, memory_order_relaxed) == 0)
        rt_rpc_count(&rpc->stats.credit_budget, rpc->budget->limit);
}

static void lend(struct rt_session *session, uint64_t bytes)
{
    uint64_t more = bytes - session->lent; /* or less, by wrapping around */
    if (!more)
        return;
    atomic_fetch_add_explicit(&session->rpc->budget->lent, more, memory_order_relaxed);
    rt_rpc_count(&session->rpc->stats.credit_lent, more);
    session->lent = bytes;
}

static bool is_lent_out(const struct rt_session *session, size_t more)
{
    const struct rt_credit *budget = session->rpc->budget;
    return atomic_load_explicit(&budget->lent, memory_order_relaxed) + more > budget->limit;
}

/* What counts now, and when to look again. */
static void account(struct rt_session *session, size_t waits)
{
    lend(session, waits < RT_CREDIT_FREE ? 0 : waits);
    bool held_back = session->paused || session->refused;
    if (held_back || session->lent)
        session->rpc->io->ops->link_watch(session->link, held_back ? session->low : waits / 2);
}

int rt_credit_check(struct rt_session *session, const struct rt_outgoing *out)
{
    size_t size = out->message_size, waits = queued(session), credit = session->rpc->conf.credit;
    if (out->n_pieces == 0 || waits == 0)
        return 0;
    for (size_t i = 0; i < out->n_pieces; i++)
        size += out->pieces[i].size; /* each at most RT_PAYLOAD_MAX, or link_send refuses them */
    if (is_lent_out(session, size))
        credit = 0;
    if (waits <= credit / 2 || (size <= credit && waits <= credit - size))
        return 0;
    session->refused = true;
    rt_rpc_count(&session->rpc->stats.calls_over_credit, 1);
    session->low = credit / 2;
    account(session, waits);
    return RT_FAIL(RT_EFULL, "%s: %zu bytes wait to be sent, expected at most %zu with %zu more",
                   session->name, waits, credit, size);
}

void rt_credit_sent(struct rt_session *session, uint64_t bytes)
{
    size_t waits = queued(session), credit = session->rpc->conf.credit;
    session->sent_bytes += bytes;
    if (waits >= RT_CREDIT_FREE || session->lent)
        account(session, waits);
    if (session->peer || session->paused || session->state != RT_SESSION_UP)
        return;
    if (waits > RT_CREDIT_FREE && is_lent_out(session, 0))
        credit = 0;
    if (waits <= credit)
        return;
    session->paused = true;
    session->low = credit / 2;
    session->written = session->sent_bytes - waits;
    rt_rpc_count(&session->rpc->stats.links_paused, 1);
    session->rpc->io->ops->link_pause(session->link, true);
    account(session, waits);
}

void rt_credit_drained(void *arg)
{
    struct rt_session *session = arg;
    struct rt_rpc *rpc = session->rpc;
    size_t waits;
    if (session->state != RT_SESSION_UP)
        return;
    waits = queued(session);
    bool over = waits > session->low, tell = session->refused && !over;
    if (session->paused && !over) {
        session->paused = false;
        session->heard_ns = rt_io_now(rpc->io);
        rpc->io->ops->link_pause(session->link, false);
    }
    session->refused = session->refused && over;
    account(session, waits);
    if (tell && rpc->conf.peer_drained)
        rpc->conf.peer_drained(rpc->conf.ctx, session->peer);
}

bool rt_credit_progress(struct rt_session *session)
{
    uint64_t written = session->sent_bytes - queued(session);
    bool more = written > session->written;
    session->written = written;
    return more;
}

bool rt_credit_give_back(struct rt_session *session)
{
    bool owed = session->refused;
    lend(session, 0);
    session->refused = session->paused = false;
    return owed;
}
