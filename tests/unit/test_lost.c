/* tests/unit/test_lost.c -- what an owner lacks of the ledger, against plain sets; told once, and by trainers only. */
#include "embedding_server/lost.h"
#include "embedding_server/serve.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/job/batch_id.h"
#include "tests/unit/owner_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define WINDOW 256u
#define MOST   700u /* sequences of a split */
#define SPLITS 5u

struct sets {
    bool finished[SPLITS][MOST], applied[SPLITS][MOST];
};

static struct ebs_lost lost;

/* Both random: runs and holes, the filter behind, ahead, or far behind. */
static void draw_sets(struct sets *sets, uint64_t seed)
{
    memset(sets, 0, sizeof(*sets));
    for (uint32_t s = 0; s < SPLITS; s++) {
        uint64_t key = rt_draw(seed, s), low = rt_below(rt_draw(key, 0), MOST - WINDOW);
        uint64_t behind = rt_below(rt_draw(key, 1), 3) == 0 ? low : rt_below(rt_draw(key, 2), 40);

        for (uint32_t i = 0; i < MOST; i++) {
            sets->finished[s][i] =
                i < low || (i > low && i < low + WINDOW && rt_draw(key, 100 + i) % 3 == 0);
            sets->applied[s][i] =
                i + behind < low || (i < low + 100 && rt_draw(key, 5000 + i) % 4 == 0);
        }
    }
}

/* What the filter says is applied is a part of the test: it forgets those that fall out of its window. */
static struct ebs_filter *make_filter(struct sets *sets)
{
    struct ebs_filter *filter;

    assert_int_equal(ebs_filter_create(WINDOW, &filter), 0);
    for (uint32_t s = 0; s < SPLITS; s++)
        for (uint32_t i = 0; i < MOST; i++)
            if (sets->applied[s][i]) {
                assert_int_equal(ebs_filter_reserve(filter, rt_batch_id(s, i)), 0);
                ebs_filter_set(filter, rt_batch_id(s, i));
            }
    for (uint32_t s = 0; s < SPLITS; s++)
        for (uint32_t i = 0; i < MOST; i++)
            sets->applied[s][i] = ebs_filter_seen(filter, rt_batch_id(s, i));
    return filter;
}

/* A split's finished ones as the ledger tells them; bits: [WINDOW / 8]. */
static struct wire_split_ledger tell(const struct sets *sets, uint32_t split, uint8_t *bits)
{
    struct wire_split_ledger out = {.split = split, .finished = bits};

    memset(bits, 0, WINDOW / 8);
    while (sets->finished[split][out.finished_low])
        out.finished_low++;
    for (uint64_t i = out.finished_low; i < MOST; i++) {
        uint64_t at = i - out.finished_low;

        if (!sets->finished[split][i])
            continue;
        bits[at / 8] |= (uint8_t)(1u << at % 8);
        out.finished_bytes = (uint32_t)at / 8 + 1;
    }
    return out;
}

static void ranges_are_the_difference(void **test)
{
    static struct sets sets;

    (void)test;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        struct ebs_filter *filter;
        uint8_t bits[WINDOW / 8];
        uint64_t want = 0, ranged = 0;

        draw_sets(&sets, seed);
        filter = make_filter(&sets);
        memset(&lost, 0, sizeof(lost));
        for (uint32_t s = 0; s < SPLITS; s++) {
            struct wire_split_ledger ledger = tell(&sets, s, bits);

            ebs_lost_add(filter, &ledger, &lost);
            assert_int_equal(ebs_filter_reserve(filter, rt_batch_id(s, 0)), 0);
            assert_int_equal(
                ebs_filter_add(filter, s, ledger.finished_low, bits, ledger.finished_bytes), 0);
            for (uint32_t i = 0; i < MOST; i++)
                want += sets.finished[s][i] && !sets.applied[s][i];
        }
        assert_int_equal(lost.batches, want);
        for (uint32_t r = 0; r < lost.n_ranges; r++) {
            uint32_t split = rt_batch_split(lost.first[r]);

            ranged += lost.count[r];
            assert_true(lost.count[r] >= 1);
            for (uint32_t i = 0; i < lost.count[r]; i++) {
                uint64_t at = rt_batch_sequence(lost.first[r]) + i;

                assert_true(sets.finished[split][at] && !sets.applied[split][at]);
                sets.applied[split][at] = true; /* each once */
            }
        }
        assert_int_equal(ranged, want);
        /* From now on they count as applied. */
        memset(&lost, 0, sizeof(lost));
        for (uint32_t s = 0; s < SPLITS; s++) {
            struct wire_split_ledger ledger = tell(&sets, s, bits);

            ebs_lost_add(filter, &ledger, &lost);
            for (uint32_t i = 0; i < MOST; i++)
                if (sets.finished[s][i])
                    assert_true(ebs_filter_seen(filter, rt_batch_id(s, i)));
        }
        assert_int_equal(lost.batches, 0);
        ebs_filter_destroy(filter);
    }
}

