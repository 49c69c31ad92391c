/* embedding_server/cut.c -- Cut, AwaitCut and EndCut: what an owner refuses, and what it answers. See cut.h.
 *
 * The trainer holds its group while it cuts, so nothing that was stepped is on its way here; what this owner can see of that it checks.
 * A batch that waits in the gather for parts that nobody sends any more is of no step, and in no table. */
#include "embedding_server/cut_write.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/mem.h"

#include <inttypes.h>
#include <string.h>

/* ---- applications beside it ---- */

void ebs_cut_applied(struct ebs_owner *owner, const struct ebs_part *part)
{
    struct ebs_cutter *cutter = &owner->cutter;

    if (part->m.attempt > cutter->step_attempt) { /* steps are made again from an earlier one on */
        cutter->step_attempt = part->m.attempt;
        cutter->step = part->m.step;
    } else if (part->m.attempt == cutter->step_attempt && part->m.step > cutter->step) {
        cutter->step = part->m.step;
    }
}

static const struct ebs_cut *writing(const struct ebs_owner *owner)
{
    const struct ebs_cut *cut = owner->cutter.cut;

    return cut && cut->state == EBS_CUT_WRITING ? cut : NULL;
}

bool ebs_cut_admits_piece(const struct ebs_owner *owner, bool rows)
{
    const struct ebs_cut *cut = writing(owner);

    return !cut || !rows || cut->at_table == cut->n_tables ||
           ebs_rowbuf_room(&cut->buf) >= cut->piece_bytes;
}

bool ebs_cut_admits(const struct ebs_owner *owner, struct ebs_part *const *part, size_t n)
{
    const struct ebs_cut *cut = writing(owner);
    size_t copies = 0;

    if (!cut)
        return true;
    for (size_t i = 0; i < n; i++)
        for (uint32_t t = 0; t < part[i]->m.n_tables; t++)
            copies += ebs_table_cut_copies(owner->table[part[i]->m.table[t]], part[i]->m.n_ids[t]);
    return ebs_rowbuf_room(&cut->buf) >= copies;
}

/* ---- Cut ---- */

/* Is all of the step here, and nothing of a later one? */
static int check_step(const struct ebs_owner *owner, const struct wire_cut *m)
{
    bool synchronous =
        owner->conf.job->global.mode == RT_MODE_FULL || owner->conf.job->global.exact;
    uint64_t through = ebs_get(&owner->stats.step);
    size_t jobs = owner->turn.n_jobs, open = ebs_gather_awaited(owner->gather);

    if (synchronous && m->step < owner->cutter.step)
        return RT_FAIL(RT_ESTALE, "a cut at step %" PRIu64 ", this owner has applied step %" PRIu64,
                       m->step, owner->cutter.step);
    if (synchronous && through < m->step)
        return RT_FAIL(RT_ENOTREADY,
                       "a cut at step %" PRIu64 ", this owner has applied steps up to %" PRIu64,
                       m->step, through);
    if (jobs > 0 || open > 0)
        return RT_FAIL(RT_ENOTREADY, "%zu updates are being applied, %zu wait for their parts",
                       jobs, open);
    if (owner->importer.import && !owner->importer.import->check)
        return RT_FAIL(RT_ENOTREADY, "a model is being imported");
    return 0;
}

/* Has it applied what the ledger, which goes into the checkpoint with these rows, does not have? Trainers that went back make such
 * batches again; a server that began with rows and ledger of now would take them twice. */
static int check_ledger(struct ebs_owner *owner, const struct wire_cut *m)
{
    struct wire_await_phase_reply phase;
    uint64_t batch_id;
    int err;

    if (m->ledger_size == 0)
        return 0;
    err = wire_await_phase_reply_unpack(m->ledger, m->ledger_size, owner->arena, &phase);
    if (!err && ebs_filter_beyond(owner->filter, phase.ledger, phase.n_ledger, &batch_id))
        err = RT_FAIL(RT_ENOTREADY,
                      "batch %u:%" PRIu64 " is applied here and not finished in the ledger: the "
                      "trainers have gone back, and have to make it again first",
                      (unsigned)(batch_id >> EBS_SEQUENCE_BITS),
                      (uint64_t)(batch_id & ((1ull << EBS_SEQUENCE_BITS) - 1)));
    return err;
}

