/* trainer/optimizer_rates.h -- what changes from step to step of a dense optimizer (optimizer.h), whoever steps: the CPU, or a device that reads
 * them from its memory. Made on the host with the C library's pow(), so both have the same bits. */
#ifndef TR_OPTIMIZER_RATES_H
#define TR_OPTIMIZER_RATES_H

#include <stdint.h>

#include "trainer/optimizer.h"

struct tr_optimizer_rates {
    double lr;
    double bias1;     /* 1 - beta1^t */
    float correction; /* sqrt(1 - beta2^t) */
    float unbias1;    /* 1 / bias1 */
};

/* Of step number t, 1 at the first, at this learning rate. */
void tr_optimizer_rates(const struct tr_optimizer_conf *conf, uint64_t t, double lr,
                        struct tr_optimizer_rates *out);

#endif
