/* tests/sim/test_parts.c -- batches that a middleware cuts into parts (middleware/cut.c): nothing comes of it but smaller
 * messages; parts go again one by one; an owner that was started anew gets all that it has to put together. What a real owner
 * makes of parts is in test_slices.c, and whole jobs of them in test_faults.c. */
#include "tests/sim/middleware_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/wire/rows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

enum { SET_MAX = 4, PART_ROWS = 8 };

static const size_t part_bytes[] = {1, 300, 500, 1 << 20};

static void go_through(struct world *w)
{
    static struct input in;

    for (uint64_t b = 0; b < 6; b++) {
        mwt_make_input(&in, b);
        in.weighted = in.weighted && w->job->feature[1].pooling != RT_POOL_NONE;
        for (uint32_t s = 0; b == 5 && s < SAMPLES; s++)
            in.n_ids[1] = in.length[s] = 0;
        mwt_make_payload(&in);
        assert_int_equal(mwt_do_put(w, &in), 0);
        assert_int_equal(mwt_do_lookup(w, &in), 0);
        assert_int_equal(mwt_do_push(w, &in), 0);
        mwt_model_push(w, &in);
        mwt_check_rows(w);
    }
    assert_int_equal(mwt_number(w, "bytes_reserved"), 0);
}

/* Embeddings and rows are those of the model, which knows no parts, and no payload is over the bound, or over 8 rows. */
static void nothing_changes(void **state)
{
    static struct world world;
    struct world *w = &world;
    static const char *const set[][SET_MAX] = {
        {NULL},
        {"embedding.features.item.table=user"},
        {"embedding.features.item.pooling=sum", "global.wire.dtype=bfloat16"},
        {"embedding.features.item.table=user", "embedding.features.item.pooling=sum",
         "global.wire.dtype=float16"},
        {"embedding.features.user.pooling=none", "embedding.features.item.pooling=none",
         "embedding.features.item.table=user"},
        {"embedding.tables.user.hash={functions: 8, rows: 40}",
         "embedding.tables.item.hash={functions: 1, rows: 3}"},
    };
    const size_t row = sizeof(uint64_t) + DIM * sizeof(float), eight = PART_ROWS * row + 64;

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(set); i++)
        for (size_t b = 0; b < ARRAY_LEN(part_bytes); b++)
            for (unsigned owners = 1; owners <= OWNERS; owners++) {
                size_t n_set = 0, bound = part_bytes[b] > eight ? part_bytes[b] : eight;

                while (n_set < SET_MAX && set[i][n_set])
                    n_set++;
                mwt_start_parts(w, owners, part_bytes[b], set[i], n_set);
                go_through(w);
                for (unsigned k = 0; k < owners; k++) {
                    if (w->owner[k].bytes_max > bound)
                        fail_msg("set %zu: %zu bytes, expected at most %zu", i,
                                 w->owner[k].bytes_max, bound);
                    assert_true(b == 0
                                    ? w->owner[k].parts_max > 1
                                    : b + 1 < ARRAY_LEN(part_bytes) || w->owner[k].parts_max == 1);
                }
                mwt_stop(w);
            }
}

/* Of the parts of a lookup and of a push one is refused a few times: it comes again, and the others do not. */
static void one_part_comes_again(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    mwt_start_parts(w, 1, 1, NULL, 0);
    mwt_make_input(&in, 3);
    assert_int_equal(mwt_do_put(w, &in), 0);
    w->owner[0].fail = RT_EFULL;
    w->owner[0].fail_times = 1;
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    w->owner[0].fail_times = 1;
    assert_int_equal(mwt_do_push(w, &in), 0);
    assert_true(w->owner[0].parts_max > 2);
    assert_int_equal(w->owner[0].lookups, w->owner[0].parts_max + 1);
    assert_int_equal(w->owner[0].applies, w->owner[0].parts_max + 1);
    assert_int_equal(w->owner[0].again, 0);
    mwt_model_push(w, &in);
    mwt_check_rows(w);
    mwt_stop(w);
}

static void answer_applied(struct world *w, struct rt_call *call)
{
    struct wire_apply_gradients_reply reply = {WIRE_APPLIED, 1, 0};

    assert_int_equal(wire_apply_gradients_reply_pack(&reply, &w->out), 0);
    rt_call_reply(call, &(struct rt_outgoing){.message = w->out.data, .message_size = w->out.size});
}

/* It acks the first part, for it has applied the batch, and dies before the ack of the others is sent. What comes back may
 * know nothing of the batch, and would wait for the first part; or it acked all, and is owed nothing. */
static void an_owner_started_anew_gets_all_parts(void **state)
{
    static struct world world;
    struct world *w = &world;
    struct owner *owner = &w->owner[0];
    static struct input in;
    struct ask ask;

    (void)state;
    for (unsigned lost = 0; lost < 2; lost++) {
        unsigned parts;

        mwt_start_parts(w, 1, 1, NULL, 0);
        mwt_make_input(&in, 3);
        assert_int_equal(mwt_do_put(w, &in), 0);
        assert_int_equal(mwt_do_lookup(w, &in), 0);
        owner->hold = true;
        mwt_push(w, &in, &ask);
        sim_run_until(w->sim, NULL, NULL, RT_S);
        parts = owner->n_held;
        assert_true(parts > 2 && parts == owner->parts_max && parts == owner->applies);
        owner->n_held = 0;
        for (unsigned i = 0; i < (lost ? 1 : parts); i++)
            answer_applied(w, owner->held[i]);
        for (unsigned i = 1; i < (lost ? parts : 1); i++)
            owner->held[owner->n_held++] = owner->held[i];
        sim_run_until(w->sim, NULL, NULL, 10 * RT_MS);
        assert_int_equal(ask.ended, !lost);
        mwt_stop_owner(w, 0);
        owner->hold = false;
        mwt_start_owner(w, 0);
        assert_int_equal(mwt_wait_for(w, &ask), 0);
        sim_run_until(w->sim, NULL, NULL, RT_S);
        assert_int_equal(owner->applies, lost ? 2 * parts : parts);
        mwt_model_push(w, &in);
        mwt_check_rows(w);
        mwt_stop(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_changes),
        cmocka_unit_test(one_part_comes_again),
        cmocka_unit_test(an_owner_started_anew_gets_all_parts),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
