/* tests/lib/page.h -- numbers as an operator reads them: from the page of metrics. */
#ifndef TEST_PAGE_H
#define TEST_PAGE_H

#include "runtime/admin/metrics.h"

/* The value of a series, named as it is printed: name{label="x"}. Fails the test when there is none. */
double page_value(const struct rt_metrics *metrics, const char *series);

/* The sum over all series of a name, whatever their labels. Fails the test when there is none. */
double page_sum(const struct rt_metrics *metrics, const char *name);

#endif
