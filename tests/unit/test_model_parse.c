/* tests/unit/test_model_parse.c -- model files: what is read, what is refused and how; and the files in configs/models
 * build. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/conf/yaml.h"
#include "trainer/model/model.h"
#include "trainer/model/parse.h"
#include "trainer/model/spec.h"

static struct rt_yaml *yaml_of(const char *name, const char *text)
{
    struct rt_yaml *yaml = NULL;
    if (rt_yaml_parse(name, text, strlen(text), &yaml))
        fail_msg("'%s': %s", text, rt_err_text());
    return yaml;
}

#define LAYER(rest) "layers:\n  - {name: a, type: mlp, inputs: dense" rest "}\n"

static const struct {
    const char *what, *file, *params; /* params: model.yml's, or NULL */
    const char *want;                 /* in the error; NULL: accepted */
    const char *words;                /* of the first option of the first layer */
} row[] = {
    {"scalar", LAYER(", sizes: 4"), NULL, NULL, "4"},
    {"list", LAYER(", sizes: [4, 1]"), NULL, NULL, "4 1"},
    {"no options", LAYER(""), NULL, NULL, ""},
    {"default", "params: {s: [8, 1]}\n" LAYER(", sizes: $s"), NULL, NULL, "8 1"},
    {"override", "params: {s: [8, 1]}\n" LAYER(", sizes: $s"), "s: [5]", NULL, "5"},
    {"null override", "params: {s: [8, 1]}\n" LAYER(", sizes: $s"), "s:", NULL, "8 1"},
    {"in a list", "params: {s: 8, t: [3, 2]}\n" LAYER(", sizes: [$s, $t, 1]"), NULL, NULL,
     "8 3 2 1"},
    {"quoted is text", LAYER(", sizes: ['$s']"), NULL, NULL, "$s"},
    {"unknown parameter", "params: {size: 8}\n" LAYER(", sizes: $sizes"), NULL,
     "m.yml:3: layers[0].sizes: `params:` has no 'sizes' (did you mean '$size'?)", NULL},
    {"unknown override", "params: {size: 8}\n" LAYER(", sizes: $size"), "sise: 4",
     "p.yml:1: unknown key 'sise' (did you mean 'size'?)", NULL},
    {"unused parameter", "params: {size: 8}\n" LAYER(", sizes: 4"), NULL,
     "m.yml:1: params.size: no layer uses this parameter", NULL},
    {"parameter of a parameter", "params: {s: 8, t: [$s]}\n" LAYER(", sizes: $t"), NULL,
     "no layer uses this parameter", NULL},
    {"map as value", LAYER(", sizes: {a: 1}"), NULL, "m.yml:2: layers[0].sizes: expected a list",
     NULL},
    {"map as parameter", "params: {s: {a: 1}}\n" LAYER(", sizes: $s"), NULL,
     "m.yml:1: params.s: expected a list", NULL},
    {"list in a list", LAYER(", sizes: [[1]]"), NULL, "m.yml:2: layers[0].sizes[0]: ", NULL},
    {"no layers", "params: {}\n", NULL, "missing key 'layers'", NULL},
    {"layers is no list", "layers: {a: 1}\n", NULL, "expected a list", NULL},
    {"unknown top key", "layer: []\n", NULL, "unknown key 'layer' (did you mean 'layers'?)", NULL},
    {"optimizer", "optimizer: {type: sgd}\n" LAYER(""), NULL,
     "m.yml:1: optimizer: belongs in model.yml", NULL},
    {"schedule", "schedule: {warmup: 9}\n" LAYER(""), NULL, "schedule: belongs in model.yml", NULL},
    {"precision", "precision: float32\n" LAYER(""), NULL, "precision: belongs in model.yml", NULL},
    {"use", "use: mlp\n" LAYER(""), NULL, "use: belongs in model.yml", NULL},
    {"no name", "layers:\n  - {type: mlp, inputs: dense}\n", NULL, "missing key 'name'", NULL},
    {"no type", "layers:\n  - {name: a, inputs: dense}\n", NULL, "missing key 'type'", NULL},
    {"no inputs", "layers:\n  - {name: a, type: mlp}\n", NULL, "missing key 'inputs'", NULL},
    {"bad name", "layers:\n  - {name: a b, type: mlp, inputs: dense}\n", NULL,
     "m.yml:2: layer name 'a b': expected", NULL},
    {"layer is no map", "layers: [a]\n", NULL, "expected a map", NULL},
};

