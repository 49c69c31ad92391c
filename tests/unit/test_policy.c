/* tests/unit/test_policy.c -- clock and admission of a table to bytes and back: nothing expires early, no count is lost. */
#include "embedding_server/policy.h"
#include "embedding_server/table_inner.h"
#include "runtime/base/assert.h"
#include "runtime/base/err.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"
#include "runtime/checkpoint/rowfile.h"
#include "tests/unit/table_bed.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#define TICKS 4000u

/* A clock whose ticks are remembered. */
struct kept {
    struct ebs_clock clock;
    uint64_t now_ms, at_ms[TICKS + 1]; /* when a tick was used last */
};

static void run(struct kept *k, uint64_t ttl_s, uint64_t seed, uint32_t n, uint64_t step_ms)
{
    uint64_t draw = 0;

    ebs_clock_init(&k->clock, ttl_s);
    k->now_ms = 1000000;
    while (k->clock.tick < n) {
        k->now_ms += rt_below(rt_draw(seed, draw++), 2 * step_ms);
        if (rt_below(rt_draw(seed, draw++), 4) == 0)
            ebs_clock_pass(&k->clock, k->now_ms);
        ebs_clock_tick(&k->clock, k->now_ms);
        k->at_ms[k->clock.tick] = k->now_ms;
    }
    ebs_clock_pass(&k->clock, k->now_ms);
}

static void restore(struct ebs_clock *out, const struct kept *from)
{
    struct ebs_clock_age age[EBS_CLOCK_AGES];
    uint32_t n = ebs_clock_ages(&from->clock, age);

    ebs_clock_restore(out, from->clock.tick, age, n);
}

/* What a clock that was restored says of the ticks of the one before: by its own wall, which began when it was. */
static void check_ages(const struct ebs_clock *clock, const struct kept *from, uint64_t since_ms,
                       uint64_t late_ms, const char *name)
{
    for (uint64_t tick = 1; tick <= from->clock.tick; tick++) {
        uint64_t idle = from->now_ms - from->at_ms[tick] + since_ms;
        uint32_t age = (uint32_t)(from->clock.tick - tick);
        /* ages are kept: on this clock the row was touched so many ticks before its restart */
        bool expired = ebs_clock_expired(clock, clock->now - age);

        if (expired && idle < clock->ttl_ms)
            fail_msg("%s: tick %llu: %llu ms early", name, (unsigned long long)tick,
                     (unsigned long long)(clock->ttl_ms - idle));
        if (!expired && idle >= clock->ttl_ms + late_ms)
            fail_msg("%s: tick %llu: %llu ms late", name, (unsigned long long)tick,
                     (unsigned long long)(idle - clock->ttl_ms));
    }
}

static void a_clock_goes_on(void **test)
{
    static const uint64_t wall[] = {0, 5, 1ull << 40}; /* of a machine that just started, too */
    static struct kept kept;
    struct ebs_clock clock;

    (void)test;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        uint64_t ttl_s = 1 + rt_below(rt_draw(seed, 99), 400), late = ttl_s * 1000 / 256 + 1;

        late = late > 1000 ? late : 1000;
        run(&kept, ttl_s, seed, 1000 + (uint32_t)seed * 200, 1 + 40 * seed);
        for (size_t w = 0; w < ARRAY_LEN(wall); w++) {
            ebs_clock_init(&clock, ttl_s);
            restore(&clock, &kept);
            assert_int_equal(clock.now, kept.clock.now);
            for (uint64_t ms = 0; ms <= ttl_s * 1000 + 2 * late; ms += ttl_s * 100 + 7) {
                ebs_clock_pass(&clock, wall[w] + ms);
                check_ages(&clock, &kept, ms, 2 * late, "one");
            }
        }
    }
}

