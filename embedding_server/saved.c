/* embedding_server/saved.c -- see saved.h.
 *
 *   table 0: owner 0: part 0, part 1 ... the last;  owner 1: part 0 ...;  table 1 ...      how many owners: any file tells
 *
 * A part is open at a time, and of its tensors the same rows are read: ids, weights, each slot of the state. */
#include "embedding_server/saved.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/job/layout.h"
#include "runtime/job/safetensors.h"
#include "runtime/job/save.h"
#include "runtime/job/shard.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES ((size_t)1 << 20) /* of ids, weights and state in memory */
#define OWNERS_MAX  RT_SHARDS

/* The part that is open. */
struct part {
    struct rt_safetensors *file; /* NULL: none is */
    const struct rt_tensor *ids, *rows, *slot[RT_STATE_SLOTS];
    uint32_t dtype; /* enum wire_dtype of its rows */
    uint64_t n, at; /* rows; that were told */
    bool has_state, is_last;
};

struct ebs_saved {
    const char *dir;
    const struct rt_job *job;
    bool fresh;
    char *first; /* the path of the first file; NULL: none was open yet */
    char *save;  /* its note; NULL: it has none, as files that others wrote */
    uint32_t
        owners; /* whose rows there are, all as event loops of embedding servers; 0: not known yet */
    uint32_t table, from, number; /* the part that is open, or comes next */
    struct part part;
    char *first_part; /* its path; NULL: none was open yet */
    bool has_state;   /* as all parts: it has state */
    uint64_t files;
    uint64_t *id; /* a piece: [room] of them, in one allocation each */
    uint8_t *raw;
    float *weight, *state;
    size_t room; /* rows of this table */
};

static const struct rt_table_conf *table_of(const struct ebs_saved *saved)
{
    return &saved->job->table[saved->table];
}

/* ---- what a file says of itself ---- */

/* A note that is a number, 1..max. */
static int number_note(const struct rt_safetensors *file, const char *key, uint32_t max,
                       uint32_t *out)
{
    const char *text = rt_safetensors_note(file, key);
    char *end = NULL;
    unsigned long value;

    errno = 0;
    value = text && text[0] >= '0' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
    if (!end || *end || errno || value < 1 || value > max)
        return RT_FAIL(RT_EDATA, "%s: its note '%s': expected 1..%u, got '%.32s'",
                       rt_safetensors_path(file), key, max, text ? text : "");
    *out = (uint32_t)value;
    return 0;
}

/* Two saves in a folder, one over the other or put together, would be a model that never was. */
static int check_save(const struct rt_safetensors *file, struct ebs_saved *saved)
{
    const char *save = rt_safetensors_note(file, RT_SAVE_NOTE);

    if (!saved->first) {
        saved->first = rt_xstrdup(rt_safetensors_path(file));
        saved->save = save ? rt_xstrdup(save) : NULL;
    } else if (strcmp(save ? save : "", saved->save ? saved->save : "") != 0) {
        return RT_FAIL(RT_EUSAGE, "%s: is of the save '%.96s', but %s of '%.96s': expected one",
                       rt_safetensors_path(file), save ? save : "", saved->first,
                       saved->save ? saved->save : "");
    }
    return 0;
}

static int check_owners(const struct rt_safetensors *file, struct ebs_saved *saved)
{
    uint32_t owners = 0;
    int err = number_note(file, "owners", OWNERS_MAX, &owners);

    if (err)
        return err;
    if (saved->owners == 0)
        saved->owners = owners;
    if (owners != saved->owners)
        return RT_FAIL(RT_EUSAGE, "%s: is of %u owners, but %s of %u: expected one save's files",
                       rt_safetensors_path(file), owners, saved->first, saved->owners);
    return 0;
}

/* A file that was renamed. Those of others need not say. */
static int check_number(const struct rt_safetensors *file, const char *key, uint32_t want)
{
    const char *got = rt_safetensors_note(file, key);
    char text[16];

    snprintf(text, sizeof(text), "%u", want);
    if (!got || strcmp(got, text) == 0)
        return 0;
    return RT_FAIL(RT_EUSAGE, "%s: its note '%s': expected %s, as the file is called, got '%.32s'",
                   rt_safetensors_path(file), key, text, got);
}

