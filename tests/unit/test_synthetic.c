/* tests/unit/test_synthetic.c -- the generated click log: pure, Zipf, hard enough, known truth. */
#include "data_compose/synthetic.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/rand.h"
#include "runtime/conf/yaml.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ROWS 60000u

static void purity(void **state)
{
    struct dc_synthetic *a = dc_synthetic_create(3), *b = dc_synthetic_create(3),
                        *other = dc_synthetic_create(4);
    struct dc_synthetic_row x, y;
    uint32_t differ = 0;

    (void)state;
    memset(&x, 0, sizeof(x));
    memset(&y, 0, sizeof(y));
    for (uint64_t n = 0; n < 2000; n++) { /* forwards and backwards: the same rows */
        dc_synthetic_row(a, DC_SYNTHETIC_TRAIN, n, &x);
        dc_synthetic_row(b, DC_SYNTHETIC_TRAIN, 1999 - n, &y);
        dc_synthetic_row(b, DC_SYNTHETIC_TRAIN, n, &y);
        assert_memory_equal(&x, &y, sizeof(x));
        dc_synthetic_row(a, DC_SYNTHETIC_TEST, n, &y);
        differ += x.dense[0] != y.dense[0];
        dc_synthetic_row(other, DC_SYNTHETIC_TRAIN, n, &y);
        differ += x.dense[0] != y.dense[0];
    }
    assert_int_equal(differ, 4000);
    dc_synthetic_destroy(a);
    dc_synthetic_destroy(b);
    dc_synthetic_destroy(other);
}

/* Observed shares of popular ids against (rank + 2)^-1.1 / sum, five standard errors. */
static void ids(void **state)
{
    struct dc_synthetic *s = dc_synthetic_create(1);
    static uint32_t count[DC_SYNTHETIC_FEATURES][20000];
    struct dc_synthetic_row row;

    (void)state;
    memset(count, 0, sizeof(count));
    for (uint64_t n = 0; n < ROWS; n++) {
        dc_synthetic_row(s, DC_SYNTHETIC_TRAIN, n, &row);
        for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++) {
            assert_true(row.id[f] < dc_synthetic_vocabulary(f));
            count[f][row.id[f]]++;
        }
    }
    for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++) {
        double sum = 0;

        for (uint32_t i = 0; i < dc_synthetic_vocabulary(f); i++)
            sum += pow(i + 2.0, -1.1);
        for (uint32_t i = 0; i < 20; i++) {
            double p = pow(i + 2.0, -1.1) / sum, got = (double)count[f][i] / ROWS;
            if (fabs(got - p) > 5 * sqrt(p / ROWS))
                fail_msg("feature %u id %u: share %.4f, want %.4f", f, i, got, p);
        }
    }
    dc_synthetic_destroy(s);
}

struct score {
    double score;
    float label;
};

static int by_score(const void *a, const void *b)
{
    double x = ((const struct score *)a)->score, y = ((const struct score *)b)->score;

    return (x > y) - (x < y);
}

static double sorted_auc(struct score *s, uint32_t n)
{
    double below = 0, positives = 0, won = 0;

    qsort(s, n, sizeof(*s), by_score);
    for (uint32_t i = 0; i < n; i++) {
        if (s[i].label > 0.5f) {
            won += below;
            positives++;
        } else {
            below++;
        }
    }
    return won / (positives * below);
}

/* For several seeds: the same difficulty, calibrated labels, and the binned AUC is the sorted one. */
static void difficulty(void **state)
{
    static struct score score[ROWS];

    (void)state;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        struct dc_synthetic *s = dc_synthetic_create(seed);
        struct dc_auc *auc = dc_auc_create();
        struct dc_synthetic_row row;
        double clicks = 0, expected = 0;

        assert_true(dc_auc_value(auc) == 0.5);
        for (uint32_t n = 0; n < ROWS; n++) {
            dc_synthetic_row(s, DC_SYNTHETIC_TEST, n, &row);
            dc_auc_add(auc, row.probability, row.label);
            score[n] = (struct score){row.probability, row.label};
            clicks += (double)row.label;
            expected += row.probability;
        }
        double got = dc_auc_value(auc), want = sorted_auc(score, ROWS);
        if (fabs(got - want) > 1e-5 || want < 0.80 || want > 0.85)
            fail_msg("seed %d: AUC %.6f, sorted %.6f", (int)seed, got, want);
        if (fabs(clicks - expected) > 5 * sqrt(ROWS * 0.25) || clicks < 0.2 * ROWS ||
            clicks > 0.4 * ROWS)
            fail_msg("seed %d: %.0f clicks, expected %.0f", (int)seed, clicks, expected);
        dc_auc_destroy(auc);
        dc_synthetic_destroy(s);
    }
}

