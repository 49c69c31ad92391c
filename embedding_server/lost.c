/* embedding_server/lost.c -- see lost.h. */
#include "embedding_server/lost.h"
#include "embedding_server/serve.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/job/batch_id.h"

#define TOLD 64u /* ranges in the log: a line has room for them */

/* ---- what is lost ---- */

static void add_range(struct ebs_lost *out, uint32_t split, uint64_t sequence, uint64_t n)
{
    out->batches += n;
    while (n > 0) {
        uint32_t last = out->n_ranges - 1, part;
        uint64_t id = rt_batch_id(split, sequence);

        if (out->n_ranges == 0 || out->first[last] + out->count[last] != id ||
            rt_batch_split(out->first[last]) != split || out->count[last] == UINT32_MAX) {
            if (out->n_ranges == WIRE_LOST_MAX)
                return;
            last = out->n_ranges++;
            out->first[last] = id;
            out->count[last] = 0;
        }
        part = UINT32_MAX - out->count[last];
        part = n < part ? (uint32_t)n : part;
        out->count[last] += part;
        sequence += part;
        n -= part;
    }
}

static bool is_finished(const struct wire_split_ledger *ledger, uint64_t sequence)
{
    uint64_t at = sequence - ledger->finished_low;

    return sequence < ledger->finished_low || (ledger->finished[at / 8] >> at % 8 & 1);
}

void ebs_lost_add(const struct ebs_filter *filter, const struct wire_split_ledger *ledger,
                  struct ebs_lost *out)
{
    uint64_t low = ebs_filter_low(filter, ledger->split), at = low;
    uint64_t beyond = low + ebs_filter_window(filter);
    uint64_t end = ledger->finished_low + (uint64_t)ledger->finished_bytes * 8;

    if (end > RT_SEQUENCE_MAX + 1)
        end = RT_SEQUENCE_MAX + 1;
    while (at < end) {
        if (at >= beyond && at < ledger->finished_low) { /* the filter tells nothing of these */
            add_range(out, ledger->split, at, ledger->finished_low - at);
            at = ledger->finished_low;
            continue;
        }
        if (is_finished(ledger, at) && !ebs_filter_seen(filter, rt_batch_id(ledger->split, at)))
            add_range(out, ledger->split, at, 1);
        at++;
    }
}

static void tell(const struct ebs_owner *owner, const struct ebs_lost *lost)
{
    struct rt_strbuf ranges;

    rt_strbuf_init(&ranges);
    for (uint32_t i = 0; i < lost->n_ranges && i < TOLD; i++)
        rt_strbuf_addf(&ranges, "%s%u:%llu+%u", i ? " " : "", rt_batch_split(lost->first[i]),
                       (unsigned long long)rt_batch_sequence(lost->first[i]), lost->count[i]);
    rt_log(RT_LOG_WARN, "updates_lost worker=%u batches=%llu ranges=\"%s%s\"",
           owner->conf.identity.loop, (unsigned long long)lost->batches, ranges.text,
           lost->n_ranges > TOLD ? " ..." : "");
    rt_strbuf_release(&ranges);
    RT_FAILPOINT("P12.lost");
}

/* ---- TellLedger ---- */

/* Everything that can fail of taking it over. */
static int reserve(struct ebs_owner *owner, const struct wire_await_phase_reply *phase)
{
    uint32_t most = ebs_filter_window(owner->filter) / 8;
    int err = 0;

    for (uint32_t i = 0; i < phase->n_ledger && !err; i++) {
        const struct wire_split_ledger *ledger = &phase->ledger[i];

        err = ledger->finished_bytes > most
                  ? RT_FAIL(RT_EPROTO,
                            "TellLedger: split %u: bitmap of %u bytes, expected at most %u",
                            ledger->split, ledger->finished_bytes, most)
                  : ebs_filter_reserve(owner->filter, rt_batch_id(ledger->split, 0));
    }
    return err;
}

static void take(struct ebs_owner *owner, const struct wire_await_phase_reply *phase,
                 struct ebs_lost *lost)
{
    for (uint32_t i = 0; i < phase->n_ledger; i++) {
        const struct wire_split_ledger *ledger = &phase->ledger[i];

        ebs_lost_add(owner->filter, ledger, lost);
        (void)ebs_filter_add(owner->filter, ledger->split, ledger->finished_low, ledger->finished,
                             ledger->finished_bytes);
    }
    if (lost->batches > 0)
        tell(owner, lost);
    ebs_add(&owner->stats.lost, lost->batches);
    owner->lost = lost;
}

