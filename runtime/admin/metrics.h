/* runtime/admin/metrics.h -- named numbers of this process, as Prometheus text.
 *
 * A metric is a 64-bit atomic that its owner writes relaxed and the admin page reads: integers for
 * counters and gauges, seconds or ratios as doubles; or a histogram. Registered once at start; never removed.
 * One name with the same labels may be registered several times, by the loops of a process for instance: the page
 * shows the sum. A page has at most 65,536 lines of numbers; series beyond that are left out, and the log says so. */
#ifndef RT_METRICS_H
#define RT_METRICS_H

#include "runtime/base/histogram.h"
#include "runtime/base/strbuf.h"

#include <stdatomic.h>
#include <stdint.h>

enum rt_metric_kind { RT_COUNTER, RT_GAUGE, RT_HISTOGRAM };

struct rt_metrics;
struct rt_metrics *rt_metrics_create(void);
void rt_metrics_destroy(struct rt_metrics *metrics);

/* Append name="value" to a list of labels, escaped as the format demands: for text of users, as names of tables. */
void rt_metrics_label(struct rt_strbuf *labels, const char *name, const char *value);

/* name: saffron_<role>_<what>_<unit>[_total]. labels: `worker="0"` or NULL; copied. */
void rt_metrics_u64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic uint64_t *value);
void rt_metrics_f64(struct rt_metrics *metrics, enum rt_metric_kind kind, const char *name,
                    const char *labels, const char *help, const _Atomic double *value);
/* Shown as <name>_bucket{le=...}, <name>_sum and <name>_count; seconds are named ..._seconds. */
void rt_metrics_histogram(struct rt_metrics *metrics, const char *name, const char *labels,
                          const char *help, enum rt_histogram_unit unit,
                          const struct rt_histogram *histogram);
/* Called where a page begins to be printed: brings numbers up to date that nobody counts, as memory in use. At most
 * RT_REFRESH_MAX of them. Touch: before the page is served. */
#define RT_REFRESH_MAX 4
void rt_metrics_on_print(struct rt_metrics *metrics, void (*refresh)(void *ctx), void *ctx);
/* The whole page: HELP and TYPE once per name. */
void rt_metrics_print(const struct rt_metrics *metrics, struct rt_strbuf *out);

#endif
