/* trainer/load.c -- see load.h. */
#include "trainer/load.h"

#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "runtime/job/save.h"
#include "trainer/model/model.h"
#include "trainer/optimizer.h"
#include "trainer/save.h"

#include <errno.h>
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAME_STATISTICS 1e-6 /* in deviations: what the order of a sum changes is less */

/* ---- what a file has to be ---- */

static void shape_text(const struct rt_tensor *tensor, char *out, size_t size)
{
    int at = snprintf(out, size, "%s [", rt_tensor_type_name(tensor->type));
    for (uint32_t d = 0; d < tensor->rank; d++)
        at += snprintf(out + at, size - (size_t)at, "%s%" PRIu64, d ? ", " : "", tensor->shape[d]);
    snprintf(out + at, size - (size_t)at, "]");
}

/* @want: name and shape of a tensor of the model. */
static int check_tensor(const struct rt_safetensors *file, const struct rt_tensor *want)
{
    const struct rt_tensor *got = rt_safetensors_find(file, want->name);
    char shape[2][256];
    if (!got)
        return RT_FAIL(RT_EUSAGE, "%s: has no tensor '%s', which the model has",
                       rt_safetensors_path(file), want->name);
    if (got->type == want->type && got->rank == want->rank &&
        memcmp(got->shape, want->shape, want->rank * sizeof *want->shape) == 0)
        return 0;
    shape_text(want, shape[0], sizeof shape[0]);
    shape_text(got, shape[1], sizeof shape[1]);
    return RT_FAIL(RT_EUSAGE, "%s: tensor '%s': expected %s, got %s", rt_safetensors_path(file),
                   want->name, shape[0], shape[1]);
}

/* A tensor of the model, or of its optimizer's state, and where it goes. */
struct wanted {
    struct rt_tensor tensor; /* its name is ours to free */
    float *to;
    bool is_sum; /* not below 0: of squares, or a variance */
};

struct list {
    struct wanted *wanted;
    size_t n;
};

static void free_list(struct list *list)
{
    for (size_t i = 0; i < list->n; i++)
        rt_free((char *)(uintptr_t)list->wanted[i].tensor.name);
    rt_free(list->wanted);
}

static int check_tensors(const struct rt_safetensors *file, const struct list *list)
{
    size_t m = rt_safetensors_count(file);
    for (size_t i = 0; i < list->n; i++) {
        int err = check_tensor(file, &list->wanted[i].tensor);
        if (err)
            return err;
    }
    for (size_t k = 0; m > list->n && k < m; k++) {
        const char *name = rt_safetensors_at(file, k)->name;
        bool known = false;
        for (size_t i = 0; i < list->n && !known; i++)
            known = strcmp(list->wanted[i].tensor.name, name) == 0;
        if (!known)
            return RT_FAIL(RT_EUSAGE, "%s: has a tensor '%s', which the model has not",
                           rt_safetensors_path(file), name);
    }
    return 0;
}

static int read_tensor(const struct rt_safetensors *file, const struct wanted *wanted)
{
    const struct rt_tensor *tensor = rt_safetensors_find(file, wanted->tensor.name);
    size_t count = (size_t)rt_tensor_count(tensor);
    int err = rt_safetensors_read(file, tensor, 0, wanted->to, (size_t)tensor->bytes);
    if (err)
        return err;
    if (!tr_within(wanted->to, count, FLT_MAX))
        return RT_FAIL(RT_EDATA, "%s: tensor '%s' has a value that is not finite",
                       rt_safetensors_path(file), tensor->name);
    for (size_t i = 0; wanted->is_sum && i < count; i++)
        if (wanted->to[i] < 0)
            return RT_FAIL(RT_EDATA,
                           "%s: tensor '%s' has %g: expected 0 or more of what is a variance or a "
                           "sum of squares",
                           rt_safetensors_path(file), tensor->name, (double)wanted->to[i]);
    return 0;
}

static int read_tensors(const struct rt_safetensors *file, const struct list *list)
{
    int err = check_tensors(file, list);
    for (size_t i = 0; i < list->n && !err; i++)
        err = read_tensor(file, &list->wanted[i]);
    return err;
}

/* ---- dense.safetensors ---- */

