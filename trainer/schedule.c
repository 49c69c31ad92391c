/* trainer/schedule.c -- see the header. */
#include "trainer/schedule.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stddef.h>

#include "runtime/base/assert.h"
#include "runtime/base/err.h"

static bool is_share(double value)
{
    return value >= 0 && value <= 1;
}

int tr_schedule_check(const struct tr_schedule *s)
{
    const struct {
        const char *name;
        double value;
    } share[] = {{"warmup_start", s->warmup_start}, {"final", s->final}, {"gamma", s->gamma}};
    bool ends = s->kind == TR_SCHEDULE_LINEAR || s->kind == TR_SCHEDULE_COSINE;
    for (size_t i = 0; i < ARRAY_LEN(share); i++)
        if (!is_share(share[i].value))
            return RT_FAIL(RT_EUSAGE, "schedule %s: %s: expected 0..1, got %g",
                           tr_schedule_name(s->kind), share[i].name, share[i].value);
    if (s->warmup > TR_SCHEDULE_STEPS_MAX || s->steps > TR_SCHEDULE_STEPS_MAX)
        return RT_FAIL(RT_EUSAGE, "schedule %s: expected at most %llu steps",
                       tr_schedule_name(s->kind), TR_SCHEDULE_STEPS_MAX);
    if (ends && s->steps <= s->warmup)
        return RT_FAIL(RT_EUSAGE,
                       "schedule %s: steps: expected more than the %" PRIu64
                       " of the warm-up, got %" PRIu64,
                       tr_schedule_name(s->kind), s->warmup, s->steps);
    if (s->kind == TR_SCHEDULE_STEP && s->every == 0)
        return RT_FAIL(RT_EUSAGE, "schedule step: every: expected at least 1, got 0");
    return 0;
}

/* The share of the way from the end of the warm-up to `steps`. */
static double passed(const struct tr_schedule *s, double t)
{
    return fmin(1, t / (double)(s->steps - s->warmup));
}

static double factor_of(const struct tr_schedule *s, uint64_t before)
{
    if (before < s->warmup)
        return s->warmup_start + (1 - s->warmup_start) * ((double)before / (double)s->warmup);
    double t = (double)(before - s->warmup);
    switch (s->kind) {
    case TR_SCHEDULE_LINEAR:
        return 1 + (s->final - 1) * passed(s, t);
    case TR_SCHEDULE_COSINE:
        return s->final + (1 - s->final) * (1 + cos(acos(-1) * passed(s, t))) / 2;
    case TR_SCHEDULE_STEP:
        return fmax(s->final, pow(s->gamma, floor(t / (double)s->every)));
    case TR_SCHEDULE_CONSTANT:
        break;
    }
    return 1;
}

double tr_schedule_factor(const struct tr_schedule *schedule, uint64_t step)
{
    return (float)factor_of(schedule, step > 0 ? step - 1 : 0);
}

int tr_schedule_check_start(const struct tr_schedule *s, uint64_t before)
{
    if (before == 0 || tr_schedule_factor(s, before + 1) > 0)
        return 0;
    if (s->kind == TR_SCHEDULE_STEP)
        return RT_FAIL(RT_EUSAGE,
                       "model.yml: schedule.final: expected more than 0 behind the %" PRIu64
                       " steps that the saved model has made, got %g; or global.load_state=false "
                       "(import: --fresh-state)",
                       before, s->final);
    return RT_FAIL(RT_EUSAGE,
                   "model.yml: schedule.steps: expected more than the %" PRIu64
                   " steps that the saved model has made, got %" PRIu64
                   "; or global.load_state=false (import: --fresh-state)",
                   before, s->steps);
}

const char *tr_schedule_name(enum tr_schedule_kind kind)
{
    static const char *const name[] = {"constant", "linear", "cosine", "step"};
    rt_assert((size_t)kind < ARRAY_LEN(name));
    return name[kind];
}
