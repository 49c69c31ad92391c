/* trainer/finished.c -- who knows that a batch is finished.
 *
 * All owners have acked a batch at one rank, and it must not be lost with that rank that they have: nobody
 * would ever finish the batch again. So the next rank notes it before data-compose hears of it, and the next
 * header tells all:
 *
 *   acked by all owners -tr_group_finish-> NoteFinished at rank + 1 -on_told-> TrainBatch answered, news
 *   news -header of a round-> every rank's ledger, and what the batch owes is forgotten
 *   the rank dies before: its neighbour's note counts when the group forms (tr_group_believe_notes)
 *   both die before: data-compose, which has been told, says so to the rank that returns (tr_group_serve_finished)
 *
 * `owed` is what a rank that returns would need to run a batch again that is stepped and not finished. */
#include "trainer/group.h"

#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/job/batch_id.h"
#include "trainer/header.h"
#include "trainer/state.h"

#include <inttypes.h>

#define AGAIN_NS (5 * 1000000ull)

struct tr_header_rules tr_group_rules(const struct tr_group *group)
{
    const struct tr_trainer *trainer = group->trainer;
    return (struct tr_header_rules){group->world, trainer->job->data.splits, trainer->ledger};
}

void tr_group_news(struct tr_group *group, uint64_t batch_id)
{
    struct wire_owed *owed = rt_map_get_ptr(&group->owed, batch_id);
    if (owed) {
        rt_map_remove(&group->owed, batch_id);
        rt_free(owed);
    }
    if (group->n_news == group->news_capacity) {
        group->news_capacity = group->news_capacity ? 2 * group->news_capacity : 64;
        group->news = rt_xrealloc(group->news, group->news_capacity * sizeof *group->news);
    }
    group->news[group->n_news++] = batch_id;
}

/* Of one header; what is left goes with the next. */
size_t tr_group_news_to_tell(const struct tr_group *group)
{
    return group->n_news < group->news_max ? group->n_news : group->news_max;
}

void tr_group_owe(struct tr_group *group, const struct wire_owed *owed)
{
    struct wire_owed *copy = rt_map_get_ptr(&group->owed, owed->batch_id);
    if (rt_ledger_is_finished(group->trainer->ledger, owed->batch_id))
        return;
    if (!copy) {
        copy = rt_xmalloc(sizeof *copy);
        if (rt_map_put_ptr(&group->owed, owed->batch_id, copy) != 0) {
            rt_free(copy);
            return;
        }
    }
    *copy = *owed;
}

bool tr_group_owes(const struct tr_group *group)
{
    const struct tr_trainer *trainer = group->trainer;
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&group->owed, &cursor, &id, &value))
        if (rt_batch_rank(id, group->world) == group->self &&
            !rt_ledger_is_finished(trainer->ledger, id))
            return true;
    return false;
}

size_t tr_group_owes_later(const struct tr_group *group)
{
    const struct tr_trainer *trainer = group->trainer;
    size_t cursor = 0, n = 0;
    uint64_t id, value;
    while (rt_map_next(&group->owed, &cursor, &id, &value)) {
        const struct tr_batch *batch = rt_map_get_ptr(&trainer->batches, id);
        n += rt_batch_rank(id, group->world) == group->self &&
             !rt_ledger_is_finished(trainer->ledger, id) && (!batch || batch->state == TR_QUEUED);
    }
    return n;
}

void tr_group_forget_finished(struct tr_group *group)
{
    struct rt_map kept;
    size_t cursor = 0;
    uint64_t id, value;
    rt_map_init(&kept);
    while (rt_map_next(&group->owed, &cursor, &id, &value))
        if (rt_ledger_is_finished(group->trainer->ledger, id) || rt_map_put(&kept, id, value) != 0)
            rt_free((void *)(uintptr_t)value);
    rt_map_release(&group->owed);
    group->owed = kept;
}

void tr_group_forget_owed(struct tr_group *group)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&group->owed, &cursor, &id, &value))
        rt_free((void *)(uintptr_t)value);
    rt_map_release(&group->owed);
    rt_map_init(&group->owed);
}

static void tell_again(void *arg);

static void on_told(void *arg, int err, const struct rt_frame *reply)
{
    struct tr_batch *batch = arg;
    struct tr_trainer *trainer = batch->trainer;
    (void)reply;
    if (trainer->closing)
        return;
    struct tr_group *group = trainer->group;
    batch->telling = false;
    if (err) { /* when the link is up; or the next rank is not in the group yet */
        group->tell_again.fire = tell_again;
        group->tell_again.arg = group;
        rt_timer_start(trainer->io, &group->tell_again, AGAIN_NS);
        return;
    }
    RT_FAILPOINT("P10.noted");
    tr_feed_finish(batch, WIRE_TRAINED, NULL);
    tr_pump(trainer);
}

static void tell_next(struct tr_group *group, struct tr_batch *batch)
{
    struct rt_peer *next = tr_rank(group->trainer, (group->self + 1) % group->world);
    if (batch->telling)
        return;
    batch->telling =
        rt_rpc_call(next, WIRE_NOTE_FINISHED, &(struct rt_outgoing){.batch_id = batch->id}, 0,
                    on_told, batch) == 0;
}

