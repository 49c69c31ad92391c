/* tests/sim/test_linger.c -- how long a process stays that is told to stop, by a simulated clock. */
#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/process/linger.h"
#include "tests/sim/sim_io.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define MOST_NS (25 * RT_S)

struct stay {
    struct sim *sim;
    uint64_t needed_ns,
        leader_ns;       /* until when; from when on trainer/0 is told too, or awaits it */
    uint64_t awaited_ns; /* until when */
    uint64_t over_ns;    /* 0: not yet */
    unsigned overs;
};

static bool is_needed(void *ctx)
{
    const struct stay *stay = ctx;
    return sim_now(stay->sim) < stay->needed_ns;
}

static bool is_for_leader(void *ctx)
{
    const struct stay *stay = ctx;
    return sim_now(stay->sim) >= stay->leader_ns && sim_now(stay->sim) < stay->awaited_ns;
}

static void on_over(void *ctx)
{
    struct stay *stay = ctx;
    stay->over_ns = sim_now(stay->sim);
    stay->overs++;
}

static const struct {
    const char *name;
    uint64_t needed_s, leader_s, awaited_s;
    uint64_t least_ms, most_ms; /* how long it stays; 0, 0: not at all */
} row[] = {
    {"nobody needs it", 0, 0, 1000, 0, 0},
    {"all are told at once; the last checkpoint takes 3 s", 3, 0, 1000, 3000, 3100},
    {"trainer/0 is told 4 s later, and takes 8 s", 12, 4, 1000, 12000, 12100},
    {"it alone is told", 1000, 1000, 1000, 5000, 5100},
    {"a checkpoint that had begun ends after 8 s, and the one for it takes 3", 11, 0, 8, 11000,
     11100},
    {"a checkpoint that had begun ends after 8 s, and none follows", 1000, 0, 8, 12900, 13100},
    {"trainer/0 does not come to an end", 1000, 1, 1000, 25000, 25100},
};

static void who_is_needed_stays(void **state)
{
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct sim *sim = sim_create(&(struct sim_conf){.seed = 1, .n_nodes = 1});
        struct stay stay = {.sim = sim};
        struct rt_linger linger = {.io = sim_node(sim, 0),
                                   .ctx = &stay,
                                   .most_ns = MOST_NS,
                                   .needed = is_needed,
                                   .for_leader = is_for_leader,
                                   .over = on_over};
        uint64_t began = sim_now(sim);
        stay.needed_ns = began + row[i].needed_s * RT_S;
        stay.leader_ns = began + row[i].leader_s * RT_S;
        stay.awaited_ns = began + row[i].awaited_s * RT_S;
        assert_int_equal(rt_linger_begin(&linger), row[i].most_ms > 0);
        sim_run_until(sim, NULL, NULL, 60 * RT_S);
        uint64_t stayed = stay.overs ? (stay.over_ns - began) / RT_MS : 0;
        if (stay.overs != (row[i].most_ms > 0) || stayed < row[i].least_ms ||
            stayed > row[i].most_ms)
            fail_msg("%s: stayed %llu ms, over %u times", row[i].name, (unsigned long long)stayed,
                     stay.overs);
        rt_linger_stop(&linger);
        sim_destroy(sim);
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {cmocka_unit_test(who_is_needed_stays)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
