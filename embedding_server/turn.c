/* embedding_server/turn.c -- the loop's turns are shared out: sockets, large lookups, one large application, upkeep.
 *
 *   turn of the loop: sockets and what is served at once | pieces of one lookup or of the job, for at most
 *                     TURN_NS | timers | sockets ...
 *
 * A timer of 0 ms calls the next pieces; the loop looks at its sockets before it rings (runtime/net/loop.c). Who has
 * this turn: the job and the lookups alternate, and lookups go round. A request of a million ids so takes as
 * many turns as it takes milliseconds, and each of the others is held up by one piece per turn of its own.
 *
 * Each piece is an update of its own to the table: no row number outlives it, so other updates and upkeep, which
 * moves rows, may come between the pieces.
 *
 * Rejected: a thread for large requests. Tables have no locks, and their rows would move from one core's cache to the
 * other's and back. */
#include "embedding_server/turn.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/trace.h"

#include <string.h>

#define TURN_NS         (1 * RT_MS)
#define UPKEEP_NS       (1000 * RT_MS) /* when there is nothing to do */
#define UPKEEP_SOON_NS  (2 * RT_MS)    /* after a piece of it */
#define UPKEEP_PIECE_NS (RT_MS / 2)
#define UPKEEP_ROWS     1024u

/* A cut has no room for the rows that the next piece may change. */
static bool job_needs_room(struct ebs_owner *owner)
{
    struct ebs_turn *turn = &owner->turn;
    bool rows = turn->begun && turn->applier.phase == EBS_APPLY_ROWS;

    if (ebs_cut_admits_piece(owner, rows))
        return false;
    ebs_add(&owner->stats.cut_waits, !turn->job->waited);
    turn->job->waited = true;
    return true;
}

void ebs_turn_go_on(struct ebs_owner *owner)
{
    struct ebs_turn *turn = &owner->turn;

    if (turn->lookup || (turn->job && !job_needs_room(owner)))
        rt_timer_start(owner->conf.io, &turn->next, 0);
}

/* ---- lookups ---- */

/* The request's arrays die with its message: those of a large lookup come along with it. */
static struct ebs_lookup *keep_lookup(const struct ebs_lookup *from)
{
    size_t n = from->n_tables;
    struct ebs_lookup *lookup =
        rt_try_malloc(sizeof(*lookup) + n * (sizeof(uint64_t *) + 2 * sizeof(uint32_t)));
    const uint64_t **id;
    uint32_t *table;

    if (!lookup)
        return NULL;
    *lookup = *from;
    id = (const uint64_t **)(lookup + 1);
    table = (uint32_t *)(id + n);
    memcpy(id, from->id, n * sizeof(*id));
    memcpy(table, from->table, n * sizeof(*table));
    memcpy(table + n, from->n_ids, n * sizeof(*table));
    lookup->id = id;
    lookup->table = table;
    lookup->n_ids = table + n;
    return lookup;
}

int ebs_turn_add_lookup(struct ebs_owner *owner, const struct ebs_lookup *from)
{
    struct ebs_turn *turn = &owner->turn;
    struct ebs_lookup *lookup;

    if (turn->n_lookups >= EBS_LOOKUPS_MAX)
        return RT_FAIL(RT_EFULL, "%u large lookups are under way", EBS_LOOKUPS_MAX);
    lookup = keep_lookup(from);
    if (!lookup)
        return RT_FAIL(RT_ENOMEM, "no memory to look up %u tables", from->n_tables);
    lookup->next = NULL;
    lookup->with_crc = rt_call_checks(lookup->call);
    rt_buf_ref(lookup->payload);
    *turn->lookup_end = lookup;
    turn->lookup_end = &lookup->next;
    turn->n_lookups++;
    ebs_add(&owner->stats.sliced, 1);
    ebs_turn_go_on(owner);
    return 0;
}

static struct ebs_lookup *take_lookup(struct ebs_turn *turn)
{
    struct ebs_lookup *lookup = turn->lookup;

