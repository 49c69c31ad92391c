/* tests/sim/sim_seed.h -- the job of a seed, from its start to its end, and whether that is as it has to be.
 *
 * It ends; every row of the data was trained once in each epoch, but for what embedding servers that came back have declared lost, and
 * none twice; permits are back, ranks have the same weights, and the checkpoints that are there can be gone on from. `exact`: the
 * same bits as if nothing had happened. */
#ifndef SIM_SEED_H
#define SIM_SEED_H

#include "tests/sim/sim_trouble.h"

struct sim_seed {
    uint64_t seed;
    const char *
        folder; /* with the oracle's job (sim_shape); the checkpoints are made in it, and removed */
    const struct sim_disk *disk;
    struct sim_story *story;
    struct sim_tally *tally;
    void (*at_start)(struct job_world *w); /* tests of the test; NULL: nothing */
    char why[512];                         /* out: what is not as it has to be; "": nothing */
    uint64_t digest;                       /* out: sim_digest() at the end */
};
void sim_seed_run(struct sim_seed *run);

#endif
