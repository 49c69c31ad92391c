/* tests/sim/test_middleware.c -- a loop of the middleware: the life of batches, repeats, memory, malformed batches, failing
 * allocations. What is lost on the way: test_middleware_losses.c. */
#include "tests/sim/middleware_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/base/mem.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static void put_lookup_push(void **state)
{
    static const char *const shared[] = {"embedding.features.item.table=user"};
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    for (size_t n_set = 0; n_set < 2; n_set++) { /* tables of their own; one table for both */
        mwt_start(w, shared, n_set);
        for (uint64_t b = 0; b < 6; b++) {
            mwt_make_input(&in, b);
            assert_int_equal(mwt_do_put(w, &in), 0);
            assert_int_equal(mwt_do_lookup(w, &in), 0);
            assert_int_equal(mwt_do_push(w, &in), 0);
            mwt_model_push(w, &in);
            mwt_check_rows(w);
        }
        assert_int_equal(mwt_number(w, "batches_open"), 0);
        assert_int_equal(mwt_number(w, "bytes_reserved"), 0);
        assert_true(mwt_number(w, "distinct") < mwt_number(w, "ids"));
        assert_true(mwt_number(w, "batches_put") > 0 && mwt_number(w, "lookups") > 0 &&
                    mwt_number(w, "pushes") > 0);
        assert_int_equal(w->owner[0].again + w->owner[1].again, 0);
        mwt_stop(w);
    }
}

/* Settings, up to NULL, each with 1 and 2 owners: batches go through, and the rows are those of the model. */
static void go_through(const char *const set[][4], size_t n)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;

    for (size_t i = 0; i < 2 * n; i++) {
        const char *const *row = set[i / 2];
        size_t n_set = 0;

        while (n_set < 4 && row[n_set])
            n_set++;
        mwt_start_with(w, 1 + i % 2, row, n_set);
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
        mwt_stop(w);
    }
}

/* A feature of one id each, one of lists, both; of tables of their own and of one; with empty lists alone. */
static void sequences(void **state)
{
    static const char *const set[][4] = {
        {"embedding.features.item.pooling=none"},
        {"embedding.features.user.pooling=none"},
        {"embedding.features.user.pooling=none", "embedding.features.item.pooling=none"},
        {"embedding.features.user.pooling=none", "embedding.features.item.table=user"},
        {"embedding.features.item.pooling=none", "embedding.features.item.table=user"},
        {"embedding.features.user.pooling=none", "embedding.features.item.pooling=none",
         "embedding.features.item.table=user"},
        {"embedding.features.user.pooling=none", "embedding.features.item.pooling=none",
         "global.wire.dtype=bfloat16"},
        {"embedding.features.user.pooling=none", "embedding.features.item.pooling=none",
         "embedding.features.item.table=user", "global.wire.dtype=float16"},
    };

    (void)state;
    go_through(set, ARRAY_LEN(set));
}

/* Ids of one table, or of both, are the sum of several rows: with one row for all (each function agrees), a few, and as many
 * functions as there may be; of one table for two features; as sequences; in 16 bits. */
static void hashed(void **state)
{
    static const char *const set[][4] = {
        {"embedding.tables.item.hash={functions: 2, rows: 1}"},
        {"embedding.tables.item.hash={functions: 2, rows: 11}"},
        {"embedding.tables.user.hash={functions: 8, rows: 40}",
         "embedding.tables.item.hash={functions: 1, rows: 3}"},
        {"embedding.tables.user.hash={functions: 3, rows: 17}",
         "embedding.features.item.table=user"},
        {"embedding.tables.item.hash={functions: 2, rows: 11}",
         "embedding.features.item.pooling=none"},
        {"embedding.tables.user.hash={functions: 2, rows: 11}",
         "embedding.features.item.pooling=none", "embedding.features.user.pooling=none",
         "embedding.features.item.table=user"},
        {"embedding.tables.item.hash={functions: 4, rows: 23}",
         "embedding.features.item.pooling=sum", "global.wire.dtype=bfloat16"},
        {"embedding.tables.user.hash={functions: 4, rows: 23}",
         "embedding.features.item.pooling=sum", "embedding.features.item.table=user",
         "global.wire.dtype=float16"},
    };

    (void)state;
    go_through(set, ARRAY_LEN(set));
}