    turn->lookup = lookup->next;
    if (!turn->lookup)
        turn->lookup_end = &turn->lookup;
    turn->n_lookups--;
    lookup->next = NULL;
    return lookup;
}

static void free_lookup(struct ebs_lookup *lookup)
{
    rt_buf_unref(lookup->payload);
    rt_buf_unref(lookup->rows);
    rt_free(lookup);
}

static size_t rows_of_piece(const struct ebs_owner *owner, const struct ebs_lookup *lookup)
{
    size_t rows = ebs_piece_rows(owner->table[lookup->table[lookup->at_table]]);

    return owner->conf.slice_rows > 0 && owner->conf.slice_rows < rows ? owner->conf.slice_rows
                                                                       : rows;
}

/* A piece of the first one. */
static void lookup_piece(struct ebs_owner *owner)
{
    struct ebs_lookup *lookup = owner->turn.lookup;
    uint64_t begin = rt_io_now(owner->conf.io);
    int err;

    if (!rt_call_alive(lookup->call)) {
        rt_call_fail(lookup->call, RT_EPEER, "gone");
        free_lookup(take_lookup(&owner->turn));
        return;
    }
    err = ebs_lookup_piece(owner, lookup, rows_of_piece(owner, lookup));
    lookup->took_ns += rt_io_now(owner->conf.io) - begin;
    rt_trace_span(rt_call_batch(lookup->call), owner->conf.identity.loop, "lookup", begin);
    if (!err && lookup->at_table < lookup->n_tables)
        return;
    take_lookup(&owner->turn);
    if (err)
        ebs_refuse(owner, lookup->call, err);
    else
        ebs_lookup_reply(owner, lookup);
    free_lookup(lookup);
}

/* ---- applications ---- */

static void forget_busy(struct ebs_turn *turn, const struct ebs_ready *ready)
{
    for (size_t i = 0; i < ready->n; i++)
        rt_map_remove(&turn->busy, ready->part[i]->batch_id);
}

int ebs_turn_add_job(struct ebs_owner *owner, struct ebs_ready *ready)
{
    struct ebs_turn *turn = &owner->turn;
    struct ebs_job *job;
    int err = 0;

    rt_assert(!ready->whole_step || !turn->synchronous);
    if (turn->n_jobs >= EBS_JOBS_MAX)
        return RT_FAIL(RT_EFULL, "%u large updates are queued", EBS_JOBS_MAX);
    job = rt_try_calloc(1, sizeof(*job));
    for (size_t i = 0; i < ready->n && job && !err; i++)
        err = rt_map_put_ptr(&turn->busy, ready->part[i]->batch_id, job);
    if (!job || err) {
        forget_busy(turn, ready);
        rt_free(job);
        return RT_FAIL(RT_ENOMEM, "no memory to apply %zu parts in pieces", ready->n);
    }
    job->ready = *ready;
    *ready = (struct ebs_ready){0};
    job->synchronous = job->ready.whole_step;
    job->joined_end = &job->joined;
    *turn->job_end = job;
    turn->job_end = &job->next;
    turn->n_jobs++;
    turn->synchronous |= job->synchronous;
    ebs_add(&owner->stats.sliced, 1);
    ebs_turn_go_on(owner);
    return 0;
}

struct ebs_job *ebs_turn_job_of(const struct ebs_owner *owner, uint64_t batch_id)
{
    return rt_map_get_ptr(&owner->turn.busy, batch_id);
}

/* Where the same part of the same attempt stands. */
static struct ebs_part *same_part(const struct ebs_job *job, const struct ebs_part *part)
{
    const struct wire_apply_gradients *m = &part->m;

    for (size_t i = 0; i < job->ready.n; i++) {
        struct ebs_part *here = job->ready.part[i];

        if (here->batch_id == part->batch_id && here->m.part == m->part &&
            here->m.parts == m->parts && here->m.step == m->step && here->m.attempt == m->attempt &&
            here->m.rank == m->rank && here->m.world == m->world &&
            here->m.synchronous == m->synchronous)
            return here;
    }
    return NULL;
}

