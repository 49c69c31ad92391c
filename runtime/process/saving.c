/* runtime/process/saving.c -- see saving.h. */
#include "runtime/process/saving.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"

#include <stdio.h>
#include <string.h>

struct rt_saving {
    char name[64];
    char *dir;
    uint32_t parts;
    struct rt_save part[];
};

static struct rt_saving *make(const char *run_dir, const char *name, uint32_t parts)
{
    struct rt_saving *saving = rt_xcalloc(1, sizeof(*saving) + parts * sizeof(struct rt_save));

    snprintf(saving->name, sizeof(saving->name), "%s", name);
    saving->dir = rt_path_join(run_dir, name);
    saving->parts = parts;
    for (uint32_t i = 0; i < parts; i++) {
        saving->part[i].dir = saving->dir;
        atomic_init(&saving->part[i].state, RT_SAVE_WRITING);
    }
    return saving;
}

/* The worst of the parts: one that failed, else one that writes. */
static enum rt_save_state state_of(const struct rt_saving *saving, const struct rt_save **failed)
{
    enum rt_save_state all = RT_SAVE_DONE;

    for (uint32_t i = 0; i < saving->parts; i++) {
        int state = atomic_load_explicit(&saving->part[i].state, memory_order_acquire);

        if (state == RT_SAVE_WRITING)
            return RT_SAVE_WRITING;
        if (state == RT_SAVE_FAILED) {
            all = RT_SAVE_FAILED;
            *failed = &saving->part[i];
        }
    }
    return all;
}

int rt_saving_begin(struct rt_saving **saving, const char *run_dir,
                    const struct wire_control_request *request, uint32_t parts,
                    struct rt_save **part)
{
    const struct rt_save *failed = NULL;
    enum rt_save_state state = *saving ? state_of(*saving, &failed) : RT_SAVE_FAILED;
    int err;

    *part = NULL;
    if (!run_dir)
        return RT_FAIL(RT_EUSAGE, "this process has no folder to save the model in: give --run-dir "
                                  "or SAFFRON_RUN_DIR");
    if (!wire_is_token(request->text))
        return RT_FAIL(RT_EUSAGE, "the name of a save: expected 1 to 63 of A-Z a-z 0-9 _ -");
    if (*saving && strcmp((*saving)->name, request->text) == 0 && state != RT_SAVE_FAILED)
        return 0;
    if (state == RT_SAVE_WRITING)
        return RT_FAIL(RT_EFULL, "the model is being saved as '%s' already", (*saving)->name);
    rt_saving_destroy(*saving);
    *saving = make(run_dir, request->text, parts);
    err = rt_mkdir_all((*saving)->dir);
    if (err) {
        rt_saving_destroy(*saving);
        *saving = NULL;
        return err;
    }
    *part = (*saving)->part;
    return 0;
}

void rt_saving_status(const struct rt_saving *saving, json_t *object)
{
    static const char *const word[] = {
        [RT_SAVE_WRITING] = "writing", [RT_SAVE_DONE] = "done", [RT_SAVE_FAILED] = "failed"};
    const struct rt_save *failed = NULL;
    enum rt_save_state state;
    uint64_t files = 0, bytes = 0;
    json_t *save;

    if (!saving)
        return;
    state = state_of(saving, &failed);
    for (uint32_t i = 0; i < saving->parts; i++) {
        files += atomic_load_explicit(&saving->part[i].files, memory_order_relaxed);
        bytes += atomic_load_explicit(&saving->part[i].bytes, memory_order_relaxed);
    }
    save = json_pack("{s:s, s:s, s:I, s:I}", "name", saving->name, "state", word[state], "files",
                     (json_int_t)files, "bytes", (json_int_t)bytes);
    if (state == RT_SAVE_FAILED && failed)
        json_object_set_new(save, "error", json_string(failed->error));
    json_object_set_new(object, "save", save);
}

void rt_saving_destroy(struct rt_saving *saving)
{
    if (!saving)
        return;
    rt_free(saving->dir);
    rt_free(saving);
}