/* lost NULL: it was not about that. */
static void reply(struct ebs_owner *owner, struct rt_call *call, const struct ebs_lost *lost,
                  bool ahead, bool differs)
{
    struct wire_tell_ledger_reply m = {0};
    int err;

    if (lost)
        m = (struct wire_tell_ledger_reply){.step = ebs_get(&owner->stats.step),
                                            .lost = lost->batches,
                                            .ahead = ahead,
                                            .differs = differs,
                                            .n_ranges = lost->n_ranges,
                                            .first = lost->first,
                                            .count = lost->count};
    err = wire_tell_ledger_reply_pack(&m, &owner->reply);

    if (err)
        rt_call_fail(call, err, rt_err_text());
    else
        rt_call_reply(call, &(struct rt_outgoing){.message = owner->reply.data,
                                                  .message_size = owner->reply.size});
}

/* Has it applied just what is finished? If so it is told as ever: nothing is lost. If not it stays as it is. *told: answered. */
static int check(struct ebs_owner *owner, struct rt_call *call,
                 const struct wire_await_phase_reply *phase, bool ahead, bool imported, bool *told)
{
    bool exact = owner->conf.job->global.exact;
    struct ebs_lost *lost;

    if (owner->turn.n_jobs > 0)
        return RT_FAIL(RT_ENOTREADY, "%zu updates are being applied", owner->turn.n_jobs);
    lost = rt_try_calloc(1, sizeof(*lost));
    if (!lost)
        return RT_FAIL(RT_ENOMEM, "TellLedger: out of memory");
    for (uint32_t i = 0; i < phase->n_ledger; i++)
        ebs_lost_add(owner->filter, &phase->ledger[i], lost);
    *told = lost->batches > 0 || (exact && (ahead || imported != owner->history.imported));
    if (*told)
        reply(owner, call, lost, ahead, true);
    rt_free(lost);
    return 0;
}

void ebs_serve_tell_ledger(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct wire_await_phase_reply phase;
    struct wire_tell_ledger m;
    struct ebs_lost *lost = NULL;
    uint64_t beyond;
    bool ahead = false, told = false;
    int err;

    rt_arena_reset(owner->arena);
    err = wire_tell_ledger_unpack(request->message, request->header.message_size, owner->arena, &m);
    if (!err && m.ledger_size == 0) {
        err = ebs_history_waits(owner) ? 0 : ebs_step_skip(owner, &m); /* else of another line */
        if (err)
            ebs_refuse(owner, call, err);
        else
            reply(owner, call, NULL, false, false);
        return;
    }
    if (!err)
        err = wire_await_phase_reply_unpack(m.ledger, m.ledger_size, owner->arena, &phase);
    if (!err && owner->conf.job->global.exact && !m.check)
        err =
            RT_FAIL(RT_EUSAGE, "TellLedger without `check`: in mode `exact` trainer/0 is to be of "
                               "the same version of Saffron as embedding servers");
    if (!err)
        err = reserve(owner, &phase);
    if (!err)
        ahead = ebs_filter_beyond(owner->filter, phase.ledger, phase.n_ledger, &beyond);
    if (!err && m.check)
        err = check(owner, call, &phase, ahead, m.imported, &told);
    if (told)
        return;
    if (!err && !owner->lost) {
        lost = rt_try_calloc(1, sizeof(*lost));
        err = lost ? 0 : RT_FAIL(RT_ENOMEM, "TellLedger: out of memory");
    }
    if (err) {
        ebs_refuse(owner, call, err);
        return;
    }
    if (!owner->lost)
        take(owner, &phase, lost);
    reply(owner, call, owner->lost, ahead, false);
    if (m.check)
        ebs_history_begin(owner, m.attempt);
    if (owner->conf.job->global.mode == RT_MODE_FULL)
        ebs_steps_reached(owner, m.step);
}

/* ---- the window ---- */

static void durable(struct ebs_owner *owner)
{
    ebs_set(&owner->stats.durable_updates, owner->window.updates);
    ebs_set(&owner->stats.durable_ns, owner->window.ns);
}

void ebs_window_cut(struct ebs_owner *owner)
{
    owner->window.updates = ebs_get(&owner->stats.updates);
    owner->window.ns = rt_io_now(owner->conf.io);
}

void ebs_window_start(struct ebs_owner *owner)
{
    ebs_window_cut(owner);
    durable(owner);
}

void ebs_window_published(struct ebs_owner *owner)
{
    durable(owner);
}
