/* tests/unit/test_pool.c -- pooling by hand; for every pair of dtypes against a naive loop in double, and each
 * instruction set against a naive loop in float, bit for bit. */
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
    static const float a[2] = {1, 2}, b[2] = {10, -20};
    static const void *const row[2] = {a, b};
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
        struct mw_bags bags = {.samples = 4,
                               .length = length,
                               .slot = slot,
                               .weight = table[i].weight,
                               .pooling = table[i].pooling,
                               .dim = 2};
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

/* How far a sum of eight, narrowed, may be off: relative, of its largest summand. */
static const double tolerance[RT_DTYPE_COUNT] = {1e-6, 0x1p-11 + 1e-6, 0x1p-8 + 1e-6};

static float row_data[ROWS][DIM_MAX], weight[SAMPLES * 8], want[SAMPLES * DIM_MAX];
static _Alignas(4) uint8_t narrowed[ROWS][DIM_MAX * 4];
static _Alignas(4) uint8_t expected[SAMPLES * DIM_MAX * 4], out[SAMPLES * DIM_MAX * 4 + 64];
static const void *row[ROWS];
static uint32_t length[SAMPLES], slot[SAMPLES * 8];

static void fill(uint64_t seed, uint32_t dtype)
{
    uint64_t at = 0;

    for (size_t r = 0; r < ROWS; r++) {
        row[r] = narrowed[r];
        for (size_t j = 0; j < DIM_MAX; j++)
            row_data[r][j] = rt_normal_f32(rt_draw(seed, at++));
        row_data[r][r % DIM_MAX] = -0.0f; /* comes out as 0 */
        rt_narrow(dtype, row_data[r], narrowed[r], DIM_MAX);
        rt_widen(dtype, narrowed[r], row_data[r], DIM_MAX);
    }
    for (size_t i = 0; i < SAMPLES * 8; i++) {
        slot[i] = (uint32_t)rt_below(rt_draw(seed, at++), ROWS);
        weight[i] = rt_normal_f32(rt_draw(seed, at++));
    }
    for (size_t s = 0; s < SAMPLES; s++)
        length[s] = (uint32_t)rt_below(rt_draw(seed, at++), 9);
}

/* One element in double, and in float in the order that the header names. */
static double naive(const struct mw_bags *bags, size_t at, uint32_t n, size_t j, float *single)
{
    double scale = bags->pooling == RT_POOL_SUM || n == 0 ? 1
                   : bags->pooling == RT_POOL_MEAN        ? 1.0 / n
                                                          : 1 / sqrt(n);
    double sum = 0;
    float rounded = 0;

    for (uint32_t k = 0; k < n; k++) {
        float value = row_data[bags->slot[at + k]][j],
              times = bags->weight ? bags->weight[at + k] : 1;

        sum += (double)times * (double)value;
        rounded += times * value;
    }
    *single = rounded * mw_bag_scale(bags->pooling, n);
    return sum * scale;
}

static void check_naive(const struct mw_bags *bags, const void *got)
{
    size_t at = 0, count = bags->samples * bags->dim;
    float single;

    rt_widen(bags->sample_dtype, got, want, count);
    for (size_t s = 0; s < bags->samples; s++) {
        uint32_t n = bags->length ? bags->length[s] : 1;

        for (size_t j = 0; j < bags->dim; j++) {
            double exact = naive(bags, at, n, j, &single), is = (double)want[s * bags->dim + j];
            double most = fabs(exact) > 16 ? fabs(exact) : 16;

            if (!(fabs(exact - is) <= tolerance[bags->sample_dtype] * most))
                fail_msg("rows of dtype %u, samples of %u, sample %zu column %zu: got %g, want %g",
                         bags->row_dtype, bags->sample_dtype, s, j, is, exact);
            want[s * bags->dim + j] = single;
        }
        at += n;
    }
    rt_narrow(bags->sample_dtype, want, expected, count);
}

