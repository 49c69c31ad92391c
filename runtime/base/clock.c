/* runtime/base/clock.c -- two clocks, read. */
#include "runtime/base/clock.h"

#include <time.h>

uint64_t rt_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * RT_S + (uint64_t)now.tv_nsec;
}

uint64_t rt_wall_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / RT_MS;
}
