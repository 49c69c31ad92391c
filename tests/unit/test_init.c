/* tests/unit/test_init.c -- initial values: pure, distributed as told, different where they must be.
 *
 * The statistics are of fixed seeds, so they pass or fail for ever; their levels say how a sound generator fares with a
 * seed of its own. */
#include "embedding_server/init.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define DIM  16
#define ROWS 62500 /* times DIM: a million draws */

static const struct rt_table_conf uniform = {
    .name = "users", .dim = DIM, .init = {.kind = RT_INIT_UNIFORM, .low = -0.02, .high = 0.06}};
static const struct rt_table_conf normal = {
    .name = "users", .dim = DIM, .init = {.kind = RT_INIT_NORMAL, .mean = 0.5, .std = 2}};
static const struct rt_table_conf truncated = {
    .name = "users", .dim = DIM, .init = {.kind = RT_INIT_TRUNCATED_NORMAL, .mean = 0.5, .std = 2}};
static const struct rt_table_conf xavier = {
    .name = "users", .dim = DIM, .init = {.kind = RT_INIT_XAVIER_UNIFORM, .gain = 2, .rows = 584}};
static const struct rt_table_conf constant = {
    .name = "users", .dim = DIM, .init = {.kind = RT_INIT_CONSTANT, .value = 0.25}};

static const struct rt_table_conf *const drawn[] = {&uniform, &normal, &truncated, &xavier};
static const char *const drawn_name[] = {"uniform", "normal", "truncated normal", "Xavier"};

static struct ebs_init prepare(const struct rt_table_conf *conf, uint64_t seed, const char *name)
{
    struct rt_table_conf named = *conf;
    struct ebs_init init;

    named.name = name;
    assert_int_equal(ebs_init_prepare(&init, &named, seed), 0);
    return init;
}

/* ---- the distributions, by libm ---- */

static double normal_below(double z)
{
    return 0.5 * erfc(-z / sqrt(2));
}

/* P(value <= x) */
static double below(size_t d, double x)
{
    double z = (x - 0.5) / 2, cut = normal_below(-2);

    switch (d) {
    case 0:
        return (x + 0.02) / 0.08;
    case 1:
        return normal_below(z);
    case 2:
        return (normal_below(z) - cut) / (1 - 2 * cut);
    }
    return (x + 0.2) / 0.4; /* 2 * sqrt(6 / 600) = 0.2 */
}

