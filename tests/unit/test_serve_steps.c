/* tests/unit/test_serve_steps.c -- batches at an owner: repeats, parts, steps of several ranks, their order.
 *
 * Every batch is applied once, whatever is asked again and by whom; a synchronous step waits for all its ranks and
 * for the step before it. */
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/job/batch_id.h"
#include "tests/unit/serve_bed.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

/* The ledger lets batches of a split be so far apart; an owner must not take the older for applied. */
static void a_late_batch_is_applied(void **state)
{
    uint64_t id = serve_pick(0, true), sequence[] = {RT_BATCH_WINDOW - 1, 0};
    float grad[SERVE_DIM] = {1, 1};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(sequence); i++) {
        struct serve_answer *answer = serve_send(&(struct serve_update){
            .batch_id = rt_batch_id(1, sequence[i]), .id = &id, .grad = grad, .n = 1});

        serve_run(1);
        assert_int_equal(answer->err, 0);
        assert_int_equal(answer->applied.outcome, WIRE_APPLIED);
    }
    assert_true(serve_value(0, id) == 0.0f);
}

static void a_repeat_changes_nothing(void **state)
{
    uint64_t id = serve_pick(0, true);
    float grad[SERVE_DIM] = {1, 1};
    struct serve_update update = {.batch_id = rt_batch_id(1, 0), .id = &id, .grad = grad, .n = 1};

    (void)state;
    for (int i = 0; i < 4; i++) {
        struct serve_answer *answer = serve_send(&update);

        serve_run(1);
        assert_int_equal(answer->err, 0);
        assert_int_equal(answer->applied.outcome, i == 0 ? WIRE_APPLIED : WIRE_ALREADY);
    }
    assert_true(serve_value(0, id) == 0.5f);
    assert_int_equal(ebs_owner_stats(serve.owner)->updates, 1);
    assert_int_equal(ebs_owner_stats(serve.owner)->updates_again, 3);
    update.batch_id++;
    serve_send(&update);
    serve_run(1);
    assert_true(serve_value(0, id) == 0.0f);
}

static void parts_are_applied_together(void **state)
{
    uint64_t id[] = {serve_pick(0, true), serve_pick(1, true)};
    float grad[] = {1, 1, 2, 2};
    struct serve_update update = {
        .batch_id = rt_batch_id(0, 0), .parts = 2, .id = id, .grad = grad, .n = 1};
    struct serve_update other = {.batch_id = rt_batch_id(0, 0),
                                 .parts = 2,
                                 .part = 1,
                                 .id = id + 1,
                                 .grad = grad + 2,
                                 .n = 1};
    struct serve_answer *first = serve_send(&update), *second, *third;

    (void)state;
    assert_true(serve_value(0, id[0]) ==
                1.0f); /* answered after the part arrived: nothing is applied */
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 1);
    assert_false(first->done);
    other.digest = 77;
    second = serve_send(&other);
    serve_run(1);
    assert_int_equal(second->err, RT_EDIGEST);
    other.digest = 0;
    second = serve_send(&update); /* asked again: the first asker is told */
    serve_run(1);
    assert_true(first->done && first->err == RT_ECANCELED);
    third = serve_send(&other);
    serve_run(2);
    assert_true(second->applied.outcome == WIRE_APPLIED && third->applied.outcome == WIRE_APPLIED);
    assert_int_equal(second->applied.rows_applied + third->applied.rows_applied, 2);
    assert_true(serve_value(0, id[0]) == 0.5f && serve_value(0, id[1]) == 0.0f);
    third = serve_send(&other);
    serve_run(1);
    assert_int_equal(third->applied.outcome, WIRE_ALREADY);
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 0);
}

/* A middleware died after part 0 of 2; the next one sends the batch in one piece. */
static void another_cut_replaces_the_first(void **state)
{
    uint64_t id = serve_pick(0, true);
    float grad[] = {1, 1};
    struct serve_update update = {
        .batch_id = rt_batch_id(0, 0), .parts = 2, .id = &id, .grad = grad, .n = 1};
    struct serve_answer *first = serve_send(&update), *second;

    (void)state;
    update.parts = 1;
    second = serve_send(&update);
    serve_run(2);
    assert_int_equal(first->err,
                     RT_EUNKNOWN); /* not to be sent again: it would replace in its turn */
    assert_int_equal(second->applied.outcome, WIRE_APPLIED);
    assert_true(serve_value(0, id) == 0.5f);
    assert_int_equal(ebs_owner_stats(serve.owner)->updates, 1);
}

