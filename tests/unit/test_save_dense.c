/* tests/unit/test_save_dense.c -- the dense network to disk and back, and the model file that goes with it. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "tests/lib/temp.h"
#include "trainer/describe.h"
#include "trainer/model/model.h"
#include "trainer/save.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

static char dir[TEMP_PATH_MAX];

/* configs/adult with a model of configs/models, or with a whole model file. */
static struct rt_job *load(const char *name, const char *file, const char *const *set, size_t n)
{
    struct rt_job_source source = {.folder = "configs/adult",
                                   .without_data = true,
                                   .models_dir = "configs/models",
                                   .model = name,
                                   .set = set,
                                   .n_set = n};
    struct rt_job *job;

    source.path[RT_FILE_MODEL] = file;
    if (rt_job_load(&source, &job) != 0)
        fail_msg("%s", rt_err_text());
    return job;
}

static struct tr_model *model_of(const struct rt_job *job)
{
    struct tr_model *model;

    if (tr_job_model(job, 16, 1, &model) != 0)
        fail_msg("%s", rt_err_text());
    return model;
}

static void save(const struct rt_job *job, struct tr_model *model)
{
    const struct wire_statistics statistics[] = {{"age", 38.5, 13.25, 100}, {"hours", 0.1, 3, 7}};
    struct rt_save to = {.dir = dir};
    const struct tr_saved what = {
        .job = job, .model = model, .step = 12, .statistics = statistics, .n_statistics = 2};

    if (tr_save_dense(&what, &to) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(to.files, 2);
}

/* A seed's weights come back in another seed's model, and the model file makes the same network. */
static void what_is_saved_is_loaded(void **state)
{
    static const struct {
        const char *name;
        const char *set[3];
        size_t n;
    } row[] = {
        {"dlrm", {"model.params.top=[32, 1]", "model.optimizer.learning_rate=0.25"}, 2},
        {"mlp", {"model.schedule={type: linear, steps: 100, warmup: 10}"}, 1},
        {"dcn_v2", {0}, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const char *other[] = {"global.seed=99"};
        char *path = rt_save_model_path(dir);
        struct rt_job *job = load(row[i].name, NULL, row[i].set, row[i].n);
        struct tr_model *model = model_of(job);
        size_t n, m, bytes = tr_model_count(model) * sizeof(float);
        const struct tr_param *t = tr_model_tensors(model, &n), *u;

        temp_folder(dir);
        rt_free(path);
        path = rt_save_model_path(dir);
        save(job, model);
        struct rt_job *again = load(NULL, path, other, 1);
        struct tr_model *copy = model_of(again);
        u = tr_model_tensors(copy, &m);
        assert_int_equal(n, m);
        for (size_t k = 0; k < n; k++) {
            assert_string_equal(t[k].name, u[k].name);
            assert_int_equal(t[k].offset, u[k].offset);
            assert_memory_equal(t[k].shape, u[k].shape, t[k].rank * sizeof t[k].shape[0]);
        }
        assert_true(memcmp(tr_model_params(model), tr_model_params(copy), bytes) != 0);
        if (tr_load_dense(dir, copy) != 0)
            fail_msg("%s: %s", row[i].name, rt_err_text());
        assert_memory_equal(tr_model_params(model), tr_model_params(copy), bytes);
        double lr = 0, want = 0;
        rt_node_f64(rt_node_find(job->model_conf, "optimizer.learning_rate"), 0, 1, &want);
        rt_node_f64(rt_node_find(again->model_conf, "optimizer.learning_rate"), 0, 1, &lr);
        assert_true(lr == want && lr > 0);
        assert_true(i != 0 || lr == 0.25);
        assert_int_equal(!rt_node_get(job->model_conf, "schedule"),
                         !rt_node_get(again->model_conf, "schedule"));
        tr_model_destroy(copy);
        tr_model_destroy(model);
        rt_job_destroy(again);
        rt_job_destroy(job);
        rt_free(path);
    }
}

/* ---- what is refused ---- */

enum change { SAME, MISSING, MORE, SHAPE, RANK, TYPE, NOT_FINITE };

static void write_changed(const struct tr_model *model, const float *value, enum change change)
{
    size_t n;
    const struct tr_param *param = tr_model_tensors(model, &n);
    struct rt_tensor *tensor = rt_xcalloc(n + 1, sizeof *tensor);
    char *path = rt_save_dense_path(dir);

    for (size_t i = 0; i < n; i++) {
        tensor[i] = (struct rt_tensor){.name = param[i].name, .rank = param[i].rank};
        for (uint32_t d = 0; d < param[i].rank; d++)
            tensor[i].shape[d] = param[i].shape[d];
        tensor[i].data = value + param[i].offset;
    }
    tensor[n] = (struct rt_tensor){.name = "more", .data = value};
    if (change == SHAPE)
        tensor[0].shape[0]--;
    if (change == RANK)
        tensor[0].rank = 1;
    if (change == TYPE)
        tensor[0].type = RT_TENSOR_BF16;
    assert_int_equal(rt_safetensors_write(path, NULL, 0, tensor + (change == MISSING),
                                          n - (change == MISSING) + (change == MORE)),
                     0);
    rt_free(tensor);
    rt_free(path);
}

static void other_tensors_are_named(void **state)
{
    static const struct {
        enum change change;
        int err;
        const char *why;
    } row[] = {
        {SAME, 0, ""},
        {MISSING, RT_EUSAGE,
         "dense.safetensors: has no tensor 'bottom.0.weight', which the model has"},
        {MORE, RT_EUSAGE, "dense.safetensors: has a tensor 'more', which the model has not"},
        {SHAPE, RT_EUSAGE, "tensor 'bottom.0.weight': expected F32 [64, 6], got F32 [63, 6]"},
        {RANK, RT_EUSAGE, "tensor 'bottom.0.weight': expected F32 [64, 6], got F32 [64]"},
        {TYPE, RT_EUSAGE, "tensor 'bottom.0.weight': expected F32 [64, 6], got BF16 [64, 6]"},
        {NOT_FINITE, RT_EDATA, "tensor 'logit.0.bias' has a value that is not finite"},
    };
    struct rt_job *job = load("dlrm", NULL, NULL, 0);
    struct tr_model *model = model_of(job);
    size_t n, count = tr_model_count(model);
    const struct tr_param *param = tr_model_tensors(model, &n);
    float *before = rt_xcalloc(count, sizeof *before), *value = rt_xcalloc(count, sizeof *value);

    (void)state;
    temp_folder(dir);
    memcpy(before, tr_model_params(model), count * sizeof *before);
    assert_true(tr_load_dense(dir, model) == RT_EFILE);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (size_t k = 0; k < n; k++)
            if (strcmp(param[k].name, "logit.0.bias") == 0)
                value[param[k].offset + 3] = row[i].change == NOT_FINITE ? NAN : 0.0f;
        write_changed(model, value, row[i].change);
        int err = tr_load_dense(dir, model);
        if (err != row[i].err || (err && !strstr(rt_err_text(), row[i].why)))
            fail_msg("row %zu: %d \"%s\"", i, err, rt_err_text());
        assert_memory_equal(tr_model_params(model), err ? before : value, count * sizeof *value);
        memcpy(tr_model_params(model), before, count * sizeof *before);
    }
    rt_free(before);
    rt_free(value);
    tr_model_destroy(model);
    rt_job_destroy(job);
}

static void notes_tell_step_and_statistics(void **state)
{
    struct rt_job *job = load("dlrm", NULL, NULL, 0);
    struct tr_model *model = model_of(job);
    struct rt_safetensors *file;

    (void)state;
    temp_folder(dir);
    save(job, model);
    char *path = rt_save_dense_path(dir);
    assert_int_equal(rt_safetensors_open(path, &file), 0);
    assert_string_equal(rt_safetensors_note(file, "step"), "12");
    assert_string_equal(rt_safetensors_note(file, "standardize.age"), "38.5 13.25");
    assert_string_equal(rt_safetensors_note(file, "standardize.hours"), "0.10000000000000001 3");
    rt_safetensors_close(file);
    rt_free(path);
    tr_model_destroy(model);
    rt_job_destroy(job);
}

/* Those of age and hours are 38.5 +- 13.25 and 0.1 +- 3. */
static void other_statistics_are_counted(void **state)
{
    static const struct {
        struct wire_statistics s;
        uint32_t differ;
    } row[] = {{{.column = "age", .mean = 38.5, .deviation = 13.25}, 0},
               {{.column = "age", .mean = 38.500001, .deviation = 13.250001}, 0},
               {{.column = "age", .mean = 38.6, .deviation = 13.25}, 1},
               {{.column = "hours", .mean = 0.1, .deviation = 3.1}, 1},
               {{.column = "other", .mean = 5, .deviation = 1}, 0}};
    struct rt_job *job = load("dlrm", NULL, NULL, 0);
    struct tr_model *model = model_of(job);

    (void)state;
    temp_folder(dir);
    save(job, model);
    for (size_t i = 0; i < ARRAY_LEN(row); i++)
        assert_int_equal(tr_compare_statistics(dir, &row[i].s, 1), row[i].differ);
    assert_int_equal(tr_compare_statistics("/nowhere", &row[2].s, 1), 0);
    tr_model_destroy(model);
    rt_job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_loaded),
        cmocka_unit_test(other_tensors_are_named),
        cmocka_unit_test(notes_tell_step_and_statistics),
        cmocka_unit_test(other_statistics_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
