/* tests/unit/test_model.c -- whole models: against PyTorch, refused descriptions, batch sizes, memory. */
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
#include "tests/unit/spec_text.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"
#include "trainer/optimizer.h"

#define FEATURES_MAX 32
#define TOLERANCE    5e-6 /* of max(1, |want|), against PyTorch in float32 */

/* A batch in the caller's memory, and where gradients go. */
struct fixture {
    uint32_t samples, n_dense, n_features;
    uint32_t dim[FEATURES_MAX];
    char name[FEATURES_MAX][16];
    const char *feature_name[FEATURES_MAX], *dense_name[FEATURES_MAX];
    float *feature[FEATURES_MAX], *grad[FEATURES_MAX];
    float *dense, *labels, *logit, *score;
};

static const char *const labels[] = {"click", "buy"};

static void fixture_init(struct fixture *f, uint32_t samples, uint32_t n_dense, uint32_t n_features,
                         const uint32_t *dim, uint64_t seed)
{
    static const char *const dense_names[] = {"age", "income", "hours"};
    *f = (struct fixture){.samples = samples, .n_dense = n_dense, .n_features = n_features};
    uint64_t draw = 0;
    f->dense = rt_xcalloc((size_t)samples * (n_dense + 1), sizeof(float));
    f->labels = rt_xcalloc(samples, sizeof(float));
    f->logit = rt_xcalloc(samples, sizeof(float));
    f->score = rt_xcalloc((size_t)samples * 2, sizeof(float));
    for (uint32_t i = 0; i < n_dense; i++)
        f->dense_name[i] = dense_names[i];
    for (uint32_t i = 0; i < samples * n_dense; i++)
        f->dense[i] = rt_normal_f32(rt_draw(seed, draw++));
    for (uint32_t i = 0; i < samples; i++)
        f->labels[i] = (float)(rt_draw(seed, draw++) & 1);
    for (uint32_t k = 0; k < n_features; k++) {
        snprintf(f->name[k], sizeof f->name[k], "c%u", k);
        f->feature_name[k] = f->name[k];
        f->dim[k] = dim[k];
        size_t n = (size_t)samples * dim[k];
        f->feature[k] = rt_xcalloc(n, sizeof(float));
        f->grad[k] = rt_xcalloc(n, sizeof(float));
        for (size_t i = 0; i < n; i++)
            f->feature[k][i] = 0.5f * rt_normal_f32(rt_draw(seed, draw++));
    }
}

static void fixture_release(struct fixture *f)
{
    rt_free(f->dense);
    rt_free(f->labels);
    rt_free(f->logit);
    rt_free(f->score);
    for (uint32_t k = 0; k < f->n_features; k++) {
        rt_free(f->feature[k]);
        rt_free(f->grad[k]);
    }
}

static struct tr_model_inputs fixture_inputs(const struct fixture *f)
{
    return (struct tr_model_inputs){
        .dense = f->dense_name,
        .n_dense = f->n_dense,
        .feature = f->feature_name,
        .feature_dim = f->dim,
        .n_features = f->n_features,
        .label = labels,
        .n_labels = 1,
    };
}

static struct tr_batch_view fixture_view(const struct fixture *f)
{
    return (struct tr_batch_view){
        .samples = f->samples,
        .dense = f->dense,
        .feature = (const void *const *)f->feature,
        .labels = f->labels,
    };
}

static int fixture_create(const struct fixture *f, const struct tr_spec *spec, const char *backend,
                          uint32_t samples_max, struct tr_model **out)
{
    struct tr_model_inputs inputs = fixture_inputs(f);
    struct tr_model_conf conf = {
        .seed = 3, .samples_max = samples_max, .threads = 1, .backend = backend};
    return tr_model_create(spec, &inputs, &conf, out);
}

