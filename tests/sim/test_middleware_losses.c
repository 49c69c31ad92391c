/* tests/sim/test_middleware_losses.c -- a loop of the middleware while owners are lost, busy or refuse, composers die
 * and links break. */
#include "tests/sim/middleware_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

/* Owner 1 dies with the request in its hands, after it did the work, and owner 0 has answered. */
static void owner_lost_between(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 4);
    assert_int_equal(mwt_do_put(w, &in), 0);
    for (int round = 0; round < 2; round++) {
        unsigned before = w->owner[0].lookups + w->owner[0].applies;

        w->owner[1].hold = true;
        (round ? mwt_push : mwt_lookup)(w, &in, &ask);
        sim_run_until(w->sim, NULL, NULL, RT_S);
        assert_int_equal(w->owner[1].n_held, 1);
        assert_int_equal(ask.ended, 0);
        sim_break(w->sim, NODE_M, NODE_E + 1); /* the connection first, then the process */
        sim_run_until(w->sim, NULL, NULL, 3 * RT_S);
        assert_int_equal(w->owner[1].n_held, 2);
        mwt_stop_owner(w, 1);
        sim_run_until(w->sim, NULL, NULL, 3 * RT_S);
        assert_int_equal(ask.ended, 0);
        assert_false(mw_loop_ready(w->loop));
        w->owner[1].hold = false;
        mwt_start_owner(w, 1);
        assert_int_equal(mwt_wait_for(w, &ask), 0);
        assert_int_equal(w->owner[0].lookups + w->owner[0].applies, before + 1);
        if (!round)
            mwt_check_embeddings(w, &in, &ask);
        rt_buf_unref(ask.payload);
    }
    mwt_model_push(w, &in);
    mwt_check_rows(w);
    assert_true(mwt_number(w, "retries") >= 4);
    mwt_stop(w);
}

/* In `full` other ranks' parts of the step may have to come again there, and wait for ours. */
static void an_owner_started_anew_gets_again_what_it_acked(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    for (unsigned synchronous = 0; synchronous < 2; synchronous++) {
        mwt_start(w, NULL, 0);
        mwt_make_input(&in, 5);
        assert_int_equal(mwt_do_put(w, &in), 0);
        assert_int_equal(mwt_do_lookup(w, &in), 0);
        w->owner[1].hold = true;
        mwt_push_as(w, &in, synchronous, &ask);
        sim_run_until(w->sim, NULL, NULL, RT_S);
        assert_int_equal(w->owner[0].applies, 1);
        sim_break(w->sim, NODE_M, NODE_E); /* the connection alone: what it has acked is there */
        sim_run_until(w->sim, NULL, NULL, 3 * RT_S);
        assert_int_equal(w->owner[0].again, 0);
        mwt_stop_owner(w, 0);
        mwt_start_owner(w, 0);
        sim_run_until(w->sim, NULL, NULL, 3 * RT_S);
        assert_int_equal(w->owner[0].again, synchronous);
        assert_int_equal(ask.ended, 0);
        w->owner[1].hold = false;
        sim_break(w->sim, NODE_M, NODE_E + 1);
        assert_int_equal(mwt_wait_for(w, &ask), 0);
        mwt_model_push(w, &in);
        mwt_check_rows(w);
        mwt_stop(w);
    }
}

/* A trainer that started anew asks for another step while an owner is away and nothing is out. */
static void another_step_while_an_owner_is_away(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask first, second;

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 4);
    assert_int_equal(mwt_do_put(w, &in), 0);
    mwt_stop_owner(w, 1);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    mwt_lookup_step(w, &in, 1, &first);
    sim_run_until(w->sim, NULL, NULL, RT_S);
    assert_int_equal(w->owner[0].lookups, 1); /* it has answered */
    assert_int_equal(first.ended, 0);
    mwt_lookup_step(w, &in, 2, &second);
    assert_int_equal(mwt_wait_for(w, &first), RT_ENOTREADY);
    mwt_start_owner(w, 1);
    assert_int_equal(mwt_wait_for(w, &second), 0);
    mwt_check_embeddings(w, &in, &second);
    assert_int_equal(w->owner[0].lookups, 2); /* asked anew: its rows were of another step */
    rt_buf_unref(second.payload);
    mwt_stop(w);
}

