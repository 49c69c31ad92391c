/* tests/unit/test_model.c -- whole models: against PyTorch, batch sizes, memory. Descriptions that are
 * refused: test_model_refused.c. */
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
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/unit/dense_golden.h"
#include "tests/unit/model_bed.h"
#include "tests/unit/spec_text.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"

#define TOLERANCE 5e-6 /* of max(1, |want|), against PyTorch in float32 */

/* ---- against PyTorch ---- */

static void use(float *to, const struct golden_array *array, size_t n)
{
    rt_assert(array && array->n == n);
    memcpy(to, array->value, n * sizeof *to);
}

static void use_params(struct tr_model *model, const struct golden *golden, const char *name)
{
    size_t n = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    for (size_t i = 0; i < n; i++)
        use(tr_model_params(model) + tensor[i].offset,
            golden_get(golden, name, "init.%s", tensor[i].name), tensor[i].count);
}

static void compare_tensors(struct tr_model *model, const float *got, const struct golden *golden,
                            const char *name, const char *kind)
{
    size_t n = 0;
    const struct tr_param *tensor = tr_model_tensors(model, &n);
    assert_true(n >= 6);
    for (size_t i = 0; i < n; i++) {
        const struct golden_array *want = golden_get(golden, name, "%s.%s", kind, tensor[i].name);
        rt_assert(want && want->n == tensor[i].count);
        assert_close(tensor[i].name, got + tensor[i].offset, want->value, want->n, TOLERANCE);
    }
}

/* The fixture's inputs in f; its sample weights, or NULL. */
static const float *load_case(struct model_bed *f, const struct golden *golden, const char *name,
                              const uint32_t *dim)
{
    uint32_t n_features = 0, samples = (uint32_t)golden_get(golden, name, "labels")->n;
    while (golden_get(golden, name, "feature.%u", n_features))
        n_features++;
    const struct golden_array *dense = golden_get(golden, name, "dense");
    model_bed_init(f, samples, (uint32_t)(dense->n / samples), n_features, dim, 1);
    use(f->dense, dense, dense->n);
    use(f->labels, golden_get(golden, name, "labels"), samples);
    for (uint32_t k = 0; k < n_features; k++)
        use(f->feature[k], golden_get(golden, name, "feature.%u", k), (size_t)samples * dim[k]);
    const struct golden_array *weight = golden_get(golden, name, "weight");
    return weight ? weight->value : NULL;
}

static void check_first_step(struct model_bed *f, struct tr_model *model, double loss,
                             const struct golden *golden, const char *name)
{
    float mean = (float)loss;
    assert_close("loss", &mean, golden_get(golden, name, "loss")->value, 1, TOLERANCE);
    assert_close("logit", f->logit, golden_get(golden, name, "logit")->value, f->samples,
                 TOLERANCE);
    compare_tensors(model, tr_model_grads(model), golden, name, "grad");
    for (uint32_t k = 0; k < f->n_features; k++)
        assert_close(f->feature_name[k], f->grad[k],
                     golden_get(golden, name, "feature_grad.%u", k)->value,
                     (size_t)f->samples * f->dim[k], TOLERANCE);
    for (uint32_t s = 0; s < f->samples; s++)
        assert_true(fabs(f->score[s] - 1 / (1 + exp(-(double)f->logit[s]))) < 1e-6);
}

static void against_torch(const struct golden *golden, const char *name, struct tr_spec *spec,
                          const uint32_t *dim, const char *backend)
{
    struct model_bed f;
    const float *weight = load_case(&f, golden, name, dim);
    struct tr_model *model = NULL;
    struct tr_optimizer *adam = NULL;
    struct tr_optimizer_conf conf;
    assert_int_equal(model_bed_create(&f, spec, backend, f.samples, &model), 0);
    assert_int_equal(tr_optimizer_defaults("adam", &conf), 0);
    assert_int_equal(tr_optimizer_create(&conf, tr_model_count(model), &adam), 0);
    use_params(model, golden, name);
    struct tr_batch_view view = model_bed_view(&f);
    view.weight = weight;
    for (int step = 0; step < 5; step++) {
        struct tr_forward_out out = {.logit = f.logit, .score = f.score};
        assert_int_equal(model_bed_train(model, &view, f.samples, f.grad, &out), 0);
        if (step == 0)
            check_first_step(&f, model, out.loss_sum / f.samples, golden, name);
        assert_int_equal(
            tr_optimizer_step(adam, 0.01, tr_model_grads(model), tr_model_params(model)), 0);
    }
    compare_tensors(model, tr_model_params(model), golden, name, "step5");
    tr_optimizer_destroy(adam);
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    model_bed_release(&f);
}

