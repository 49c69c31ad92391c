/* tests/unit/test_init.c -- initial values: pure, distributed as told, different where they must be. */
#include "embedding_server/init.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define DIM  16
#define ROWS 20000

static const struct ebs_init_conf uniform = {
    .kind = EBS_INIT_UNIFORM, .low = -0.02f, .high = 0.06f};
static const struct ebs_init_conf normal = {.kind = EBS_INIT_NORMAL, .mean = 0.5f, .std = 2.0f};
static const struct ebs_init_conf constant = {.kind = EBS_INIT_CONSTANT, .value = 0.25f};

static struct ebs_init prepare(const struct ebs_init_conf *conf, uint64_t seed, const char *table)
{
    struct ebs_init init;

    assert_int_equal(ebs_init_prepare(&init, conf, seed, table), 0);
    return init;
}

static void a_pure_function(void **test)
{
    const struct ebs_init_conf *conf[] = {&uniform, &normal, &constant};

    (void)test;
    for (size_t c = 0; c < ARRAY_LEN(conf); c++) {
        struct ebs_init a = prepare(conf[c], 7, "users"), b = prepare(conf[c], 7, "users");
        float want[DIM], got[DIM], shorter[DIM / 2];

        for (uint64_t id = 0; id < 100; id++) {
            ebs_init_fill(&a, ~id, want, DIM);
            ebs_init_fill(&b, id, got, DIM); /* another row in between changes nothing */
            ebs_init_fill(&b, ~id, got, DIM);
            assert_memory_equal(want, got, sizeof(want));
            ebs_init_fill(&a, ~id, shorter, DIM / 2);
            assert_memory_equal(want, shorter, sizeof(shorter));
        }
    }
}

/* Values that tables on disk depend on: they may never change. */
static void the_values_are_fixed(void **test)
{
    struct ebs_init u = prepare(&uniform, 1, "t"), n = prepare(&normal, 1, "t");
    float got[4];

    (void)test;
    ebs_init_fill(&u, 0, got, 2);
    ebs_init_fill(&n, UINT64_MAX, got + 2, 2);
    if (got[0] != 0x1.964264p-6f || got[1] != -0x1.1677e6p-6f)
        fail_msg("uniform: got %a %a", (double)got[0], (double)got[1]);
    if (fabsf(got[2] - -0x1.f59384p-1f) > 1e-6f || fabsf(got[3] - 0x1.26a48cp+1f) > 1e-6f)
        fail_msg("normal: got %a %a", (double)got[2], (double)got[3]);
}

/* Every instruction set gives the same bits, and they are those of the generator's definition. */
static void every_cpu_agrees(void **test)
{
    const struct ebs_init_conf *conf[] = {&uniform, &normal};
    float a[37], b[37];

    (void)test;
    for (size_t c = 0; c < ARRAY_LEN(conf); c++) {
        struct ebs_init init = prepare(conf[c], 5, "t");

        for (uint64_t id = 0; id < 3000; id++) {
            uint64_t key = rt_draw_fold(init.key, id);

            ebs_init_plain(&init, id, a, 37);
            for (size_t j = 0; j < 37; j++) {
                uint64_t draw = rt_draw(key, j);
                float want = c ? 0.5f + 2.0f * rt_normal_f32(draw)
                               : -0.02f + (0.06f - -0.02f) * rt_unit_f32(draw);

                assert_true(fabsf(a[j] - want) <= 1e-6f);
            }
            if (rt_cpu_isa() >= RT_ISA_AVX2) {
                ebs_init_avx2(&init, id, b, 37);
                assert_memory_equal(a, b, sizeof(a));
            }
            if (rt_cpu_isa() >= RT_ISA_AVX512) {
                ebs_init_avx512(&init, id, b, 37);
                assert_memory_equal(a, b, sizeof(a));
            }
        }
    }
}

