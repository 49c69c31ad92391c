/* tests/unit/test_element.c -- 16-bit weights: exact widening, both roundings, equal bits on every instruction set. */
#include "embedding_server/element.h"
#include "runtime/base/assert.h"
#include "runtime/base/cpu.h"
#include "runtime/base/half.h"
#include "runtime/base/rand.h"
#include "tests/lib/half_value.h"

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

#define DIM_MAX WIRE_DIM_MAX

static void widen(uint32_t dtype, const uint16_t *half, float *out, size_t dim)
{
    const uint8_t *row = (const uint8_t *)half;

    ebs_element_widen(&(struct ebs_weights){.row = &row, .n = 1, .dim = dim, .dtype = dtype}, out);
}

static void every_pattern_widens_exactly(void **test)
{
    enum rt_isa most = rt_cpu_isa();

    (void)test;
    for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (uint32_t dtype = WIRE_F16; dtype <= WIRE_BF16; dtype++) {
            for (uint32_t at = 0; at < 65536; at += 64) {
                uint16_t half[64] __attribute__((aligned(4)));
                float wide[64];

                for (uint32_t j = 0; j < 64; j++)
                    half[j] = (uint16_t)(at + j);
                widen(dtype, half, wide, 64);
                for (uint32_t j = 0; j < 64; j++) {
                    double want = half_value(dtype, half[j]);

                    if (isnan(want)
                            ? !isnan(wide[j])
                            : (double)wide[j] != want || signbit(wide[j]) != signbit((float)want))
                        fail_msg("%s dtype %u pattern %04x: got %g, want %g",
                                 rt_isa_name(rt_cpu_isa()), dtype, half[j], (double)wide[j], want);
                }
            }
        }
    }
    rt_cpu_set_isa(most);
}

/* What can be stored stays, by either rounding and any draw. */
static void every_pattern_stays(void **test)
{
    (void)test;
    for (uint32_t dtype = WIRE_F16; dtype <= WIRE_BF16; dtype++) {
        for (uint32_t at = 0; at < 65536; at += 64) {
            uint16_t half[64] __attribute__((aligned(4))), near[64], dithered[64];
            float wide[64];

            for (uint32_t j = 0; j < 64; j++)
                half[j] = (uint16_t)(at + j);
            widen(dtype, half, wide, 64);
            ebs_element_round(dtype, wide, (uint8_t *)near, 64);
            ebs_element_dither(dtype, at, wide, (uint8_t *)dithered, 64);
            for (uint32_t j = 0; j < 64; j++) {
                if (isnan(wide[j]) ? !isnan(half_value(dtype, near[j])) ||
                                         !isnan(half_value(dtype, dithered[j]))
                                   : near[j] != half[j] || dithered[j] != half[j])
                    fail_msg("dtype %u pattern %04x becomes %04x, %04x", dtype, half[j], near[j],
                             dithered[j]);
            }
        }
    }
}

/* All floats of a random sign and exponent, with the formats' edges more often. */
static float random_float(uint64_t draw)
{
    static const float edge[] = {65504.0f, 65520.0f, 6.1035156e-5f,   5.9604645e-8f, 3.3895314e38f,
                                 0.0f,     1.0f,     1.17549435e-38f, 1e-45f};
    uint32_t bits = (uint32_t)draw;
    float value;

    if (draw >> 60 == 0) {
        value = edge[(draw >> 32) % ARRAY_LEN(edge)];
        memcpy(&bits, &value, sizeof(bits));
        bits += (uint32_t)(draw >> 40) % 5 - 2;
        bits ^= (uint32_t)(draw << 8) & 0x80000000u;
    } else if (draw >> 60 < 8) { /* within float16's exponents */
        bits = (bits & 0x807fffffu) | (uint32_t)(100 + (draw >> 32) % 45) << 23;
    }
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* The pattern of the largest stored magnitude that is not above `magnitude`, which is finite. */
static uint16_t below(uint32_t dtype, double magnitude)
{
    uint16_t low = 0, high = half_largest(dtype);

    while (low < high) {
        uint16_t middle = (uint16_t)((low + high + 1) / 2);

        if (half_value(dtype, middle) <= magnitude)
            low = middle;
        else
            high = (uint16_t)(middle - 1);
    }
    return low;
}

/* To the nearest: against a search among all patterns, in float64. */
static uint16_t naive_near(uint32_t dtype, float value)
{
    double magnitude = fabs((double)value);
    uint16_t sign = signbit(value) ? 0x8000 : 0, low = below(dtype, magnitude);
    double down, up;

    if (low == half_largest(dtype))
        return sign | low;
    down = magnitude - half_value(dtype, low);
    up = half_value(dtype, (uint16_t)(low + 1)) - magnitude;
    if (up < down || (up == down && low % 2))
        low++;
    return sign | low;
}

static void nearest_is_nearest(void **test)
{
    enum rt_isa most = rt_cpu_isa();

    (void)test;
    for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (uint32_t dtype = WIRE_F16; dtype <= WIRE_BF16; dtype++) {
            for (uint64_t i = 0; i < 40000; i++) {
                float value = random_float(rt_draw(77, i));
                uint16_t got[2] __attribute__((aligned(4)));

                if (!isfinite(value))
                    continue;
                ebs_element_round(dtype, &value, (uint8_t *)got, 1);
                if (got[0] != naive_near(dtype, value))
                    fail_msg("%s dtype %u: %.9g becomes %04x, want %04x", rt_isa_name(rt_cpu_isa()),
                             dtype, (double)value, got[0], naive_near(dtype, value));
            }
        }
    }
    rt_cpu_set_isa(most);
}