static void test_torch(void **state)
{
    (void)state;
    static const char *const backend[] = {"reference", "onednn"};
    struct golden *golden = rt_xcalloc(1, sizeof *golden);
    golden_load(golden);
    for (size_t b = 0; b < ARRAY_LEN(backend); b++) {
        const uint32_t same[] = {8, 8, 8, 8}, mixed[] = {8, 4, 1};
        against_torch(golden, "dlrm", spec_dlrm(6, 8, 10, 6), same, backend[b]);
        against_torch(golden, "dlrm_no_dense", spec_dlrm(6, 8, 10, 6), same, backend[b]);
        against_torch(golden, "mlp", spec_mlp(10, 6), mixed, backend[b]);
    }
    golden_release(golden);
    rt_free(golden);
}

/* ---- the two backends, at the size of a job ---- */

static void test_backends_agree(void **state)
{
    (void)state;
    static const uint32_t samples[] = {1, 15, 16, 17, 70, 150};
    uint32_t dim[27];
    for (size_t i = 0; i < ARRAY_LEN(dim); i++)
        dim[i] = 16;
    for (size_t i = 0; i < ARRAY_LEN(samples); i++) {
        struct model_bed a, b;
        struct tr_spec *spec = spec_dlrm(64, 16, 64, 32);
        struct tr_model *truth = NULL, *fast = NULL;
        model_bed_init(&a, samples[i], 3, 26, dim, i);
        model_bed_init(&b, samples[i], 3, 26, dim, i);
        assert_int_equal(model_bed_create(&a, spec, "reference", 150, &truth), 0);
        assert_int_equal(model_bed_create(&b, spec, NULL, 150, &fast), 0);
        double want = model_bed_step(&a, truth), got = model_bed_step(&b, fast);
        assert_true(fabs(got - want) < 1e-6);
        assert_close("grads", tr_model_grads(fast), tr_model_grads(truth), tr_model_count(fast),
                     TOLERANCE);
        for (uint32_t k = 0; k < 26; k++)
            assert_close("feature", b.grad[k], a.grad[k], (size_t)samples[i] * 16, TOLERANCE);
        tr_model_destroy(truth);
        tr_model_destroy(fast);
        tr_spec_destroy(spec);
        model_bed_release(&a);
        model_bed_release(&b);
    }
}

/* Any allocation of ours in a step would be the armed one. */
static void test_step_allocates_nothing(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4, 4};
    struct model_bed f;
    struct tr_spec *spec = spec_dlrm(6, 4, 5, 3);
    struct tr_model *model = NULL;
    model_bed_init(&f, 24, 3, 3, dim, 5);
    assert_int_equal(model_bed_create(&f, spec, NULL, 24, &model), 0);
    rt_fault_alloc(0);
    for (f.samples = 24; f.samples > 20; f.samples--)
        model_bed_step(&f, model);
    assert_false(rt_fault_hit());
    rt_fault_alloc(-1);
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    model_bed_release(&f);
}

/* ---- tensors that several layers read ---- */

static double loss_of(struct tr_model *model, const struct tr_batch_view *view)
{
    struct tr_forward_out out = {0};
    assert_int_equal(tr_model_forward(model, view, &out), 0);
    return out.loss_sum;
}

/* Every kind of layer both first and later to write an input's gradient, against central differences of
 * the loss: step 1/64, so truncation and float32 rounding stay below 2e-3. */
