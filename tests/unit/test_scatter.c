/* tests/unit/test_scatter.c -- scattering by hand; it is the transpose of pooling; for every dtype and scale against a
 * naive loop in double, and each instruction set against a naive loop in float, bit for bit. */
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
        struct mw_bags bags = {.samples = 3,
                               .length = length,
                               .slot = slot,
                               .weight = table[i].weight,
                               .pooling = table[i].pooling,
                               .dim = 1};
        float sum[2] = {0}, *const row[2] = {&sum[0], &sum[1]};

        mw_scatter(&bags, gradient, 1, row);
        if (fabsf(sum[0] - table[i].want[0]) > 1e-5f || fabsf(sum[1] - table[i].want[1]) > 1e-5f)
            fail_msg("%s: got %g %g", table[i].name, (double)sum[0], (double)sum[1]);
    }
}

#define SAMPLES 200
#define ROWS    90
#define DIM_MAX 67

#define VALUES (SAMPLES * DIM_MAX)

static float rows[ROWS * DIM_MAX], gradient[VALUES], weight[SAMPLES * 8];
static float pooled[VALUES], sum[ROWS * DIM_MAX], single[ROWS * DIM_MAX], *row[ROWS];
static double naive[ROWS * DIM_MAX];
static _Alignas(4) uint8_t narrowed[VALUES * 4];
static uint32_t length[SAMPLES], slot[SAMPLES * 8];

/* @inverse: of what the gradients were multiplied by before they were narrowed. */
static void fill(uint64_t seed, uint32_t dtype, float inverse)
{
    uint64_t at = 0;

    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        rows[i] = rt_normal_f32(rt_draw(seed, at++));
    for (size_t i = 0; i < VALUES; i++)
        gradient[i] = rt_normal_f32(rt_draw(seed, at++)) * inverse;
    rt_narrow_scaled(dtype, 1 / inverse, gradient, narrowed, VALUES);
    rt_widen(dtype, narrowed, gradient, VALUES); /* as they are on the wire */
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

static double scale_of(enum rt_pooling pooling, uint32_t n)
{
    return pooling == RT_POOL_SUM || n == 0 ? 1 : pooling == RT_POOL_MEAN ? 1.0 / n : 1 / sqrt(n);
}

/* In double, and in float in the order that the header names. */
static void run_naive(const struct mw_bags *bags, float inverse)
{
    memset(naive, 0, sizeof(naive));
    memset(single, 0, sizeof(single));
    for (size_t s = 0, at = 0; s < bags->samples; s++) {
        uint32_t n = bags->length ? bags->length[s] : 1;

        for (size_t end = at + n; at < end; at++) {
            float times = bags->weight ? bags->weight[at] : 1;
            float factor = mw_bag_scale(bags->pooling, n) * inverse * times;

            for (size_t j = 0; j < bags->dim; j++) {
                float value = gradient[s * bags->dim + j];
                size_t to = bags->slot[at] * bags->dim + j;

                naive[to] +=
                    scale_of(bags->pooling, n) * (double)inverse * (double)times * (double)value;
                single[to] += factor * value;
            }
        }
    }
}

static void check_isa(enum rt_isa isa, const struct mw_bags *bags, float inverse)
{
    static void (*const scatter[])(const struct mw_bags *, const void *, float,
                                   float *const *) = {[RT_ISA_PLAIN] = mw_scatter_plain,
                                                      [RT_ISA_AVX2] = mw_scatter_avx2,
                                                      [RT_ISA_AVX512] = mw_scatter_avx512};
    size_t values = ROWS * bags->dim;

    if (rt_cpu_isa() < isa)
        return;
    memset(sum, 0, sizeof(sum));
    point_rows(sum, bags->dim);
    scatter[isa](bags, narrowed, inverse, row);
    for (size_t i = 0; i < values; i++)
        if (!(fabs(naive[i] - (double)sum[i]) <= 1e-4 * (double)inverse))
            fail_msg("%s, dim %zu, dtype %u: sum %zu is %g, want %g", rt_isa_name(isa), bags->dim,
                     bags->sample_dtype, i, (double)sum[i], naive[i]);
    if (memcmp(single, sum, values * sizeof(float)) != 0)
        fail_msg("%s, dim %zu, dtype %u, pooling %d: other bits than the naive loop",
                 rt_isa_name(isa), bags->dim, bags->sample_dtype, (int)bags->pooling);
    for (size_t i = values; i < ARRAY_LEN(sum); i++)
        assert_true(sum[i] == 0);
}

static void every_dtype_on_every_isa(void **state)
{
    static const size_t dims[] = {1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 31, 32, 64, DIM_MAX};
    static const float inverse[] = {1, 0x1p-9f, 0x1p-30f};
    uint64_t seed = 4712;

    (void)state;
    printf("seed %llu isa %s\n", (unsigned long long)seed, rt_isa_name(rt_cpu_isa()));
    for (uint32_t pair = 0; pair < RT_DTYPE_COUNT * ARRAY_LEN(inverse); pair++) {
        fill(seed, pair % RT_DTYPE_COUNT, inverse[pair / RT_DTYPE_COUNT]);
        for (size_t i = 0; i < ARRAY_LEN(dims) * 12; i++) {
            struct mw_bags bags = {.samples = SAMPLES,
                                   .length = i & 1 ? length : NULL,
                                   .slot = slot,
                                   .weight = i & 2 ? weight : NULL,
                                   .pooling = (enum rt_pooling)(i % 12 / 4),
                                   .dim = dims[i / 12],
                                   .sample_dtype = pair % RT_DTYPE_COUNT};

            run_naive(&bags, inverse[pair / RT_DTYPE_COUNT]);
            for (int isa = RT_ISA_PLAIN; isa <= RT_ISA_AVX512; isa++)
                check_isa((enum rt_isa)isa, &bags, inverse[pair / RT_DTYPE_COUNT]);
        }
    }
}

/* <pool(rows), gradient> == <rows, scatter(gradient)> for a linear map and its transpose. */
static void transpose_of_pooling(void **state)
{
    (void)state;
    fill(4713, RT_DTYPE_F32, 1);
    for (size_t i = 0; i < 12; i++) {
        struct mw_bags bags = {.samples = SAMPLES,
                               .length = i & 1 ? length : NULL,
                               .slot = slot,
                               .weight = i & 2 ? weight : NULL,
                               .pooling = (enum rt_pooling)(i / 4),
                               .dim = 17};
        double forward = 0, backward = 0, size = 0;

        memset(sum, 0, sizeof(sum));
        point_rows(sum, bags.dim);
        mw_scatter(&bags, gradient, 1, row);
        point_rows(rows, bags.dim);
        mw_pool(&bags, (const void *const *)row, pooled);
        for (size_t k = 0; k < bags.samples * bags.dim; k++) {
            forward += (double)pooled[k] * (double)gradient[k];
            size += fabs((double)pooled[k] * (double)gradient[k]);
        }
        for (size_t k = 0; k < ROWS * bags.dim; k++)
            backward += (double)rows[k] * (double)sum[k];
        if (fabs(forward - backward) > 1e-6 * size)
            fail_msg("pooling %d: forward %g backward %g", (int)bags.pooling, forward, backward);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(every_dtype_on_every_isa),
        cmocka_unit_test(transpose_of_pooling),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
