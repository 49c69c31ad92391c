/* tests/sim/sim_plan.h -- which job a seed stands for, and how much happens to it. */
#ifndef SIM_PLAN_H
#define SIM_PLAN_H

#include "tests/lib/oracle.h"
#include "tests/sim/job_world.h"

enum { SIM_ROWS = 256, SIM_SPLITS = 4, SIM_BATCH = 16, SIM_SETTINGS = 20, SIM_PLAN_TEXT = 1024 };

/* What seeds up to this one draw stays as it is, for some of them are kept; above it jobs are evaluated, and partitions may be of one way. */
#define SIM_FIRST_SEEDS 1000000u

/* One batch is one block of the data, so its rows follow from its id: sim_losses.c. */
extern const struct oracle_shape sim_shape;

struct sim_plan {
    uint64_t seed;
    bool wide;  /* above SIM_FIRST_SEEDS */
    bool exact; /* the job that learns, whose bits count; else that whose rows count */
    struct jw_conf shape,
        reshaped; /* how many of each role; and after all have died at once, perhaps */
    unsigned epochs, troubles;
    uint64_t gap_ns; /* between two troubles, at most */
    char set[SIM_SETTINGS][64];
    const char *setting[SIM_SETTINGS]; /* [n_set] of the job */
    size_t n_set;
    char text[SIM_PLAN_TEXT];
};
/* setting points into it: it stays where it is. */
void sim_plan_make(struct sim_plan *plan, uint64_t seed);

/* A number that follows from the seed, a purpose and a counter alone, in [0, below). */
struct sim_draws {
    uint64_t key, n;
};
struct sim_draws sim_draws_of(uint64_t seed, const char *purpose);
uint64_t sim_draw(struct sim_draws *draws, uint64_t below);

#endif
