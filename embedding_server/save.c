/* embedding_server/save.c -- see save.h. */
#include "embedding_server/save.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"

#include <stdio.h>
#include <string.h>

#define TURN_NS (RT_MS / 2)
#define PIECE   256u /* rows between two looks at the clock */

static const enum rt_tensor_type type_of[] = {
    [WIRE_F32] = RT_TENSOR_F32, [WIRE_F16] = RT_TENSOR_F16, [WIRE_BF16] = RT_TENSOR_BF16};

static const struct rt_table_conf *conf_of(const struct ebs_owner *owner)
{
    return &owner->conf.job->table[owner->saver.table];
}

static size_t weight_bytes(const struct ebs_owner *owner)
{
    return conf_of(owner)->dim * wire_dtype_size(conf_of(owner)->dtype);
}

static void forget_part(struct ebs_saver *saver)
{
    rt_free(saver->id);
    rt_free(saver->row);
    saver->id = NULL;
    saver->row = NULL;
    saver->n = saver->room = 0;
}

static void finish(struct ebs_owner *owner, int err)
{
    struct rt_save *save = owner->saver.save;

    forget_part(&owner->saver);
    owner->saver.save = NULL;
    rt_save_end(save, err);
}

/* Memory for as many rows as are left, or fit; that of the part before is used again. */
static int begin_part(struct ebs_owner *owner)
{
    struct ebs_saver *saver = &owner->saver;
    size_t each = sizeof(uint64_t) + weight_bytes(owner);
    uint64_t rows = ebs_table_rows(owner->table[saver->table]);
    size_t most = owner->conf.save_bytes ? owner->conf.save_bytes : RT_SAVE_PART_BYTES;

    most = most / each > 0 ? most / each : 1;
    if (rows < most)
        most = (size_t)rows + 1; /* one may come, and none be left */
    if (saver->part == 0 || saver->room != most) {
        forget_part(saver);
        saver->room = most;
        saver->id = rt_try_malloc(most * sizeof(uint64_t));
        saver->row = rt_try_malloc(most * weight_bytes(owner));
    }
    if (!saver->id || !saver->row)
        return RT_FAIL(RT_ENOMEM, "table %s: no memory for a part of %zu rows to save",
                       conf_of(owner)->name, saver->room);
    saver->n = 0;
    rt_timer_start(owner->conf.io, &saver->next, 0);
    return 0;
}

/* ---- on the worker ---- */

static int write_part(struct ebs_owner *owner)
{
    const struct rt_table_conf *table = conf_of(owner);
    struct ebs_saver *saver = &owner->saver;
    char number[3][16];
    struct rt_tensor tensor[] = {
        {.name = RT_SAVE_IDS,
         .type = RT_TENSOR_I64,
         .rank = 1,
         .shape = {saver->n},
         .data = saver->id},
        {.name = RT_SAVE_ROWS,
         .type = type_of[table->dtype],
         .rank = 2,
         .shape = {saver->n, table->dim},
         .data = saver->row},
    };
    struct rt_tensor_note note[] = {{"table", table->name},
                                    {"owner", number[0]},
                                    {"owners", number[1]},
                                    {"part", number[2]},
                                    {"last", saver->is_last ? "true" : "false"},
                                    {RT_SAVE_NOTE, saver->save->id}};
    size_t notes = ARRAY_LEN(note) - !saver->save->id;
    char *path = rt_save_table_path(saver->save->dir, table->name, owner->conf.owner, saver->part);
    int err;

    snprintf(number[0], sizeof(number[0]), "%u", owner->conf.owner);
    snprintf(number[1], sizeof(number[1]), "%u", owner->owners);
    snprintf(number[2], sizeof(number[2]), "%u", saver->part);
    err = rt_safetensors_write(path, note, notes, tensor, ARRAY_LEN(tensor));
    if (!err)
        rt_save_count(saver->save, saver->n * (sizeof(uint64_t) + weight_bytes(owner)));
    rt_free(path);
    return err;
}

static void run(void *arg)
{
    struct ebs_owner *owner = arg;

    owner->saver.err = write_part(owner);
    if (owner->saver.err) /* texts belong to threads */
        snprintf(owner->saver.text, sizeof(owner->saver.text), "%s", rt_err_text());
}

/* ---- on the loop ---- */

static void written(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_saver *saver = &owner->saver;
    int err = saver->err ? RT_FAIL(saver->err, "%s", saver->text) : 0;

    if (!err && saver->is_last) {
        saver->table++;
        saver->part = saver->cursor = 0;
    } else {
        saver->part++;
    }
    if (!err && saver->table < owner->conf.job->n_tables)
        err = begin_part(owner);
    if (err || saver->table == owner->conf.job->n_tables)
        finish(owner, err);
}

/* At most PIECE rows; false: the part is full, or the table at its end. */
static bool collect_piece(struct ebs_owner *owner)
{
    const struct ebs_table *table = owner->table[owner->saver.table];
    struct ebs_saver *saver = &owner->saver;
    size_t bytes = weight_bytes(owner);
    struct ebs_row row;

    for (uint32_t i = 0; i < PIECE; i++) {
        if (saver->n == saver->room || !ebs_table_next(table, &saver->cursor, &row))
            return false;
        saver->id[saver->n] = row.id;
        memcpy(saver->row + saver->n * bytes, row.weight, bytes);
        saver->n++;
    }
    return true;
}

static void collect(void *arg)
{
    struct ebs_owner *owner = arg;
    struct ebs_saver *saver = &owner->saver;
    uint64_t begin = rt_io_now(owner->conf.io);
    uint32_t cursor;
    struct ebs_row row;

    while (collect_piece(owner)) {
        if (rt_io_now(owner->conf.io) - begin >= TURN_NS) {
            rt_timer_start(owner->conf.io, &saver->next, 0);
            return;
        }
    }
    cursor = saver->cursor;
    saver->is_last = !ebs_table_next(owner->table[saver->table], &cursor, &row);
    saver->work = (struct rt_work){.run = run, .done = written, .arg = owner};
    rt_io_work(owner->conf.io, &saver->work);
}

void ebs_owner_save(struct ebs_owner *owner, struct rt_save *save)
{
    struct ebs_saver *saver = &owner->saver;
    int err;

    rt_assert(!saver->save);
    *saver = (struct ebs_saver){.save = save, .next = {.fire = collect, .arg = owner}};
    if (owner->conf.job->n_tables == 0) {
        finish(owner, 0);
        return;
    }
    err = begin_part(owner);
    if (err)
        finish(owner, err);
}

void ebs_save_stop(struct ebs_owner *owner)
{
    if (!owner->saver.save)
        return;
    rt_timer_stop(owner->conf.io, &owner->saver.next);
    finish(owner, RT_FAIL(RT_ECANCELED, "the embedding server stops"));
}
