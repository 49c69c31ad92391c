/* ctl/backoff.h -- when a process that ended is started again: after 0.1 s, and twice as long after each end that comes soon, up
 * to 5 s; not at all when it ends again and again. A pure function of the times that it is told. */
#ifndef CTL_BACKOFF_H
#define CTL_BACKOFF_H

#include <stdint.h>

#define CTL_BACKOFF_FIRST_MS 100u
#define CTL_BACKOFF_MOST_MS  5000u
#define CTL_BACKOFF_WELL_S   30u /* of life, and the next pause is the first again */
#define CTL_BACKOFF_MAX                                                                            \
    10u /* restarts within CTL_BACKOFF_WITHIN_S; a start that fails at once gets there in half of that */
#define CTL_BACKOFF_WITHIN_S 60u

/* Zero-initialise. */
struct ctl_backoff {
    uint32_t pause_ms;                  /* the last one; 0: none yet */
    uint64_t ended_ns[CTL_BACKOFF_MAX]; /* a ring */
    uint32_t ends;                      /* ever */
};

/* It has ended. @return milliseconds until it is to be started again; -1: it has been so CTL_BACKOFF_MAX times within
 * CTL_BACKOFF_WITHIN_S, and would be once more. */
int ctl_backoff_ended(struct ctl_backoff *backoff, uint64_t started_ns, uint64_t now_ns);

/* It has ended, and asked to be started again: it has no fault, and is not counted. @return milliseconds: those of the first pause, and
 * twice as many each time that it had lived for less than CTL_BACKOFF_ASKED_S. A struct of its own. */
#define CTL_BACKOFF_ASKED_S 2u
uint32_t ctl_backoff_asked(struct ctl_backoff *backoff, uint64_t started_ns, uint64_t now_ns);

#endif