static void check_words(const char *what, const struct tr_spec *spec, const char *want)
{
    char got[100] = "";
    if (spec->layer[0].n_options) {
        const struct tr_words *words = &spec->layer[0].option[0].value;
        for (uint32_t i = 0; i < words->n; i++) {
            size_t used = strlen(got);
            snprintf(got + used, sizeof got - used, "%s%s", i ? " " : "", words->word[i]);
        }
    }
    if (strcmp(got, want) != 0)
        fail_msg("%s: got words '%s', want '%s'", what, got, want);
}

static void test_files(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *file = yaml_of("m.yml", row[i].file);
        struct rt_yaml *params = yaml_of("p.yml", row[i].params ? row[i].params : "");
        struct tr_spec *spec = NULL;
        int err = tr_parse_model(rt_yaml_root(file), false,
                                 row[i].params ? rt_yaml_root(params) : NULL, &spec);
        if (!row[i].want && err)
            fail_msg("%s: refused: %s", row[i].what, rt_err_text());
        if (row[i].want && (err != RT_EUSAGE || !strstr(rt_err_text(), row[i].want)))
            fail_msg("%s: got %d '%s'", row[i].what, err, rt_err_text());
        if (!err)
            check_words(row[i].what, spec, row[i].words);
        tr_spec_destroy(spec);
        rt_yaml_destroy(file);
        rt_yaml_destroy(params);
    }
}

/* model.yml with layers of its own may say how they learn. */
static void test_model_yml(void **state)
{
    (void)state;
    struct rt_yaml *file = yaml_of("model.yml", "optimizer: {type: sgd}\nschedule: {warmup: 9}\n"
                                                "precision: float32\n" LAYER(""));
    struct tr_spec *spec = NULL;
    assert_int_equal(tr_parse_model(rt_yaml_root(file), true, NULL, &spec), 0);
    tr_spec_destroy(spec);
    rt_yaml_destroy(file);
}

/* A list of one word is not that word. */
static void test_lists(void **state)
{
    (void)state;
    static const struct {
        const char *file;
        bool list;
    } lists[] = {
        {LAYER(", sizes: 4"), false},
        {LAYER(", sizes: [4]"), true},
        {"params: {s: 4}\n" LAYER(", sizes: $s"), false},
        {"params: {s: [4]}\n" LAYER(", sizes: $s"), true},
        {"params: {s: 4}\n" LAYER(", sizes: [$s]"), true},
    };
    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        struct rt_yaml *file = yaml_of("m.yml", lists[i].file);
        struct tr_spec *spec = NULL;
        assert_int_equal(tr_parse_model(rt_yaml_root(file), false, NULL, &spec), 0);
        assert_true(spec->layer[0].option[0].value.list == lists[i].list);
        tr_spec_destroy(spec);
        rt_yaml_destroy(file);
    }
}

/* ---- the shipped models ---- */

/* Three features and one label; or a sequence of 5 among them; or two labels. */
enum shape { PLAIN, SEQUENCE, TASKS };