/* Restored again and again before it could tick: nothing is younger for it but what had no entry. */
static void a_clock_comes_back_often(void **test)
{
    static struct kept kept;
    struct ebs_clock clock;
    struct ebs_clock_age age[EBS_CLOCK_AGES], again[EBS_CLOCK_AGES];
    uint32_t n;

    (void)test;
    run(&kept, 100, 3, 3000, 60);
    n = ebs_clock_ages(&kept.clock, age);
    assert_true(n > 50);
    for (int i = 0; i < 5; i++) {
        ebs_clock_init(&clock, 100);
        ebs_clock_restore(&clock, kept.clock.tick, age, n);
        assert_int_equal(ebs_clock_ages(&clock, again), n);
        assert_memory_equal(again, age, n * sizeof(age[0]));
        ebs_clock_pass(&clock, 77 + (uint64_t)i);
        assert_int_equal(ebs_clock_ages(&clock, again), n);
        assert_memory_equal(again, age, n * sizeof(age[0]));
    }
}

static void of_several_clocks_nothing_expires_early(void **test)
{
    static struct kept a, b;
    struct ebs_clock clock;

    (void)test;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        uint64_t ttl_s = 2 + rt_below(rt_draw(seed, 98), 300);

        run(&a, ttl_s, seed, 500 + (uint32_t)seed * 100, 1 + 30 * seed);
        run(&b, ttl_s, seed + 100, 900, 1 + rt_below(rt_draw(seed, 97), 400));
        ebs_clock_init(&clock, ttl_s);
        restore(&clock, seed % 2 ? &a : &b);
        restore(&clock, seed % 2 ? &b : &a);
        assert_int_equal(clock.tick, a.clock.tick > b.clock.tick ? a.clock.tick : b.clock.tick);
        for (uint64_t ms = 0; ms <= 2 * ttl_s * 1000; ms += ttl_s * 90 + 3) {
            ebs_clock_pass(&clock, 10 + ms);
            check_ages(&clock, &a, ms, UINT64_MAX / 2, "a");
            check_ages(&clock, &b, ms, UINT64_MAX / 2, "b");
        }
        /* all that was there is old now by every clock */
        assert_true(ebs_clock_expired(&clock, clock.now - 400));
        for (uint32_t i = 0; i < 5000; i++) /* and it has room to go on */
            ebs_clock_tick(&clock, 3 * ttl_s * 1000 + i * ttl_s);
    }
}

/* ---- tables ---- */

static struct rt_table_conf conf_of(enum rt_eviction_kind kind, uint64_t ttl, bool counts)
{
    struct rt_table_conf conf = table_bed_counting(2, WIRE_F32);

    conf.eviction.kind = kind;
    conf.eviction.rows = kind == RT_EVICT_NONE ? 0 : 1000;
    conf.ttl_seconds = ttl;
    if (counts)
        conf.admission =
            (struct rt_admission_conf){.kind = RT_ADMIT_COUNT, .count = 3, .sketch_bytes = 1 << 14};
    return conf;
}

static uint8_t *policy_of(const struct ebs_table *table, size_t *bytes)
{
    uint8_t *policy;

    *bytes = ebs_table_policy_size(table);
    policy = malloc(*bytes + 1);
    assert_non_null(policy);
    policy[*bytes] = 0xa5;
    ebs_table_policy_write(table, policy);
    assert_int_equal(policy[*bytes], 0xa5);
    return policy;
}

/* As a file has it: the policy, then the lines of the sketch that have counted, from the last to the first. */
static bool merge(struct ebs_table *to, const struct ebs_table *from)
{
    const uint8_t *sketch;
    size_t bytes, n = ebs_admit_sketch(from->admit, &sketch) / EBS_ADMIT_LINE;
    uint8_t *policy = policy_of(from, &bytes), line[RT_ROWFILE_LINE];
    bool same = ebs_table_policy_merge(to, policy);

    for (uint64_t at = n; same && at-- > 0;) {
        memcpy(line, &at, sizeof(at));
        memcpy(line + sizeof(at), sketch + at * EBS_ADMIT_LINE, EBS_ADMIT_LINE);
        assert_true(ebs_table_sketch_merge(to, line, 1));
    }
    free(policy);
    return same;
}

