/* tests/unit/test_ledger.c -- an epoch's end, export and import, what must not shrink. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/job/batch_id.h"
#include "runtime/job/ledger.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

static struct rt_ledger *make(void)
{
    struct rt_ledger *ledger = NULL;

    assert_int_equal(rt_ledger_create(64, &ledger), 0);
    return ledger;
}

static int end(struct rt_ledger *ledger, uint32_t split, uint64_t at, uint64_t rows, uint64_t bad)
{
    struct wire_split_ledger ended = {
        .split = split, .end_sequence = at, .rows_read = rows, .rows_quarantined = bad};

    return rt_ledger_end(ledger, &ended);
}

static void stepped_then_finished(void **state)
{
    struct rt_ledger *ledger = make();
    uint64_t a = rt_batch_id(2, 0), b = rt_batch_id(2, 1);

    (void)state;
    assert_int_equal(rt_ledger_stepped(ledger, a), 0);
    assert_true(rt_ledger_is_stepped(ledger, a));
    assert_false(rt_ledger_is_finished(ledger, a));
    assert_int_equal(rt_ledger_finished(ledger, a), 0);
    assert_true(rt_ledger_is_finished(ledger, a));
    assert_int_equal(rt_ledger_finished(ledger, b), 0); /* dropped: never in the weights */
    assert_true(rt_ledger_is_stepped(ledger, b));
    assert_int_equal(rt_ledger_stepped(ledger, rt_batch_id(RT_SPLIT_EVALUATE, 0)), RT_EPROTO);
    assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(2, 2 + 64)), RT_ELIMIT);
    assert_int_equal(end(ledger, RT_SPLIT_EVALUATE, 1, 1, 0), RT_EPROTO);
    rt_ledger_destroy(ledger);
}

static void dropped_batches_do_not_hold_the_mark(void **state)
{
    struct rt_ledger *ledger = make();

    (void)state;
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(0, i)), 0);
    rt_ledger_destroy(ledger);
}

static void epochs(void **state)
{
    struct rt_ledger *ledger = make();
    uint64_t read, bad;

    (void)state;
    assert_false(rt_ledger_epoch_over(ledger, 2));
    assert_int_equal(end(ledger, 0, 2, 200, 3), 0);
    assert_int_equal(end(ledger, 1, 0, 0, 0), 0); /* an empty split */
    assert_false(rt_ledger_epoch_over(ledger, 2));
    assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(0, 1)), 0);
    assert_false(rt_ledger_epoch_over(ledger, 2));
    assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(0, 0)), 0);
    assert_true(rt_ledger_epoch_over(ledger, 2));
    assert_false(rt_ledger_epoch_over(ledger, 3));
    rt_ledger_next_epoch(ledger);
    assert_false(rt_ledger_epoch_over(ledger, 2));
    assert_int_equal(end(ledger, 1, 0, 0, 0), 0);
    assert_int_equal(end(ledger, 0, 1, 400, 6), RT_EPROTO);
    assert_int_equal(end(ledger, 0, 4, 199, 6), RT_EPROTO);
    assert_int_equal(end(ledger, 0, 4, 400, 2), RT_EPROTO);
    assert_false(rt_ledger_epoch_over(ledger, 2));
    assert_int_equal(end(ledger, 0, 3, 400, 6), 0);
    assert_int_equal(end(ledger, 0, 3, 400, 6), 0);
    assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(0, 2)), 0);
    assert_true(rt_ledger_epoch_over(ledger, 2));
    rt_ledger_rows(ledger, &read, &bad);
    assert_int_equal(read, 400);
    assert_int_equal(bad, 6);
    rt_ledger_destroy(ledger);
}

/* Is a batch of a rank still to come? Ranks of split s: (s + sequence) mod world. */
static void split_done(void **state)
{
    struct rt_ledger *ledger = make();

    (void)state;
    assert_false(rt_ledger_split_done(ledger, 1, 0, 2));
    assert_int_equal(rt_ledger_stepped(ledger, rt_batch_id(1, 1)), 0);
    assert_false(rt_ledger_split_done(ledger, 1, 0, 2)); /* it has not ended */
    assert_int_equal(end(ledger, 1, 3, 30, 0), 0);
    assert_true(rt_ledger_split_done(ledger, 1, 0, 2));  /* sequence 1 only */
    assert_false(rt_ledger_split_done(ledger, 1, 1, 2)); /* 0 and 2 */
    assert_int_equal(rt_ledger_finished(ledger, rt_batch_id(1, 0)), 0);
    assert_false(rt_ledger_split_done(ledger, 1, 1, 2));
    assert_int_equal(rt_ledger_stepped(ledger, rt_batch_id(1, 2)), 0);
    assert_true(rt_ledger_split_done(ledger, 1, 1, 2));
    assert_true(rt_ledger_split_done(ledger, 1, 5, 9)); /* it has none of three */
    rt_ledger_next_epoch(ledger);
    assert_false(rt_ledger_split_done(ledger, 1, 0, 2));
    rt_ledger_destroy(ledger);
}