/* Gradients of features to where grad[] says, up to the first NULL. */
static int train(struct tr_model *model, const struct tr_batch_view *view, uint64_t global_samples,
                 float *const *grad, struct tr_forward_out *out)
{
    struct tr_feature_grad to[FEATURES_MAX];
    for (uint32_t k = 0; k < FEATURES_MAX && grad[k]; k++)
        to[k].out = grad[k];
    return tr_model_train(model, view, global_samples, to, out);
}

/* Forward and backward of the mean loss. */
static double fixture_step(struct fixture *f, struct tr_model *model)
{
    struct tr_batch_view view = fixture_view(f);
    struct tr_forward_out out = {.logit = f->logit, .score = f->score};
    assert_int_equal(train(model, &view, f->samples, f->grad, &out), 0);
    assert_true(out.finite);
    return out.loss_sum / f->samples;
}

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
static const float *load_case(struct fixture *f, const struct golden *golden, const char *name,
                              const uint32_t *dim)
{
    uint32_t n_features = 0, samples = (uint32_t)golden_get(golden, name, "labels")->n;
    while (golden_get(golden, name, "feature.%u", n_features))
        n_features++;
    const struct golden_array *dense = golden_get(golden, name, "dense");
    fixture_init(f, samples, (uint32_t)(dense->n / samples), n_features, dim, 1);
    use(f->dense, dense, dense->n);
    use(f->labels, golden_get(golden, name, "labels"), samples);
    for (uint32_t k = 0; k < n_features; k++)
        use(f->feature[k], golden_get(golden, name, "feature.%u", k), (size_t)samples * dim[k]);
    const struct golden_array *weight = golden_get(golden, name, "weight");
    return weight ? weight->value : NULL;
}

static void check_first_step(struct fixture *f, struct tr_model *model, double loss,
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
    struct fixture f;
    const float *weight = load_case(&f, golden, name, dim);
    struct tr_model *model = NULL;
    struct tr_optimizer *adam = NULL;
    struct tr_optimizer_conf conf;
    assert_int_equal(fixture_create(&f, spec, backend, f.samples, &model), 0);
    assert_int_equal(tr_optimizer_defaults("adam", &conf), 0);
    assert_int_equal(tr_optimizer_create(&conf, tr_model_count(model), &adam), 0);
    use_params(model, golden, name);
    struct tr_batch_view view = fixture_view(&f);
    view.weight = weight;
    for (int step = 0; step < 5; step++) {
        struct tr_forward_out out = {.logit = f.logit, .score = f.score};
        assert_int_equal(train(model, &view, f.samples, f.grad, &out), 0);
        if (step == 0)
            check_first_step(&f, model, out.loss_sum / f.samples, golden, name);
        assert_int_equal(
            tr_optimizer_step(adam, 0.01, tr_model_grads(model), tr_model_params(model)), 0);
    }
    compare_tensors(model, tr_model_params(model), golden, name, "step5");
    tr_optimizer_destroy(adam);
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    fixture_release(&f);
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
        struct fixture a, b;
        struct tr_spec *spec = spec_dlrm(64, 16, 64, 32);
        struct tr_model *truth = NULL, *fast = NULL;
        fixture_init(&a, samples[i], 3, 26, dim, i);
        fixture_init(&b, samples[i], 3, 26, dim, i);
        assert_int_equal(fixture_create(&a, spec, "reference", 150, &truth), 0);
        assert_int_equal(fixture_create(&b, spec, NULL, 150, &fast), 0);
        double want = fixture_step(&a, truth), got = fixture_step(&b, fast);
        assert_true(fabs(got - want) < 1e-6);
        assert_close("grads", tr_model_grads(fast), tr_model_grads(truth), tr_model_count(fast),
                     TOLERANCE);
        for (uint32_t k = 0; k < 26; k++)
            assert_close("feature", b.grad[k], a.grad[k], (size_t)samples[i] * 16, TOLERANCE);
        tr_model_destroy(truth);
        tr_model_destroy(fast);
        tr_spec_destroy(spec);
        fixture_release(&a);
        fixture_release(&b);
    }
}

