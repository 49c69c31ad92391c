/* tests/sim/group_jobs.h -- what the tests of several ranks (test_group*.c) have in common: a job for each mode, and what holds at
 * the end. TEST_GROUP_RUNS=N asks for so many seeds of each, SAFFRON_TEST_SEED=N to begin with. */
#ifndef GROUP_JOBS_H
#define GROUP_JOBS_H

#include "tests/sim/job_world.h"

#define GJ_EPOCHS "data.epochs=2"

enum { GJ_MODES = 3 };
extern const char *const gj_mode[GJ_MODES]; /* hybrid, full, async */

/* Job files are written once for many worlds. */
void gj_make(struct rt_job *job[GJ_MODES]);
void gj_destroy(struct rt_job *job[GJ_MODES]);

unsigned gj_runs(unsigned wanted);

void gj_check_weights(const struct job_world *w); /* the same at all ranks */
/* ... and each row was trained once in each epoch, and permits are back. */
void gj_check_accounts(const struct job_world *w, uint64_t epochs);

#endif
