/* tests/sim/sim_losses.h -- which updates embedding servers have declared lost: what they answered to TellLedger, in rows of the data
 * (sim_plan.h: a batch of SIM_BATCH rows is a block of the file). */
#ifndef SIM_LOSSES_H
#define SIM_LOSSES_H

#include "tests/sim/sim_plan.h"

struct sim_losses {
    uint8_t epochs[SIM_ROWS]; /* a bit for each epoch whose update of the row was declared */
    uint64_t batches;         /* declared, over all owners and all of their lives */
    uint32_t count[SIM_ROWS]; /* of the bits; sim_losses_count() */
};

/* What the server's owners have answered in this life: before it ends, and at the end of the job. */
void sim_losses_add(struct sim_losses *losses, const struct job_world *w, unsigned server);
void sim_losses_count(struct sim_losses *losses);

#endif