static int check_table(const struct rt_safetensors *file, const struct rt_table_conf *table)
{
    const char *name = rt_safetensors_note(file, "table");

    if (name && strcmp(name, table->name) == 0)
        return 0;
    return RT_FAIL(RT_EUSAGE, "%s: its note 'table': expected '%s', got '%.64s'",
                   rt_safetensors_path(file), table->name, name ? name : "");
}

static int check_file(const struct rt_safetensors *file, struct ebs_saved *saved)
{
    int err = check_save(file, saved);

    if (!err)
        err = check_owners(file, saved);
    if (!err)
        err = check_number(file, "owner", saved->from);
    if (!err)
        err = check_number(file, "part", saved->number);
    return err ? err : check_table(file, table_of(saved));
}

/* The rows go with these weights. They are the trainers' to read: here there may be none. */
static int check_dense(struct ebs_saved *saved)
{
    char *path = rt_save_dense_path(saved->dir);
    struct rt_safetensors *file = NULL;
    int err = 0;

    if (rt_file_exists(path))
        err = rt_safetensors_open(path, &file);
    if (file)
        err = check_save(file, saved);
    rt_safetensors_close(file);
    rt_free(path);
    return err;
}

/* ---- its tensors ---- */

static int check_ids(struct part *part)
{
    const char *path = rt_safetensors_path(part->file);

    part->ids = rt_safetensors_find(part->file, RT_SAVE_IDS);
    part->rows = rt_safetensors_find(part->file, RT_SAVE_ROWS);
    if (!part->ids || !part->rows)
        return RT_FAIL(RT_EUSAGE, "%s: expected tensors '%s' and '%s'", path, RT_SAVE_IDS,
                       RT_SAVE_ROWS);
    if (part->ids->rank != 1 ||
        (part->ids->type != RT_TENSOR_I64 && part->ids->type != RT_TENSOR_U64))
        return RT_FAIL(RT_EUSAGE, "%s: tensor '%s': expected one dimension of I64 or U64", path,
                       RT_SAVE_IDS);
    part->n = part->ids->shape[0];
    return 0;
}

static int check_rows(struct part *part, const struct rt_table_conf *table)
{
    static const struct {
        enum rt_tensor_type type;
        uint32_t dtype;
    } known[] = {{RT_TENSOR_F32, WIRE_F32}, {RT_TENSOR_F16, WIRE_F16}, {RT_TENSOR_BF16, WIRE_BF16}};
    const struct rt_tensor *rows = part->rows;
    bool found = false;

    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (known[i].type == rows->type) {
            part->dtype = known[i].dtype;
            found = true;
        }
    }
    if (!found || rows->rank != 2 || rows->shape[0] != part->n || rows->shape[1] != table->dim)
        return RT_FAIL(RT_EUSAGE,
                       "%s: tensor '%s': expected F32, F16 or BF16 of [%llu, %u], as many as ids "
                       "and the dim of table %s, got %s of [%llu, %llu]",
                       rt_safetensors_path(part->file), RT_SAVE_ROWS, (unsigned long long)part->n,
                       table->dim, table->name, rt_tensor_type_name(rows->type),
                       (unsigned long long)rows->shape[0],
                       (unsigned long long)(rows->rank > 1 ? rows->shape[1] : 1));
    return 0;
}

static int check_slot(struct part *part, uint32_t k, const struct rt_state_slot *slot)
{
    const char *path = rt_safetensors_path(part->file);
    char *name = rt_xasprintf("%s%s", RT_SAVE_STATE, slot->name);
    const struct rt_tensor *got = rt_safetensors_find(part->file, name);
    int err = 0;

    part->slot[k] = got;
    if (!got)
        err = RT_FAIL(RT_EUSAGE, "%s: tensor '%s': expected F32 of [%llu, %u], and there is none",
                      path, name, (unsigned long long)part->n, slot->count);
    else if (got->type != RT_TENSOR_F32 || got->rank != 2 || got->shape[0] != part->n ||
             got->shape[1] != slot->count)
        err = RT_FAIL(RT_EUSAGE,
                      "%s: tensor '%s': expected F32 of [%llu, %u], got %s of [%llu, %llu]", path,
                      name, (unsigned long long)part->n, slot->count,
                      rt_tensor_type_name(got->type), (unsigned long long)got->shape[0],
                      (unsigned long long)(got->rank > 1 ? got->shape[1] : 1));
    rt_free(name);
    return err;
}

