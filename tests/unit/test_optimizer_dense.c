/* tests/unit/test_optimizer_dense.c -- five steps of each optimizer against PyTorch on every instruction set;
 * refused gradients and settings. Tolerance 1e-6 of max(1, |want|). */
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

#define LEARNING_RATE 0.1
#define STEPS         5

static struct tr_optimizer *create(const struct tr_optimizer_conf *conf, size_t n)
{
    struct tr_optimizer *optimizer = NULL;
    if (tr_optimizer_create(conf, n, &optimizer))
        fail_msg("%s", rt_err_text());
    return optimizer;
}

static void against_torch(const struct golden *golden, const char *name,
                          const struct tr_optimizer_conf *conf)
{
    const struct golden_array *start = golden_get(golden, name, "param");
    float param[64];
    rt_assert(start && start->n <= ARRAY_LEN(param));
    memcpy(param, start->value, start->n * sizeof *param);
    struct tr_optimizer *optimizer = create(conf, start->n);
    for (int t = 1; t <= STEPS; t++) {
        const float *grad = golden_get(golden, name, "grad.%d", t)->value;
        assert_int_equal(tr_optimizer_step(optimizer, LEARNING_RATE, grad, param), 0);
        assert_close(name, param, golden_get(golden, name, "param.%d", t)->value, start->n, 1e-6);
    }
    assert_int_equal(tr_optimizer_steps(optimizer), STEPS);
    tr_optimizer_destroy(optimizer);
}

static void test_torch(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct tr_optimizer_conf conf;
    } row[] = {
        {"sgd", {.kind = TR_SGD}},
        {"momentum", {.kind = TR_SGD, .momentum = 0.9, .weight_decay = 0.01}},
        {"adagrad", {.kind = TR_ADAGRAD, .eps = 1e-10, .initial_accumulator = 0.1}},
        {"adam",
         {.kind = TR_ADAM, .eps = 1e-8, .beta1 = 0.9, .beta2 = 0.999, .weight_decay = 0.01}},
    };
    enum rt_isa best = rt_cpu_isa();
    struct golden *golden = rt_xcalloc(1, sizeof *golden);
    golden_load(golden);
    for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (size_t i = 0; i < ARRAY_LEN(row); i++)
            against_torch(golden, row[i].name, &row[i].conf);
    }
    rt_cpu_set_isa(best);
    golden_release(golden);
    rt_free(golden);
}

/* All lengths around a register: the same bits in every instruction set, nothing past the end. */
static void test_same_bits(void **state)
{
    (void)state;
    static const char *const name[] = {"sgd", "adagrad", "adam", "adamw", "lamb"};
    enum { N = 35 };
    enum rt_isa best = rt_cpu_isa();
    for (size_t k = 0; k < ARRAY_LEN(name) * N; k++) {
        size_t n = k / ARRAY_LEN(name) + 1;
        float want[N + 1], param[N + 1], grad[N];
        struct tr_optimizer_conf conf;
        tr_optimizer_defaults(name[k % ARRAY_LEN(name)], &conf);
        conf.clip_norm = k % 2;
        for (int isa = RT_ISA_PLAIN; isa <= (int)best; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            struct tr_optimizer *optimizer = create(&conf, n);
            for (size_t i = 0; i <= N; i++)
                param[i] = rt_normal_f32(rt_draw(1, i));
            for (uint64_t t = 0; t < 3; t++) {
                for (size_t i = 0; i < N; i++)
                    grad[i] = rt_normal_f32(rt_draw(2 + t, i));
                assert_int_equal(tr_optimizer_step(optimizer, 0.01, grad, param), 0);
            }
            assert_true(param[n] == rt_normal_f32(rt_draw(1, n)));
            if (isa == RT_ISA_PLAIN)
                memcpy(want, param, sizeof want);
            assert_memory_equal(param, want, sizeof want);
            tr_optimizer_destroy(optimizer);
        }
    }
    rt_cpu_set_isa(best);
}

static void test_not_finite(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    struct tr_optimizer_conf conf;
    tr_optimizer_defaults("adam", &conf);
    struct tr_optimizer *optimizer = create(&conf, 33);
    float param[33], keep[33], grad[33], state_keep[66];
    size_t count = 0;
    for (size_t i = 0; i < 33; i++)
        param[i] = grad[i] = (float)i + 1;
    assert_int_equal(tr_optimizer_step(optimizer, 0.1, grad, param), 0);
    float *slots = tr_optimizer_state(optimizer, &count);
    assert_int_equal(count, 66);
    memcpy(keep, param, sizeof keep);
    memcpy(state_keep, slots, sizeof state_keep);
    for (size_t i = 0; i < 33; i++) {
        grad[i] = bad[i % 3];
        assert_int_equal(tr_optimizer_step(optimizer, 0.1, grad, param), RT_EDATA);
        char want[40];
        snprintf(want, sizeof want, "gradient %zu of 33", i);
        assert_non_null(strstr(rt_err_text(), want));
        grad[i] = 1;
    }
    assert_int_equal(tr_optimizer_step(optimizer, NAN, grad, param), RT_EDATA);
    assert_memory_equal(param, keep, sizeof keep);
    assert_memory_equal(slots, state_keep, sizeof state_keep);
    assert_int_equal(tr_optimizer_steps(optimizer), 1);
    tr_optimizer_destroy(optimizer);
}

/* Averages between parameters: they move by their momentum alone, and the parameters as if they were not there, though they are
 * far larger than clip_norm. */
