/* tests/unit/test_parts.c -- the parts of a step add up to the time between steps, whatever happens in it. */
#include "trainer/parts.h"

#include "runtime/base/assert.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

static uint64_t observations(const struct tr_parts *parts, enum tr_part part)
{
    uint64_t n = 0;

    for (unsigned b = 0; b < RT_HISTOGRAM_BUCKETS; b++)
        n += parts->seconds[part].bucket[b];
    return n;
}

enum what { START, STOP, STEP, WAIT, HEADER, COMPUTE, REDUCE, COMMIT };

static void act(struct tr_parts *parts, enum what what, uint64_t now_ns)
{
    if (what == START)
        tr_parts_start(parts, now_ns);
    else if (what == STOP)
        tr_parts_stop(parts, now_ns);
    else if (what == STEP)
        tr_parts_step(parts, now_ns);
    else
        tr_parts_enter(parts, (enum tr_part)(what - WAIT), now_ns);
}

static void where_time_goes(void **state)
{
    static const struct {
        const char *name;
        struct {
            uint64_t at;
            enum what what;
        } act[10];
        uint64_t steps, want[TR_PARTS];
    } row[] = {
        {"nothing before it starts", {{5, COMPUTE}, {9, COMMIT}}, 0, {0}},
        {"a step alone",
         {{10, START}, {14, COMPUTE}, {24, COMMIT}, {25, STEP}},
         1,
         {4, 0, 10, 0, 1}},
        {"a step of a group",
         {{10, START},
          {11, HEADER},
          {13, COMPUTE},
          {20, REDUCE},
          {50, COMPUTE},
          {53, COMMIT},
          {55, STEP}},
         1,
         {1, 2, 10, 30, 2}},
        {"an undone step is borne by the next",
         {{10, START},
          {11, COMPUTE},
          {20, REDUCE},
          {30, WAIT},
          {35, COMPUTE},
          {40, COMMIT},
          {41, STEP}},
         1,
         {6, 0, 14, 10, 1}},
        {"evaluations do not count",
         {{10, START},
          {15, STOP},
          {16, COMPUTE},
          {90, WAIT},
          {100, START},
          {103, COMPUTE},
          {105, STEP}},
         1,
         {8, 0, 2, 0, 0}},
        {"starting twice is starting once",
         {{10, START}, {12, COMPUTE}, {15, START}, {20, STEP}, {30, STEP}},
         2,
         {2, 0, 18, 0, 0}},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct tr_parts parts = {0};

        for (size_t a = 0; a < ARRAY_LEN(row[i].act) && row[i].act[a].at > 0; a++)
            act(&parts, row[i].act[a].what, row[i].act[a].at);
        for (int p = 0; p < TR_PARTS; p++)
            if (parts.seconds[p].sum != row[i].want[p] || observations(&parts, p) != row[i].steps)
                fail_msg("%s: %s: %llu ns in %llu, want %llu in %llu", row[i].name, tr_part_name(p),
                         (unsigned long long)parts.seconds[p].sum,
                         (unsigned long long)observations(&parts, p),
                         (unsigned long long)row[i].want[p], (unsigned long long)row[i].steps);
    }
}

/* Whatever is done, in whatever order: the parts are the time in which it ran. */
static void nothing_is_lost(void **state)
{
    enum { RUNS = 200, ACTS = 300 };
    uint64_t seed = 20261122, key = rt_draw_key(seed, "parts", NULL);

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (uint64_t r = 0; r < RUNS; r++) {
        struct tr_parts parts = {0};
        uint64_t now = 1, ran = 0, sum = 0;

        for (uint64_t a = 0; a < ACTS; a++) {
            uint64_t draw = rt_draw(key, r * ACTS + a), passed = rt_below(draw, 1000);

            ran += parts.runs ? passed : 0;
            now += passed;
            act(&parts, (enum what)(draw % (COMMIT + 1)), now);
        }
        tr_parts_stop(&parts, now);
        for (int p = 0; p < TR_PARTS; p++) {
            sum += parts.seconds[p].sum + parts.spent_ns[p];
            assert_int_equal(observations(&parts, p), observations(&parts, 0));
        }
        assert_int_equal(sum, ran);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(where_time_goes),
        cmocka_unit_test(nothing_is_lost),
    };

    return cmocka_run_group_tests_name("parts", tests, NULL, NULL);
}
