/* tests/unit/test_half.c -- arrays to and from 16 bits: exact, nearest, saturating, scaled, equal bits on every
 * instruction set.
 *
 * The naive model knows the formats by their definition and searches all patterns for the nearest, in float64. */
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/half.h"
#include "runtime/base/rand.h"
#include "tests/lib/half_value.h"

#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static bool same_bits(const void *a, const void *b, size_t bytes)
{
    return memcmp(a, b, bytes) == 0;
}

#define PATTERNS 65536
#define MANY     1700 /* elements: over three blocks of the loops, and a rest */

static const struct rt_half_loops *const loops[] = {[RT_ISA_PLAIN] = &rt_half_plain,
                                                    [RT_ISA_AVX2] = &rt_half_avx2,
                                                    [RT_ISA_AVX512] = &rt_half_avx512};

static uint16_t naive_near(uint32_t dtype, float value)
{
    double magnitude = fabs((double)value), down, up;
    uint16_t sign = signbit(value) ? 0x8000 : 0, low = 0, high = half_largest(dtype);

    if (isinf(value))
        return (uint16_t)(sign | (half_largest(dtype) + 1));
    while (low < high) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);

        if (half_value(dtype, middle) <= magnitude)
            low = middle;
        else
            high = (uint16_t)(middle - 1);
    }
    if (low == half_largest(dtype))
        return sign | low;
    down = magnitude - half_value(dtype, low);
    up = half_value(dtype, (uint16_t)(low + 1)) - magnitude;
    return (uint16_t)(sign | (up < down || (up == down && low % 2) ? low + 1 : low));
}

/* Any bits; or of a magnitude that 16 bits have; or halfway between two of them, and beside that. */
static float random_float(uint64_t key)
{
    uint32_t bits = (uint32_t)rt_draw(key, 0), kind = (uint32_t)rt_below(rt_draw(key, 1), 4);
    float value;

    if (kind == 1)
        return (float)half_value(RT_DTYPE_F16, (uint16_t)bits);
    if (kind == 2)
        bits = (bits & 0xffff8000u) + (uint32_t)rt_below(rt_draw(key, 2), 3) - 1; /* bfloat16's */
    if (kind == 3)
        bits = (0x33000000u + bits % 0x15000000u) & ~0xfffu; /* float16's range and its halves */
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void every_pattern_widens_and_comes_back(void **state)
{
    static uint16_t half[PATTERNS], again[PATTERNS];
    static float wide[PATTERNS];
    enum rt_isa most = rt_cpu_isa();

    (void)state;
    for (size_t i = 0; i < PATTERNS; i++)
        half[i] = (uint16_t)i;
    for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
            rt_widen(dtype, half, wide, PATTERNS);
            rt_narrow(dtype, wide, again, PATTERNS);
            for (size_t i = 0; i < PATTERNS; i++) {
                double want = half_value(dtype, half[i]);
                bool same = isnan(want) ? isnan(wide[i]) && isnan(half_value(dtype, again[i]))
                                        : (double)wide[i] == want && again[i] == half[i];

                if (!same)
                    fail_msg("%s dtype %u pattern %04zx: is %g, becomes %g, then %04x",
                             rt_isa_name(rt_cpu_isa()), dtype, i, want, (double)wide[i], again[i]);
            }
        }
    }
    rt_cpu_set_isa(most);
}

static void nearest_is_nearest(void **state)
{
    enum { N = 40000 };
    static float value[N];
    static uint16_t got[N];
    enum rt_isa most = rt_cpu_isa();
    uint64_t seed = (uint64_t)time(NULL);

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    for (size_t i = 0; i < N; i++)
        value[i] = random_float(rt_draw(seed, i));
    for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
            rt_narrow(dtype, value, got, N);
            for (size_t i = 0; i < N; i++) {
                if (isnan(value[i]) ? isnan(half_value(dtype, got[i]))
                                    : got[i] == naive_near(dtype, value[i]))
                    continue;
                fail_msg("%s dtype %u: %.9g becomes %04x, want %04x", rt_isa_name(rt_cpu_isa()),
                         dtype, (double)value[i], got[i], naive_near(dtype, value[i]));
            }
        }
    }
    rt_cpu_set_isa(most);
}