static int build(const char *path, const char *params_text, enum shape shape, uint32_t n_dense,
                 struct tr_model **model)
{
    static const char *const dense[] = {"age", "hours"}, *const feature[] = {"c0", "c1", "c2"};
    static const char *const shop[] = {"user", "item", "history"};
    static const char *const label[] = {"clicked", "bought"};
    static const uint32_t dim[] = {16, 16, 16}, length[] = {0, 0, 5};
    struct tr_model_inputs inputs = {
        .dense = dense,
        .n_dense = n_dense,
        .feature = shape == SEQUENCE ? shop : feature,
        .feature_dim = dim,
        .feature_length = shape == SEQUENCE ? length : NULL,
        .n_features = 3,
        .label = label,
        .n_labels = shape == TASKS ? 2 : 1,
    };
    struct tr_model_conf conf = {.seed = 1, .samples_max = 4};
    struct rt_yaml *file = NULL, *params = yaml_of("model.yml", params_text);
    struct tr_spec *spec = NULL;
    int err = rt_yaml_load(path, &file);
    if (!err)
        err = tr_parse_model(rt_yaml_root(file), false, rt_yaml_root(params), &spec);
    if (!err)
        err = tr_model_create(spec, &inputs, &conf, model);
    tr_spec_destroy(spec);
    rt_yaml_destroy(file);
    rt_yaml_destroy(params);
    return err;
}

static const struct {
    const char *path, *params;
    uint32_t n_dense;
    size_t count;
    const char *want;
    enum shape shape;
} shipped[] = {
    /* bottom 2-64-16, 4 vectors: 6 dots, top 22-256-128-1 */
    {"configs/models/dlrm.yml", "", 2,
     2 * 64 + 64 + 64 * 16 + 16 + 22 * 256 + 256 + 256 * 128 + 128 + 128 + 1, NULL, PLAIN},
    {"configs/models/dlrm.yml", "top: [8, 1]", 0, 3 * 8 + 8 + 8 + 1, NULL, PLAIN},
    {"configs/models/mlp.yml", "top: [8, 1]", 2, 50 * 8 + 8 + 8 + 1, NULL, PLAIN},
    {"configs/models/mlp.yml", "top: [8, 1]", 0, 48 * 8 + 8 + 8 + 1, NULL, PLAIN},
    {"configs/models/dcn_v2.yml", "", 2,
     3 * (50 * 50 + 50) + 50 * 256 + 256 + 256 * 128 + 128 + 50 + 128 + 1, NULL, PLAIN},
    {"configs/models/dcn_v2.yml", "{crosses: 1, deep: 8}", 0, 48 * 48 + 48 + 48 * 8 + 8 + 57, NULL,
     PLAIN},
    {"configs/models/deepfm.yml", "deep: [8, 1]", 2, 50 + 50 * 8 + 8 + 8 + 1, NULL, PLAIN},
    {"configs/models/deepfm.yml", "", 0, 48 + 48 * 400 + 400 + 2 * (400 * 400 + 400) + 400 + 1,
     NULL, PLAIN},
    {"configs/models/finalmlp.yml", "", 2,
     2 * (50 * 50 + 50 + 50 * 256 + 256 + 256 * 128 + 128) + 128 * 128 + 128 + 1 + 128, NULL,
     PLAIN},
    {"configs/models/finalmlp.yml", "{first: 8, second: [4, 8]}", 0,
     2 * (48 * 48 + 48) + 48 * 8 + 8 + 48 * 4 + 4 + 4 * 8 + 8 + 8 * 8 + 8 + 1 + 8, NULL, PLAIN},
    {"configs/models/wide_deep.yml", "deep: [8, 1]", 2, 50 + 50 * 8 + 8 + 8 + 1, NULL, PLAIN},
    {"configs/models/wide_deep.yml", "", 0, 48 + 48 * 256 + 256 + 256 * 128 + 128 + 128 + 1, NULL,
     PLAIN},
    /* 3 features and the numbers, rows of 16: attention to 64, twice from 64 to 64, 4 x 64 to 1 */
    {"configs/models/autoint.yml", "", 2, 2 * 16 + 4 * 16 * 64 + 2 * 4 * 64 * 64 + 4 * 64 + 1, NULL,
     PLAIN},
    {"configs/models/autoint.yml", "{heads: 4, size: 8}", 0, 4 * 16 * 8 + 2 * 4 * 8 * 8 + 3 * 8 + 1,
     NULL, PLAIN},
    {"configs/models/mmoe.yml", "", 2,
     4 * (50 * 128 + 128 + 128 * 64 + 64) + 2 * (50 * 4 + 64 * 32 + 32 + 32 + 1), NULL, TASKS},
    {"configs/models/mmoe.yml", "{expert: 8, tower: 1, first_label: bought, second_weight: 2}", 0,
     4 * (48 * 8 + 8) + 2 * (48 * 4 + 8 + 1), NULL, TASKS},
    /* The unit 64-80-40-1; interest, item, user and the numbers: 50, then 200-80-1 with Dice's 3 of each column */
    {"configs/models/din.yml", "", 2,
     64 * 80 + 80 + 80 * 40 + 40 + 40 + 1 + 50 * 200 + 200 + 200 * 80 + 80 + 80 + 1 +
         3 * (200 + 80),
     NULL, SEQUENCE},
    {"configs/models/din.yml",
     "{target: user, others: item, unit: 8, deep: [8, 1], activation: relu}", 0,
     64 * 8 + 8 + 8 + 1 + 48 * 8 + 8 + 8 + 1, NULL, SEQUENCE},
    {"configs/models/finalmlp.yml", "second: [256, 64]", 2, 0,
     "layer 'products': input 'second': expected [samples][128] as 'turned' has, or "
     "a column for each of its rows, got [samples][64]",
     PLAIN},
    {"configs/models/dlrm.yml", "bottom: [64, 8]", 2, 0,
     "configs/models/dlrm.yml:17: layer 'dots': input 'c0': expected [samples][8] as 'bottom' "
     "has, got [samples][16]",
     PLAIN},
    {"configs/models/mlp.yml", "top: [8, x]", 2, 0,
     "model.yml:1: layer 'logit': sizes: expected an integer in 1..1048576, got 'x'", PLAIN},
    {"configs/models/mlp.yml", "top: [8]", 2, 0, "input 'logit': expected [samples][1]", PLAIN},
    {"configs/models/autoint.yml", "dim: 20", 2, 0,
     "layer 'vectors': input 'all': expected a width that is a multiple of 20, got "
     "[samples][68]",
     PLAIN},
    {"configs/models/mmoe.yml", "second_label: liked", 2, 0,
     "layer 'second': label: no label is called 'liked'", TASKS},
    {"configs/models/din.yml", "history: item", 2, 0,
     "layer 'interest': expected 2..1024 tensors as inputs, or one of so many rows, got 1",
     SEQUENCE},
    {"configs/models/din.yml", "", 2, 0,
     "layer 'interest': input 'item': no earlier layer, dense column or feature", PLAIN},
};