static void a_busy_owner_is_asked_again(void **state)
{
    static const int busy[] = {RT_EFULL, RT_ENOTREADY, RT_ESTALE};
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    mwt_start(w, NULL, 0);
    for (uint64_t b = 0; b < ARRAY_LEN(busy); b++) {
        mwt_make_input(&in, b);
        assert_int_equal(mwt_do_put(w, &in), 0);
        for (int round = 0; round < 2; round++) {
            w->owner[0].fail = busy[b];
            w->owner[0].fail_times = 3;
            assert_int_equal(round ? mwt_do_push(w, &in) : mwt_do_lookup(w, &in), 0);
        }
        mwt_model_push(w, &in);
    }
    mwt_check_rows(w);
    mwt_stop(w);
}

static void an_owner_that_refuses_ends_it(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 1);
    assert_int_equal(mwt_do_put(w, &in), 0);
    for (int round = 0; round < 2; round++) {
        w->owner[1].fail = RT_EOWNER;
        w->owner[1].fail_times = 1;
        (round ? mwt_push : mwt_lookup)(w, &in, &ask);
        assert_int_equal(mwt_wait_for(w, &ask), RT_EOWNER);
        assert_non_null(strstr(ask.text, "as told"));
        assert_int_equal(round ? mwt_do_push(w, &in) : mwt_do_lookup(w, &in),
                         0); /* it can be asked again */
    }
    mwt_model_push(w, &in);
    mwt_check_rows(w);
    mwt_stop(w);
}

/* The owners hold the batch until a step that is never made: its trainer started anew, looks it up again, and
 * pushes it as part of another step; or pushes it again at once. */
static void another_step_while_pushed(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask first, second;

    (void)state;
    mwt_start(w, NULL, 0);
    for (int round = 0; round < 2; round++) {
        mwt_make_input(&in, (uint64_t)round);
        assert_int_equal(mwt_do_put(w, &in), 0);
        assert_int_equal(mwt_do_lookup(w, &in), 0);
        for (int k = 0; k < OWNERS; k++) {
            rt_map_put(&w->owner[k].applied, in.batch, 1); /* so that the model counts it once */
            w->owner[k].hold = true;
        }
        mwt_push_step(w, &in, 5, &first);
        assert_true(sim_run_until(w->sim, mwt_both_hold, w, RT_S));
        w->owner[0].hold = w->owner[1].hold = false;
        for (int k = 0; k < OWNERS; k++)
            rt_map_remove(&w->owner[k].applied, in.batch);
        if (round == 0) {
            assert_int_equal(mwt_do_lookup(w, &in), 0);
            assert_int_equal(mwt_wait_for(w, &first), RT_ENOTREADY);
        }
        mwt_push_step(w, &in, 8, &second);
        assert_int_equal(mwt_wait_for(w, &second), 0);
        if (round == 1)
            assert_int_equal(mwt_wait_for(w, &first), RT_ENOTREADY);
        mwt_model_push(w, &in);
        mwt_check_rows(w);
        assert_int_equal(mwt_number(w, "batches_open"), 0);
        for (int k = 0; k < OWNERS; k++) { /* what comes late is for nobody */
            rt_call_fail(w->owner[k].held[0], RT_EUNKNOWN, "another attempt took its place");
            w->owner[k].n_held = 0;
        }
        sim_run_until(w->sim, NULL, NULL, RT_S);
    }
    mwt_stop(w);
}

