/* trainer/alarm.h -- a rank's loss and the norm of the dense gradients, watched for a spike (metric/spike.h).
 *
 * Each step a rank adds the mean loss of its own batch, and the norm of the group's gradients, to what is usual. While one of the two
 * stands above its bound, so does the alarm: one warning when it begins, a line when it is over, and checkpoints that are made
 * meanwhile are marked (manifest `suspect`); a rank above 0 tells that in its headers. Nothing else depends on it: no bit of the training
 * does. A process that was started anew learns anew what is usual. Touch: loop thread. */
#ifndef TR_ALARM_H
#define TR_ALARM_H

#include "trainer/metric/spike.h"

struct tr_trainer;

struct tr_alarm {
    struct tr_spike loss, norm;
    uint64_t begun; /* alarms, in this life */
};

void tr_alarm_init(struct tr_trainer *trainer);
void tr_alarm_loss(struct tr_trainer *trainer, uint64_t step, double loss); /* of our batch */
void tr_alarm_norm(struct tr_trainer *trainer);  /* of the step that was made */
void tr_alarm_reset(struct tr_trainer *trainer); /* other weights are there: a model was imported */

bool tr_alarm_stands(const struct tr_alarm *alarm);
bool tr_alarm_of_any(const struct tr_trainer *trainer); /* ours, or that of a rank, as it told */

#endif
