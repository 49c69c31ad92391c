/* tests/sim/checkpoint_jobs.h -- what the tests of checkpoints (test_checkpoint*.c) have in common: jobs of three epochs with one every five
 * steps, moments of them, and what holds at the end. TEST_CHECKPOINT_RUNS=N asks for so many seeds of each, SAFFRON_TEST_SEED=N to
 * begin with. */
#ifndef CHECKPOINT_JOBS_H
#define CHECKPOINT_JOBS_H

#include "runtime/checkpoint/store.h"
#include "tests/sim/owner_stub.h"

enum { CJ_EPOCHS = 3, CJ_STUBS = 2 };

/* In mode `full`, or `hybrid`. To be destroyed by job_fixture_destroy(). */
struct rt_job *cj_job(bool full);
unsigned cj_runs(unsigned wanted);

/* Trainer/0's. */
struct tr_checkpoint *cj_leader(const struct job_world *w);
/* Each checkpoint says of one instant, and is whole. @return how many there are */
size_t cj_check_store(const struct stubs *stubs);
/* Each row was trained once in each epoch, and permits are back. */
void cj_check_rows(const struct job_world *w);

/* For sim_run_until(): the leader is in a state (struct cj_moment), or it has published two (struct job_world); or the job is over. */
struct cj_moment {
    const struct job_world *world;
    enum tr_checkpoint_state state;
};
bool cj_is_there(void *moment);
bool cj_has_published(void *world);

#endif
