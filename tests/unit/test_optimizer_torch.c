/* tests/unit/test_optimizer_torch.c -- five steps over two layers, with factors of layers, decay of matrices only and
 * clipping, and LAMB, against tests/golden/dense_optimizers.txt on every instruction set; schedules against torch's.
 * Tolerance 1e-6 of max(1, |want|). What clipping and spans must not do. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "tests/unit/dense_golden.h"
#include "trainer/optimizer.h"
#include "trainer/schedule.h"

#define GOLDEN_FILE "tests/golden/dense_optimizers.txt"
enum { PARAMS = 58, STEPS = 5 };

static struct golden *load(void)
{
    struct golden *golden = rt_xcalloc(1, sizeof *golden);
    golden_load_from(golden, GOLDEN_FILE);
    return golden;
}

/* one.weight, one.bias, two.weight, two.bias of the fixture. */
static const size_t tensor[] = {0, 35, 40, 55, PARAMS};

static struct tr_optimizer *create(const struct tr_optimizer_conf *conf, bool layers)
{
    struct tr_optimizer *optimizer = NULL;
    struct tr_span span[4];
    for (size_t i = 0; i < 4; i++)
        span[i] = (struct tr_span){.offset = tensor[i],
                                   .count = tensor[i + 1] - tensor[i],
                                   .lr_factor = layers && i >= 2 ? 0.25 : 1,
                                   .decays = !layers || i % 2 == 0};
    int err = layers || conf->kind == TR_LAMB
                  ? tr_optimizer_create_spans(conf, PARAMS, span, 4, &optimizer)
                  : tr_optimizer_create(conf, PARAMS, &optimizer);
    if (err)
        fail_msg("%s", rt_err_text());
    return optimizer;
}

static void five_steps(const struct golden *golden, const char *name,
                       const struct tr_optimizer_conf *conf)
{
    struct tr_optimizer *optimizer = create(conf, strstr(name, "_layers") != NULL);
    float param[PARAMS];
    memcpy(param, golden_get(golden, "inputs", "param")->value, sizeof param);
    for (int t = 1; t <= STEPS; t++) {
        const float *grad = golden_get(golden, "inputs", "grad.%d", t)->value;
        assert_int_equal(tr_optimizer_step(optimizer, 0.1, grad, param), 0);
        if (t == 1 || t == STEPS)
            assert_close(name, param, golden_get(golden, name, "param.%d", t)->value, PARAMS, 1e-6);
    }
    tr_optimizer_destroy(optimizer);
}

static void test_steps(void **state)
{
    (void)state;
    static const struct {
        const char *name, *kind;
        double momentum, weight_decay, clip_norm;
    } row[] = {
        {"sgd_layers", "sgd", 0, 0.02, 0},
        {"momentum_layers_clip", "sgd", 0.9, 0.02, 1.5},
        {"adagrad_layers", "adagrad", 0, 0.02, 0},
        {"adam_layers_clip", "adam", 0, 0.02, 1.5},
        {"adamw", "adamw", 0, 0.05, 0},
        {"adamw_layers", "adamw", 0, 0.05, 0},
        {"adamw_clip", "adamw", 0, 0.05, 1.5},
        {"lamb", "lamb", 0, 0.01, 0},
        {"lamb_no_decay", "lamb", 0, 0, 0},
        {"lamb_layers_clip", "lamb", 0, 0.05, 1.5},
    };
    enum rt_isa best = rt_cpu_isa();
    struct golden *golden = load();
    for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (size_t i = 0; i < ARRAY_LEN(row); i++) {
            struct tr_optimizer_conf conf;
            assert_int_equal(tr_optimizer_defaults(row[i].kind, &conf), 0);
            conf.momentum = row[i].momentum;
            conf.weight_decay = row[i].weight_decay;
            conf.clip_norm = row[i].clip_norm;
            five_steps(golden, row[i].name, &conf);
        }
    }
    rt_cpu_set_isa(best);
    golden_release(golden);
    rt_free(golden);
}