static void test_shared_inputs(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4};
    struct model_bed f;
    model_bed_init(&f, 3, 1, 2, dim, 4);
    struct tr_spec *spec = spec_of("a concat c0 c1; m mlp a sizes=3; n mlp a sizes=2;"
                                   "d dot_interaction c0 c1 c0; b concat m n a d c0;"
                                   "c concat b a age; l mlp c sizes=1; loss bce l");
    struct tr_model *model = NULL;
    assert_int_equal(model_bed_create(&f, spec, NULL, 3, &model), 0);
    struct tr_batch_view view = model_bed_view(&f);
    struct tr_forward_out out = {0};
    assert_int_equal(model_bed_train(model, &view, 1, f.grad, &out), 0);
    for (size_t i = 0; i < 2 * 12 + tr_model_count(model); i++) {
        float *value = i < 24 ? &f.feature[i / 12][i % 12] : &tr_model_params(model)[i - 24];
        float got = i < 24 ? f.grad[i / 12][i % 12] : tr_model_grads(model)[i - 24], keep = *value;
        *value = keep + 1.0f / 64;
        double up = loss_of(model, &view);
        *value = keep - 1.0f / 64;
        float want = (float)((up - loss_of(model, &view)) * 32);
        *value = keep;
        assert_close("gradient", &got, &want, 1, 2e-3);
    }
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    model_bed_release(&f);
}

/* ---- named columns, labels, unused features ---- */

static void test_single_columns(void **state)
{
    (void)state;
    const uint32_t dim[] = {2, 3};
    struct model_bed f;
    model_bed_init(&f, 5, 2, 2, dim, 9);
    struct tr_spec *spec = spec_of("x concat income c0; l mlp x sizes=1; loss bce l label=buy");
    struct tr_model_inputs inputs = model_bed_inputs(&f);
    inputs.n_labels = 2;
    struct tr_model_conf conf = {.seed = 1, .samples_max = 8};
    struct tr_model *model = NULL;
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &model), 0);
    assert_int_equal(tr_model_count(model), 4);
    float *p = tr_model_params(model), two[10];
    for (int s = 0; s < 5; s++) {
        two[2 * s] = NAN; /* `click` is not read */
        two[2 * s + 1] = f.labels[s];
    }
    struct tr_batch_view view = model_bed_view(&f);
    view.labels = two;
    memset(f.grad[1], 0xff, sizeof(float) * 15); /* c1 is used by no layer */
    struct tr_forward_out out = {.logit = f.logit};
    assert_int_equal(model_bed_train(model, &view, 5, f.grad, &out), 0);
    for (int s = 0; s < 5; s++) {
        double want = p[3] + (double)p[0] * f.dense[2 * s + 1] +
                      (double)p[1] * f.feature[0][2 * s] + (double)p[2] * f.feature[0][2 * s + 1];
        assert_true(fabs(f.logit[s] - want) < 1e-6);
        double g = (1 / (1 + exp(-want)) - f.labels[s]) / 5;
        assert_true(fabs(f.grad[0][2 * s + 1] - g * p[2]) < 1e-6);
    }
    for (int i = 0; i < 15; i++)
        assert_true(f.grad[1][i] == 0);
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    model_bed_release(&f);
}

/* ---- slices of a batch ---- */

/* A batch of three slices, with sample weights, a column and a label read by name. */
#define MANY 300

struct many {
    struct model_bed f;
    struct tr_model *model;
    float *labels, *weight; /* [MANY][2], [MANY] */
};

static void many_init(struct many *m)
{
    const uint32_t dim[] = {4, 4, 4};
    model_bed_init(&m->f, MANY, 2, 3, dim, 5);
    struct tr_spec *spec =
        spec_of("d dot_interaction c0 c1 c2; x concat d income c0; l mlp x sizes=5,1;"
                "loss bce l label=buy");
    struct tr_model_inputs inputs = model_bed_inputs(&m->f);
    inputs.n_labels = 2;
    struct tr_model_conf conf = {.seed = 1, .samples_max = MANY};
    assert_int_equal(tr_model_create(spec, &inputs, &conf, &m->model), 0);
    tr_spec_destroy(spec);
    m->labels = rt_xcalloc(2 * MANY, sizeof(float));
    m->weight = rt_xcalloc(MANY, sizeof(float));
    for (uint32_t s = 0; s < MANY; s++) {
        m->labels[2 * s] = NAN;
        m->labels[2 * s + 1] = m->f.labels[s];
        m->weight[s] = 0.5f + (float)(s % 7);
    }
}

