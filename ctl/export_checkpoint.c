/* ctl/export_checkpoint.c -- see export_checkpoint.h.
 *
 * A pass over a range of shards (ctl/fold.h) is to the saved model what an owner is where a job saves it: each writes its parts of
 * every table. So a reader need not know where the files come from. */
#include "ctl/export_checkpoint.h"
#include "ctl/amount.h"
#include "ctl/fold.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/part.h"
#include "runtime/job/safetensors.h"
#include "runtime/job/save.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define NOTE_STATE "state" /* of dense.safetensors: dense_state.safetensors belongs to it */

struct exporting {
    const struct ctl_export_checkpoint *what;
    struct ctl_checkpoints from;
    struct ctl_fold fold;
    struct ctl_reading reading;
    const struct rt_manifest *manifest;
    char *id; /* of the save: the same in all its files */
    uint64_t files, bytes;
};

/* ---- rows ---- */

struct buffers {
    uint64_t *id;
    uint8_t *row;
    float *state[RT_STATE_SLOTS];
};

static void free_buffers(struct buffers *buffers)
{
    rt_free(buffers->id);
    rt_free(buffers->row);
    for (size_t k = 0; k < RT_STATE_SLOTS; k++)
        rt_free(buffers->state[k]);
}

static int take_buffers(const struct ctl_fold_table *table, const struct rt_save_part *part,
                        size_t room, struct buffers *out)
{
    bool there;

    *out = (struct buffers){.id = rt_try_malloc(room * sizeof(*out->id)),
                            .row = rt_try_malloc(room * table->layout.weight_bytes)};
    there = out->id && out->row;
    for (uint32_t k = 0; k < part->slots; k++) {
        out->state[k] = rt_try_malloc(room * part->slot[k].count * sizeof(float));
        there &= out->state[k] != NULL;
    }
    if (there)
        return 0;
    free_buffers(out);
    return RT_FAIL(RT_ENOMEM, "table %s: no memory for a part of %zu rows", table->name, room);
}

/* Rows from `from` on, as many as the part has. */
static void fill(const struct ctl_fold_table *table, uint64_t from, const struct rt_save_part *part,
                 struct buffers *out)
{
    uint32_t bytes = table->layout.weight_bytes;

    for (size_t i = 0; i < part->n; i++) {
        const uint8_t *row = ctl_fold_row(table, from + i), *state = row + table->layout.state;

        out->id[i] = ctl_fold_id(row);
        memcpy(out->row + i * bytes, row + table->layout.weight, bytes);
        for (uint32_t k = 0; k < part->slots; k++) {
            uint32_t count = part->slot[k].count;

            memcpy(out->state[k] + i * count, state, count * sizeof(float));
            state += count * sizeof(float);
        }
    }
}

/* Which state of its rows is to be saved. RT_EDATA: its optimizer is none of ours. */
static int choose_slots(const struct ctl_fold_table *table, bool with_state,
                        struct rt_save_part *part)
{
    struct rt_state_slot slot[RT_STATE_SLOTS];
    int slots = rt_state_slots_of(table->optimizer, table->dim, slot);
    uint32_t count = 0;

    if (!with_state)
        return 0;
    for (int k = 0; k < slots; k++)
        count += slot[k].count;
    if (slots < 0 || count != table->layout.state_count)
        return RT_FAIL(RT_EDATA, "table %s: has %u floats of state a row of the optimizer '%s'",
                       table->name, table->layout.state_count, table->optimizer);
    part->optimizer = table->optimizer;
    part->slots = (uint32_t)slots;
    memcpy(part->slot, slot, sizeof(slot));
    return 0;
}

/* The rows of this pass, in as many parts as they take; one where there are none. */
static int write_parts(struct exporting *exporting, const struct ctl_fold_table *table,
                       struct rt_save_part *part)
{
    size_t each = table->layout.row_bytes, room = RT_SAVE_PART_BYTES / each;
    struct buffers buffers;
    int err;

    if (table->n < room)
        room = (size_t)table->n;
    room += room == 0;
    err = take_buffers(table, part, room, &buffers);
    if (err)
        return err;
    part->row_id = buffers.id;
    part->row = buffers.row;
    memcpy(part->state, buffers.state, sizeof(part->state));
    for (uint64_t from = 0; !err && !part->is_last; part->part += !part->is_last) {
        part->n = table->n - from < room ? (size_t)(table->n - from) : room;
        part->is_last = from + part->n == table->n;
        fill(table, from, part, &buffers);
        err = rt_save_part_write(exporting->what->folder, part);
        from += part->n;
        exporting->files++;
        exporting->bytes += part->n * each;
    }
    free_buffers(&buffers);
    return err;
}

static int write_pass(struct exporting *exporting, const struct rt_shard_map *map, uint32_t pass)
{
    struct ctl_fold *fold = &exporting->fold;
    int err = ctl_fold_take(fold, rt_shard_first(map, pass), rt_shard_first(map, pass + 1));

    for (uint32_t t = 0; t < fold->n_tables && !err; t++) {
        const struct ctl_fold_table *table = &fold->table[t];
        struct rt_save_part part = {.table = table->name,
                                    .dim = table->dim,
                                    .dtype = table->dtype,
                                    .owner = pass,
                                    .owners = map->owners,
                                    .id = exporting->id};

        err = choose_slots(table, exporting->what->with_state, &part);
        if (!err)
            err = write_parts(exporting, table, &part);
    }
    return err;
}

static int write_rows(struct exporting *exporting)
{
    struct rt_shard_map map;
    int err =
        ctl_fold_passes(ctl_fold_memory(&exporting->fold), (uint64_t)exporting->what->memory, &map);

    if (err)
        return err;
    ctl_reading_begin(&exporting->reading, "reading", ctl_fold_bytes(&exporting->fold, &map));
    for (uint32_t pass = 0; pass < map.owners && !err; pass++)
        err = write_pass(exporting, &map, pass);
    ctl_reading_end(&exporting->reading);
    return err;
}

