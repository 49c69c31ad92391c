/* trainer/alarm.c -- see alarm.h. */
#include "trainer/alarm.h"
#include "trainer/state.h"

#include "runtime/base/log.h"

#include <inttypes.h>
#include <math.h>

/* Less than these shares of the mean is no spike. A norm comes and goes more than a loss does. */
#define LOSS_RISE 0.1
#define NORM_RISE 1.0

static struct tr_spike fresh(const struct rt_guard_conf *conf, double rise)
{
    return (struct tr_spike){.conf = {.deviations = conf->spike_deviations,
                                      .rise = rise,
                                      .window = conf->spike_window,
                                      .warmup = conf->spike_warmup,
                                      .history = conf->spike_history}};
}

bool tr_alarm_stands(const struct tr_alarm *alarm)
{
    return tr_spike_stands(&alarm->loss) || tr_spike_stands(&alarm->norm);
}

bool tr_alarm_of_any(const struct tr_trainer *trainer)
{
    bool any = tr_alarm_stands(&trainer->alarm);
    for (uint32_t r = 0; trainer->group && r < trainer->conf.world; r++)
        any = any || (r != trainer->conf.self.index && trainer->group->counts[r].suspect);
    return any;
}

static double bound_of(const struct tr_spike *spike)
{
    bool known = spike->n > 0 && spike->n >= spike->conf.warmup && spike->conf.deviations > 0;
    return known ? tr_spike_bound(spike) : NAN;
}

static void count(struct tr_trainer *trainer)
{
    const struct tr_alarm *alarm = &trainer->alarm;
    tr_set(&trainer->metric.loss_spikes, alarm->begun);
    tr_set(&trainer->metric.loss_spike, tr_alarm_stands(alarm));
    tr_set_real(&trainer->metric.loss_bound, bound_of(&alarm->loss));
    tr_set_real(&trainer->metric.gradient_norm_bound, bound_of(&alarm->norm));
}

static void add(struct tr_trainer *trainer, struct tr_spike *spike, const char *of, uint64_t step,
                double value)
{
    struct tr_alarm *alarm = &trainer->alarm;
    bool stood = tr_alarm_stands(alarm);
    enum tr_spike_event event = tr_spike_add(spike, value);
    if (!stood && tr_alarm_stands(alarm)) {
        alarm->begun++;
        rt_log(RT_LOG_WARN,
               "loss_spike of=%s step=%" PRIu64 " value=%.6g mean=%.6g bound=%.6g window=%u", of,
               step, value, spike->mean, tr_spike_bound(spike), spike->conf.window);
    } else if (stood && !tr_alarm_stands(alarm)) {
        rt_log(RT_LOG_INFO, "loss_spike_over of=%s step=%" PRIu64 " value=%.6g because=%s", of,
               step, value, event == TR_SPIKE_REMAINS ? "it_stays_so" : "it_fell");
    }
    count(trainer);
}

void tr_alarm_init(struct tr_trainer *trainer)
{
    const struct rt_guard_conf *conf = &trainer->job->global.guard;
    trainer->alarm.loss = fresh(conf, LOSS_RISE);
    trainer->alarm.norm = fresh(conf, NORM_RISE);
    count(trainer);
}

void tr_alarm_loss(struct tr_trainer *trainer, uint64_t step, double loss)
{
    add(trainer, &trainer->alarm.loss, "loss", step, loss);
}

void tr_alarm_norm(struct tr_trainer *trainer)
{
    add(trainer, &trainer->alarm.norm, "gradient_norm", trainer->step,
        tr_optimizer_grad_norm(trainer->optimizer));
}

void tr_alarm_reset(struct tr_trainer *trainer)
{
    tr_spike_reset(&trainer->alarm.loss);
    tr_spike_reset(&trainer->alarm.norm);
    count(trainer);
}
