/* runtime/admin/histogram.h -- histograms live in base, where links and loops can have them. */
#ifndef RT_ADMIN_HISTOGRAM_H
#define RT_ADMIN_HISTOGRAM_H

#include "runtime/base/histogram.h"

#endif