/* A filter that was empty is the ledger's set: no batch more. */
static void a_filter_is_restored(void **test)
{
    static struct sets sets;

    (void)test;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        struct ebs_filter *filter;
        uint8_t bits[WINDOW / 8];

        draw_sets(&sets, seed);
        assert_int_equal(ebs_filter_create(WINDOW, &filter), 0);
        for (uint32_t s = 0; s < SPLITS; s++) {
            struct wire_split_ledger ledger = tell(&sets, s, bits);

            assert_int_equal(ebs_filter_reserve(filter, rt_batch_id(s, 0)), 0);
            assert_int_equal(
                ebs_filter_add(filter, s, ledger.finished_low, bits, ledger.finished_bytes), 0);
            assert_int_equal(ebs_filter_low(filter, s), ledger.finished_low);
            for (uint32_t i = 0; i < MOST; i++)
                assert_int_equal(ebs_filter_seen(filter, rt_batch_id(s, i)), sets.finished[s][i]);
        }
        assert_int_equal(ebs_filter_add(filter, 0, 3, bits, WINDOW / 8 + 1), RT_EPROTO);
        ebs_filter_destroy(filter);
    }
}

static void many_and_far(void **test)
{
    struct ebs_filter *filter;
    uint8_t bits[WINDOW / 8];
    struct wire_split_ledger ledger = {.split = 7, .finished = bits};

    (void)test;
    /* More than a count of 32 bits has, told in a moment. */
    assert_int_equal(ebs_filter_create(WINDOW, &filter), 0);
    memset(&lost, 0, sizeof(lost));
    ledger.finished_low = 10000000000ull;
    ebs_lost_add(filter, &ledger, &lost);
    assert_int_equal(lost.batches, 10000000000ull);
    assert_int_equal(lost.n_ranges, 3);
    assert_int_equal(lost.first[1], rt_batch_id(7, UINT32_MAX));
    assert_int_equal((uint64_t)lost.count[0] + lost.count[1] + lost.count[2], 10000000000ull);

    /* More ranges than are told: the number is exact. */
    memset(&lost, 0, sizeof(lost));
    memset(bits, 0xaa, sizeof(bits));
    ledger.finished_low = 0;
    ledger.finished_bytes = sizeof(bits);
    for (uint32_t split = 0; split < 40; split++) {
        ledger.split = split;
        ebs_lost_add(filter, &ledger, &lost);
    }
    assert_int_equal(lost.batches, 40 * WINDOW / 2);
    assert_int_equal(lost.n_ranges, WIRE_LOST_MAX);
    assert_int_equal(lost.count[WIRE_LOST_MAX - 1], 1);
    /* The last sequence that there is. */
    memset(&lost, 0, sizeof(lost));
    ledger.finished_low = RT_SEQUENCE_MAX;
    bits[0] = 0xff;
    ebs_lost_add(filter, &ledger, &lost);
    assert_int_equal(lost.batches, RT_SEQUENCE_MAX + 1);
    ebs_filter_destroy(filter);
}

/* ---- the message ---- */

static const struct rt_table_conf table = {
    .name = "t", .dim = 1, .optimizer = {.kind = RT_OPT_SGD, .learning_rate = 1}};
static const struct rt_job job = {.n_tables = 1, .table = &table, .global.seed = 1};

static struct {
    struct owner_bed bed;
    int err;
    uint64_t batches, first;
    uint32_t n_ranges, count;
    bool ahead;
} rpc;

static void on_told(void *arg, int err, const struct rt_frame *reply)
{
    struct wire_tell_ledger_reply m;
    struct rt_arena *arena;

    (void)arg;
    rpc.err = err;
    if (!err) {
        assert_int_equal(rt_arena_create(1 << 20, &arena), 0);
        assert_int_equal(
            wire_tell_ledger_reply_unpack(reply->message, reply->header.message_size, arena, &m),
            0);
        rpc.batches = m.lost;
        rpc.ahead = m.ahead;
        rpc.n_ranges = m.n_ranges;
        rpc.first = m.n_ranges ? m.first[0] : 0;
        rpc.count = m.n_ranges ? m.count[0] : 0;
        rt_arena_destroy(arena);
    }
    rt_loop_stop(rpc.bed.loop);
}

static void tell_ledger(const struct wire_split_ledger *ledger, uint32_t n)
{
    struct wire_await_phase_reply phase = {
        .phase = 1, .kind = WIRE_PHASE_TRAIN, .n_ledger = n, .ledger = ledger};
    struct wire_tell_ledger m;
    struct wire_out inner = {0}, out = {0};

    assert_int_equal(wire_await_phase_reply_pack(&phase, &inner), 0);
    m = (struct wire_tell_ledger){.ledger = inner.data, .ledger_size = inner.size, .step = 7};
    assert_int_equal(wire_tell_ledger_pack(&m, &out), 0);
    wire_out_release(&inner);
    owner_bed_ask(&rpc.bed, 0, WIRE_TELL_LEDGER, 0, &out, NULL, 0, on_told, NULL);
    rt_loop_run(rpc.bed.loop);
}