/* Of the optimizer that is to go on with it. */
static int check_state(struct part *part, const struct rt_table_conf *table)
{
    const char *got = rt_safetensors_note(part->file, RT_SAVE_OPTIMIZER);
    struct rt_state_slot slot[RT_STATE_SLOTS];
    uint32_t slots = rt_state_slots(&table->optimizer, table->dim, slot);
    char want[RT_STATE_TEXT];
    int err = 0;

    rt_state_text(&table->optimizer, want);
    part->has_state = got != NULL;
    if (got && strcmp(got, want) != 0)
        return RT_FAIL(
            RT_EUSAGE,
            "%s: has the optimizer's state of '%.96s', table %s has '%s': expected the "
            "same, or global.load_state=false or import --fresh-state: it begins anew then",
            rt_safetensors_path(part->file), got, table->name, want);
    for (uint32_t k = 0; got && k < slots && !err; k++)
        err = check_slot(part, k, &slot[k]);
    return err;
}

/* Where some rows had state, they would go on, and the others begin anew, at one number of steps. */
static int check_alike(struct ebs_saved *saved)
{
    const struct part *part = &saved->part;
    const char *path = rt_safetensors_path(part->file);

    if (!saved->first_part) {
        saved->first_part = rt_xstrdup(path);
        saved->has_state = part->has_state;
    }
    if (part->has_state == saved->has_state)
        return 0;
    return RT_FAIL(RT_EUSAGE,
                   "%s: was saved %s the optimizer's state, but %s %s: expected all parts alike, "
                   "or global.load_state=false",
                   path, part->has_state ? "with" : "without", saved->first_part,
                   saved->has_state ? "with" : "without");
}

/* ---- a part, and the next ---- */

static void close_part(struct ebs_saved *saved)
{
    rt_safetensors_close(saved->part.file);
    saved->part = (struct part){0};
}

static int open_part(struct ebs_saved *saved)
{
    struct part *part = &saved->part;
    char *path = rt_save_table_path(saved->dir, table_of(saved)->name, saved->from, saved->number);
    int err = rt_safetensors_open(path, &part->file);
    const char *last;

    rt_free(path);
    if (!err)
        err = check_file(part->file, saved);
    if (!err)
        err = check_ids(part);
    if (!err)
        err = check_rows(part, table_of(saved));
    if (!err && !saved->fresh)
        err = check_state(part, table_of(saved));
    if (!err && !saved->fresh)
        err = check_alike(saved);
    if (err)
        return err;
    last = rt_safetensors_note(part->file, "last");
    part->is_last = last && strcmp(last, "true") == 0;
    saved->files++;
    return 0;
}

static void forget_piece(struct ebs_saved *saved)
{
    rt_free(saved->id);
    rt_free(saved->raw);
    rt_free(saved->weight);
    rt_free(saved->state);
    saved->id = NULL;
    saved->raw = NULL;
    saved->weight = saved->state = NULL;
}

/* Memory for pieces of this table. */
static int make_room(struct ebs_saved *saved)
{
    const struct rt_table_conf *table = table_of(saved);
    size_t state = rt_state_count(&table->optimizer, table->dim) * sizeof(float);
    size_t weight = table->dim * sizeof(float);

    forget_piece(saved);
    saved->room = PIECE_BYTES / (sizeof(uint64_t) + 2 * weight + state);
    saved->id = rt_try_malloc(saved->room * sizeof(uint64_t));
    saved->raw = rt_try_malloc(saved->room * weight); /* a slot of the state is no longer */
    saved->weight = rt_try_malloc(saved->room * weight);
    saved->state = rt_try_malloc(saved->room * state + 1);
    if (!saved->id || !saved->raw || !saved->weight || !saved->state)
        return RT_FAIL(RT_ENOMEM, "no memory to load a model");
    return 0;
}

/* To the next part that has rows. 0: there is one, and rows of it are to be told; 1: that was all. */
static int find_rows(struct ebs_saved *saved)
{
    int err = 0;

    while (!err && (!saved->part.file || saved->part.at == saved->part.n)) {
        if (saved->part.file) {
            saved->number++;
            if (saved->part.is_last) {
                saved->number = 0;
                saved->from++;
            }
            close_part(saved);
        }
        if (saved->owners > 0 && saved->from == saved->owners) {
            saved->from = 0;
            saved->table++;
        }
        if (saved->table == saved->job->n_tables)
            return 1;
        if (saved->from == 0 && saved->number == 0)
            err = make_room(saved);
        if (!err)
            err = open_part(saved);
    }
    return err;
}

