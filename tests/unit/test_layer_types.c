/* tests/unit/test_layer_types.c -- a network around each type of layer against PyTorch (tests/golden/layers.txt): loss, logits
 * and gradients on both backends; and dropout, whose mask is ours. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/hash.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/unit/dense_golden.h"
#include "tests/unit/spec_text.h"
#include "trainer/metric/scores.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

#define TOLERANCE 5e-6 /* of max(1, |want|), in float32 */

enum { SAMPLES = 9, DENSE = 4, FEATURES = 4, WIDTH_MAX = 7, SCORES_MAX = 8 };

static const char *const dense_names[] = {"d0", "d1", "d2", "d3"}, *const labels[] = {"y", "z", "k",
                                                                                      "v"};
static const uint32_t label_classes[] = {2, 2, 4, 0};
static const char *const names[FEATURES] = {"a", "b", "c", "d"};
static const uint32_t dims[FEATURES] = {5, 5, 5, 7};

static struct tr_model *create(const char *text, const char *backend, uint32_t samples_max)
{
    const struct tr_model_inputs inputs = {.dense = dense_names,
                                           .n_dense = DENSE,
                                           .feature = names,
                                           .feature_dim = dims,
                                           .n_features = FEATURES,
                                           .label = labels,
                                           .label_classes = label_classes,
                                           .n_labels = ARRAY_LEN(labels)};
    const struct tr_model_conf conf = {.seed = 1, .samples_max = samples_max, .backend = backend};
    struct tr_spec *spec = spec_of(text);
    struct tr_model *model = NULL;
    if (tr_model_create(spec, &inputs, &conf, &model))
        fail_msg("%s: %s", text, rt_err_text());
    tr_spec_destroy(spec);
    return model;
}

/* ---- against PyTorch ---- */

static const float *input(const struct golden *golden, const char *name)
{
    const struct golden_array *array = golden_get(golden, "inputs", "%s", name);
    rt_assert(array);
    return array->value;
}

static void use_params(struct tr_model *model, const struct golden *golden, const char *name)
{
    size_t n = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    for (size_t i = 0; i < n; i++) {
        const struct golden_array *init = golden_get(golden, name, "init.%s", tensor[i].name);
        if (!init || init->n != tensor[i].count)
            fail_msg("%s: tensor %s: not of torch's size", name, tensor[i].name);
        memcpy(tr_model_params(model) + tensor[i].offset, init->value, init->n * sizeof(float));
    }
}

static void compare(const struct golden *golden, const char *name, const char *what,
                    const float *got, size_t n)
{
    char where[100];
    const struct golden_array *want = golden_get(golden, name, "%s", what);
    snprintf(where, sizeof where, "%s: %s", name, what);
    if (!want || want->n != n)
        fail_msg("%s: torch has another size", where);
    assert_close(where, got, want->value, n, TOLERANCE);
}

static void compare_grads(const struct golden *golden, const char *name, struct tr_model *model,
                          float feature[FEATURES][SAMPLES * WIDTH_MAX])
{
    char what[80];
    size_t n = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    for (size_t i = 0; i < n; i++) {
        snprintf(what, sizeof what, "grad.%s", tensor[i].name);
        compare(golden, name, what, tr_model_grads(model) + tensor[i].offset, tensor[i].count);
    }
    for (uint32_t f = 0; f < FEATURES; f++) {
        snprintf(what, sizeof what, "feature_grad.%s", names[f]);
        if (golden_get(golden, name, "%s", what)) {
            compare(golden, name, what, feature[f], SAMPLES * dims[f]);
            continue;
        }
        for (uint32_t i = 0; i < SAMPLES * dims[f]; i++)
            assert_true(feature[f][i] == 0);
    }
}

/* A hash of all bits that came out. */
static uint64_t check_case(const struct golden *golden, const struct golden_case *one,
                           const char *backend)
{
    static float grad[FEATURES][SAMPLES * WIDTH_MAX];
    struct tr_model *model = create(one->spec, backend, SAMPLES);
    const void *feature[FEATURES];
    struct tr_feature_grad to[FEATURES];
    float logit[SAMPLES], score[SAMPLES * SCORES_MAX];
    for (uint32_t f = 0; f < FEATURES; f++) {
        char name[16];
        snprintf(name, sizeof name, "feature.%s", names[f]);
        feature[f] = input(golden, name);
        to[f].out = grad[f];
    }
    struct tr_batch_view view = {.samples = SAMPLES,
                                 .dense = input(golden, "dense"),
                                 .feature = feature,
                                 .labels = input(golden, "labels"),
                                 .weight = input(golden, "weight")};
    struct tr_forward_out out = {.logit = logit, .score = score};
    use_params(model, golden, one->name);
    assert_int_equal(tr_model_train(model, &view, SAMPLES, to, &out), 0);
    float loss = (float)(out.loss_sum / SAMPLES);
    compare(golden, one->name, "loss", &loss, 1);
    compare(golden, one->name, "logit", logit, SAMPLES);
    compare_grads(golden, one->name, model, grad);
    uint64_t bits = rt_hash_bytes(tr_model_grads(model), tr_model_count(model) * sizeof(float));
    bits ^= 3 * rt_hash_bytes(grad, sizeof grad) + 5 * rt_hash_bytes(logit, sizeof logit);
    tr_model_destroy(model);
    return bits;
}

