/* tests/sim/sim_trouble.h -- what happens to the job of a seed: roles die and come back, links and the disk fail, clocks jump.
 *
 * When, what and to whom is drawn from the seed. Whoever has died comes back by itself after a time, as a supervisor would have it;
 * others may die meanwhile. So does who ends to go back to a checkpoint. */
#ifndef SIM_TROUBLE_H
#define SIM_TROUBLE_H

#include "tests/sim/sim_losses.h"

enum { SIM_EVENTS = 96, SIM_EVENT_TEXT = 120, SIM_BACK_MAX = 4 * JW_MAX };

enum sim_victim {
    SIM_COMPOSER,
    SIM_MIDDLEWARE,
    SIM_SERVER,
    SIM_TRAINER,
    SIM_VICTIMS,
    SIM_NETWORK = SIM_VICTIMS /* no role: a partition that heals */
};

/* What has happened, in words: the latest of it. Plain memory, so that whoever shares it can read it when this process has died. */
struct sim_story {
    uint64_t seed, n; /* events there were */
    char plan[SIM_PLAN_TEXT], event[SIM_EVENTS][SIM_EVENT_TEXT];
};

struct sim_tally {
    uint64_t seeds, kills[SIM_VICTIMS], all_died, restores, resumed, checkpoints, voided, faults;
    uint64_t disk_errors, lost, went_back, sim_ns, cpu_ns, longest_ns, longest_seed;
};

/* The calls that change something in the checkpoint folder: the n-th from now on fails, and `more` after it. */
struct sim_disk {
    void (*arm)(uint64_t nth, uint64_t more, int with, const char *below);
    void (*heal)(void);
    bool (*has_failed)(void); /* since it was armed */
};

struct sim_back { /* whoever comes back, or what is over */
    uint64_t at_ns;
    enum sim_victim what;
    unsigned which, other;
};

struct sim_trouble {
    struct job_world *world;
    const struct sim_plan *plan;
    const struct sim_disk *disk;
    struct sim_story *story;
    struct sim_tally *tally;
    struct sim_losses losses;
    struct sim_draws draws;
    struct sim_back back[SIM_BACK_MAX];
    unsigned n_back, asked; /* asked: checkpoints, by an operator */
    bool lost_trainers;     /* all of them were dead at once: what had been stepped is made again */
    bool disk_fails;
};

/* Until all of it has happened, or the job is over; nobody is dead then, and nothing fails any more. */
void sim_trouble_run(struct sim_trouble *trouble);
/* The job goes on by itself until done(world), for so long at most: whoever ends to go back comes back. false: it is not. */
bool sim_trouble_over(struct sim_trouble *trouble, bool (*done)(void *world), uint64_t most_ns);
/* What those that live have counted of checkpoints and losses: at the end. */
void sim_trouble_count(struct sim_trouble *trouble);

#endif
