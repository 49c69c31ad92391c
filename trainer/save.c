/* trainer/save.c -- see save.h. */
#include "trainer/save.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "runtime/job/safetensors.h"
#include "trainer/model/model.h"
#include "trainer/optimizer.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct tr_saved tr_saved_now(const struct rt_job *job, struct tr_model *model,
                             struct tr_optimizer *optimizer, uint64_t step)
{
    size_t n;
    return (struct tr_saved){.job = job,
                             .model = model,
                             .optimizer = optimizer,
                             .param = tr_model_params(model),
                             .state = optimizer ? tr_optimizer_state(optimizer, &n) : NULL,
                             .step = step,
                             .optimizer_steps = optimizer ? tr_optimizer_steps(optimizer) : 0};
}

/* ---- model.yml ---- */

/* A section of model.yml over what the model file has there. */
static int put(struct rt_yaml *tree, const char *path, const struct rt_node *node)
{
    struct rt_strbuf text;
    int err = 0;
    if (!node)
        return 0;
    rt_strbuf_init(&text);
    rt_yaml_canonical(node, &text);
    err = rt_yaml_set(tree, path, text.text);
    rt_strbuf_release(&text);
    return err;
}

static int put_params(struct rt_yaml *tree, const struct rt_node *params)
{
    int err = 0;
    for (size_t i = 0; !err && i < rt_node_count(params); i++) {
        char *path = rt_xasprintf("params.%s", rt_node_key_at(params, i));
        err = put(tree, path, rt_node_at(params, i));
        rt_free(path);
    }
    return err;
}

int tr_job_model_text(const struct rt_job *job, char **out)
{
    static const char *const section[] = {"optimizer", "schedule", "precision"};
    struct rt_strbuf text;
    struct rt_yaml *tree = NULL;
    rt_strbuf_init(&text);
    rt_yaml_write(job->model, &text);
    int err = rt_yaml_parse("model.yml", text.text, text.len, &tree); /* ours: the job's stays */
    if (!err && job->model != job->model_conf) {
        if (job->params)
            err = put_params(tree, job->params);
        for (size_t i = 0; !err && i < ARRAY_LEN(section); i++)
            err = put(tree, section[i], rt_node_get(job->model_conf, section[i]));
    }
    rt_strbuf_reset(&text);
    if (!err) {
        rt_yaml_write(rt_yaml_root(tree), &text);
        *out = rt_strbuf_detach(&text);
    }
    rt_strbuf_release(&text);
    rt_yaml_destroy(tree);
    return err;
}

static int save_model_file(const struct tr_saved *what, struct rt_save *save)
{
    char *text = NULL, *path = rt_save_model_path(save->dir);
    int err = tr_job_model_text(what->job, &text);
    if (!err)
        err = rt_file_write(path, text, strlen(text));
    if (!err)
        rt_save_count(save, strlen(text));
    rt_free(text);
    rt_free(path);
    return err;
}

/* ---- dense.safetensors ---- */

void tr_tensor_of(const struct tr_param *param, const char *name, struct rt_tensor *out)
{
    *out = (struct rt_tensor){.name = name, .type = RT_TENSOR_F32, .rank = param->rank};
    for (uint32_t d = 0; d < param->rank; d++)
        out->shape[d] = param->shape[d];
}

/* Keys and texts are the notes' own: free_notes(). @return [n] the caller's */
static struct rt_tensor_note *make_notes(const struct tr_saved *what, const struct rt_save *save,
                                         size_t *n)
{
    struct rt_tensor_note *note = rt_xcalloc(3 + (size_t)what->n_statistics, sizeof *note);
    note[0].key = rt_xstrdup(TR_NOTE_STEP);
    note[0].text = rt_xasprintf("%" PRIu64, what->step);
    for (uint32_t i = 0; i < what->n_statistics; i++) {
        const struct wire_statistics *s = &what->statistics[i];
        note[i + 1].key = rt_xasprintf("standardize.%s", s->column);
        note[i + 1].text = rt_xasprintf("%.17g %.17g", s->mean, s->deviation);
    }
    *n = 1 + (size_t)what->n_statistics;
    if (save->id)
        note[(*n)++] =
            (struct rt_tensor_note){.key = rt_xstrdup(RT_SAVE_NOTE), .text = rt_xstrdup(save->id)};
    if (save->with_state)
        note[(*n)++] =
            (struct rt_tensor_note){.key = rt_xstrdup(TR_NOTE_STATE), .text = rt_xstrdup("true")};
    return note;
}

