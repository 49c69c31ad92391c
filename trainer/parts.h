/* trainer/parts.h -- what the time between two steps goes into.
 *
 * A clock that always runs for one part; each change of state names the next one. A step that is made observes what
 * every part has had since the step before, so the parts add up to the wall time, whatever happened in between:
 * what a step that was undone took is borne by the next one. Evaluations stop the clock. Touch: loop thread; the
 * histograms are read by any. */
#ifndef TR_PARTS_H
#define TR_PARTS_H

#include "runtime/admin/metrics.h"

#include <stdbool.h>
#include <stdint.h>

enum tr_part {
    TR_PART_WAIT,    /* no batch is ready, or the group forms */
    TR_PART_HEADER,  /* our batch is in a header, and the round is not complete */
    TR_PART_COMPUTE, /* the step thread: forward and backward, optimizer; the way there and back */
    TR_PART_REDUCE, /* the rest of the all-reduce, with the wait for slower ranks; 0 in a group of one */
    TR_PART_COMMIT, /* ledger, gradients handed to the network */
    TR_PARTS
};

/* Zero is valid: at rest. */
struct tr_parts {
    bool runs;
    enum tr_part part;           /* that the time goes to */
    uint64_t began_ns;           /* when it was started first; 0: never */
    uint64_t since_ns;           /* when it came to this part */
    uint64_t spent_ns[TR_PARTS]; /* since the latest step */
    struct rt_histogram seconds[TR_PARTS];
};

const char *tr_part_name(enum tr_part part);

/* From `now_ns` on it runs, and waits; if it runs already, nothing. */
void tr_parts_start(struct tr_parts *parts, uint64_t now_ns);
void tr_parts_stop(struct tr_parts *parts, uint64_t now_ns);
/* The time from now on goes to `part`. Nothing while it does not run. */
void tr_parts_enter(struct tr_parts *parts, enum tr_part part, uint64_t now_ns);
/* A step was made: one observation of every part. */
void tr_parts_step(struct tr_parts *parts, uint64_t now_ns);

#endif
