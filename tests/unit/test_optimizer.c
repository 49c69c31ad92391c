/* tests/unit/test_optimizer.c -- formulas against PyTorch, and equal bits on every instruction set. */
#include "embedding_server/optimizer.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "tests/golden/sparse_optimizers.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define DIM_MAX 80

static void formulas_are_pytorchs(void **test)
{
    static const struct {
        const char *name;
        struct ebs_optimizer_conf conf;
        const float *want;
    } row[] = {
        {"sgd", {.kind = EBS_OPTIMIZER_SGD, .weight_decay = 0.01f}, golden_sgd},
        {"adagrad",
         {.kind = EBS_OPTIMIZER_ADAGRAD, .eps = 1e-10f, .initial_accumulator = 0.1f},
         golden_adagrad},
        {"rowwise adagrad",
         {.kind = EBS_OPTIMIZER_ROWWISE_ADAGRAD, .eps = 1e-8f, .initial_accumulator = 0.1f},
         golden_rowwise_adagrad},
        {"rowwise adagrad, weight decay",
         {.kind = EBS_OPTIMIZER_ROWWISE_ADAGRAD,
          .eps = 1e-8f,
          .initial_accumulator = 0.1f,
          .weight_decay = 0.01f},
         golden_rowwise_adagrad_decay},
        {"adam",
         {.kind = EBS_OPTIMIZER_ADAM, .eps = 1e-8f, .beta1 = 0.9f, .beta2 = 0.999f},
         golden_adam},
    };

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        float w[GOLDEN_DIM], state[2 * GOLDEN_DIM];

        memcpy(w, golden_weight, sizeof(w));
        ebs_optimizer_state_fill(&row[i].conf, state, GOLDEN_DIM);
        for (size_t k = 0; k < GOLDEN_STEPS; k++) {
            struct ebs_step step =
                ebs_optimizer_step(&row[i].conf, golden_lr[k], golden_adam_step[k]);

            ebs_optimizer_plain.row[row[i].conf.kind](&step, w, state, &golden_grad[k * GOLDEN_DIM],
                                                      GOLDEN_DIM);
        }
        for (size_t j = 0; j < GOLDEN_DIM; j++)
            if (!(fabsf(w[j] - row[i].want[j]) <= 1e-6f + 1e-5f * fabsf(row[i].want[j])))
                fail_msg("%s: element %zu: got %.9g, want %.9g", row[i].name, j, (double)w[j],
                         (double)row[i].want[j]);
    }
}

static void random_floats(float *out, size_t n, uint64_t key)
{
    for (size_t j = 0; j < n; j++)
        out[j] = (rt_unit_f32(rt_draw(key, 2 * j)) - 0.5f) *
                 ldexpf(1.0f, (int)rt_below(rt_draw(key, 2 * j + 1), 30) - 15);
}

static void compare_isa(const struct ebs_optimizer_loops *loops, const char *name)
{
    struct ebs_optimizer_conf conf = {.weight_decay = 0.001f,
                                      .eps = 1e-6f,
                                      .initial_accumulator = 0.01f,
                                      .beta1 = 0.9f,
                                      .beta2 = 0.99f};

    for (unsigned kind = 0; kind < EBS_OPTIMIZER_KINDS; kind++) {
        conf.kind = (enum ebs_optimizer_kind)kind;
        for (size_t dim = 1; dim <= DIM_MAX; dim++) {
            float got[3 * DIM_MAX], want[3 * DIM_MAX], g[DIM_MAX];

            random_floats(want, dim, rt_draw(kind, dim));
            ebs_optimizer_state_fill(&conf, want + dim, dim);
            memcpy(got, want, sizeof(got));
            for (uint64_t t = 1; t <= 5; t++) {
                struct ebs_step step = ebs_optimizer_step(&conf, 0.05f, t);

                random_floats(g, dim, rt_draw(t * 100 + kind, dim));
                ebs_optimizer_plain.row[kind](&step, want, want + dim, g, dim);
                loops->row[kind](&step, got, got + dim, g, dim);
            }
            if (memcmp(got, want, (dim + ebs_optimizer_state_count(&conf, dim)) * sizeof(float)))
                fail_msg("%s: kind %u dim %zu differs from plain", name, kind, dim);
        }
    }
}

static void every_isa_gives_the_bits_of_plain(void **test)
{
    (void)test;
    if (rt_cpu_isa() >= RT_ISA_AVX2)
        compare_isa(&ebs_optimizer_avx2, "avx2");
    else
        printf("skipped: no AVX2 here\n");
    if (rt_cpu_isa() >= RT_ISA_AVX512)
        compare_isa(&ebs_optimizer_avx512, "avx512");
    else
        printf("skipped: no AVX-512 here\n");
}

static void one_bad_value_spoils_a_gradient(void **test)
{
    static const struct {
        const char *name;
        float value;
        bool usable;
    } row[] = {
        {"zero", 0.0f, true},
        {"minus zero", -0.0f, true},
        {"at the limit", EBS_GRADIENT_MAX, true},
        {"at the negative limit", -EBS_GRADIENT_MAX, true},
        {"over the limit", 1.0001e15f, false},
        {"infinity", INFINITY, false},
        {"minus infinity", -INFINITY, false},
        {"nan", NAN, false},
        {"minus nan", -NAN, false},
        {"denormal", 1e-42f, true},
    };
    const struct ebs_optimizer_loops *loops[] = {&ebs_optimizer_plain, ebs_optimizer_select()};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (size_t l = 0; l < ARRAY_LEN(loops); l++) {
            for (size_t dim = 1; dim <= 40; dim++) {
                float g[40] = {0};

                g[(dim * 7) % dim] = row[i].value;
                g[dim - 1] = row[i].value;
                if (loops[l]->usable(g, dim) != row[i].usable)
                    fail_msg("%s: dim %zu, loops %zu", row[i].name, dim, l);
            }
        }
    }
}

static void wrong_numbers_are_named(void **test)
{
    static const struct {
        struct ebs_optimizer_conf conf;
        const char *word;
    } row[] = {
        {{.kind = (enum ebs_optimizer_kind)99}, "optimizer"},
        {{.kind = EBS_OPTIMIZER_SGD, .weight_decay = -1.0f}, "weight_decay"},
        {{.kind = EBS_OPTIMIZER_SGD, .weight_decay = NAN}, "weight_decay"},
        {{.kind = EBS_OPTIMIZER_ADAGRAD, .eps = -1.0f}, "eps"},
        {{.kind = EBS_OPTIMIZER_ADAGRAD, .eps = 0.0f}, "eps"},
        {{.kind = EBS_OPTIMIZER_ADAGRAD, .eps = 1.0f, .initial_accumulator = INFINITY},
         "initial_accumulator"},
        {{.kind = EBS_OPTIMIZER_ADAM, .eps = 1.0f, .beta1 = 1.0f}, "betas"},
        {{.kind = EBS_OPTIMIZER_ADAM, .eps = 1.0f, .beta2 = NAN}, "betas"},
    };

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        assert_int_equal(ebs_optimizer_check(&row[i].conf, "colours"), RT_EUSAGE);
        if (!strstr(rt_err_text(), row[i].word) || !strstr(rt_err_text(), "colours"))
            fail_msg("row %zu: message does not name %s: %s", i, row[i].word, rt_err_text());
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(formulas_are_pytorchs),
        cmocka_unit_test(every_isa_gives_the_bits_of_plain),
        cmocka_unit_test(one_bad_value_spoils_a_gradient),
        cmocka_unit_test(wrong_numbers_are_named),
    };

    return cmocka_run_group_tests_name("optimizer", tests, NULL, NULL);
}
