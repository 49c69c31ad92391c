/* runtime/checkpoint/generation.h -- how often a job has gone back to a checkpoint, kept in its folder: DIR/.generation.
 *
 * A manifest tells the generation that it was made in, and after it the job may go back several times. Lost, it counts from
 * the manifest's on: it is for people, and nothing that has to be right depends on it. Only trainer/0 writes. Any thread. */
#ifndef RT_GENERATION_H
#define RT_GENERATION_H

#include <stdint.h>

struct rt_generation {
    uint64_t number;      /* of the job now */
    uint64_t went_back;   /* times that all roles went back together */
    uint64_t steps_again; /* that were made before, and had to be made again */
};

/* All 0 where there is none, or none that can be read. */
void rt_generation_read(const char *dir, struct rt_generation *out);
/* RT_EFILE. */
int rt_generation_write(const char *dir, const struct rt_generation *generation);

#endif