/* ---- rows ---- */

static int not_finite(const struct part *part, uint64_t id, const char *what)
{
    return RT_FAIL(RT_EDATA, "%s: the row of id %llu has %s", rt_safetensors_path(part->file),
                   (unsigned long long)id, what);
}

static int read_weights(struct ebs_saved *saved, size_t rows)
{
    const struct part *part = &saved->part;
    uint32_t dim = table_of(saved)->dim;
    size_t bytes = dim * wire_dtype_size(part->dtype);
    int err = rt_safetensors_read(part->file, part->ids, part->at * sizeof(*saved->id), saved->id,
                                  rows * sizeof(*saved->id));

    if (!err)
        err =
            rt_safetensors_read(part->file, part->rows, part->at * bytes, saved->raw, rows * bytes);
    for (size_t i = 0; i < rows && !err; i++) {
        float *weight = saved->weight + i * dim;

        rt_widen(part->dtype, saved->raw + i * bytes, weight, dim);
        for (uint32_t d = 0; d < dim && !err; d++)
            if (!isfinite(weight[d]))
                err = not_finite(part, saved->id[i], "a value that is not finite");
    }
    return err;
}

/* A slot's floats of these rows to their place in each row's state. */
static int read_slot(struct ebs_saved *saved, uint32_t k, const struct rt_state_slot *slot,
                     float *state, size_t rows)
{
    const struct part *part = &saved->part;
    const struct rt_table_conf *table = table_of(saved);
    uint32_t each = rt_state_count(&table->optimizer, table->dim);
    const float *from = (const float *)(const void *)saved->raw;
    size_t bytes = slot->count * sizeof(float);
    int err =
        rt_safetensors_read(part->file, part->slot[k], part->at * bytes, saved->raw, rows * bytes);

    for (size_t i = 0; i < rows && !err; i++) {
        memcpy(state + i * each, from + i * slot->count, bytes);
        for (uint32_t d = 0; d < slot->count && !err; d++) {
            float value = from[i * slot->count + d];

            if (!isfinite(value) || (slot->is_sum && value < 0))
                err = not_finite(part, saved->id[i],
                                 "optimizer state that is not finite, or a sum of squares below 0");
        }
    }
    return err;
}

static int read_state(struct ebs_saved *saved, size_t rows)
{
    const struct rt_table_conf *table = table_of(saved);
    struct rt_state_slot slot[RT_STATE_SLOTS];
    uint32_t slots = rt_state_slots(&table->optimizer, table->dim, slot), at = 0;
    int err = 0;

    for (uint32_t k = 0; k < slots && !err; k++) {
        err = read_slot(saved, k, &slot[k], saved->state + at, rows);
        at += slot[k].count;
    }
    return err;
}

int ebs_saved_next(struct ebs_saved *saved, struct ebs_saved_piece *out)
{
    struct part *part = &saved->part;
    int err = find_rows(saved);
    size_t rows;

    if (err)
        return err == 1 ? 0 : err;
    rows = part->n - part->at < saved->room ? (size_t)(part->n - part->at) : saved->room;
    err = read_weights(saved, rows);
    if (!err && part->has_state)
        err = read_state(saved, rows);
    if (err)
        return err;
    part->at += rows;
    *out = (struct ebs_saved_piece){.table = saved->table,
                                    .n = rows,
                                    .id = saved->id,
                                    .weight = saved->weight,
                                    .state = part->has_state ? saved->state : NULL,
                                    .path = rt_safetensors_path(part->file)};
    return 1;
}

int ebs_saved_open(const char *dir, const struct rt_job *job, bool fresh, struct ebs_saved **out)
{
    struct ebs_saved *saved = rt_xcalloc(1, sizeof(*saved));
    int err;

    saved->dir = dir;
    saved->job = job;
    saved->fresh = fresh;
    err = check_dense(saved);
    if (err)
        ebs_saved_close(saved);
    else
        *out = saved;
    return err;
}

void ebs_saved_close(struct ebs_saved *saved)
{
    if (!saved)
        return;
    close_part(saved);
    forget_piece(saved);
    rt_free(saved->first);
    rt_free(saved->first_part);
    rt_free(saved->save);
    rt_free(saved);
}

uint64_t ebs_saved_files(const struct ebs_saved *saved)
{
    return saved->files;
}
