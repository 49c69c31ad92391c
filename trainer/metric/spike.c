/* trainer/metric/spike.c -- see spike.h. */
#include "trainer/metric/spike.h"

#include <math.h>

double tr_spike_bound(const struct tr_spike *spike)
{
    double deviations = spike->conf.deviations * sqrt(spike->variance);
    return spike->mean + fmax(deviations, spike->conf.rise * fabs(spike->mean));
}

void tr_spike_reset(struct tr_spike *spike)
{
    *spike = (struct tr_spike){.conf = spike->conf};
}

static void learn(struct tr_spike *spike, double x)
{
    spike->n++;
    double a = fmax(1.0 / (double)spike->n, 2.0 / (spike->conf.history + 1.0));
    double d = x - spike->mean;
    spike->mean += a * d;
    spike->variance = (1 - a) * (spike->variance + a * d * d);
}

/* While it stands nothing is learnt. */
static enum tr_spike_event stand(struct tr_spike *spike, bool above)
{
    spike->standing++;
    spike->below = above ? 0 : spike->below + 1;
    if (spike->below == spike->conf.window) {
        spike->standing = 0;
        spike->above = 0;
        return TR_SPIKE_ENDS;
    }
    if (spike->standing < (uint64_t)TR_SPIKE_STAYS * spike->conf.history)
        return TR_SPIKE_NOTHING;
    tr_spike_reset(spike);
    return TR_SPIKE_REMAINS;
}

enum tr_spike_event tr_spike_add(struct tr_spike *spike, double x)
{
    if (!isfinite(x) || !(spike->conf.deviations > 0))
        return TR_SPIKE_NOTHING;
    bool above = spike->n >= spike->conf.warmup && spike->n > 0 && x > tr_spike_bound(spike);
    if (tr_spike_stands(spike))
        return stand(spike, above);
    if (!above) {
        spike->above = 0;
        learn(spike, x);
        return TR_SPIKE_NOTHING;
    }
    if (++spike->above < spike->conf.window)
        return TR_SPIKE_NOTHING;
    spike->standing = 1;
    spike->below = 0;
    return TR_SPIKE_BEGINS;
}
