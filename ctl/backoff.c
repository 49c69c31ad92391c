/* ctl/backoff.c -- see backoff.h. */
#include "ctl/backoff.h"
#include "runtime/base/clock.h"

#include <stdbool.h>

static void lengthen(struct ctl_backoff *backoff, bool first)
{
    backoff->pause_ms =
        backoff->pause_ms == 0 || first ? CTL_BACKOFF_FIRST_MS : 2 * backoff->pause_ms;
    if (backoff->pause_ms > CTL_BACKOFF_MOST_MS)
        backoff->pause_ms = CTL_BACKOFF_MOST_MS;
}

int ctl_backoff_ended(struct ctl_backoff *backoff, uint64_t started_ns, uint64_t now_ns)
{
    uint64_t *oldest = &backoff->ended_ns[backoff->ends % CTL_BACKOFF_MAX];

    if (backoff->ends >= CTL_BACKOFF_MAX && now_ns - *oldest < CTL_BACKOFF_WITHIN_S * RT_S)
        return -1;
    *oldest = now_ns;
    backoff->ends++;
    lengthen(backoff, now_ns - started_ns >= CTL_BACKOFF_WELL_S * RT_S);
    return (int)backoff->pause_ms;
}

uint32_t ctl_backoff_asked(struct ctl_backoff *backoff, uint64_t started_ns, uint64_t now_ns)
{
    lengthen(backoff, now_ns - started_ns >= CTL_BACKOFF_ASKED_S * RT_S);
    return backoff->pause_ms;
}