static void test_schedules(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct tr_schedule schedule;
    } row[] = {
        {"constant_warmup", {.warmup = 7, .warmup_start = 0.001}},
        {"linear", {.kind = TR_SCHEDULE_LINEAR, .steps = 20, .final = 0.1}},
        {"linear_warmup",
         {.kind = TR_SCHEDULE_LINEAR, .warmup = 5, .warmup_start = 0.25, .steps = 20}},
        {"cosine", {.kind = TR_SCHEDULE_COSINE, .steps = 20}},
        {"cosine_warmup",
         {.kind = TR_SCHEDULE_COSINE,
          .warmup = 4,
          .warmup_start = 0.001,
          .steps = 20,
          .final = 0.05}},
        {"step", {.kind = TR_SCHEDULE_STEP, .every = 4, .gamma = 0.5}},
        {"step_warmup",
         {.kind = TR_SCHEDULE_STEP, .warmup = 3, .warmup_start = 0.001, .every = 3, .gamma = 0.1}},
    };
    struct golden *golden = load();
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        const struct golden_array *want = golden_get(golden, row[i].name, "factor");
        assert_int_equal(tr_schedule_check(&row[i].schedule), 0);
        for (size_t s = 0; s < want->n; s++) {
            float got = (float)tr_schedule_factor(&row[i].schedule, s + 1);
            if (fabsf(got - want->value[s]) > 1e-7f)
                fail_msg("%s: step %zu: got %.9g, want %.9g", row[i].name, s + 1, (double)got,
                         (double)want->value[s]);
        }
    }
    golden_release(golden);
    rt_free(golden);
}

/* Any schedule, any step: within its bounds, falling behind the warm-up, the last value from `steps` on. */
static void test_schedule_bounds(void **state)
{
    (void)state;
    const uint64_t seed = 20261123;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < 500; i++) {
        uint64_t key = rt_draw_key(seed + i, "schedule", NULL);
        struct tr_schedule s = {
            .kind = (enum tr_schedule_kind)rt_below(rt_draw(key, 0), 4),
            .warmup = rt_below(rt_draw(key, 1), 50),
            .warmup_start = (double)rt_unit_f32(rt_draw(key, 2)),
            .final = (double)rt_unit_f32(rt_draw(key, 3)),
            .every = 1 + rt_below(rt_draw(key, 4), 20),
            .gamma = (double)rt_unit_f32(rt_draw(key, 5)),
        };
        s.steps = s.warmup + 1 + rt_below(rt_draw(key, 6), 100);
        assert_int_equal(tr_schedule_check(&s), 0);
        double before = 0;
        for (uint64_t step = 1; step < s.steps + 50; step++) {
            double factor = tr_schedule_factor(&s, step);
            bool rises = step <= s.warmup + 1;
            assert_true(factor >= 0 && factor <= 1);
            assert_true(rises ? factor >= before : factor <= before);
            before = factor;
        }
        if (s.kind == TR_SCHEDULE_LINEAR || s.kind == TR_SCHEDULE_COSINE)
            assert_true(fabs(before - s.final) < 1e-6);
        assert_true(tr_schedule_factor(&s, UINT64_MAX) >= 0);
    }
}

