/* tests/unit/test_owner_back.c -- mode `exact`: an owner that has just what is finished is worked with, another changes nothing and is told
 * to go back; and gradients of a generation that is over are refused. */
#include "embedding_server/serve.h"
#include "runtime/base/err.h"
#include "runtime/job/batch_id.h"
#include "runtime/wire/checkpoint.h"
#include "tests/unit/owner_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct rt_table_conf table = {
    .name = "t", .dim = 1, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1}};
static struct rt_job job = {.n_tables = 1, .table = &table, .global.seed = 1};

static struct {
    struct owner_bed bed;
    int err, back;
    bool imported; /* what trainer/0 says of itself */
    char text[256], back_text[256];
    struct wire_tell_ledger_reply told;
} now;

static int open_bed(void **state)
{
    (void)state;
    job.global.mode = RT_MODE_FULL;
    job.global.exact = true;
    now.back = 0;
    now.imported = false;
    owner_bed_open(&now.bed, &(struct owner_bed_conf){.job = &job});
    owner_bed_connect_as(&now.bed, 0, RT_ROLE_TRAINER);
    return 0;
}

static int close_bed(void **state)
{
    (void)state;
    owner_bed_close(&now.bed);
    return 0;
}

static void have(uint64_t n)
{
    struct ebs_filter *filter = now.bed.owner->filter;

    for (uint64_t i = 0; i < n; i++) {
        assert_int_equal(ebs_filter_reserve(filter, rt_batch_id(0, i)), 0);
        ebs_filter_set(filter, rt_batch_id(0, i));
    }
}

static void on_reply(void *arg, int err, const struct rt_frame *reply)
{
    struct rt_arena *arena;

    now.err = err;
    snprintf(now.text, sizeof(now.text), "%s", err ? rt_err_text() : "");
    if (!err && arg) {
        assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
        assert_int_equal(wire_tell_ledger_reply_unpack(reply->message, reply->header.message_size,
                                                       arena, &now.told),
                         0);
        rt_arena_destroy(arena);
    }
    rt_loop_stop(now.bed.loop);
}

static void tell(const struct wire_tell_ledger *m)
{
    struct wire_out out = {0};

    assert_int_equal(wire_tell_ledger_pack(m, &out), 0);
    owner_bed_ask(&now.bed, 0, WIRE_TELL_LEDGER, 0, &out, NULL, 0, on_reply, &now);
    rt_loop_run(now.bed.loop);
}

static void tell_ledger(uint64_t finished, uint64_t attempt, bool check)
{
    const struct wire_split_ledger ledger = {.stepped_low = finished, .finished_low = finished};
    struct wire_await_phase_reply phase = {
        .phase = 1, .kind = WIRE_PHASE_TRAIN, .n_ledger = 1, .ledger = &ledger};
    struct wire_tell_ledger m = {
        .step = 7, .attempt = attempt, .check = check, .imported = now.imported};
    struct wire_out inner = {0};

    assert_int_equal(wire_await_phase_reply_pack(&phase, &inner), 0);
    m.ledger = inner.data;
    m.ledger_size = inner.size;
    tell(&m);
    wire_out_release(&inner);
}

static void check_ledger(uint64_t finished, uint64_t attempt)
{
    tell_ledger(finished, attempt, true);
    assert_int_equal(now.err, 0);
}

static void what_differs_is_left_as_it_is(void **state)
{
    struct ebs_owner *owner = now.bed.owner;

    (void)state;
    have(4);
    check_ledger(6, 9 << 20);
    assert_int_equal(now.told.lost, 2);
    assert_true(now.told.differs && !now.told.ahead);
    assert_false(ebs_filter_seen(owner->filter, rt_batch_id(0, 5)));
    check_ledger(3, 9 << 20);
    assert_int_equal(now.told.lost, 0);
    assert_true(now.told.ahead && now.told.differs);
    assert_true(owner->history.least == 0 && owner->lost == NULL && owner->stats.lost == 0);
    assert_int_equal(owner->stats.step, 0);
    check_ledger(4, 9 << 20);
    assert_true(now.told.lost == 0 && !now.told.ahead && !now.told.differs);
    assert_int_equal(owner->history.least, 9 << 20);
    assert_int_equal(owner->stats.step, 7); /* nothing before it is on its way */
    check_ledger(6, 9 << 20); /* it may have come back: what it was told before says nothing */
    assert_int_equal(now.told.lost, 2);
}

/* Rows that were read since the checkpoint go with trainers that have read the model too, and with no others. */
static void imports_are_compared(void **state)
{
    struct ebs_owner *owner = now.bed.owner;

    (void)state;
    have(4);
    now.imported = true;
    check_ledger(4, 1);
    assert_true(now.told.differs && now.told.lost == 0 && !now.told.ahead);
    assert_true(ebs_history_waits(owner));
    owner->history.imported = true;
    check_ledger(4, 1);
    assert_false(now.told.differs);
    now.imported = false;
    check_ledger(4, 1);
    assert_true(now.told.differs);
}

