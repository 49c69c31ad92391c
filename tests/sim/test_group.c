/* tests/sim/test_group.c -- several ranks as one group, with the whole job around them, in one thread. */
#include "tests/sim/job_world.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* One of the links that carry something breaks every few milliseconds of simulated time. */
static void break_links(struct job_world *w, unsigned breaks)
{
    unsigned nodes = jw_node_owner(w, w->conf.owners);
    uint64_t key = rt_draw_key(w->conf.seed, "breaks", NULL);
    for (unsigned i = 0; i < breaks && !jw_is_over(w); i++) {
        sim_run_until(w->sim, jw_is_over, w, RT_MS + rt_below(rt_draw(key, 3 * i), 40 * RT_MS));
        unsigned a = (unsigned)rt_below(rt_draw(key, 3 * i + 1), nodes);
        unsigned b = (unsigned)rt_below(rt_draw(key, 3 * i + 2), nodes);
        if (i % 2) { /* more of them between ranks than elsewhere */
            a = jw_node_rank(w, a % w->conf.ranks);
            b = jw_node_rank(w, b % w->conf.ranks);
        }
        if (a != b)
            sim_break(w->sim, a, b);
    }
}

static void check_accounts(struct job_world *w, uint64_t epochs)
{
    struct tr_report r = jw_report(w);
    assert_int_equal(r.samples_trained, JW_TRAIN_ROWS * epochs);
    assert_int_equal(r.samples_dropped, 0);
    assert_int_equal(r.permits_used, 0);
    uint64_t digest = tr_trainer_digest(w->rank[0].trainer);
    for (unsigned i = 1; i < w->conf.ranks; i++)
        if (tr_trainer_digest(w->rank[i].trainer) != digest)
            fail_msg("seed %llu: rank %u has other weights than rank 0",
                     (unsigned long long)w->conf.seed, i);
}

static unsigned runs(unsigned wanted)
{
    const char *text = getenv("TEST_GROUP_RUNS");
    return text ? (unsigned)strtoul(text, NULL, 10) : wanted;
}

static uint64_t first_seed(void)
{
    const char *text = getenv("TEST_GROUP_SEED");
    return text ? strtoull(text, NULL, 10) : 1;
}

static void test_modes(void **state)
{
    (void)state;
    static const char *const mode[] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};
    for (uint64_t seed = first_seed(); seed < first_seed() + runs(60); seed++) {
        struct job_world w;
        const char *set[] = {"data.epochs=1", "data.test=[]", mode[seed % 3], "global.sync_every=3"};
        struct jw_conf conf = {.seed = seed,
                               .ranks = 2 + (unsigned)(seed / 3) % 3,
                               .composers = 1 + (unsigned)(seed / 9) % 2,
                               .middlewares = 1 + (unsigned)(seed / 27) % 2,
                               .set = set,
                               .n_set = ARRAY_LEN(set)};
        jw_start(&w, &conf);
        break_links(&w, seed % 2 ? 0 : 20);
        jw_run(&w);
        check_accounts(&w, 1);
        jw_stop(&w);
    }
}

/* `exact`: whatever links break, the same bits. */
static void test_exact(void **state)
{
    (void)state;
    for (unsigned ranks = 2; ranks <= 4; ranks++) {
        uint64_t want = 0;
        double loss = 0;
        for (uint64_t seed = first_seed(); seed < first_seed() + runs(40); seed++) {
            struct job_world w;
            const char *set[] = {"data.epochs=1", "data.test=[]", "global.mode=full", "global.exact=true"};
            struct jw_conf conf = {
                .seed = seed, .ranks = ranks, .set = set, .n_set = ARRAY_LEN(set)};
            jw_start(&w, &conf);
            break_links(&w, seed == first_seed() ? 0 : (unsigned)seed);
            jw_run(&w);
            check_accounts(&w, 1);
            uint64_t digest = tr_trainer_digest(w.rank[0].trainer);
            struct tr_report r = jw_report(&w);
            if (want == 0) {
                want = digest;
                loss = r.train_loss;
            } else if (digest != want || r.train_loss != loss) {
                fail_msg("%u ranks, seed %llu: not the bits of the unbroken run", ranks,
                         (unsigned long long)seed);
            }
            jw_stop(&w);
        }
    }
}

int main(void)
{
    rt_log_set_level(getenv("TEST_LOG") ? RT_LOG_DEBUG : RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test(test_modes),
        cmocka_unit_test(test_exact),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