/* What draw j of a key must give. */
static double expected(size_t d, uint64_t draw)
{
    switch (d) {
    case 0:
        return -0.02 + 0.08 * (double)rt_unit_f32(draw);
    case 1:
        return 0.5 + 2 * (double)rt_normal_f32(draw);
    case 3:
        return -0.2 + 0.4 * (double)rt_unit_f32(draw);
    }
    double want = ((double)(draw >> 12) + 0.5) * 0x1p-52, low = -3.5, high = 4.5;

    for (int i = 0; i < 60; i++) {
        double middle = (low + high) / 2;

        if (below(2, middle) < want)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* ---- pure functions ---- */

static void a_pure_function(void **test)
{
    const struct rt_table_conf *conf[] = {&uniform, &normal, &truncated, &xavier, &constant};

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
    static const float want[][2] = {{0x1.964264p-6f, -0x1.1677e6p-6f},
                                    {-0x1.f59384p-1f, 0x1.26a48cp+1f},
                                    {0x1.6808eap-1f, 0x1.1833a4p+0f},
                                    {0x1.15cf2p-6f, 0x1.91368p-5f}};

    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        struct ebs_init init = prepare(drawn[d], 1, "t");
        float got[2];

        ebs_init_fill(&init, d == 0 ? 0 : UINT64_MAX, got, 2);
        if (got[0] != want[d][0] || got[1] != want[d][1])
            fail_msg("%s: got %a %a", drawn_name[d], (double)got[0], (double)got[1]);
    }
}

/* Every instruction set gives the same bits, and they are those of the generator's definition. */
static void every_cpu_agrees(void **test)
{
    float a[37], b[37];

    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        struct ebs_init init = prepare(drawn[d], 5, "t");

        for (uint64_t id = 0; id < 1000; id++) {
            uint64_t key = rt_draw_fold(init.key, id);

            ebs_init_plain(&init, id, a, 37);
            for (size_t j = 0; j < 37; j++) {
                double want = expected(d, rt_draw(key, j));

                if (fabs((double)a[j] - want) > 4e-7 * (1 + fabs(want)))
                    fail_msg("%s: id %llu: got %.9g, want %.9g", drawn_name[d],
                             (unsigned long long)id, (double)a[j], want);
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
    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        struct ebs_init base = prepare(drawn[d], 1, "users");
        struct ebs_init other[] = {prepare(drawn[d], 2, "users"), prepare(drawn[d], 1, "items")};
        float a[DIM], b[DIM];

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
}

/* ---- statistics of a million draws ---- */

static float *million(size_t d)
{
    struct ebs_init init = prepare(drawn[d], 3, "statistics");
    float *value = rt_xcalloc(ROWS, DIM * sizeof(*value));

    for (uint64_t id = 0; id < ROWS; id++)
        ebs_init_fill(&init, id, value + id * DIM, DIM);
    return value;
}

/* Of the distribution: the deviation of the sample's mean and variance is known, 4 of them are allowed (level 1e-4). */
static void moments_and_bounds(void **test)
{
    static const struct {
        double mean, variance, kurtosis; /* the fourth moment over the variance squared */
        float low, high;                 /* nothing beyond; the million comes near */
        float near;
    } want[] = {
        {0.02, 0.08 * 0.08 / 12, 1.8, -0.02f, 0.06f, 1e-6f},
        {0.5, 4, 3, -13, 14, 5},
        {0.5, 4 * 0.7737413035, 2.3655, -3.5f, 4.5f, 1e-3f},
        {0, 0.4 * 0.4 / 12, 1.8, -0.2f, 0.2f, 1e-5f},
    };
    const double n = (double)ROWS * DIM;

    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        float *value = million(d), low = INFINITY, high = -INFINITY;
        double sum = 0, squares = 0, mean, variance;

        for (size_t i = 0; i < ROWS * DIM; i++) {
            double off = (double)value[i] - want[d].mean;

            sum += off;
            squares += off * off;
            low = fminf(low, value[i]);
            high = fmaxf(high, value[i]);
        }
        mean = sum / n;
        variance = squares / n;
        printf("%s: mean off by %+.2f deviations, variance by %+.2f, values %.7g .. %.7g\n",
               drawn_name[d], mean / sqrt(want[d].variance / n),
               (variance / want[d].variance - 1) / sqrt((want[d].kurtosis - 1) / n), (double)low,
               (double)high);
        assert_true(fabs(mean) < 4 * sqrt(want[d].variance / n));
        assert_true(fabs(variance / want[d].variance - 1) < 4 * sqrt((want[d].kurtosis - 1) / n));
        assert_true(low >= want[d].low && low <= want[d].low + want[d].near);
        assert_true(high <= want[d].high && high >= want[d].high - want[d].near);
        rt_free(value);
    }
}

static int by_value(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;

    return (x > y) - (x < y);
}

/* Kolmogorov and Smirnov: sqrt(n) times the largest distance stays below 1.95 in 999 of 1,000 seeds. */
static void the_distribution(void **test)
{
    const size_t n = (size_t)ROWS * DIM;

    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        float *value = million(d);
        double most = 0;

        qsort(value, n, sizeof(*value), by_value);
        for (size_t i = 0; i < n; i++) {
            double p = below(d, (double)value[i]);

            most = fmax(most, fmax(p - (double)i / (double)n, (double)(i + 1) / (double)n - p));
        }
        printf("%s: Kolmogorov-Smirnov %.3f, limit 1.95\n", drawn_name[d], most * sqrt((double)n));
        assert_true(most * sqrt((double)n) < 1.95);
        rt_free(value);
    }
}

/* Correlation of a million pairs: of elements of a row, of the same element of ids that are a stride apart. Its
 * deviation is 1e-3; 4.5 are allowed (level 7e-6 each, some 1e-3 together). */
static void neighbours_are_independent(void **test)
{
    static const uint64_t stride[] = {1,          2,          3,          7,         64,
                                      1ull << 16, 1ull << 32, 1ull << 48, 1ull << 63};
    static const double mean[] = {0.02, 0.5, 0.5, 0};

    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        struct ebs_init init = prepare(drawn[d], 3, "statistics");
        double most = 0;

        for (size_t s = 0; s < ARRAY_LEN(stride) + 5; s++) {
            size_t element = s < ARRAY_LEN(stride) ? 0 : s - ARRAY_LEN(stride) + 1;
            double product = 0, squares = 0, n = 0, link;
            float a[DIM], b[DIM];

            for (uint64_t id = 0; id < ROWS; id++) {
                ebs_init_fill(&init, id, a, DIM);
                ebs_init_fill(&init, element ? id : id + stride[s], b, DIM);
                for (size_t j = 0; j + element < DIM; j++) {
                    double x = (double)a[j] - mean[d], y = (double)b[j + element] - mean[d];

                    product += x * y;
                    squares += (x * x + y * y) / 2;
                    n++;
                }
            }
            link = product / squares * sqrt(n);
            most = fmax(most, fabs(link));
            if (fabs(link) > 4.5)
                fail_msg("%s: pair %zu: correlation of %.1f deviations", drawn_name[d], s, link);
        }
        printf("%s: largest of %zu correlations: %.2f deviations\n", drawn_name[d],
               ARRAY_LEN(stride) + 5, most);
    }
}