static void export_and_import(void **state)
{
    struct rt_ledger *from = make(), *to = make();
    struct wire_split_ledger *list = NULL;
    struct rt_arena *arena = NULL;
    uint64_t read, bad;
    uint32_t n = 0;

    (void)state;
    assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
    assert_int_equal(rt_ledger_finished(from, rt_batch_id(1, 0)), 0);
    assert_int_equal(rt_ledger_finished(from, rt_batch_id(1, 3)), 0);
    assert_int_equal(rt_ledger_stepped(from, rt_batch_id(7, 12)), 0);
    assert_int_equal(end(from, 100, 5, 50, 1), 0);
    assert_int_equal(rt_ledger_export(from, arena, &list, &n), 0);
    assert_int_equal(n, 3);
    assert_int_equal(list[0].split, 1);
    assert_int_equal(list[0].finished_low, 1);
    assert_int_equal(list[0].finished_bytes, 1);
    assert_int_equal(list[0].finished[0], 4);
    assert_int_equal(list[1].stepped_bytes, 2);
    assert_int_equal(list[2].end_sequence, 5);

    assert_int_equal(rt_ledger_finished(to, rt_batch_id(9, 0)), 0); /* replaced */
    assert_int_equal(rt_ledger_import(to, list, n), 0);
    assert_true(rt_ledger_is_finished(to, rt_batch_id(1, 3)));
    assert_true(rt_ledger_is_stepped(to, rt_batch_id(7, 12)));
    assert_false(rt_ledger_is_finished(to, rt_batch_id(1, 1)));
    assert_false(rt_ledger_is_finished(to, rt_batch_id(9, 0)));
    rt_ledger_rows(to, &read, &bad);
    assert_int_equal(read, 50);

    list[2].split = RT_SPLIT_EVALUATE; /* the last one is bad: nothing may change */
    assert_int_equal(rt_ledger_import(from, list, n), RT_EPROTO);
    assert_true(rt_ledger_is_stepped(from, rt_batch_id(7, 12)));
    list[2] = (struct wire_split_ledger){.split = 3, .finished_low = 2, .stepped_low = 1};
    assert_int_equal(rt_ledger_import(from, list, n), RT_EPROTO);
    rt_ledger_destroy(from);
    rt_ledger_destroy(to);
    rt_arena_destroy(arena);
}

static int whole_life(void)
{
    struct rt_ledger *ledger = NULL, *other = NULL;
    struct wire_split_ledger *list = NULL;
    struct rt_arena *arena = NULL;
    uint32_t n = 0;
    int err = rt_ledger_create(64, &ledger);

    if (!err)
        err = rt_ledger_create(64, &other);
    if (!err)
        err = rt_arena_create(1 << 20, &arena);
    if (!err)
        err = rt_ledger_finished(ledger, rt_batch_id(70, 1));
    if (!err)
        err = end(ledger, 70, 2, 10, 0);
    if (!err)
        err = rt_ledger_export(ledger, arena, &list, &n);
    if (!err)
        err = rt_ledger_import(other, list, n);
    rt_ledger_destroy(ledger);
    rt_ledger_destroy(other);
    rt_arena_destroy(arena);
    return err;
}

static void every_allocation_may_fail(void **state)
{
    int nth = 0, err;

    (void)state;
    for (;; nth++) {
        rt_fault_alloc(nth);
        err = whole_life();
        rt_fault_alloc(-1);
        if (!err)
            break;
        assert_int_equal(err, RT_ENOMEM);
    }
    assert_true(nth > 15);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stepped_then_finished),
        cmocka_unit_test(dropped_batches_do_not_hold_the_mark),
        cmocka_unit_test(epochs),
        cmocka_unit_test(split_done),
        cmocka_unit_test(export_and_import),
        cmocka_unit_test(every_allocation_may_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
