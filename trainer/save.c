/* trainer/save.c -- see save.h. */
#include "trainer/save.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/base/strbuf.h"
#include "runtime/conf/yaml.h"
#include "runtime/job/safetensors.h"
#include "trainer/model/model.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define SAME_STATISTICS 1e-6 /* in deviations: what the order of a sum changes is less */

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

static void describe(const struct tr_param *param, struct rt_tensor *out)
{
    *out = (struct rt_tensor){.name = param->name, .type = RT_TENSOR_F32, .rank = param->rank};
    for (uint32_t d = 0; d < param->rank; d++)
        out->shape[d] = param->shape[d];
}

/* Keys and texts are the notes' own: free_notes(). @return [n] the caller's */
static struct rt_tensor_note *make_notes(const struct tr_saved *what, const char *id, size_t *n)
{
    struct rt_tensor_note *note = rt_xcalloc(2 + (size_t)what->n_statistics, sizeof *note);
    note[0].key = rt_xstrdup("step");
    note[0].text = rt_xasprintf("%" PRIu64, what->step);
    for (uint32_t i = 0; i < what->n_statistics; i++) {
        const struct wire_statistics *s = &what->statistics[i];
        note[i + 1].key = rt_xasprintf("standardize.%s", s->column);
        note[i + 1].text = rt_xasprintf("%.17g %.17g", s->mean, s->deviation);
    }
    *n = 1 + (size_t)what->n_statistics;
    if (id)
        note[(*n)++] =
            (struct rt_tensor_note){.key = rt_xstrdup(RT_SAVE_NOTE), .text = rt_xstrdup(id)};
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

int tr_save_dense(const struct tr_saved *what, struct rt_save *save)
{
    size_t n, n_notes;
    const struct tr_param *param = tr_model_tensors(what->model, &n);
    struct rt_tensor *tensor = rt_xcalloc(n + 1, sizeof *tensor);
    struct rt_tensor_note *note = make_notes(what, save->id, &n_notes);
    char *path = rt_save_dense_path(save->dir);
    for (size_t i = 0; i < n; i++) {
        describe(&param[i], &tensor[i]);
        tensor[i].data = tr_model_params(what->model) + param[i].offset;
    }
    int err = rt_safetensors_write(path, note, n_notes, tensor, n);
    if (!err)
        rt_save_count(save, tr_model_count(what->model) * sizeof(float));
    free_notes(note, n_notes);
    rt_free(path);
    rt_free(tensor);
    return err ? err : save_model_file(what, save);
}

/* ---- and back ---- */

static void shape_text(const struct rt_tensor *tensor, char *out, size_t size)
{
    int at = snprintf(out, size, "%s [", rt_tensor_type_name(tensor->type));
    for (uint32_t d = 0; d < tensor->rank; d++)
        at += snprintf(out + at, size - (size_t)at, "%s%" PRIu64, d ? ", " : "", tensor->shape[d]);
    snprintf(out + at, size - (size_t)at, "]");
}

static int check_tensor(const struct rt_safetensors *file, const struct tr_param *param,
                        const struct rt_tensor *got)
{
    struct rt_tensor want;
    char shape[2][256];
    describe(param, &want);
    if (!got)
        return RT_FAIL(RT_EUSAGE, "%s: has no tensor '%s', which the model has",
                       rt_safetensors_path(file), param->name);
    if (got->type == want.type && got->rank == want.rank &&
        memcmp(got->shape, want.shape, want.rank * sizeof *want.shape) == 0)
        return 0;
    shape_text(&want, shape[0], sizeof shape[0]);
    shape_text(got, shape[1], sizeof shape[1]);
    return RT_FAIL(RT_EUSAGE, "%s: tensor '%s': expected %s, got %s", rt_safetensors_path(file),
                   param->name, shape[0], shape[1]);
}

static int check_tensors(const struct rt_safetensors *file, const struct tr_model *model)
{
    size_t n, m = rt_safetensors_count(file);
    const struct tr_param *param = tr_model_tensors(model, &n);
    for (size_t i = 0; i < n; i++) {
        int err = check_tensor(file, &param[i], rt_safetensors_find(file, param[i].name));
        if (err)
            return err;
    }
    for (size_t k = 0; m > n && k < m; k++) {
        const char *name = rt_safetensors_at(file, k)->name;
        bool known = false;
        for (size_t i = 0; i < n && !known; i++)
            known = strcmp(param[i].name, name) == 0;
        if (!known)
            return RT_FAIL(RT_EUSAGE, "%s: has a tensor '%s', which the model has not",
                           rt_safetensors_path(file), name);
    }
    return 0;
}

static int read_tensors(const struct rt_safetensors *file, const struct tr_param *param, size_t n,
                        float *out)
{
    for (size_t i = 0; i < n; i++) {
        const struct rt_tensor *tensor = rt_safetensors_find(file, param[i].name);
        float *to = out + param[i].offset;
        int err = rt_safetensors_read(file, tensor, 0, to, (size_t)tensor->bytes);
        if (err)
            return err;
        if (!tr_within(to, param[i].count, FLT_MAX))
            return RT_FAIL(RT_EDATA, "%s: tensor '%s' has a value that is not finite",
                           rt_safetensors_path(file), param[i].name);
    }
    return 0;
}

int tr_load_dense(const char *dir, struct tr_model *model)
{
    size_t n, count = tr_model_count(model);
    const struct tr_param *param = tr_model_tensors(model, &n);
    struct rt_safetensors *file = NULL;
    char *path = rt_save_dense_path(dir);
    float *value = rt_try_malloc((count + 1) * sizeof *value);
    int err = value ? rt_safetensors_open(path, &file)
                    : RT_FAIL(RT_ENOMEM, "%s: no memory for %zu parameters", path, count);
    if (!err)
        err = check_tensors(file, model);
    if (!err)
        err = read_tensors(file, param, n, value);
    if (!err && count > 0)
        memcpy(tr_model_params(model), value, count * sizeof *value);
    rt_safetensors_close(file);
    rt_free(value);
    rt_free(path);
    return err;
}

/* A standardize note, "MEAN DEVIATION"; false: there is none, as of a column that was not standardized. */
static bool read_statistics(const struct rt_safetensors *file, const char *column, double *mean,
                            double *deviation)
{
    char *key = rt_xasprintf("standardize.%s", column);
    const char *text = rt_safetensors_note(file, key);
    rt_free(key);
    return text && sscanf(text, "%lf %lf", mean, deviation) == 2;
}

uint32_t tr_compare_statistics(const char *dir, const struct wire_statistics *statistics,
                               uint32_t n)
{
    char *path = rt_save_dense_path(dir);
    struct rt_safetensors *file = NULL;
    uint32_t differ = 0;
    if (rt_safetensors_open(path, &file) != 0) /* it was loaded, and has gone since */
        n = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct wire_statistics *s = &statistics[i];
        double mean, deviation;
        if (!read_statistics(file, s->column, &mean, &deviation) ||
            (fabs(mean - s->mean) <= SAME_STATISTICS * s->deviation &&
             fabs(deviation - s->deviation) <= SAME_STATISTICS * s->deviation))
            continue;
        rt_log(RT_LOG_WARN,
               "standardized_otherwise column=\"%s\" mean=%g deviation=%g saved_mean=%g "
               "saved_deviation=%g",
               s->column, s->mean, s->deviation, mean, deviation);
        differ++;
    }
    rt_safetensors_close(file);
    rt_free(path);
    return differ;
}
