/* tests/unit/test_clock.c -- never expired early, hardly late, whatever the wall and the ticks do. */
#include "embedding_server/clock.h"
#include "runtime/base/assert.h"
#include "runtime/base/mem.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#define DAY 86400ull

static void no_ttl_counts_only(void **test)
{
    struct ebs_clock clock;

    (void)test;
    ebs_clock_init(&clock, 0);
    for (uint32_t i = 0; i < 10; i++) {
        assert_int_equal(clock.now, i);
        ebs_clock_tick(&clock, 1000000ull * i);
        assert_false(ebs_clock_expired(&clock, 0));
    }
}

/* Rows are touched once, at tick t and wall time touched_ms[t]; each must expire within [ttl, ttl + late]. */
struct model {
    struct ebs_clock clock;
    uint64_t ttl_ms, late_ms, time_ms;
    uint64_t *touched_ms; /* [max] by tick, the latest */
    uint32_t ticks, max;
};

static void begin(struct model *m, uint64_t ttl_seconds, uint32_t max)
{
    *m = (struct model){.ttl_ms = ttl_seconds * 1000, .max = max};
    m->late_ms = m->ttl_ms * 4 / 1000 > 1000 ? m->ttl_ms * 4 / 1000 : 1000;
    m->touched_ms = rt_xcalloc(max + 1, sizeof(uint64_t));
    ebs_clock_init(&m->clock, ttl_seconds);
}

static void check_tick(const struct model *m, uint32_t back, const char *name)
{
    uint64_t age = m->time_ms - m->touched_ms[m->ticks - back];
    bool expired = ebs_clock_expired(&m->clock, m->clock.now - back);

    if (expired && age < m->ttl_ms)
        fail_msg("%s: expired %llu ms early", name, (unsigned long long)(m->ttl_ms - age));
    if (!expired && age >= m->ttl_ms + m->late_ms)
        fail_msg("%s: late by %llu ms of a ttl of %llu", name,
                 (unsigned long long)(age - m->ttl_ms), (unsigned long long)m->ttl_ms);
}

static void check(const struct model *m, const char *name)
{
    for (uint32_t back = 0; back < m->ticks; back += back < 50 ? 1 : 37)
        check_tick(m, back, name);
}

static void tick(struct model *m, uint64_t told_ms)
{
    uint32_t before = m->clock.now;

    if (told_ms > m->time_ms)
        m->time_ms = told_ms;
    ebs_clock_tick(&m->clock, told_ms);
    m->ticks += m->clock.now - before;
    assert_true(m->ticks <= m->max);
    m->touched_ms[m->ticks] = m->time_ms;
}

static void pass(struct model *m, uint64_t told_ms)
{
    if (told_ms > m->time_ms)
        m->time_ms = told_ms;
    ebs_clock_pass(&m->clock, told_ms);
}

static void steady_updates(void **test)
{
    static const struct {
        const char *name;
        uint64_t ttl_seconds, every_ms;
        uint32_t updates;
    } row[] = {{"1 s", 1, 7, 3000},
               {"10 s, 1,000 updates a second", 10, 1, 30000},
               {"1 h, rare", 3600, 61007, 1000},
               {"1 h, rarer than the ttl", 3600, 4000000, 50},
               {"1 h, often", 3600, 500, 20000},
               {"30 days", 30 * DAY, 60000, 90000},
               {"100 years", 36500 * DAY, 1000000000, 9000}};

    (void)test;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct model m;

        begin(&m, row[i].ttl_seconds, row[i].updates);
        for (uint32_t u = 0; u < row[i].updates; u++) {
            tick(&m, 5000 + u * row[i].every_ms);
            if (u % 97 == 0)
                check(&m, row[i].name);
        }
        rt_free(m.touched_ms);
    }
}

