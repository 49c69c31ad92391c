/* tests/unit/test_spike.c -- the alarm of a series: by hand, against its formulas written out, and that noise alone raises none. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/rand.h"
#include "trainer/metric/spike.h"

static const struct tr_spike_conf usual = {
    .deviations = 6, .rise = 0.1, .window = 8, .warmup = 100, .history = 200};

static double normal(uint64_t key, uint64_t i)
{
    double u = (double)rt_unit_f32(rt_draw(key, 2 * i)),
           v = (double)rt_unit_f32(rt_draw(key, 2 * i + 1));
    return sqrt(-2 * log(1 - u)) * cos(2 * 3.14159265358979 * v);
}

/* A series in pieces: so many numbers of each. */
static void test_table(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        struct tr_spike_conf conf;
        struct {
            unsigned n;
            double value;
        } piece[4];
        unsigned begins, ends, remains;
    } row[] = {
        {"level", {6, 0.1, 8, 100, 200}, {{500, 1}}, 0, 0, 0},
        {"falls", {6, 0.1, 8, 100, 200}, {{200, 1}, {200, 0.5}}, 0, 0, 0},
        {"rises and falls", {6, 0.1, 8, 100, 200}, {{200, 1}, {20, 2}, {20, 1}}, 1, 1, 0},
        {"rises less than a tenth", {6, 0.1, 8, 100, 200}, {{200, 1}, {50, 1.05}}, 0, 0, 0},
        {"one short of the window",
         {6, 0.1, 8, 100, 200},
         {{200, 1}, {7, 2}, {1, 1}, {7, 2}},
         0,
         0,
         0},
        {"just the window", {6, 0.1, 8, 100, 200}, {{200, 1}, {8, 2}}, 1, 0, 0},
        {"falls too short", {6, 0.1, 8, 100, 200}, {{200, 1}, {10, 2}, {7, 1}, {10, 2}}, 1, 0, 0},
        {"twice", {6, 0.1, 8, 100, 200}, {{200, 1}, {8, 2}, {8, 1}, {8, 2}}, 2, 1, 0},
        {"in the warm-up", {6, 0.1, 8, 100, 200}, {{90, 1}, {9, 2}}, 0, 0, 0},
        {"stays for good", {6, 0.1, 8, 100, 20}, {{200, 1}, {600, 2}}, 1, 0, 1},
        {"window of one", {3, 0, 1, 2, 10}, {{2, 1}, {1, 2}, {1, 1}}, 1, 1, 0},
        {"below 0", {6, 0.1, 8, 100, 200}, {{200, -1}, {8, -0.5}}, 1, 0, 0},
        {"no number", {6, 0.1, 8, 100, 200}, {{200, 1}, {50, NAN}, {50, INFINITY}}, 0, 0, 0},
        {"off", {0, 0.1, 8, 100, 200}, {{200, 1}, {50, 100}}, 0, 0, 0},
        {"no warm-up", {6, 0.1, 2, 0, 200}, {{1, 1}, {2, 2}}, 1, 0, 0},
    };
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct tr_spike spike = {.conf = row[r].conf};
        unsigned got[4] = {0};
        for (size_t p = 0; p < ARRAY_LEN(row[r].piece); p++)
            for (unsigned i = 0; i < row[r].piece[p].n; i++)
                got[tr_spike_add(&spike, row[r].piece[p].value)]++;
        if (got[TR_SPIKE_BEGINS] != row[r].begins || got[TR_SPIKE_ENDS] != row[r].ends ||
            got[TR_SPIKE_REMAINS] != row[r].remains)
            fail_msg("%s: %u begin, %u end, %u remain", row[r].name, got[TR_SPIKE_BEGINS],
                     got[TR_SPIKE_ENDS], got[TR_SPIKE_REMAINS]);
        assert_int_equal(tr_spike_stands(&spike), row[r].begins - row[r].ends - row[r].remains);
    }
}