/* Two ranks make one update of the sum; Adagrad would tell it from two updates. */
static struct serve_answer *send_part(uint64_t batch, uint32_t part, const uint64_t *id)
{
    static const float grad[SERVE_DIM] = {1, 1};

    return serve_send(&(struct serve_update){
        .batch_id = batch, .part = part, .parts = 2, .id = id + part, .grad = grad, .n = 1});
}

/* Where there is no room for the parts of two batches: one is begun when the other is whole. What needs no other part is not
 * kept waiting, nor is anybody by one whose asker is gone. */
static void parts_leave_room_for_those_of_one(void **state)
{
    const uint64_t id[] = {serve_pick(0, true), serve_pick(1, true), serve_pick(2, true)};
    const uint64_t a = rt_batch_id(0, 0), b = rt_batch_id(0, 1), c = rt_batch_id(0, 2);
    struct serve_answer *first = send_part(a, 0, id), *second = send_part(b, 1, id), *third;

    (void)state;
    serve_run(1);
    assert_true(second->err == RT_EFULL && !first->done);
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 1);
    second = serve_send(
        &(struct serve_update){.batch_id = c, .id = id + 2, .grad = (float[]){1, 1}, .n = 1});
    serve_run(1);
    assert_int_equal(second->applied.outcome, WIRE_APPLIED);
    second = send_part(a, 1, id);
    serve_run(2);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    send_part(b, 1, id);
    assert_true(serve_value(0, id[0]) == 0.5f);
    serve_reconnect();
    first = send_part(rt_batch_id(0, 3), 0, id);
    second = send_part(b, 0, id);
    serve_run(1);
    assert_true(second->err == RT_EFULL && !first->done);
    third = send_part(rt_batch_id(0, 3), 1, id);
    serve_run(2);
    assert_true(first->applied.outcome == WIRE_APPLIED && third->applied.outcome == WIRE_APPLIED);
    first = send_part(b, 0, id);
    second = send_part(b, 1, id);
    serve_run(2);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_true(serve_value(0, id[0]) == -0.5f && serve_value(0, id[1]) == -0.5f);
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 0);
}

static void a_step_waits_for_all_ranks(void **state)
{
    uint64_t id[] = {serve_pick(0, true), serve_pick(1, true)};
    float zero[] = {3, 5}, one[] = {1, 7};
    struct serve_update rank0 = {.batch_id = rt_batch_id(0, 0),
                                 .step = 1,
                                 .world = 2,
                                 .synchronous = true,
                                 .table = 1,
                                 .id = id,
                                 .grad = zero,
                                 .n = 2};
    struct serve_update rank1 = rank0;
    struct serve_answer *lookup, *first, *second;

    (void)state;
    rank1.rank = 1;
    rank1.batch_id = rt_batch_id(1, 0);
    rank1.grad = one;
    rank1.n = 1; /* only the first id */
    lookup = serve_look_up(1, id, 2, 1);
    first = serve_send(&rank1);
    assert_true(serve_value(1, id[0]) == 0.0f);
    assert_true(!first->done && !lookup->done);
    assert_int_equal(ebs_owner_stats(serve.owner)->waiting, 1);
    second = serve_send(&rank0);
    serve_run(3);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_int_equal(first->applied.rows_applied + second->applied.rows_applied, 2);
    assert_int_equal(lookup->err, 0);
    /* w = -g / sqrt(g * g) for the sum 4, not 1/1 + 3/sqrt(10) */
    assert_true(fabsf(lookup->value[0] + 1.0f) < 1e-6f && fabsf(lookup->value[1] + 1.0f) < 1e-6f);
    assert_int_equal(ebs_owner_stats(serve.owner)->step, 1);
    assert_int_equal(ebs_owner_stats(serve.owner)->waiting, 0);
}