static bool is_variance(const struct tr_param *param)
{
    static const char end[] = "running_var";
    size_t length = strlen(param->name);
    return param->momentum > 0 && length >= sizeof end - 1 &&
           strcmp(param->name + length - (sizeof end - 1), end) == 0;
}

static struct list list_weights(const struct tr_model *model, float *to)
{
    struct list list;
    const struct tr_param *param = tr_model_tensors(model, &list.n);
    list.wanted = rt_xcalloc(list.n + 1, sizeof *list.wanted);
    for (size_t i = 0; i < list.n; i++) {
        struct wanted *wanted = &list.wanted[i];
        tr_tensor_of(&param[i], rt_xstrdup(param[i].name), &wanted->tensor);
        wanted->to = to + param[i].offset;
        wanted->is_sum = is_variance(&param[i]);
    }
    return list;
}

/* ---- dense_state.safetensors ---- */

static struct list list_state(const struct tr_model *model, const struct tr_optimizer *optimizer,
                              float *to)
{
    size_t params, slots = tr_optimizer_slots(optimizer);
    const struct tr_param *param = tr_model_tensors(model, &params);
    struct list list = {rt_xcalloc(params * slots + 1, sizeof *list.wanted), 0};
    for (size_t i = 0; i < params; i++)
        for (size_t k = 0; k < slots && param[i].momentum == 0; k++) {
            struct wanted *wanted = &list.wanted[list.n++];
            const char *slot = tr_optimizer_slot_name(optimizer, k);
            tr_tensor_of(&param[i], rt_xasprintf("%s.%s", param[i].name, slot), &wanted->tensor);
            wanted->to = to + k * tr_model_count(model) + param[i].offset;
            wanted->is_sum = tr_optimizer_slot_is_sum(optimizer, k);
        }
    return list;
}

static int count_note(const struct rt_safetensors *file, const char *key, uint64_t *out)
{
    const char *text = rt_safetensors_note(file, key);
    char *end = NULL;
    errno = 0;
    unsigned long long value =
        text && text[0] >= '0' && text[0] <= '9' ? strtoull(text, &end, 10) : 0;
    if (!end || *end || errno || value > TR_STEPS_MAX)
        return RT_FAIL(RT_EDATA, "%s: its note '%s': expected 0..%llu, got '%.32s'",
                       rt_safetensors_path(file), key, TR_STEPS_MAX, text ? text : "");
    *out = value;
    return 0;
}

/* Is it of these weights, and for this optimizer? @weights: dense.safetensors */
static int check_state(const struct rt_safetensors *file, const struct rt_safetensors *weights,
                       const struct tr_optimizer *optimizer)
{
    const char *save = rt_safetensors_note(file, RT_SAVE_NOTE);
    const char *of = rt_safetensors_note(weights, RT_SAVE_NOTE);
    const char *got = rt_safetensors_note(file, RT_SAVE_OPTIMIZER);
    char want[TR_OPTIMIZER_TEXT];
    tr_optimizer_text(optimizer, want);
    if (strcmp(save ? save : "", of ? of : "") != 0)
        return RT_FAIL(RT_EUSAGE, "%s: is of the save '%.96s', but %s of '%.96s': expected one",
                       rt_safetensors_path(file), save ? save : "", rt_safetensors_path(weights),
                       of ? of : "");
    if (!got || strcmp(got, want) != 0)
        return RT_FAIL(
            RT_EUSAGE,
            "%s: has the optimizer's state of '%.96s', the model has '%s': expected the "
            "same, or global.load_state=false or import --fresh-state: it begins anew then",
            rt_safetensors_path(file), got ? got : "", want);
    return 0;
}

static int read_state(struct tr_loaded *loaded, const char *path,
                      const struct rt_safetensors *weights, const struct tr_model *model,
                      struct tr_optimizer *optimizer)
{
    struct rt_safetensors *file = NULL;
    struct list list;
    size_t count;
    (void)tr_optimizer_state(optimizer, &count);
    loaded->state = rt_try_calloc(count + 1, sizeof *loaded->state);
    if (!loaded->state)
        return RT_FAIL(RT_ENOMEM, "%s: no memory for %zu numbers", path, count);
    int err = rt_safetensors_open(path, &file);
    if (!err)
        err = check_state(file, weights, optimizer);
    if (!err)
        err = count_note(file, TR_NOTE_STEP, &loaded->step);
    if (!err)
        err = count_note(file, TR_NOTE_OPTIMIZER_STEPS, &loaded->optimizer_steps);
    list = list_state(model, optimizer, loaded->state);
    if (!err)
        err = read_tensors(file, &list);
    free_list(&list);
    rt_safetensors_close(file);
    return err;
}