static void many_release(struct many *m)
{
    rt_free(m->labels);
    rt_free(m->weight);
    tr_model_destroy(m->model);
    model_bed_release(&m->f);
}

/* Train on samples first..first+n, gradients of features into grad. */
static struct tr_forward_out many_train(struct many *m, uint32_t first, uint32_t n, float **grad)
{
    const void *feature[3];
    for (int k = 0; k < 3; k++)
        feature[k] = m->f.feature[k] + (size_t)first * 4;
    struct tr_batch_view view = {.samples = n,
                                 .dense = m->f.dense + (size_t)first * 2,
                                 .feature = feature,
                                 .labels = m->labels + (size_t)first * 2,
                                 .weight = m->weight + first};
    struct tr_forward_out out = {.logit = m->f.logit + first, .score = m->f.score + first};
    assert_int_equal(model_bed_train(m->model, &view, MANY, grad, &out), 0);
    return out;
}

/* Batches of 100 samples, each with the global count, sum to one big batch: the group's step. What belongs to
 * a sample is the same, whatever slice it is in. */
static void test_parts_sum_to_whole(void **state)
{
    (void)state;
    enum { PART = 100 };
    struct many m;
    many_init(&m);
    size_t n = tr_model_count(m.model);
    float *whole = rt_xcalloc(n, sizeof *whole), *sum = rt_xcalloc(n, sizeof *sum);
    float *logit = rt_xcalloc(MANY, sizeof *logit), part[3][4 * PART];
    float *grad[] = {part[0], part[1], part[2], NULL};
    double loss = many_train(&m, 0, MANY, m.f.grad).loss_sum;
    memcpy(whole, tr_model_grads(m.model), n * sizeof *whole);
    memcpy(logit, m.f.logit, MANY * sizeof *logit);
    for (uint32_t first = 0; first < MANY; first += PART) {
        loss -= many_train(&m, first, PART, grad).loss_sum;
        for (size_t i = 0; i < n; i++)
            sum[i] += tr_model_grads(m.model)[i];
        for (int k = 0; k < 3; k++)
            assert_close("feature", part[k], m.f.grad[k] + (size_t)first * 4, 4 * PART, 1e-7);
    }
    assert_true(fabs(loss) < 1e-6);
    assert_close("sum of parts", sum, whole, n, 1e-6);
    assert_close("logit", m.f.logit, logit, MANY, 1e-6);
    rt_free(whole);
    rt_free(sum);
    rt_free(logit);
    many_release(&m);
}

/* A value that is not finite shows, in whichever slice and tensor it is. */
static void test_not_finite(void **state)
{
    (void)state;
    struct many m;
    many_init(&m);
    assert_true(many_train(&m, 0, MANY, m.f.grad).finite);
    float *bad[] = {&m.f.feature[0][0], &m.f.feature[1][4 * 150], &m.f.feature[2][4 * MANY - 1],
                    &m.f.dense[2 * 200 + 1], &m.weight[299]};
    for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
        float keep = *bad[i];
        *bad[i] = i % 2 ? NAN : INFINITY;
        if (many_train(&m, 0, MANY, m.f.grad).finite)
            fail_msg("bad value %zu was not seen", i);
        bool unfit = false;
        for (uint32_t k = 0; k < 3; k++)
            unfit = unfit || tr_model_feature_is_unfit(m.model, k);
        assert_true(unfit);
        *bad[i] = keep;
    }
    assert_true(many_train(&m, 0, MANY, m.f.grad).finite);
    for (uint32_t k = 0; k < 3; k++)
        assert_false(tr_model_feature_is_unfit(m.model, k));
    many_release(&m);
}

/* ---- start values, description ---- */

