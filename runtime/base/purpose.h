/* runtime/base/purpose.h -- what this process has worked on: its CPU time and the bytes it sent, training and evaluation
 * apart, so that the cost of a sample is known whatever starting up and evaluating took.
 *
 * A process works on what the latest request of a batch was about, received or sent (runtime/net says it here): before
 * the first it starts up, which is `other`. All phases of a job follow each other, so the border is sharp to a batch:
 * data-compose makes the first batch of a phase before it sends one. What all threads use meanwhile counts. */
#ifndef RT_PURPOSE_H
#define RT_PURPOSE_H

#include "runtime/base/role.h"

#include <stddef.h>
#include <stdint.h>

enum rt_purpose { RT_PURPOSE_OTHER, RT_PURPOSE_TRAIN, RT_PURPOSE_EVALUATE, RT_PURPOSES };

const char *rt_purpose_name(enum rt_purpose purpose); /* "other", "train", "evaluate" */

/* From now on the process works on this. Costs one load when it does so already. Touch: any thread. */
void rt_purpose_begin(enum rt_purpose purpose);
enum rt_purpose rt_purpose_now(void);
/* CPU time, user and system, that went into it so far; with the others' it is all of the process. Touch: any thread. */
uint64_t rt_purpose_cpu_ns(enum rt_purpose purpose);

/* A frame of so many bytes was sent to a process of that role. Touch: any thread. */
void rt_purpose_sent(enum rt_purpose purpose, enum rt_role to, uint64_t bytes);
/* For metrics: relaxed, grows only. */
const _Atomic uint64_t *rt_purpose_sent_bytes(enum rt_purpose purpose, enum rt_role to);

#endif