static void edges(void **state)
{
    static const struct {
        uint32_t dtype;
        float in;
        uint16_t want;
    } row[] = {
        {RT_DTYPE_F16, 65504, 0x7bff},      {RT_DTYPE_F16, 65519.996f, 0x7bff},
        {RT_DTYPE_F16, 65520, 0x7bff},      {RT_DTYPE_F16, -1e30f, 0xfbff},
        {RT_DTYPE_F16, INFINITY, 0x7c00},   {RT_DTYPE_F16, -INFINITY, 0xfc00},
        {RT_DTYPE_F16, -0.0f, 0x8000},      {RT_DTYPE_F16, 0x1p-24f, 0x0001},
        {RT_DTYPE_F16, 0x1p-25f, 0x0000},   {RT_DTYPE_F16, 0x1.8p-24f, 0x0002},
        {RT_DTYPE_F16, 2049, 0x6800},       {RT_DTYPE_F16, 2051, 0x6802},
        {RT_DTYPE_F16, FLT_TRUE_MIN, 0},    {RT_DTYPE_BF16, FLT_MAX, 0x7f7f},
        {RT_DTYPE_BF16, -FLT_MAX, 0xff7f},  {RT_DTYPE_BF16, INFINITY, 0x7f80},
        {RT_DTYPE_BF16, -INFINITY, 0xff80}, {RT_DTYPE_BF16, 0x1.ffp127f, 0x7f7f},
        {RT_DTYPE_BF16, 257, 0x4380},       {RT_DTYPE_BF16, 259, 0x4382},
        {RT_DTYPE_BF16, -0.0f, 0x8000},     {RT_DTYPE_BF16, FLT_TRUE_MIN, 0},
        {RT_DTYPE_BF16, 0x1p-133f, 0x0001}, {RT_DTYPE_BF16, 0x1p-134f, 0x0000},
    };

    (void)state;
    /* In the middle of a register and in the rest behind it, among small ones. */
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        for (size_t at = 0; at < 37; at++) {
            float in[37];
            uint16_t out[37];

            for (size_t j = 0; j < ARRAY_LEN(in); j++)
                in[j] = j == at ? row[i].in : 1;
            rt_narrow(row[i].dtype, in, out, ARRAY_LEN(in));
            for (size_t j = 0; j < ARRAY_LEN(in); j++) {
                uint16_t want = row[i].dtype == RT_DTYPE_F16 ? 0x3c00 : 0x3f80;

                if (out[j] != (j == at ? row[i].want : want))
                    fail_msg("dtype %u: %a at %zu: element %zu is %04x", row[i].dtype,
                             (double)row[i].in, at, j, out[j]);
            }
        }
    }
}

/* One array through all loops of one instruction set; nothing is written behind its end. */
struct results {
    uint8_t narrow[RT_DTYPE_COUNT][4 * MANY + 4], scaled[RT_DTYPE_COUNT][4 * MANY + 4];
    float wide[RT_DTYPE_COUNT][MANY + 1], inverse[RT_DTYPE_COUNT][MANY + 1];
    uint32_t magnitude;
};

static void run(const struct rt_half_loops *with, const float *in, size_t n, float scale,
                struct results *out)
{
    memset(out, 0x55, sizeof(*out));
    for (uint32_t dtype = 0; dtype < RT_DTYPE_COUNT; dtype++) {
        with->narrow[dtype](in, out->narrow[dtype], n);
        with->narrow_scaled[dtype](scale, in, out->scaled[dtype], n);
        with->widen[dtype](in, out->wide[dtype], n); /* any bits are elements */
        with->widen_scaled[dtype](1 / scale, in, out->inverse[dtype], n);
    }
    out->magnitude = with->magnitude(in, n);
}

static void every_isa_gives_the_bits_of_plain(void **state)
{
    static struct results want, got;
    static float in[MANY];
    uint64_t seed = (uint64_t)time(NULL);

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < 200; i++) {
        uint64_t key = rt_draw(seed, i);
        size_t n = i < 140 ? i : rt_below(rt_draw(key, 0), MANY + 1);
        float scale = ldexpf(1, (int)rt_below(rt_draw(key, 1), 240) - 113);

        for (size_t j = 0; j < n; j++) /* some arrays have no large value, and take the short way */
            in[j] = random_float(rt_draw(key, j + 2)) * (i % 2 ? 1 : 0x1p-120f);
        run(&rt_half_plain, in, n, scale, &want);
        for (int isa = RT_ISA_AVX2; isa <= (int)rt_cpu_isa(); isa++) {
            run(loops[isa], in, n, scale, &got);
            if (!same_bits(&got, &want, sizeof(got)))
                fail_msg("%s: %zu elements, scale %a differ from plain (key %llu)",
                         rt_isa_name((enum rt_isa)isa), n, (double)scale, (unsigned long long)key);
        }
    }
}