/* ---- the dense network's files ---- */

/* Of the checkpoint, whole and as the manifest has it; the caller's. */
static int read_file(const struct exporting *exporting, const char *name, char **text, size_t *size)
{
    const struct rt_manifest_file *file = ctl_checkpoint_file(exporting->manifest, name);
    char *path = NULL;
    int err;

    *text = NULL;
    if (!file)
        return RT_FAIL(RT_EDATA, "%s/%s: its manifest names no %s", exporting->from.dir,
                       exporting->manifest->name, name);
    err = rt_store_path(exporting->from.dir, exporting->manifest->name, name, &path);
    if (!err)
        err = rt_file_read(path, (size_t)file->bytes, text, size);
    if (!err)
        err = ctl_checkpoints_match(path, file, *size, rt_hash_bytes(*text, *size));
    rt_free(path);
    return err;
}

/* Those of the file, but that it is this save's now. @return [n] the caller's */
static struct rt_tensor_note *notes_of(const struct exporting *exporting,
                                       const struct rt_safetensors *file, size_t *n)
{
    struct rt_tensor_note *note, one;
    size_t there = 0;

    while (rt_safetensors_note_at(file, there, &one))
        there++;
    note = rt_xcalloc(there + 1, sizeof(*note));
    *n = 0;
    for (size_t i = 0; i < there; i++) {
        rt_safetensors_note_at(file, i, &one);
        if (strcmp(one.key, RT_SAVE_NOTE) != 0 &&
            (exporting->what->with_state || strcmp(one.key, NOTE_STATE) != 0))
            note[(*n)++] = one;
    }
    note[(*n)++] = (struct rt_tensor_note){RT_SAVE_NOTE, exporting->id};
    return note;
}

static int write_tensors(struct exporting *exporting, const char *path, const char *name)
{
    struct rt_safetensors *file = NULL;
    struct rt_tensor_note *note = NULL;
    struct rt_tensor *tensor = NULL;
    char *bytes;
    size_t size, n = 0, notes = 0;
    int err = read_file(exporting, name, &bytes, &size);

    if (!err)
        err = rt_safetensors_open_bytes(name, bytes, size, &file);
    if (!err) {
        n = rt_safetensors_count(file);
        note = notes_of(exporting, file, &notes);
        tensor = rt_xcalloc(n + 1, sizeof(*tensor));
        for (size_t i = 0; i < n; i++) {
            tensor[i] = *rt_safetensors_at(file, i);
            tensor[i].data = bytes + tensor[i].at;
        }
        err = rt_safetensors_write(path, note, notes, tensor, n);
        exporting->files++;
        exporting->bytes += size;
    }
    rt_free(tensor);
    rt_free(note);
    rt_safetensors_close(file);
    rt_free(bytes);
    return err;
}

static int write_model(struct exporting *exporting, const char *path)
{
    char *text;
    size_t size;
    int err = read_file(exporting, "model.yml", &text, &size);

    if (!err)
        err = rt_file_write(path, text, size);
    exporting->files++;
    rt_free(text);
    return err;
}

static int write_dense(struct exporting *exporting)
{
    const char *dir = exporting->what->folder;
    char *model = rt_save_model_path(dir), *state = rt_save_dense_state_path(dir),
         *dense = rt_save_dense_path(dir);
    int err = write_model(exporting, model);

    if (!err && exporting->what->with_state)
        err = write_tensors(exporting, state, "dense_state.safetensors");
    if (!err)
        err = write_tensors(exporting, dense, "dense.safetensors");
    rt_free(model);
    rt_free(state);
    rt_free(dense);
    return err;
}

/* ---- all of it ---- */

static int make_folder(const char *path)
{
    int err = rt_mkdir_all(path);
    DIR *dir = err ? NULL : opendir(path);
    const struct dirent *entry;

    if (err)
        return err;
    if (!dir)
        return RT_FAIL(RT_EFILE, "%s: cannot be listed: %s", path, strerror(errno));
    while ((entry = readdir(dir)) && !err)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            err = RT_FAIL(RT_EUSAGE, "%s: expected a new or an empty folder, it has %s", path,
                          entry->d_name);
    closedir(dir);
    return err;
}

static void say(const struct exporting *exporting)
{
    char bytes[CTL_AMOUNT_MAX];

    printf("the model of %s, step %" PRIu64 ": %s in %" PRIu64 " files of %s\n",
           exporting->manifest->name, exporting->manifest->step,
           ctl_amount((double)exporting->bytes, "B", bytes), exporting->files,
           exporting->what->folder);
}

int ctl_export_checkpoint(const struct ctl_export_checkpoint *what)
{
    struct exporting exporting = {.what = what};
    size_t which;
    int err = ctl_checkpoints_open(what->checkpoint, NULL, &exporting.from);

    if (err)
        return err;
    err = ctl_checkpoints_one(&exporting.from, &which);
    if (!err)
        err = ctl_fold_open(&exporting.from, which, &exporting.reading, &exporting.fold);
    if (!err) {
        exporting.manifest = ctl_fold_manifest(&exporting.fold);
        exporting.id =
            rt_xasprintf("%s-%" PRIu64, exporting.manifest->name, exporting.manifest->attempt);
        err = make_folder(what->folder);
    }
    if (!err)
        err = write_rows(&exporting);
    if (!err)
        err = write_dense(&exporting);
    if (!err)
        say(&exporting);
    rt_free(exporting.id);
    ctl_fold_close(&exporting.fold);
    ctl_checkpoints_close(&exporting.from);
    return err;
}