static void check_isa(enum rt_isa isa, const struct mw_bags *bags)
{
    static void (*const pool[])(const struct mw_bags *, const void *const *,
                                void *) = {[RT_ISA_PLAIN] = mw_pool_plain,
                                           [RT_ISA_AVX2] = mw_pool_avx2,
                                           [RT_ISA_AVX512] = mw_pool_avx512};
    size_t bytes = bags->samples * bags->dim * (bags->sample_dtype ? 2 : 4);

    if (rt_cpu_isa() < isa)
        return;
    memset(out, 0x7f, sizeof(out));
    pool[isa](bags, row, out);
    if (isa == RT_ISA_PLAIN)
        check_naive(bags, out);
    if (memcmp(expected, out, bytes) != 0)
        fail_msg("%s, dim %zu, dtypes %u to %u, pooling %d: other bits than the naive loop",
                 rt_isa_name(isa), bags->dim, bags->row_dtype, bags->sample_dtype,
                 (int)bags->pooling);
    assert_int_equal(out[bytes], 0x7f); /* and nothing behind them */
}

static void every_dtype_on_every_isa(void **state)
{
    static const size_t dims[] = {1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 31, 32, 64, DIM_MAX};
    uint64_t seed = 4711;

    (void)state;
    printf("seed %llu isa %s\n", (unsigned long long)seed, rt_isa_name(rt_cpu_isa()));
    for (uint32_t pair = 0; pair < RT_DTYPE_COUNT * RT_DTYPE_COUNT; pair++) {
        fill(seed, pair / RT_DTYPE_COUNT);
        for (size_t i = 0; i < ARRAY_LEN(dims) * 12; i++) {
            struct mw_bags bags = {.samples = SAMPLES,
                                   .length = i & 1 ? length : NULL,
                                   .slot = slot,
                                   .weight = i & 2 ? weight : NULL,
                                   .pooling = (enum rt_pooling)(i % 12 / 4),
                                   .dim = dims[i / 12],
                                   .row_dtype = pair / RT_DTYPE_COUNT,
                                   .sample_dtype = pair % RT_DTYPE_COUNT};

            for (int isa = RT_ISA_PLAIN; isa <= RT_ISA_AVX512; isa++)
                check_isa((enum rt_isa)isa, &bags);
        }
    }
}

/* One id without a list takes a way of its own between equal dtypes of 16 bits: all 65,536 elements, NaNs and infinities too,
 * come out as from a list of one. */
static void every_half_alone(void **state)
{
    static uint16_t element[1u << 16], alone[1u << 16], listed[1u << 16];
    static const void *at[1u << 12];
    static uint32_t one[1u << 12], first[1u << 12];
    struct mw_bags bags = {.samples = 1u << 12, .slot = first, .dim = 16};

    (void)state;
    for (uint32_t i = 0; i < ARRAY_LEN(element); i++)
        element[i] = (uint16_t)i;
    for (uint32_t i = 0; i < ARRAY_LEN(at); i++) {
        at[i] = element + (size_t)16 * i;
        one[i] = 1;
        first[i] = i;
    }
    for (uint32_t dtype = RT_DTYPE_F16; dtype < RT_DTYPE_COUNT; dtype++) {
        bags.row_dtype = bags.sample_dtype = dtype;
        bags.length = one;
        mw_pool_plain(&bags, at, listed);
        bags.length = NULL;
        mw_pool_plain(&bags, at, alone);
        assert_memory_equal(alone, listed, sizeof(alone));
        memset(alone, 0, sizeof(alone));
        mw_pool(&bags, at, alone); /* as this CPU has it */
        assert_memory_equal(alone, listed, sizeof(alone));
    }
}

/* Narrowed embeddings saturate, as half.h has it. */
static void what_is_too_large(void **state)
{
    static const float large[2] = {60000, -60000};
    static const uint32_t two[1] = {2}, zeros[2] = {0, 0};
    const void *const at[1] = {large};
    struct mw_bags bags = {.samples = 1,
                           .length = two,
                           .slot = zeros,
                           .pooling = RT_POOL_SUM,
                           .dim = 2,
                           .sample_dtype = RT_DTYPE_F16};
    uint16_t got[2];

    (void)state;
    mw_pool(&bags, at, got);
    assert_int_equal(got[0], 0x7bff);
    assert_int_equal(got[1], 0xfbff);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_hand),
        cmocka_unit_test(every_dtype_on_every_isa),
        cmocka_unit_test(every_half_alone),
        cmocka_unit_test(what_is_too_large),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
