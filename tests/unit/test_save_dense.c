/* tests/unit/test_save_dense.c -- the dense network to disk and back, and the model file that goes with it. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/file.h"
#include "runtime/base/mem.h"
#include "runtime/job/safetensors.h"
#include "tests/lib/temp.h"
#include "trainer/describe.h"
#include "trainer/model/model.h"
#include "trainer/load.h"
#include "trainer/optimizer.h"
#include "trainer/save.h"
#include "trainer/schedule.h"

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

    if (tr_job_model(job, 16, 1, NULL, &model) != 0)
        fail_msg("%s", rt_err_text());
    return model;
}

static struct tr_optimizer *optimizer_of(const struct rt_job *job, const struct tr_model *model)
{
    struct tr_optimizer *optimizer;
    struct tr_schedule schedule;
    double learning_rate;

    if (tr_job_optimizer(job, model, &optimizer, &learning_rate, &schedule) != 0)
        fail_msg("%s", rt_err_text());
    return optimizer;
}

/* Read, and taken if that went well. */
static int load_into(const struct rt_job *job, struct tr_model *model)
{
    struct tr_optimizer *optimizer = optimizer_of(job, model);
    struct tr_loaded *loaded = NULL;
    int err = tr_load_dense(dir, false, model, optimizer, &loaded);

    if (!err)
        tr_loaded_take(loaded, model, optimizer);
    tr_loaded_free(loaded);
    tr_optimizer_destroy(optimizer);
    return err;
}