static void a_dead_composer_leaves_nothing(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in[4];

    (void)state;
    mwt_start(w, NULL, 0);
    for (uint64_t b = 0; b < 3; b++) {
        mwt_make_input(&in[b], b);
        assert_int_equal(mwt_do_put(w, &in[b]), 0);
    }
    assert_int_equal(mwt_do_lookup(w, &in[0]), 0); /* a trainer has it: it may still be pushed */
    mwt_start_composer(w, 6);
    mwt_settle(w);
    assert_int_equal(mwt_do_put(w, &in[1]), 0); /* put again: kept */
    assert_int_equal(mwt_number(w, "dropped_dead"), 1);
    assert_int_equal(mwt_number(w, "batches_open"), 2);
    assert_int_equal(mwt_do_push(w, &in[0]), 0);
    mwt_model_push(w, &in[0]);
    assert_int_equal(mwt_do_lookup(w, &in[1]), 0);
    assert_int_equal(mwt_do_lookup(w, &in[2]), RT_EUNKNOWN);
    mwt_stop(w);
}

/* ---- many batches while connections break ---- */

enum { FLIGHT = 8, BATCHES = 120 };

struct flight {
    struct input in;
    struct ask ask;
    int stage; /* 0 to be put, 1 put, 2 looked up, 3 pushed */
    bool out;
};

static void advance(struct world *w, struct flight *f)
{
    struct rt_peer *peer = f->stage == 0 ? w->from_composer : w->from_trainer;

    if (f->out && f->ask.ended) {
        f->out = false;
        rt_buf_unref(f->ask.payload);
        f->ask.payload = NULL;
        if (!f->ask.err) {
            f->stage++;
        } else {
            assert_true(f->ask.err == RT_EPEER || f->ask.err == RT_EDEADLINE ||
                        f->ask.err == RT_EUNKNOWN);
            f->stage = 0;
        }
    }
    if (f->out || f->stage == 3 || !rt_peer_is_up(peer))
        return;
    f->out = true;
    (f->stage == 0 ? mwt_put : f->stage == 1 ? mwt_lookup : mwt_push)(w, &f->in, &f->ask);
}

static void random_losses(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct flight flight[FLIGHT];
    uint64_t seed = 20261122, draws = 0, begun = 0, done = 0;

    (void)state;
    printf("seed %llu\n", (unsigned long long)seed);
    mwt_start(w, NULL, 0);
    for (int i = 0; i < FLIGHT; i++)
        flight[i].stage = 3;
    while (done < BATCHES) {
        for (int i = 0; i < FLIGHT; i++) {
            struct flight *f = &flight[i];

            if (f->stage == 3 && begun < BATCHES) {
                memset(f, 0, sizeof(*f));
                mwt_make_input(&f->in, begun++);
            }
            if (f->stage < 3) {
                advance(w, f);
                if (f->stage == 3) {
                    mwt_model_push(w, &f->in);
                    done++;
                }
            }
        }
        if (rt_below(rt_draw(seed, draws++), 6) == 0)
            sim_break(w->sim, NODE_M,
                      NODE_C + (unsigned)rt_below(rt_draw(seed, draws++), NODES - 1));
        if (rt_below(rt_draw(seed, draws++), 200) == 0) {
            unsigned k = (unsigned)rt_below(rt_draw(seed, draws++), OWNERS);

            mwt_stop_owner(w, k);
            sim_run_until(w->sim, NULL, NULL, RT_MS);
            mwt_start_owner(w, k);
        }
        sim_run_until(w->sim, NULL, NULL, rt_below(rt_draw(seed, draws++), RT_MS));
    }
    mwt_check_rows(w);
    assert_int_equal(mwt_number(w, "batches_put"), mwt_number(w, "pushes"));
    assert_int_equal(mwt_number(w, "batches_open"), 0);
    printf("%llu requests again, %u already applied\n",
           (unsigned long long)mwt_number(w, "retries"), w->owner[0].again + w->owner[1].again);
    assert_true(mwt_number(w, "retries") > 0);
    mwt_stop(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(owner_lost_between),
        cmocka_unit_test(an_owner_started_anew_gets_again_what_it_acked),
        cmocka_unit_test(another_step_while_an_owner_is_away),
        cmocka_unit_test(a_busy_owner_is_asked_again),
        cmocka_unit_test(an_owner_that_refuses_ends_it),
        cmocka_unit_test(another_step_while_pushed),
        cmocka_unit_test(a_dead_composer_leaves_nothing),
        cmocka_unit_test(random_losses),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