static void test_schedule_refused(void **state)
{
    (void)state;
    static const struct {
        const char *want;
        struct tr_schedule schedule;
    } row[] = {
        {"schedule constant: warmup_start: expected 0..1, got 2", {.warmup_start = 2}},
        {"final: expected 0..1, got nan", {.kind = TR_SCHEDULE_COSINE, .steps = 1, .final = NAN}},
        {"gamma: expected 0..1, got -1", {.kind = TR_SCHEDULE_STEP, .every = 1, .gamma = -1}},
        {"schedule step: every: expected at least 1", {.kind = TR_SCHEDULE_STEP, .gamma = 0.5}},
        {"schedule linear: steps: expected more than the 9 of the warm-up, got 9",
         {.kind = TR_SCHEDULE_LINEAR, .warmup = 9, .steps = 9}},
        {"schedule cosine: steps: expected more than the 0", {.kind = TR_SCHEDULE_COSINE}},
        {"expected at most", {.warmup = TR_SCHEDULE_STEPS_MAX + 1}},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        assert_int_equal(tr_schedule_check(&row[i].schedule), RT_EUSAGE);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("%zu: %s", i, rt_err_text());
    }
}

/* A job that goes on where the factor is 0 would learn nothing. */
static void test_schedule_start(void **state)
{
    (void)state;
    static const struct {
        uint64_t before;
        const char *want; /* NULL: it begins */
        struct tr_schedule schedule;
    } row[] = {
        {176, NULL, {0}},
        {175, NULL, {.kind = TR_SCHEDULE_LINEAR, .steps = 176}},
        {176,
         "model.yml: schedule.steps: expected more than the 176 steps that the saved model has "
         "made, got 176; or global.load_state=false",
         {.kind = TR_SCHEDULE_LINEAR, .steps = 176}},
        {176,
         "than the 176 steps that the saved model has made, got 90; or",
         {.kind = TR_SCHEDULE_COSINE, .steps = 90, .warmup = 5}},
        {176, NULL, {.kind = TR_SCHEDULE_COSINE, .steps = 90, .final = 0.01}},
        {0, NULL, {.kind = TR_SCHEDULE_LINEAR, .steps = 90, .warmup = 5}}, /* from 0 */
        {9, NULL, {.kind = TR_SCHEDULE_STEP, .every = 10}},
        {10,
         "model.yml: schedule.final: expected more than 0 behind the 10 steps that the saved "
         "model has made, got 0; or global.load_state=false",
         {.kind = TR_SCHEDULE_STEP, .every = 10}},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        int err = tr_schedule_check_start(&row[i].schedule, row[i].before);
        if (err != (row[i].want ? RT_EUSAGE : 0) || (err && !strstr(rt_err_text(), row[i].want)))
            fail_msg("%zu: %d %s", i, err, err ? rt_err_text() : "");
    }
}

/* A norm under the limit changes no bit; the norm is told; it has the same bits on every instruction set. */
static void test_clip(void **state)
{
    (void)state;
    enum rt_isa best = rt_cpu_isa();
    float grad[PARAMS], plain[PARAMS], clipped[PARAMS];
    for (size_t n = 1; n <= PARAMS; n++) {
        double sum = 0, norm = 0;
        for (size_t i = 0; i < n; i++) {
            grad[i] = rt_normal_f32(rt_draw(n, i));
            plain[i] = clipped[i] = 1;
            sum += (double)grad[i] * grad[i];
        }
        for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
            struct tr_optimizer *a = NULL, *b = NULL;
            struct tr_optimizer_conf conf = {.kind = TR_SGD};
            rt_cpu_set_isa((enum rt_isa)isa);
            assert_int_equal(tr_optimizer_create(&conf, n, &a), 0);
            conf.clip_norm = sqrt(sum) * 1.001 + 1e-5;
            assert_int_equal(tr_optimizer_create(&conf, n, &b), 0);
            assert_true(isnan(tr_optimizer_grad_norm(b)));
            assert_int_equal(tr_optimizer_step(a, 0.1, grad, plain), 0);
            assert_int_equal(tr_optimizer_step(b, 0.1, grad, clipped), 0);
            assert_memory_equal(plain, clipped, n * sizeof *plain);
            assert_true(tr_optimizer_grad_norm(a) == tr_optimizer_grad_norm(b));
            assert_true(fabs(tr_optimizer_grad_norm(b) - sqrt(sum)) <= 1e-14 * sqrt(sum));
            assert_true(isa == RT_ISA_PLAIN || tr_optimizer_grad_norm(b) == norm);
            norm = tr_optimizer_grad_norm(b);
            tr_optimizer_destroy(a);
            tr_optimizer_destroy(b);
        }
    }
    rt_cpu_set_isa(best);
}

