/* tests/unit/test_optimizer_conf.c -- model.yml's `optimizer:` and `schedule:`: what is read, what is refused and how;
 * which parameters are updated alike. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/conf/yaml.h"
#include "trainer/model/model.h"
#include "trainer/optimizer.h"
#include "trainer/optimizer_conf.h"
#include "trainer/schedule.h"

static struct rt_yaml *yaml_of(const char *text)
{
    struct rt_yaml *yaml = NULL;
    if (rt_yaml_parse("model.yml", text, strlen(text), &yaml))
        fail_msg("'%s': %s", text, rt_err_text());
    return yaml;
}

/* want: in the error; NULL: accepted. */
static void check(const char *text, int err, const char *want)
{
    if (want ? err != RT_EUSAGE || !strstr(rt_err_text(), want) : err != 0)
        fail_msg("%s: got %d '%s', want '%s'", text, err, err ? rt_err_text() : "",
                 want ? want : "");
}

static void test_optimizer(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        enum tr_optimizer_kind kind;
        double rate, eps, momentum, decay, clip;
        const char *want;
    } row[] = {
        {"", TR_ADAM, 0.001, 1e-8, 0, 0, 0, NULL},
        {"type: adam", TR_ADAM, 0.001, 1e-8, 0, 0, 0, NULL},
        {"{type: adam, learning_rate: 0.5, eps: 0.25}", TR_ADAM, 0.5, 0.25, 0, 0, 0, NULL},
        {"{type: sgd, momentum: 0.5}", TR_SGD, 0.01, 0, 0.5, 0, 0, NULL},
        {"{type: adagrad}", TR_ADAGRAD, 0.01, 1e-10, 0, 0, 0, NULL},
        {"{type: adamw}", TR_ADAMW, 0.001, 1e-8, 0, 0.01, 0, NULL},
        {"{type: adamw, weight_decay: 0, clip_norm: 2}", TR_ADAMW, 0.001, 1e-8, 0, 0, 2, NULL},
        {"{type: lamb, weight_decay_on: matrices}", TR_LAMB, 0.001, 1e-6, 0, 0.01, 0, NULL},
        {"{type: adams}", 0, 0, 0, 0, 0, 0,
         "model.yml:1: optimizer 'adams': expected sgd, adagrad, adam, adamw or lamb (did you mean "
         "'adam'?)"},
        {"{type: adam, momentum: 0.5}", 0, 0, 0, 0, 0, 0, "model.yml:1: unknown key 'momentum'"},
        {"{type: sgd, beta1: 0.5}", 0, 0, 0, 0, 0, 0, "model.yml:1: unknown key 'beta1'"},
        {"{type: lamb, initial_accumulator: 1}", 0, 0, 0, 0, 0, 0, "unknown key"},
        {"{learning_rate: fast}", 0, 0, 0, 0, 0, 0, "learning_rate: expected"},
        {"{learning_rate: -1}", 0, 0, 0, 0, 0, 0, "learning_rate: expected"},
        {"{clip_norm: -1}", 0, 0, 0, 0, 0, 0, "clip_norm: expected"},
        {"{clip_nom: 1}", 0, 0, 0, 0, 0, 0, "unknown key 'clip_nom' (did you mean 'clip_norm'?)"},
        {"{type: adam, weight_decay_on: matrices}", 0, 0, 0, 0, 0, 0,
         "weight_decay_on: expected weight_decay above 0 with it"},
        {"{type: adamw, weight_decay: 0, weight_decay_on: all}", 0, 0, 0, 0, 0, 0,
         "weight_decay_on: expected weight_decay above 0 with it"},
        {"[adam]", 0, 0, 0, 0, 0, 0, "model.yml:1: expected a map"},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = yaml_of(row[i].text);
        struct tr_optimizer_conf conf;
        double rate = -1;
        int err = tr_parse_optimizer(rt_yaml_root(yaml), &conf, &rate);
        check(row[i].text, err, row[i].want);
        if (!err && (conf.kind != row[i].kind || rate != row[i].rate || conf.eps != row[i].eps ||
                     conf.momentum != row[i].momentum || conf.weight_decay != row[i].decay ||
                     conf.clip_norm != row[i].clip))
            fail_msg("%s: other numbers", row[i].text);
        rt_yaml_destroy(yaml);
    }
    struct tr_optimizer_conf conf;
    double rate = 0;
    assert_int_equal(tr_parse_optimizer(NULL, &conf, &rate), 0);
    assert_int_equal(conf.kind, TR_ADAM);
}

