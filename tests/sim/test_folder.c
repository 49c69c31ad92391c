/* tests/sim/test_folder.c -- how long trainer/0 waits for its checkpoint folder, by a simulated clock, and what it says in vain. */
#include "runtime/base/clock.h"
#include "runtime/base/err.h"
#include "runtime/base/log.h"
#include "runtime/checkpoint/lock.h"
#include "tests/lib/temp.h"
#include "tests/sim/sim_io.h"
#include "trainer/folder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

struct taking {
    bool over;
    int err;
    char text[512];
};

static void on_taken(void *ctx, int err)
{
    struct taking *taking = ctx;
    assert_false(taking->over);
    taking->over = true;
    taking->err = err;
    if (err)
        snprintf(taking->text, sizeof taking->text, "%s", rt_err_text());
}

static bool is_over(void *ctx)
{
    return ((struct taking *)ctx)->over;
}

/* The one before ends while it is waited for, or never. */
static void the_folder_is_waited_for(void **state)
{
    char dir[TEMP_PATH_MAX];
    (void)state;
    rt_log_set_level(RT_LOG_ERROR);
    temp_folder(dir);
    for (int held = 0; held < 3; held++) { /* not; for 10 s; for ever */
        struct sim *sim = sim_create(&(struct sim_conf){.seed = 1, .n_nodes = 1});
        struct taking taking = {0};
        struct tr_folder folder = {
            .io = sim_node(sim, 0), .dir = dir, .job = "bed", .ctx = &taking, .taken = on_taken};
        int other = -1;
        if (held)
            assert_int_equal(rt_store_lock(dir, "trainer/0 of job other", &other), 0);
        uint64_t began = sim_now(sim);
        tr_folder_take(&folder);
        assert_int_equal(taking.over, held == 0);
        if (held)
            assert_false(sim_run_until(sim, is_over, &taking, 10 * RT_S));
        if (held == 1)
            rt_store_unlock(other);
        sim_run_until(sim, is_over, &taking, 100 * RT_S);
        assert_true(taking.over);
        uint64_t waited = (sim_now(sim) - began) / RT_S;
        assert_int_equal(taking.err, held == 2 ? RT_EUSAGE : 0);
        assert_int_equal(waited, held == 2 ? 60 : held ? 10 : 0);
        if (held == 2) {
            assert_non_null(strstr(taking.text, "held by trainer/0 of job other; a checkpoint "
                                                "folder is one job's"));
            rt_store_unlock(other);
        } else {
            assert_int_equal(rt_store_lock(dir, "a second one", &other), RT_EFULL);
            assert_non_null(strstr(rt_err_text(), "held by trainer/0 of job bed, pid "));
        }
        tr_folder_give(&folder);
        assert_int_equal(rt_store_lock(dir, "after it", &other), 0);
        rt_store_unlock(other);
        sim_destroy(sim);
    }
}

int main(void)
{
    const struct CMUnitTest test[] = {cmocka_unit_test(the_folder_is_waited_for)};
    return cmocka_run_group_tests(test, NULL, NULL);
}