static void test_shipped(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(shipped); i++) {
        struct tr_model *model = NULL;
        int err =
            build(shipped[i].path, shipped[i].params, shipped[i].shape, shipped[i].n_dense, &model);
        if (shipped[i].want && (err != RT_EUSAGE || !strstr(rt_err_text(), shipped[i].want)))
            fail_msg("%zu: got %d '%s'", i, err, rt_err_text());
        if (!shipped[i].want && err)
            fail_msg("%zu: %s", i, rt_err_text());
        if (!err)
            assert_int_equal(tr_model_count(model), shipped[i].count);
        tr_model_destroy(model);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    struct rt_yaml *file = yaml_of("m.yml", "params: {s: [8, 1]}\n" LAYER(", sizes: $s"));
    int err = RT_ENOMEM;
    for (int nth = 0; err && nth < 50; nth++) {
        struct tr_spec *spec = NULL;
        rt_fault_alloc(nth);
        err = tr_parse_model(rt_yaml_root(file), false, NULL, &spec);
        if (rt_fault_hit())
            assert_int_equal(err, RT_ENOMEM);
        rt_fault_alloc(-1);
        tr_spec_destroy(spec);
    }
    assert_int_equal(err, 0);
    rt_yaml_destroy(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),     cmocka_unit_test(test_model_yml),
        cmocka_unit_test(test_lists),     cmocka_unit_test(test_shipped),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("model_parse", tests, NULL, NULL);
}
