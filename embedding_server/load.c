/* embedding_server/load.c -- see load.h. */
#include "embedding_server/load.h"
#include "embedding_server/element.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/half.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "runtime/job/save.h"
#include "runtime/job/shard.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIECE_BYTES ((size_t)1 << 20) /* of rows, as they are in the file */
#define OWNERS_MAX  RT_SHARDS

/* A model being read, into owner[n]. All its files are of one save, as the first says. */
struct model {
    const char *dir;
    struct ebs_owner *const *owner;
    uint32_t n;
    char *first; /* its path; NULL: none is open yet */
    char *save;  /* its note; NULL: it has none, as files that others wrote */
    uint32_t
        owners; /* whose rows there are, all as event loops of embedding servers; 0: not known yet */
    struct ebs_loaded *out;
};

/* A part being read. */
struct part {
    const struct rt_safetensors *file;
    const struct rt_table_conf *table;
    const struct rt_tensor *ids, *rows;
    uint32_t dtype; /* enum wire_dtype of its rows */
    uint64_t n;
};

/* ---- what a part is ---- */

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

static int check_rows(struct part *part)
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
    if (!found || rows->rank != 2 || rows->shape[0] != part->n ||
        rows->shape[1] != part->table->dim)
        return RT_FAIL(RT_EUSAGE,
                       "%s: tensor '%s': expected F32, F16 or BF16 of [%llu, %u], as many as ids "
                       "and the dim of table %s, got %s of [%llu, %llu]",
                       rt_safetensors_path(part->file), RT_SAVE_ROWS, (unsigned long long)part->n,
                       part->table->dim, part->table->name, rt_tensor_type_name(rows->type),
                       (unsigned long long)rows->shape[0],
                       (unsigned long long)(rows->rank > 1 ? rows->shape[1] : 1));
    return 0;
}

/* ---- rows to their owners ---- */

static struct ebs_owner *owner_of(struct ebs_owner *const *owner, uint32_t n, uint64_t id)
{
    uint32_t shard = rt_shard_of(id);

    for (uint32_t i = 0; i < n; i++)
        if (shard >= owner[i]->shard_first && shard < owner[i]->shard_end)
            return owner[i];
    return NULL;
}

/* An owner whose table is full, and may evict, has the rows that came first: of fewer owners one had more of them. */
static int put_row(const struct part *part, struct ebs_owner *owner, uint64_t id,
                   const float *weight, struct ebs_loaded *out)
{
    int err;

    for (uint32_t d = 0; d < part->table->dim; d++)
        if (!isfinite(weight[d]))
            return RT_FAIL(RT_EDATA, "%s: the row of id %llu has a value that is not finite",
                           rt_safetensors_path(part->file), (unsigned long long)id);
    err = ebs_table_put(owner->table[part->table - owner->conf.job->table], id, weight);
    if (err == RT_ELIMIT && part->table->eviction.kind != RT_EVICT_NONE) {
        out->left_out++;
        return 0;
    }
    out->rows += !err;
    return err ? rt_fail_prefix(err, "%s: ", rt_safetensors_path(part->file)) : 0;
}

static int put_piece(const struct part *part, const struct model *model, const uint64_t *id,
                     const uint8_t *row, size_t rows)
{
    size_t bytes = part->table->dim * wire_dtype_size(part->dtype);
    float weight[EBS_DIM_MAX];
    int err = 0;

    for (size_t i = 0; i < rows && !err; i++) {
        struct ebs_owner *whose = owner_of(model->owner, model->n, id[i]);

        if (!whose)
            continue;
        rt_widen(part->dtype, row + i * bytes, weight, part->table->dim);
        err = put_row(part, whose, id[i], weight, model->out);
    }
    return err;
}

static int load_rows(const struct part *part, const struct model *model)
{
    size_t bytes = part->table->dim * wire_dtype_size(part->dtype), most;
    uint64_t *id;
    uint8_t *row;
    int err;

    rt_assert(bytes > 0);
    most = PIECE_BYTES / bytes;
    id = rt_try_malloc(most * sizeof(*id));
    row = rt_try_malloc(most * bytes);
    err = id && row ? 0 : RT_FAIL(RT_ENOMEM, "no memory to load a model");

    for (uint64_t at = 0; at < part->n && !err;) {
        size_t rows = part->n - at < most ? (size_t)(part->n - at) : most;

        err = rt_safetensors_read(part->file, part->ids, at * sizeof(*id), id, rows * sizeof(*id));
        if (!err)
            err = rt_safetensors_read(part->file, part->rows, at * bytes, row, rows * bytes);
        if (!err)
            err = put_piece(part, model, id, row, rows);
        at += rows;
    }
    rt_free(id);
    rt_free(row);
    return err;
}