/* Any allocation of ours in a step would be the armed one. */
static void test_step_allocates_nothing(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4, 4};
    struct fixture f;
    struct tr_spec *spec = spec_dlrm(6, 4, 5, 3);
    struct tr_model *model = NULL;
    fixture_init(&f, 24, 3, 3, dim, 5);
    assert_int_equal(fixture_create(&f, spec, NULL, 24, &model), 0);
    rt_fault_alloc(0);
    for (f.samples = 24; f.samples > 20; f.samples--)
        fixture_step(&f, model);
    assert_false(rt_fault_hit());
    rt_fault_alloc(-1);
    tr_model_destroy(model);
    tr_spec_destroy(spec);
    fixture_release(&f);
}

/* ---- descriptions that are refused, and the words ---- */

/* Two dense columns (age, income) and features c0, c1 of dim 4, c2 of dim 2. */
static const struct {
    const char *what, *layers;
    const char *want; /* in the error text; NULL: accepted */
} refused[] = {
    {"plain", "l mlp c0 sizes=1; loss bce l", NULL},
    {"one dense column", "x concat age c0; l mlp x sizes=1; loss bce l", NULL},
    {"the same input twice", "d dot_interaction c0 c0; l mlp d sizes=1; loss bce l", NULL},
    {"empty", "", "t.yml: expected a loss (bce, mse or softmax_ce), got 0 layers"},
    {"no loss", "l mlp c0 sizes=1", "expected a loss (bce, mse or softmax_ce), got 1 layers"},
    {"unknown type", "l concatt c0",
     "t.yml:1: layer 'l': type: no layer type is called 'concatt' (did you mean 'concat'?)"},
    {"unknown input", "l mlp feature sizes=1", "(did you mean 'features'?)"},
    {"no input", "l mlp", "inputs: expected at least one name"},
    {"later layer", "l mlp m sizes=1; m concat c0", "t.yml:1: layer 'l': input 'm': no earlier"},
    {"unknown key", "l mlp c0 size=1", "unknown key 'size' for type mlp (did you mean 'sizes'?)"},
    {"no sizes", "l mlp c0", "sizes: expected a list of sizes, got nothing"},
    {"size 0", "l mlp c0 sizes=0", "expected an integer in 1..1048576, got '0'"},
    {"size 8x", "l mlp c0 sizes=4,8x", "got '8x'"},
    {"size -1", "l mlp c0 sizes=-1", "got '-1'"},
    {"last", "l mlp c0 sizes=1 last=thanh",
     "last: expected none|relu|gelu|sigmoid|tanh|prelu|dice, got 'thanh'"},
    {"two words", "l mlp c0 sizes=1 last=none,relu", "last: expected 1..1 words, got 2"},
    {"activations", "l mlp c0 sizes=4,3,1 activation=relu,tanh",
     "activation: expected one word, or one for each of 3 sizes, got 2"},
    {"activation and last", "l mlp c0 sizes=4,1 activation=relu,tanh last=relu",
     "last: activation says already what follows each layer"},
    {"a list of one and last", "l mlp c0 sizes=1 activation=relu, last=relu",
     "last: activation says already what follows each layer"},
    {"one word and last", "l mlp c0 sizes=1 activation=relu last=none; loss bce l", NULL},
    {"linear size", "l linear c0 size=0", "t.yml:1: layer 'l': size: expected an integer in 1.."},
    {"linear bias", "l linear c0 size=1 bias=no", "bias: expected false|true, got 'no'"},
    {"linear of two", "l linear c0 c1 size=1", "put a concat before it"},
    {"two tensors", "l mlp c0 c1 sizes=1", "put a concat before it"},
    {"dot of unequal", "d dot_interaction c0 c2",
     "t.yml:1: layer 'd': input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"dot of one", "d dot_interaction c0",
     "layer 'd': expected 2..1024 tensors as inputs, or one of so many rows, got 1"},
    {"dot itself", "d dot_interaction c0 c1 self=yes", "self: expected false|true, got 'yes'"},
    {"fm of unequal", "f fm c0 c2",
     "t.yml:1: layer 'f': input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"fm of one row", "f fm c0", "or one of so many rows, got 1"},
    {"add of unequal", "a add c0 c1 c2",
     "t.yml:1: layer 'a': input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"add of other rows", "r reshape c0 rows=2; a add r c0",
     "t.yml:2: layer 'a': input 'c0': expected [samples][2][2] as 'r' has, got [samples][4]"},
    {"mul of one", "m mul c0", "expected 2..64 tensors as inputs, got 1"},
    {"mul of unequal", "m mul c2 c0",
     "input 'c2': expected [samples][4] as 'c0' has, or a column for each of its rows, got "
     "[samples][2]"},
    {"mul of other rows", "r reshape c0 rows=2; m mul r age", "input 'age': expected [samples][2]"},
    {"slice of nothing", "s slice c0", "count: expected how many columns to take"},
    {"slice too far", "s slice c0 first=2 count=3",
     "t.yml:1: layer 's': input 'c0': expected at least 5 columns, got [samples][4]"},
    {"slice rows", "s slice c0 over=rows count=2", "expected at least 2 rows, got [samples][4]"},
    {"slice first", "s slice c0 first=x count=3", "first: expected an integer in 0..1048576"},
    {"slice over", "s slice c0 over=row count=1", "over: expected columns|rows, got 'row'"},
    {"reshape", "r reshape c0", "expected rows or columns, one of them"},
    {"reshape both", "r reshape c0 rows=2 columns=2", "expected rows or columns, one of them"},
    {"reshape rest", "r reshape c0 columns=3",
     "input 'c0': expected a width that is a multiple of 3, got [samples][4]"},
    {"sum of two", "s sum c0 c1", "layer 's': expected one tensor as input, got 2"},
    {"mean over", "s mean c0 over=samples", "over: expected columns|rows, got 'samples'"},
    {"softmax of three", "s softmax c0 c1 c2",
     "expected one tensor and perhaps its mask as inputs, got 3"},
    {"softmax by a feature", "s softmax c0 c1", "input 'c1': expected a mask"},
    {"softmax by others", "s softmax c0 dense",
     "input 'dense': expected the 4 columns that 'c0' has, got [samples][2]"},
    {"layernorm of two", "n layernorm c0 c1", "layer 'n': expected one tensor as input, got 2"},
    {"layernorm eps", "n layernorm c0 eps=0", "eps: expected a number in 1e-12..1, got '0'"},
    {"batchnorm of two", "n batchnorm c0 c1", "layer 'n': expected one tensor as input, got 2"},
    {"batchnorm eps", "n batchnorm c0 eps=0", "eps: expected a number in 1e-12..1, got '0'"},
    {"batchnorm momentum", "n batchnorm c0 momentum=0",
     "momentum: expected a number in 1e-06..1, got '0'"},
    {"batchnorm affine", "n batchnorm c0 affine=false", "unknown key 'affine' for type batchnorm"},
    {"dropout", "d dropout c0", "rate: expected the share of elements to drop, got nothing"},
    {"dropout all", "d dropout c0 rate=1", "rate: expected a number in 0..0.99, got '1'"},
    {"dropout nan", "d dropout c0 rate=nan", "rate: expected a number in 0..0.99, got 'nan'"},
    {"activation", "a activation c0", "kind: expected the name of an activation, got nothing"},
    {"activation kind", "a activation c0 kind=swish", "got 'swish'"},
    {"attention of one row", "a attention c0",
     "input 'c0': expected 2..1024 rows, got [samples][4]"},
    {"attention kind", "a attention c0 kind=dim", "kind: expected self|din, got 'dim'"},
    {"attention of three", "r reshape c0 rows=2; a attention r c1 c2",
     "expected one tensor and perhaps its mask as inputs, got 3"},
    {"attention heads", "r reshape c0 rows=2; a attention r heads=3",
     "size: expected a multiple of 3 heads, got 2"},
    {"attention no heads", "r reshape c0 rows=2; a attention r heads=0",
     "heads: expected an integer in 1..64, got '0'"},
    {"attention mask", "r reshape c0 rows=4; a attention r dense",
     "input 'dense': expected [samples][4], a mask of the rows of 'r', got [samples][2]"},
    {"attention mask of ids", "r reshape c0 rows=2; a attention r c2",
     "input 'c2': expected a mask, NAME.mask of a sequence"},
    {"attention other kind's", "r reshape c0 rows=2; a attention r sizes=4",
     "unknown key 'sizes' for type attention self (did you mean 'size'?)"},
    {"attention heads of din", "r reshape c0 rows=2; a attention c2 r dense kind=din heads=2",
     "unknown key 'heads' for type attention din"},
    {"din of two", "r reshape c0 rows=2; a attention c2 r kind=din sizes=4",
     "expected a target, a sequence and its mask as inputs, got 2"},
    {"din of one row", "a attention c0 c1 dense kind=din sizes=4",
     "expected 2..1024 tensors as inputs, or one of so many rows, got 1"},
    {"din target", "r reshape c0 rows=2; a attention c1 r dense kind=din sizes=4",
     "input 'c1': expected the 2 columns that 'r' has, got [samples][4]"},
    {"din mask", "r reshape c0 rows=4; a attention age r dense kind=din sizes=4",
     "input 'dense': expected [samples][4], a mask of the rows of 'r', got [samples][2]"},
    {"din sizes", "r reshape c0 rows=2; a attention c2 r dense kind=din",
     "sizes: expected a list of sizes, got nothing"},
    {"gate alone", "g gate c2", "expected a gate's logits and then experts as inputs, got 1"},
    {"gate of one expert", "g gate age c0",
     "expected 2..1024 tensors as inputs, or one of so many rows, got 1"},
    {"gate of unequal", "g gate c2 c0 c2",
     "input 'c2': expected [samples][4] as 'c0' has, got [samples][2]"},
    {"gate of two for three", "g gate c2 c0 c1 c0",
     "input 'c2': expected [samples][3], a logit for each expert, got [samples][2]"},
    {"gate option", "g gate c2 c0 c1 experts=2", "unknown key 'experts' for type gate"},
    {"cross of two", "x cross c0 c1", "layer 'x': expected one tensor as input, got 2"},
    {"cross layers", "x cross c0 layers=17", "layers: expected an integer in 1..16, got '17'"},
    {"cross rank", "x cross c0 rank=0", "rank: expected an integer in 1..1048576, got '0'"},
    {"cross_v1 layers", "x cross_v1 c0 layers=0", "layers: expected an integer in 1..16"},
    {"cross_v1 of two", "x cross_v1 c0 c1", "layer 'x': expected one tensor as input, got 2"},
    {"wide logit", "loss bce c0", "input 'c0': expected [samples][1], got [samples][4]"},
    {"wrong label", "l mlp c0 sizes=1; loss bce l label=clack", "no label is called 'clack'"},
    {"same name", "l concat c0; l concat c0",
     "t.yml:2: layer 'l': name: already that of an earlier layer"},
    {"name of a feature", "c0 concat c1", "already that of a feature"},
    {"name of a column", "age concat c1", "already that of a dense column"},
    {"name of a whole", "dense concat c1", "already that of a whole"},
    {"unused", "u concat c1; l mlp c0 sizes=1; loss bce l",
     "layer 'u': its output is used by no layer"},
    {"after the loss", "l mlp c0 sizes=1; loss bce l; m concat c0",
     "t.yml: layer 'm': its output is used by no layer"},
    {"of the loss", "l mlp c0 sizes=1; loss bce l; m bce loss",
     "t.yml:3: layer 'm': input 'loss': a loss, whose output no layer can take"},
    {"two losses", "l mlp c0 sizes=1; loss bce l weight=0.5; m mlp c1 sizes=1; n mse m", NULL},
    {"a product", "l mlp c0 sizes=1; m mlp c1 sizes=1; loss bce l m", NULL},
    {"a wide product", "l mlp c0 sizes=1; loss bce l c1",
     "input 'c1': expected [samples][1], got [samples][4]"},
    {"too long a product", "l mlp c0 sizes=1; loss bce l l l l l l l l l l l l l l l l l",
     "layer 'loss': expected 1..16 logits as inputs, got 17 tensors"},
    {"weight", "l mlp c0 sizes=1; loss bce l weight=-1",
     "t.yml:2: layer 'loss': weight: expected a number in 0..1e+06, got '-1'"},
    {"mse of two", "loss mse c0 c1", "layer 'loss': expected one tensor as input, got 2"},
    {"wide mse", "loss mse c0", "input 'c0': expected [samples][1], got [samples][4]"},
    {"softmax_ce of one", "l mlp c0 sizes=1; loss softmax_ce l",
     "input 'l': expected a logit for each class, got [samples][1]"},
    {"softmax_ce of others", "loss softmax_ce c0",
     "t.yml:1: layer 'loss': label 'click': expected 4 classes, in data.yml it has 2"},
    {"17 losses",
     "a mse age; b mse age; c mse age; d mse age; e mse age; f mse age; g mse age; h mse age; "
     "i mse age; j mse age; k mse age; l mse age; m mse age; n mse age; o mse age; p mse age; "
     "q mse age",
     "t.yml:17: layer 'q': expected at most 16 losses"},
    {"too many parameters", "l mlp c0 sizes=1000000,1000000",
     "expected at most 2147483648 parameters"},
};

static void test_refused(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4, 2};
    struct fixture f;
    fixture_init(&f, 4, 2, 3, dim, 1);
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        struct tr_spec *spec = spec_of(refused[i].layers);
        struct tr_model *model = NULL;
        int err = fixture_create(&f, spec, NULL, 4, &model);
        if (!refused[i].want && err)
            fail_msg("%s: refused: %s", refused[i].what, rt_err_text());
        if (refused[i].want && (err != RT_EUSAGE || !strstr(rt_err_text(), refused[i].want)))
            fail_msg("%s: got %d '%s'", refused[i].what, err, rt_err_text());
        if (!err)
            fixture_step(&f, model);
        tr_model_destroy(model);
        tr_spec_destroy(spec);
    }
    fixture_release(&f);
}

