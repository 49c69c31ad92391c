/* ctl/backoff.c -- see backoff.h. */
#include "ctl/backoff.h"
#include "runtime/base/clock.h"

int ctl_backoff_ended(struct ctl_backoff *backoff, uint64_t started_ns, uint64_t now_ns)
{
    uint64_t *oldest = &backoff->ended_ns[backoff->ends % CTL_BACKOFF_MAX];

    if (backoff->ends >= CTL_BACKOFF_MAX && now_ns - *oldest < CTL_BACKOFF_WITHIN_S * RT_S)
        return -1;
    *oldest = now_ns;
    backoff->ends++;
    if (backoff->pause_ms == 0 || now_ns - started_ns >= CTL_BACKOFF_WELL_S * RT_S)
        backoff->pause_ms = CTL_BACKOFF_FIRST_MS;
    else
        backoff->pause_ms *= 2;
    if (backoff->pause_ms > CTL_BACKOFF_MOST_MS)
        backoff->pause_ms = CTL_BACKOFF_MOST_MS;
    return (int)backoff->pause_ms;
}
