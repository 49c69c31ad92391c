/* embedding_server/cut_write.c -- see cut.h.
 *
 * Who may use how much of the buffer: collecting stops where less than half is left, so a piece of an application, which needs less
 * than half, waits for blocks that are being written and for nothing else; and when all is written there is room. */
#include "embedding_server/cut_write.h"
#include "embedding_server/policy.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/failpoint.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SLICE_NS     (RT_MS / 2)
#define BUFFER_LEAST ((size_t)64 << 10)
#define BUFFER_ROWS  256u /* of the longest: less of them is no buffer */
#define LOOKS        16u  /* whether the worker goes on, while it may stand still */
#define PIECE_PART   4u   /* a piece of an application is at most this part of the buffer */

/* ---- life ---- */

static size_t longest_row(const struct ebs_owner *owner)
{
    size_t most = 0;

    for (uint32_t t = 0; t < owner->conf.job->n_tables; t++) {
        size_t row = ebs_table_cut_row_max(owner->table[t]);

        most = row > most ? row : most;
    }
    return most;
}

/* What the longest piece of an application can have copied, if pieces have at most so many rows. */
static size_t longest_piece(const struct ebs_owner *owner, size_t rows)
{
    size_t most = 0;

    for (uint32_t t = 0; t < owner->conf.job->n_tables; t++) {
        size_t piece = ebs_piece_rows(owner->table[t]);
        size_t bytes = ebs_table_cut_most(owner->table[t], piece < rows ? piece : rows);

        most = bytes > most ? bytes : most;
    }
    return most;
}

/* Pieces are as long as they are else, or as the buffer wants them. */
static int make_buffer(struct ebs_cut *cut)
{
    const struct ebs_owner *owner = cut->owner;
    size_t row_max = longest_row(owner), bytes = owner->conf.job->global.checkpoint.buffer;
    int err;

    bytes = bytes > BUFFER_LEAST ? bytes : BUFFER_LEAST;
    bytes = bytes > BUFFER_ROWS * row_max ? bytes : BUFFER_ROWS * row_max;
    err = ebs_rowbuf_init(&cut->buf, bytes, row_max);
    if (err)
        return err;
    cut->piece_rows = EBS_PIECE_ROWS_MAX;
    if (owner->conf.slice_rows > 0 && owner->conf.slice_rows < cut->piece_rows)
        cut->piece_rows = owner->conf.slice_rows;
    for (;; cut->piece_rows /= 2) {
        cut->piece_bytes = longest_piece(owner, cut->piece_rows);
        if (cut->piece_bytes <= ebs_rowbuf_size(&cut->buf) / PIECE_PART)
            return 0;
        rt_assert(cut->piece_rows > 1);
    }
}

static void release_parts(struct ebs_cut *cut)
{
    for (uint32_t t = 0; t < cut->n_tables; t++) {
        rt_free(cut->part[t].removed.id);
        rt_free(cut->part[t].policy);
        cut->part[t] = (struct ebs_cut_part){.live = cut->part[t].live};
    }
}

static void release_buffer(struct ebs_cut *cut)
{
    if (cut->block)
        ebs_rowbuf_give(&cut->buf, cut->block);
    cut->block = NULL;
    ebs_rowbuf_release(&cut->buf);
}

static void destroy(struct ebs_cut *cut)
{
    rt_assert(!cut->await);
    rt_rowfile_drop(&cut->out);
    release_parts(cut);
    release_buffer(cut);
    rt_free(cut->part);
    rt_free(cut->table);
    rt_free(cut->path);
    rt_free(cut->file);
    rt_free(cut);
}