static void test_bad_names(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "", "a b", "a.b", "$x", "0123456789012345678901234567890123456789012345678901234567890123"};
    static const char *const in[] = {"dense"};
    struct tr_spec *spec = NULL;
    assert_int_equal(tr_spec_create("t.yml", &spec), 0);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(tr_spec_layer(spec, bad[i], "mlp", in, 1, "t.yml:9"), RT_EUSAGE);
    assert_int_equal(spec->n_layers, 0);
    tr_spec_destroy(spec);
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
    struct fixture f;
    fixture_init(&f, 3, 1, 2, dim, 4);
    struct tr_spec *spec = spec_of("a concat c0 c1; m mlp a sizes=3; n mlp a sizes=2;"
                                   "d dot_interaction c0 c1 c0; b concat m n a d c0;"
                                   "c concat b a age; l mlp c sizes=1; loss bce l");
    struct tr_model *model = NULL;
    assert_int_equal(fixture_create(&f, spec, NULL, 3, &model), 0);
    struct tr_batch_view view = fixture_view(&f);
    struct tr_forward_out out = {0};
    assert_int_equal(train(model, &view, 1, f.grad, &out), 0);
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
    fixture_release(&f);
}

/* ---- named columns, labels, unused features ---- */

static void test_single_columns(void **state)
{
    (void)state;
    const uint32_t dim[] = {2, 3};
    struct fixture f;
    fixture_init(&f, 5, 2, 2, dim, 9);
    struct tr_spec *spec = spec_of("x concat income c0; l mlp x sizes=1; loss bce l label=buy");
    struct tr_model_inputs inputs = fixture_inputs(&f);
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
    struct tr_batch_view view = fixture_view(&f);
    view.labels = two;
    memset(f.grad[1], 0xff, sizeof(float) * 15); /* c1 is used by no layer */
    struct tr_forward_out out = {.logit = f.logit};
    assert_int_equal(train(model, &view, 5, f.grad, &out), 0);
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
    fixture_release(&f);
}

