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
/* Descriptors that are open (0 where /proc is not there), and how many may be. */
uint64_t rt_open_files(void);
uint64_t rt_open_files_limit(void);

/* Add what runtime/base/purpose.h counts: "purpose_cpu_seconds" {purpose: seconds} and "hop_bytes" {purpose: {peer role: bytes of
 * frames sent}}, all purposes, and the peers that were sent something. */
void rt_status_put_purposes(json_t *object);

/* Takes `object`; one line of JSON, the caller's (rt_free). Never NULL. */
char *rt_status_text(json_t *object);

#endif
