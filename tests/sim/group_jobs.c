/* tests/sim/group_jobs.c -- see group_jobs.h. */
#include "tests/sim/group_jobs.h"
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"

#include "runtime/base/assert.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

const char *const gj_mode[GJ_MODES] = {"global.mode=hybrid", "global.mode=full",
                                       "global.mode=async"};

void gj_make(struct rt_job *job[GJ_MODES])
{
    for (size_t m = 0; m < GJ_MODES; m++) {
        const char *set[] = {GJ_EPOCHS, "data.test=[]", gj_mode[m], "global.sync_every=3"};
        job[m] = job_fixture(set, ARRAY_LEN(set));
    }
}

void gj_destroy(struct rt_job *job[GJ_MODES])
{
    for (size_t m = 0; m < GJ_MODES; m++)
        job_fixture_destroy(job[m]);
}

unsigned gj_runs(unsigned wanted)
{
    return seeds_wanted("TEST_GROUP_RUNS", wanted);
}

void gj_check_weights(const struct job_world *w)
{
    uint64_t digest = tr_trainer_digest(w->rank[0].trainer);
    for (unsigned i = 1; i < w->conf.ranks; i++)
        if (tr_trainer_digest(w->rank[i].trainer) != digest)
            fail_msg("seed %llu: rank %u has other weights than rank 0",
                     (unsigned long long)w->conf.seed, i);
}

void gj_check_accounts(const struct job_world *w, uint64_t epochs)
{
    struct tr_report r = jw_report(w);
    assert_int_equal(r.samples_trained, JW_TRAIN_ROWS * epochs);
    assert_int_equal(r.samples_dropped, 0);
    assert_int_equal(r.permits_used, 0);
    gj_check_weights(w);
}