/* The same by version 1: the sketch in the policy. */
static bool merge_first(struct ebs_table *to, const struct ebs_table *from)
{
    const uint8_t *sketch;
    size_t head, bytes = ebs_admit_sketch(from->admit, &sketch);
    uint8_t *policy = policy_of(from, &head);
    bool same;

    policy = realloc(policy, head + bytes);
    assert_non_null(policy);
    policy[0] = 1;
    memcpy(policy + head, sketch, bytes);
    assert_int_equal(ebs_policy_check(policy, head + bytes), 0);
    assert_int_equal(ebs_policy_check(policy, head + bytes - 64), RT_EDATA);
    same = ebs_table_policy_merge(to, policy);
    free(policy);
    return same;
}

static void tables_without_policies_have_none(void **test)
{
    struct rt_table_conf conf = conf_of(RT_EVICT_NONE, 0, false);
    struct ebs_table *table = table_bed_create(&conf);

    (void)test;
    assert_int_equal(ebs_table_policy_size(table), 0);
    ebs_table_destroy(table);
    conf.admission.kind = RT_ADMIT_PROBABILITY; /* draws remember nothing */
    conf.admission.probability = 0.5;
    table = table_bed_create(&conf);
    assert_int_equal(ebs_table_policy_size(table), 0);
    ebs_table_destroy(table);
}

/* An id that was seen twice of three times has its row at the third, whichever table is asked. */
static void counts_go_on(void **test)
{
    struct rt_table_conf conf = conf_of(RT_EVICT_LRU, 50, true);
    struct ebs_table *table = table_bed_create(&conf), *again, *line;
    uint64_t id[100];
    uint8_t *policy;
    size_t bytes;

    (void)test;
    for (uint64_t i = 0; i < 100; i++)
        id[i] = rt_draw(5, i);
    table_bed_count(table, id, 100);
    table_bed_count(table, id, 50);
    policy = policy_of(table, &bytes);
    assert_true(bytes < 100); /* whatever the size of the sketch */
    assert_int_equal(ebs_policy_check(policy, bytes), 0);
    assert_int_equal(ebs_policy_now(policy), 2);
    for (int first = 0; first < 2; first++) {
        again = table_bed_create(&conf);
        assert_true(first ? merge_first(again, table) : merge(again, table));
        assert_int_equal(ebs_table_now(again), 2);
        assert_int_equal(table_bed_count(again, id, 100).created, 50);
        assert_int_equal(table_bed_count(again, id, 100).created, 50);
        ebs_table_destroy(again);
    }
    line = table_bed_create(&conf);
    assert_false(ebs_table_sketch_merge(line, (uint8_t[RT_ROWFILE_LINE]){0, 1}, 1)); /* of 256 */
    assert_true(ebs_table_sketch_merge(line, (uint8_t[RT_ROWFILE_LINE]){255}, 1));
    ebs_table_destroy(line);
    free(policy);
    ebs_table_destroy(table);
}

/* Two sketches: of an id that both know the larger number counts. */
static void no_count_becomes_smaller(void **test)
{
    struct rt_table_conf conf = conf_of(RT_EVICT_NONE, 0, true), small = conf;
    struct ebs_table *one = table_bed_create(&conf), *two = table_bed_create(&conf);
    struct ebs_table *both = table_bed_create(&conf), *other;
    uint64_t a = 17, b = 4711, c = 99;

    (void)test;
    for (int i = 0; i < 2; i++)
        table_bed_count(one, &a, 1);
    table_bed_count(two, &a, 1);
    for (int i = 0; i < 2; i++)
        table_bed_count(two, &b, 1);
    table_bed_count(one, &c, 1);
    assert_true(merge(both, one));
    assert_true(merge_first(both, two));
    assert_int_equal(table_bed_count(both, &a, 1).created, 1);
    assert_int_equal(table_bed_count(both, &b, 1).created, 1);
    assert_int_equal(table_bed_count(both, &c, 1).created, 0);

    small.admission.sketch_bytes = 1 << 13;
    other = table_bed_create(&small);
    assert_false(merge(other, one));
    assert_false(merge_first(other, one));
    assert_int_equal(table_bed_count(other, &a, 1).created, 0);
    ebs_table_destroy(one);
    ebs_table_destroy(two);
    ebs_table_destroy(both);
    ebs_table_destroy(other);
}

