/* data_compose/recall.c -- what a rank that was started anew must hear from us: batches that it had said are done.
 *
 * That all owners have a batch is known to its rank and to the next one, until a round of the group tells all
 * (trainer/finished.c). When both are lost before it, nobody of the group knows: the batch is owed for ever, and we, who
 * have been told, do not bring it again. So we keep the names of the latest batches that are done, as many as may be
 * untold among the ranks, and tell a rank that comes back its own.
 *
 * Our word goes with trainer/0's incarnation. When that rank is lost all batches are made again that the group's
 * ledger does not have (dc_phase_reset), which covers these too; and were all ranks lost, the weights that such batches
 * went into are gone, and they must come again. */
#include "data_compose/state.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"

/* A rank tells what it has finished with its next header: that of the round after the next at the latest, and in `async`
 * when it has made sync_every steps. */
static uint32_t most_untold(const struct dc_composer *c)
{
    const struct rt_global_conf *global = &c->job->global;
    uint32_t steps = global->mode == RT_MODE_ASYNC ? global->sync_every : 2;
    uint32_t n = steps + 2 * c->job->data.window + 2 * global->staleness;

    rt_assert(n <= WIRE_FINISHED_MAX); /* by the options' limits */
    return n * c->world;
}

void dc_recall_add(struct dc_composer *composer, uint64_t batch_id)
{
    struct dc_recall *recall = &composer->recall;

    if (composer->world < 2)
        return;
    if (!recall->batch) {
        recall->capacity = most_untold(composer);
        recall->batch = rt_xcalloc(recall->capacity, sizeof(*recall->batch));
    }
    recall->batch[recall->next++ % recall->capacity] = batch_id;
}

void dc_recall_forget(struct dc_composer *composer)
{
    composer->recall.next = 0;
    for (uint32_t r = 0; r < composer->world; r++)
        composer->rank[r].recall = false;
}

void dc_recall_release(struct dc_composer *composer)
{
    rt_free(composer->recall.batch);
}

static void on_told(void *arg, int err, const struct rt_frame *reply)
{
    struct dc_rank *rank = arg;
    struct dc_composer *c = rank->composer;

    (void)reply;
    rank->recall_out = false;
    if (c->destroying || c->failed)
        return;
    if (!err)
        rank->recall = false;
    else if (err == RT_EPEER || err == RT_EDEADLINE || err == RT_ECANCELED || err == RT_ENOTREADY ||
             err == RT_ESTALE || err == RT_EFULL || err == RT_ENOMEM)
        dc_pause(
            c); /* the group has not formed, or it is short of memory; or trainer/0 is another, which we shall hear */
    else
        dc_fail(c, rt_fail_prefix(err, "TellFinished at %s: ", rt_peer_name(rank->peer)));
}

/* In the order in which they were done: a ledger takes no more than a window ahead of the oldest that it misses. */
static int tell(struct dc_composer *c, uint32_t r)
{
    const struct dc_recall *recall = &c->recall;
    uint64_t held = recall->next < recall->capacity ? recall->next : recall->capacity;
    uint64_t *batch = rt_xcalloc(WIRE_FINISHED_MAX, sizeof(*batch));
    struct wire_tell_finished message = {.leader = c->rank[0].incarnation, .batch = batch};

    uint32_t of_rank = recall->capacity / c->world, skip = 0;
    for (uint64_t i = recall->next - held; i < recall->next; i++)
        skip += rt_batch_rank(recall->batch[i % recall->capacity], c->world) == r;
    skip = skip > of_rank
               ? skip - of_rank
               : 0; /* the ranks do not take the same number at any time: the latest count */
    for (uint64_t i = recall->next - held; i < recall->next; i++) {
        uint64_t id = recall->batch[i % recall->capacity];

        if (rt_batch_rank(id, c->world) != r)
            continue;
        if (skip > 0)
            skip--;
        else
            batch[message.n_batches++] = id;
    }
    int err = wire_tell_finished_pack(&message, &c->out);
    rt_free(batch);
    if (err)
        return err;
    struct rt_outgoing out = {.message = c->out.data, .message_size = c->out.size};
    err = rt_rpc_call(c->rank[r].peer, WIRE_TELL_FINISHED, &out, DC_END_DEADLINE_NS, on_told,
                      &c->rank[r]);
    c->rank[r].recall_out = err == 0;
    return err;
}

int dc_recall_pump(struct dc_composer *composer)
{
    int err = 0;

    for (uint32_t r = 1; r < composer->world && !err; r++)
        if (composer->rank[r].recall && !composer->rank[r].recall_out && dc_rank_up(composer, r))
            err = tell(composer, r);
    return err;
}