/* What a sequence may not have, and a trainer that counts its rows otherwise. */
static void sequences_refused(void **state)
{
    static const char *const none[] = {"embedding.features.item.pooling=none"};
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;
    struct rt_feature_conf *conf;

    (void)state;
    mwt_start(w, none, 1);
    mwt_make_input(&in, 1);
    assert_true(in.weighted);
    mwt_put(w, &in, &ask);
    assert_int_equal(mwt_wait_for(w, &ask), RT_EPROTO);
    assert_non_null(strstr(ask.text, "feature item: its ids have weights"));
    in.weighted = false;
    mwt_make_payload(&in);
    assert_int_equal(mwt_do_put(w, &in), 0);
    conf = (struct rt_feature_conf *)&w->job->feature[1];
    conf->pooling = RT_POOL_SUM; /* what the trainer takes it for */
    mwt_push(w, &in, &ask);
    conf->pooling = RT_POOL_NONE;
    assert_int_equal(mwt_wait_for(w, &ask), RT_EPROTO);
    assert_non_null(strstr(ask.text, "feature item has 0 rows, expected"));
    assert_int_equal(mwt_do_push(w, &in), 0);
    mwt_stop(w);
}

/* Each path in 16 bits, alone and together: sums of small integers stay what they are. */
static void sixteen_bits(void **state)
{
    static const char *const sum = "embedding.features.item.pooling=sum";
    static const char *const path[] = {"rows", "row_gradients", "embeddings", "gradients"};
    static const char *const dtype[] = {"bfloat16", "float16"};
    static struct world world;
    struct world *w = &world;
    static struct input in;
    uint64_t bytes[2];

    (void)state;
    for (unsigned which = 0; which < 5 * ARRAY_LEN(dtype); which++) {
        char text[ARRAY_LEN(path)][64];
        const char *set[1 + ARRAY_LEN(path)] = {sum};
        size_t n_set = 1;

        for (unsigned p = 0; p < ARRAY_LEN(path); p++)
            if (which % 5 == p || which % 5 == 4) {
                snprintf(text[p], sizeof(text[p]), "global.wire.%s=%s", path[p], dtype[which / 5]);
                set[n_set++] = text[p];
            }
        for (size_t narrow = 0; narrow < 2; narrow++) {
            mwt_start(w, set, narrow ? n_set : 1);
            for (uint64_t b = 0; b < 4; b++) {
                mwt_make_input(&in, b);
                assert_int_equal(mwt_do_put(w, &in), 0);
                bytes[narrow] = mwt_number(w, "bytes_reserved");
                assert_int_equal(mwt_do_lookup(w, &in), 0);
                assert_int_equal(mwt_do_push(w, &in), 0);
                mwt_model_push(w, &in);
                mwt_check_rows(w);
            }
            assert_int_equal(w->owner[0].scaled != 0,
                             narrow && w->job->global.wire.row_gradients == WIRE_F16);
            mwt_stop(w);
        }
        assert_true(which % 5 < 4 || bytes[1] < bytes[0]);
    }
}

/* A request of another dtype than the job's is refused, and says so. */
static void another_dtype(void **state)
{
    static const char *const half[] = {"global.wire.gradients=bfloat16"};
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    mwt_start(w, half, 1);
    mwt_make_input(&in, 1);
    assert_int_equal(mwt_do_put(w, &in), 0);
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    w->job->global.wire.gradients = WIRE_F16; /* what this trainer sends */
    mwt_push(w, &in, &ask);
    w->job->global.wire.gradients = WIRE_BF16;
    assert_int_equal(mwt_wait_for(w, &ask), RT_EPROTO);
    assert_non_null(strstr(ask.text, "dtype 1, expected 2"));
    assert_int_equal(mwt_do_push(w, &in), 0);
    mwt_stop(w);
}