/* What is in no span stays and counts in no norm; factor 0 stays; what lies beside a span is not touched. */
static void test_spans(void **state)
{
    (void)state;
    for (int kind = TR_SGD; kind < TR_OPTIMIZERS; kind++) {
        struct tr_span span[] = {{.offset = 1, .count = 3, .lr_factor = 1},
                                 {.offset = 5, .count = 18, .lr_factor = 0},
                                 {.offset = 23, .count = 2, .lr_factor = 0.5, .decays = true}};
        struct tr_optimizer_conf conf;
        struct tr_optimizer *optimizer = NULL;
        float param[26], grad[26];
        assert_int_equal(
            tr_optimizer_defaults(tr_optimizer_name((enum tr_optimizer_kind)kind), &conf), 0);
        conf.clip_norm = 1;
        assert_int_equal(tr_optimizer_create_spans(&conf, 26, span, ARRAY_LEN(span), &optimizer),
                         0);
        for (size_t i = 0; i < 26; i++) {
            param[i] = 2;
            grad[i] = 0;
        }
        grad[0] = grad[4] = grad[25] = 1000;
        grad[1] = grad[23] = 3;
        grad[6] = 4;
        assert_int_equal(tr_optimizer_step(optimizer, 0.1, grad, param), 0);
        assert_true(fabs(tr_optimizer_grad_norm(optimizer) - sqrt(9 + 9 + 16)) < 1e-12);
        for (size_t i = 0; i < 26; i++)
            if ((i < 1 || i > 1) && i != 23 && i != 24)
                assert_true(param[i] == 2);
        assert_true(param[1] < 2 && param[23] < 2 && param[1] < param[23]);
        tr_optimizer_destroy(optimizer);
    }
}

/* LAMB where a norm is 0 or nearly so: steps stay finite. */
static void test_lamb_edges(void **state)
{
    (void)state;
    static const float start[] = {0, 1e-30f, 1, 1e30f}, slope[] = {0, 1e-38f, 1e-20f, 1, 1e18f};
    struct tr_optimizer_conf conf;
    tr_optimizer_defaults("lamb", &conf);
    conf.weight_decay = 0;
    for (size_t k = 0; k < ARRAY_LEN(start) * ARRAY_LEN(slope); k++) {
        struct tr_optimizer *optimizer = NULL;
        float param[3], grad[3];
        for (size_t i = 0; i < 3; i++) {
            param[i] = start[k % ARRAY_LEN(start)];
            grad[i] = slope[k / ARRAY_LEN(start)];
        }
        assert_int_equal(tr_optimizer_create(&conf, 3, &optimizer), 0);
        for (int t = 0; t < 3; t++) {
            assert_int_equal(tr_optimizer_step(optimizer, 0.1, grad, param), 0);
            if (!isfinite(param[0]) || !isfinite(param[2]))
                fail_msg("start %g, gradient %g: %g", (double)start[k % ARRAY_LEN(start)],
                         (double)grad[0], (double)param[0]);
        }
        if (grad[0] == 0)
            assert_true(param[0] == start[k % ARRAY_LEN(start)]);
        tr_optimizer_destroy(optimizer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_steps),           cmocka_unit_test(test_schedules),
        cmocka_unit_test(test_schedule_bounds), cmocka_unit_test(test_schedule_refused),
        cmocka_unit_test(test_schedule_start),  cmocka_unit_test(test_clip),
        cmocka_unit_test(test_spans),           cmocka_unit_test(test_lamb_edges),
    };
    return cmocka_run_group_tests_name("optimizer_torch", tests, NULL, NULL);
}