/* A middleware that asks again on a new connection leaves nothing of the old one behind. */
static void a_lost_asker_does_not_wait(void **state)
{
    uint64_t id = serve_pick(0, true);

    (void)state;
    for (int i = 0; i < 3; i++) {
        struct serve_answer *answer = serve_look_up(0, &id, 1, 9);

        assert_true(serve_value(0, id) == 1.0f); /* answered after the lookup arrived */
        assert_false(answer->done);
        assert_int_equal(ebs_owner_stats(serve.owner)->waiting, 1);
        serve_reconnect();
    }
    assert_true(serve_value(0, id) == 1.0f);
    assert_int_equal(ebs_owner_stats(serve.owner)->waiting, 0);
}

/* An empty part is a rank's word that it has no rows here; a batch applied earlier does not hold up its step. */
static void empty_and_repeated_ranks_count(void **state)
{
    uint64_t id = serve_pick(0, true);
    float grad[] = {1, 1};
    struct serve_update rank0 = {.batch_id = rt_batch_id(0, 0),
                                 .step = 1,
                                 .world = 2,
                                 .synchronous = true,
                                 .id = &id,
                                 .grad = grad,
                                 .n = 1};
    struct serve_update rank1 = {
        .batch_id = rt_batch_id(1, 0), .step = 1, .rank = 1, .world = 2, .synchronous = true};
    struct serve_answer *first = serve_send(&rank0), *second = serve_send(&rank1), *lookup;

    (void)state;
    serve_run(2);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_true(serve_value(0, id) == 0.5f);
    /* All trainers were lost: rank 0's batch is replayed as part of another step, rank 1's is new. */
    rank0.step = rank1.step = 2;
    rank1.batch_id = rt_batch_id(1, 1);
    rank1.id = &id;
    rank1.grad = grad;
    rank1.n = 1;
    lookup = serve_look_up(0, &id, 1, 2);
    first = serve_send(&rank0);
    second = serve_send(&rank1);
    serve_run(3);
    assert_int_equal(first->applied.outcome, WIRE_ALREADY);
    assert_int_equal(second->applied.outcome, WIRE_APPLIED);
    assert_true(lookup->value[0] == 0.0f);
    /* And with both repeated the step is news all the same. */
    rank0.step = rank1.step = 3;
    lookup = serve_look_up(0, &id, 1, 3);
    first = serve_send(&rank0);
    second = serve_send(&rank1);
    serve_run(3);
    assert_true(first->applied.outcome == WIRE_ALREADY && second->applied.outcome == WIRE_ALREADY);
    assert_true(lookup->err == 0 && lookup->value[0] == 0.0f);
}

/* One rank's batch of a step, a gradient of 1 for one row. */
static struct serve_answer *ask_rank(uint64_t sequence, uint64_t step, uint32_t rank,
                                     uint32_t world, const uint64_t *id)
{
    static const float one[SERVE_DIM] = {1, 1};

    return serve_send(&(struct serve_update){.batch_id = rt_batch_id(rank, sequence),
                                             .step = step,
                                             .rank = rank,
                                             .world = world,
                                             .synchronous = true,
                                             .id = id,
                                             .grad = one,
                                             .n = 1});
}

/* Rank 1 pushed, died, came back, and made the same step with another batch. */
static void a_successor_takes_the_place(void **state)
{
    uint64_t id[] = {serve_pick(0, true), serve_pick(1, true)};
    struct serve_answer *before = ask_rank(0, 1, 1, 2, id), *after = ask_rank(7, 1, 1, 2, id + 1);
    struct serve_answer *other;

    (void)state;
    serve_run(1);
    assert_int_equal(before->err, RT_EUNKNOWN);
    assert_false(after->done);
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 1);
    other = ask_rank(0, 1, 0, 2, id + 1);
    serve_run(2);
    assert_true(after->applied.outcome == WIRE_APPLIED && other->applied.outcome == WIRE_APPLIED);
    assert_true(serve_value(0, id[0]) == 1.0f && serve_value(0, id[1]) == 0.0f);
    before = ask_rank(0, 2, 1, 2, id); /* it was never applied: it may come in another step */
    ask_rank(1, 2, 0, 2, id + 1);
    serve_run(2);
    assert_int_equal(before->applied.outcome, WIRE_APPLIED);
    assert_true(serve_value(0, id[0]) == 0.5f);
}

