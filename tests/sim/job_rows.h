/* tests/sim/job_rows.h -- the count of tests/lib/oracle.h in a job_world whose job is the oracle's. */
#ifndef JOB_ROWS_H
#define JOB_ROWS_H

#include "tests/lib/oracle.h"
#include "tests/sim/job_world.h"

/* Ask the owners, who all live, for their rows. @declared: struct oracle_conf. The test fails when they do not answer. */
void jw_count_rows(struct job_world *w, bool steps_are_equal, const uint32_t *declared,
                   struct oracle_result *out);

#endif
