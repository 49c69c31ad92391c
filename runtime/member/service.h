/* runtime/member/service.h -- answers to the NATS services protocol (ADR-32): $SRV.PING|INFO|STATS, alone or
 * followed by a service's name, or name and id. So that `nats micro ls` and its like see the roles. */
#ifndef RT_SERVICE_H
#define RT_SERVICE_H

#include "runtime/base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>

#define RT_SERVICE_SUBJECTS "$SRV.>" /* what to subscribe to */

struct rt_service {
    const char *name;    /* "saffron-trainer" */
    const char *id;      /* unique: job, role, index, incarnation */
    const char *version; /* "1.2.3" */
    const char *description;
    const char *subject; /* of its one endpoint: control */
    uint64_t started_ms; /* wall clock */
    uint64_t requests, errors, busy_ns;
    const char *last_error;
};

/* Append the answer. false: the subject is none of ours. */
bool rt_service_answer(const struct rt_service *service, const char *subject,
                       struct rt_strbuf *json);

#endif
