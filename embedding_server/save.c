/* embedding_server/save.c -- see save.h. */
#include "embedding_server/save.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/job/part.h"

#include <stdio.h>
#include <string.h>

#define TURN_NS (RT_MS / 2)
#define PIECE   256u /* rows between two looks at the clock */

static const struct rt_table_conf *conf_of(const struct ebs_owner *owner)
{
    return &owner->conf.job->table[owner->saver.table];
}

static size_t weight_bytes(const struct ebs_owner *owner)
{
    return conf_of(owner)->dim * wire_dtype_size(conf_of(owner)->dtype);
}

/* Of the state, as far as it is saved. */
static uint32_t slots_of(const struct ebs_owner *owner, struct rt_state_slot slot[RT_STATE_SLOTS])
{
    uint32_t slots = rt_state_slots(&conf_of(owner)->optimizer, conf_of(owner)->dim, slot);

    return owner->saver.save->with_state ? slots : 0;
}

/* Of a row in the file. */
static size_t row_bytes(const struct ebs_owner *owner)
{
    size_t bytes = sizeof(uint64_t) + weight_bytes(owner);
    struct rt_state_slot slot[RT_STATE_SLOTS];

    for (uint32_t k = slots_of(owner, slot); k > 0; k--)
        bytes += slot[k - 1].count * sizeof(float);
    return bytes;
}

static void forget_part(struct ebs_saver *saver)
{
    rt_free(saver->id);
    rt_free(saver->row);
    for (size_t k = 0; k < ARRAY_LEN(saver->state); k++) {
        rt_free(saver->state[k]);
        saver->state[k] = NULL;
    }
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

static int take_room(struct ebs_owner *owner, size_t rows)
{
    struct ebs_saver *saver = &owner->saver;
    struct rt_state_slot slot[RT_STATE_SLOTS];
    bool there = true;

    forget_part(saver);
    saver->room = rows;
    saver->id = rt_try_malloc(rows * sizeof(uint64_t));
    saver->row = rt_try_malloc(rows * weight_bytes(owner));
    for (uint32_t k = slots_of(owner, slot); k > 0; k--) {
        saver->state[k - 1] = rt_try_malloc(rows * slot[k - 1].count * sizeof(float));
        there &= saver->state[k - 1] != NULL;
    }
    if (saver->id && saver->row && there)
        return 0;
    return RT_FAIL(RT_ENOMEM, "table %s: no memory for a part of %zu rows to save",
                   conf_of(owner)->name, rows);
}

/* Memory for as many rows as are left, or fit; that of the part before is used again. */
static int begin_part(struct ebs_owner *owner)
{
    struct ebs_saver *saver = &owner->saver;
    size_t each = row_bytes(owner);
    uint64_t rows = ebs_table_rows(owner->table[saver->table]);
    size_t most = owner->conf.save_bytes ? owner->conf.save_bytes : RT_SAVE_PART_BYTES;
    int err = 0;

    most = most / each > 0 ? most / each : 1;
    if (rows < most)
        most = (size_t)rows + 1; /* one may come, and none be left */
    if (saver->part == 0 || saver->room != most)
        err = take_room(owner, most);
    saver->n = 0;
    if (!err)
        rt_timer_start(owner->conf.io, &saver->next, 0);
    return err;
}

/* ---- on the worker ---- */

static int write_part(struct ebs_owner *owner)
{
    const struct rt_table_conf *table = conf_of(owner);
    struct ebs_saver *saver = &owner->saver;
    char optimizer[RT_STATE_TEXT];
    struct rt_save_part part = {.table = table->name,
                                .dim = table->dim,
                                .dtype = table->dtype,
                                .owner = owner->conf.owner,
                                .owners = owner->owners,
                                .part = saver->part,
                                .is_last = saver->is_last,
                                .id = saver->save->id,
                                .optimizer = saver->save->with_state ? optimizer : NULL,
                                .n = saver->n,
                                .row_id = saver->id,
                                .row = saver->row};
    int err;

    part.slots = slots_of(owner, part.slot);
    memcpy(part.state, saver->state, sizeof(part.state));
    rt_state_text(&table->optimizer, optimizer);
    err = rt_save_part_write(saver->save->dir, &part);
    if (!err)
        rt_save_count(saver->save, saver->n * row_bytes(owner));
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
    struct rt_state_slot slot[RT_STATE_SLOTS];
    uint32_t slots = slots_of(owner, slot);
    size_t bytes = weight_bytes(owner);
    struct ebs_row row;

    for (uint32_t i = 0; i < PIECE; i++) {
        if (saver->n == saver->room || !ebs_table_next(table, &saver->cursor, &row))
            return false;
        saver->id[saver->n] = row.id;
        memcpy(saver->row + saver->n * bytes, row.weight, bytes);
        for (uint32_t k = 0; k < slots; k++) {
            memcpy(saver->state[k] + saver->n * slot[k].count, row.state,
                   slot[k].count * sizeof(float));
            row.state += slot[k].count;
        }
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