static void seed_table_and_id_matter(void **test)
{
    struct ebs_init base = prepare(&uniform, 1, "users"),
                    other[] = {prepare(&uniform, 2, "users"), prepare(&uniform, 1, "items")};
    float a[DIM], b[DIM];

    (void)test;
    ebs_init_fill(&base, 42, a, DIM);
    for (size_t i = 0; i < ARRAY_LEN(other); i++) {
        ebs_init_fill(&other[i], 42, b, DIM);
        for (size_t j = 0; j < DIM; j++)
            assert_true(a[j] != b[j]);
    }
    ebs_init_fill(&base, 43, b, DIM);
    for (size_t j = 0; j < DIM; j++)
        assert_true(a[j] != b[j]);
}

static void moments(const struct ebs_init_conf *conf, double *mean, double *deviation, double *link,
                    float *low, float *high)
{
    struct ebs_init init = prepare(conf, 3, "moments");
    double sum = 0, squares = 0, product = 0;
    float w[DIM], last = 0;

    *low = INFINITY;
    *high = -INFINITY;
    for (uint64_t id = 0; id < ROWS; id++) {
        ebs_init_fill(&init, id, w, DIM);
        for (size_t j = 0; j < DIM; j++) {
            sum += (double)w[j];
            squares += (double)w[j] * (double)w[j];
            *low = fminf(*low, w[j]);
            *high = fmaxf(*high, w[j]);
        }
        product += (double)w[0] * (double)last; /* neighbouring ids */
        last = w[0];
    }
    *mean = sum / (ROWS * DIM);
    *deviation = sqrt(squares / (ROWS * DIM) - *mean * *mean);
    *link = (product / ROWS - *mean * *mean) / (*deviation * *deviation);
}

static void distributed_as_told(void **test)
{
    double mean, deviation, link;
    float low, high;

    (void)test;
    moments(&uniform, &mean, &deviation, &link, &low, &high);
    assert_true(fabs(mean - 0.02) < 0.0005 && fabs(deviation - 0.08 / sqrt(12.0)) < 0.0002);
    assert_true(low >= uniform.low && high <= uniform.high && low < -0.0199f && high > 0.0599f);
    assert_true(fabs(link) < 0.03);
    moments(&normal, &mean, &deviation, &link, &low, &high);
    assert_true(fabs(mean - 0.5) < 0.02 && fabs(deviation - 2.0) < 0.02 && fabs(link) < 0.03);
    assert_true(low < -6.0f && high > 7.0f);
    moments(&constant, &mean, &deviation, &link, &low, &high);
    assert_true(low == 0.25f && high == 0.25f);
}

static void wrong_numbers_are_refused(void **test)
{
    static const struct ebs_init_conf conf[] = {
        {.kind = EBS_INIT_UNIFORM, .low = 1.0f, .high = 0.0f},
        {.kind = EBS_INIT_UNIFORM, .low = -INFINITY, .high = 0.0f},
        {.kind = EBS_INIT_UNIFORM, .low = NAN, .high = 0.0f},
        {.kind = EBS_INIT_NORMAL, .mean = 0.0f, .std = -1.0f},
        {.kind = EBS_INIT_NORMAL, .mean = NAN, .std = 1.0f},
        {.kind = EBS_INIT_CONSTANT, .value = INFINITY},
        {.kind = (enum ebs_init_kind)77},
    };
    struct ebs_init init;

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(conf); i++) {
        if (ebs_init_prepare(&init, &conf[i], 1, "users") != RT_EUSAGE)
            fail_msg("row %zu was accepted", i);
        assert_non_null(strstr(rt_err_text(), "users"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pure_function),      cmocka_unit_test(every_cpu_agrees),
        cmocka_unit_test(the_values_are_fixed), cmocka_unit_test(seed_table_and_id_matter),
        cmocka_unit_test(distributed_as_told),  cmocka_unit_test(wrong_numbers_are_refused),
    };

    return cmocka_run_group_tests_name("init", tests, NULL, NULL);
}
