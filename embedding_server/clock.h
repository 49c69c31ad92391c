/* embedding_server/clock.h -- the updates of a table as its time, and how long ago by the wall each one was.
 *
 * A row's `touched` is the tick of the update that changed it last: 4 bytes, and no call for the time. A ring
 * of {tick, wall time}, one entry per 1/256 of the time to live (at least 1 s), tells which ticks are older than that:
 *
 *   ticks   .. 17 18 19 | 20 21 .. 57 | 58 .. now       an entry: the last tick of its stretch, and its time
 *   wall, s   0.0 .. 1.9  2.1 .. 4.0    4.2 ..
 *
 * So a row never expires early, and at most max(ttl / 256, 1 s) late, plus the time until someone looks.
 *
 * Ticks wrap at 2^32; ages are u32 differences. A tick is no shorter than ttl / 2^30 (a millisecond from 12 days of
 * ttl on): updates that come faster share one, so a ttl does not span a wrap. Without a ttl, a row that was not
 * touched for 2^32 updates looks young once more to the eviction.
 *
 * The wall is told, in ms from any origin; best is a clock that does not jump. While it stands before what it was,
 * no time passes here. Touch: owner thread only. */
#ifndef EBS_CLOCK_H
#define EBS_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

#define EBS_CLOCK_ENTRIES                                                                          \
    260 /* most in a ttl: 256 stretches, one begun before it, one just ended */

struct ebs_clock_entry {
    uint64_t tick, time_ms;
};

struct ebs_clock {
    uint32_t now;  /* the current tick */
    uint64_t tick; /* the same, not wrapped */
    uint64_t ttl_ms, stretch_ms, tick_ms;
    bool started;           /* the wall was told */
    bool closed;            /* the latest entry covers the current tick */
    bool old;               /* there is a horizon */
    uint64_t horizon;       /* this tick and those before are expired */
    uint64_t time_ms;       /* as told last */
    uint64_t begun_ms;      /* the current tick */
    uint64_t used_ms;       /* when the latest update of the current tick began */
    uint64_t stretch_first; /* wall time of the first tick that no entry covers */
    uint32_t head, count;
    struct ebs_clock_entry entry[EBS_CLOCK_ENTRIES];
};

void ebs_clock_init(struct ebs_clock *clock, uint64_t ttl_seconds); /* 0: nothing expires */

/* An update begins: its rows are touched at `now`. */
void ebs_clock_tick(struct ebs_clock *clock, uint64_t time_ms);

/* Time goes by without an update. Not between an update's tick and its last touch. */
void ebs_clock_pass(struct ebs_clock *clock, uint64_t time_ms);

/* What a clock knows, without a wall: what was touched so many ticks ago, or earlier, was left alone for so many ms at
 * least. The youngest first; in a list both grow. */
#define EBS_CLOCK_AGES (EBS_CLOCK_ENTRIES + 1)
struct ebs_clock_age {
    uint64_t ticks, ms;
};
/* @return how many */
uint32_t ebs_clock_ages(const struct ebs_clock *clock, struct ebs_clock_age out[EBS_CLOCK_AGES]);

/* A clock that was never told the wall goes on from what another knew at `tick`; while nobody kept it no time has passed. Of several
 * others, one after the other: at the largest tick, and a row of so many ticks expires no earlier than by any of them. */
void ebs_clock_restore(struct ebs_clock *clock, uint64_t tick, const struct ebs_clock_age *age,
                       uint32_t n);

/* Was a row that was touched then left alone for the time to live, by the wall as told last? */
static inline bool ebs_clock_expired(const struct ebs_clock *clock, uint32_t touched)
{
    return clock->old && clock->now - touched >= clock->tick - clock->horizon;
}

#endif