static void test_running_averages(void **state)
{
    (void)state;
    static const char *const names[] = {"sgd", "adagrad", "adam", "adamw", "lamb"};
    static const struct tr_span span[] = {
        {0, 5, 1, true, 0}, {5, 3, 0, true, 0.25}, {8, 4, 1, true, 0}};
    static const struct tr_span without[] = {{0, 5, 1, true, 0}, {8, 4, 1, true, 0}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct tr_optimizer *some = NULL, *all = NULL;
        struct tr_optimizer_conf conf;
        float param[12], other[12], grad[12];
        assert_int_equal(tr_optimizer_defaults(names[i], &conf), 0);
        conf.weight_decay = 0.1;
        conf.clip_norm = 0.5;
        assert_int_equal(tr_optimizer_create_spans(&conf, 12, span, 3, &some), 0);
        assert_int_equal(tr_optimizer_create_spans(&conf, 12, without, 2, &all), 0);
        for (size_t k = 0; k < 12; k++) {
            param[k] = other[k] = (float)k - 4;
            grad[k] = k >= 5 && k < 8 ? 1000 : 1 - 0.25f * (float)k;
        }
        for (int step = 0; step < 3; step++) {
            float want = param[6] + 0.25f * 1000;
            assert_int_equal(tr_optimizer_step(some, 0.1, grad, param), 0);
            assert_int_equal(tr_optimizer_step(all, 0.1, grad, other), 0);
            assert_true(param[6] == want);
            assert_true(tr_optimizer_grad_norm(some) == tr_optimizer_grad_norm(all));
        }
        assert_memory_equal(param, other, 5 * sizeof *param);
        assert_memory_equal(param + 8, other + 8, 4 * sizeof *param);
        grad[7] = INFINITY;
        assert_int_equal(tr_optimizer_step(some, 0.1, grad, param), RT_EDATA);
        tr_optimizer_destroy(some);
        tr_optimizer_destroy(all);
    }
}

/* State and step count put into a fresh optimizer: it goes on with the same bits. */
static void test_restore(void **state)
{
    (void)state;
    static const char *const name[] = {"sgd", "adagrad", "adam", "adamw", "lamb"};
    for (size_t k = 0; k < ARRAY_LEN(name); k++) {
        struct tr_optimizer_conf conf;
        tr_optimizer_defaults(name[k], &conf);
        conf.momentum = conf.kind == TR_SGD ? 0.5 : 0;
        conf.clip_norm = 1;
        struct tr_optimizer *a = create(&conf, 5), *b = create(&conf, 5);
        float grad[5] = {1, -2, 3, 0, 1e-20f}, p[5] = {1, 2, 3, 4, 5}, q[5];
        for (int t = 0; t < 3; t++)
            assert_int_equal(tr_optimizer_step(a, 0.1, grad, p), 0);
        size_t n = 0, m = 0;
        const float *from = tr_optimizer_state(a, &n);
        float *to = tr_optimizer_state(b, &m);
        assert_int_equal(n, m);
        memcpy(to, from, n * sizeof *to);
        tr_optimizer_set_steps(b, tr_optimizer_steps(a));
        memcpy(q, p, sizeof q);
        assert_int_equal(tr_optimizer_step(a, 0.1, grad, p), 0);
        assert_int_equal(tr_optimizer_step(b, 0.1, grad, q), 0);
        assert_memory_equal(p, q, sizeof p);
        assert_true(strlen(tr_optimizer_slot_name(a, 0)) > 2);
        tr_optimizer_destroy(a);
        tr_optimizer_destroy(b);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *want;
        struct tr_optimizer_conf conf;
    } row[] = {
        {"momentum", {.kind = TR_SGD, .momentum = 1}},
        {"momentum", {.kind = TR_SGD, .momentum = -0.1}},
        {"eps", {.kind = TR_ADAGRAD}},
        {"eps", {.kind = TR_ADAM, .eps = NAN}},
        {"eps", {.kind = TR_ADAM, .eps = INFINITY}},
        {"beta1", {.kind = TR_ADAM, .eps = 1, .beta1 = 1}},
        {"beta2", {.kind = TR_ADAM, .eps = 1, .beta2 = 1}},
        {"initial_accumulator", {.kind = TR_ADAGRAD, .eps = 1, .initial_accumulator = -1}},
        {"weight_decay", {.kind = TR_SGD, .weight_decay = -1}},
        {"clip_norm", {.kind = TR_SGD, .clip_norm = -1}},
        {"optimizer adamw: eps", {.kind = TR_ADAMW}},
        {"optimizer lamb: beta2", {.kind = TR_LAMB, .eps = 1, .beta2 = 1}},
    };
    struct tr_optimizer *optimizer = NULL;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        assert_int_equal(tr_optimizer_create(&row[i].conf, 4, &optimizer), RT_EUSAGE);
        if (!strstr(rt_err_text(), row[i].want))
            fail_msg("%zu: %s", i, rt_err_text());
    }
    struct tr_optimizer_conf conf = {.kind = TR_ADAM, .eps = 1};
    assert_int_equal(tr_optimizer_create(&conf, SIZE_MAX / 4, &optimizer), RT_ENOMEM);
    assert_int_equal(tr_optimizer_defaults("lam", &conf), RT_EUSAGE);
    assert_null(optimizer);
    int err = RT_ENOMEM, faults = 0;
    for (int nth = 0; err; nth++) {
        rt_fault_alloc(nth);
        err = tr_optimizer_create(&conf, 4, &optimizer);
        rt_fault_alloc(-1);
        assert_true(err == 0 || (err == RT_ENOMEM && !optimizer));
        faults += err != 0;
    }
    assert_int_equal(faults, 2); /* state, spans */
    tr_optimizer_destroy(optimizer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_torch),      cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_restore),
        cmocka_unit_test(test_refused),    cmocka_unit_test(test_running_averages),
    };
    return cmocka_run_group_tests_name("optimizer_dense", tests, NULL, NULL);
}