/* All that had made the step were lost, and it is made again of other batches. Rank 1's part of the attempt before is
 * here: it does not go with them, nor does rank 0's, which comes late. */
static void attempts_at_a_step_are_kept_apart(void **state)
{
    uint64_t old = serve_pick(0, true), new = serve_pick(1, true);
    float grad[] = {1, 1};
    struct serve_update u = {.batch_id = rt_batch_id(1, 0),
                             .step = 1,
                             .attempt = 5,
                             .rank = 1,
                             .world = 2,
                             .synchronous = true,
                             .id = &old,
                             .grad = grad,
                             .n = 1};
    struct serve_answer *lost = serve_send(&u), *late, *first, *second;

    (void)state;
    u.attempt = 6;
    u.batch_id = rt_batch_id(0, 7);
    u.rank = 0;
    u.id = &new;
    first = serve_send(&u);
    u.attempt = 5;
    u.batch_id = rt_batch_id(0, 0);
    u.id = &old;
    late = serve_send(&u);
    serve_run(2);
    assert_true(lost->err == RT_EUNKNOWN && late->err == RT_EUNKNOWN && !first->done);
    u.batch_id = rt_batch_id(0, 7); /* nor does the batch itself, of a step that it was in before */
    late = serve_send(&u);
    serve_run(1);
    assert_int_equal(late->err, RT_EUNKNOWN);
    u.attempt = 6;
    u.batch_id = rt_batch_id(1, 7);
    u.rank = 1;
    u.id = &new;
    second = serve_send(&u);
    serve_run(2);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_true(serve_value(0, old) == 1.0f && serve_value(0, new) == 0.0f);
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 0);
}

/* The step after it, of that attempt, is complete here, as nothing of it is this owner's: it does not go before the one
 * that is made in its place. */
static void later_steps_of_a_lost_attempt_are_lost(void **state)
{
    uint64_t id = serve_pick(0, true);
    float grad[] = {1, 1};
    struct serve_update u = {.batch_id = rt_batch_id(1, 0),
                             .step = 2,
                             .attempt = 5,
                             .world = 1,
                             .synchronous = true,
                             .id = &id,
                             .grad = grad};
    struct serve_answer *lost = serve_send(&u), *first, *second, *lookup;

    (void)state;
    u.attempt = 6;
    u.step = 1;
    u.batch_id = rt_batch_id(0, 7);
    first = serve_send(&u);
    lookup = serve_look_up(0, &id, 1, 2);
    serve_run(2);
    assert_true(lost->err == RT_EUNKNOWN && first->applied.outcome == WIRE_APPLIED);
    assert_false(lookup->done);
    u.step = 2;
    u.batch_id = rt_batch_id(1, 7);
    u.n = 1;
    second = serve_send(&u);
    serve_run(2);
    assert_int_equal(second->applied.outcome, WIRE_APPLIED);
    assert_true(lookup->done && lookup->value[0] == 0.5f);
}

/* Ranks without a batch do not count: each step has a world of its own, and so has each attempt at one. */
static void worlds_differ_from_step_to_step(void **state)
{
    static const uint32_t world[] = {2, 1, 3, 1, 2};
    uint64_t id = serve_pick(0, true);
    struct serve_answer *answer[3], *stale;
    float want = 1.0f;

    (void)state;
    for (uint64_t s = 0; s < ARRAY_LEN(world); s++) {
        stale = ask_rank(s + 100, s + 1, 1, 4, &id); /* of an attempt by four */
        for (uint32_t r = 0; r < world[s]; r++)
            answer[r] = ask_rank(s, s + 1, r, world[s], &id);
        serve_run((int)world[s] + 1);
        assert_int_equal(stale->err, RT_EUNKNOWN);
        for (uint32_t r = 0; r < world[s]; r++)
            assert_true(answer[r]->err == 0 && answer[r]->applied.outcome == WIRE_APPLIED);
        want -= 0.5f * (float)world[s];
        assert_true(serve_value(0, id) == want);
        assert_int_equal(ebs_owner_stats(serve.owner)->step, s + 1);
        assert_int_equal(ebs_owner_stats(serve.owner)->open, 0);
    }
}

/* Steps of one rank each, not the same one: the third is complete here before the second, and the second before
 * the first, with which an owner begins. */
