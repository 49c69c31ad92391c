/* tests/unit/test_batch_statistics.c -- batchnorm and dice: against PyTorch (tests/golden/batch_statistics.txt) over five steps and
 * in scores made after them; the share of a rank; a batch of many slices, and of one sample. */
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
#include "trainer/model/model.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"
#include "trainer/optimizer_conf.h"

#define TOLERANCE 5e-6 /* of max(1, |want|), in float32 */

enum { SAMPLES = 9, WIDTH = 8, MANY = 300 };

static struct tr_model *create(const char *text, const char *backend, uint32_t samples_max)
{
    static const char *const feature[] = {"d"}, *const label[] = {"y"};
    static const uint32_t dim[] = {WIDTH};
    const struct tr_model_inputs inputs = {
        .feature = feature, .feature_dim = dim, .n_features = 1, .label = label, .n_labels = 1};
    const struct tr_model_conf conf = {
        .seed = 1, .samples_max = samples_max, .backend = backend, .gradient_max = 100};
    struct tr_spec *spec = spec_of(text);
    struct tr_model *model = NULL;
    if (tr_model_create(spec, &inputs, &conf, &model))
        fail_msg("%s: %s", text, rt_err_text());
    tr_spec_destroy(spec);
    return model;
}

/* A batch, and what came of it. */
struct bed {
    float d[MANY * WIDTH], label[MANY], weight[MANY];
    float grad[MANY * WIDTH], logit[MANY];
    double loss;
    bool finite;
};

/* Samples first..first + samples, for a step of `global` samples; 0: scores. */
static void pass(struct bed *bed, struct tr_model *model, uint32_t first, uint32_t samples,
                 uint64_t global)
{
    const void *feature[] = {bed->d + (size_t)first * WIDTH};
    struct tr_feature_grad to = {.out = bed->grad};
    struct tr_batch_view view = {.samples = samples,
                                 .feature = feature,
                                 .labels = bed->label + first,
                                 .weight = bed->weight + first};
    struct tr_forward_out out = {.logit = bed->logit};
    assert_int_equal(global ? tr_model_train(model, &view, global, &to, &out)
                            : tr_model_forward(model, &view, &out),
                     0);
    bed->loss = global ? out.loss_sum / (double)global : 0;
    bed->finite = !global || out.finite;
}

static size_t place_of(const struct tr_model *model, const char *name)
{
    size_t n = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    while (n && strcmp(tensor->name, name) != 0) {
        tensor++;
        n--;
    }
    rt_assert(n > 0);
    return tensor->offset;
}

/* ---- against PyTorch ---- */

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

static void compare_tensors(const struct golden *golden, const char *name, const char *kind,
                            const struct tr_model *model, const float *vector)
{
    char what[80];
    size_t n = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    for (size_t i = 0; i < n; i++) {
        snprintf(what, sizeof what, "%s.%s", kind, tensor[i].name);
        compare(golden, name, what, vector + tensor[i].offset, tensor[i].count);
    }
}

static void five_steps(struct bed *bed, struct tr_model *model)
{
    struct tr_optimizer_conf conf;
    struct tr_optimizer *sgd = NULL;
    struct tr_span span[32];
    size_t n = 0, n_spans = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    rt_assert(n <= ARRAY_LEN(span));
    assert_int_equal(tr_optimizer_defaults("sgd", &conf), 0);
    assert_int_equal(tr_parse_spans(NULL, &conf, tensor, n, span, &n_spans), 0);
    assert_int_equal(tr_optimizer_create_spans(&conf, tr_model_count(model), span, n_spans, &sgd),
                     0);
    for (int step = 0; step < 5; step++) {
        pass(bed, model, step % 2 ? 5 : 0, step % 2 ? 4 : 5, step % 2 ? 4 : 5);
        assert_int_equal(tr_optimizer_step(sgd, 0.1, tr_model_grads(model), tr_model_params(model)),
                         0);
    }
    tr_optimizer_destroy(sgd);
}

/* A hash of all bits that came out. */
static uint64_t check_case(struct bed *bed, const struct golden *golden,
                           const struct golden_case *one, const char *backend)
{
    struct tr_model *model = create(one->spec, backend, SAMPLES);
    size_t bytes = tr_model_count(model) * sizeof(float);
    use_params(model, golden, one->name);
    pass(bed, model, 0, SAMPLES, SAMPLES);
    float loss = (float)bed->loss;
    assert_true(bed->finite);
    compare(golden, one->name, "loss", &loss, 1);
    compare(golden, one->name, "logit", bed->logit, SAMPLES);
    compare(golden, one->name, "feature_grad.d", bed->grad, (size_t)SAMPLES * WIDTH);
    compare_tensors(golden, one->name, "grad", model, tr_model_grads(model));
    uint64_t bits = rt_hash_bytes(bed->grad, (size_t)SAMPLES * WIDTH * sizeof(float));
    five_steps(bed, model);
    compare_tensors(golden, one->name, "step5", model, tr_model_params(model));
    pass(bed, model, 0, SAMPLES, 0);
    compare(golden, one->name, "eval.logit", bed->logit, SAMPLES);
    bits ^= 3 * rt_hash_bytes(tr_model_params(model), bytes) +
            5 * rt_hash_bytes(bed->logit, SAMPLES * sizeof(float));
    tr_model_destroy(model);
    return bits;
}