int ebs_turn_join(struct ebs_job *job, const struct ebs_part *part)
{
    struct ebs_part *same = same_part(job, part);
    struct ebs_joined *joined;

    if (same && same->m.digest != part->m.digest)
        return RT_FAIL(RT_EDIGEST,
                       "batch %016llx: digest %016llx, it is being applied with %016llx",
                       (unsigned long long)part->batch_id, (unsigned long long)part->m.digest,
                       (unsigned long long)same->m.digest);
    if (same) {
        if (same->call)
            rt_call_fail(same->call, RT_ECANCELED, "asked again");
        same->call = part->call;
        return 0;
    }
    if (job->n_joined >= EBS_JOINED_MAX)
        return RT_FAIL(RT_EFULL, "%u repeats wait for batch %016llx", EBS_JOINED_MAX,
                       (unsigned long long)part->batch_id);
    joined = rt_try_calloc(1, sizeof(*joined));
    if (!joined)
        return RT_FAIL(RT_ENOMEM, "no memory to wait for batch %016llx",
                       (unsigned long long)part->batch_id);
    joined->part = (struct ebs_part){.batch_id = part->batch_id, .m = part->m, .call = part->call};
    joined->part.m.n_tables = 0; /* its rows are the request's */
    joined->part.m.table = joined->part.m.n_ids = NULL;
    joined->part.m.scale = NULL;
    *job->joined_end = joined;
    job->joined_end = &joined->next;
    job->n_joined++;
    return 0;
}

void ebs_job_free(struct ebs_job *job)
{
    while (job->joined) {
        struct ebs_joined *joined = job->joined;

        rt_assert(!joined->part.call);
        job->joined = joined->next;
        rt_free(joined);
    }
    rt_free(job);
}

/* The first job is over: from here on it is none of ours. */
static struct ebs_job *take_job(struct ebs_turn *turn)
{
    struct ebs_job *job = turn->job;

    ebs_applier_release(&turn->applier);
    turn->begun = false;
    turn->job = job->next;
    if (!turn->job)
        turn->job_end = &turn->job;
    turn->n_jobs--;
    forget_busy(turn, &job->ready);
    if (job->synchronous)
        turn->synchronous = turn->closed = false;
    job->next = NULL;
    return job;
}

static int begin_job(struct ebs_owner *owner)
{
    struct rt_io *io = owner->conf.io;
    struct ebs_turn *turn = &owner->turn;
    const struct ebs_ready *ready = &turn->job->ready;
    int err =
        ebs_apply_begin(&turn->applier, ready->part, ready->n, ready->merge, rt_io_now(io) / RT_MS);

    turn->begun = !err;
    return err;
}

/* No row of a step changes while a lookup has seen some of its rows as they were before. */
static bool job_must_wait(struct ebs_owner *owner)
{
    struct ebs_turn *turn = &owner->turn;

    if (job_needs_room(owner))
        return true;
    if (!turn->begun || !turn->job->synchronous || turn->applier.phase != EBS_APPLY_ROWS)
        return false;
    turn->closed = true;
    return turn->lookup != NULL;
}

static void job_piece(struct ebs_owner *owner)
{
    struct ebs_turn *turn = &owner->turn;
    uint64_t begin = rt_io_now(owner->conf.io);
    int err = 0;

    if (turn->begun)
        ebs_apply_piece(&turn->applier);
    else
        err = begin_job(owner);
    turn->job->took_ns += rt_io_now(owner->conf.io) - begin;
    for (size_t i = 0; i < turn->job->ready.n; i++)
        if (turn->job->ready.part[i]->m.part == 0) /* once for each batch */
            rt_trace_span(turn->job->ready.part[i]->batch_id, owner->conf.identity.loop, "apply",
                          begin);
    if (err || turn->applier.phase == EBS_APPLY_DONE)
        ebs_apply_finish(owner, take_job(turn), err);
}

/* ---- whose turn it is ---- */

