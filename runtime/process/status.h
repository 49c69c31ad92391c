/* runtime/process/status.h -- what a process says of itself: the JSON of /status and ctl status. */
#ifndef RT_STATUS_H
#define RT_STATUS_H

#include <jansson.h>
#include <stdint.h>

/* CPU and memory of this process so far. */
struct rt_usage {
    double cpu_seconds; /* user and system */
    uint64_t rss_bytes, peak_rss_bytes;
};

void rt_usage_now(struct rt_usage *out);

/* Takes `object`; one line of JSON, the caller's (rt_free). Never NULL. */
char *rt_status_text(json_t *object);

#endif