/* On every instruction set, and with the same bits there. */
static void test_torch(void **state)
{
    (void)state;
    static struct bed bed;
    struct golden *golden = rt_xcalloc(1, sizeof *golden);
    enum rt_isa best = rt_cpu_isa();
    golden_load_from(golden, "tests/golden/batch_statistics.txt");
    memcpy(bed.d, golden_get(golden, "inputs", "feature.d")->value,
           SAMPLES * WIDTH * sizeof(float));
    memcpy(bed.label, golden_get(golden, "inputs", "labels")->value, SAMPLES * sizeof(float));
    memcpy(bed.weight, golden_get(golden, "inputs", "weight")->value, SAMPLES * sizeof(float));
    assert_int_equal(golden->n_cases, 7);
    for (size_t i = 1; i < golden->n_cases; i++) {
        uint64_t plain = 0;
        check_case(&bed, golden, &golden->one[i], "reference");
        for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            uint64_t bits = check_case(&bed, golden, &golden->one[i], "onednn");
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

/* ---- what a batch is ---- */

static const char network[] = "x batchnorm d; l linear x size=1; loss bce l";

static void many_init(struct bed *bed)
{
    for (size_t i = 0; i < ARRAY_LEN(bed->d); i++)
        bed->d[i] = rt_normal_f32(rt_draw(9, i)) * 3 + (float)(i % WIDTH);
    for (size_t s = 0; s < MANY; s++) {
        bed->label[s] = (float)(s % 3 == 0);
        bed->weight[s] = (float)(s % 2); /* which is no matter to statistics */
    }
}

/* Mean and unbiased variance of column c of samples first..first + n, in float64. */
static void moments(const struct bed *bed, uint32_t first, uint32_t n, uint32_t c, double *mean,
                    double *variance)
{
    double sum = 0, squares = 0;
    for (uint32_t s = first; s < first + n; s++)
        sum += (double)bed->d[s * WIDTH + c];
    *mean = sum / n;
    for (uint32_t s = first; s < first + n; s++)
        squares += pow((double)bed->d[s * WIDTH + c] - *mean, 2);
    *variance = squares / (n - 1);
}

/* All of a batch of three slices' size counts, and a rank brings its share: of 300 samples one 120, another 180. A variance may be
 * larger than gradients may be. */
static void test_shares(void **state)
{
    (void)state;
    static struct bed bed;
    static const uint32_t first[] = {0, 120}, count[] = {120, 180};
    many_init(&bed);
    for (size_t s = 0; s < MANY; s++)
        bed.d[s * WIDTH] *= 100;
    struct tr_model *model = create(network, NULL, MANY);
    const float *mean_grad = tr_model_grads(model) + place_of(model, "x.running_mean");
    const float *variance_grad = tr_model_grads(model) + place_of(model, "x.running_var");
    for (int r = 0; r < 2; r++) {
        double share = (double)count[r] / MANY;
        pass(&bed, model, first[r], count[r], MANY);
        assert_true(bed.finite && variance_grad[0] > 100);
        for (uint32_t c = 0; c < WIDTH; c++) {
            double mean, variance;
            moments(&bed, first[r], count[r], c, &mean, &variance);
            assert_true(fabs(mean_grad[c] - share * mean) < 1e-6 * fmax(1, fabs(mean)));
            assert_true(fabs(variance_grad[c] - share * (variance - 1)) < 1e-6 * variance);
        }
    }
    tr_model_clear_grads(model); /* a rank without a batch */
    assert_true(variance_grad[0] == 0);
    bed.d[7] = INFINITY;
    pass(&bed, model, 0, MANY, MANY);
    assert_false(bed.finite);
    tr_model_destroy(model);
}

/* One sample has no variance: what it is normalized to is 0, and the running averages stay. */
static void test_one_sample(void **state)
{
    (void)state;
    static struct bed bed;
    many_init(&bed);
    struct tr_model *model = create(network, NULL, MANY);
    float *param = tr_model_params(model), *grad = tr_model_grads(model);
    size_t mean_at = place_of(model, "x.running_mean");
    size_t variance_at = place_of(model, "x.running_var");
    for (uint32_t c = 0; c < WIDTH; c++) {
        param[mean_at + c] = 0.5f;
        param[variance_at + c] = 3;
    }
    pass(&bed, model, 1, 1, 4);
    assert_true(bed.finite);
    assert_true(bed.logit[0] == param[place_of(model, "l.bias")]);
    for (uint32_t c = 0; c < WIDTH; c++) {
        assert_true(grad[mean_at + c] == 0 && grad[variance_at + c] == 0);
        assert_true(bed.grad[c] == 0);
    }
    tr_model_destroy(model);
}

/* A step takes no memory, whatever its size. */
static void test_allocates_nothing(void **state)
{
    (void)state;
    static struct bed bed;
    many_init(&bed);
    struct tr_model *model =
        create("m mlp d sizes=5,4 activation=dice; x batchnorm m; l linear x size=1; loss bce l",
               NULL, MANY);
    rt_fault_alloc(0);
    for (uint32_t n = MANY; n > 1; n /= 2)
        pass(&bed, model, 0, n, n);
    assert_false(rt_fault_hit());
    rt_fault_alloc(-1);
    tr_model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_one_sample),
        cmocka_unit_test(test_allocates_nothing),
    };
    return cmocka_run_group_tests_name("batch statistics", tests, NULL, NULL);
}
