/* tests/lib/seeds.c -- see seeds.h. */
#include "tests/lib/seeds.h"

#include <stdlib.h>

unsigned seeds_wanted(const char *variable, unsigned wanted)
{
    const char *text = getenv(variable);

    return text ? (unsigned)strtoul(text, NULL, 10) : wanted;
}

uint64_t seeds_first(void)
{
    const char *text = getenv("SAFFRON_TEST_SEED");

    return text ? strtoull(text, NULL, 10) : 1;
}
