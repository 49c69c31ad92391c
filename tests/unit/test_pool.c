/* tests/unit/test_pool.c -- pooling by hand, against a naive loop in double, and each instruction set
 * against plain, bit for bit. */
#include "middleware/pool.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/mem.h"
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
    static const float a[2] = {1, 2}, b[2] = {10, -20}, *const row[2] = {a, b};
    static const uint32_t length[4] = {2, 0, 1, 4}, slot[7] = {0, 1, 1, 0, 0, 1, 0};
    static const float weight[7] = {2, 1, 3, 1, 1, 0.5f, -1};
    static const struct {
        const char *name;
        enum rt_pooling pooling;
        const float *weight;
        float want[8];
    } table[] = {
        {"sum", RT_POOL_SUM, NULL, {11, -18, 0, 0, 10, -20, 13, -14}},
        {"mean", RT_POOL_MEAN, NULL, {5.5f, -9, 0, 0, 10, -20, 3.25f, -3.5f}},
        {"sqrtn",
         RT_POOL_SQRTN,
         NULL,
         {11 * 0.70710678f, -18 * 0.70710678f, 0, 0, 10, -20, 6.5f, -7}},
        {"weights", RT_POOL_SUM, weight, {12, -16, 0, 0, 30, -60, 6, -8}},
        {"weights, mean", RT_POOL_MEAN, weight, {6, -8, 0, 0, 30, -60, 1.5f, -2}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct mw_bags bags = {4, length, slot, table[i].weight, table[i].pooling, 2};
        float out[8];

        memset(out, 0x7f, sizeof(out));
        mw_pool(&bags, row, out);
        for (size_t j = 0; j < 8; j++)
            if (fabsf(out[j] - table[i].want[j]) > 1e-5f)
                fail_msg("%s: out[%zu] is %g, want %g", table[i].name, j, (double)out[j],
                         (double)table[i].want[j]);
    }
}

#define SAMPLES 200
#define ROWS    150
#define DIM_MAX 67

static float row_data[ROWS][DIM_MAX], weight[SAMPLES * 8], out[3][SAMPLES * DIM_MAX];
static const float *row[ROWS];
static uint32_t length[SAMPLES], slot[SAMPLES * 8];

static void fill(uint64_t seed)
{
    uint64_t at = 0;

    for (size_t r = 0; r < ROWS; r++) {
        row[r] = row_data[r];
        for (size_t j = 0; j < DIM_MAX; j++)
            row_data[r][j] = rt_normal_f32(rt_draw(seed, at++));
    }
    for (size_t i = 0; i < SAMPLES * 8; i++) {
        slot[i] = (uint32_t)rt_below(rt_draw(seed, at++), ROWS);
        weight[i] = rt_normal_f32(rt_draw(seed, at++));
    }
    for (size_t s = 0; s < SAMPLES; s++)
        length[s] = (uint32_t)rt_below(rt_draw(seed, at++), 9);
}

static void check_naive(const struct mw_bags *bags, const float *got)
{
    size_t at = 0;

    for (size_t s = 0; s < bags->samples; s++) {
        uint32_t n = bags->length ? bags->length[s] : 1;
        double scale = bags->pooling == RT_POOL_SUM || n == 0 ? 1
                       : bags->pooling == RT_POOL_MEAN        ? 1.0 / n
                                                              : 1 / sqrt(n);

        for (size_t j = 0; j < bags->dim; j++) {
            double want = 0;

            for (uint32_t k = 0; k < n; k++)
                want += (bags->weight ? (double)bags->weight[at + k] : 1.0) *
                        (double)row_data[bags->slot[at + k]][j];
            if (fabs(want * scale - (double)got[s * bags->dim + j]) > 1e-4)
                fail_msg("sample %zu column %zu: got %g, want %g", s, j,
                         (double)got[s * bags->dim + j], want * scale);
        }
        at += n;
    }
}

static void instruction_sets_agree(void **state)
{
    static const size_t dims[] = {1, 2, 3, 4, 7, 8, 15, 16, 17, 31, 32, 64, DIM_MAX};
    uint64_t seed = 4711;

    (void)state;
    printf("seed %llu isa %s\n", (unsigned long long)seed, rt_isa_name(rt_cpu_isa()));
    fill(seed);
    for (size_t i = 0; i < ARRAY_LEN(dims) * 12; i++) {
        size_t bytes = SAMPLES * dims[i / 12] * sizeof(float);
        struct mw_bags bags = {SAMPLES,
                               i & 1 ? length : NULL,
                               slot,
                               i & 2 ? weight : NULL,
                               (enum rt_pooling)(i % 12 / 4),
                               dims[i / 12]};

        mw_pool_plain(&bags, row, out[0]);
        check_naive(&bags, out[0]);
        if (rt_cpu_isa() >= RT_ISA_AVX2) {
            mw_pool_avx2(&bags, row, out[1]);
            assert_memory_equal(out[0], out[1], bytes);
        }
        if (rt_cpu_isa() >= RT_ISA_AVX512) {
            mw_pool_avx512(&bags, row, out[2]);
            assert_memory_equal(out[0], out[2], bytes);
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