static void configuration(void **state)
{
    static const struct {
        const char *text;
        int rc;
        uint64_t rows, test_rows;
    } row[] = {
        {"{}", 0, 2000000, 100000},
        {"{rows: 10, test_rows: 0, seed: 5}", 0, 10, 0},
        {"{rows: 0}", RT_EUSAGE, 0, 0},
        {"{row: 1}", RT_EUSAGE, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct dc_synthetic_conf conf;
        struct rt_yaml *yaml;

        assert_int_equal(rt_yaml_parse("data.yml", row[i].text, strlen(row[i].text), &yaml), 0);
        assert_int_equal(dc_synthetic_conf_read(rt_yaml_root(yaml), NULL, &conf), row[i].rc);
        if (row[i].rc == 0)
            assert_true(conf.rows == row[i].rows && conf.test_rows == row[i].test_rows);
        rt_yaml_destroy(yaml);
    }
}

/* ---- what a logistic regression reaches on the same columns ---- */

enum { LR_TRAIN = 600000, LR_TEST = 60000 };

struct regression {
    float id[DC_SYNTHETIC_FEATURES][20000], dense[DC_SYNTHETIC_DENSE], bias;
    float id_sum[DC_SYNTHETIC_FEATURES][20000], dense_sum[DC_SYNTHETIC_DENSE],
        bias_sum; /* Adagrad */
};

static double lr_score(const struct regression *lr, const struct dc_synthetic_row *row)
{
    double z = lr->bias;

    for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++)
        z += lr->id[f][row->id[f]];
    for (uint32_t d = 0; d < DC_SYNTHETIC_DENSE; d++)
        z += lr->dense[d] * row->dense[d];
    return 1 / (1 + exp(-z));
}

static void lr_step(float *weight, float *sum, double gradient)
{
    *sum += (float)(gradient * gradient);
    *weight -= (float)(0.05 * gradient / (sqrt(*sum) + 1e-8));
}

static void lr_learn(struct regression *lr, const struct dc_synthetic_row *row)
{
    double error = lr_score(lr, row) - row->label;

    lr_step(&lr->bias, &lr->bias_sum, error);
    for (uint32_t f = 0; f < DC_SYNTHETIC_FEATURES; f++)
        lr_step(&lr->id[f][row->id[f]], &lr->id_sum[f][row->id[f]], error);
    for (uint32_t d = 0; d < DC_SYNTHETIC_DENSE; d++)
        lr_step(&lr->dense[d], &lr->dense_sum[d], error * row->dense[d]);
}

/* One-hot ids and raw dense columns: the log must ask for more than that. */
static void regression(void **state)
{
    struct dc_synthetic *s = dc_synthetic_create(1);
    struct regression *lr = calloc(1, sizeof(*lr));
    struct dc_auc *best = dc_auc_create(), *reached = dc_auc_create();
    struct dc_synthetic_row row;

    (void)state;
    assert_non_null(lr);
    for (uint64_t n = 0; n < LR_TRAIN; n++) {
        dc_synthetic_row(s, DC_SYNTHETIC_TRAIN, n, &row);
        lr_learn(lr, &row);
    }
    for (uint64_t n = 0; n < LR_TEST; n++) {
        dc_synthetic_row(s, DC_SYNTHETIC_TEST, n, &row);
        dc_auc_add(best, row.probability, row.label);
        dc_auc_add(reached, lr_score(lr, &row), row.label);
    }
    print_message("best possible AUC %.4f, logistic regression %.4f\n", dc_auc_value(best),
                  dc_auc_value(reached));
    assert_true(dc_auc_value(reached) > 0.65); /* it has learnt */
    assert_true(dc_auc_value(best) - dc_auc_value(reached) > 0.02);
    dc_auc_destroy(best);
    dc_auc_destroy(reached);
    dc_synthetic_destroy(s);
    free(lr);
}

int main(void)
{
    const struct CMUnitTest test[] = {
        cmocka_unit_test(purity),     cmocka_unit_test(regression),    cmocka_unit_test(ids),
        cmocka_unit_test(difficulty), cmocka_unit_test(configuration),
    };

    return cmocka_run_group_tests(test, NULL, NULL);
}