void tr_group_finish(struct tr_batch *batch)
{
    tr_batch_to(batch, TR_TELLING);
    tell_next(batch->trainer->group, batch);
}

void tr_group_tell_neighbour(struct tr_group *group)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&group->trainer->batches, &cursor, &id, &value)) {
        struct tr_batch *batch = (struct tr_batch *)(uintptr_t)value;
        if (batch->state == TR_TELLING)
            tell_next(group, batch);
    }
}

static void tell_again(void *arg)
{
    tr_group_tell_neighbour(arg);
}

/* It counts when a round tells it, or when the rank has died and the group forms without its word. */
void tr_group_serve_note(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct tr_group *group = trainer->group;
    struct tr_header_rules rules = tr_group_rules(group);
    uint32_t from = rt_call_from(call)->index;
    uint64_t id = request->header.batch_id;
    int err = tr_form_check_formed(group, "NoteFinished");
    if (!err)
        err = tr_header_check_own(&rules, "NoteFinished", from, id);
    if (!err && (from + 1) % group->world != group->self)
        err = RT_FAIL(RT_EPROTO, "NoteFinished of rank %u of %u, at rank %u", from, group->world,
                      group->self);
    if (!err && group->noted.count >= TR_OPEN_MAX)
        err = RT_FAIL(RT_EFULL, "%u batches are noted", TR_OPEN_MAX);
    if (!err && !rt_ledger_is_finished(trainer->ledger, id))
        err = rt_map_put(&group->noted, id, 1);
    if (err)
        rt_call_fail(call, err, rt_err_text());
    else
        rt_call_reply(call, &(struct rt_outgoing){0});
}

void tr_group_believe_notes(struct tr_group *group)
{
    size_t cursor = 0;
    uint64_t id, value;
    while (rt_map_next(&group->noted, &cursor, &id, &value)) {
        int err = rt_ledger_finished(group->trainer->ledger, id);
        if (err)
            tr_fail(group->trainer, err);
    }
    rt_map_release(&group->noted);
    rt_map_init(&group->noted);
}

void tr_group_take_news(struct tr_group *group, const struct wire_step_header *header)
{
    for (uint32_t i = 0; i < header->n_finished; i++) {
        struct wire_owed *owed = rt_map_get_ptr(&group->owed, header->finished[i]);
        int err = rt_ledger_finished(group->trainer->ledger, header->finished[i]);
        rt_map_remove(&group->noted, header->finished[i]);
        if (owed) {
            rt_map_remove(&group->owed, header->finished[i]);
            rt_free(owed);
        }
        if (err)
            tr_fail(group->trainer, err);
    }
}

/* What is acted on must not die with its rank: so it is noted, and counts when the group forms without it. */
bool tr_group_has_heard(struct tr_group *group, uint64_t batch_id)
{
    const struct tr_seat *seat = &group->seat[rt_batch_rank(batch_id, group->world)];
    bool heard = rt_map_get(&group->noted, batch_id, NULL);
    if (rt_ledger_is_finished(group->trainer->ledger, batch_id))
        return true;
    for (uint32_t i = 0; seat->in && i < seat->header.n_finished; i++)
        heard = heard || seat->header.finished[i] == batch_id;
    return heard && rt_map_put(&group->noted, batch_id, 1) == 0;
}

/* In a group that has formed this rank has all that the others know of its batches. */
static int hear_finished(struct tr_group *group, uint64_t id)
{
    struct tr_trainer *trainer = group->trainer;
    struct tr_header_rules rules = tr_group_rules(group);
    int err = tr_header_check_own(&rules, "TellFinished", group->self, id);
    if (err || rt_ledger_is_finished(trainer->ledger, id) ||
        rt_map_get_ptr(&trainer->batches, id)) /* it is here again: that will finish it */
        return err;
    err = rt_ledger_finished(trainer->ledger, id);
    if (!err)
        tr_group_news(group, id);
    return err;
}

void tr_group_serve_finished(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct tr_trainer *trainer = ctx;
    struct tr_group *group = trainer->group;
    struct wire_tell_finished m;
    rt_arena_reset(trainer->scratch);
    int err = wire_tell_finished_unpack(request->message, request->header.message_size,
                                        trainer->scratch, &m);
    if (!err)
        err = tr_form_check_formed(group, "TellFinished");
    if (!err && m.leader != group->incarnation[0])
        err = RT_FAIL(RT_ESTALE,
                      "TellFinished: of trainer/0's incarnation %" PRIu64 ", here is %" PRIu64,
                      m.leader, group->incarnation[0]);
    for (uint32_t i = 0; i < m.n_batches && !err; i++)
        err = hear_finished(group, m.batch[i]);
    if (err) {
        rt_call_fail(call, err, rt_err_text());
        return;
    }
    rt_call_reply(call, &(struct rt_outgoing){0});
    tr_phase_check(trainer);
    tr_pump(trainer);
}
