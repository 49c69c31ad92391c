/* tests/sim/test_doubt.c -- checkpoints that a disk makes doubtful: the n-th call of a manifest's publishing fails, for every n; and what
 * an increment would go on from is not whole any more. What can be gone on from stays, and the next one needs nothing of it. */
#include "tests/unit/disk_watch.inc.h"

#include "tests/lib/job_fixture.h"
#include "tests/sim/owner_stub.h"

#include "runtime/base/assert.h"
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/store.h"

#include <setjmp.h>

#include <cmocka.h>

enum { EPOCHS = 9, STUBS = 2 };

/* A full one, two increments; then another full one, for which all three may go. */
static const char *const set[] = {"data.epochs=9", "global.checkpoint.every_steps=2",
                                  "global.checkpoint.full_every=3", "global.checkpoint.keep=1"};

static struct rt_job *job;

static int set_up(void **state)
{
    (void)state;
    job = job_fixture(set, ARRAY_LEN(set));
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    job_fixture_destroy(job);
    return 0;
}

static struct tr_checkpoint *leader(const struct job_world *w)
{
    return &w->rank[0].trainer->checkpoint;
}

/* What is too old, or void, has gone; the next one may have begun, and is not there yet. */
static bool has_ended(void *w)
{
    return leader(w)->state < TR_CHECKPOINT_PUBLISHING;
}

static bool has_published(struct job_world *w, uint64_t n)
{
    return jw_is_over(w) || (leader(w)->published == n && has_ended(w));
}

static bool has_two(void *w)
{
    return has_published(w, 2);
}

static bool has_three(void *w)
{
    return has_published(w, 3);
}

static bool has_four(void *w)
{
    return has_published(w, 4);
}

static bool publishes_fourth(void *arg)
{
    const struct job_world *w = arg;

    return jw_is_over(arg) ||
           (leader(w)->published == 3 && leader(w)->state == TR_CHECKPOINT_PUBLISHING);
}

static bool is_decided(void *arg)
{
    return leader(arg)->state != TR_CHECKPOINT_PUBLISHING;
}

static void reach(struct job_world *w, bool (*what)(void *w))
{
    if (!sim_run_until(w->sim, what, w, 60 * RT_S) || jw_is_over(w))
        fail_msg("%llu published, %llu void: %s", (unsigned long long)leader(w)->published,
                 (unsigned long long)leader(w)->voided, leader(w)->before[0].error);
}

static void finish(struct job_world *w, struct stubs *stubs)
{
    jw_run(w);
    assert_int_equal(jw_report(w).samples_trained, JW_TRAIN_ROWS * EPOCHS);
    stubs_stop(stubs);
    jw_stop(w);
}

/* ---- the disk does not say that a manifest is there ---- */

static size_t count_whole(const struct stubs *stubs)
{
    size_t chain[RT_STORE_CHAIN_MAX], n, whole = 0;
    struct rt_store_list list;

    assert_int_equal(rt_store_list(stubs->dir, &list), 0);
    for (size_t i = 0; i < list.n; i++)
        whole += rt_store_chain(&list, i, chain, &n) == 0 &&
                 rt_store_verify(stubs->dir, list.at[i].manifest, job, NULL, NULL) == 0;
    assert_int_equal(whole, list.n);
    rt_store_list_release(&list);
    return whole;
}

static void check_failed(struct job_world *w, const struct stubs *stubs, bool doubted)
{
    const struct tr_checkpoint_told *told = &leader(w)->before[0];

    reach(w, has_ended);
    assert_int_equal(told->state, TR_CHECKPOINT_FAILED);
    assert_int_equal(leader(w)->voided, 1);
    assert_int_equal(leader(w)->published, 3);
    assert_true(leader(w)->is_full);
    assert_non_null(strstr(told->error, "Input/output error"));
    assert_int_equal(!!strstr(told->error, "may be gone after a power failure"), doubted);
    assert_int_equal(stubs->given_up, doubted ? 0 : STUBS);
    assert_int_equal(count_whole(stubs), doubted ? 4 : 3); /* nothing was removed for it */
}

static void test_publishing(void **state)
{
    unsigned doubts = 0, voids = 0;
    bool hit = true;

    (void)state;
    for (int64_t nth = 0; hit; nth++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = 3, .job = job};

        stubs_start(&stubs, &w, &conf, STUBS);
        reach(&w, publishes_fourth);
        assert_int_equal(leader(&w)->now.base, 0);
        disk_below = stubs.dir;
        disk_hit = false;
        disk_fault = nth;
        reach(&w, is_decided);
        disk_fault = -1;
        hit = disk_hit;
        if (hit) {
            bool doubted = leader(&w)->job.doubted;

            doubts += doubted;
            voids += !doubted;
            check_failed(&w, &stubs, doubted);
        }
        reach(&w, has_four);
        assert_int_equal(leader(&w)->before[0].base, 0);
        assert_int_equal(count_whole(&stubs), 1); /* now they go, a doubtful one with them */
        finish(&w, &stubs);
    }
    disk_below = NULL;
    print_message("%u calls fail before it is there, %u after\n", voids, doubts);
    assert_true(voids >= 4);
    assert_int_equal(doubts, 2); /* fsync of its folder and of the one above, after the rename */
}

/* ---- what an increment needs ---- */

static void cut_short(const char *dir, const char *name, const char *file)
{
    char *path = rt_xasprintf("%s/%s/%s", dir, name, file);

    assert_int_equal(truncate(path, 7), 0);
    rt_free(path);
}

/* Of the full one that the latest goes on from. */
static void damage(const struct stubs *stubs, const char *file)
{
    struct rt_store_list list;

    assert_int_equal(rt_store_list(stubs->dir, &list), 0);
    assert_int_equal(list.n, 2);
    assert_int_equal(list.at[1].manifest->base, 0);
    assert_int_equal(list.at[0].manifest->base, list.at[1].manifest->attempt);
    if (file)
        cut_short(stubs->dir, list.at[1].name, file);
    else
        assert_int_equal(rt_store_remove(stubs->dir, list.at[1].name), 0);
    rt_store_list_release(&list);
}

static void test_base_of_base(void **state)
{
    static const struct {
        const char *file; /* NULL: all of it */
        bool damaged;
    } row[] = {{NULL, false},
               {NULL, true},
               {"rows.00001", true},
               {"dense.safetensors", true},
               {"manifest.json", true}};

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(row); i++) {
        struct job_world w;
        struct stubs stubs;
        struct jw_conf conf = {.seed = 4, .job = job};

        stubs_start(&stubs, &w, &conf, STUBS);
        reach(&w, has_two);
        if (row[i].damaged)
            damage(&stubs, row[i].file);
        reach(&w, has_three);
        if ((leader(&w)->before[0].base == 0) != row[i].damaged)
            fail_msg("row %zu: the third goes on from attempt %llu", i,
                     (unsigned long long)leader(&w)->before[0].base);
        assert_int_equal(leader(&w)->voided, 0);
        assert_int_equal(
            rt_store_check_whole(stubs.dir, leader(&w)->last_name, leader(&w)->last_attempt), 0);
        finish(&w, &stubs);
    }
}

int main(void)
{
    rt_log_set_level(RT_LOG_ERROR);
    const struct CMUnitTest test[] = {
        cmocka_unit_test_setup_teardown(test_publishing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_base_of_base, set_up, tear_down),
    };
    return cmocka_run_group_tests(test, NULL, NULL);
}
