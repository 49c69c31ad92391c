/* tests/sim/checkpoint_jobs.c -- see checkpoint_jobs.h. */
#include "tests/sim/checkpoint_jobs.h"
#include "tests/lib/job_fixture.h"
#include "tests/lib/seeds.h"

#include "runtime/base/assert.h"
#include "runtime/base/err.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

struct rt_job *cj_job(bool full)
{
    static const char *const set[] = {"data.epochs=3", "global.checkpoint.every_steps=5",
                                      "global.checkpoint.full_every=3", "global.checkpoint.keep=2",
                                      "global.mode=full"};
    return job_fixture(set, ARRAY_LEN(set) - !full);
}

unsigned cj_runs(unsigned wanted)
{
    return seeds_wanted("TEST_CHECKPOINT_RUNS", wanted);
}

/* ---- what has to hold ---- */

static uint64_t ones(const uint8_t *bits, uint32_t bytes)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < bytes; i++)
        n += (unsigned)__builtin_popcount(bits[i]);
    return n;
}

/* It says of one instant: nothing is half done, and it counts what its ledger has. */
static void check_manifest(const struct stubs *stubs, const struct rt_manifest *manifest)
{
    uint64_t finished = 0;
    for (uint32_t i = 0; i < manifest->n_ledger; i++) {
        const struct wire_split_ledger *split = &manifest->ledger[i];
        uint64_t stepped = split->stepped_low + ones(split->stepped, split->stepped_bytes);
        assert_int_equal(stepped,
                         split->finished_low + ones(split->finished, split->finished_bytes));
        finished += stepped;
    }
    if (manifest->batches_trained + manifest->batches_dropped != finished)
        fail_msg("seed %llu: %s: %llu batches trained, %llu in its ledger",
                 (unsigned long long)stubs->world->conf.seed, manifest->name,
                 (unsigned long long)manifest->batches_trained, (unsigned long long)finished);
    assert_true(manifest->samples_trained <= 16 * manifest->batches_trained);
    assert_int_equal(manifest->owners, stubs->n);
    assert_true(manifest->age >= manifest->step);
    if (rt_store_verify(stubs->dir, manifest, stubs->world->job, NULL, NULL) != 0)
        fail_msg("seed %llu: %s", (unsigned long long)stubs->world->conf.seed, rt_err_text());
}

size_t cj_check_store(const struct stubs *stubs)
{
    struct rt_store_list list;
    if (rt_store_list(stubs->dir, &list) != 0)
        fail_msg("%s", rt_err_text());
    for (size_t i = 0; i < list.n; i++) {
        if (!list.at[i].manifest)
            fail_msg("%s: %s", list.at[i].name, list.at[i].why);
        check_manifest(stubs, list.at[i].manifest);
    }
    size_t n = list.n;
    rt_store_list_release(&list);
    return n;
}

void cj_check_rows(const struct job_world *w)
{
    struct tr_report r = jw_report(w);
    if (r.samples_trained != JW_TRAIN_ROWS * CJ_EPOCHS ||
        r.samples_read != JW_TRAIN_ROWS * CJ_EPOCHS)
        fail_msg("seed %llu: %llu rows trained, %llu read, expected %d of each",
                 (unsigned long long)w->conf.seed, (unsigned long long)r.samples_trained,
                 (unsigned long long)r.samples_read, JW_TRAIN_ROWS * CJ_EPOCHS);
    assert_int_equal(r.permits_used, 0);
}

struct tr_checkpoint *cj_leader(const struct job_world *w)
{
    return &w->rank[0].trainer->checkpoint;
}

/* ---- moments ---- */

bool cj_is_there(void *arg)
{
    const struct cj_moment *moment = arg;
    return jw_is_over((void *)(uintptr_t)moment->world) ||
           cj_leader(moment->world)->state == moment->state;
}

bool cj_has_published(void *arg)
{
    const struct job_world *w = arg;
    return jw_is_over((void *)(uintptr_t)w) || cj_leader(w)->published >= 2;
}
