/* tests/unit/test_auc.c -- AUC against counting every pair, log loss against its definition. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "trainer/metric/auc.h"

static struct tr_auc *create(uint64_t limit)
{
    struct tr_auc *auc = NULL;
    assert_int_equal(tr_auc_create(TR_HEAD_BCE, limit, &auc), 0);
    return auc;
}

/* Every pair of a positive and a negative. */
static double brute_force(const float *score, const float *label, const float *weight, size_t n)
{
    double won = 0, pairs = 0;
    for (size_t i = 0; i < n; i++) {
        for (size_t j = 0; j < n; j++) {
            if (!(label[i] > 0.5f) || label[j] > 0.5f)
                continue;
            double w = weight ? (double)weight[i] * weight[j] : 1;
            pairs += w;
            won += score[i] > score[j] ? w : score[i] == score[j] ? w / 2 : 0;
        }
    }
    return pairs > 0 ? won / pairs : NAN;
}

static void test_table(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        size_t n;
        float score[6], label[6];
        double want;
    } row[] = {
        {"empty", 0, {0}, {0}, NAN},
        {"one class", 2, {0.1f, 0.2f}, {1, 1}, NAN},
        {"right", 2, {0.1f, 0.2f}, {0, 1}, 1},
        {"wrong", 2, {0.1f, 0.2f}, {1, 0}, 0},
        {"tie", 2, {0.3f, 0.3f}, {1, 0}, 0.5},
        {"signed zeros tie", 2, {-0.0f, 0}, {1, 0}, 0.5},
        {"ends", 4, {0, 1, 1, 0}, {0, 1, 1, 1}, 5.0 / 6},
        {"neighbours", 2, {0x1.fffffep-2f, 0.5f}, {0, 1}, 1},
        {"tiny", 3, {1e-45f, 1e-38f, 0}, {0, 1, 0}, 1},
        {"mixed", 6, {0.5f, 0.5f, 0.2f, 0.9f, 0.5f, 0.2f}, {1, 0, 1, 0, 1, 0}, 3.5 / 9},
    };
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct tr_auc *auc = create(10);
        struct tr_quality q;
        assert_int_equal(tr_auc_add(auc, row[i].score, row[i].label, NULL, row[i].n), 0);
        assert_int_equal(tr_auc_result(auc, NULL, &q), 0);
        bool same = isnan(row[i].want) ? isnan(q.auc) : fabs(q.auc - row[i].want) < 1e-15;
        if (!same)
            fail_msg("%s: got %.17g, want %.17g", row[i].name, q.auc, row[i].want);
        tr_auc_destroy(auc);
    }
}

/* Scores from few or many values, several additions, with and without weights. */
static void test_random(void **state)
{
    (void)state;
    enum { N = 300 };
    uint64_t seed = 20260131;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint64_t round = 0; round < 40; round++) {
        uint64_t key = rt_draw_fold(seed, round), draw = 0;
        size_t n = 1 + rt_below(rt_draw(key, draw++), N), first = rt_below(rt_draw(key, draw++), n);
        uint64_t values = round % 2 ? 1u << 30 : 7;
        float score[N], label[N], weight[N];
        double loss = 0, sum = 0, positive = 0, predicted = 0;
        for (size_t i = 0; i < n; i++) {
            score[i] = (float)rt_below(rt_draw(key, draw++), values) / (float)(values - 1);
            label[i] = (float)rt_below(rt_draw(key, draw++), 2);
            weight[i] = round % 4 < 2 ? 1 : (float)rt_below(rt_draw(key, draw++), 5);
            double p = fmin(fmax(score[i], 1e-7), 1 - 1e-7);
            loss -= weight[i] * (label[i] * log(p) + (1 - label[i]) * log(1 - p));
            sum += weight[i];
            positive += weight[i] * label[i];
            predicted += (double)weight[i] * score[i];
        }
        const float *w = round % 4 < 2 ? NULL : weight;
        struct tr_auc *auc = create(N);
        struct tr_quality q;
        assert_int_equal(tr_auc_add(auc, score, label, w, first), 0);
        assert_int_equal(
            tr_auc_add(auc, score + first, label + first, w ? w + first : NULL, n - first), 0);
        assert_int_equal(tr_auc_result(auc, NULL, &q), 0);
        double want = brute_force(score, label, w, n);
        assert_true(isnan(want) ? isnan(q.auc) : fabs(q.auc - want) < 1e-12);
        assert_int_equal(q.samples, n);
        assert_true(q.weight == sum);
        if (sum > 0) {
            assert_true(fabs(q.logloss - loss / sum) < 1e-7);
            assert_true(fabs(q.mean_label - positive / sum) < 1e-12);
            assert_true(fabs(q.mean_score - predicted / sum) < 1e-12);
        }
        if (positive > 0)
            assert_true(fabs(q.calibration - predicted / positive) < 1e-9);
        tr_auc_destroy(auc);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const float good[] = {0.5f, 0.5f}, labels[] = {0, 1};
    static const float bad[][2] = {{0.5f, -0.1f}, {1.1f, 0.5f}, {NAN, 1.1f}};
    static const float weights[][2] = {{1, -1}, {NAN, 1}, {1, INFINITY}};
    struct tr_auc *auc = create(3), *none = NULL;
    size_t n = 9;
    assert_int_equal(tr_auc_create(TR_HEAD_BCE, 0, &none), RT_EUSAGE);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        assert_int_equal(tr_auc_add(auc, bad[i], labels, NULL, 2), RT_EDATA);
    for (size_t i = 0; i < ARRAY_LEN(weights); i++)
        assert_int_equal(tr_auc_add(auc, good, labels, weights[i], 2), RT_EDATA);
    tr_auc_samples(auc, &n);
    assert_int_equal(n, 0);
    assert_int_equal(tr_auc_add(auc, good, labels, NULL, 2), 0);
    assert_int_equal(tr_auc_add(auc, good, labels, NULL, 2), RT_ELIMIT);
    tr_auc_samples(auc, &n);
    assert_int_equal(n, 2);
    tr_auc_reset(auc);
    assert_int_equal(tr_auc_add(auc, good, labels, NULL, 2), 0);
    tr_auc_destroy(auc);
}