/* ---- slices of a batch ---- */

/* A batch of three slices, with sample weights, a column and a label read by name. */
#define MANY 300

struct many {
    struct fixture f;
    struct tr_model *model;
    float *labels, *weight; /* [MANY][2], [MANY] */
};

static void many_init(struct many *m)
{
    const uint32_t dim[] = {4, 4, 4};
    fixture_init(&m->f, MANY, 2, 3, dim, 5);
    struct tr_spec *spec =
        spec_of("d dot_interaction c0 c1 c2; x concat d income c0; l mlp x sizes=5,1;"
                "loss bce l label=buy");
    struct tr_model_inputs inputs = fixture_inputs(&m->f);
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
    fixture_release(&m->f);
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
    assert_int_equal(train(m->model, &view, MANY, grad, &out), 0);
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
        *bad[i] = keep;
    }
    assert_true(many_train(&m, 0, MANY, m.f.grad).finite);
    many_release(&m);
}

/* ---- start values, description ---- */

static void test_start_values(void **state)
{
    (void)state;
    const uint32_t dim[] = {16, 16};
    struct fixture f;
    fixture_init(&f, 2, 3, 2, dim, 1);
    struct tr_spec *spec = spec_dlrm(64, 16, 64, 32);
    struct tr_model *a = NULL, *b = NULL;
    assert_int_equal(fixture_create(&f, spec, NULL, 2, &a), 0);
    assert_int_equal(fixture_create(&f, spec, "reference", 99, &b), 0);
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
    fixture_release(&f);
}

