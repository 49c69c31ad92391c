/* tests/lib/seeds.h -- which seeds a test with seeds runs: as many as it says, from 1 on, or what the environment asks for. */
#ifndef TESTS_SEEDS_H
#define TESTS_SEEDS_H

#include <stdint.h>

/* What the variable says, or `wanted`. */
unsigned seeds_wanted(const char *variable, unsigned wanted);
/* SAFFRON_TEST_SEED, or 1. */
uint64_t seeds_first(void);

#endif