/* Which steps are finished is of trainers' line: it is news to one that has been compared with them only. */
static void nothing_is_told_before(void **state)
{
    const struct wire_tell_ledger finished = {.step = 9};
    struct ebs_owner *owner = now.bed.owner;

    (void)state;
    tell(&finished);
    assert_true(now.err == 0 && owner->stats.step == 0);
    tell_ledger(0, 1, false); /* trainer/0 is of a version that compares nothing */
    assert_int_equal(now.err, RT_EUSAGE);
    assert_true(ebs_history_waits(owner));
    check_ledger(0, 1);
    tell(&finished);
    assert_true(now.err == 0 && owner->stats.step == 8);
}

/* In the other modes an owner may be ahead; what it lacks it says without counting it as lost. */
static void hybrid(void **state)
{
    struct ebs_owner *owner = now.bed.owner;

    (void)state;
    job.global.mode = RT_MODE_HYBRID;
    job.global.exact = false;
    have(4);
    check_ledger(6, 1);
    assert_true(now.told.lost == 2 && now.told.differs);
    assert_null(owner->lost);
    check_ledger(3, 1);
    assert_true(now.told.lost == 0 && now.told.ahead && !now.told.differs);
    assert_non_null(owner->lost); /* it was told: nothing is lost later */
}

static void steps_that_are_over(void **state)
{
    struct ebs_owner *owner = now.bed.owner;

    (void)state;
    assert_int_equal(ebs_history_check(owner, 30), RT_ENOTREADY);
    assert_true(ebs_history_waits(owner));
    ebs_history_begin(owner, 20);
    ebs_history_begin(owner, 10);
    assert_int_equal(ebs_history_check(owner, 19), RT_EUNKNOWN);
    assert_int_equal(ebs_history_check(owner, 20), 0);
    assert_int_equal(ebs_history_check(owner, 21), 0);
}

static void on_back(void *ctx)
{
    assert_null(ctx);
    now.back++;
    snprintf(now.back_text, sizeof(now.back_text), "%s", rt_err_text());
}

static void go_back(uint64_t attempt, const char *name)
{
    const struct wire_go_back m = {attempt, name, "`exact`: trainer/1 was started anew"};
    struct wire_out out = {0};

    assert_int_equal(wire_go_back_pack(&m, &out), 0);
    owner_bed_ask(&now.bed, 0, WIRE_GO_BACK_ROWS, 0, &out, NULL, 0, on_reply, NULL);
    rt_loop_run(now.bed.loop);
}

static void who_has_just_that_stays(void **state)
{
    struct ebs_owner *owner = now.bed.owner;

    (void)state;
    go_back(0, "");
    assert_int_equal(now.err, RT_EUSAGE); /* nobody would start it again */
    owner->conf.back = on_back;
    go_back(0, "");
    assert_true(now.err == 0 && now.back == 0);
    owner->history.base = 77;
    go_back(77, "step-7");
    assert_true(now.err == 0 && now.back == 0);
    ebs_history_begin(owner, 1);
    go_back(77, "step-7");
    assert_true(now.back == 0 && ebs_history_waits(owner)); /* for whoever comes now */
    go_back(78, "step-8");
    assert_true(now.err == 0 && now.back == 1);
    assert_string_equal(now.back_text,
                        "`exact`: trainer/1 was started anew; all roles go back to the checkpoint "
                        "step-8, and this one is to be started again");
    ebs_add(&owner->stats.updates, 1); /* it has worked since */
    go_back(77, "step-7");
    assert_int_equal(now.back, 2);
    go_back(0, "");
    assert_int_equal(now.back, 3);
    owner->stats.updates = 0;
    owner->stats.step = 8; /* none of its rows was in it */
    go_back(77, "step-7");
    assert_int_equal(now.back, 4);
    owner->stats.step = 0;
    owner->history.imported = true;
    go_back(77, "step-7");
    assert_int_equal(now.back, 5);
    go_back(0, "");
    assert_non_null(strstr(now.back_text, "go back to the beginning, and"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(what_differs_is_left_as_it_is, open_bed, close_bed),
        cmocka_unit_test_setup_teardown(imports_are_compared, open_bed, close_bed),
        cmocka_unit_test_setup_teardown(nothing_is_told_before, open_bed, close_bed),
        cmocka_unit_test_setup_teardown(hybrid, open_bed, close_bed),
        cmocka_unit_test_setup_teardown(steps_that_are_over, open_bed, close_bed),
        cmocka_unit_test_setup_teardown(who_has_just_that_stays, open_bed, close_bed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