/* One of the two neighbours, never infinity; infinity and NaN as they are. */
static void a_dithered_value_is_a_neighbour(void **test)
{
    (void)test;
    for (uint32_t dtype = WIRE_F16; dtype <= WIRE_BF16; dtype++) {
        for (uint64_t i = 0; i < 40000; i++) {
            float value = random_float(rt_draw(78, i));
            uint16_t got[2] __attribute__((aligned(4))), low;

            ebs_element_dither(dtype, i, &value, (uint8_t *)got, 1);
            if (!isfinite(value)) {
                double stored = half_value(dtype, got[0]);

                if (isnan(value) ? !isnan(stored) : stored != (double)value)
                    fail_msg("dtype %u: %g becomes %04x", dtype, (double)value, got[0]);
                continue;
            }
            low = below(dtype, fabs((double)value));
            if ((got[0] >> 15 != 0) != (signbit(value) != 0) || (got[0] & 0x7fff) < low ||
                (got[0] & 0x7fff) > low + 1 || (got[0] & 0x7fff) > half_largest(dtype))
                fail_msg("dtype %u: %.9g becomes %04x, neighbour %04x", dtype, (double)value,
                         got[0], low);
        }
    }
}

/* The mean of n roundings is within 5 standard errors of the value: with a distance p of the gap from the lower
 * neighbour, one rounding's deviation is sqrt(p (1 - p)) gaps. Subnormal float16 may be 2^-16 gaps low. */
static void dithering_is_unbiased(void **test)
{
    static const float value[] = {1.001f,   -0.3333f,   3.14159e-3f, 1e-5f,   -2.7e-7f,
                                  1.5e-8f,  123.4567f,  -60001.0f,   1.0039f, 0.9999f,
                                  -4.2e-5f, 6.1035e-5f, 2.0001f,     1e-30f,  0.1f};
    enum { N = 100000 };

    (void)test;
    for (uint32_t dtype = WIRE_F16; dtype <= WIRE_BF16; dtype++) {
        for (size_t v = 0; v < ARRAY_LEN(value); v++) {
            double magnitude = fabs((double)value[v]), sum = 0.0;
            uint16_t low = below(dtype, magnitude);
            double floor = half_value(dtype, low);
            double gap = half_value(dtype, (uint16_t)(low + 1)) - floor;
            double p = (magnitude - floor) / gap, error;
            double bound = 5.0 * sqrt(p * (1.0 - p) / N) + 0x1p-16;
            float in[DIM_MAX];

            for (size_t j = 0; j < DIM_MAX; j++)
                in[j] = value[v];
            for (uint64_t row = 0; row < N / DIM_MAX + 1; row++) {
                size_t n = row < N / DIM_MAX ? DIM_MAX : N % DIM_MAX;
                uint16_t out[DIM_MAX] __attribute__((aligned(4)));

                ebs_element_dither(dtype, rt_draw(v, row), in, (uint8_t *)out, n);
                for (size_t j = 0; j < n; j++)
                    sum += out[j] & 0x7fff;
            }
            error = sum / N - low - p;
            if (fabs(error) > bound)
                fail_msg("dtype %u: %.9g: off by %g gaps, bound %g", dtype, (double)value[v], error,
                         bound);
        }
    }
}

