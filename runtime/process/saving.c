/* runtime/process/saving.c -- see saving.h. */
#include "runtime/process/saving.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <stdio.h>
#include <string.h>

/* What a status says of a save. */
struct told {
    char name[64]; /* "": none */
    enum rt_save_state state;
    uint64_t files, bytes;
    char error[sizeof(((struct rt_save *)NULL)->error)];
};

struct rt_saving {
    char name[64]; /* the latest */
    char *dir, *id;
    struct told before[RT_SAVING_KEPT]; /* newest first */
    uint32_t parts;
    struct rt_save part[];
};

/* The folder's name alone is that of another run's save too. */
static char *id_of(const struct wire_control_request *request)
{
    bool told = request->number >= 1 && request->number < 0x1p53;

    return told ? rt_xasprintf("%s-%.0f", request->text, request->number)
                : rt_xstrdup(request->text);
}

static struct rt_saving *make(const char *run_dir, const struct wire_control_request *request,
                              uint32_t parts)
{
    struct rt_saving *saving = rt_xcalloc(1, sizeof(*saving) + parts * sizeof(struct rt_save));

    snprintf(saving->name, sizeof(saving->name), "%s", request->text);
    saving->dir = rt_path_join(run_dir, request->text);
    saving->id = id_of(request);
    saving->parts = parts;
    for (uint32_t i = 0; i < parts; i++) {
        saving->part[i].dir = saving->dir;
        saving->part[i].id = saving->id;
        saving->part[i].with_state = request->flags & WIRE_CTL_STATE;
        atomic_init(&saving->part[i].state, RT_SAVE_WRITING);
    }
    return saving;
}

/* WRITING while any part is; then FAILED if any has. */
static void tell(const struct rt_saving *saving, struct told *out)
{
    bool writing = false;

    *out = (struct told){.state = RT_SAVE_DONE};
    snprintf(out->name, sizeof(out->name), "%s", saving->name);
    for (uint32_t i = 0; i < saving->parts; i++) {
        const struct rt_save *part = &saving->part[i];
        int state = atomic_load_explicit(&part->state, memory_order_acquire);

        out->files += atomic_load_explicit(&part->files, memory_order_relaxed);
        out->bytes += atomic_load_explicit(&part->bytes, memory_order_relaxed);
        writing |= state == RT_SAVE_WRITING;
        if (state == RT_SAVE_FAILED) {
            out->state = RT_SAVE_FAILED;
            snprintf(out->error, sizeof(out->error), "%s", part->error);
        }
    }
    if (writing)
        out->state = RT_SAVE_WRITING;
}

static bool is_known(const struct rt_saving *saving, const char *name)
{
    bool known = strcmp(saving->name, name) == 0;

    for (uint32_t i = 0; i < RT_SAVING_KEPT && !known; i++)
        known = strcmp(saving->before[i].name, name) == 0;
    return known;
}

/* The one that has ended stays to be told of. */
static void replace(struct rt_saving **saving, struct rt_saving *newer)
{
    if (*saving) {
        tell(*saving, &newer->before[0]);
        memcpy(&newer->before[1], (*saving)->before,
               (RT_SAVING_KEPT - 1) * sizeof(newer->before[0]));
    }
    rt_saving_destroy(*saving);
    *saving = newer;
}

int rt_saving_begin(struct rt_saving **saving, const char *run_dir,
                    const struct wire_control_request *request, uint32_t parts,
                    struct rt_save **part)
{
    struct told now = {.state = RT_SAVE_DONE};
    int err;

    *part = NULL;
    if (!run_dir)
        return RT_FAIL(RT_EUSAGE, "this process has no folder to save the model in: give --run-dir "
                                  "or SAFFRON_RUN_DIR");
    if (!wire_is_token(request->text))
        return RT_FAIL(RT_EUSAGE, "the name of a save: expected 1 to 63 of A-Z a-z 0-9 _ -");
    if (*saving && is_known(*saving, request->text))
        return 0;
    if (*saving)
        tell(*saving, &now);
    if (now.state == RT_SAVE_WRITING)
        return RT_FAIL(RT_EFULL, "the model is being saved as '%s' already", now.name);
    replace(saving, make(run_dir, request, parts));
    err = rt_mkdir_all((*saving)->dir);
    for (uint32_t i = 0; err && i < parts; i++)
        rt_save_end(&(*saving)->part[i], err);
    if (!err)
        *part = (*saving)->part;
    return err;
}

static json_t *told_json(const struct told *told)
{
    static const char *const word[] = {
        [RT_SAVE_WRITING] = "writing", [RT_SAVE_DONE] = "done", [RT_SAVE_FAILED] = "failed"};
    json_t *save = json_pack("{s:s, s:s, s:I, s:I}", "name", told->name, "state", word[told->state],
                             "files", (json_int_t)told->files, "bytes", (json_int_t)told->bytes);

    if (told->state == RT_SAVE_FAILED)
        json_object_set_new(save, "error", json_string(told->error));
    return save;
}

void rt_saving_status(const struct rt_saving *saving, json_t *object)
{
    struct told now;
    json_t *before;

    if (!saving)
        return;
    tell(saving, &now);
    json_object_set_new(object, "save", told_json(&now));
    before = json_array();
    for (uint32_t i = 0; i < RT_SAVING_KEPT && saving->before[i].name[0]; i++)
        json_array_append_new(before, told_json(&saving->before[i]));
    json_object_set_new(object, "saves_before", before);
}

void rt_saving_destroy(struct rt_saving *saving)
{
    if (!saving)
        return;
    rt_free(saving->dir);
    rt_free(saving->id);
    rt_free(saving);
}
