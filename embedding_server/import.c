/* embedding_server/import.c -- see import.h. */
#include "embedding_server/import.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"

#include <stdio.h>
#include <string.h>

#define TURN_NS (RT_MS / 2)
#define PIECE   256u /* rows between two looks at the clock */

static void log_rows(const struct ebs_importer *importer)
{
    const struct ebs_loaded *loaded = &importer->loaded;
    const char *dir = importer->import->dir;

    rt_log(RT_LOG_INFO, "rows_imported rows=%llu with_state=%llu from=\"%s\"",
           (unsigned long long)loaded->rows, (unsigned long long)loaded->with_state, dir);
    if (loaded->left_out > 0)
        rt_log(RT_LOG_WARN, "rows_left_out rows=%llu from=\"%s\"",
               (unsigned long long)loaded->left_out, dir);
}

static void finish(struct ebs_owner *owner, int err)
{
    struct ebs_importer *importer = &owner->importer;
    struct ebs_import *import = importer->import;

    if (!err && !import->check)
        log_rows(importer);
    ebs_saved_close(importer->saved);
    importer->saved = NULL;
    importer->import = NULL;
    for (uint32_t t = 0; t < owner->conf.job->n_tables; t++)
        ebs_count_table(owner, t);
    if (err)
        snprintf(import->error, sizeof(import->error), "%s", rt_err_text());
    atomic_store_explicit(&import->state, err ? EBS_IMPORT_FAILED : EBS_IMPORT_DONE,
                          memory_order_release);
}

/* ---- on the worker ---- */

static void run(void *arg)
{
    struct ebs_importer *importer = &((struct ebs_owner *)arg)->importer;

    importer->more = ebs_saved_next(importer->saved, &importer->piece);
    if (importer->more > 0)
        atomic_fetch_add_explicit(&importer->import->rows, importer->piece.n, memory_order_relaxed);
    if (importer->more < 0) /* texts belong to threads */
        snprintf(importer->text, sizeof(importer->text), "%s", rt_err_text());
}

/* ---- on the loop ---- */

static void read_on(struct ebs_owner *owner);

static void was_read(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_importer *importer = &owner->importer;
    int err = importer->more < 0 ? RT_FAIL(importer->more, "%s", importer->text) : 0;

    if (!err && importer->more > 0 && !importer->import->check)
        err = ebs_load_piece(&importer->piece, &owner, 1, &importer->loaded);
    if (err || importer->more == 0)
        finish(owner, err);
    else
        read_on(owner);
}

static void read_on(struct ebs_owner *owner)
{
    owner->importer.work = (struct rt_work){.run = run, .done = was_read, .arg = owner};
    rt_io_work(owner->conf.io, &owner->importer.work);
}

/* Upkeep moves rows between two turns: each begins at the first. false: there is none. */
static bool remove_piece(struct ebs_table *table)
{
    struct ebs_row row;

    for (uint32_t i = 0, at = 0; i < PIECE && ebs_table_next(table, &at, &row); i++)
        ebs_table_remove(table, row.id);
    return ebs_table_rows(table) > 0;
}

static void remove_rows(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_importer *importer = &owner->importer;
    uint64_t begin = rt_io_now(owner->conf.io);

    while (importer->table < owner->conf.job->n_tables) {
        if (rt_io_now(owner->conf.io) - begin >= TURN_NS) {
            rt_timer_start(owner->conf.io, &importer->next, 0);
            return;
        }
        importer->table += !remove_piece(owner->table[importer->table]);
    }
    read_on(owner);
}

void ebs_owner_import(struct ebs_owner *owner, struct ebs_import *import)
{
    struct ebs_importer *importer = &owner->importer;
    int err;

    rt_assert(!importer->import);
    *importer = (struct ebs_importer){
        .import = import, .next = {.fire = remove_rows, .arg = owner, .impl = importer->next.impl}};
    err = ebs_saved_open(import->dir, owner->conf.job, import->fresh, &importer->saved);
    owner->history.imported |= !err && !import->check;
    if (err)
        finish(owner, err);
    else if (import->replace && !import->check)
        remove_rows(owner);
    else
        read_on(owner);
}

void ebs_import_stop(struct ebs_owner *owner)
{
    if (!owner->importer.import)
        return;
    rt_timer_stop(owner->conf.io, &owner->importer.next);
    finish(owner, RT_FAIL(RT_ECANCELED, "the embedding server stops"));
}