static void repeats_are_joined(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in, other;
    struct ask ask[4];

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 3);
    assert_int_equal(mwt_do_put(w, &in), 0);
    assert_int_equal(mwt_do_put(w, &in), 0);
    other = in;
    other.place[0][0]++;
    mwt_make_payload(&other);
    assert_int_equal(mwt_do_put(w, &other), RT_EDIGEST);
    assert_int_equal(mwt_do_lookup(w, &other), RT_EDIGEST);
    assert_int_equal(mwt_do_push(w, &other), RT_EDIGEST);
    assert_int_equal(mwt_number(w, "digest_errors"), 3);
    for (int i = 0; i < 3; i++)
        mwt_lookup(w, &in, &ask[i]);
    mwt_lookup_step(w, &in, 9,
                    &ask[3]); /* of another step: the ones before are told to ask again */
    for (int i = 0; i < 4; i++) {
        assert_int_equal(mwt_wait_for(w, &ask[i]), i < 3 ? RT_ENOTREADY : 0);
        rt_buf_unref(ask[i].payload);
    }
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    for (int i = 0; i < 3; i++)
        mwt_push(w, &in, &ask[i]);
    mwt_lookup(w, &in, &ask[3]);
    for (int i = 0; i < 4; i++)
        assert_int_equal(mwt_wait_for(w, &ask[i]), i < 3 ? 0 : RT_EUNKNOWN);
    mwt_model_push(w, &in);
    mwt_check_rows(w);
    assert_int_equal(mwt_do_push(w, &in), RT_EUNKNOWN);
    assert_int_equal(mwt_do_put(w, &in),
                     0); /* from another middleware's loss: pushed without a lookup */
    assert_int_equal(mwt_do_push(w, &in), 0);
    mwt_check_rows(w);
    assert_true(w->owner[0].again + w->owner[1].again > 0);
    mwt_stop(w);
}

static void synchronous_reaches_every_owner(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 2);
    for (uint32_t s = 0; s < SAMPLES; s++) { /* ids of one owner only */
        in.place[0][s] = 0;
        in.length[s] = 0;
    }
    in.n_ids[1] = 0;
    mwt_make_payload(&in);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(mwt_do_put(w, &in), 0);
        mwt_push_as(w, &in, round == 1, &ask);
        assert_int_equal(mwt_wait_for(w, &ask), 0);
        assert_int_equal(w->owner[0].applies, round + 1);
        assert_int_equal(w->owner[1].applies, round);
        assert_int_equal(w->owner[1].empty, round);
        in.batch++;
    }
    mwt_stop(w);
}

static void evaluation_is_forgotten(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 8);
    in.evaluate = true;
    assert_int_equal(mwt_do_lookup(w, &in), RT_EUNKNOWN);
    assert_int_equal(mwt_do_put(w, &in), 0);
    assert_int_equal(mwt_do_push(w, &in), RT_EPROTO);
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    assert_int_equal(mwt_number(w, "batches_open"), 0);
    assert_int_equal(mwt_do_lookup(w, &in), RT_EUNKNOWN);
    assert_int_equal(mwt_number(w, "unknown"), 2);
    mwt_stop(w);
}

static int do_release(struct world *w, uint64_t batch)
{
    struct wire_release_batch m = {"dropped"};
    struct ask ask;

    assert_int_equal(wire_release_batch_pack(&m, &w->out), 0);
    mwt_call(w, w->from_trainer, WIRE_RELEASE_BATCH, batch, NULL, &ask);
    return mwt_wait_for(w, &ask);
}

static void released_while_looked_up(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    struct ask ask;

    (void)state;
    mwt_start(w, NULL, 0);
    mwt_make_input(&in, 1);
    assert_int_equal(do_release(w, 77), 0); /* not held: nothing to do */
    assert_int_equal(mwt_do_put(w, &in), 0);
    w->owner[0].hold = w->owner[1].hold = true;
    mwt_lookup(w, &in, &ask);
    assert_true(sim_run_until(w->sim, mwt_both_hold, w, RT_S));
    assert_int_equal(do_release(w, in.batch), 0);
    assert_int_equal(mwt_wait_for(w, &ask), RT_EUNKNOWN);
    assert_int_equal(mwt_number(w, "batches_open"), 0);
    assert_int_equal(mwt_do_put(w, &in),
                     0); /* the same again, while the old one's requests are out */
    w->owner[0].hold = w->owner[1].hold = false;
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    mwt_stop(w); /* with requests of the forgotten one still out */
}

