/* trainer/model/lanes.h -- threads that do the same thing to parts of a batch, side by side. Private to trainer/model/.
 *
 * Lane 0 is the caller; the others sleep between two runs. Touch: one thread calls, which may be another one from run to run
 * (not at the same time). */
#ifndef TR_LANES_H
#define TR_LANES_H

#include <stdint.h>

#define TR_LANES_MAX 1024u

struct tr_lanes;

/* n: 1..TR_LANES_MAX, the caller counted. RT_ENOMEM: a thread could not be started. */
int tr_lanes_create(uint32_t n, struct tr_lanes **out);
void tr_lanes_destroy(struct tr_lanes *lanes); /* none is running; NULL is legal */

/* fn(arg, 0..n-1), each on its thread; returns when all have. What was written before is seen by all of them, and what they
 * wrote is seen after it. */
void tr_lanes_run(struct tr_lanes *lanes, void (*fn)(void *arg, uint32_t lane), void *arg);

#endif