/* On every instruction set, and with the same bits there. */
static void test_torch(void **state)
{
    (void)state;
    struct golden *golden = rt_xcalloc(1, sizeof *golden);
    enum rt_isa best = rt_cpu_isa();
    golden_load_from(golden, "tests/golden/layers.txt");
    assert_true(golden->n_cases > 30);
    for (size_t i = 1; i < golden->n_cases; i++) {
        uint64_t plain = 0;
        check_case(golden, &golden->one[i], "reference");
        for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            uint64_t bits = check_case(golden, &golden->one[i], "onednn");
            if (isa != RT_ISA_PLAIN && bits != plain)
                fail_msg("%s: other bits with %s", golden->one[i].name,
                         rt_isa_name((enum rt_isa)isa));
            plain = bits;
        }
        rt_cpu_set_isa(best);
    }
    golden_release(golden);
    rt_free(golden);
}

/* ---- dropout ---- */

enum { MANY = 300 };

/* Logits of `x dropout d`, whose weights are all 1: sums of what is left of a row of ones. */
static void drop(struct tr_model *model, uint64_t draw, bool training, float *logit,
                 float grad[FEATURES][MANY * WIDTH_MAX])
{
    static float ones[MANY * WIDTH_MAX], label[MANY * 4], dense[MANY * DENSE];
    const void *feature[FEATURES];
    struct tr_feature_grad to[FEATURES];
    for (size_t i = 0; i < ARRAY_LEN(ones); i++)
        ones[i] = 1;
    for (uint32_t f = 0; f < FEATURES; f++) {
        feature[f] = ones;
        to[f].out = grad[f];
    }
    struct tr_batch_view view = {
        .samples = MANY, .dense = dense, .feature = feature, .labels = label, .draw = draw};
    struct tr_forward_out out = {.logit = logit};
    for (size_t i = 0; i < tr_model_count(model); i++)
        tr_model_params(model)[i] = i < 7 ? 1 : 0;
    assert_int_equal(training ? tr_model_train(model, &view, 1, to, &out)
                              : tr_model_forward(model, &view, &out),
                     0);
}

/* A share of a quarter is dropped, the same going back, another one of another draw; nothing when scores are made. */
static void test_dropout(void **state)
{
    (void)state;
    static float grad[FEATURES][MANY * WIDTH_MAX];
    static const char text[] = "x dropout d rate=0.25; l linear x size=1; loss bce l label=y";
    float first[MANY], again[MANY], other[MANY];
    struct tr_model *model = create(text, NULL, MANY), *threads = create(text, "reference", MANY);
    drop(threads, 5, true, again, grad);
    drop(model, 5, true, first, grad);
    assert_close("the other backend", first, again, MANY, 1e-6);
    uint32_t kept = 0;
    for (uint32_t s = 0; s < MANY; s++) {
        uint32_t n = 0;
        for (uint32_t c = 0; c < 7; c++)
            n += grad[3][s * 7 + c] != 0;
        assert_true(fabs(first[s] - n / 0.75) < 1e-5);
        kept += n;
    }
    assert_true(kept > 0.7 * MANY * 7 && kept < 0.8 * MANY * 7);
    drop(model, 6, true, other, grad);
    assert_memory_not_equal(first, other, sizeof first);
    drop(model, 5, false, other, grad);
    for (uint32_t s = 0; s < MANY; s++)
        assert_true(other[s] == 7);
    tr_model_destroy(model);
    tr_model_destroy(threads);
}

/* How many parameters there are says what was built. */
static void test_slopes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        size_t count;
    } row[] = {
        {"l mlp d sizes=1 activation=prelu; loss bce l label=y", 7 + 1},
        {"l mlp d sizes=1 activation=prelu,; loss bce l label=y", 7 + 1 + 1},
        {"l mlp d sizes=1 last=prelu; loss bce l label=y", 7 + 1 + 1},
        {"m linear d size=12; n activation m kind=prelu; l linear n size=1; loss bce l label=y",
         7 * 12 + 12 + 12 + 12 + 1},
        {"m linear d size=12; r reshape m rows=4; n activation r kind=prelu; l linear n size=1; "
         "loss bce l label=y",
         7 * 12 + 12 + 3 + 12 + 1},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct tr_model *model = create(row[i].text, NULL, SAMPLES);
        if (tr_model_count(model) != row[i].count)
            fail_msg("%s: %zu parameters, want %zu", row[i].text, tr_model_count(model),
                     row[i].count);
        tr_model_destroy(model);
    }
}