static void over_the_budget(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    uint64_t held = 0;
    int err;

    (void)state;
    mwt_start(w, NULL, 0);
    w->job->global.middleware_memory = 20000; /* below what the file may say */
    for (;; held++) {
        mwt_make_input(&in, held);
        err = mwt_do_put(w, &in);
        if (err)
            break;
    }
    assert_int_equal(err, RT_EFULL);
    assert_true(held >= 2 && mwt_number(w, "refused_full") == 1);
    assert_true(mwt_number(w, "bytes_reserved") <= 20000);
    assert_int_equal(do_release(w, 0), 0);
    assert_int_equal(mwt_do_put(w, &in), 0);
    for (uint64_t b = 1; b <= held; b++) { /* looked up; then their trainer dies */
        mwt_make_input(&in, b);
        assert_int_equal(mwt_do_lookup(w, &in), 0);
    }
    mwt_make_input(&in, held + 1);
    assert_int_equal(mwt_do_put(w, &in), RT_EFULL);
    sim_run_until(w->sim, NULL, NULL, 61 * RT_S); /* nobody asked for them: they make room */
    mwt_settle(w);
    assert_int_equal(mwt_do_put(w, &in), 0);
    assert_int_equal(mwt_number(w, "dropped_idle"), 1);
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    mwt_stop(w);
    mwt_start(w, NULL, 0);
    w->job->global.middleware_memory = 3000;
    assert_int_equal(mwt_do_put(w, &in), RT_ELIMIT);
    assert_int_equal(mwt_number(w, "batches_open"), 0);
    mwt_stop(w);
}

/* Rank 0 fills its half and no more; rank 1 finds the other half; what a rank waits for always comes in. */
static void ranks_share_the_memory(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    uint64_t id = 0, held[3] = {0}, bytes;

    (void)state;
    mwt_start(w, NULL, 0);
    w->job->global.middleware_memory = 40000;
    for (uint32_t rank = 0; rank < 2; rank++) {
        int err = 0;

        for (; !err; id++, held[rank] += !err) {
            mwt_make_input(&in, id);
            in.rank = rank;
            in.world = 2;
            err = mwt_do_put(w, &in);
        }
        assert_int_equal(err, RT_EFULL);
        assert_true(held[rank] >= 2 && mwt_number(w, "bytes_reserved") <= 20000 * (rank + 1));
    }
    bytes = mwt_number(w, "bytes_reserved");
    in.first = true; /* the batch that was refused, now that none of its rank is before it */
    assert_int_equal(mwt_do_put(w, &in), 0);
    assert_true(mwt_number(w, "bytes_reserved") > bytes);
    assert_int_equal(mwt_do_lookup(w, &in), 0);
    assert_int_equal(mwt_do_push(w, &in), 0);
    assert_int_equal(mwt_number(w, "bytes_reserved"), bytes);
    mwt_make_input(&in, 1000); /* a third rank finds all taken */
    in.rank = 2;
    in.world = 3;
    in.first = true;
    assert_int_equal(mwt_do_put(w, &in), 0);
    for (uint64_t b = 0; b < id; b++)
        assert_int_equal(do_release(w, b), 0);
    assert_int_equal(do_release(w, 1000), 0);
    assert_int_equal(mwt_number(w, "bytes_reserved"), 0);
    mwt_stop(w);
}

