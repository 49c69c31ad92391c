/* embedding_server/clock.c -- ticks in, the horizon of what has expired out. */
#include "embedding_server/clock.h"
#include "runtime/base/assert.h"

#define TTL_PARTS  256u
#define STRETCH_MS 1000u /* the shortest */
#define TICK_SHIFT 30
#define TTL_MAX    (UINT64_MAX / 4000) /* s; further than any clock goes */

void ebs_clock_init(struct ebs_clock *clock, uint64_t ttl_seconds)
{
    uint64_t ttl_ms = (ttl_seconds < TTL_MAX ? ttl_seconds : TTL_MAX) * 1000;

    *clock = (struct ebs_clock){.ttl_ms = ttl_ms,
                                .stretch_ms = (ttl_ms + TTL_PARTS - 1) / TTL_PARTS,
                                .tick_ms = ttl_ms >> TICK_SHIFT};
    if (clock->stretch_ms < STRETCH_MS)
        clock->stretch_ms = STRETCH_MS;
}

/* The open stretch ends with the current tick. */
static void close_stretch(struct ebs_clock *clock)
{
    uint32_t at = (clock->head + clock->count) % EBS_CLOCK_ENTRIES;

    rt_assert(clock->count < EBS_CLOCK_ENTRIES);
    clock->entry[at] = (struct ebs_clock_entry){.tick = clock->tick, .time_ms = clock->used_ms};
    clock->count++;
    clock->closed = true;
}

void ebs_clock_pass(struct ebs_clock *clock, uint64_t time_ms)
{
    if (clock->ttl_ms == 0)
        return;
    if (!clock->started) { /* rows of before count from here on */
        clock->started = true;
        clock->time_ms = clock->begun_ms = clock->used_ms = clock->stretch_first = time_ms;
    }
    if (time_ms > clock->time_ms)
        clock->time_ms = time_ms;
    if (!clock->closed && clock->time_ms - clock->stretch_first >= clock->stretch_ms)
        close_stretch(clock);
    while (clock->count > 0 &&
           clock->time_ms - clock->entry[clock->head].time_ms >= clock->ttl_ms) {
        clock->horizon = clock->entry[clock->head].tick;
        clock->old = true;
        clock->head = (clock->head + 1) % EBS_CLOCK_ENTRIES;
        clock->count--;
    }
}

void ebs_clock_tick(struct ebs_clock *clock, uint64_t time_ms)
{
    ebs_clock_pass(clock, time_ms);
    /* A tick that an entry covers has its time: nothing may be touched at it any more. */
    if (clock->closed || clock->tick == 0 || clock->time_ms - clock->begun_ms >= clock->tick_ms) {
        clock->now++;
        clock->tick++;
        clock->begun_ms = clock->time_ms;
        if (clock->closed)
            clock->stretch_first = clock->time_ms;
        clock->closed = false;
    }
    clock->used_ms = clock->time_ms;
}