/* What policies know beside rows and sketches: some thousand bytes of each table. */
static int copy_policies(struct ebs_cut *cut)
{
    for (uint32_t t = 0; t < cut->n_tables; t++) {
        const struct ebs_table *table = cut->owner->table[t];
        struct ebs_cut_part *part = &cut->part[t];

        part->policy_bytes = ebs_table_policy_size(table);
        if (part->policy_bytes == 0)
            continue;
        part->policy = rt_try_malloc(part->policy_bytes);
        if (!part->policy)
            return RT_FAIL(RT_ENOMEM, "table %s: no memory for %zu bytes of its policies to save",
                           ebs_table_name(table), part->policy_bytes);
        ebs_table_policy_write(table, part->policy);
    }
    return 0;
}

static void name_file(struct ebs_cut *cut, const char *name)
{
    char *folder;

    snprintf(cut->name, sizeof(cut->name), "%s", name);
    cut->file = rt_xasprintf(RT_ROWFILE_NAME, cut->owner->conf.owner);
    folder = rt_path_join(cut->owner->conf.checkpoint_dir, name);
    cut->path = rt_path_join(folder, cut->file);
    rt_free(folder);
}

int ebs_cut_create(struct ebs_owner *owner, const struct wire_cut *m, struct ebs_cut **out)
{
    const struct rt_job *job = owner->conf.job;
    struct ebs_cut *cut = rt_xcalloc(1, sizeof(*cut));
    int err;

    cut->owner = owner;
    cut->n_tables = job->n_tables;
    cut->part = rt_xcalloc(job->n_tables + 1, sizeof(*cut->part));
    cut->table = rt_xcalloc(job->n_tables + 1, sizeof(*cut->table));
    cut->head = (struct rt_rowfile_head){.attempt = m->attempt,
                                         .base = m->base,
                                         .step = m->step,
                                         .job = rt_rowfile_job(job),
                                         .owner = owner->conf.owner,
                                         .owners = owner->owners,
                                         .shard_first = owner->shard_first,
                                         .shard_end = owner->shard_end,
                                         .n_tables = job->n_tables};
    name_file(cut, m->name);
    err = make_buffer(cut);
    if (!err)
        err = copy_policies(cut);
    if (err) {
        destroy(cut);
        return err;
    }
    *out = cut;
    return 0;
}

/* It is WRITING no longer. */
static void stop_writing(struct ebs_owner *owner)
{
    rt_timer_stop(owner->conf.io, &owner->cutter.next);
    rt_timer_stop(owner->conf.io, &owner->cutter.look);
    owner->turn.applier.piece_rows = owner->conf.slice_rows;
    ebs_set(&owner->stats.cut_writing, 0);
}

/* A slice of what is left of a cut that was dropped: of very many rows it takes a while. */
static void let_some_go(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_cutter *cutter = &owner->cutter;
    uint64_t begin = rt_io_now(owner->conf.io);

    while (cutter->let_go < owner->conf.job->n_tables &&
           rt_io_now(owner->conf.io) - begin < SLICE_NS)
        cutter->let_go += !ebs_table_cut_let_go(owner->table[cutter->let_go]);
    if (cutter->let_go < owner->conf.job->n_tables)
        rt_timer_start(owner->conf.io, &cutter->next, 0);
}

/* No row is kept for it any more. */
static void let_rows_go(struct ebs_cut *cut)
{
    struct ebs_owner *owner = cut->owner;

    stop_writing(owner);
    for (uint32_t t = 0; t < cut->n_tables; t++)
        ebs_table_cut_drop(owner->table[t]);
    owner->cutter.let_go = 0;
    owner->cutter.next.fire = let_some_go;
    rt_timer_start(owner->conf.io, &owner->cutter.next, 0);
    ebs_turn_go_on(owner);
}

static void post(struct ebs_cut *cut, enum ebs_cut_job job);

/* The worker has none of it. */
static void clean_up(struct ebs_cut *cut)
{
    release_parts(cut);
    release_buffer(cut);
    post(cut, EBS_CUT_DROP);
}