static void free_notes(struct rt_tensor_note *note, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rt_free((char *)(uintptr_t)note[i].key);
        rt_free((char *)(uintptr_t)note[i].text);
    }
    rt_free(note);
}

static int save_weights(const struct tr_saved *what, struct rt_save *save)
{
    size_t n, n_notes;
    const struct tr_param *param = tr_model_tensors(what->model, &n);
    struct rt_tensor *tensor = rt_xcalloc(n + 1, sizeof *tensor);
    struct rt_tensor_note *note = make_notes(what, save, &n_notes);
    char *path = rt_save_dense_path(save->dir);
    for (size_t i = 0; i < n; i++) {
        tr_tensor_of(&param[i], param[i].name, &tensor[i]);
        tensor[i].data = what->param + param[i].offset;
    }
    int err = rt_safetensors_write(path, note, n_notes, tensor, n);
    if (!err)
        rt_save_count(save, tr_model_count(what->model) * sizeof(float));
    free_notes(note, n_notes);
    rt_free(path);
    rt_free(tensor);
    return err;
}

/* ---- dense_state.safetensors ---- */

/* "top.0.weight.exp_avg": each slot of each parameter, and of running averages, which have none, nothing. @return [n] */
static struct rt_tensor *list_state(const struct tr_saved *what, size_t *n)
{
    size_t params, slots = tr_optimizer_slots(what->optimizer);
    const struct tr_param *param = tr_model_tensors(what->model, &params);
    struct rt_tensor *tensor = rt_xcalloc(params * slots + 1, sizeof *tensor);
    *n = 0;
    for (size_t i = 0; i < params; i++)
        for (size_t k = 0; k < slots && param[i].momentum == 0; k++) {
            tr_tensor_of(
                &param[i],
                rt_xasprintf("%s.%s", param[i].name, tr_optimizer_slot_name(what->optimizer, k)),
                &tensor[*n]);
            tensor[(*n)++].data = what->state + k * tr_model_count(what->model) + param[i].offset;
        }
    return tensor;
}

static int save_state(const struct tr_saved *what, struct rt_save *save)
{
    char step[24], steps[24], optimizer[TR_OPTIMIZER_TEXT];
    struct rt_tensor_note note[] = {{RT_SAVE_OPTIMIZER, optimizer},
                                    {TR_NOTE_OPTIMIZER_STEPS, steps},
                                    {TR_NOTE_STEP, step},
                                    {RT_SAVE_NOTE, save->id}};
    size_t n;
    struct rt_tensor *tensor = list_state(what, &n);
    char *path = rt_save_dense_state_path(save->dir);
    tr_optimizer_text(what->optimizer, optimizer);
    snprintf(step, sizeof step, "%" PRIu64, what->step);
    snprintf(steps, sizeof steps, "%" PRIu64, what->optimizer_steps);
    int err = rt_safetensors_write(path, note, ARRAY_LEN(note) - !save->id, tensor, n);
    for (size_t i = 0; i < n; i++) {
        if (!err)
            atomic_fetch_add(&save->bytes, rt_tensor_count(&tensor[i]) * sizeof(float));
        rt_free((char *)(uintptr_t)tensor[i].name);
    }
    if (!err)
        rt_save_count(save, 0);
    rt_free(tensor);
    rt_free(path);
    return err;
}

int tr_save_dense(const struct tr_saved *what, struct rt_save *save)
{
    int err = save_weights(what, save);
    if (!err && save->with_state)
        err = save_state(what, save);
    return err ? err : save_model_file(what, save);
}