/* The first numbers weigh the same; later ones less and less: weights written out, and summed from scratch. */
static void test_moments(void **state)
{
    (void)state;
    enum { N = 300, HISTORY = 20 };
    struct tr_spike spike = {
        .conf = {.deviations = 1e9, .window = 1, .warmup = N + 1, .history = HISTORY}};
    double x[N], weight[N];
    for (unsigned n = 1; n <= N; n++) {
        double a = fmax(1.0 / n, 2.0 / (HISTORY + 1)), mean = 0, variance = 0;
        x[n - 1] = 3 + normal(7, n);
        for (unsigned i = 0; i + 1 < n; i++)
            weight[i] *= 1 - a;
        weight[n - 1] = a;
        assert_int_equal(tr_spike_add(&spike, x[n - 1]), TR_SPIKE_NOTHING);
        for (unsigned i = 0; i < n; i++)
            mean += weight[i] * x[i];
        for (unsigned i = 0; i < n; i++)
            variance += weight[i] * (x[i] - mean) * (x[i] - mean);
        if (fabs(spike.mean - mean) > 1e-12 || fabs(spike.variance - variance) > 1e-12)
            fail_msg("%u numbers: mean %.17g, variance %.17g, expected %.17g, %.17g", n, spike.mean,
                     spike.variance, mean, variance);
    }
    assert_true(fabs(tr_spike_bound(&spike) - spike.mean - 1e9 * sqrt(spike.variance)) < 1e-3);
}

/* A loss that falls to its level, with the noise of small batches, of large ones, and with some far outliers; and a norm that
 * grows while it does. */
static void test_noise(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        double noise, drift, outliers;
    } row[] = {
        {"small batches", 0.3, 0, 0}, {"large batches", 0.001, 0, 0},   {"outliers", 0.05, 0, 0.05},
        {"grows", 0.1, 1e-4, 0},      {"grows quietly", 1e-4, 2e-5, 0},
    };
    for (size_t r = 0; r < ARRAY_LEN(row); r++) {
        struct tr_spike spike = {.conf = usual};
        for (uint64_t i = 0; i < 200000; i++) {
            double level = 0.4 + 0.3 * exp(-(double)i / 300) + row[r].drift * (double)i;
            double x = level * (1 + row[r].noise * normal(r + 1, i));
            if ((double)rt_unit_f32(rt_draw(r + 100, i)) < row[r].outliers)
                x *= 50;
            if (tr_spike_add(&spike, x) != TR_SPIKE_NOTHING)
                fail_msg("%s: an alarm at number %llu: %g, mean %g, bound %g", row[r].name,
                         (unsigned long long)i, x, spike.mean, tr_spike_bound(&spike));
        }
    }
}

/* As the header says: what keeps growing is sqrt(1 + 2 g / a) deviations above the mean. */
static void test_growth(void **state)
{
    (void)state;
    static const double share[] = {0.001, 0.01, 0.05, 0.1, 0.14};
    for (size_t i = 0; i < ARRAY_LEN(share); i++) {
        struct tr_spike spike = {.conf = usual};
        double x = 1e-30, want = sqrt(1 + share[i] * (usual.history + 1.0)), got = 0;
        for (unsigned n = 0; n < 3000 && x < 1e100; n++, x *= 1 + share[i]) {
            got = (x - spike.mean) / sqrt(spike.variance);
            if (tr_spike_add(&spike, x) != TR_SPIKE_NOTHING)
                fail_msg("growth by %g: an alarm at number %u", share[i], n);
        }
        if (fabs(got / want - 1) > 0.1)
            fail_msg("growth by %g: %g deviations above the mean, expected %g", share[i], got,
                     want);
    }
}

/* What is far above is found in the first window, wherever it begins; what was learnt is not touched by it. */
static void test_burst(void **state)
{
    (void)state;
    for (unsigned at = 100; at < 1000; at += 7) {
        struct tr_spike spike = {.conf = usual};
        unsigned begun = 0;
        double mean = 0;
        for (unsigned i = 0; i < 1200; i++) {
            bool burst = i >= at && i < at + 100;
            double x = 0.4 * (1 + 0.05 * normal(at, i)) + (burst ? 1 : 0);
            if (i == at)
                mean = spike.mean;
            if (tr_spike_add(&spike, x) == TR_SPIKE_BEGINS) {
                assert_int_equal(i, at + usual.window - 1);
                begun++;
            }
            if (burst)
                assert_true(spike.mean == mean);
        }
        assert_int_equal(begun, 1);
        assert_false(tr_spike_stands(&spike));
    }
}

static void test_reset(void **state)
{
    (void)state;
    struct tr_spike spike = {.conf = usual}, fresh = {.conf = usual};
    for (unsigned i = 0; i < 300; i++)
        tr_spike_add(&spike, i < 280 ? 1 : 9);
    assert_true(tr_spike_stands(&spike));
    tr_spike_reset(&spike);
    assert_memory_equal(&spike, &fresh, sizeof spike);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),  cmocka_unit_test(test_moments), cmocka_unit_test(test_noise),
        cmocka_unit_test(test_growth), cmocka_unit_test(test_burst),   cmocka_unit_test(test_reset),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
