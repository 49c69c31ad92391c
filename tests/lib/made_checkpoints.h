/* tests/lib/made_checkpoints.h -- a folder of small checkpoints whose every row is known, without a job that trains.
 *
 *   step-10   full, 2 owners            step-20   goes on from step-10           step-30   goes on from step-20
 *   whole-30  full, 3 owners: the rows, weights and ledger of step-30
 *
 * Tables `user` (sgd: no state) and `item` (Adagrad), dim 4, of job_fixture(). */
#ifndef TEST_MADE_CHECKPOINTS_H
#define TEST_MADE_CHECKPOINTS_H

#include "runtime/job/job.h"

#define MADE_ROWS 3000u /* of each table in step-10: ids 1.. */
#define MADE_NEW  100u  /* ids that step-20 has beside them */

struct rt_job *made_job(void); /* job_fixture_destroy() */
/* Into `dir`, which is there. The test fails where that cannot be. */
void made_checkpoints(const char *dir, const struct rt_job *job);

/* Which number stands in the row of this id after step 10 * at, of either table; 0: there is no row. Weight d is
 * id + 0.5 * number + 0.25 * d, each float of the state is the number. */
unsigned made_number(uint64_t id, unsigned at);

#endif