static void test_schedule(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct tr_schedule schedule;
        const char *want;
    } row[] = {
        {"", {.warmup_start = 0.001, .gamma = 0.1}, NULL},
        {"{warmup: 10}", {.warmup = 10, .warmup_start = 0.001, .gamma = 0.1}, NULL},
        {"{type: cosine, warmup: 2, warmup_start: 0, steps: 9, final: 0.5}",
         {TR_SCHEDULE_COSINE, 2, 0, 9, 0.5, 0, 0.1},
         NULL},
        {"{type: linear, steps: 9}", {TR_SCHEDULE_LINEAR, 0, 0.001, 9, 0, 0, 0.1}, NULL},
        {"{type: step, every: 3, gamma: 0.5, final: 0.25}",
         {TR_SCHEDULE_STEP, 0, 0.001, 0, 0.25, 3, 0.5},
         NULL},
        {"{type: cosin, steps: 9}", {0}, "model.yml:1: type: expected constant|linear|cosine|step"},
        {"{type: cosine}", {0}, "missing key 'steps'"},
        {"{type: step}", {0}, "missing key 'every'"},
        {"{type: step, every: 0}", {0}, "schedule step: every: expected at least 1"},
        {"{type: constant, steps: 9}", {0}, "model.yml:1: unknown key 'steps'"},
        {"{type: linear, steps: 9, gamma: 0.5}", {0}, "unknown key 'gamma'"},
        {"{type: linear, warmup: 9, steps: 9}",
         {0},
         "model.yml:1: schedule linear: steps: expected more than the 9 of the warm-up, got 9"},
        {"{warmup: -1}", {0}, "model.yml:1: warmup: expected an integer"},
        {"{warmup: 10, warmup_start: 1.5}", {0}, "warmup_start: expected a number in 0..1"},
        {"{warmup_start: 0.1}", {0}, "warmup_start: expected warmup above 0 with it"},
        {"{warmup: 0, warmup_start: 0.1}", {0}, "warmup_start: expected warmup above 0 with it"},
        {"{warm_up: 10}", {0}, "unknown key 'warm_up' (did you mean 'warmup'?)"},
        {"[cosine]", {0}, "model.yml:1: expected a map"},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = yaml_of(row[i].text);
        struct tr_schedule got;
        const struct tr_schedule *want = &row[i].schedule;
        int err = tr_parse_schedule(rt_yaml_root(yaml), &got);
        check(row[i].text, err, row[i].want);
        if (!err &&
            (got.kind != want->kind || got.warmup != want->warmup ||
             got.warmup_start != want->warmup_start || got.steps != want->steps ||
             got.final != want->final || got.every != want->every || got.gamma != want->gamma))
            fail_msg("%s: other numbers", row[i].text);
        rt_yaml_destroy(yaml);
    }
    struct tr_schedule none;
    assert_int_equal(tr_parse_schedule(NULL, &none), 0);
    assert_true(tr_schedule_factor(&none, 1) == 1 && tr_schedule_factor(&none, 1000000) == 1);
}

static const struct tr_param tensor[] = {
    {.name = "top.0.weight", .rank = 2, .offset = 0, .count = 6},
    {.name = "top.0.bias", .rank = 1, .offset = 6, .count = 2},
    {.name = "top-b.weight", .rank = 2, .offset = 8, .count = 4},
    {.name = "top-b.bias", .rank = 1, .offset = 12, .count = 1},
};

