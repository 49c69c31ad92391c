/* runtime/process/linger.c -- see linger.h. */
#include "runtime/process/linger.h"
#include "runtime/base/clock.h"

#define LOOK_NS (50 * RT_MS)

static void look(void *arg)
{
    struct rt_linger *linger = arg;
    uint64_t now = rt_io_now(linger->io);

    if (linger->for_leader(linger->ctx))
        linger->alone_ns = now;
    if (linger->needed(linger->ctx) && now - linger->since_ns < linger->most_ns &&
        now - linger->alone_ns < RT_ALONE_NS)
        rt_timer_start(linger->io, &linger->timer, LOOK_NS);
    else
        linger->over(linger->ctx);
}

bool rt_linger_begin(struct rt_linger *linger)
{
    if (!linger->needed(linger->ctx))
        return false;
    linger->since_ns = linger->alone_ns = rt_io_now(linger->io);
    linger->timer = (struct rt_timer){.fire = look, .arg = linger};
    rt_timer_start(linger->io, &linger->timer, LOOK_NS);
    return true;
}

void rt_linger_stop(struct rt_linger *linger)
{
    rt_timer_stop(linger->io, &linger->timer);
}
