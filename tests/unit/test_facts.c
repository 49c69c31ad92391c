/* tests/unit/test_facts.c -- FLOPs of each type of layer, against products counted by hand; memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "tests/unit/spec_text.h"
#include "trainer/model/model.h"
#include "trainer/model/spec.h"

/* Features a, b of dim 6, c of dim 4, s a sequence of 3 places of dim 6; dense columns d0, d1. */
static struct tr_model *create(const char *text, uint32_t samples_max)
{
    static const char *const dense[] = {"d0", "d1"}, *const names[] = {"a", "b", "c", "s"};
    static const char *const labels[] = {"y"};
    static const uint32_t dims[] = {6, 6, 4, 6}, lengths[] = {0, 0, 0, 3};
    const struct tr_model_inputs inputs = {.dense = dense,
                                           .n_dense = 2,
                                           .feature = names,
                                           .feature_dim = dims,
                                           .feature_length = lengths,
                                           .n_features = 4,
                                           .label = labels,
                                           .n_labels = 1};
    const struct tr_model_conf conf = {.seed = 1, .samples_max = samples_max};
    struct tr_spec *spec = spec_of(text);
    struct tr_model *model = NULL;
    if (tr_model_create(spec, &inputs, &conf, &model))
        fail_msg("%s: %s", text, rt_err_text());
    tr_spec_destroy(spec);
    return model;
}

/* What a layer `x` multiplies and adds: half of its FLOPs. */
static const struct {
    const char *layers;
    uint64_t products;
} row[] = {
    {"x linear c size=5", 4 * 5},
    {"x linear c size=5 bias=false activation=sigmoid", 4 * 5},
    {"x linear dense", 2 * 2},
    {"x mlp a sizes=5,3", 6 * 5 + 5 * 3},
    {"x concat a b", 0},
    {"x activation a kind=relu", 0},
    {"x add a b", 0},
    {"x mul a b", 0},
    {"x sum a", 0},
    {"x mean s over=rows", 0},
    {"x slice a count=2", 0},
    {"x reshape a rows=2", 0},
    {"x softmax a", 0},
    {"x layernorm a", 0},
    {"x dropout a rate=0.5", 0},
    {"x masked_pool s s.mask", 3 * 6},
    {"x dot_interaction s", 3 * 6},
    {"x dot_interaction a b self=true", 3 * 6},
    {"x dot_interaction a b pass=true", 6},
    {"x fm a b", 2 * 6},
    {"x cross c layers=2", 2 * (4 * 4 + 4)},
    {"x cross c rank=3", 2 * 4 * 3 + 4},
    {"x cross_v1 c layers=3", 3 * (4 + 4)},
    {"g linear d0 size=2; x gate g a b", 2 * 6},
    /* query, key, value; scores and what they weigh */
    {"x attention s size=4 heads=2", 3 * 3 * 6 * 4 + 2 * 3 * 3 * 4},
    {"x attention s project=true residual=true", 5 * 3 * 6 * 6 + 2 * 3 * 3 * 6},
    {"x attention a s s.mask kind=din sizes=5", 3 * (4 * 6 * 5 + 5) + 3 * 6},
};

static void test_flops(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        char text[200];
        struct tr_layer_facts got;
        snprintf(text, sizeof text, "%s; l linear x size=1; loss bce l", row[i].layers);
        struct tr_model *model = create(text, 1);
        uint32_t at = tr_model_layers(model) - 3;
        tr_model_layer(model, at, &got);
        assert_string_equal(got.name, "x");
        if (got.flops != 2 * row[i].products)
            fail_msg("%s: got %llu FLOPs, want %llu", row[i].layers, (unsigned long long)got.flops,
                     (unsigned long long)(2 * row[i].products));
        tr_model_destroy(model);
    }
}

/* y and dy of 100 samples, 16 floats apart; weights and bias with their gradients. */
static void test_memory(void **state)
{
    (void)state;
    struct tr_model *model = create("x linear a size=16; l linear x size=1; loss bce l", 100);
    struct tr_layer_facts got;
    tr_model_layer(model, 0, &got);
    assert_int_equal(got.parameters, 6 * 16 + 16);
    assert_int_equal(got.bytes, 4 * (2 * 100 * 16 + 2 * (6 * 16 + 16)));
    assert_string_equal(tr_model_layer_input(model, 0, 0), "a");
    tr_model_destroy(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flops),
        cmocka_unit_test(test_memory),
    };
    return cmocka_run_group_tests_name("facts", tests, NULL, NULL);
}