/* Scores that are none are counted, and what is said of the others is the same as without them: of every kind of head. */
static void test_nonfinite(void **state)
{
    (void)state;
    static const float score[] = {0.25f, NAN, 0.75f, 0.5f, INFINITY, 0.5f, -INFINITY, NAN};
    static const float label[] = {0, 1, 1, 1, 0, 0, 1, 0}, weight[] = {1, 2, 3, 0.5f, 7, 2, 1, 9};
    static const uint64_t group[] = {1, 1, 1, 2, 2, 2, 1, 2};
    static const enum tr_head_kind kind[] = {TR_HEAD_BCE, TR_HEAD_MSE, TR_HEAD_SOFTMAX};
    for (size_t k = 0; k < ARRAY_LEN(kind); k++) {
        struct tr_auc *all, *some;
        struct tr_quality q, want;
        uint64_t kept_group[ARRAY_LEN(score)];
        size_t kept = 0;
        assert_int_equal(tr_auc_create(kind[k], 20, &all), 0);
        assert_int_equal(tr_auc_create(kind[k], 20, &some), 0);
        assert_int_equal(tr_auc_add(all, score, label, weight, ARRAY_LEN(score)), 0);
        for (size_t i = 0; i < ARRAY_LEN(score); i++) {
            if (!isfinite(score[i]))
                continue;
            assert_int_equal(tr_auc_add(some, &score[i], &label[i], &weight[i], 1), 0);
            kept_group[kept++] = group[i];
        }
        assert_int_equal(tr_auc_result(all, group, &q), 0);
        assert_int_equal(tr_auc_result(some, kept_group, &want), 0);
        assert_int_equal(q.nonfinite, 4);
        assert_int_equal(want.nonfinite, 0);
        q.nonfinite = 0;
        assert_memory_equal(&q, &want, sizeof q);
        tr_auc_reset(all); /* as if they had never been there, and none but them is no quality */
        assert_int_equal(tr_auc_add(all, &score[1], &label[1], NULL, 1), 0);
        assert_int_equal(tr_auc_result(all, group, &q), 0);
        assert_true(q.nonfinite == 1 && q.samples == 0 && isnan(q.loss) && isnan(q.auc));
        tr_auc_destroy(all);
        tr_auc_destroy(some);
    }
}

static void test_no_memory(void **state)
{
    (void)state;
    static const float score[] = {0.5f, 0.25f}, label[] = {1, 0};
    struct tr_auc *auc = create(10);
    struct tr_quality q;
    rt_fault_alloc(0);
    assert_int_equal(tr_auc_add(auc, score, label, NULL, 2), RT_ENOMEM);
    rt_fault_alloc(-1);
    assert_int_equal(tr_auc_add(auc, score, label, NULL, 2), 0);
    for (int nth = 0; nth < 2; nth++) {
        rt_fault_alloc(nth);
        assert_int_equal(tr_auc_result(auc, NULL, &q), RT_ENOMEM);
        rt_fault_alloc(-1);
    }
    assert_int_equal(tr_auc_result(auc, NULL, &q), 0);
    assert_true(q.auc == 1);
    tr_auc_destroy(auc);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),     cmocka_unit_test(test_random),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_nonfinite),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("auc", tests, NULL, NULL);
}
