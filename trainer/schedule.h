/* trainer/schedule.h -- the factor on every learning rate, dense and sparse, as a pure function of the step.
 *
 * s is the number of steps made before (0 at the first), W the steps of warm-up, t = s - W:
 *   s < W     warmup_start + (1 - warmup_start) * s / W       LinearLR(start_factor, end_factor 1, total_iters W)
 *   constant  1
 *   linear    1 + (final - 1) * min(1, t / (steps - W))       LinearLR(1, final, total_iters steps - W)
 *   cosine    final + (1 - final) * (1 + cos(pi * min(1, t / (steps - W)))) / 2
 *                                                             CosineAnnealingLR(T_max steps - W, eta_min final * lr)
 *   step      max(final, gamma ^ floor(t / every))            StepLR(every, gamma)
 * Sources: torch.optim.lr_scheduler, chained by SequentialLR with milestone W (which begins t anew). Where torch's
 * cosine rises again behind its end, this one stays at final.
 *
 * A factor is rounded to float32: C libraries whose cosines differ in the last bit give all ranks the same rate.
 * Touch: any thread. */
#ifndef TR_SCHEDULE_H
#define TR_SCHEDULE_H

#include <stdint.h>

#define TR_SCHEDULE_STEPS_MAX 1000000000000ull

enum tr_schedule_kind {
    TR_SCHEDULE_CONSTANT,
    TR_SCHEDULE_LINEAR,
    TR_SCHEDULE_COSINE,
    TR_SCHEDULE_STEP
};

struct tr_schedule { /* all zero: the factor is 1 */
    enum tr_schedule_kind kind;
    uint64_t warmup;     /* steps, up to TR_SCHEDULE_STEPS_MAX; 0: none */
    double warmup_start; /* factor of the first, 0..1 */
    uint64_t steps;      /* linear, cosine: of the weights, warm-up included; more than warmup */
    double final;        /* linear, cosine, step: the last factor, 0..1 */
    uint64_t every;      /* step: at least 1 */
    double gamma;        /* step: 0..1 */
};

/* RT_EUSAGE: what is out of range. */
int tr_schedule_check(const struct tr_schedule *schedule);

/* Of a job that begins with weights that have made `before` steps. RT_EUSAGE: its first factor would be 0, so that it learned
 * nothing. */
int tr_schedule_check_start(const struct tr_schedule *schedule, uint64_t before);

/* step: from 1, as trainers count; 0 is as 1. In 0..1; of a schedule that was checked. */
double tr_schedule_factor(const struct tr_schedule *schedule, uint64_t step);

const char *tr_schedule_name(enum tr_schedule_kind kind); /* "constant" "linear" "cosine" "step" */

#endif
