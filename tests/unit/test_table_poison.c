/* tests/unit/test_table_poison.c -- a million gradients that are NaN, infinite or huge, among good ones, in every optimizer and element
 * type: no row is made of them or changed by them, and the rest is to the bit what it is without them. */
#include "runtime/base/assert.h"
#include "runtime/base/half.h"
#include "runtime/base/rand.h"
#include "runtime/job/layout.h"
#include "runtime/wire/method.h"
#include "tests/unit/table_bed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

enum { DIM = 5, ROWS = 400, IDS = 20000, BATCHES = 340 };

static const uint32_t kinds[] = {RT_OPT_SGD, RT_OPT_ADAGRAD, RT_OPT_ROWWISE_ADAGRAD, RT_OPT_ADAM,
                                 RT_OPT_FTRL};
static const uint32_t dtypes[] = {WIRE_F32, WIRE_F16, WIRE_BF16};

static struct ebs_table *create(uint32_t kind)
{
    const struct rt_table_conf conf = {
        .name = "users",
        .dim = DIM,
        .dtype = WIRE_F32,
        .init = {.kind = RT_INIT_UNIFORM, .low = -0.5, .high = 0.5},
        .optimizer = {.kind = kind, .eps = 1e-10, .beta1 = 0.9, .beta2 = 0.999, .ftrl_beta = 1}};

    return table_bed_create(&conf);
}

/* A batch: ids, their gradients, and which of them are poisoned. */
struct batch {
    uint64_t id[ROWS];
    float grad[ROWS][DIM];
    bool poisoned[ROWS];
    size_t n, n_poisoned;
};

static float poison(uint32_t dtype, uint64_t draw)
{
    const float some[] = {NAN, INFINITY, -INFINITY, 1e20F};

    return some[rt_below(draw, dtype == WIRE_F16 ? 3 : 4)]; /* 1e20 is infinite there */
}

static void draw_batch(uint64_t key, uint32_t dtype, struct batch *b)
{
    b->n = ROWS;
    b->n_poisoned = 0;
    for (size_t i = 0; i < ROWS; i++) {
        uint64_t at = i * 16;

        b->id[i] = rt_draw(1, rt_below(rt_draw(key, at), IDS));
        for (size_t d = 0; d < DIM; d++)
            b->grad[i][d] = rt_unit_f32(rt_draw(key, at + 1 + d)) - 0.5F;
        b->poisoned[i] = rt_below(rt_draw(key, at + 8), 2) == 0;
        if (b->poisoned[i])
            b->grad[i][rt_below(rt_draw(key, at + 9), DIM)] = poison(dtype, rt_draw(key, at + 10));
        b->n_poisoned += b->poisoned[i];
    }
}

static void leave_out(struct batch *b)
{
    size_t n = 0;

    for (size_t i = 0; i < b->n; i++) {
        if (b->poisoned[i])
            continue;
        b->id[n] = b->id[i];
        memmove(b->grad[n++], b->grad[i], sizeof(b->grad[i]));
    }
    b->n = n;
}

static struct ebs_applied apply(struct ebs_table *table, const struct batch *b, uint32_t dtype,
                                uint64_t step)
{
    uint16_t half[ROWS * DIM];
    struct ebs_update update = {
        .id = b->id, .grad = b->grad, .n = b->n, .dtype = dtype, .lr = 0.05F, .step = step};
    struct ebs_applied applied = {0};

    if (dtype != WIRE_F32) {
        rt_narrow(dtype, b->grad[0], half, b->n * DIM);
        update.grad = half;
    }
    ebs_table_apply(table, &update, &applied);
    return applied;
}

static void check_finite(const struct ebs_table *table, uint32_t state_count)
{
    struct ebs_row row;

    for (uint32_t at = 0; ebs_table_next(table, &at, &row);) {
        float weight[DIM];

        memcpy(weight, row.weight, sizeof(weight));
        for (size_t d = 0; d < DIM; d++)
            assert_true(isfinite(weight[d]));
        for (uint32_t k = 0; k < state_count; k++)
            assert_true(isfinite(row.state[k]));
    }
}

/* @return how many were poisoned */
static uint64_t poison_some(uint32_t kind, uint32_t dtype)
{
    struct ebs_table *with = create(kind), *without = create(kind);
    struct rt_table_conf conf = {.dim = DIM, .dtype = WIRE_F32, .optimizer = {.kind = kind}};
    uint64_t poisoned = 0;

    for (uint64_t k = 0; k < BATCHES; k++) {
        struct batch b;

        draw_batch(rt_draw(100 + kind * 10 + dtype, k), dtype, &b);
        struct ebs_applied applied = apply(with, &b, dtype, k + 1);

        assert_int_equal(applied.nonfinite, b.n_poisoned);
        assert_int_equal(applied.rows, b.n - b.n_poisoned);
        poisoned += b.n_poisoned;
        leave_out(&b);
        apply(without, &b, dtype, k + 1);
    }
    assert_int_equal(ebs_table_counts(with)->nonfinite, poisoned);
    assert_int_equal(ebs_table_counts(without)->nonfinite, 0);
    check_finite(with, rt_row_layout(&conf).state_count);
    if (table_bed_digest(with) != table_bed_digest(without))
        fail_msg("optimizer %u, gradients of type %u: other rows than without the poisoned ones",
                 kind, dtype);
    ebs_table_destroy(with);
    ebs_table_destroy(without);
    return poisoned;
}

static void a_million_change_nothing(void **state)
{
    uint64_t poisoned = 0;

    (void)state;
    for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
        for (size_t d = 0; d < ARRAY_LEN(dtypes); d++)
            poisoned += poison_some(kinds[k], dtypes[d]);
    print_message("%llu poisoned gradients\n", (unsigned long long)poisoned);
    assert_true(poisoned >= 1000000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_million_change_nothing)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