/* ---- both ---- */

static int read_weights(struct tr_loaded *loaded, const struct rt_safetensors *file,
                        const struct tr_model *model)
{
    size_t count = tr_model_count(model);
    loaded->param = rt_try_malloc((count + 1) * sizeof *loaded->param);
    if (!loaded->param)
        return RT_FAIL(RT_ENOMEM, "%s: no memory for %zu parameters", rt_safetensors_path(file),
                       count);
    struct list list = list_weights(model, loaded->param);
    int err = read_tensors(file, &list);
    free_list(&list);
    return err;
}

/* Without it the state of rows would go on at the bias correction of the first step. */
static int miss_state(const struct rt_safetensors *weights, const char *path)
{
    const char *note = rt_safetensors_note(weights, TR_NOTE_STATE);
    if (!note || strcmp(note, "true") != 0)
        return 0;
    return RT_FAIL(RT_EUSAGE,
                   "%s: was saved with the optimizer's state, and %s is not there: copy it, or "
                   "global.load_state=false",
                   rt_safetensors_path(weights), path);
}

int tr_load_dense(const char *dir, bool fresh, const struct tr_model *model,
                  struct tr_optimizer *optimizer, struct tr_loaded **out)
{
    struct tr_loaded *loaded = rt_xcalloc(1, sizeof *loaded);
    char *path = rt_save_dense_path(dir), *state = rt_save_dense_state_path(dir);
    struct rt_safetensors *file = NULL;
    int err = rt_safetensors_open(path, &file);
    if (!err)
        err = read_weights(loaded, file, model);
    if (!err && !fresh)
        err = rt_file_exists(state) ? read_state(loaded, state, file, model, optimizer)
                                    : miss_state(file, state);
    rt_safetensors_close(file);
    rt_free(state);
    rt_free(path);
    if (err)
        tr_loaded_free(loaded);
    else
        *out = loaded;
    return err;
}

void tr_loaded_take(const struct tr_loaded *loaded, struct tr_model *model,
                    struct tr_optimizer *optimizer)
{
    size_t n = tr_model_count(model), count;
    float *state = tr_optimizer_state(optimizer, &count);
    if (n > 0)
        memcpy(tr_model_params(model), loaded->param, n * sizeof(float));
    tr_optimizer_reset(optimizer);
    if (!loaded->state)
        return;
    if (count > 0)
        memcpy(state, loaded->state, count * sizeof(float));
    tr_optimizer_set_steps(optimizer, loaded->optimizer_steps);
}

void tr_loaded_free(struct tr_loaded *loaded)
{
    if (!loaded)
        return;
    rt_free(loaded->param);
    rt_free(loaded->state);
    rt_free(loaded);
}

/* ---- standardized columns ---- */

/* A standardize note, "MEAN DEVIATION"; false: there is none, as of a column that was not standardized. */
static bool read_statistics(const struct rt_safetensors *file, const char *column, double *mean,
                            double *deviation)
{
    char *key = rt_xasprintf("standardize.%s", column);
    const char *text = rt_safetensors_note(file, key);
    rt_free(key);
    return text && sscanf(text, "%lf %lf", mean, deviation) == 2;
}

int tr_load_statistics(const char *dir, struct wire_statistics *statistics, uint32_t n)
{
    char *path = rt_save_dense_path(dir);
    struct rt_safetensors *file = NULL;
    int err = rt_safetensors_open(path, &file);
    for (uint32_t i = 0; i < n && !err; i++) {
        struct wire_statistics *s = &statistics[i];
        if (!read_statistics(file, s->column, &s->mean, &s->deviation))
            err = RT_FAIL(RT_EUSAGE,
                          "%s: has no note 'standardize.%s', which a job that trains nothing takes "
                          "the column's mean and deviation from",
                          path, s->column);
    }
    rt_safetensors_close(file);
    rt_free(path);
    return err;
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
