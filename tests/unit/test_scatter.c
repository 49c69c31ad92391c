/* tests/unit/test_scatter.c -- scattering is the transpose of pooling; each instruction set equals plain,
 * bit for bit. */
#include "middleware/pool.h"
#include "middleware/scatter.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static void by_hand(void **state)
{
    static const uint32_t length[3] = {2, 0, 1}, slot[3] = {0, 1, 0};
    static const float gradient[3] = {4, 100, 3}, weight[3] = {2, 1, -1};
    static const struct {
        const char *name;
        enum rt_pooling pooling;
        const float *weight;
        float want[2];
    } table[] = {
        {"sum", RT_POOL_SUM, NULL, {7, 4}},
        {"mean", RT_POOL_MEAN, NULL, {5, 2}},
        {"sqrtn", RT_POOL_SQRTN, NULL, {3 + 2.82842712f, 2.82842712f}},
        {"weights", RT_POOL_SUM, weight, {5, 4}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct mw_bags bags = {3, length, slot, table[i].weight, table[i].pooling, 1};
        float sum[2] = {0}, *const row[2] = {&sum[0], &sum[1]};

        mw_scatter(&bags, gradient, row);
        if (fabsf(sum[0] - table[i].want[0]) > 1e-5f || fabsf(sum[1] - table[i].want[1]) > 1e-5f)
            fail_msg("%s: got %g %g", table[i].name, (double)sum[0], (double)sum[1]);
    }
}

#define SAMPLES 200
#define ROWS    90
#define DIM_MAX 67

static float rows[ROWS * DIM_MAX], gradient[SAMPLES * DIM_MAX], weight[SAMPLES * 8];
static float pooled[SAMPLES * DIM_MAX], sum[3][ROWS * DIM_MAX], *row[ROWS];
static uint32_t length[SAMPLES], slot[SAMPLES * 8];

static void fill(uint64_t seed)
{
    uint64_t at = 0;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        rows[i] = rt_normal_f32(rt_draw(seed, at++));
    for (size_t i = 0; i < ARRAY_LEN(gradient); i++)
        gradient[i] = rt_normal_f32(rt_draw(seed, at++));
    for (size_t i = 0; i < SAMPLES * 8; i++) {
        slot[i] = (uint32_t)rt_below(rt_draw(seed, at++), ROWS);
        weight[i] = rt_normal_f32(rt_draw(seed, at++));
    }
    for (size_t s = 0; s < SAMPLES; s++)
        length[s] = (uint32_t)rt_below(rt_draw(seed, at++), 9);
}

static void point_rows(float *base, size_t dim)
{
    for (size_t r = 0; r < ROWS; r++)
        row[r] = base + r * dim;
}

typedef void (*scatter_fn)(const struct mw_bags *, const float *, float *const *);

static void run(scatter_fn scatter, const struct mw_bags *bags, float *to)
{
    memset(to, 0, ROWS * bags->dim * sizeof(float));
    point_rows(to, bags->dim);
    scatter(bags, gradient, row);
}

/* <pool(rows), gradient> == <rows, scatter(gradient)> for a linear map and its transpose. */
static void check_transpose(const struct mw_bags *bags, const float *scattered)
{
    double forward = 0, backward = 0, size = 0;

    point_rows(rows, bags->dim);
    mw_pool(bags, (const float *const *)row, pooled);
    for (size_t i = 0; i < bags->samples * bags->dim; i++) {
        forward += (double)pooled[i] * (double)gradient[i];
        size += fabs((double)pooled[i] * (double)gradient[i]);
    }
    for (size_t i = 0; i < ROWS * bags->dim; i++)
        backward += (double)rows[i] * (double)scattered[i];
    if (fabs(forward - backward) > 1e-6 * size)
        fail_msg("dim %zu pooling %d: forward %g backward %g", bags->dim, (int)bags->pooling,
                 forward, backward);
}

static void instruction_sets_agree(void **state)
{
    static const size_t dims[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 64, DIM_MAX};
    uint64_t seed = 4712;

    (void)state;
    printf("seed %llu isa %s\n", (unsigned long long)seed, rt_isa_name(rt_cpu_isa()));
    fill(seed);
    for (size_t i = 0; i < ARRAY_LEN(dims) * 12; i++) {
        size_t bytes = ROWS * dims[i / 12] * sizeof(float);
        struct mw_bags bags = {SAMPLES,
                               i & 1 ? length : NULL,
                               slot,
                               i & 2 ? weight : NULL,
                               (enum rt_pooling)(i % 12 / 4),
                               dims[i / 12]};

        run(mw_scatter_plain, &bags, sum[0]);
        check_transpose(&bags, sum[0]);
        if (rt_cpu_isa() >= RT_ISA_AVX2) {
            run(mw_scatter_avx2, &bags, sum[1]);
            assert_memory_equal(sum[0], sum[1], bytes);
        }
        if (rt_cpu_isa() >= RT_ISA_AVX512) {
            run(mw_scatter_avx512, &bags, sum[2]);
            assert_memory_equal(sum[0], sum[2], bytes);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(instruction_sets_agree),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
