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
    uint32_t at;

    if (clock->count ==
        EBS_CLOCK_ENTRIES) { /* of a restored one: what the oldest covers expires later */
        clock->head = (clock->head + 1) % EBS_CLOCK_ENTRIES;
        clock->count--;
    }
    at = (clock->head + clock->count) % EBS_CLOCK_ENTRIES;
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
        for (uint32_t i = 0; i < clock->count; i++) /* restored: so long before now */
            clock->entry[(clock->head + i) % EBS_CLOCK_ENTRIES].time_ms += time_ms;
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

/* ---- to a file and back ---- */

uint32_t ebs_clock_ages(const struct ebs_clock *clock, struct ebs_clock_age out[EBS_CLOCK_AGES])
{
    uint32_t n = 0;

    for (uint32_t i = clock->count; i > 0; i--) {
        const struct ebs_clock_entry *entry =
            &clock->entry[(clock->head + i - 1) % EBS_CLOCK_ENTRIES];

        out[n++] =
            (struct ebs_clock_age){clock->tick - entry->tick, clock->time_ms - entry->time_ms};
    }
    if (clock->old)
        out[n++] = (struct ebs_clock_age){clock->tick - clock->horizon, clock->ttl_ms};
    return n;
}

/* What both lists say, so far as their entries are a stretch apart: a clock has no room for more. */
static uint32_t least_of(uint64_t stretch_ms, const struct ebs_clock_age *a, uint32_t n_a,
                         const struct ebs_clock_age *b, uint32_t n_b,
                         struct ebs_clock_age out[EBS_CLOCK_AGES])
{
    uint64_t by_a = 0, by_b = 0, told = 0;
    uint32_t n = 0, i = 0, j = 0;

    while ((i < n_a || j < n_b) && n < EBS_CLOCK_AGES) {
        uint64_t ticks = j == n_b || (i < n_a && a[i].ticks < b[j].ticks) ? a[i].ticks : b[j].ticks;
        uint64_t least;

        if (i < n_a && a[i].ticks == ticks)
            by_a = a[i++].ms;
        if (j < n_b && b[j].ticks == ticks)
            by_b = b[j++].ms;
        least = by_a < by_b ? by_a : by_b;
        if (least - told < stretch_ms)
            continue;
        told = least;
        out[n++] = (struct ebs_clock_age){ticks, least};
    }
    return n;
}

static void set_ages(struct ebs_clock *clock, uint64_t tick, const struct ebs_clock_age *age,
                     uint32_t n)
{
    clock->tick = tick;
    clock->now = (uint32_t)tick;
    clock->head = clock->count = 0;
    clock->old = false;
    for (uint32_t i = n; i > 0; i--) {
        const struct ebs_clock_age *at = &age[i - 1];

        if (at->ms >= clock->ttl_ms) {
            clock->old = true;
            clock->horizon = tick - at->ticks;
        } else if (clock->count < EBS_CLOCK_ENTRIES) {
            clock->entry[clock->count++] =
                (struct ebs_clock_entry){.tick = tick - at->ticks, .time_ms = 0 - at->ms};
        }
    }
    clock->closed = n > 0 && age[0].ticks == 0;
}

void ebs_clock_restore(struct ebs_clock *clock, uint64_t tick, const struct ebs_clock_age *age,
                       uint32_t n)
{
    struct ebs_clock_age here[EBS_CLOCK_AGES], both[EBS_CLOCK_AGES];
    uint32_t n_here = ebs_clock_ages(clock, here);

    rt_assert(!clock->started && n <= EBS_CLOCK_AGES);
    if (clock->ttl_ms == 0)
        n = 0;
    if (clock->tick > 0) {
        n = least_of(clock->stretch_ms, here, n_here, age, n, both);
        age = both;
    }
    set_ages(clock, tick > clock->tick ? tick : clock->tick, age, n);
}