static void test_spans(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        struct tr_span span[4];
        size_t n;
        const char *want;
    } row[] = {
        {"type: adam", {{0, 13, 1, true, 0}}, 1, NULL},
        {"{type: adam, layers: {top: {lr_factor: 0.5}}}",
         {{0, 8, 0.5, true, 0}, {8, 5, 1, true, 0}},
         2,
         NULL},
        {"{type: adam, layers: {top: {lr_factor: 0}, top-b: {lr_factor: 0}}}",
         {{0, 13, 0, true, 0}},
         1,
         NULL},
        {"{type: adam, layers: {top-b: {}}}", {{0, 13, 1, true, 0}}, 1, NULL},
        {"{type: adam, layers: {top-b: }}", {{0}}, 0, "layers.top-b: expected a map, got nothing"},
        {"{type: adamw, weight_decay_on: matrices, layers: {top-b: {lr_factor: 2}}}",
         {{0, 6, 1, true, 0}, {6, 2, 1, false, 0}, {8, 4, 2, true, 0}, {12, 1, 2, false, 0}},
         4,
         NULL},
        {"type: lamb",
         {{0, 6, 1, true, 0}, {6, 2, 1, true, 0}, {8, 4, 1, true, 0}, {12, 1, 1, true, 0}},
         4,
         NULL},
        {"layers: {to: {lr_factor: 1}}",
         {{0}},
         0,
         "model.yml:1: layers.to: expected the name of a layer with parameters, got 'to'"},
        {"layers: {top: {lr_facter: 1}}",
         {{0}},
         0,
         "unknown key 'layers.top.lr_facter' (did you mean 'layers.top.lr_factor'?)"},
        {"layers: {top: {lr_factor: -1}}", {{0}}, 0, "layers.top.lr_factor: expected a number"},
        {"layers: {top: 0.5}", {{0}}, 0, "model.yml:1: layers.top: expected a map"},
        {"layers: [top]", {{0}}, 0, "layers: expected a map"},
        {"{type: adamw, weight_decay_on: weights}",
         {{0}},
         0,
         "weight_decay_on: expected all|matrices"},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_yaml *yaml = yaml_of(row[i].text);
        struct tr_optimizer_conf conf = {.kind = TR_ADAM};
        struct tr_span got[ARRAY_LEN(tensor)];
        size_t n = 0;
        double rate;
        assert_int_equal(tr_parse_optimizer(rt_yaml_root(yaml), &conf, &rate), 0);
        int err = tr_parse_spans(rt_yaml_root(yaml), &conf, tensor, ARRAY_LEN(tensor), got, &n);
        check(row[i].text, err, row[i].want);
        if (!err && n != row[i].n)
            fail_msg("%s: %zu spans, want %zu", row[i].text, n, row[i].n);
        for (size_t k = 0; !err && k < n; k++)
            if (got[k].offset != row[i].span[k].offset || got[k].count != row[i].span[k].count ||
                got[k].lr_factor != row[i].span[k].lr_factor ||
                got[k].decays != row[i].span[k].decays || got[k].momentum != 0)
                fail_msg("%s: span %zu is another", row[i].text, k);
        rt_yaml_destroy(yaml);
    }
    struct tr_optimizer_conf conf = {.kind = TR_ADAM};
    size_t n = 7;
    assert_int_equal(tr_parse_spans(NULL, &conf, tensor, 0, NULL, &n), 0);
    assert_int_equal(n, 0);
}

/* Running averages are spans of their own, whatever the optimizer does with parameters. */
static void test_running_averages(void **state)
{
    (void)state;
    static const struct tr_param with[] = {
        {.name = "n.weight", .rank = 1, .offset = 0, .count = 4},
        {.name = "n.running_mean", .rank = 1, .offset = 4, .count = 4, .momentum = 0.1},
        {.name = "n.running_var", .rank = 1, .offset = 8, .count = 4, .momentum = 0.1},
        {.name = "o.running_mean", .rank = 1, .offset = 12, .count = 2, .momentum = 0.5},
        {.name = "o.bias", .rank = 1, .offset = 14, .count = 2},
    };
    static const struct tr_span want[] = {
        {0, 4, 1, true, 0}, {4, 8, 1, true, 0.1}, {12, 2, 1, true, 0.5}, {14, 2, 1, true, 0}};
    const struct tr_optimizer_conf conf = {.kind = TR_ADAM};
    struct tr_span got[ARRAY_LEN(with)];
    size_t n = 0;
    assert_int_equal(tr_parse_spans(NULL, &conf, with, ARRAY_LEN(with), got, &n), 0);
    assert_int_equal(n, ARRAY_LEN(want));
    for (size_t k = 0; k < n; k++)
        assert_true(got[k].offset == want[k].offset && got[k].count == want[k].count &&
                    got[k].momentum == want[k].momentum);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_optimizer),
        cmocka_unit_test(test_schedule),
        cmocka_unit_test(test_spans),
        cmocka_unit_test(test_running_averages),
    };
    return cmocka_run_group_tests_name("optimizer_conf", tests, NULL, NULL);
}