/* Cut in two anywhere, the halves are what the whole is. */
static void an_array_may_be_cut(void **state)
{
    static float in[MANY], wide[MANY], wide_want[MANY];
    static uint16_t got[MANY], want[MANY];

    (void)state;
    for (size_t j = 0; j < MANY; j++)
        in[j] = random_float(rt_draw(5, j));
    for (uint32_t dtype = RT_DTYPE_F16; dtype <= RT_DTYPE_BF16; dtype++) {
        rt_narrow_scaled(dtype, 4, in, want, MANY);
        rt_widen_scaled(dtype, 0.25f, want, wide_want, MANY);
        for (size_t cut = 0; cut <= MANY; cut += 1 + cut / 8) {
            rt_narrow_scaled(dtype, 4, in, got, cut);
            rt_narrow_scaled(dtype, 4, in + cut, got + cut, MANY - cut);
            rt_widen_scaled(dtype, 0.25f, got, wide, cut);
            rt_widen_scaled(dtype, 0.25f, got + cut, wide + cut, MANY - cut);
            if (memcmp(got, want, sizeof(got)) != 0)
                fail_msg("dtype %u: narrowed, cut at %zu", dtype, cut);
            for (size_t j = 0; j < MANY; j++)
                if (!same_bits(&wide[j], &wide_want[j], sizeof(float)))
                    fail_msg("dtype %u: widened, cut at %zu: element %zu", dtype, cut, j);
        }
    }
}

static void scales(void **state)
{
    static const struct {
        const char *name;
        float in[20], want;
    } row[] = {
        {"none", {0}, 1},
        {"minus nothing", {-0.0f}, 1},
        {"one", {1}, 0x1p14f},
        {"below two", {0x1.fffffep0f}, 0x1p14f},
        {"two", {-2}, 0x1p13f},
        {"the last counts", {[19] = -0x1p-10f, [3] = 0x1p-30f}, 0x1p24f},
        {"large", {FLT_MAX}, 0x1p-113f},
        {"small", {0x1p-112f}, 0x1p126f},
        {"smaller", {FLT_TRUE_MIN}, 0x1p126f},
        {"infinite", {1, -INFINITY}, 1},
        {"not a number", {[17] = NAN, [0] = 3}, 1},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        float got = rt_half_scale(row[i].in, ARRAY_LEN(row[i].in));

        if (got != row[i].want)
            fail_msg("%s: got %a, want %a", row[i].name, (double)got, (double)row[i].want);
    }
    assert_true(rt_half_scale(NULL, 0) == 1);
}

/* Gradients that float16 would lose come back with its 11 bits; what is exact stays exact. */
static void small_gradients_survive(void **state)
{
    enum { N = 1000 };
    static float in[N], out[N];
    static uint16_t half[N];
    float scale;

    (void)state;
    for (size_t i = 0; i < N; i++)
        in[i] = ldexpf(rt_unit_f32(rt_draw(9, i)) - 0.5f, -40 - (int)(i % 8));
    rt_narrow(RT_DTYPE_F16, in, half, N);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(half[i] & 0x7fff, 0);
    scale = rt_half_scale(in, N);
    rt_narrow_scaled(RT_DTYPE_F16, scale, in, half, N);
    rt_widen_scaled(RT_DTYPE_F16, 1 / scale, half, out, N);
    for (size_t i = 0; i < N; i++)
        if (fabsf(out[i] - in[i]) > fmaxf(fabsf(in[i]) * 0x1p-11f, 0x1p-25f / scale))
            fail_msg("%a comes back as %a", (double)in[i], (double)out[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_widens_and_comes_back),
        cmocka_unit_test(nearest_is_nearest),
        cmocka_unit_test(edges),
        cmocka_unit_test(every_isa_gives_the_bits_of_plain),
        cmocka_unit_test(an_array_may_be_cut),
        cmocka_unit_test(scales),
        cmocka_unit_test(small_gradients_survive),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