/* No updates any more: the rows still go in time. */
static void silence(void **test)
{
    struct model m;

    (void)test;
    begin(&m, 3600, 1001);
    for (uint32_t u = 0; u < 1000; u++)
        tick(&m, u * 100);
    for (uint64_t ms = 100000; ms < 4000000; ms += 1000) {
        pass(&m, ms);
        check(&m, "silence");
    }
    assert_true(ebs_clock_expired(&m.clock, m.clock.now));
    tick(&m, 4000000); /* a row touched now is young, the others stay old */
    assert_false(ebs_clock_expired(&m.clock, m.clock.now));
    assert_true(ebs_clock_expired(&m.clock, m.clock.now - 1));
    rt_free(m.touched_ms);
}

static void a_long_pause(void **test)
{
    struct model m;

    (void)test;
    begin(&m, 600, 1000);
    for (uint32_t u = 0; u < 500; u++)
        tick(&m, u * 1000);
    tick(&m, 100 * DAY * 1000);
    check(&m, "after the pause");
    assert_true(ebs_clock_expired(&m.clock, m.clock.now - 1));
    rt_free(m.touched_ms);
}

/* A wall that goes back an hour stands still for it; nothing expires early, and time goes on after. */
static void the_wall_goes_back(void **test)
{
    struct model m;
    uint64_t wall = 10000000;

    (void)test;
    begin(&m, 600, 20000);
    for (uint32_t u = 0; u < 10000; u++) {
        if (u == 3000)
            wall -= 3600000;
        tick(&m, wall += 500);
        if (u % 50 == 0)
            check(&m, "backwards");
    }
    assert_true(ebs_clock_expired(&m.clock, m.clock.now - 9000));
    rt_free(m.touched_ms);
}

/* Everything as before while the 32-bit tick goes through 2^32. */
static void the_tick_wraps(void **test)
{
    struct model m;

    (void)test;
    begin(&m, 60, 4000);
    m.clock.now = UINT32_MAX - 1500;
    m.clock.tick = m.clock.now;
    for (uint32_t u = 0; u < 4000; u++) {
        tick(&m, u * 100);
        if (u % 50 == 0)
            check(&m, "wrap");
    }
    assert_int_equal(m.clock.now, 4000 - 1501);
    rt_free(m.touched_ms);
}

/* A ttl of months: updates share ticks, so that a ttl has at most 2^30 of them. */
static void ticks_of_a_long_ttl(void **test)
{
    struct ebs_clock clock;
    uint32_t first;

    (void)test;
    ebs_clock_init(&clock, 365 * DAY); /* 29 ms a tick */
    ebs_clock_tick(&clock, 0);
    first = clock.now;
    for (uint64_t ms = 0; ms < 29000; ms++)
        ebs_clock_tick(&clock, ms);
    assert_in_range(clock.now - first, 990, 1000);
}

static void by_chance(void **test)
{
    uint64_t seed = (uint64_t)time(NULL), draw = 0, wall = 1000000;
    struct model m;

    (void)test;
    printf("seed %llu\n", (unsigned long long)seed);
    begin(&m, 300, 60000);
    for (uint32_t u = 0; u < 30000; u++) {
        uint64_t kind = rt_below(rt_draw(seed, draw++), 1000), jump = rt_draw(seed, draw++);

        if (kind < 2)
            wall += rt_below(jump, 700000);
        else if (kind < 4)
            wall -= rt_below(jump, wall < 200000 ? wall : 200000);
        else if (kind < 300)
            wall += rt_below(jump, 900);
        if (kind % 5 == 0)
            pass(&m, wall);
        else
            tick(&m, wall);
        if (u % 61 == 0)
            check(&m, "by chance");
    }
    rt_free(m.touched_ms);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_ttl_counts_only),
        cmocka_unit_test(steady_updates),
        cmocka_unit_test(silence),
        cmocka_unit_test(a_long_pause),
        cmocka_unit_test(the_wall_goes_back),
        cmocka_unit_test(the_tick_wraps),
        cmocka_unit_test(ticks_of_a_long_ttl),
        cmocka_unit_test(by_chance),
    };

    return cmocka_run_group_tests_name("clock", tests, NULL, NULL);
}