static int check_base(const struct ebs_owner *owner, uint64_t base)
{
    if (base == 0)
        return 0;
    if (base != owner->cutter.kept)
        return RT_FAIL(RT_ESTALE,
                       "an increment to attempt %" PRIu64 ", this owner knows what changed since "
                       "attempt %" PRIu64 " (0: none)",
                       base, owner->cutter.kept);
    for (uint32_t t = 0; t < owner->conf.job->n_tables; t++)
        if (!ebs_table_knows_changes(owner->table[t]))
            return RT_FAIL(RT_ESTALE,
                           "table %s: more rows went since attempt %" PRIu64
                           " than an increment can have",
                           ebs_table_name(owner->table[t]), base);
    return 0;
}

static int check_cut(struct ebs_owner *owner, const struct wire_cut *m)
{
    int err;

    if (!owner->conf.checkpoint_dir)
        return RT_FAIL(RT_EUSAGE,
                       "this embedding server has no checkpoint folder: expected --checkpoint-dir "
                       "(or SAFFRON_CHECKPOINT_DIR) as its trainers have");
    if (m->attempt <= owner->cutter.latest)
        return RT_FAIL(RT_ESTALE, "attempt %" PRIu64 ", this owner has heard of %" PRIu64,
                       m->attempt, owner->cutter.latest);
    err = check_step(owner, m);
    if (!err)
        err = check_ledger(owner, m);
    return err ? err : check_base(owner, m->base);
}

/* Is the disk still at what was given up? A cut that waits behind that lets its buffer run full, and then updates wait too. */
static int check_disk(const struct ebs_owner *owner)
{
    const struct ebs_cut *given_up = owner->cutter.given_up, *oldest = given_up;
    uint64_t ns;

    if (!given_up)
        return 0;
    for (const struct ebs_cut *cut = given_up; cut; cut = cut->next)
        if (cut->posted_ns < oldest->posted_ns)
            oldest = cut;
    ns = rt_io_now(owner->conf.io) - oldest->posted_ns;
    if (!given_up->next && ns < EBS_CUT_LEFT_NS)
        return 0;
    return RT_FAIL(RT_ENOTREADY,
                   "the disk has been at checkpoint %s, attempt %" PRIu64
                   ", which was given up, for %.3g s",
                   oldest->name, oldest->head.attempt, (double)ns * 1e-9);
}

static bool is_again(const struct ebs_cut *cut, const struct wire_cut *m)
{
    return cut && cut->head.attempt == m->attempt && cut->head.step == m->step &&
           cut->head.base == m->base && strcmp(cut->name, m->name) == 0;
}

int ebs_cut_make(struct ebs_owner *owner, const struct wire_cut *m)
{
    struct ebs_cutter *cutter = &owner->cutter;
    struct ebs_cut *cut;
    int err = check_cut(owner, m);

    if (!err && cutter->cut && cutter->cut->state != EBS_CUT_DONE)
        ebs_cut_give_up(cutter->cut, "a newer checkpoint has begun");
    if (!err)
        err = check_disk(owner);
    if (!err)
        err = ebs_cut_create(owner, m, &cut);
    if (err)
        return err;
    ebs_cut_forget(cutter->cut); /* it may be published: its file is not ours to remove */
    cutter->cut = cut;
    cutter->latest = m->attempt;
    cutter->kept = 0;
    ebs_set(&owner->stats.cut_open, 1);
    ebs_cut_begin(cut);
    return 0;
}

static void reply(struct ebs_owner *owner, struct rt_call *call, int err)
{
    if (err)
        ebs_refuse(owner, call, err);
    else
        rt_call_reply(call, &(struct rt_outgoing){.message = owner->reply.data,
                                                  .message_size = owner->reply.size});
}

void ebs_serve_cut(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct wire_cut m;
    int err;

    rt_arena_reset(owner->arena);
    err = wire_cut_unpack(request->message, request->header.message_size, owner->arena, &m);
    if (!err && !is_again(owner->cutter.cut, &m))
        err = ebs_cut_make(owner, &m);
    RT_FAILPOINT("P11.cut");
    if (!err)
        err = wire_cut_reply_pack(&(struct wire_cut_reply){.rows = owner->cutter.cut->rows},
                                  &owner->reply);
    reply(owner, call, err);
}