/* ---- classes ---- */

enum { CLASSES_MOST = 1000 };

/* Of `classes`, beside a head of another label: the same logits for each sample, so that the s-th, whose label is s, tells the
 * s-th probability. */
static struct tr_model *create_classes(uint32_t classes)
{
    static const char *const feature[] = {"a"}, *const label[] = {"y", "k"};
    const uint32_t dim = 2, label_of[] = {2, classes};
    const struct tr_model_inputs inputs = {.feature = feature,
                                           .feature_dim = &dim,
                                           .n_features = 1,
                                           .label = label,
                                           .label_classes = label_of,
                                           .n_labels = 2};
    const struct tr_model_conf conf = {.seed = 3, .samples_max = classes};
    char text[160];
    snprintf(text, sizeof text,
             "l linear a size=1; m linear a size=%u; e bce l label=y; f softmax_ce m label=k",
             classes);
    struct tr_spec *spec = spec_of(text);
    struct tr_model *model = NULL;
    if (tr_model_create(spec, &inputs, &conf, &model))
        fail_msg("%s: %s", text, rt_err_text());
    tr_spec_destroy(spec);
    return model;
}

/* What metrics ask of each sample; and of many classes, what a reader asks who has no label. */
static void check_samples(const struct tr_head *head, uint32_t columns, const float *score,
                          const float *label)
{
    double sum = 0;
    float most = 0;
    uint32_t right = 0, which = 0;
    for (uint32_t s = 0; s < head->classes; s++) {
        struct tr_auc_sample sample = tr_head_sample(head, score + s * columns, label + 2 * s, 1);
        sum += (double)sample.score;
        which = sample.score > most ? s : which;
        most = fmaxf(sample.score, most);
    }
    assert_true(fabs(sum - 1) < 1e-5);
    for (uint32_t s = 0; s < head->classes; s++) {
        const float *p = score + s * columns + head->first;
        struct tr_auc_sample sample = tr_head_sample(head, score + s * columns, label + 2 * s, 1);
        assert_true(sample.label == (s == which));
        right += sample.label == 1;
        if (tr_head_is_wide(head))
            assert_true(p[TR_WIDE_LABEL] == sample.score && p[TR_WIDE_CLASS] == (float)which &&
                        p[TR_WIDE_MOST] == most);
        else
            assert_true(p[s] == sample.score && p[which] == most);
    }
    assert_int_equal(right, 1);
}

/* Few classes: all probabilities. Many: what is asked of them, in three columns, and in slices of the batch. */
static void test_classes(void **state)
{
    static const uint32_t row[] = {2, 3, TR_CLASSES_SCORED, TR_CLASSES_SCORED + 1, CLASSES_MOST};
    static float a[2 * CLASSES_MOST], label[2 * CLASSES_MOST], score[200 * CLASSES_MOST];
    (void)state;
    for (uint32_t s = 0; s < CLASSES_MOST; s++) {
        a[2 * s] = 0.75f;
        a[2 * s + 1] = -1.5f;
        label[2 * s + 1] = (float)s;
    }
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct tr_model *model = create_classes(row[i]);
        uint32_t n, columns = tr_model_score_columns(model);
        const struct tr_head *head = tr_model_heads(model, &n);
        const void *feature[] = {a};
        struct tr_batch_view view = {.samples = row[i], .feature = feature, .labels = label};
        struct tr_forward_out out = {.score = score};
        bool wide = row[i] > TR_CLASSES_SCORED;
        double loss = 0;
        assert_int_equal(n, 2);
        assert_int_equal(columns, 1 + (wide ? TR_WIDE_COLUMNS : row[i]));
        assert_int_equal(tr_model_forward(model, &view, &out), 0);
        check_samples(&head[1], columns, score, label);
        for (uint32_t s = 0; s < row[i]; s++)
            loss -=
                log((double)tr_head_sample(&head[1], score + s * columns, label + 2 * s, 1).score);
        assert_true(fabs(loss - out.head_loss[1]) < 1e-4 * loss);
        tr_model_destroy(model);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_slopes),
        cmocka_unit_test(test_torch),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_classes),
    };
    return cmocka_run_group_tests_name("layer types", tests, NULL, NULL);
}