static void fail(struct ebs_cut *cut, int err)
{
    rt_assert(cut->state == EBS_CUT_WRITING);
    cut->state = EBS_CUT_FAILED;
    cut->err = err;
    snprintf(cut->text, sizeof(cut->text), "%s", rt_err_text());
    let_rows_go(cut);
    ebs_add(&cut->owner->stats.cuts_failed, 1);
    rt_log(RT_LOG_WARN, "cut_failed attempt=%llu checkpoint=%s error=\"%s\"",
           (unsigned long long)cut->head.attempt, cut->name, cut->text);
    if (!cut->working)
        clean_up(cut);
    ebs_cut_tell(cut);
}

/* ---- on the worker ---- */

static int put_part(struct ebs_cut *cut, uint32_t t)
{
    struct ebs_cut_part *part = &cut->part[t];
    size_t n = part->removed.n;
    int err = 0;

    if (n > 0)
        err = rt_rowfile_put(&cut->out, RT_ROWFILE_REMOVED, t, part->removed.id, n,
                             n * sizeof(uint64_t));
    if (!err && part->policy)
        err = rt_rowfile_put(&cut->out, RT_ROWFILE_POLICY, t, part->policy, 1, part->policy_bytes);
    return err;
}

static int begin_file(struct ebs_cut *cut)
{
    int err = rt_rowfile_begin(&cut->out, cut->path, cut->owner->conf.job, &cut->head);

    for (uint32_t t = 0; t < cut->n_tables && !err; t++)
        err = put_part(cut, t);
    return err;
}

static int put_block(struct ebs_cut *cut)
{
    const struct ebs_rowbuf_block *block = cut->block;
    int err = RT_FAILPOINT_FAILS("P11.rows");

    for (size_t at = 0; at < block->used && !err;) {
        const struct ebs_rowbuf_run *run = (const void *)(block->at + at);
        size_t bytes = (size_t)run->rows * run->row_bytes;

        at += sizeof(*run);
        err = rt_rowfile_put(&cut->out, (enum rt_rowfile_kind)run->kind, run->table, block->at + at,
                             run->rows, bytes);
        at += bytes;
    }
    return err;
}

static int finish_file(struct ebs_cut *cut)
{
    int err = rt_rowfile_finish(&cut->out, cut->table, &cut->bytes, &cut->digest);

    cut->ready = !err;
    RT_FAILPOINT("P11.rows_there");
    return err;
}

static int drop_file(struct ebs_cut *cut)
{
    rt_rowfile_drop(&cut->out);
    if (cut->ready)
        unlink(cut->path); /* with its folder, at the latest */
    cut->dropped = true;
    return 0;
}

static void run(void *arg)
{
    static int (*const job[])(struct ebs_cut * cut) = {[EBS_CUT_BEGIN] = begin_file,
                                                       [EBS_CUT_BLOCK] = put_block,
                                                       [EBS_CUT_FINISH] = finish_file,
                                                       [EBS_CUT_DROP] = drop_file};
    struct ebs_cut *cut = arg;

    cut->job_err = job[cut->job](cut);
    if (cut->job_err) /* texts belong to threads */
        snprintf(cut->job_text, sizeof(cut->job_text), "%s", rt_err_text());
    if (atomic_load(&cut->is_given_up) &&
        !cut->dropped) /* before another's job: of the same path perhaps */
        drop_file(cut);
}

/* ---- on the loop ---- */

static void written(void *arg);

static void post(struct ebs_cut *cut, enum ebs_cut_job job)
{
    rt_assert(!cut->working);
    cut->working = true;
    cut->posted_ns = rt_io_now(cut->owner->conf.io);
    cut->job = job;
    cut->work = (struct rt_work){.run = run, .done = written, .arg = cut};
    rt_io_work(cut->owner->conf.io, &cut->work);
}

/* What can be written now. */
static void write_on(struct ebs_cut *cut)
{
    if (cut->working)
        return;
    if (!cut->begun) {
        cut->begun = true;
        post(cut, EBS_CUT_BEGIN);
        return;
    }
    if (cut->at_table == cut->n_tables)
        ebs_rowbuf_close(&cut->buf);
    cut->block = ebs_rowbuf_take(&cut->buf);
    if (cut->block)
        post(cut, EBS_CUT_BLOCK);
    else if (cut->at_table == cut->n_tables)
        post(cut, EBS_CUT_FINISH);
}