static void save(const struct rt_job *job, struct tr_model *model)
{
    const struct wire_statistics statistics[] = {{"age", 38.5, 13.25, 100}, {"hours", 0.1, 3, 7}};
    struct rt_save to = {.dir = dir};
    struct tr_saved what = tr_saved_now(job, model, NULL, 12);

    what.statistics = statistics;
    what.n_statistics = 2;
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
        if (load_into(again, copy) != 0)
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
    assert_true(load_into(job, model) == RT_EFILE);
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (size_t k = 0; k < n; k++)
            if (strcmp(param[k].name, "logit.0.bias") == 0)
                value[param[k].offset + 3] = row[i].change == NOT_FINITE ? NAN : 0.0f;
        write_changed(model, value, row[i].change);
        int err = load_into(job, model);
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

/* ---- the optimizer's state ---- */

static void fill(float *value, size_t n, float from)
{
    for (size_t i = 0; i < n; i++)
        value[i] = from + (float)(i % 977) / 64.0f;
}

static void save_with_state(const struct rt_job *job, struct tr_model *model,
                            struct tr_optimizer *optimizer, const char *id)
{
    struct rt_save to = {.dir = dir, .id = id, .with_state = true};
    const struct tr_saved what = tr_saved_now(job, model, optimizer, 90);

    if (tr_save_dense(&what, &to) != 0)
        fail_msg("%s", rt_err_text());
    assert_int_equal(to.files, 3);
}

/* Every optimizer's comes back, with its steps; or it begins anew. Running averages have none. */
static void state_goes_with_its_weights(void **state)
{
    static const struct {
        const char *optimizer;
        size_t slots;
        bool fresh;
    } row[] = {
        {"model.optimizer={type: sgd, learning_rate: 0.1}", 0, false},
        {"model.optimizer={type: sgd, learning_rate: 0.1, momentum: 0.9}", 1, false},
        {"model.optimizer={type: adagrad, learning_rate: 0.1, initial_accumulator: 3}", 1, false},
        {"model.optimizer={type: adamw, learning_rate: 0.1}", 2, false},
        {"model.optimizer={type: lamb, learning_rate: 0.1}", 2, false},
        {"model.optimizer={type: adagrad, learning_rate: 0.1, initial_accumulator: 3}", 1, true},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_job *job = load("dcn_v2", NULL, &row[i].optimizer, 1);
        struct tr_model *model = model_of(job);
        struct tr_optimizer *from = optimizer_of(job, model), *to = optimizer_of(job, model);
        struct tr_loaded *loaded;
        size_t count;
        float *saved = tr_optimizer_state(from, &count);

        temp_folder(dir);
        assert_int_equal(count, row[i].slots * tr_model_count(model));
        fill(saved, count, 0.5f);
        tr_optimizer_set_steps(from, 88);
        save_with_state(job, model, from, "a");
        tr_optimizer_set_steps(to, 5);
        if (tr_load_dense(dir, row[i].fresh, model, to, &loaded) != 0)
            fail_msg("row %zu: %s", i, rt_err_text());
        tr_loaded_take(loaded, model, to);
        assert_int_equal(loaded->step, row[i].fresh ? 0 : 90);
        assert_int_equal(tr_optimizer_steps(to), row[i].fresh ? 0 : 88);
        if (row[i].fresh)
            assert_true(tr_optimizer_state(to, &count)[count - 1] == 3.0f);
        else if (count > 0)
            assert_memory_equal(tr_optimizer_state(to, &count), saved, count * sizeof *saved);
        tr_loaded_free(loaded);
        tr_optimizer_destroy(from);
        tr_optimizer_destroy(to);
        tr_model_destroy(model);
        rt_job_destroy(job);
    }
}

static void refused(const struct rt_job *job, int want, const char *why)
{
    struct tr_model *model = model_of(job);
    struct tr_optimizer *optimizer = optimizer_of(job, model);
    struct tr_loaded *loaded = NULL;
    int err = tr_load_dense(dir, false, model, optimizer, &loaded);

    if (err != want || (err && !strstr(rt_err_text(), why)))
        fail_msg("%d \"%s\", expected %d \"%s\"", err, err ? rt_err_text() : "", want, why);
    tr_loaded_free(loaded);
    tr_optimizer_destroy(optimizer);
    tr_model_destroy(model);
}

/* A file of one tensor, or none, in the place of the state. */
static void write_state(const char *optimizer, const char *steps, const char *id,
                        const char *tensor)
{
    static const float value = -1;
    struct rt_tensor_note note[] = {{RT_SAVE_OPTIMIZER, optimizer},
                                    {TR_NOTE_OPTIMIZER_STEPS, steps},
                                    {TR_NOTE_STEP, steps},
                                    {RT_SAVE_NOTE, id}};
    struct rt_tensor one = {.name = tensor, .rank = 1, .shape = {1}, .data = &value};
    char *path = rt_save_dense_state_path(dir);

    assert_int_equal(rt_safetensors_write(path, note, ARRAY_LEN(note), &one, tensor != NULL), 0);
    rt_free(path);
}

static void other_state_is_named(void **state)
{
    static const char *const adam = "model.optimizer={type: adam, learning_rate: 0.1}",
                             *const sgd = "model.optimizer={type: sgd, learning_rate: 0.1}",
                             *const sum = "model.optimizer={type: adagrad, learning_rate: 0.1}";
    struct rt_job *job[] = {load("dlrm", NULL, &adam, 1), load("dlrm", NULL, &sgd, 1),
                            load("dlrm", NULL, &sum, 1)};
    struct tr_model *model = model_of(job[0]);
    struct tr_optimizer *optimizer = optimizer_of(job[0], model);
    size_t count;

    (void)state;
    temp_folder(dir);
    save_with_state(job[0], model, optimizer, "a");
    refused(job[0], 0, "");
    refused(job[1], RT_EUSAGE,
            "dense_state.safetensors: has the optimizer's state of 'adam', the model has 'sgd': "
            "expected the same, or global.load_state=false");
    char *path = rt_save_dense_state_path(dir);
    assert_int_equal(remove(path), 0);
    rt_free(path);
    refused(job[0], RT_EUSAGE, "/dense.safetensors: was saved with the optimizer's state, and ");
    assert_non_null(strstr(rt_err_text(), "/dense_state.safetensors is not there: copy it, or "
                                          "global.load_state=false"));
    write_state("adam", "1", "a", NULL);
    refused(job[0], RT_EUSAGE, "dense_state.safetensors: has no tensor 'bottom.0.weight.exp_avg'");
    write_state("sgd", "1", "a", "more");
    refused(job[1], RT_EUSAGE, "dense_state.safetensors: has a tensor 'more'");
    write_state("sgd", "1x", "a", NULL);
    refused(job[1], RT_EDATA, "its note 'step': expected 0..1000000000000000, got '1x'");
    write_state("sgd", "1", "b", NULL);
    refused(job[1], RT_EUSAGE, "dense_state.safetensors: is of the save 'b', but ");
    tr_optimizer_destroy(optimizer);
    optimizer = optimizer_of(job[2], model);
    tr_optimizer_state(optimizer, &count)[0] = -1;
    save_with_state(job[2], model, optimizer, "a");
    refused(job[2], RT_EDATA, "tensor 'bottom.0.weight.sum' has -1: expected 0 or more");
    tr_optimizer_destroy(optimizer);
    tr_model_destroy(model);
    for (size_t i = 0; i < ARRAY_LEN(job); i++)
        rt_job_destroy(job[i]);
}

/* Its root is taken. */
static void a_negative_variance_is_named(void **state)
{
    static const char text[] = "layers:\n"
                               "  - {name: n, type: batchnorm, inputs: [dense]}\n"
                               "  - {name: logit, type: linear, inputs: [n], size: 1}\n"
                               "  - {name: loss, type: bce, inputs: [logit]}\n"
                               "optimizer: {type: sgd, learning_rate: 0.1}\n";
    char *path;
    size_t n;

    (void)state;
    temp_folder(dir);
    path = rt_save_model_path(dir);
    assert_int_equal(rt_file_write(path, text, sizeof text - 1), 0);
    struct rt_job *job = load(NULL, path, NULL, 0);
    struct tr_model *model = model_of(job);
    const struct tr_param *param = tr_model_tensors(model, &n);
    for (size_t i = 0; i < n; i++)
        if (strcmp(param[i].name, "n.running_var") == 0)
            tr_model_params(model)[param[i].offset] = -0.5f;
    save(job, model);
    refused(job, RT_EDATA, "tensor 'n.running_var' has -0.5: expected 0 or more of what is a var");
    rt_free(path);
    tr_model_destroy(model);
    rt_job_destroy(job);
}

/* Every read and every allocation that can fail, once: the model is as before. */
static void failures_are_told(void **state)
{
    struct rt_job *job = load("dlrm", NULL, NULL, 0);
    struct tr_model *model = model_of(job);
    struct tr_optimizer *optimizer = optimizer_of(job, model);
    struct tr_loaded *loaded = NULL;
    int err = RT_ENOMEM;

    (void)state;
    temp_folder(dir);
    save_with_state(job, model, optimizer, "a");
    for (int64_t nth = 0; err; nth++) {
        rt_fault_alloc(nth);
        err = tr_load_dense(dir, false, model, optimizer, &loaded);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (hit != (err == RT_ENOMEM || err == RT_EFILE) || nth > 1000)
            fail_msg("%d: %d \"%s\"", (int)nth, err, err ? rt_err_text() : "");
    }
    assert_int_equal(loaded->step, 90);
    tr_loaded_free(loaded);
    tr_optimizer_destroy(optimizer);
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
    struct wire_statistics both[] = {{.column = "hours"}, {.column = "age"}, {.column = "other"}};
    assert_int_equal(tr_load_statistics(dir, both, 2), 0);
    assert_true(both[0].mean == 0.1 && both[0].deviation == 3);
    assert_true(both[1].mean == 38.5 && both[1].deviation == 13.25);
    assert_int_equal(tr_load_statistics(dir, both, 3), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "has no note 'standardize.other'"));
    assert_int_equal(tr_load_statistics("/nowhere", both, 1), RT_EFILE);
    tr_model_destroy(model);
    rt_job_destroy(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_loaded),
        cmocka_unit_test(other_tensors_are_named),
        cmocka_unit_test(state_goes_with_its_weights),
        cmocka_unit_test(other_state_is_named),
        cmocka_unit_test(a_negative_variance_is_named),
        cmocka_unit_test(failures_are_told),
        cmocka_unit_test(notes_tell_step_and_statistics),
        cmocka_unit_test(other_statistics_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