static void test_start_values(void **state)
{
    (void)state;
    const uint32_t dim[] = {16, 16};
    struct model_bed f;
    model_bed_init(&f, 2, 3, 2, dim, 1);
    struct tr_spec *spec = spec_dlrm(64, 16, 64, 32);
    struct tr_model *a = NULL, *b = NULL;
    assert_int_equal(model_bed_create(&f, spec, NULL, 2, &a), 0);
    assert_int_equal(model_bed_create(&f, spec, "reference", 99, &b), 0);
    assert_memory_equal(tr_model_params(a), tr_model_params(b), tr_model_count(a) * sizeof(float));
    size_t n = 0, total = 0;
    const struct tr_param *tensor = tr_model_tensors(a, &n);
    assert_int_equal(n, 10);
    assert_string_equal(tensor[2].name, "bottom.1.weight");
    assert_int_equal(tensor[2].shape[0], 16);
    assert_int_equal(tensor[2].shape[1], 64);
    for (size_t t = 0; t < n; t++) {
        double low = 1, high = -1, bound = 1 / sqrt(tensor[t & ~(size_t)1].shape[1]);
        for (size_t i = 0; i < tensor[t].count; i++) {
            low = fmin(low, tr_model_params(a)[tensor[t].offset + i]);
            high = fmax(high, tr_model_params(a)[tensor[t].offset + i]);
        }
        assert_true(low >= -bound && high <= bound);
        if (tensor[t].count > 100)
            assert_true(low < -0.9 * bound && high > 0.9 * bound);
        assert_int_equal(tensor[t].offset, total);
        total += tensor[t].count;
    }
    assert_int_equal(total, tr_model_count(a));
    tr_model_destroy(a);
    tr_model_destroy(b);
    tr_spec_destroy(spec);
    model_bed_release(&f);
}

static void test_describe_without_dense(void **state)
{
    (void)state;
    const uint32_t dim[] = {16, 16, 16};
    struct model_bed f;
    model_bed_init(&f, 2, 0, 3, dim, 1);
    struct tr_spec *spec = spec_dlrm(64, 16, 8, 4);
    struct tr_model *model = NULL;
    assert_int_equal(model_bed_create(&f, spec, NULL, 2, &model), 0);
    static const struct {
        const char *name, *type, *shape;
        size_t parameters, flops;
    } want[] = {
        {"dots", "dot_interaction", "[samples][3]", 0, 2 * 3 * 16},
        {"both", "concat", "[samples][3]", 0, 0},
        {"logit", "mlp", "[samples][1]", 73, 2 * (3 * 8 + 8 * 4 + 4)},
        {"loss", "bce", "[samples][1]", 0, 0},
    };
    assert_int_equal(tr_model_layers(model), ARRAY_LEN(want));
    for (uint32_t i = 0; i < ARRAY_LEN(want); i++) {
        struct tr_layer_facts got;
        tr_model_layer(model, i, &got);
        assert_string_equal(got.name, want[i].name);
        assert_string_equal(got.type, want[i].type);
        assert_string_equal(got.shape, want[i].shape);
        assert_int_equal(got.parameters, want[i].parameters);
        assert_int_equal(got.flops, want[i].flops);
        assert_true(got.bytes >= 2 * sizeof(float) * got.parameters);
    }
    assert_string_equal(tr_model_layer_input(model, 1, 0), "dots");
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    model_bed_release(&f);
}

/* ---- faults ---- */

static void test_no_memory(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4, 4};
    struct model_bed f;
    model_bed_init(&f, 4, 3, 3, dim, 1);
    int err = RT_ENOMEM, nth = 0;
    for (; err && nth < 200; nth++) {
        struct tr_spec *spec = spec_dlrm(6, 4, 5, 3);
        struct tr_model *model = NULL;
        rt_fault_alloc(nth);
        err = model_bed_create(&f, spec, NULL, 4, &model);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (hit)
            assert_int_equal(err, RT_ENOMEM);
        tr_model_destroy(model);
        tr_spec_destroy(spec);
    }
    assert_int_equal(err, 0);
    assert_true(nth > 4);
    model_bed_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch),
        cmocka_unit_test(test_backends_agree),
        cmocka_unit_test(test_step_allocates_nothing),
        cmocka_unit_test(test_parts_sum_to_whole),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_shared_inputs),
        cmocka_unit_test(test_single_columns),
        cmocka_unit_test(test_start_values),
        cmocka_unit_test(test_describe_without_dense),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