static void finish(struct ebs_cut *cut)
{
    struct ebs_owner_stats *stats = &cut->owner->stats;
    double seconds = 1e-9 * (double)(rt_io_now(cut->owner->conf.io) - cut->began_ns);

    cut->state = EBS_CUT_DONE;
    stop_writing(cut->owner);
    release_buffer(cut);
    ebs_add(&stats->cut_bytes, cut->bytes);
    atomic_store_explicit(&stats->cut_seconds, seconds, memory_order_relaxed);
    rt_log(RT_LOG_INFO,
           "rows_cut attempt=%llu checkpoint=%s step=%llu base=%llu rows=%llu bytes=%llu "
           "seconds=%.3f",
           (unsigned long long)cut->head.attempt, cut->name, (unsigned long long)cut->head.step,
           (unsigned long long)cut->head.base, (unsigned long long)cut->rows,
           (unsigned long long)cut->bytes, seconds);
    ebs_cut_tell(cut);
}

/* false: it has failed. */
static bool has_held(struct ebs_cut *cut)
{
    ebs_add(&cut->owner->stats.cut_copies, cut->buf.kept - cut->counted);
    cut->counted = cut->buf.kept;
    if (!cut->buf.overflow)
        return true;
    fail(cut, RT_FAIL(RT_EFULL,
                      "checkpoint %s: rows changed before they were written, and its %zu bytes "
                      "(global.checkpoint.buffer) had no room for them",
                      cut->name, cut->buf.n_blocks * cut->buf.block_bytes));
    return false;
}

/* The job of an attempt that nobody wants any more. */
static void bury(struct ebs_cut *cut)
{
    struct ebs_cut **at = &cut->owner->cutter.given_up;

    if (!cut->dropped) {
        clean_up(cut);
        return;
    }
    while (*at != cut)
        at = &(*at)->next;
    *at = cut->next;
    destroy(cut);
}

static void count_rows(struct ebs_cut *cut)
{
    for (size_t at = 0; at < cut->block->used;) {
        const struct ebs_rowbuf_run *run = (const void *)(cut->block->at + at);

        if (run->kind == RT_ROWFILE_ROWS)
            ebs_add(&cut->owner->stats.cut_rows, run->rows);
        at += sizeof(*run) + (size_t)run->rows * run->row_bytes;
    }
}

static void collect(void *arg);

static void written(void *arg)
{
    struct ebs_cut *cut = arg;
    struct ebs_owner *owner = cut->owner;

    cut->working = false;
    if (atomic_load(&cut->is_given_up)) {
        bury(cut);
        return;
    }
    if (cut->state == EBS_CUT_FAILED) {
        if (!cut->dropped)
            clean_up(cut);
        return;
    }
    if (cut->job_err) {
        fail(cut, RT_FAIL(cut->job_err, "%s", cut->job_text));
        return;
    }
    if (cut->job == EBS_CUT_BEGIN)
        release_parts(cut);
    if (cut->job == EBS_CUT_BLOCK) {
        count_rows(cut);
        ebs_rowbuf_give(&cut->buf, cut->block);
        cut->block = NULL;
    }
    if (cut->job == EBS_CUT_FINISH) {
        finish(cut);
        return;
    }
    collect(owner);
    ebs_turn_go_on(owner);
}

/* ---- slices ---- */

/* A piece of what is to be done. false: nothing is, until a block is written. */
static bool collect_piece(struct ebs_cut *cut)
{
    struct ebs_table *table;

    if (cut->at_table == cut->n_tables)
        return false;
    table = cut->owner->table[cut->at_table];
    if (ebs_rowbuf_room(&cut->buf) <
        ebs_rowbuf_size(&cut->buf) / 2 + ebs_table_cut_pass_bytes(table))
        return false;
    cut->at_table += !ebs_table_cut_pass(table);
    return true;
}

