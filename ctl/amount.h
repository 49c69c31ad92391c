/* ctl/amount.h -- large numbers as people write and read them: 20M, 1.5e11, 2TB, 512GiB. */
#ifndef CTL_AMOUNT_H
#define CTL_AMOUNT_H

#include <stdbool.h>

#define CTL_AMOUNT_MAX  32 /* characters that are printed, the end included */
#define CTL_AMOUNT_MOST 1e18

/* Digits with a fraction or an exponent, then k M G T P (thousands) or Ki Mi Gi Ti Pi (1,024s), then, if `bytes`, B or
 * nothing. false: anything else, or no number in 0..CTL_AMOUNT_MOST. */
bool ctl_amount_parse(const char *text, bool bytes, double *out);

/* "156 G", "23.0 TB" with unit "B", "768": three digits. Returns out. */
const char *ctl_amount(double value, const char *unit, char out[CTL_AMOUNT_MAX]);

#endif
