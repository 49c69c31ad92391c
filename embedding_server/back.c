/* embedding_server/back.c -- see back.h. */
#include "embedding_server/back.h"
#include "embedding_server/serve.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/wire/checkpoint.h"

void ebs_history_begin(struct ebs_owner *owner, uint64_t attempt)
{
    if (attempt > owner->history.least) {
        owner->history.least = attempt;
        ebs_gather_drop_before(owner->gather, attempt);
    }
    owner->history.compared = true;
    ebs_wake(owner);
}

bool ebs_history_waits(const struct ebs_owner *owner)
{
    return owner->conf.job->global.exact && !owner->history.compared;
}

int ebs_history_check(const struct ebs_owner *owner, uint64_t attempt)
{
    if (ebs_history_waits(owner))
        return RT_FAIL(RT_ENOTREADY, "trainer/0 has not compared this owner with the ledger yet");
    if (attempt >= owner->history.least)
        return 0;
    return RT_FAIL(RT_EUNKNOWN, "its step is of a generation that is over");
}

/* Are the rows, and the step that they are of, just those of that checkpoint? */
static bool is_there(const struct ebs_owner *owner, uint64_t attempt)
{
    return owner->history.base == attempt && ebs_get(&owner->stats.updates) == 0 &&
           ebs_get(&owner->stats.step) == owner->history.base_step && owner->turn.n_jobs == 0 &&
           !owner->history.imported;
}

static void leave(struct ebs_owner *owner, const struct wire_go_back *m)
{
    char why[2 * WIRE_TEXT_MAX];

    (void)RT_FAIL(RT_EBACK, "%s; all roles go back to %s%s, and this one is to be started again",
                  rt_log_escape(m->why, why, sizeof(why)),
                  m->attempt ? "the checkpoint " : "the beginning", m->name);
    rt_log(RT_LOG_WARN, "goes_back worker=%u to=\"%s\" reason=\"%s\"", owner->conf.identity.loop,
           m->name, why);
    owner->conf.back(owner->conf.ctx);
}

void ebs_serve_go_back(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct wire_go_back m;
    int err;

    rt_arena_reset(owner->arena);
    err = wire_go_back_unpack(request->message, request->header.message_size, owner->arena, &m);
    if (!err && !owner->conf.back)
        err = RT_FAIL(RT_EUSAGE, "GoBack: there is nobody to start this owner again");
    if (err) {
        ebs_refuse(owner, call, err);
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0}); /* GoBackReply has no fields */
    owner->history.compared = false;               /* with who comes now */
    if (!is_there(owner, m.attempt))
        leave(owner, &m);
}