static void collect(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_cut *cut = owner->cutter.cut;
    uint64_t begin = rt_io_now(owner->conf.io);
    bool more = true;

    while (more && rt_io_now(owner->conf.io) - begin < SLICE_NS)
        more = collect_piece(cut);
    if (!has_held(cut))
        return;
    write_on(cut);
    if (more)
        rt_timer_start(owner->conf.io, &owner->cutter.next, 0);
}

/* The job of an attempt before may be what the worker is at: then ours has not begun, and is waited for as long. */
static void look(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_cut *cut = owner->cutter.cut;
    uint64_t still = owner->conf.cut_still_ns ? owner->conf.cut_still_ns : EBS_CUT_STILL_NS;

    if (cut->working && rt_io_now(owner->conf.io) - cut->posted_ns >= still)
        fail(cut, RT_FAIL(RT_EFILE, "%s: its disk has stood still for %.3g s", cut->path,
                          (double)still * 1e-9));
    else
        rt_timer_start(owner->conf.io, &owner->cutter.look, still / LOOKS);
}

void ebs_cut_begin(struct ebs_cut *cut)
{
    struct ebs_owner *owner = cut->owner;
    bool full = cut->head.base == 0;

    for (uint32_t t = 0; t < cut->n_tables; t++) {
        struct ebs_table *table = owner->table[t];

        cut->part[t].live = ebs_table_rows(table);
        cut->rows += full ? ebs_table_rows(table) : ebs_table_changed(table);
        ebs_table_cut(table, full, t, &cut->buf, full ? NULL : &cut->part[t].removed);
        ebs_count_table(owner, t);
    }
    ebs_window_cut(owner);
    cut->began_ns = rt_io_now(owner->conf.io);
    ebs_set(&owner->stats.cut_writing, 1);
    owner->turn.applier.piece_rows = cut->piece_rows;
    owner->cutter.next.fire = collect;
    owner->cutter.next.arg = owner;
    rt_timer_start(owner->conf.io, &owner->cutter.next, 0);
    owner->cutter.look.fire = look;
    owner->cutter.look.arg = owner;
    look(owner);
}

void ebs_cut_give_up(struct ebs_cut *cut, const char *why)
{
    struct ebs_cutter *cutter = &cut->owner->cutter;

    if (cut->await)
        rt_call_fail(cut->await, RT_ECANCELED, why);
    cut->await = NULL;
    if (cut->state == EBS_CUT_WRITING)
        let_rows_go(cut);
    cutter->cut = NULL;
    cut->next = cutter->given_up;
    cutter->given_up = cut;
    atomic_store(&cut->is_given_up, true);
    if (!cut->working)
        bury(cut);
    else if (cut->job != EBS_CUT_BLOCK) /* the worker, or what it is at, has none of the buffer */
        release_buffer(cut);
}

void ebs_cut_forget(struct ebs_cut *cut)
{
    if (!cut)
        return;
    rt_assert(cut->state == EBS_CUT_DONE);
    cut->owner->cutter.cut = NULL;
    destroy(cut);
}

void ebs_cut_stop(struct ebs_owner *owner)
{
    struct ebs_cutter *cutter = &owner->cutter;
    struct ebs_cut *cut = cutter->cut;

    if (cutter->next.fire) {
        rt_timer_stop(owner->conf.io, &cutter->next);
        rt_timer_stop(owner->conf.io, &cutter->look);
    }
    if (cut && cut->await)
        rt_call_fail(cut->await, RT_ECANCELED, "the embedding server stops");
    if (cut) {
        cut->await = NULL;
        destroy(cut);
    }
    while (cutter->given_up) {
        cut = cutter->given_up;
        cutter->given_up = cut->next;
        destroy(cut);
    }
}