static void test_describe_without_dense(void **state)
{
    (void)state;
    const uint32_t dim[] = {16, 16, 16};
    struct fixture f;
    fixture_init(&f, 2, 0, 3, dim, 1);
    struct tr_spec *spec = spec_dlrm(64, 16, 8, 4);
    struct tr_model *model = NULL;
    assert_int_equal(fixture_create(&f, spec, NULL, 2, &model), 0);
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
    fixture_release(&f);
}

/* ---- faults ---- */

static void test_no_memory(void **state)
{
    (void)state;
    const uint32_t dim[] = {4, 4, 4};
    struct fixture f;
    fixture_init(&f, 4, 3, 3, dim, 1);
    int err = RT_ENOMEM, nth = 0;
    for (; err && nth < 200; nth++) {
        struct tr_spec *spec = spec_dlrm(6, 4, 5, 3);
        struct tr_model *model = NULL;
        rt_fault_alloc(nth);
        err = fixture_create(&f, spec, NULL, 4, &model);
        bool hit = rt_fault_hit();
        rt_fault_alloc(-1);
        if (hit)
            assert_int_equal(err, RT_ENOMEM);
        tr_model_destroy(model);
        tr_spec_destroy(spec);
    }
    assert_int_equal(err, 0);
    assert_true(nth > 4);
    fixture_release(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch),
        cmocka_unit_test(test_backends_agree),
        cmocka_unit_test(test_step_allocates_nothing),
        cmocka_unit_test(test_parts_sum_to_whole),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_names),
        cmocka_unit_test(test_shared_inputs),
        cmocka_unit_test(test_single_columns),
        cmocka_unit_test(test_start_values),
        cmocka_unit_test(test_describe_without_dense),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
