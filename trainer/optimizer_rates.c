/* trainer/optimizer_rates.c -- see optimizer_rates.h. */
#include "trainer/optimizer_rates.h"

#include <math.h>

void tr_optimizer_rates(const struct tr_optimizer_conf *conf, uint64_t t, double lr,
                        struct tr_optimizer_rates *out)
{
    out->lr = lr;
    out->bias1 = 1 - pow(conf->beta1, (double)t);
    out->correction = (float)sqrt(1 - pow(conf->beta2, (double)t));
    out->unbias1 = (float)(1 / out->bias1);
}