static void malformed_batches(void **state)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;

    (void)state;
    mwt_start(w, NULL, 0);
    for (int fault = 0; fault < 6; fault++) {
        int want = RT_EPROTO;

        mwt_make_input(&in, 1); /* with weights */
        assert_true(in.n_ids[1] > 2);
        if (fault == 0) {
            in.digest++;
            want = RT_EDIGEST;
        } else if (fault == 1) { /* lengths do not sum up */
            in.length[0]++;
            mwt_make_payload(&in);
        } else if (fault == 2) { /* longer than embedding.features.item.max_length */
            in.length[0] = 65;
            mwt_make_payload(&in);
        } else if (fault == 3) {
            in.weight[1] = INFINITY;
            mwt_make_payload(&in);
        } else { /* cut short; too long */
            in.size = fault == 4 ? in.size - 4 : in.size + 64;
            in.digest = rt_hash_bytes(in.payload, in.size);
        }
        assert_int_equal(mwt_do_put(w, &in), want);
        assert_int_equal(mwt_number(w, "batches_open"), 0);
        assert_int_equal(mwt_number(w, "bytes_reserved"), 0);
    }
    mwt_make_input(&in, 1);
    assert_int_equal(mwt_do_put(w, &in), 0);
    mwt_stop(w);
}

static void servers_must_agree(void **state)
{
    static const char *const workers[] = {"global.embedding_server.workers=0"};
    static struct world world;
    struct world *w = &world;
    const char *address[3] = {"sim:3:9", "sim:3:8", "sim:3:7"};

    (void)state;
    mwt_start(w, NULL, 0);
    assert_int_equal(mw_loop_on_server(w->loop, 0, 2, 2, address, 9), RT_EUSAGE); /* conf says 1 */
    assert_int_equal(mw_loop_on_server(w->loop, 0, 3, 1, address, 9), RT_EUSAGE);
    assert_int_equal(mw_loop_on_server(w->loop, 2, 2, 1, address, 9), RT_EUSAGE);
    assert_int_equal(mw_loop_on_server(w->loop, 0, 2, 0, address, 9), 0); /* it is starting */
    assert_true(mw_loop_ready(w->loop));
    mwt_stop(w);
    mwt_start(w, workers, 1);
    assert_int_equal(mw_loop_on_server(w->loop, 1, 2, 3, address, 9), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "embedding_server/1 has 3 workers, others have 1"));
    mwt_stop(w);
}

/* One allocation fails, somewhere; whoever asked asks again, and nothing is lost or done twice. */
static void fail_each_allocation(const char *const *set, size_t n_set)
{
    static struct world world;
    struct world *w = &world;
    static struct input in;
    bool hit = true;

    for (int nth = 0; hit; nth++) {
        int tries = 0;

        mwt_start(w, set, n_set);
        mwt_make_input(&in, 1);
        in.weighted = n_set == 0;
        mwt_make_payload(&in);
        rt_fault_alloc(nth);
        while (tries < 4 && (mwt_do_put(w, &in) || mwt_do_lookup(w, &in))) {
            tries++;
            mwt_settle(w);
        }
        while (tries < 4 && (mwt_do_put(w, &in) || mwt_do_push(w, &in))) {
            tries++;
            mwt_settle(w);
        }
        hit = rt_fault_hit();
        rt_fault_alloc(-1);
        assert_true(tries < 4);
        mwt_model_push(w, &in);
        mwt_check_rows(w);
        mwt_stop(w);
        if (nth > 400)
            fail_msg("no end of allocations");
    }
}

static void every_allocation_may_fail(void **state)
{
    static const char *const set[] = {"embedding.features.item.pooling=none",
                                      "embedding.tables.item.hash={functions: 2, rows: 11}",
                                      "global.wire.dtype=bfloat16"};

    (void)state;
    fail_each_allocation(NULL, 0);
    fail_each_allocation(set, ARRAY_LEN(set));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(put_lookup_push),
        cmocka_unit_test(sequences),
        cmocka_unit_test(hashed),
        cmocka_unit_test(sequences_refused),
        cmocka_unit_test(sixteen_bits),
        cmocka_unit_test(another_dtype),
        cmocka_unit_test(repeats_are_joined),
        cmocka_unit_test(synchronous_reaches_every_owner),
        cmocka_unit_test(evaluation_is_forgotten),
        cmocka_unit_test(released_while_looked_up),
        cmocka_unit_test(over_the_budget),
        cmocka_unit_test(ranks_share_the_memory),
        cmocka_unit_test(malformed_batches),
        cmocka_unit_test(servers_must_agree),
        cmocka_unit_test(every_allocation_may_fail),
    };

    rt_log_set_level(RT_LOG_ERROR);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