/* ---- numbers ---- */

static void constants(void **test)
{
    struct ebs_init init = prepare(&constant, 1, "t");
    float got[DIM];

    (void)test;
    ebs_init_fill(&init, 9, got, DIM);
    for (size_t j = 0; j < DIM; j++)
        assert_true(got[j] == 0.25f);
}

static void xavier_knows_dim_and_rows(void **test)
{
    static const struct {
        uint32_t dim;
        uint64_t rows;
        double gain, bound;
    } row[] = {
        {16, 584, 1, 0.1}, {16, 584, 2.5, 0.25}, {1, 5, 1, 1}, {64, 1000000000, 1, 7.745966e-5}};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct rt_table_conf conf = {
            .name = "t",
            .dim = row[i].dim,
            .init = {.kind = RT_INIT_XAVIER_UNIFORM, .gain = row[i].gain, .rows = row[i].rows}};
        struct ebs_init init;

        assert_int_equal(ebs_init_prepare(&init, &conf, 1), 0);
        if (fabs((double)init.offset / -row[i].bound - 1) > 1e-6 ||
            fabs((double)init.scale / (2 * row[i].bound) - 1) > 1e-6)
            fail_msg("row %zu: %g + [0, %g)", i, (double)init.offset, (double)init.scale);
    }
}

static void wrong_numbers_are_refused(void **test)
{
    static const struct rt_init_conf conf[] = {
        {.kind = RT_INIT_UNIFORM, .low = 1.0, .high = 0.0},
        {.kind = RT_INIT_UNIFORM, .low = -INFINITY, .high = 0.0},
        {.kind = RT_INIT_UNIFORM, .low = NAN, .high = 0.0},
        {.kind = RT_INIT_UNIFORM, .low = 0, .high = 1e39},
        {.kind = RT_INIT_UNIFORM, .low = -3e38, .high = 3e38},
        {.kind = RT_INIT_NORMAL, .mean = 0.0, .std = -1.0},
        {.kind = RT_INIT_NORMAL, .mean = NAN, .std = 1.0},
        {.kind = RT_INIT_TRUNCATED_NORMAL, .mean = 0.0, .std = -1.0},
        {.kind = RT_INIT_TRUNCATED_NORMAL, .mean = 0.0, .std = INFINITY},
        {.kind = RT_INIT_XAVIER_UNIFORM, .gain = 1, .rows = 0},
        {.kind = RT_INIT_XAVIER_UNIFORM, .gain = -1, .rows = 10},
        {.kind = RT_INIT_XAVIER_UNIFORM, .gain = NAN, .rows = 10},
        {.kind = RT_INIT_CONSTANT, .value = INFINITY},
        {.kind = RT_INIT_CONSTANT, .value = 1e39},
        {.kind = 77},
    };
    struct ebs_init init;

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(conf); i++) {
        struct rt_table_conf table = {.name = "users", .dim = DIM, .init = conf[i]};

        if (ebs_init_prepare(&init, &table, 1) != RT_EUSAGE)
            fail_msg("row %zu was accepted", i);
        assert_non_null(strstr(rt_err_text(), "users"));
    }
}

static double cpu_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e9 + (double)now.tv_nsec;
}

/* For the reader; asserted only against something being wrong by far. */
static void cost(void **test)
{
    (void)test;
    for (size_t d = 0; d < ARRAY_LEN(drawn); d++) {
        struct ebs_init init = prepare(drawn[d], 3, "cost");
        double ns[2];

        for (size_t k = 0; k < 2; k++) {
            size_t dim = k ? 64 : 16;
            float row[64], sum = 0;
            double from = cpu_ns();

            for (uint64_t id = 0; id < 50000; id++) {
                ebs_init_fill(&init, id, row, dim);
                sum += row[id % dim];
            }
            ns[k] = (cpu_ns() - from) / 50000;
            assert_true(isfinite(sum) && ns[k] < 20000);
        }
        printf("%s (%s): row of 16: %.0f ns, of 64: %.0f ns\n", drawn_name[d],
               rt_isa_name(rt_cpu_isa()), ns[0], ns[1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pure_function),
        cmocka_unit_test(the_values_are_fixed),
        cmocka_unit_test(every_cpu_agrees),
        cmocka_unit_test(seed_table_and_id_matter),
        cmocka_unit_test(moments_and_bounds),
        cmocka_unit_test(the_distribution),
        cmocka_unit_test(neighbours_are_independent),
        cmocka_unit_test(constants),
        cmocka_unit_test(xavier_knows_dim_and_rows),
        cmocka_unit_test(wrong_numbers_are_refused),
        cmocka_unit_test(cost),
    };

    return cmocka_run_group_tests_name("init", tests, NULL, NULL);
}
