/* ctl/amount.c -- large numbers from text, and to text. */
#include "ctl/amount.h"
#include "runtime/base/assert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "kMGTP";

bool ctl_amount_parse(const char *text, bool bytes, double *out)
{
    char *end;
    const char *found;
    double value;

    /* Decimal only, as strtod would take "nan", "0x10" and " -1" as well. */
    if (strspn(text, "0123456789.") == 0 || strspn(text, "0123456789.eE+kKMGTPiB") != strlen(text))
        return false;
    value = strtod(text, &end);
    found = *end == 'K' ? prefix : *end ? strchr(prefix, *end) : NULL;
    if (found) {
        bool binary = end[1] == 'i';

        value *= pow(binary ? 1024 : 1000, (double)(found - prefix + 1));
        end += binary ? 2 : 1;
    }
    if (bytes && *end == 'B')
        end++;
    if (end == text || *end || !(value >= 0 && value <= CTL_AMOUNT_MOST))
        return false;
    *out = value;
    return true;
}

const char *ctl_amount(double value, const char *unit, char out[CTL_AMOUNT_MAX])
{
    int power = 0;

    while (value >= 999.5 && power < (int)sizeof(prefix) - 1) {
        value /= 1000;
        power++;
    }
    const char letter[] = {power ? prefix[power - 1] : '\0', '\0'};
    bool whole = power == 0 && value == rint(value);
    int digits = whole || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;

    snprintf(out, CTL_AMOUNT_MAX, "%.*f%s%s%s", digits, value, power || unit[0] ? " " : "", letter,
             unit);
    return out;
}