/* ---- files ---- */

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
static int check_save(const struct rt_safetensors *file, struct model *model)
{
    const char *save = rt_safetensors_note(file, RT_SAVE_NOTE);

    if (!model->first) {
        model->first = rt_xstrdup(rt_safetensors_path(file));
        model->save = save ? rt_xstrdup(save) : NULL;
    } else if (strcmp(save ? save : "", model->save ? model->save : "") != 0) {
        return RT_FAIL(RT_EUSAGE, "%s: is of the save '%.96s', but %s of '%.96s': expected one",
                       rt_safetensors_path(file), save ? save : "", model->first,
                       model->save ? model->save : "");
    }
    return 0;
}

static int check_owners(const struct rt_safetensors *file, struct model *model)
{
    uint32_t owners = 0;
    int err = number_note(file, "owners", OWNERS_MAX, &owners);

    if (err)
        return err;
    if (model->owners == 0)
        model->owners = owners;
    if (owners != model->owners)
        return RT_FAIL(RT_EUSAGE, "%s: is of %u owners, but %s of %u: expected one save's files",
                       rt_safetensors_path(file), owners, model->first, model->owners);
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

static int load_part(const struct rt_safetensors *file, const struct rt_table_conf *table,
                     const struct model *model)
{
    struct part part = {.file = file, .table = table};
    const char *name = rt_safetensors_note(file, "table");
    int err = 0;

    if (!name || strcmp(name, table->name) != 0)
        err = RT_FAIL(RT_EUSAGE, "%s: its note 'table': expected '%s', got '%.64s'",
                      rt_safetensors_path(file), table->name, name ? name : "");
    if (!err)
        err = check_ids(&part);
    if (!err)
        err = check_rows(&part);
    if (!err)
        err = load_rows(&part, model);
    model->out->files += !err;
    return err;
}

/* The parts of a table that one owner wrote, one after the other. */
static int load_parts(const struct rt_table_conf *table, uint32_t from, struct model *model)
{
    bool is_last = false;
    int err = 0;

    for (uint32_t p = 0; !is_last && !err; p++) {
        char *path = rt_save_table_path(model->dir, table->name, from, p);
        struct rt_safetensors *file = NULL;
        const char *last;

        err = rt_safetensors_open(path, &file);
        if (!err)
            err = check_save(file, model);
        if (!err)
            err = check_owners(file, model);
        if (!err)
            err = check_number(file, "owner", from);
        if (!err)
            err = check_number(file, "part", p);
        if (!err)
            err = load_part(file, table, model);
        last = err ? NULL : rt_safetensors_note(file, "last");
        is_last = last && strcmp(last, "true") == 0;
        rt_safetensors_close(file);
        rt_free(path);
    }
    return err;
}

/* The rows go with these weights. They are the trainers' to read: here there may be none. */
static int check_dense(struct model *model)
{
    char *path = rt_save_dense_path(model->dir);
    struct rt_safetensors *file = NULL;
    int err = 0;

    if (rt_file_exists(path))
        err = rt_safetensors_open(path, &file);
    if (file)
        err = check_save(file, model);
    rt_safetensors_close(file);
    rt_free(path);
    return err;
}

int ebs_load(const char *dir, struct ebs_owner *const *owner, uint32_t n, struct ebs_loaded *out)
{
    const struct rt_job *job = owner[0]->conf.job;
    struct model model = {.dir = dir, .owner = owner, .n = n, .out = out};
    int err;

    *out = (struct ebs_loaded){0};
    err = check_dense(&model);
    for (uint32_t t = 0; t < job->n_tables && !err; t++) {
        err = load_parts(&job->table[t], 0, &model);
        for (uint32_t from = 1; from < model.owners && !err; from++)
            err = load_parts(&job->table[t], from, &model);
        for (uint32_t i = 0; i < n; i++)
            ebs_count_table(owner[i], t);
    }
    rt_free(model.first);
    rt_free(model.save);
    return err;
}