/* A line that is full keeps what was counted last here. */
static void a_full_line_stays(void **test)
{
    struct rt_table_conf conf = conf_of(RT_EVICT_NONE, 0, true);
    struct ebs_table *one, *two, *both;
    uint64_t id[EBS_ADMIT_ENTRIES], late = 1000;

    (void)test;
    conf.admission.sketch_bytes = 64; /* one line */
    one = table_bed_create(&conf);
    two = table_bed_create(&conf);
    both = table_bed_create(&conf);
    for (uint64_t i = 0; i < EBS_ADMIT_ENTRIES; i++)
        id[i] = i;
    for (int i = 0; i < 2; i++) {
        table_bed_count(one, id, EBS_ADMIT_ENTRIES);
        table_bed_count(two, &late, 1);
    }
    assert_true(merge(both, one));
    assert_true(merge_first(both, two));
    assert_int_equal(table_bed_count(both, id, EBS_ADMIT_ENTRIES).created, EBS_ADMIT_ENTRIES);
    assert_int_equal(table_bed_count(both, &late, 1).created, 0);
    ebs_table_destroy(one);
    ebs_table_destroy(two);
    ebs_table_destroy(both);
}

static void bad_bytes_are_refused(void **test)
{
    struct rt_table_conf conf = conf_of(RT_EVICT_LFU, 10, true);
    struct ebs_table *table = table_bed_create(&conf);
    uint64_t id = 3, sketch = UINT64_MAX - 7;
    uint8_t *policy;
    size_t bytes;

    (void)test;
    for (uint64_t ms = 0; ms < 9000; ms += 500) {
        ebs_table_tick(table, ms);
        ebs_table_apply(
            table,
            &(struct ebs_update){.id = &id, .grad = (float[2]){1, 1}, .n = 1, .lr = 1, .step = 1},
            &(struct ebs_applied){0});
    }
    policy = policy_of(table, &bytes);
    assert_int_equal(ebs_policy_check(policy, bytes), 0);
    for (size_t n = 0; n < bytes; n += n < 200 ? 1 : 997)
        assert_int_equal(ebs_policy_check(policy, n), RT_EDATA);
    memcpy(policy + 16, &sketch, sizeof(sketch)); /* no length where the sketch is elsewhere */
    assert_int_equal(ebs_policy_check(policy, bytes), 0);
    policy[0] = 1;
    assert_int_equal(ebs_policy_check(policy, bytes), RT_EDATA);
    free(policy);

    policy = policy_of(table, &bytes);
    policy[0] = 3;
    assert_int_equal(ebs_policy_check(policy, bytes), RT_EUSAGE);
    assert_non_null(strstr(rt_err_text(), "version 3, expected 1 to 2"));
    policy[0] = 2;
    assert_true(policy[4] >= 2); /* ages; swapped they are not in order */
    for (size_t i = 0; i < 16; i++) {
        uint8_t byte = policy[24 + i];

        policy[24 + i] = policy[40 + i];
        policy[40 + i] = byte;
    }
    assert_int_equal(ebs_policy_check(policy, bytes), RT_EDATA);
    free(policy);
    ebs_table_destroy(table);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_clock_goes_on),
        cmocka_unit_test(a_clock_comes_back_often),
        cmocka_unit_test(of_several_clocks_nothing_expires_early),
        cmocka_unit_test(tables_without_policies_have_none),
        cmocka_unit_test(counts_go_on),
        cmocka_unit_test(no_count_becomes_smaller),
        cmocka_unit_test(a_full_line_stays),
        cmocka_unit_test(bad_bytes_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