/* Element j is decided by bits 16 (j % 4) of draw j / 4, whatever the row's dim is. */
static void a_draw_belongs_to_its_element(void **test)
{
    enum rt_isa most = rt_cpu_isa();

    (void)test;
    for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
        rt_cpu_set_isa((enum rt_isa)isa);
        for (size_t dim = 1; dim <= 130; dim++) {
            uint16_t out[DIM_MAX] __attribute__((aligned(4)));
            float in[DIM_MAX];

            for (size_t j = 0; j < dim; j++)
                in[j] = 1.0f + (float)(j % 128) * 0x1p-14f; /* j of 512 gaps of bfloat16 */
            ebs_element_dither(WIRE_BF16, 99, in, (uint8_t *)out, dim);
            for (size_t j = 0; j < dim; j++) {
                uint32_t draw = (uint32_t)(rt_draw(99, j / 4) >> 16 * (j % 4)) & 0xffff;
                uint32_t want = 0x3f80u + (((uint32_t)(j % 128) << 9) + draw >= 65536 ? 1 : 0);

                if (out[j] != want)
                    fail_msg("%s: dim %zu element %zu", rt_isa_name(rt_cpu_isa()), dim, j);
            }
        }
    }
    rt_cpu_set_isa(most);
}

static void compare_row(const struct ebs_element_loops *loops, uint32_t dtype, size_t dim,
                        uint64_t key)
{
    static uint8_t got[4 * DIM_MAX + 8] __attribute__((aligned(8))), want[4 * DIM_MAX + 8];
    static float in[DIM_MAX], wide[DIM_MAX + 1], wide_want[DIM_MAX + 1];
    const uint8_t *row = want + 8;
    struct ebs_weights weights = {.row = &row, .n = 1, .dim = dim, .dtype = dtype};

    for (size_t j = 0; j < dim; j++)
        in[j] = random_float(rt_draw(key, j));
    for (int stochastic = 0; stochastic < 2; stochastic++) {
        memset(got, 0x55, sizeof(got)); /* behind its end nothing is written */
        memset(want, 0x55, sizeof(want));
        if (stochastic) {
            loops->dither[dtype](key, in, got + 8, dim);
            ebs_element_plain.dither[dtype](key, in, want + 8, dim);
        } else {
            loops->round[dtype](in, got + 8, dim);
            ebs_element_plain.round[dtype](in, want + 8, dim);
        }
        if (memcmp(got, want, sizeof(got)) != 0)
            fail_msg("dtype %u dim %zu: rounding differs from plain (key %llu)", dtype, dim,
                     (unsigned long long)key);
    }
    for (uint32_t to = WIRE_F32; to <= WIRE_BF16; to++) {
        memset(wide, 0x55, sizeof(wide));
        memset(wide_want, 0x55, sizeof(wide_want));
        loops->read[dtype][to](&weights, wide);
        ebs_element_plain.read[dtype][to](&weights, wide_want);
        if (!same_bits(wide, wide_want, sizeof(wide)))
            fail_msg("dtype %u as %u dim %zu: reading differs from plain (key %llu)", dtype, to,
                     dim, (unsigned long long)key);
    }
}

static void every_isa_gives_the_bits_of_plain(void **test)
{
    const struct ebs_element_loops *loops[] = {[RT_ISA_PLAIN] = &ebs_element_plain,
                                               [RT_ISA_AVX2] = &ebs_element_avx2,
                                               [RT_ISA_AVX512] = &ebs_element_avx512};
    uint64_t seed = (uint64_t)time(NULL);

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    for (int isa = RT_ISA_AVX2; isa <= RT_ISA_AVX512; isa++) {
        if (isa > (int)rt_cpu_isa()) {
            printf("skipped: no %s here\n", rt_isa_name((enum rt_isa)isa));
            continue;
        }
        for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
            for (uint64_t i = 0; i < 400; i++) {
                uint64_t key = rt_draw(seed, i);

                compare_row(loops[isa], dtype, i < 140 ? i + 1 : 1 + rt_below(key, DIM_MAX), key);
            }
        }
    }
}

