/* tests/unit/test_gradients.c -- the backward pass of every layer against central differences, in float64: model/ and the plain
 * C loops compiled with -DTR_REAL_DOUBLE, where a difference over 2e-5 is exact to some 1e-9 and a wrong term cannot hide in rounding.
 *
 * All parameters of a network, and all inputs of a few samples, are moved one at a time. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/err.h"
#include "runtime/base/mem.h"

#include "tests/unit/networks.inc.h"

static void bed_create(struct bed *bed, const char *network)
{
    struct tr_spec *spec = spec_of(network);
    const struct tr_model_conf conf = {.seed = 5, .samples_max = SAMPLES};
    if (tr_model_create(spec, &bed_inputs, &conf, &bed->model))
        fail_msg("%s: %s", network, rt_err_text());
    tr_spec_destroy(spec);
    bed_move_params(bed->model);
}

/* The loss of the mean, which is what gradients are of. */
static double value(struct bed *bed)
{
    const void *feature[FEATURES];
    struct tr_feature_grad grad[FEATURES];
    for (uint32_t f = 0; f < FEATURES; f++) {
        feature[f] = bed->feature[f];
        grad[f].out = bed->grad[f];
    }
    struct tr_batch_view view = {.samples = SAMPLES,
                                 .dense = bed->dense,
                                 .feature = feature,
                                 .sequence = bed->sequence,
                                 .labels = bed->label,
                                 .weight = bed->weight,
                                 .draw = 17};
    struct tr_forward_out out = {0};
    assert_int_equal(tr_model_train(bed->model, &view, SAMPLES, grad, &out), 0);
    assert_true(out.finite);
    return out.loss_sum / SAMPLES;
}

static void check(struct bed *bed, tr_real *at, double got, const char *network, const char *what,
                  size_t i)
{
    const double step = 1e-5;
    tr_real keep = *at;
    *at = keep + step;
    double up = value(bed);
    *at = keep - step;
    double want = (up - value(bed)) / (2 * step);
    *at = keep;
    if (!(fabs(got - want) <= 1e-8 + 1e-6 * fabs(want)))
        fail_msg("%s: %s[%zu]: got %.12g, want %.12g", network, what, i, got, want);
}

static void check_params(struct bed *bed, const char *network)
{
    size_t n = 0, count = tr_model_count(bed->model);
    const struct tr_param *tensor = tr_model_tensors(bed->model, &n);
    tr_real *grad = rt_xcalloc(count, sizeof *grad);
    for (size_t i = 0; i < count; i++)
        grad[i] = tr_model_grads(bed->model)[i];
    for (size_t t = 0; t < n; t++)
        for (size_t i = 0; i < tensor[t].count; i++)
            if (tensor[t].momentum == 0) /* no loss has a gradient of a running average */
                check(bed, tr_model_params(bed->model) + tensor[t].offset + i,
                      grad[tensor[t].offset + i], network, tensor[t].name, i);
    rt_free(grad);
}

/* Of the first, of the last of the first slice, and of the second slice; of a sequence all rows. */
static void check_inputs(struct bed *bed, const char *network)
{
    static const uint32_t sample[] = {0, 127, 128, 130};
    static tr_real grad[FEATURES][SAMPLES * WIDTH_MAX];
    memcpy(grad, bed->grad, sizeof grad);
    for (uint32_t f = 0; f < FEATURES; f++) {
        uint32_t n = lengths[f] ? ROWS : ARRAY_LEN(sample);
        for (uint32_t k = 0; k < n; k++) {
            for (uint32_t c = 0; c < dims[f]; c++) {
                size_t i = (size_t)(lengths[f] ? k : sample[k]) * dims[f] + c;
                check(bed, &bed->feature[f][i], grad[f][i], network, names[f], i);
            }
        }
    }
}

static void check_network(const char *network)
{
    static struct bed bed;
    bed_init(&bed);
    bed_create(&bed, network);
    value(&bed);
    check_params(&bed, network);
    value(&bed);
    check_inputs(&bed, network);
    tr_model_destroy(bed.model);
}

static void test_gradients(void **state)
{
    (void)state;
    char text[400];
    assert_int_equal(sizeof(tr_real), sizeof(double)); /* compiled with -DTR_REAL_DOUBLE */
    for (size_t i = 0; i < ARRAY_LEN(networks); i++) {
        snprintf(text, sizeof text, "%s; logit linear x size=1; loss bce logit label=y",
                 networks[i]);
        check_network(text);
    }
}

static void test_heads(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(heads); i++)
        check_network(heads[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_heads),
    };
    return cmocka_run_group_tests_name("gradients", tests, NULL, NULL);
}