static void steps_are_applied_in_order(void **state)
{
    uint64_t id = serve_pick(0, true);
    struct serve_answer *third, *second, *first, *lookup;

    (void)state;
    second = ask_rank(1, 2, 0, 1, &id);
    lookup = serve_look_up(0, &id, 1, 2);
    assert_true(serve_value(0, id) == 1.0f);
    assert_true(!second->done && !lookup->done);
    first = ask_rank(0, 1, 0, 1, &id);
    serve_run(3);
    assert_true(first->applied.outcome == WIRE_APPLIED && second->applied.outcome == WIRE_APPLIED);
    assert_true(lookup->value[0] == 0.0f);
    third = ask_rank(3, 4, 0, 1, &id);
    lookup = serve_look_up(0, &id, 1, 4);
    assert_true(serve_value(0, id) == 0.0f);
    assert_true(!third->done && !lookup->done);
    second = ask_rank(2, 3, 0, 1, &id);
    serve_run(3);
    assert_true(second->applied.outcome == WIRE_APPLIED && third->applied.outcome == WIRE_APPLIED);
    assert_true(lookup->value[0] == -1.0f);
    assert_int_equal(ebs_owner_stats(serve.owner)->step, 4);
}

/* An owner that has come back with nothing does not wait for what all owners had before. */
static void an_empty_owner_is_told_where_to_begin(void **state)
{
    uint64_t id = serve_pick(0, true);
    float grad[] = {1, 1};
    struct serve_update late = {.batch_id = rt_batch_id(0, 9),
                                .step = 9,
                                .world = 1,
                                .synchronous = true,
                                .id = &id,
                                .grad = grad,
                                .n = 1},
                        next = late;
    struct serve_answer *ninth = serve_send(&late), *tenth, *seen = serve_look_up(0, &id, 1, 8);

    (void)state;
    assert_true(serve_value(0, id) == 1.0f);
    assert_true(!ninth->done && !seen->done);
    next.batch_id = rt_batch_id(0, 10);
    next.step = 10;
    next.applied_through = 8; /* the ninth is on its way still, and goes first */
    tenth = serve_send(&next);
    serve_run(3);
    assert_int_equal(seen->err, 0);
    assert_true(seen->value[0] == 1.0f);
    assert_true(ninth->applied.outcome == WIRE_APPLIED && tenth->applied.outcome == WIRE_APPLIED);
    assert_true(serve_value(0, id) == 0.0f);
    assert_int_equal(ebs_owner_stats(serve.owner)->step, 10);
}

/* What waits when the owner goes is answered or freed; ASan sees the rest. */
static void an_owner_goes_with_work_open(void **state)
{
    uint64_t id = serve_pick(0, true);
    float grad[] = {1, 1};

    (void)state;
    serve_send(&(struct serve_update){.parts = 2, .id = &id, .grad = grad, .n = 1});
    serve_send(&(struct serve_update){.batch_id = 1,
                                      .step = 4,
                                      .world = 2,
                                      .synchronous = true,
                                      .id = &id,
                                      .grad = grad,
                                      .n = 1});
    serve_look_up(0, &id, 1, 4);
    assert_true(serve_value(0, id) == 1.0f);
    assert_int_equal(ebs_owner_stats(serve.owner)->open, 2);
}
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_late_batch_is_applied, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(a_repeat_changes_nothing, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(parts_are_applied_together, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(another_cut_replaces_the_first, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(parts_leave_room_for_those_of_one, serve_set_up_narrow,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(a_step_waits_for_all_ranks, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(a_lost_asker_does_not_wait, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(empty_and_repeated_ranks_count, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(a_successor_takes_the_place, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(attempts_at_a_step_are_kept_apart, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(later_steps_of_a_lost_attempt_are_lost, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(worlds_differ_from_step_to_step, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(steps_are_applied_in_order, serve_set_up, serve_tear_down),
        cmocka_unit_test_setup_teardown(an_empty_owner_is_told_where_to_begin, serve_set_up,
                                        serve_tear_down),
        cmocka_unit_test_setup_teardown(an_owner_goes_with_work_open, serve_set_up,
                                        serve_tear_down),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("serve_steps", tests, NULL, NULL);
}