/* One piece of what has this turn; false: there is nothing to do now. */
static bool do_piece(struct ebs_owner *owner, bool job_first)
{
    struct ebs_turn *turn = &owner->turn;
    bool job = turn->job && (job_first || !turn->lookup) && !job_must_wait(owner);
    bool lookup = !job && turn->lookup;

    if (job)
        job_piece(owner);
    else if (lookup)
        lookup_piece(owner);
    return job || lookup;
}

static void do_turn(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_turn *turn = &owner->turn;
    uint64_t begin = rt_io_now(owner->conf.io);

    turn->job_was_last = !turn->job_was_last;
    while (do_piece(owner, turn->job_was_last) && owner->conf.slice_rows == 0 &&
           rt_io_now(owner->conf.io) - begin < TURN_NS)
        ;
    if (turn->n_lookups > 1 && !turn->job_was_last) { /* the next one's turn */
        struct ebs_lookup *lookup = take_lookup(turn);

        *turn->lookup_end = lookup;
        turn->lookup_end = &lookup->next;
        turn->n_lookups++;
    }
    ebs_turn_go_on(owner);
}

/* ---- upkeep ---- */

/* Time to live is counted on the loop's clock: when somebody sets the wall's, no row goes for it. */
static bool tend(struct ebs_owner *owner, uint32_t t)
{
    struct rt_io *io = owner->conf.io;
    bool more = ebs_table_tend(owner->table[t], rt_io_now(io) / RT_MS, UPKEEP_ROWS);

    ebs_count_table(owner, t);
    return more;
}

/* Some of the tables, for at most UPKEEP_PIECE_NS. Once round, and nobody has more to do: until the next second. Rows that are
 * being saved stay where they are. */
static void do_upkeep(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_turn *turn = &owner->turn;
    struct rt_io *io = owner->conf.io;
    uint64_t begin = rt_io_now(io), after = UPKEEP_SOON_NS;

    if (owner->saver.save) {
        rt_timer_start(io, &turn->upkeep, UPKEEP_NS);
        return;
    }
    do {
        turn->upkeep_more |= tend(owner, turn->upkeep_table++);
        if (turn->upkeep_table == owner->conf.job->n_tables) {
            after = turn->upkeep_more ? UPKEEP_SOON_NS : UPKEEP_NS;
            turn->upkeep_table = 0;
            turn->upkeep_more = false;
            break;
        }
    } while (rt_io_now(io) - begin < UPKEEP_PIECE_NS);
    rt_timer_start(io, &turn->upkeep, after);
}

/* ---- life ---- */

void ebs_turn_start(struct ebs_owner *owner)
{
    struct ebs_turn *turn = &owner->turn;

    turn->lookup_end = &turn->lookup;
    turn->job_end = &turn->job;
    turn->next = (struct rt_timer){.fire = do_turn, .arg = owner};
    turn->upkeep = (struct rt_timer){.fire = do_upkeep, .arg = owner};
    turn->applier = owner->applier;
    rt_map_init(&turn->busy);
    if (owner->conf.job->n_tables > 0)
        rt_timer_start(owner->conf.io, &turn->upkeep, UPKEEP_NS);
}

static void cancel(struct rt_call **call)
{
    if (*call)
        rt_call_fail(*call, RT_ECANCELED, "the embedding server stops");
    *call = NULL;
}

void ebs_turn_stop(struct ebs_owner *owner)
{
    struct ebs_turn *turn = &owner->turn;

    if (!turn->next.fire)
        return; /* it was never started */
    rt_timer_stop(owner->conf.io, &turn->next);
    rt_timer_stop(owner->conf.io, &turn->upkeep);
    while (turn->lookup) {
        struct ebs_lookup *lookup = take_lookup(turn);

        cancel(&lookup->call);
        free_lookup(lookup);
    }
    while (turn->job) {
        struct ebs_job *job = take_job(turn);

        for (struct ebs_joined *joined = job->joined; joined; joined = joined->next)
            cancel(&joined->part.call);
        ebs_gather_finish(owner->gather, &job->ready, RT_ECANCELED, "the embedding server stops");
        ebs_job_free(job);
    }
    ebs_applier_release(&turn->applier);
    rt_map_release(&turn->busy);
}