static void it_is_told_once(void **test)
{
    static const uint8_t bits[] = {0x06}; /* 12 and 13 of split 3 */
    static const struct wire_split_ledger ledger[] = {
        {.split = 1, .stepped_low = 5, .finished_low = 5},
        {.split = 3,
         .stepped_low = 14,
         .finished_low = 11,
         .finished = bits,
         .finished_bytes = sizeof(bits)},
    };
    struct ebs_filter *filter;

    (void)test;
    owner_bed_open(&rpc.bed, &(struct owner_bed_conf){.job = &job});
    owner_bed_connect_as(&rpc.bed, 0, RT_ROLE_TRAINER);
    filter = rpc.bed.owner->filter;
    for (uint64_t i = 0; i < 4; i++) {
        assert_int_equal(ebs_filter_reserve(filter, rt_batch_id(1, i)), 0);
        ebs_filter_set(filter, rt_batch_id(1, i));
    }
    tell_ledger(ledger, 2);
    assert_int_equal(rpc.err, 0);
    assert_int_equal(rpc.batches, 1 + 11 + 2);
    assert_int_equal(rpc.n_ranges, 3);
    assert_int_equal(rpc.first, rt_batch_id(1, 4));
    assert_int_equal(rpc.count, 1);
    assert_int_equal(ebs_owner_stats(rpc.bed.owner)->lost, 14);
    assert_true(ebs_filter_seen(filter, rt_batch_id(3, 13)));
    assert_false(ebs_filter_seen(filter, rt_batch_id(3, 11)));

    tell_ledger(ledger, 2); /* the first answer may not have come */
    assert_int_equal(rpc.err, 0);
    assert_int_equal(rpc.batches, 14);
    assert_int_equal(rpc.n_ranges, 3);
    assert_false(rpc.ahead);
    assert_int_equal(ebs_owner_stats(rpc.bed.owner)->lost, 14);
    tell_ledger(ledger, 1); /* one that has gone back: split 3 is not in it */
    assert_int_equal(rpc.err, 0);
    assert_true(rpc.ahead);
    owner_bed_close(&rpc.bed);
}

/* Mode `full`: what was lost will not come again, and lookups that wait for it would wait for ever. */
static void steps_are_reached(void **test)
{
    static const struct wire_split_ledger ledger = {
        .split = 0, .stepped_low = 5, .finished_low = 5};
    struct rt_job full = job;

    (void)test;
    full.global.mode = RT_MODE_FULL;
    owner_bed_open(&rpc.bed, &(struct owner_bed_conf){.job = &full});
    owner_bed_connect_as(&rpc.bed, 0, RT_ROLE_TRAINER);
    assert_int_equal(ebs_owner_stats(rpc.bed.owner)->step, 0);
    tell_ledger(&ledger, 1);
    assert_int_equal(rpc.err, 0);
    assert_int_equal(rpc.batches, 5);
    assert_int_equal(ebs_owner_stats(rpc.bed.owner)->step, 7);
    owner_bed_close(&rpc.bed);
}

static void who_may_tell_what(void **test)
{
    static uint8_t bits[RT_BATCH_WINDOW / 8 + 1] = {[RT_BATCH_WINDOW / 8] = 1};
    const struct wire_split_ledger ledger = {
        .split = 0, .stepped_low = 1, .finished = bits, .finished_bytes = sizeof(bits)};

    (void)test;
    owner_bed_open(&rpc.bed, &(struct owner_bed_conf){.job = &job});
    owner_bed_connect(&rpc.bed, 0);
    tell_ledger(&ledger, 0);
    assert_int_not_equal(rpc.err, 0); /* a middleware */
    owner_bed_connect_as(&rpc.bed, 0, RT_ROLE_TRAINER);
    tell_ledger(&ledger, 1);
    assert_int_not_equal(rpc.err, 0); /* a bitmap beyond the window: nothing of it counts */
    assert_null(rpc.bed.owner->lost);
    assert_int_equal(ebs_owner_stats(rpc.bed.owner)->lost, 0);
    tell_ledger(&ledger, 0);
    assert_int_equal(rpc.err, 0);
    assert_int_equal(rpc.batches, 0);
    owner_bed_close(&rpc.bed);
}

/* What would be lost now: batches since the cut that was published, not since it was published. */
static void the_window(void **test)
{
    struct ebs_owner *owner;

    (void)test;
    owner_bed_open(&rpc.bed, &(struct owner_bed_conf){.job = &job});
    owner = rpc.bed.owner;
    assert_true(owner->stats.durable_ns > 0);
    ebs_add(&owner->stats.updates, 5);
    ebs_window_cut(owner);
    assert_int_equal(owner->stats.durable_updates, 0);
    ebs_add(&owner->stats.updates, 3);
    ebs_window_published(owner);
    assert_int_equal(owner->stats.durable_updates, 5);
    assert_int_equal(owner->stats.durable_ns, owner->window.ns);
    owner_bed_close(&rpc.bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ranges_are_the_difference),
        cmocka_unit_test(a_filter_is_restored),
        cmocka_unit_test(many_and_far),
        cmocka_unit_test(it_is_told_once),
        cmocka_unit_test(steps_are_reached),
        cmocka_unit_test(who_may_tell_what),
        cmocka_unit_test(the_window),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