/* ---- AwaitCut ---- */

static int pack_done(struct ebs_cut *cut)
{
    struct ebs_owner *owner = cut->owner;
    struct wire_cut_table *table = rt_xcalloc(cut->n_tables + 1, sizeof(*table));
    int err;

    for (uint32_t t = 0; t < cut->n_tables; t++)
        table[t] = (struct wire_cut_table){.rows = cut->table[t].rows,
                                           .removed = cut->table[t].removed,
                                           .digest = cut->table[t].digest,
                                           .live = cut->part[t].live};
    err = wire_await_cut_reply_pack(&(struct wire_await_cut_reply){.attempt = cut->head.attempt,
                                                                   .file = cut->file,
                                                                   .bytes = cut->bytes,
                                                                   .digest = cut->digest,
                                                                   .n_tables = cut->n_tables,
                                                                   .table = table},
                                    &owner->reply);
    rt_free(table);
    return err;
}

void ebs_cut_tell(struct ebs_cut *cut)
{
    struct rt_call *call = cut->await;

    cut->await = NULL;
    if (!call)
        return;
    if (cut->state == EBS_CUT_DONE)
        reply(cut->owner, call, pack_done(cut));
    else
        ebs_refuse(cut->owner, call, RT_FAIL(cut->err, "%s", cut->text));
}

void ebs_serve_await_cut(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct ebs_cut *cut = owner->cutter.cut;
    struct wire_await_cut m;
    int err;

    rt_arena_reset(owner->arena);
    err = wire_await_cut_unpack(request->message, request->header.message_size, owner->arena, &m);
    if (!err && (!cut || cut->head.attempt != m.attempt))
        err = RT_FAIL(RT_EUNKNOWN, "attempt %" PRIu64 " is not known here, the latest is %" PRIu64,
                      m.attempt, owner->cutter.latest);
    if (err) {
        ebs_refuse(owner, call, err);
        return;
    }
    if (cut->await)
        rt_call_fail(cut->await, RT_ECANCELED, "asked again");
    cut->await = call;
    if (cut->state != EBS_CUT_WRITING)
        ebs_cut_tell(cut);
}

/* ---- EndCut ---- */

static int keep(struct ebs_owner *owner, uint64_t attempt, bool last)
{
    struct ebs_cutter *cutter = &owner->cutter;

    if (!cutter->cut || cutter->cut->head.attempt != attempt)
        return RT_FAIL(RT_ESTALE,
                       "attempt %" PRIu64 " is not here to be kept, the latest is %" PRIu64,
                       attempt, cutter->latest);
    if (cutter->cut->state != EBS_CUT_DONE)
        return RT_FAIL(RT_ENOTREADY, "attempt %" PRIu64 " is not on disk", attempt);
    if (cutter->kept != attempt)
        ebs_window_published(owner);
    cutter->kept = attempt;
    ebs_set(&owner->stats.cut_open, 0);
    ebs_add(&owner->stats.cut_lasts, last);
    return 0;
}

/* A Cut of it that comes late is refused. What was kept before stays so, if this attempt was never begun. */
static int give_up(struct ebs_owner *owner, uint64_t attempt)
{
    struct ebs_cutter *cutter = &owner->cutter;

    if (attempt == cutter->kept)
        return RT_FAIL(RT_ESTALE, "attempt %" PRIu64 " was kept", attempt);
    if (attempt > cutter->latest)
        cutter->latest = attempt;
    if (attempt == cutter->latest)
        ebs_set(&owner->stats.cut_open, 0);
    if (cutter->cut && cutter->cut->head.attempt == attempt)
        ebs_cut_give_up(cutter->cut, "the checkpoint was given up");
    return 0;
}

void ebs_serve_end_cut(void *ctx, struct rt_call *call, const struct rt_frame *request)
{
    struct ebs_owner *owner = ctx;
    struct wire_end_cut m;
    int err;

    rt_arena_reset(owner->arena);
    err = wire_end_cut_unpack(request->message, request->header.message_size, owner->arena, &m);
    if (!err)
        err = m.keep ? keep(owner, m.attempt, m.last) : give_up(owner, m.attempt);
    RT_FAILPOINT("P11.kept");
    owner->reply.size = 0; /* EndCutReply has no fields */
    reply(owner, call, err);
}