/* Rows in any order, some left out: what is theirs in `out` stays. */
static void rows_left_out_stay(void **test)
{
    enum { N = 33 };
    static uint8_t memory[N][12 + 4 * 70] __attribute__((aligned(8)));
    static float out[N * 70];
    const uint8_t *row[N];

    (void)test;
    for (uint32_t dtype = WIRE_F32; dtype <= WIRE_BF16; dtype++) {
        for (size_t dim = 1; dim <= 70; dim++) {
            for (size_t i = 0; i < N; i++) {
                float value[70];

                for (size_t j = 0; j < dim; j++)
                    value[j] = (float)(i + 1);
                ebs_element_round(dtype, value, memory[i] + 12, dim);
                row[i] = i % 3 == 1 ? NULL : memory[N - 1 - i] + 12;
            }
            for (size_t j = 0; j < N * dim; j++)
                out[j] = -1.0f;
            ebs_element_widen(&(struct ebs_weights){.row = row, .n = N, .dim = dim, .dtype = dtype},
                              out);
            for (size_t j = 0; j < N * dim; j++) {
                size_t at = j / dim;
                float want = row[at] ? (float)(N - at) : -1.0f;

                if (out[j] != want)
                    fail_msg("dtype %u dim %zu row %zu: got %g, want %g", dtype, dim, j / dim,
                             (double)out[j], (double)want);
            }
        }
    }
}

/* Every pair of dtypes and instruction set, rows of many dims: the bits of a copy, or of widening and then narrowing an
 * array (half.h). At a place that is aligned for 16 bits only, with nothing written behind the end. */
static void rows_are_read_as_any_dtype(void **test)
{
    enum rt_isa most = rt_cpu_isa();
    enum { N = 3 };
    static uint8_t memory[N][4 * DIM_MAX] __attribute__((aligned(8)));
    static uint8_t got[N * 4 * DIM_MAX + 8] __attribute__((aligned(8))), want[sizeof(got)];
    uint64_t seed = (uint64_t)time(NULL);

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    for (uint64_t i = 0; i < 9 * 150; i++) {
        uint32_t from = (uint32_t)(i % 3), to = (uint32_t)(i / 3 % 3);
        size_t dim = i / 9 < 130 ? i / 9 + 1 : 1 + rt_below(rt_draw(seed, i), DIM_MAX);
        size_t begin = to == WIRE_F32 ? 4 : 2, bytes = wire_dtype_size(to) * dim;
        const uint8_t *row[N] = {memory[0], memory[1], memory[2]};
        float in[DIM_MAX], wide[DIM_MAX];

        memset(want, 0x55, sizeof(want));
        for (size_t r = 0; r < N; r++) {
            for (size_t j = 0; j < dim; j++)
                in[j] = random_float(rt_draw(rt_draw(seed, i), r * dim + j));
            rt_narrow(from, in, memory[r], dim);
            rt_widen(from, memory[r], wide, dim);
            if (from == to)
                memcpy(want + begin + r * bytes, memory[r], bytes);
            else
                rt_narrow(to, wide, want + begin + r * bytes, dim);
        }
        for (int isa = RT_ISA_PLAIN; isa <= (int)most; isa++) {
            rt_cpu_set_isa((enum rt_isa)isa);
            memset(got, 0x55, sizeof(got));
            ebs_element_read(&(struct ebs_weights){.row = row, .n = N, .dim = dim, .dtype = from},
                             to, got + begin);
            if (!same_bits(got, want, sizeof(got)))
                fail_msg("%s: dtype %u as %u dim %zu (round %llu)", rt_isa_name(rt_cpu_isa()), from,
                         to, dim, (unsigned long long)i);
        }
        rt_cpu_set_isa(most);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_pattern_widens_exactly),
        cmocka_unit_test(every_pattern_stays),
        cmocka_unit_test(nearest_is_nearest),
        cmocka_unit_test(a_dithered_value_is_a_neighbour),
        cmocka_unit_test(dithering_is_unbiased),
        cmocka_unit_test(a_draw_belongs_to_its_element),
        cmocka_unit_test(every_isa_gives_the_bits_of_plain),
        cmocka_unit_test(rows_left_out_stay),
        cmocka_unit_test(rows_are_read_as_any_dtype),
    };

    return cmocka_run_group_tests_name("element", tests, NULL, NULL);
}
