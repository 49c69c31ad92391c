/* trainer/metric/spike.h -- does a series of numbers, one a step, stand above what it usually is?
 *
 * What is usual is a moving mean m and variance v, both weighted exponentially (T. Finch, "Incremental calculation of weighted mean
 * and variance", 2009, section 9): with d = x - m and a weight a,
 *
 *     m += a d        v = (1 - a) (v + a d^2)        a = max(1 / n, 2 / (history + 1)) for the n-th number
 *
 * so the first ones weigh the same, and later about the last `history`. The bound is m + max(deviations * sqrt(v), rise * |m|): the
 * second for a series that hardly moves, where some deviations are next to nothing. The alarm begins when `window` numbers one
 * after the other are above the bound, and not within the first `warmup`; it ends when `window` are not. What is above the bound
 * does not become usual, so the bound stands still while the alarm does, unless that lasts for TR_SPIKE_STAYS times `history`:
 * then the series has another level for good, and all begins anew, `warmup` too.
 * What keeps growing is no spike: where each number is the one before times 1 + g, m and v lag behind so that it is sqrt(1 + 2 g / a)
 * deviations above m; where it is the one before and a bit, one deviation. With 6 deviations of 200 numbers it takes g > 0.15.
 *
 * A function of the numbers alone, in float64: no clock, no memory. Touch: one thread at a time. */
#ifndef TR_SPIKE_H
#define TR_SPIKE_H

#include <stdbool.h>
#include <stdint.h>

#define TR_SPIKE_STAYS 10u

struct tr_spike_conf {
    double deviations; /* 0: there is no alarm */
    double rise;
    uint32_t window, warmup, history; /* window, history: 1 or more */
};

/* Zero but for `conf` is one that has seen nothing. */
struct tr_spike {
    struct tr_spike_conf conf;
    double mean, variance;
    uint64_t n;        /* numbers that are in them */
    uint32_t above;    /* the latest so many are above the bound, while there is no alarm */
    uint32_t below;    /* and not above it, while there is one */
    uint64_t standing; /* numbers since the alarm began; 0: there is none */
};

enum tr_spike_event {
    TR_SPIKE_NOTHING,
    TR_SPIKE_BEGINS,
    TR_SPIKE_ENDS,
    TR_SPIKE_REMAINS, /* ends, for what it stood against is usual now */
};

/* A number that is not finite is passed over. */
enum tr_spike_event tr_spike_add(struct tr_spike *spike, double x);
double tr_spike_bound(const struct tr_spike *spike);
void tr_spike_reset(struct tr_spike *spike); /* all begins anew */

static inline bool tr_spike_stands(const struct tr_spike *spike)
{
    return spike->standing > 0;
}

#endif
